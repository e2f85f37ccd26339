//! Every server under the strategy that forks: rows M1 to M10 of CPython's
//! `test_Forking{TCP,UDP,UnixStream,UnixDatagram}Server`. In a binary of its own, without the threads of the
//! other matrix.

mod support;

use std::io;
use std::net::Shutdown;
use std::process::Command;
use std::thread;
use std::time::Duration;

use socketserver::prelude::*;
use socketserver::{Construct, WaitError};
use support::journal::journal;
use support::matrix::{EchoOrFail, Kind, cell};
use support::{children, connect, process_state, wait_until, wait_until_draining};

tests![
    a_forking_tcp_server_serves_from_bind_to_close,
    a_forking_udp_server_serves_from_bind_to_close,
    a_forking_unix_stream_server_serves_from_bind_to_close,
    a_forking_unix_datagram_server_serves_from_bind_to_close,
    closing_a_forking_server_waits_for_its_children,
];

/// M8 around the other rows (CPython's `simple_subprocess`, bpo-1540386): a child that is not the server's
/// stays for whoever started it.
#[track_caller]
fn cell_beside_a_foreign_child<S: Construct<Handler = EchoOrFail>>(kind: Kind) {
    let mut foreign = Command::new("sh").args(["-c", "exit 72"]).spawn().unwrap();
    wait_until("the foreign child has ended", || {
        process_state(foreign.id()).as_deref() == Some("Z")
    });
    cell::<S>(kind, &[foreign.id()]);
    assert_eq!(foreign.wait().unwrap().code(), Some(72));
}

// test_ForkingTCPServer (CPython)
fn a_forking_tcp_server_serves_from_bind_to_close() {
    cell_beside_a_foreign_child::<ForkingTcpServer<EchoOrFail>>(Kind::Tcp);
}

// test_ForkingUDPServer (CPython)
fn a_forking_udp_server_serves_from_bind_to_close() {
    cell_beside_a_foreign_child::<ForkingUdpServer<EchoOrFail>>(Kind::Udp);
}

// test_ForkingUnixStreamServer (CPython)
fn a_forking_unix_stream_server_serves_from_bind_to_close() {
    cell_beside_a_foreign_child::<ForkingUnixStreamServer<EchoOrFail>>(Kind::UnixStream);
}

// test_ForkingUnixDatagramServer (CPython)
fn a_forking_unix_datagram_server_serves_from_bind_to_close() {
    cell_beside_a_foreign_child::<ForkingUnixDatagramServer<EchoOrFail>>(Kind::UnixDatagram);
}

// M7
fn closing_a_forking_server_waits_for_its_children() {
    let (journal, pen) = journal();
    let running = ForkingTcpServer::new("127.0.0.1:0", move |request: &mut TcpRequest| -> io::Result<()> {
        pen.note("begun");
        io::copy(request, &mut io::sink())?;
        pen.note("ended");
        Ok(())
    })
    .spawn()
    .unwrap();
    let client = connect(running.server_address());
    let child = journal.wait_for("begun").process;
    assert_eq!(children(), [child]);

    let handle = running.shutdown_handle();
    let stopping = thread::spawn(move || running.stop());
    wait_until_draining(&handle);
    assert_eq!(handle.wait_timeout(Duration::from_millis(1)), Err(WaitError::TimedOut));
    assert_eq!((children(), journal.count("ended")), (vec![child], 0));

    // The child has a copy of this descriptor too: only a shutdown ends the stream.
    client.shutdown(Shutdown::Write).unwrap();
    let report = stopping.join().unwrap().unwrap();
    assert_eq!((report.served, report.drained, report.forced), (1, 1, 0));
    assert_eq!((children(), journal.count("ended")), (vec![], 1));
}
