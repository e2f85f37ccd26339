//! Every server under every strategy that runs in threads; those that fork are in `matrix_forking.rs`.
//! Rows M1 to M6, M9 and M10 of CPython's `test_{,Threading}{TCP,UDP,UnixStream,UnixDatagram}Server`, and
//! the same for the pool, which CPython has not.

mod support;

use socketserver::prelude::*;
use support::matrix::{EchoOrFail, Kind, cell};

tests![
    a_tcp_server_serves_from_bind_to_close,
    a_udp_server_serves_from_bind_to_close,
    a_unix_stream_server_serves_from_bind_to_close,
    a_unix_datagram_server_serves_from_bind_to_close,
    a_threading_tcp_server_serves_from_bind_to_close,
    a_threading_udp_server_serves_from_bind_to_close,
    a_threading_unix_stream_server_serves_from_bind_to_close,
    a_threading_unix_datagram_server_serves_from_bind_to_close,
    a_thread_pool_tcp_server_serves_from_bind_to_close,
    a_thread_pool_udp_server_serves_from_bind_to_close,
    a_thread_pool_unix_stream_server_serves_from_bind_to_close,
    a_thread_pool_unix_datagram_server_serves_from_bind_to_close,
];

// test_TCPServer (CPython)
fn a_tcp_server_serves_from_bind_to_close() {
    cell::<TcpServer<EchoOrFail>>(Kind::Tcp, &[]);
}

// test_UDPServer (CPython)
fn a_udp_server_serves_from_bind_to_close() {
    cell::<UdpServer<EchoOrFail>>(Kind::Udp, &[]);
}

// test_UnixStreamServer (CPython)
fn a_unix_stream_server_serves_from_bind_to_close() {
    cell::<UnixStreamServer<EchoOrFail>>(Kind::UnixStream, &[]);
}

// test_UnixDatagramServer (CPython)
fn a_unix_datagram_server_serves_from_bind_to_close() {
    cell::<UnixDatagramServer<EchoOrFail>>(Kind::UnixDatagram, &[]);
}

// test_ThreadingTCPServer (CPython)
fn a_threading_tcp_server_serves_from_bind_to_close() {
    cell::<ThreadingTcpServer<EchoOrFail>>(Kind::Tcp, &[]);
}

// test_ThreadingUDPServer (CPython)
fn a_threading_udp_server_serves_from_bind_to_close() {
    cell::<ThreadingUdpServer<EchoOrFail>>(Kind::Udp, &[]);
}

// test_ThreadingUnixStreamServer (CPython)
fn a_threading_unix_stream_server_serves_from_bind_to_close() {
    cell::<ThreadingUnixStreamServer<EchoOrFail>>(Kind::UnixStream, &[]);
}

// test_ThreadingUnixDatagramServer (CPython)
fn a_threading_unix_datagram_server_serves_from_bind_to_close() {
    cell::<ThreadingUnixDatagramServer<EchoOrFail>>(Kind::UnixDatagram, &[]);
}

// Not in CPython
fn a_thread_pool_tcp_server_serves_from_bind_to_close() {
    cell::<ThreadPoolTcpServer<EchoOrFail>>(Kind::Tcp, &[]);
}

// Not in CPython
fn a_thread_pool_udp_server_serves_from_bind_to_close() {
    cell::<ThreadPoolUdpServer<EchoOrFail>>(Kind::Udp, &[]);
}

// Not in CPython
fn a_thread_pool_unix_stream_server_serves_from_bind_to_close() {
    cell::<ThreadPoolUnixStreamServer<EchoOrFail>>(Kind::UnixStream, &[]);
}

// Not in CPython
fn a_thread_pool_unix_datagram_server_serves_from_bind_to_close() {
    cell::<ThreadPoolUnixDatagramServer<EchoOrFail>>(Kind::UnixDatagram, &[]);
}
