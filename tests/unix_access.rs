//! Who may connect to a Unix socket: its mode and owner, set before anybody can, and who has connected.

mod support;

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, fstat, umask};
use nix::unistd::{Uid, chroot, getegid, geteuid, setfsuid};
use socketserver::prelude::*;
use support::clients;
use support::process::{
    Process, ROLE, as_ordinary_user, for_everybody, ordinary_user, public_path, role, serve_as_role,
};
use support::unix::{
    LIVE, assert_answers, assert_answers_and_ends, assert_datagrams_answered, connect_unix, names, race,
};
use support::{EchoLine, TempPath, logged, temp_path, wait_until};

tests![
    roles: serves_with_a_mode, serves_a_relative_path_with_a_mode, serves_with_a_mode_and_an_owner_without_proc,
        tells_who_it_is;
    the_path_of_a_stream_socket_never_exists_without_its_mode_and_owner,
    the_path_of_a_datagram_socket_is_never_open_to_more_than_it_shall_be,
    a_datagram_socket_is_made_without_any_permission,
    whoever_sees_the_path_of_a_stream_socket_can_connect,
    the_mode_is_exact_whatever_the_umask,
    without_a_mode_the_umask_decides,
    with_an_owner_the_mode_is_for_owner_and_group,
    the_mode_keeps_other_users_out,
    a_socket_that_this_user_may_not_connect_to_is_left_alone,
    an_owner_that_may_not_be_set_is_told,
    a_mode_that_is_none_is_told,
    an_abstract_name_has_no_mode,
    internet_servers_take_no_notice,
    the_address_is_the_path_that_was_asked_for,
    a_relative_path_with_a_mode_is_removed_although_the_directory_has_changed,
    a_relative_path_is_served_and_removed_by_who_may_not_go_there_from_the_root,
    a_path_that_this_user_may_not_go_to_any_more_is_told,
    mode_and_owner_need_no_proc,
    the_longest_paths_work_with_a_mode,
    replies_come_from_the_path,
    a_stale_socket_is_replaced,
    a_live_server_is_refused_and_goes_on,
    a_file_is_refused_and_left_alone,
    of_two_stream_servers_that_start_at_once_exactly_one_wins,
    of_two_datagram_servers_that_start_at_once_exactly_one_wins,
    a_server_killed_with_sigkill_can_be_started_again,
    a_forked_child_leaves_the_path_alone,
    a_request_knows_its_peer_under_every_strategy,
    a_request_knows_a_peer_of_another_user,
    a_mix_in_refuses_by_user,
];

type Server = ThreadingUnixStreamServer<EchoLine>;
type DatagramServer = ThreadingUnixDatagramServer<EchoLine>;

fn server(path: &Path) -> Server {
    Server::new(path, EchoLine).socket_mode(0o660)
}

fn datagram_server(path: &Path) -> DatagramServer {
    DatagramServer::new(path, EchoLine).socket_mode(0o660)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

// ----- From the first moment on ------------------------------------------------------------------

/// An owner other than the one that a file has by itself, if this user may choose one.
fn owner_to_ask_for() -> (u32, u32) {
    if geteuid().is_root() {
        (12_345, 23_456)
    } else {
        (geteuid().as_raw(), getegid().as_raw())
    }
}

/// The mode, user and group of a file.
type Look = (u32, u32, u32);

fn look(path: &Path) -> io::Result<Look> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.mode() & 0o7777, found.uid(), found.gid()))
}

/// A look while the owner and then the mode change can be made of the owner before and the mode after: the
/// kernel reads them one after the other. What two looks have in common was there.
fn look_again(path: &Path) -> io::Result<Look> {
    let mut before = look(path)?;
    loop {
        let now = look(path)?;
        if now == std::mem::replace(&mut before, now) {
            return Ok(now);
        }
    }
}

/// Binds again and again; returns what somebody has seen who looks all the time.
fn seen_while_binding<S: BaseServer>(make: impl Fn(&Path) -> S, look: fn(&Path) -> io::Result<Look>) -> BTreeSet<Look> {
    let place = temp_path("socket");
    let (uid, gid) = owner_to_ask_for();
    let (looks, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let look_all_the_time = || {
        let mut seen = BTreeSet::new();
        while !over.load(Ordering::SeqCst) {
            if let Ok(found) = look(&place.path) {
                seen.insert(found);
                looks.fetch_add(1, Ordering::SeqCst);
            }
        }
        seen
    };
    thread::scope(|scope| {
        let looking = scope.spawn(look_all_the_time);
        for _ in 0..200 {
            let before = looks.load(Ordering::SeqCst);
            let bound = make(&place.path).socket_owner(uid, gid).bind().unwrap();
            wait_until("somebody has seen it", || looks.load(Ordering::SeqCst) > before);
            drop(bound);
        }
        over.store(true, Ordering::SeqCst);
        looking.join().unwrap()
    })
}

fn the_path_of_a_stream_socket_never_exists_without_its_mode_and_owner() {
    let (uid, gid) = owner_to_ask_for();
    let seen = seen_while_binding(server, look);
    assert_eq!(seen, BTreeSet::from([(0o660, uid, gid)]));
}

fn the_path_of_a_datagram_socket_is_never_open_to_more_than_it_shall_be() {
    let (uid, gid) = owner_to_ask_for();
    let mut seen = seen_while_binding(datagram_server, look_again);
    assert!(seen.remove(&(0o660, uid, gid)));
    assert!(seen.iter().all(|(mode, ..)| *mode == 0), "{seen:?}");
}

fn whoever_sees_the_path_of_a_stream_socket_can_connect() {
    let place = temp_path("socket");
    for _ in 0..200 {
        let together = Barrier::new(2);
        thread::scope(|scope| {
            let connecting = scope.spawn(|| {
                together.wait();
                loop {
                    match UnixStream::connect(&place.path) {
                        Err(error) if error.kind() == ErrorKind::NotFound => thread::yield_now(),
                        connected => return connected,
                    }
                }
            });
            together.wait();
            let _bound = server(&place.path).bind().unwrap();
            connecting.join().unwrap().unwrap();
        });
    }
}

// ----- Mode and owner ----------------------------------------------------------------------------

/// The mode that a server's socket gets while the umask is another.
fn mode_under(mask: u32, server: impl BaseServer, path: &Path) -> u32 {
    let before = umask(Mode::from_bits_truncate(mask));
    let bound = server.bind();
    umask(before);
    let _bound = bound.unwrap();
    mode(path)
}

fn the_mode_is_exact_whatever_the_umask() {
    let place = temp_path("socket");
    for mask in [0, 0o022, 0o777] {
        for asked in [0o600, 0o660, 0o666, 0o777, 0] {
            let stream = server(&place.path).socket_mode(asked);
            assert_eq!(mode_under(mask, stream, &place.path), asked);
            let datagram = datagram_server(&place.path).socket_mode(asked);
            assert_eq!(mode_under(mask, datagram, &place.path), asked);
        }
    }
}

fn without_a_mode_the_umask_decides() {
    let place = temp_path("socket");
    for (mask, expected) in [(0o022, 0o755), (0o077, 0o700)] {
        let stream = server(&place.path).socket_mode(None);
        assert_eq!(mode_under(mask, stream, &place.path), expected);
        let datagram = datagram_server(&place.path).socket_mode(None);
        assert_eq!(mode_under(mask, datagram, &place.path), expected);
    }
}

fn with_an_owner_the_mode_is_for_owner_and_group() {
    let place = temp_path("socket");
    let (own, (_, group)) = (geteuid().as_raw(), owner_to_ask_for());
    let bound = Server::new(&place.path, EchoLine).socket_owner(None, group).bind();
    let _bound = bound.unwrap();
    assert_eq!(look(&place.path).unwrap(), (0o660, own, group));
}

/// Whoever looks at the file may miss the moment before it has its mode.
fn a_datagram_socket_is_made_without_any_permission() {
    let place = temp_path("socket");
    let bound = datagram_server(&place.path).bind().unwrap();
    // The kernel has made the file with what the descriptor has.
    let descriptor = fstat(bound.fileno().unwrap()).unwrap();
    assert_eq!(descriptor.st_mode & 0o777, 0);
    assert_eq!(mode(&place.path), 0o660);
}

/// Connects as a user without privileges, who is not the owner if this process is root's.
fn connect_as_another(path: &Path) -> io::Result<UnixStream> {
    as_another(|| UnixStream::connect(path))
}

/// Runs `action` in a thread that has the rights of another user in the file system, if this process is
/// root's.
fn as_another<T: Send>(action: impl FnOnce() -> T + Send) -> T {
    let ordinary = Uid::from_raw(ordinary_user());
    thread::scope(|scope| {
        let acting = scope.spawn(|| {
            // Of the calling thread only, which ends here (setfsuid(2)).
            setfsuid(ordinary);
            action()
        });
        acting.join().unwrap()
    })
}

fn the_mode_keeps_other_users_out() {
    let place = public_path("socket", 0o777);
    let running = server(&place.path).socket_mode(0o666).spawn().unwrap();
    connect_as_another(&place.path).unwrap();
    running.stop().unwrap();
    let running = server(&place.path).socket_mode(0o600).spawn().unwrap();
    if geteuid().is_root() {
        let error = connect_as_another(&place.path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    }
    assert_answers(running.server_address());
}

fn a_socket_that_this_user_may_not_connect_to_is_left_alone() {
    if !clients::root_available("be another user") {
        return;
    }
    let place = public_path("socket", 0o777);
    let running = server(&place.path).socket_mode(0o600).spawn().unwrap();
    for mode in [None, Some(0o600)] {
        let another = Server::new(&place.path, EchoLine).socket_mode(mode);
        let error = as_another(|| another.bind().map(drop)).expect_err("somebody may answer there");
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        let text = format!(
            "Address already in use ({}): a socket is there and this user may not ask who answers on it",
            place.path.display()
        );
        assert_eq!(error.to_string(), text);
    }
    assert_answers(running.server_address());
}

fn an_owner_that_may_not_be_set_is_told() {
    let place = public_path("socket", 0o777);
    let to_root = |server: Box<dyn FnOnce() -> io::Result<()> + Send>| {
        let error = as_another(server).expect_err("it is not root");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let text = format!(
            "cannot give the socket {} mode 0o660, user 0: Operation not permitted (os error 1); only root may \
             choose the user, others only a group of theirs",
            place.path.display()
        );
        assert_eq!(error.to_string(), text);
        assert_eq!(names(&place), [""; 0], "nothing is left behind");
    };
    let stream = server(&place.path).socket_owner(0, None);
    to_root(Box::new(|| stream.bind().map(drop)));
    let datagram = datagram_server(&place.path).socket_owner(0, None);
    to_root(Box::new(|| datagram.bind().map(drop)));
}

fn a_mode_that_is_none_is_told() {
    let place = temp_path("socket");
    let error = server(&place.path).socket_mode(660).bind().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(
        error.to_string(),
        "socket_mode(0o1224) is no mode: permissions go from 0 to 0o777; write it in octal, such as 0o660"
    );
}

fn an_abstract_name_has_no_mode() {
    let name = format!("socketserver-{}", std::process::id());
    for server in [
        UnixStreamServer::new(Address::abstract_name(&name), EchoLine).socket_mode(0o600),
        UnixStreamServer::new(Address::abstract_name(&name), EchoLine).socket_owner(0, None),
    ] {
        let error = server.bind().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let expected = format!(
            "`@{name}` is an abstract name, which has no mode and no owner: whoever shares the network namespace can \
             connect; use a path, or ask for peer_credentials in verify_request"
        );
        assert_eq!(error.to_string(), expected);
    }
}

fn internet_servers_take_no_notice() {
    let server = TcpServer::new("127.0.0.1:0", EchoLine)
        .socket_mode(0o600)
        .socket_owner(0, 0);
    server.bind().unwrap();
}

// ----- Names -------------------------------------------------------------------------------------

fn the_address_is_the_path_that_was_asked_for() {
    let place = temp_path("socket");
    let tell = |request: &mut UnixStreamRequest| {
        let address = request.server().server_address().cloned();
        write!(request, "{}", address.expect("it has a server"))
    };
    let bound = UnixStreamServer::new(&place.path, tell)
        .socket_mode(0o600)
        .bind()
        .unwrap();
    assert_eq!(bound.server_address(), place.path.as_path().into());
    assert_eq!(names(&place), ["socket"], "there is no other name");
    let running = bound.spawn().unwrap();
    let mut told = String::new();
    connect_unix(running.server_address())
        .read_to_string(&mut told)
        .unwrap();
    assert_eq!(told, place.path.display().to_string());
    running.stop().unwrap();
    assert_eq!(names(&place), [""; 0]);
}

const PLACE: &str = "SOCKETSERVER_TEST_PLACE";

/// A role: the working directory is a process's own.
fn serves_a_relative_path_with_a_mode() {
    std::env::set_current_dir(std::env::var_os(PLACE).unwrap()).unwrap();
    let bound = server(Path::new("socket"))
        .shutdown_on_signals([signal::SIGTERM])
        .bind();
    let bound = bound.unwrap();
    std::env::set_current_dir("/").unwrap();
    serve_as_role(bound);
}

fn a_relative_path_with_a_mode_is_removed_although_the_directory_has_changed() {
    let place = temp_path("socket");
    let directory = place.path.parent().unwrap();
    let process = Process::start(role("serves_a_relative_path_with_a_mode").env(PLACE, directory));
    assert_eq!(process.address(), "socket");
    assert_answers_and_ends(process, &place.path);
    assert_eq!(names(&place), [""; 0]);
}

/// As a service that was started in another user's directory.
fn a_relative_path_is_served_and_removed_by_who_may_not_go_there_from_the_root() {
    let place = temp_path("socket");
    let inner = place.path.with_file_name("inner");
    fs::create_dir(&inner).unwrap();
    fs::set_permissions(place.path.parent().unwrap(), Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(&inner, Permissions::from_mode(0o777)).unwrap();
    let before = std::env::current_dir().unwrap();
    std::env::set_current_dir(&inner).unwrap();
    let errors = as_another(|| {
        let path = Path::new("socket");
        [
            server(path).socket_mode(None).bind().err(),
            server(path).bind().err(),
            datagram_server(path).socket_mode(None).bind().err(),
            datagram_server(path).bind().err(),
        ]
    });
    std::env::set_current_dir(before).unwrap();
    assert!(errors.iter().all(Option::is_none), "{errors:?}");
    assert_eq!(fs::read_dir(&inner).unwrap().count(), 0);
}

/// As after privileges were given up, in a directory that is root's alone.
fn a_path_that_this_user_may_not_go_to_any_more_is_told() {
    if !clients::root_available("be another user") {
        return;
    }
    let place = temp_path("socket");
    fs::set_permissions(place.path.parent().unwrap(), Permissions::from_mode(0o700)).unwrap();
    let text = format!(
        "WARN {} was not removed: Permission denied (os error 13)",
        place.path.display()
    );
    let stream = server(&place.path).bind().unwrap();
    as_another(|| drop(stream));
    assert_eq!(logged(), [text.as_str()]);
    fs::remove_file(&place.path).unwrap();
    let datagrams = datagram_server(&place.path).bind().unwrap();
    as_another(|| drop(datagrams));
    assert_eq!(logged(), [text.as_str(); 2]);
}

/// A role: so is the root.
fn serves_with_a_mode_and_an_owner_without_proc() {
    chroot(std::env::var_os(PLACE).unwrap().as_os_str()).unwrap();
    let server = ThreadingUnixStreamServer::new(Path::new("/socket"), EchoLine)
        .socket_mode(0o642)
        .socket_owner(1, 2)
        .shutdown_on_signals([signal::SIGTERM]);
    serve_as_role(server.bind().unwrap());
}

/// As in many a jail.
fn mode_and_owner_need_no_proc() {
    if !clients::root_available("choose another root") {
        return;
    }
    if !clients::linux_available([6, 6], "fchmodat2(2)") {
        return;
    }
    let place = temp_path("socket");
    let root = place.path.parent().unwrap();
    let process = Process::start(role("serves_with_a_mode_and_an_owner_without_proc").env(PLACE, root));
    assert_eq!(process.address(), "/socket");
    let found = fs::metadata(&place.path).unwrap();
    assert_eq!((found.mode() & 0o777, found.uid(), found.gid()), (0o642, 1, 2));
    assert_answers_and_ends(process, &place.path);
}

/// A path of 107 bytes whose last name has `length` of them.
fn longest_path(length: usize) -> TempPath {
    let mut place = temp_path("directory");
    place.path.pop();
    let to_fill = 107 - length - 1 - place.path.as_os_str().len();
    // Names are shorter than 256 bytes; one is enough here.
    place.path.push("d".repeat(to_fill - 1));
    fs::create_dir(&place.path).unwrap();
    place.path.push("s".repeat(length));
    assert_eq!(place.path.as_os_str().len(), 107);
    place
}

fn the_longest_paths_work_with_a_mode() {
    for length in [1, 2, 8, 9, 40] {
        let place = longest_path(length);
        let running = server(&place.path).spawn().unwrap();
        assert_answers(running.server_address());
        assert_eq!(names(&place), ["s".repeat(length)]);
        running.stop().unwrap();
        assert_eq!(names(&place), [""; 0]);
        let running = datagram_server(&place.path).spawn().unwrap();
        assert_datagrams_answered(running.server_address());
    }
}

fn replies_come_from_the_path() {
    let place = temp_path("socket");
    let running = datagram_server(&place.path).spawn().unwrap();
    assert_datagrams_answered(running.server_address());
}

// ----- What is there already ---------------------------------------------------------------------

fn a_stale_socket_is_replaced() {
    let place = temp_path("socket");
    drop(UnixListener::bind(&place.path).unwrap());
    let running = server(&place.path).spawn().unwrap();
    assert_answers(running.server_address());
    assert_eq!(mode(&place.path), 0o660);
    running.stop().unwrap();

    drop(UnixDatagram::bind(&place.path).unwrap());
    let running = datagram_server(&place.path).spawn().unwrap();
    assert_datagrams_answered(running.server_address());
    assert_eq!(mode(&place.path), 0o660);
}

#[track_caller]
fn assert_refused(server: impl BaseServer, place: &TempPath, why: &str) {
    let error = server.bind().err().expect("the path is taken");
    let text = format!("Address already in use ({}): {why}", place.path.display());
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::AddrInUse, text));
    assert_eq!(names(place), ["socket"], "nothing else is left behind");
}

fn a_live_server_is_refused_and_goes_on() {
    let place = temp_path("socket");
    let running = server(&place.path).spawn().unwrap();
    assert_refused(server(&place.path), &place, LIVE);
    assert_answers(running.server_address());
    running.stop().unwrap();

    let running = datagram_server(&place.path).spawn().unwrap();
    assert_refused(datagram_server(&place.path), &place, LIVE);
    assert_refused(server(&place.path), &place, LIVE);
    assert_datagrams_answered(running.server_address());
}

fn a_file_is_refused_and_left_alone() {
    let place = temp_path("socket");
    fs::write(&place.path, "precious").unwrap();
    let why = "there is a file that is no socket; it was left alone, choose another path or remove it";
    assert_refused(server(&place.path), &place, why);
    assert_refused(datagram_server(&place.path), &place, why);
    assert_eq!(fs::read_to_string(&place.path).unwrap(), "precious");
}

fn of_two_stream_servers_that_start_at_once_exactly_one_wins() {
    race(server, assert_answers);
}

fn of_two_datagram_servers_that_start_at_once_exactly_one_wins() {
    race(datagram_server, assert_datagrams_answered);
}

/// A role: a server that is killed.
fn serves_with_a_mode() {
    let path = std::env::var_os(PLACE).unwrap();
    serve_as_role(server(Path::new(&path)));
}

fn a_server_killed_with_sigkill_can_be_started_again() {
    let place = temp_path("socket");
    let start = || Process::start(role("serves_with_a_mode").env(PLACE, &place.path));
    let first = start();
    first.signal(Signal::SIGKILL);
    assert_eq!(first.end().status.code(), None);
    assert_eq!(names(&place), ["socket"], "nobody could remove it");
    let second = start();
    assert_answers(&place.path.as_path().into());
    assert_eq!(mode(&place.path), 0o660);
    second.signal(Signal::SIGTERM);
    assert_eq!(second.end().status.code(), Some(0));
    assert_eq!(names(&place), [""; 0]);
}

fn a_forked_child_leaves_the_path_alone() {
    let place = temp_path("socket");
    let running = ForkingUnixStreamServer::new(&place.path, EchoLine)
        .socket_mode(0o600)
        .spawn()
        .unwrap();
    for _ in 0..3 {
        assert_answers(running.server_address());
        wait_until("the child has been reaped", || support::children().is_empty());
        assert_eq!(names(&place), ["socket"]);
    }
    running.stop().unwrap();
    assert_eq!(names(&place), [""; 0]);
}

// ----- Who has connected -------------------------------------------------------------------------

fn tell_peer(request: &mut UnixStreamRequest) -> io::Result<()> {
    let peer = request.peer_credentials()?;
    let pid = peer.pid.expect("it is of this PID namespace");
    writeln!(request, "{pid} {} {}", peer.uid, peer.gid)
}

fn own_credentials() -> String {
    format!("{} {} {}\n", std::process::id(), geteuid(), getegid())
}

fn a_request_knows_its_peer_under_every_strategy() {
    fn check<S: BaseServer>(make: impl FnOnce(UnixStreamServer<fn(&mut UnixStreamRequest) -> io::Result<()>>) -> S) {
        let place = temp_path("socket");
        let running = make(UnixStreamServer::new(&place.path, tell_peer as _))
            .spawn()
            .unwrap();
        let mut told = String::new();
        connect_unix(running.server_address())
            .read_to_string(&mut told)
            .unwrap();
        assert_eq!(told, own_credentials());
        assert_eq!(running.stop().unwrap().served, 1);
    }
    check(|server| server);
    check(Strategies::threading);
    check(Strategies::thread_pool);
    check(Strategies::forking);
}

/// A role: says who it is and what the server says about that.
fn tells_who_it_is() {
    let path = std::env::var_os(PLACE).unwrap();
    let mut told = String::new();
    UnixStream::connect(path).unwrap().read_to_string(&mut told).unwrap();
    print!("{}{told}", own_credentials());
}

fn a_request_knows_a_peer_of_another_user() {
    let place = public_path("socket", 0o777);
    let running = ThreadingUnixStreamServer::new(&place.path, tell_peer)
        .socket_mode(0o666)
        .spawn()
        .unwrap();
    let program = for_everybody(&std::env::current_exe().unwrap());
    let mut command = as_ordinary_user(&program.path);
    let output = command
        .env(ROLE, "tells_who_it_is")
        .env(PLACE, &place.path)
        .output()
        .unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines.len(), 2, "{output}");
    assert_eq!(lines[0], lines[1]);
    assert_eq!(lines[0].split(' ').nth(1), Some(ordinary_user().to_string().as_str()));
    running.stop().unwrap();
}

/// Lets in one user.
struct OnlyUser<S>(S, u32);

impl<S: BaseServer<Transport = socketserver::UnixStreams>> BaseServer for OnlyUser<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn verify_request(&self, request: &UnixStreamRequest, _client_address: &Address) -> bool {
        request.peer_credentials().is_ok_and(|peer| peer.uid == self.1)
    }
}

fn a_mix_in_refuses_by_user() {
    let place = temp_path("socket");
    let served_for = |user| {
        let server = ThreadingUnixStreamServer::new(&place.path, tell_peer);
        let running = OnlyUser(server, user).spawn().unwrap();
        let mut told = String::new();
        connect_unix(running.server_address())
            .read_to_string(&mut told)
            .unwrap();
        assert_eq!(running.stop().unwrap().served, u64::from(!told.is_empty()));
        told
    };
    let own = geteuid().as_raw();
    assert_eq!(served_for(own), own_credentials());
    assert_eq!(served_for(own + 1), "");
}
