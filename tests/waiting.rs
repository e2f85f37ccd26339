//! Threads that wait for requests in the very system call that takes them: that they do, and that everything
//! else still reaches them.

mod support;

use std::fmt::Display;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow};
use socketserver::prelude::*;
use socketserver::{Acceptor, Running, Tcp};
use support::{CEILING, EchoLine, children, connect, exchange_line, temp_path, udp_client, wait_until};

tests![
    an_idle_server_waits_in_accept,
    an_idle_datagram_server_waits_in_the_call_that_receives,
    threads_wait_in_accept_again_after_a_wake_up,
    with_a_poll_interval_the_loop_comes_back_by_itself,
    with_a_poll_interval_no_thread_waits_in_accept,
    where_others_have_the_socket_too_nobody_waits_in_accept,
    a_server_whose_threads_block_all_signals_stops,
    a_request_on_a_loop_that_has_blocked_all_signals_ends_at_the_deadline,
    a_handler_that_leaves_its_thread_deaf_does_not_keep_suspend_from_returning,
    a_socket_made_elsewhere_stays_non_blocking,
    more_threads_may_accept_than_the_strategy_has_said,
    a_hook_that_never_waits_does_not_keep_the_processor_busy,
];

const ANY_PORT: &str = "127.0.0.1:0";

/// How a system call begins in `/proc/PID/task/TID/syscall` (proc(5)), in all ways that a C library makes it: the
/// number, and where that is no system call of its own, the first argument.
fn beginnings(system_call: libc::c_long) -> Vec<String> {
    let mut beginnings = vec![format!("{system_call} ")];
    // So musl waits in epoll.
    if system_call == libc::SYS_epoll_wait {
        beginnings.push(format!("{} ", libc::SYS_epoll_pwait));
    }
    // With 64 bits for the time, wherever a long has 32.
    if cfg!(target_pointer_width = "32") && system_call == libc::SYS_recvmmsg {
        beginnings.push("417 ".to_owned());
    }
    #[cfg(target_arch = "x86")]
    for (of_its_own, number) in [
        (libc::SYS_accept4, 18),
        (libc::SYS_recvfrom, 12),
        (libc::SYS_recvmmsg, 19),
    ] {
        if system_call == of_its_own {
            beginnings.push(format!("{} {number:#x} ", libc::SYS_socketcall));
        }
    }
    beginnings
}

/// How many threads of this process are in this system call.
fn threads_in(system_call: libc::c_long) -> usize {
    threads_of("self", system_call)
}

fn threads_of(process: impl Display, system_call: libc::c_long) -> usize {
    let beginnings = beginnings(system_call);
    let is_in = |call: &str| beginnings.iter().any(|beginning| call.starts_with(beginning));
    fs::read_dir(format!("/proc/{process}/task"))
        .unwrap()
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("syscall")).ok())
        .filter(|call| is_in(call))
        .count()
}

#[track_caller]
fn assert_waits_in_accept(server: impl BaseServer, threads: usize) {
    let running = server.spawn().unwrap();
    wait_until("it waits in accept4(2)", || threads_in(libc::SYS_accept4) == threads);
    running.stop().unwrap();
}

fn an_idle_server_waits_in_accept() {
    assert_waits_in_accept(TcpServer::new(ANY_PORT, EchoLine), 1);
    assert_waits_in_accept(ThreadingTcpServer::new(ANY_PORT, EchoLine), 1);
    assert_waits_in_accept(ThreadPoolTcpServer::new(ANY_PORT, EchoLine).workers(5), 5);
    let pool = ThreadPoolTcpServer::new(ANY_PORT, EchoLine);
    assert_waits_in_accept(pool.workers(5).queue_size(5), 1);
    let socket = temp_path("socket");
    assert_waits_in_accept(UnixStreamServer::new(socket.path.as_path(), EchoLine), 1);
}

#[track_caller]
fn assert_waits_in_turn(server: impl BaseServer, threads: usize, calls: [libc::c_long; 2]) {
    let running = server.spawn().unwrap();
    let client = udp_client(running.server_address());
    for call in calls {
        wait_until("it waits in the call that receives", || threads_in(call) == threads);
        client.send(b"hello\n").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(client.recv(&mut buffer).unwrap(), 6);
    }
    assert_eq!(running.stop().unwrap().served, 2);
}

fn an_idle_datagram_server_waits_in_the_call_that_receives() {
    // It asks for several, and for one while no more come at a time.
    let calls = [libc::SYS_recvmmsg, libc::SYS_recvfrom];
    assert_waits_in_turn(UdpServer::new(ANY_PORT, EchoLine), 1, calls);
    let pool = ThreadPoolUdpServer::new(ANY_PORT, EchoLine).workers(3);
    assert_waits_in_turn(pool, 3, [libc::SYS_recvfrom; 2]);
}

#[track_caller]
fn assert_waits_again(server: impl BaseServer, threads: usize) {
    let running = server.spawn().unwrap();
    let handle = running.handle();
    for _ in 0..3 {
        handle.suspend();
        wait_until("nobody accepts", || threads_in(libc::SYS_accept4) == 0);
        handle.resume();
        // Each of those that wait elsewhere comes back with a client. Who has just served one may not be back yet.
        wait_until("all wait in accept4(2)", || {
            if threads_in(libc::SYS_accept4) == threads {
                return true;
            }
            let client = connect(running.server_address());
            assert_eq!(exchange_line(client, "hello\n"), "hello\n");
            false
        });
    }
    running.stop().unwrap();
}

fn threads_wait_in_accept_again_after_a_wake_up() {
    assert_waits_again(TcpServer::new(ANY_PORT, EchoLine), 1);
    assert_waits_again(ThreadPoolTcpServer::new(ANY_PORT, EchoLine).workers(3), 3);
}

fn with_a_poll_interval_the_loop_comes_back_by_itself() {
    let server = TcpServer::new(ANY_PORT, EchoLine).poll_interval(Duration::from_millis(10));
    let running = server.spawn().unwrap();
    let client = connect(running.server_address());
    assert_eq!(exchange_line(client, "hello\n"), "hello\n");
    wait_until("it waits in epoll", || threads_in(libc::SYS_epoll_wait) == 1);
    running.stop().unwrap();
}

/// Nor those that need not come back by themselves, because another thread keeps the interval.
fn with_a_poll_interval_no_thread_waits_in_accept() {
    let pool = ThreadPoolTcpServer::new(ANY_PORT, EchoLine).workers(3);
    let running = pool.poll_interval(Duration::from_secs(10)).spawn().unwrap();
    wait_until("all wait in epoll", || threads_in(libc::SYS_epoll_wait) == 3);
    running.stop().unwrap();
}

fn where_others_have_the_socket_too_nobody_waits_in_accept() {
    #[track_caller]
    fn assert_waits_in_epoll(server: impl BaseServer, process: impl Fn() -> Option<u32>) {
        let running = server.spawn().unwrap();
        wait_until("it waits in epoll", || {
            process().is_some_and(|process| threads_of(process, libc::SYS_epoll_wait) == 1)
        });
        running.stop().unwrap();
    }
    let (this, worker) = (|| Some(std::process::id()), || children().pop());
    assert_waits_in_epoll(ForkingTcpServer::new(ANY_PORT, EchoLine), this);
    let listener = std::net::TcpListener::bind(ANY_PORT).unwrap();
    let ready_made = Tcp::try_from(listener).unwrap();
    assert_waits_in_epoll(TcpServer::with_transport(ready_made, EchoLine), this);
    let prefork = PreFork::<TcpServer<_>>::new(ANY_PORT, EchoLine);
    assert_waits_in_epoll(prefork.workers(1), worker);
}

/// Serves on threads that block all signals: blocked after binding, which lets the signal come that wakes them.
#[track_caller]
fn spawn_deaf(server: impl BaseServer) -> Running {
    let server = server.bind().unwrap();
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK).unwrap();
    let running = server.spawn().unwrap();
    before.thread_set_mask().unwrap();
    running
}

fn a_server_whose_threads_block_all_signals_stops() {
    let sync = spawn_deaf(TcpServer::new(ANY_PORT, EchoLine));
    let threading = spawn_deaf(ThreadingTcpServer::new(ANY_PORT, EchoLine));
    let pool = spawn_deaf(ThreadPoolTcpServer::new(ANY_PORT, EchoLine).workers(2));
    let datagrams = spawn_deaf(UdpServer::new(ANY_PORT, EchoLine));
    wait_until("they wait", || {
        threads_in(libc::SYS_accept4) == 4 && threads_in(libc::SYS_recvmmsg) == 1
    });
    for running in [sync, threading, pool, datagrams] {
        let handle = running.shutdown_handle();
        handle.shutdown();
        assert_eq!(handle.wait_timeout(CEILING), Ok(()));
        running.stop().unwrap();
    }
}

/// No other thread can be sent the signal that the deadline's timer sends.
fn a_request_on_a_loop_that_has_blocked_all_signals_ends_at_the_deadline() {
    let server = TcpServer::new(ANY_PORT, EchoLine).drain_timeout(Duration::from_millis(20));
    let running = spawn_deaf(server);
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK).unwrap();
    let mut silent = connect(running.server_address());
    wait_until("it is served", || running.handle().stats().running == 1);
    // Whoever stops a `Running` would end the request a little later, too.
    running.shutdown_handle().shutdown();
    let end = silent.read(&mut [0]);
    before.thread_set_mask().unwrap();
    assert_eq!(end.unwrap(), 0);
    assert_eq!(running.stop().unwrap().forced, 1);
}

fn a_handler_that_leaves_its_thread_deaf_does_not_keep_suspend_from_returning() {
    let handler = |request: &mut TcpRequest| -> io::Result<()> {
        SigSet::all().thread_block()?;
        request.write_all(b"deaf\n")
    };
    let server = TcpServer::new(ANY_PORT, handler).drain_timeout(Duration::from_millis(20));
    let running = server.spawn().unwrap();
    assert_eq!(exchange_line(connect(running.server_address()), ""), "deaf\n");
    wait_until("it waits in accept4(2)", || threads_in(libc::SYS_accept4) == 1);
    let handle = running.handle();
    let suspending = thread::spawn(move || handle.suspend());
    wait_until("suspend returns", || suspending.is_finished());
    suspending.join().unwrap();
    assert_eq!(threads_in(libc::SYS_accept4), 1, "it has not heard of it");
    running.stop().unwrap();
}

/// Other processes may have it, too.
fn a_socket_made_elsewhere_stays_non_blocking() {
    let listener = std::net::TcpListener::bind(ANY_PORT).unwrap();
    let other = listener.try_clone().unwrap();
    let server = TcpServer::with_transport(Tcp::try_from(listener).unwrap(), EchoLine);
    let running = server.spawn().unwrap();
    let client = connect(running.server_address());
    assert_eq!(exchange_line(client, "hello\n"), "hello\n");
    assert_eq!(other.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    running.stop().unwrap();
}

/// A strategy of a user's, whose threads each serve as the bare server does.
struct Several<S>(S, usize);

impl<S: BaseServer> BaseServer for Several<S> {
    type Transport = S::Transport;
    type Inner = S;

    const CONCURRENCY: Concurrency = Concurrency::Threads;

    fn inner(&self) -> &S {
        &self.0
    }

    fn serve(&self, acceptor: Acceptor<S::Transport>) -> io::Result<()> {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.1)
                .map(|_| {
                    let acceptor = acceptor.clone();
                    scope.spawn(|| self.0.serve(acceptor))
                })
                .collect();
            threads.into_iter().try_for_each(|thread| thread.join().unwrap())
        })
    }
}

fn more_threads_may_accept_than_the_strategy_has_said() {
    let server = Several(TcpServer::new(ANY_PORT, EchoLine), 3);
    let running = server.spawn().unwrap();
    // And none of them keeps the processor busy.
    wait_until("all wait in epoll", || threads_in(libc::SYS_epoll_wait) == 3);
    for _ in 0..20 {
        let client = connect(running.server_address());
        assert_eq!(exchange_line(client, "hello\n"), "hello\n");
    }
    assert_eq!(running.stop().unwrap().served, 20);
}

/// Says that there is nothing, without having waited.
struct Impatient<S>(S, Arc<AtomicUsize>);

impl<S: BaseServer> BaseServer for Impatient<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn get_request(&self) -> io::Result<RequestOf<Self>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Err(ErrorKind::WouldBlock.into())
    }
}

fn a_hook_that_never_waits_does_not_keep_the_processor_busy() {
    let calls = Arc::new(AtomicUsize::new(0));
    let server = Impatient(TcpServer::new(ANY_PORT, EchoLine), Arc::clone(&calls));
    let running = server.spawn().unwrap();
    wait_until("it waits elsewhere", || threads_in(libc::SYS_epoll_wait) == 1);
    assert!((1..1_000).contains(&calls.load(Ordering::SeqCst)));
    running.stop().unwrap();
}
