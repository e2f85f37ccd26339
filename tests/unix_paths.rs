//! Sockets in the file system: what may be replaced, what is left alone, what is removed at the end.

mod support;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use nix::unistd::chroot;
use socketserver::prelude::*;
use support::clients;
use support::process::{Process, role, serve_as_role};
use support::unix::{
    LIVE, assert_answers, assert_answers_and_ends, assert_datagrams_answered, connect_unix, names, race,
};
use support::{CEILING, EchoLine, TempPath, children, exchange_line, logged, temp_path, wait_until};

tests![
    roles: serves_a_relative_path_from_elsewhere, serves_a_relative_path_outside_of_its_root;
    a_regular_file_is_refused_and_left_alone,
    a_directory_is_refused_and_left_alone,
    a_symbolic_link_to_a_file_is_refused_and_both_are_left_alone,
    a_symbolic_link_to_a_stale_socket_is_refused_and_both_are_left_alone,
    a_dangling_symbolic_link_is_refused_and_left_alone,
    a_stale_stream_socket_is_replaced,
    a_stale_datagram_socket_is_replaced,
    a_stale_socket_of_the_other_type_is_replaced,
    a_server_killed_with_sigkill_can_be_started_again,
    a_live_stream_server_is_refused_and_goes_on,
    a_live_datagram_server_is_refused_and_goes_on,
    a_live_server_of_the_other_type_is_refused_and_goes_on,
    a_live_server_whose_queue_is_full_is_refused,
    a_server_that_is_bound_and_does_not_serve_yet_is_refused,
    a_server_that_is_bound_and_does_not_listen_yet_is_refused,
    of_two_stream_servers_that_start_at_once_exactly_one_wins,
    of_two_datagram_servers_that_start_at_once_exactly_one_wins,
    the_path_is_removed_after_stop,
    the_path_is_removed_after_dropping_the_guard,
    the_path_is_removed_after_binding_without_serving,
    the_path_is_removed_after_handling_single_requests,
    the_path_is_removed_when_the_draining_begins,
    the_path_is_not_removed_while_another_server_looks_whose_it_is,
    a_path_that_is_another_servers_by_now_is_left_alone,
    a_closed_stream_server_leaves_the_path_to_the_next_when_it_is_dropped,
    a_closed_datagram_server_leaves_the_path_to_the_next_when_it_is_dropped,
    a_path_that_is_a_file_by_now_is_left_alone,
    a_path_that_is_gone_already_is_no_trouble,
    a_relative_path_is_removed_although_the_directory_has_changed,
    a_relative_path_is_served_and_removed_where_none_leads_from_the_root,
    a_forked_child_leaves_the_path_alone,
    a_path_can_be_served_again_at_once,
];

type Server = ThreadingUnixStreamServer<EchoLine>;

fn server(path: &Path) -> Server {
    ThreadingUnixStreamServer::new(path, EchoLine)
}

fn datagram_server(path: &Path) -> ThreadingUnixDatagramServer<EchoLine> {
    ThreadingUnixDatagramServer::new(path, EchoLine)
}

/// Binding fails because something is there; returns what the error says about it.
#[track_caller]
fn refusal(server: impl BaseServer, path: &Path) -> String {
    let error = server.bind().err().expect("the path is taken");
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    let text = error.to_string();
    let start = format!("Address already in use ({}): ", path.display());
    let Some(why) = text.strip_prefix(&start) else {
        panic!("`{text}` does not start with `{start}`");
    };
    why.to_owned()
}

const NO_SOCKET: &str = "there is a file that is no socket; it was left alone, choose another path or remove it";
fn stale_stream() -> TempPath {
    let place = temp_path("socket");
    drop(UnixListener::bind(&place.path).unwrap());
    place
}

fn stale_datagram() -> TempPath {
    let place = temp_path("socket");
    drop(UnixDatagram::bind(&place.path).unwrap());
    place
}

// ----- What is there already ---------------------------------------------------------------------

fn a_regular_file_is_refused_and_left_alone() {
    let place = temp_path("file");
    fs::write(&place.path, "precious").unwrap();
    assert_eq!(refusal(server(&place.path), &place.path), NO_SOCKET);
    assert_eq!(refusal(datagram_server(&place.path), &place.path), NO_SOCKET);
    assert_eq!(fs::read_to_string(&place.path).unwrap(), "precious");
}

fn a_directory_is_refused_and_left_alone() {
    let place = temp_path("directory");
    fs::create_dir(&place.path).unwrap();
    assert_eq!(refusal(server(&place.path), &place.path), NO_SOCKET);
    assert!(place.path.is_dir());
}

fn a_symbolic_link_to_a_file_is_refused_and_both_are_left_alone() {
    let (place, target) = (temp_path("link"), temp_path("file"));
    fs::write(&target.path, "precious").unwrap();
    std::os::unix::fs::symlink(&target.path, &place.path).unwrap();
    assert_eq!(refusal(server(&place.path), &place.path), NO_SOCKET);
    assert_eq!(fs::read_link(&place.path).unwrap(), target.path);
    assert_eq!(fs::read_to_string(&target.path).unwrap(), "precious");
}

fn a_symbolic_link_to_a_stale_socket_is_refused_and_both_are_left_alone() {
    let (place, target) = (temp_path("link"), stale_stream());
    std::os::unix::fs::symlink(&target.path, &place.path).unwrap();
    assert_eq!(refusal(server(&place.path), &place.path), NO_SOCKET);
    assert_eq!(fs::read_link(&place.path).unwrap(), target.path);
    assert!(target.path.exists());
}

fn a_dangling_symbolic_link_is_refused_and_left_alone() {
    let (place, target) = (temp_path("link"), temp_path("nothing"));
    std::os::unix::fs::symlink(&target.path, &place.path).unwrap();
    assert_eq!(refusal(server(&place.path), &place.path), NO_SOCKET);
    assert_eq!(fs::read_link(&place.path).unwrap(), target.path);
    assert!(!target.path.exists(), "the link is not followed");
}

fn a_stale_stream_socket_is_replaced() {
    let place = stale_stream();
    let running = server(&place.path).spawn().unwrap();
    assert_answers(running.server_address());
    let told = format!(
        "INFO replacing {}: a socket that nobody answers on",
        place.path.display()
    );
    assert_eq!(logged(), [told]);
}

fn a_stale_datagram_socket_is_replaced() {
    let place = stale_datagram();
    let running = datagram_server(&place.path).spawn().unwrap();
    assert_datagrams_answered(running.server_address());
}

fn a_stale_socket_of_the_other_type_is_replaced() {
    let place = stale_datagram();
    let running = server(&place.path).spawn().unwrap();
    assert_answers(running.server_address());
    let place = stale_stream();
    let running = datagram_server(&place.path).spawn().unwrap();
    assert_datagrams_answered(running.server_address());
}

fn a_server_killed_with_sigkill_can_be_started_again() {
    for transport in ["unix", "unixgram"] {
        let place = temp_path("socket");
        let start = || {
            Process::start(&mut support::process::echo(
                transport,
                "threading",
                place.path.to_str().unwrap(),
            ))
        };
        let first = start();
        first.signal(Signal::SIGKILL);
        assert_eq!(first.end().status.code(), None);
        assert!(place.path.exists(), "nobody could remove it");
        let second = start();
        second.signal(Signal::SIGTERM);
        assert_eq!(second.end().status.code(), Some(0));
        assert!(!place.path.exists());
    }
}

fn a_live_stream_server_is_refused_and_goes_on() {
    let place = temp_path("socket");
    let running = server(&place.path).spawn().unwrap();
    assert_eq!(refusal(server(&place.path), &place.path), LIVE);
    assert_answers(running.server_address());
    running.stop().unwrap();
    assert!(!place.path.exists());
}

fn a_live_datagram_server_is_refused_and_goes_on() {
    let place = temp_path("socket");
    let running = datagram_server(&place.path).spawn().unwrap();
    assert_eq!(refusal(datagram_server(&place.path), &place.path), LIVE);
    assert_datagrams_answered(running.server_address());
    running.stop().unwrap();
    assert!(!place.path.exists());
}

fn a_live_server_of_the_other_type_is_refused_and_goes_on() {
    let place = temp_path("socket");
    let running = datagram_server(&place.path).spawn().unwrap();
    assert_eq!(refusal(server(&place.path), &place.path), LIVE);
    assert_datagrams_answered(running.server_address());
    let place = temp_path("socket");
    let running = server(&place.path).spawn().unwrap();
    assert_eq!(refusal(datagram_server(&place.path), &place.path), LIVE);
    assert_answers(running.server_address());
}

fn a_live_server_whose_queue_is_full_is_refused() {
    let place = temp_path("socket");
    let bound = UnixStreamServer::new(&place.path, EchoLine)
        .request_queue_size(0)
        .bind()
        .unwrap();
    let _fills_the_queue = UnixStream::connect(&place.path).unwrap();
    assert_eq!(refusal(server(&place.path), &place.path), LIVE);
    assert_eq!(bound.server_address().path(), Some(&*place.path));
    assert!(place.path.exists());
}

fn a_server_that_is_bound_and_does_not_serve_yet_is_refused() {
    let place = temp_path("socket");
    let bound = server(&place.path).bind().unwrap();
    assert_eq!(refusal(server(&place.path), &place.path), LIVE);
    let running = bound.spawn().unwrap();
    assert_answers(running.server_address());
}

/// Starts another server at the same moment of its life as a slow start would.
struct Interrupted<S>(S, PathBuf);

impl<S: BaseServer> BaseServer for Interrupted<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn server_activate(&self) -> io::Result<()> {
        assert_eq!(refusal(server(&self.1), &self.1), LIVE);
        self.inner().server_activate()
    }
}

fn a_server_that_is_bound_and_does_not_listen_yet_is_refused() {
    let place = temp_path("socket");
    let running = Interrupted(server(&place.path), place.path.clone()).spawn().unwrap();
    assert_answers(running.server_address());
}

fn of_two_stream_servers_that_start_at_once_exactly_one_wins() {
    race(server, assert_answers);
}

fn of_two_datagram_servers_that_start_at_once_exactly_one_wins() {
    race(datagram_server, assert_datagrams_answered);
}

// ----- What is left ------------------------------------------------------------------------------

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

fn the_path_is_removed_after_stop() {
    let place = temp_path("socket");
    let running = server(&place.path).spawn().unwrap();
    assert!(is_socket(&place.path));
    running.stop().unwrap();
    assert!(!place.path.exists());

    let running = datagram_server(&place.path).spawn().unwrap();
    assert!(is_socket(&place.path));
    running.stop().unwrap();
    assert!(!place.path.exists());
}

fn the_path_is_removed_after_dropping_the_guard() {
    let place = temp_path("socket");
    let running = server(&place.path).spawn().unwrap();
    assert!(is_socket(&place.path));
    drop(running);
    assert!(!place.path.exists());
}

fn the_path_is_removed_after_binding_without_serving() {
    let place = temp_path("socket");
    let bound = server(&place.path).bind().unwrap();
    assert!(is_socket(&place.path));
    drop(bound);
    assert!(!place.path.exists());

    let bound = datagram_server(&place.path).bind().unwrap();
    assert!(is_socket(&place.path));
    drop(bound);
    assert!(!place.path.exists());
}

fn the_path_is_removed_after_handling_single_requests() {
    let place = temp_path("socket");
    let bound = std::sync::Arc::new(server(&place.path).bind().unwrap());
    let client = connect_unix(&bound.server_address());
    bound.handle_request().unwrap();
    assert_eq!(exchange_line(client, "hello\n"), "hello\n");
    assert!(is_socket(&place.path));
    bound.close().unwrap();
    assert!(!place.path.exists());
}

fn the_path_is_removed_when_the_draining_begins() {
    let place = temp_path("socket");
    let running = server(&place.path).spawn().unwrap();
    let client = connect_unix(running.server_address());
    running.shutdown_handle().shutdown();
    wait_until("the path is gone", || !place.path.exists());
    assert_eq!(exchange_line(client, "hello\n"), "hello\n");
    assert_eq!(running.join().unwrap().served, 1);
}

/// Between finding its own socket there and removing it, a server that has stopped to answer on it is replaced, and
/// would remove the other's: it takes the lock under which that happens, and waits for it, but not for ever.
fn the_path_is_not_removed_while_another_server_looks_whose_it_is() {
    for datagrams in [false, true] {
        let place = temp_path("socket");
        let running = if datagrams {
            datagram_server(&place.path).spawn().unwrap()
        } else {
            server(&place.path).spawn().unwrap()
        };
        let directory = File::open(place.path.parent().unwrap()).unwrap();
        let _lock = Flock::lock(directory, FlockArg::LockExclusive).unwrap();
        let begun = Instant::now();
        running.stop().unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
        assert!(!place.path.exists());
    }
}

fn a_path_that_is_another_servers_by_now_is_left_alone() {
    let place = temp_path("socket");
    let first = server(&place.path).spawn().unwrap();
    fs::remove_file(&place.path).unwrap();
    let second = server(&place.path).spawn().unwrap();
    first.stop().unwrap();
    assert!(is_socket(&place.path));
    assert_answers(second.server_address());
    second.stop().unwrap();
    assert!(!place.path.exists());
}

/// Where the file system gives a number again that is free (ext4 does), the file of the next server looks like that of
/// the one before.
#[track_caller]
fn leaves_the_path_to_the_next<S: BaseServer>(make: fn(&Path) -> S) {
    let place = temp_path("socket");
    let first = std::sync::Arc::new(make(&place.path).bind().unwrap());
    first.close().unwrap();
    assert!(!place.path.exists());
    let second = make(&place.path).spawn().unwrap();
    drop(first);
    assert!(is_socket(&place.path));
    second.stop().unwrap();
    assert!(!place.path.exists());
}

fn a_closed_stream_server_leaves_the_path_to_the_next_when_it_is_dropped() {
    leaves_the_path_to_the_next(server);
}

fn a_closed_datagram_server_leaves_the_path_to_the_next_when_it_is_dropped() {
    leaves_the_path_to_the_next(datagram_server);
}

fn a_path_that_is_a_file_by_now_is_left_alone() {
    let place = temp_path("socket");
    let running = datagram_server(&place.path).spawn().unwrap();
    // The socket's inode is free for the file to take unless it is kept.
    let kept = place.path.with_extension("kept");
    fs::rename(&place.path, &kept).unwrap();
    fs::write(&place.path, "precious").unwrap();
    running.stop().unwrap();
    assert_eq!(fs::read_to_string(&place.path).unwrap(), "precious");
    assert!(is_socket(&kept));
}

fn a_path_that_is_gone_already_is_no_trouble() {
    let place = temp_path("socket");
    let running = server(&place.path).spawn().unwrap();
    fs::remove_file(&place.path).unwrap();
    running.stop().unwrap();
    assert_eq!(logged(), [""; 0]);
}

const DIRECTORY: &str = "SOCKETSERVER_TEST_DIRECTORY";

/// A role: the working directory is a process's own.
fn serves_a_relative_path_from_elsewhere() {
    std::env::set_current_dir(std::env::var_os(DIRECTORY).unwrap()).unwrap();
    let server = server(Path::new("socket"))
        .shutdown_on_signals([signal::SIGTERM])
        .bind()
        .unwrap();
    std::env::set_current_dir("/").unwrap();
    serve_as_role(server);
}

fn a_relative_path_is_removed_although_the_directory_has_changed() {
    let place = temp_path("socket");
    let directory = place.path.parent().unwrap();
    let process = Process::start(role("serves_a_relative_path_from_elsewhere").env(DIRECTORY, directory));
    assert_eq!(process.address(), "socket");
    assert_answers_and_ends(process, &place.path);
    assert!(!place.path.exists());
}

/// A role: so is the root.
fn serves_a_relative_path_outside_of_its_root() {
    std::env::set_current_dir(std::env::var_os(DIRECTORY).unwrap()).unwrap();
    chroot("root").unwrap();
    let server = server(Path::new("socket")).shutdown_on_signals([signal::SIGTERM]);
    serve_as_role(server.bind().unwrap());
}

fn a_relative_path_is_served_and_removed_where_none_leads_from_the_root() {
    if !clients::root_available("choose another root") {
        return;
    }
    let place = temp_path("socket");
    let directory = place.path.parent().unwrap();
    fs::create_dir(directory.join("root")).unwrap();
    let process = Process::start(role("serves_a_relative_path_outside_of_its_root").env(DIRECTORY, directory));
    assert_eq!(process.address(), "socket");
    assert_answers_and_ends(process, &place.path);
    assert_eq!(names(&place), ["root"]);
}

fn a_forked_child_leaves_the_path_alone() {
    let place = temp_path("socket");
    let running = ForkingUnixStreamServer::new(&place.path, EchoLine).spawn().unwrap();
    for _ in 0..3 {
        assert_answers(running.server_address());
        wait_until("the child has been reaped", || children().is_empty());
        assert!(is_socket(&place.path));
    }
    running.stop().unwrap();
    assert!(!place.path.exists());

    let running = ForkingUnixDatagramServer::new(&place.path, EchoLine).spawn().unwrap();
    for _ in 0..3 {
        assert_datagrams_answered(running.server_address());
        wait_until("the child has been reaped", || children().is_empty());
        assert!(is_socket(&place.path));
    }
    running.stop().unwrap();
    assert!(!place.path.exists());
}

fn a_path_can_be_served_again_at_once() {
    let place = temp_path("socket");
    for _ in 0..20 {
        let running = server(&place.path).spawn().unwrap();
        let client = connect_unix(running.server_address());
        client.set_read_timeout(Some(CEILING)).unwrap();
        assert_eq!(exchange_line(client, "hello\n"), "hello\n");
        assert_eq!(running.stop().unwrap().served, 1);
    }
}
