//! How large the stacks are that handlers run on.

mod support;

use std::fs;
use std::hint::black_box;
use std::io::{self, ErrorKind, Write};

use socketserver::prelude::*;
use support::journal::{Journaled, journal};
use support::rlimit::without_room_for;
use support::{connect, read_to_end};

tests![
    a_thread_has_a_small_stack,
    a_worker_has_a_small_stack,
    a_worker_behind_a_queue_has_a_small_stack,
    a_thread_has_a_large_stack,
    a_worker_has_a_large_stack,
    a_stack_that_nothing_fits_on_does_not_bind,
    a_panic_is_reported_on_the_smallest_stack,
    a_stack_that_the_system_never_grants_does_not_bind,
    a_stack_that_the_system_has_no_room_for_leaves_the_request_to_the_accept_loop,
];

const ANY_PORT: &str = "127.0.0.1:0";
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Tells how much there is, in bytes, of the mapping that the stack is in (proc(5)).
fn tell(request: &mut TcpRequest) -> io::Result<()> {
    let local = 0;
    let here = (&raw const local).addr();
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mut ranges = maps.lines().filter_map(|line| {
        let (start, end) = line.split(' ').next()?.split_once('-')?;
        let number = |hex| usize::from_str_radix(hex, 16).ok();
        Some(number(start)?..number(end)?)
    });
    let stack = ranges.find(|range| range.contains(&here)).unwrap();
    write!(request, "{}", stack.len())
}

/// Needs 8 MiB of stack.
fn go_deep(request: &mut TcpRequest) -> io::Result<()> {
    fn deep(kilobytes: usize) -> usize {
        let room = black_box([1_u8; KIB]);
        usize::from(room[0]) + if kilobytes > 1 { deep(kilobytes - 1) } else { 0 }
    }
    write!(request, "{}", deep(8 * KIB))
}

/// What the only client of a server is told.
#[track_caller]
fn told_by(server: impl BaseServer) -> usize {
    let running = server.spawn().unwrap();
    let told = read_to_end(connect(running.server_address()));
    assert_eq!(running.stop().unwrap().served, 1);
    String::from_utf8(told).unwrap().parse().unwrap()
}

/// With room for another mapping that the system has put beside the stack.
#[track_caller]
fn assert_small(server: impl BaseServer) {
    let size = told_by(server);
    assert!((256 * KIB..MIB).contains(&size), "{size}");
}

fn a_thread_has_a_small_stack() {
    assert_small(ThreadingTcpServer::new(ANY_PORT, tell).stack_size(256 * KIB));
}

fn a_worker_has_a_small_stack() {
    assert_small(ThreadPoolTcpServer::new(ANY_PORT, tell).stack_size(256 * KIB));
}

fn a_worker_behind_a_queue_has_a_small_stack() {
    assert_small(
        ThreadPoolTcpServer::new(ANY_PORT, tell)
            .queue_size(1)
            .stack_size(256 * KIB),
    );
}

fn a_thread_has_a_large_stack() {
    assert_eq!(
        told_by(ThreadingTcpServer::new(ANY_PORT, go_deep).stack_size(32 * MIB)),
        8 * KIB
    );
}

fn a_worker_has_a_large_stack() {
    assert_eq!(
        told_by(ThreadPoolTcpServer::new(ANY_PORT, go_deep).stack_size(32 * MIB)),
        8 * KIB
    );
}

fn a_stack_that_nothing_fits_on_does_not_bind() {
    fn assert_refused(server: impl BaseServer) {
        let error = server.bind().err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let text = "threads with stacks of 65535 bytes would overflow them: set stack_size to 65536 (64 KiB) or more";
        assert_eq!(error.to_string(), text);
    }
    assert_refused(ThreadingTcpServer::new(ANY_PORT, tell).stack_size(64 * KIB - 1));
    assert_refused(ThreadPoolTcpServer::new(ANY_PORT, tell).stack_size(64 * KIB - 1));
}

fn a_panic_is_reported_on_the_smallest_stack() {
    let (journal, pen) = journal();
    let handler = |_: &mut TcpRequest| -> () { panic!("as told") };
    let server = ThreadingTcpServer::new(ANY_PORT, handler).stack_size(64 * KIB);
    let running = Journaled::over(server, &pen).spawn().unwrap();
    assert_eq!(read_to_end(connect(running.server_address())), b"");
    assert_eq!(running.stop().unwrap().failed, 1);
    assert_eq!(journal.count("handle_error"), 1);
}

fn a_stack_that_the_system_never_grants_does_not_bind() {
    fn assert_refused(server: impl BaseServer, bytes: usize) {
        let error = server.bind().err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let told = format!("the system has no room for a stack of {bytes} bytes: set stack_size to less");
        assert!(error.to_string().starts_with(&told), "{error}");
    }
    // Half of all addresses a program of 32 bits may have.
    for bytes in [usize::MAX / 4 * 3, usize::MAX] {
        assert_refused(ThreadingTcpServer::new(ANY_PORT, tell).stack_size(bytes), bytes);
        assert_refused(ThreadPoolTcpServer::new(ANY_PORT, tell).stack_size(bytes), bytes);
    }
}

fn a_stack_that_the_system_has_no_room_for_leaves_the_request_to_the_accept_loop() {
    const STACK: usize = 512 * MIB;
    fn assert_served(server: impl BaseServer) {
        let server = server.bind().unwrap();
        // For the thread that accepts there is room.
        let limited = without_room_for(STACK);
        let size = told_by(server);
        drop(limited);
        assert!(size < STACK, "{size}");
    }
    assert_served(ThreadingTcpServer::new(ANY_PORT, tell).stack_size(STACK));
    assert_served(ThreadPoolTcpServer::new(ANY_PORT, tell).stack_size(STACK));
}
