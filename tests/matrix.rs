//! Every server under every strategy that runs in threads; those that fork are in `matrix_forking.rs`.

mod support;

use socketserver::prelude::*;
use support::{EchoLine, connect, exchange_line};

tests![a_threading_tcp_server_answers];

fn a_threading_tcp_server_answers() {
    let running = ThreadingTcpServer::new("127.0.0.1:0", EchoLine).spawn().unwrap();
    for line in ["one\n", "two\n", "three\n"] {
        assert_eq!(exchange_line(connect(running.server_address()), line), line);
    }
    assert_eq!(running.stop().unwrap().served, 3);
}
