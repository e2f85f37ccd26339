//! What `bind` says when it fails: the address, the system's reason, what to do. Exactly, because that
//! is what a user sees. The harness sees to it that nothing is left behind.

mod support;

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::SockaddrStorage;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use socketserver::prelude::*;
use support::clients;
use support::process::{STRATEGIES, as_ordinary_user, echo_for_everybody, echo_path};
use support::{CEILING, EchoLine, TempPath, connect, exchange_line, temp_path};

tests![
    a_tcp_port_in_use_is_refused,
    a_udp_port_in_use_is_refused,
    of_all_addresses_over_ipv4_and_ipv6_on_one_port_the_difference_is_told,
    a_port_that_another_server_listens_on_first_is_refused,
    a_port_in_use_is_refused_under_every_strategy,
    an_abstract_name_in_use_is_refused,
    serve_forever_and_spawn_fail_as_bind_does,
    a_name_that_does_not_resolve_is_told,
    an_address_without_a_port_is_told,
    a_port_that_is_no_number_is_told,
    a_port_over_65535_is_told,
    an_ipv6_address_without_brackets_is_told,
    a_url_is_told,
    an_address_of_another_machine_is_told,
    an_ipv6_address_may_name_its_interface,
    an_address_of_a_link_needs_its_interface,
    a_group_of_a_link_needs_its_interface,
    a_group_for_a_tcp_server_is_told,
    a_path_for_a_tcp_server_is_told,
    an_abstract_name_for_a_tcp_server_is_told,
    an_internet_address_for_a_unix_server_is_told,
    a_path_that_is_too_long_is_told,
    the_longest_path_is_fine,
    an_abstract_name_that_is_too_long_is_told,
    an_empty_path_is_told,
    a_path_that_ends_in_a_slash_is_told,
    a_path_in_a_missing_directory_is_told,
    a_path_below_a_file_is_told,
    a_path_below_a_pipe_is_told,
    a_path_without_permission_is_told,
    a_path_of_another_users_stale_socket_is_told,
    a_port_without_permission_is_told,
    a_pool_of_zero_workers_is_refused,
    a_pool_of_more_workers_than_there_can_be_is_refused,
    a_forking_server_of_zero_children_is_refused,
    a_poll_interval_of_zero_is_refused,
    an_owner_that_is_none_is_refused,
    a_signal_that_cannot_be_caught_is_refused,
    the_signal_that_a_server_sends_itself_is_refused,
    an_error_of_before_bind_is_told_with_the_address,
    an_error_of_before_bind_gets_no_advice_about_binding,
    a_process_without_descriptors_says_so,
    a_process_without_a_descriptor_to_ask_who_answers_says_so,
    a_thousand_failed_binds_leave_nothing_behind,
];

#[track_caller]
fn error_of(server: impl BaseServer) -> io::Error {
    server.bind().err().expect("bind fails")
}

#[track_caller]
fn assert_fails(server: impl BaseServer, kind: ErrorKind, text: &str) {
    let error = error_of(server);
    assert_eq!(error.to_string(), text);
    assert_eq!(error.kind(), kind, "{error}");
}

fn tcp(address: impl Into<Address>) -> TcpServer<EchoLine> {
    TcpServer::new(address, EchoLine)
}

fn unix(address: impl Into<Address>) -> UnixStreamServer<EchoLine> {
    UnixStreamServer::new(address, EchoLine)
}

fn unixgram(address: impl Into<Address>) -> UnixDatagramServer<EchoLine> {
    UnixDatagramServer::new(address, EchoLine)
}

fn in_use(address: impl std::fmt::Display) -> String {
    format!(
        "Address already in use ({address}): another socket is bound there; stop that program, choose another \
         address, or port 0 for any free port"
    )
}

// ----- In use ------------------------------------------------------------------------------------

fn a_tcp_port_in_use_is_refused() {
    let first = tcp("127.0.0.1:0").spawn().unwrap();
    let address = first.server_address().clone();
    assert_fails(tcp(address.clone()), ErrorKind::AddrInUse, &in_use(&address));
    assert_eq!(exchange_line(connect(&address), "hello\n"), "hello\n");
    first.stop().unwrap();
    tcp(address).bind().unwrap();
}

/// `SO_REUSEADDR` would let two UDP servers share a port unnoticed: it is TCP's only.
fn a_udp_port_in_use_is_refused() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let server = UdpServer::new(address, EchoLine).allow_reuse_address(true);
    assert_fails(server, ErrorKind::AddrInUse, &in_use(address));
    let first = UdpServer::new("127.0.0.1:0", EchoLine).bind().unwrap();
    let address = first.server_address();
    assert_fails(
        UdpServer::new(address.clone(), EchoLine),
        ErrorKind::AddrInUse,
        &in_use(&address),
    );
}

/// Who wants both has bound the other one.
fn of_all_addresses_over_ipv4_and_ipv6_on_one_port_the_difference_is_told() {
    if !clients::ipv6_available() {
        return;
    }
    let udp = |address: &str, port| UdpServer::new((address, port), EchoLine);
    let in_use = |address: &str| {
        format!(
            "Address already in use ({address}): another socket is bound there (one at [::] has IPv4 clients, too, unless \
             it has only_v6(true)); stop that program, choose another address, or port 0 for any free port"
        )
    };
    let first = udp("0.0.0.0", 0).bind().unwrap();
    let port = first.server_address().port().unwrap();
    let second = udp("::", port).only_v6(false);
    assert_fails(second, ErrorKind::AddrInUse, &in_use(&format!("[::]:{port}")));
    udp("::", port).only_v6(true).bind().unwrap();

    let first = udp("::", 0).only_v6(false).bind().unwrap();
    let port = first.server_address().port().unwrap();
    let second = udp("0.0.0.0", port);
    assert_fails(second, ErrorKind::AddrInUse, &in_use(&format!("0.0.0.0:{port}")));
}

/// Between binding and listening, another server listens: `SO_REUSEADDR` lets both bind (socket(7)).
struct TooLate<S>(S, OnceLock<TcpServer<EchoLine>>);

impl<S: BaseServer> BaseServer for TooLate<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn server_activate(&self) -> io::Result<()> {
        let bound = self.fileno().unwrap();
        let address = nix::sys::socket::getsockname::<SockaddrStorage>(bound.as_raw_fd())?;
        let port = address.as_sockaddr_in().unwrap().port();
        let _ = self.1.set(tcp(("127.0.0.1", port)).bind()?);
        self.0.server_activate()
    }
}

fn a_port_that_another_server_listens_on_first_is_refused() {
    let first = OnceLock::new();
    let text = error_of(TooLate(tcp("127.0.0.1:0").threading(), first)).to_string();
    let port = text
        .trim_start_matches("Address already in use (127.0.0.1:")
        .split(')')
        .next()
        .unwrap();
    assert_eq!(text, in_use(format!("127.0.0.1:{port}")));
}

fn a_port_in_use_is_refused_under_every_strategy() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    assert_fails(tcp(address).threading(), ErrorKind::AddrInUse, &in_use(address));
    assert_fails(tcp(address).forking(), ErrorKind::AddrInUse, &in_use(address));
    assert_fails(tcp(address).thread_pool(), ErrorKind::AddrInUse, &in_use(address));
}

fn an_abstract_name_in_use_is_refused() {
    let name = Address::abstract_name(format!("socketserver-test-{}", std::process::id()));
    let _first = unix(name.clone()).bind().unwrap();
    let text = format!(
        "Address already in use ({name}): another socket is bound there; stop that program, or choose another name"
    );
    assert_fails(unix(name.clone()), ErrorKind::AddrInUse, &text);
    let _other_type = unixgram(name.clone()).bind().unwrap();
    assert_fails(unixgram(name.clone()), ErrorKind::AddrInUse, &text);
}

fn serve_forever_and_spawn_fail_as_bind_does() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    assert_eq!(tcp(address).serve_forever().unwrap_err().to_string(), in_use(address));
    assert_eq!(tcp(address).spawn().unwrap_err().to_string(), in_use(address));
}

// ----- No address at all -------------------------------------------------------------------------

fn a_name_that_does_not_resolve_is_told() {
    // A blank makes it no name for any resolver.
    let error = error_of(tcp("no such host:80"));
    let text = error.to_string();
    assert!(
        text.starts_with("cannot resolve `no such host`: failed to lookup address information: "),
        "{text}"
    );
    let text = error_of(UdpServer::new(("no such host", 80), EchoLine)).to_string();
    assert!(
        text.starts_with("cannot resolve `no such host`: failed to lookup address information: "),
        "{text}"
    );
}

fn an_address_without_a_port_is_told() {
    let text = "`localhost` has no port: write HOST:PORT, such as 127.0.0.1:8080, with port 0 for any free one";
    assert_fails(tcp("localhost"), ErrorKind::InvalidInput, text);
    let text = "`127.0.0.1` has no port: write HOST:PORT, such as 127.0.0.1:8080, with port 0 for any free one";
    assert_fails(tcp("127.0.0.1"), ErrorKind::InvalidInput, text);
    let text = "`[::1]` has no port: write HOST:PORT, such as 127.0.0.1:8080, with port 0 for any free one";
    assert_fails(tcp("[::1]"), ErrorKind::InvalidInput, text);
}

fn a_port_that_is_no_number_is_told() {
    let text = "`localhost:http` has no valid port: `http` is not a number from 0 to 65535";
    assert_fails(tcp("localhost:http"), ErrorKind::InvalidInput, text);
    let text = "`localhost:` has no valid port: `` is not a number from 0 to 65535";
    assert_fails(tcp("localhost:"), ErrorKind::InvalidInput, text);
    let text = "`localhost:-1` has no valid port: `-1` is not a number from 0 to 65535";
    assert_fails(tcp("localhost:-1"), ErrorKind::InvalidInput, text);
}

fn a_port_over_65535_is_told() {
    let text = "`127.0.0.1:65536` has no valid port: `65536` is not a number from 0 to 65535";
    assert_fails(tcp("127.0.0.1:65536"), ErrorKind::InvalidInput, text);
}

fn an_ipv6_address_without_brackets_is_told() {
    let text = "`::1:80` is ambiguous: write an IPv6 address in brackets, such as [::1]:80";
    assert_fails(tcp("::1:80"), ErrorKind::InvalidInput, text);
}

fn a_url_is_told() {
    for url in ["http://localhost:80", "tcp://127.0.0.1:80", "unix:///run/x.sock"] {
        let text = format!("`{url}` is a URL: write HOST:PORT alone, such as 127.0.0.1:8080");
        assert_fails(tcp(url), ErrorKind::InvalidInput, &text);
    }
}

fn an_address_of_another_machine_is_told() {
    // TEST-NET-1 (RFC 5737) is nobody's.
    let text = "Cannot assign requested address (192.0.2.1:0): no interface of this machine has that address";
    assert_fails(tcp("192.0.2.1:0"), ErrorKind::AddrNotAvailable, text);
    assert_fails(
        UdpServer::new("192.0.2.1:0", EchoLine),
        ErrorKind::AddrNotAvailable,
        text,
    );
    if clients::ipv6_available() {
        // For documentation (RFC 3849).
        let text = "Cannot assign requested address ([2001:db8::1]:0): no interface of this machine has that address";
        assert_fails(
            UdpServer::new("[2001:db8::1]:0", EchoLine),
            ErrorKind::AddrNotAvailable,
            text,
        );
    }
}

/// A link-local address means nothing without it (RFC 4007). Interface 1 is the loopback one, which has
/// no such address.
fn an_ipv6_address_may_name_its_interface() {
    for address in [Address::from("[fe80::1%lo]:0"), Address::from(("fe80::1%lo", 0))] {
        assert_eq!(address.to_string(), "[fe80::1%lo]:0");
        let text = "Cannot assign requested address ([fe80::1%1]:0): no interface of this machine has that address";
        assert_fails(tcp(address), ErrorKind::AddrNotAvailable, text);
    }
    let text = error_of(tcp("[fe80::1%no-such]:0")).to_string();
    assert!(text.starts_with("cannot resolve `fe80::1%no-such`: "), "{text}");
}

fn an_address_of_a_link_needs_its_interface() {
    for (address, text) in [
        (
            "[fe80::1]:0",
            "an address of a link needs its interface, which `ip address` tells: [fe80::1%eth0]:8080",
        ),
        (
            "[fe80::1%2147483647]:0",
            "no interface has the number behind its `%`; `ip link` tells those there are",
        ),
    ] {
        for error in [error_of(tcp(address)), error_of(UdpServer::new(address, EchoLine))] {
            assert!(error.to_string().ends_with(text), "{error}");
        }
    }
}

/// RFC 4291, 2.7: groups of an interface and of a link, of whatever kind.
fn a_group_of_a_link_needs_its_interface() {
    for group in ["ff01::1", "ff02::1", "ff12::1234", "ff32:40::1", "fe80::1"] {
        let error = error_of(UdpServer::new((group, 0), EchoLine));
        let text = "an address of a link needs its interface, which `ip address` tells: [fe80::1%eth0]:8080";
        assert!(error.to_string().ends_with(text), "{error}");
    }
}

fn a_group_for_a_tcp_server_is_told() {
    for group in ["[ff02::1%1]:0", "[ff05::1]:0"] {
        let text = format!("Invalid argument ({group}): a group has no connections; listen to it with a UdpServer");
        assert_fails(tcp(group), ErrorKind::InvalidInput, &text);
    }
}

fn a_path_for_a_tcp_server_is_told() {
    let text = "`/run/x.sock` is a Unix socket address; TCP and UDP take HOST:PORT";
    assert_fails(tcp(Path::new("/run/x.sock")), ErrorKind::InvalidInput, text);
    assert_fails(
        UdpServer::new(Path::new("/run/x.sock"), EchoLine),
        ErrorKind::InvalidInput,
        text,
    );
    let text = "`/run/x.sock` has no port: write HOST:PORT, such as 127.0.0.1:8080, with port 0 for any free one";
    assert_fails(tcp("/run/x.sock"), ErrorKind::InvalidInput, text);
}

fn an_abstract_name_for_a_tcp_server_is_told() {
    let text = "`@x` is a Unix socket address; TCP and UDP take HOST:PORT";
    assert_fails(tcp(Address::abstract_name("x")), ErrorKind::InvalidInput, text);
    assert_fails(tcp("\0x"), ErrorKind::InvalidInput, text);
}

fn an_internet_address_for_a_unix_server_is_told() {
    let text = "`127.0.0.1:80` is an Internet address; a Unix socket takes a path";
    assert_fails(unix("127.0.0.1:80"), ErrorKind::InvalidInput, text);
    assert_fails(unixgram(("127.0.0.1", 80)), ErrorKind::InvalidInput, text);
}

// ----- Paths -------------------------------------------------------------------------------------

/// A path of exactly `length` bytes in a directory of its own.
fn path_of_length(length: usize) -> (PathBuf, TempPath) {
    let place = temp_path("");
    let mut path = place.path.to_str().unwrap().to_owned();
    while path.len() < length {
        path.push('x');
    }
    (path.into(), place)
}

fn a_path_that_is_too_long_is_told() {
    for length in [108, 109, 300] {
        let (path, _place) = path_of_length(length);
        let text = format!(
            "`{}` cannot be a socket address: it has {length} bytes, and a Unix socket takes 1 to 107 without a NUL \
             byte (sun_path, unix(7)); use a path that fits",
            path.display()
        );
        assert_fails(unix(&path), ErrorKind::InvalidInput, &text);
        assert_fails(unixgram(path.to_str().unwrap()), ErrorKind::InvalidInput, &text);
    }
}

fn the_longest_path_is_fine() {
    let (path, _place) = path_of_length(107);
    let bound = unix(&path).bind().unwrap();
    assert_eq!(bound.server_address(), Address::from(&path));
    drop(bound);
    assert!(!path.exists());
    let bound = unixgram(&path).bind().unwrap();
    assert_eq!(bound.server_address(), Address::from(&path));
}

fn an_abstract_name_that_is_too_long_is_told() {
    let name = "x".repeat(108);
    let text = format!(
        "`@{name}` cannot be a socket address: it has 108 bytes, and a Unix socket takes 1 to 107 without a NUL byte \
         (sun_path, unix(7)); use a path that fits"
    );
    assert_fails(unix(Address::abstract_name(&name)), ErrorKind::InvalidInput, &text);
    unix(Address::abstract_name(&name[1..])).bind().unwrap();
}

/// The kernel would take it for a request to choose a name.
fn an_empty_path_is_told() {
    for address in [Address::from(""), Address::from(Path::new(""))] {
        let text = "`` cannot be a socket address: it has 0 bytes, and a Unix socket takes 1 to 107 without a NUL byte \
                    (sun_path, unix(7)); use a path that fits";
        assert_fails(unix(address.clone()), ErrorKind::InvalidInput, text);
        assert_fails(unixgram(address), ErrorKind::InvalidInput, text);
    }
}

fn a_path_that_ends_in_a_slash_is_told() {
    let place = temp_path("socket");
    let path = format!("{}/", place.path.display());
    let text =
        format!("No such file or directory ({path}): a path that ends in `/` is a directory's; write it without");
    assert_fails(unix(path.as_str()), ErrorKind::NotFound, &text);
    assert_fails(unixgram(path.as_str()), ErrorKind::NotFound, &text);
    for mode in [None, Some(0o600)] {
        // As if the name were free, and where there is something.
        for there in [false, true] {
            if there {
                fs::write(&place.path, "").unwrap();
            }
            let text = error_of(unix(path.as_str()).socket_mode(mode)).to_string();
            let end = format!(" ({path}): a path that ends in `/` is a directory's; write it without");
            assert!(text.ends_with(&end), "{text}");
        }
        fs::remove_file(&place.path).unwrap();
    }
}

fn a_path_in_a_missing_directory_is_told() {
    let place = temp_path("missing");
    let path = place.path.join("socket");
    let text = format!(
        "No such file or directory ({}): its directory does not exist; create it first",
        path.display()
    );
    assert_fails(unix(&path), ErrorKind::NotFound, &text);
    assert_fails(unixgram(&path), ErrorKind::NotFound, &text);
    assert!(!place.path.exists());
}

fn a_path_below_a_file_is_told() {
    let place = temp_path("file");
    fs::write(&place.path, "").unwrap();
    let path = place.path.join("socket");
    let text = format!(
        "Not a directory ({}): a part of the path before its last is not a directory",
        path.display()
    );
    assert_fails(unix(&path), ErrorKind::NotADirectory, &text);
}

/// Opening a pipe waits for somebody to write to it.
fn a_path_below_a_pipe_is_told() {
    let place = temp_path("pipe");
    mkfifo(&place.path, Mode::S_IRWXU).unwrap();
    for mode in [None, Some(0o600)] {
        let server = unix(place.path.join("socket")).socket_mode(mode);
        let (send, bound) = mpsc::channel();
        let binding = thread::spawn(move || send.send(error_of(server)));
        let outcome = bound.recv_timeout(CEILING);
        // It lets go whoever waits at the pipe.
        let _pipe = File::options().read(true).write(true).open(&place.path).unwrap();
        binding.join().unwrap().unwrap();
        assert_eq!(outcome.unwrap().kind(), ErrorKind::NotADirectory);
    }
}

// ----- Permission --------------------------------------------------------------------------------

/// What the example says when a user without privileges starts it; it fails.
#[track_caller]
fn failure_of_an_ordinary_user(place: &TempPath, transport: &str, address: &str) -> String {
    let mut command = as_ordinary_user(&place.path);
    let output = command
        .args(["--transport", transport, "--address", address])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(output.stdout, b"");
    String::from_utf8(output.stderr).unwrap()
}

fn a_path_without_permission_is_told() {
    let place = echo_for_everybody();
    let directory = place.path.parent().unwrap();
    fs::set_permissions(directory, Permissions::from_mode(0o555)).unwrap();
    let path = place.path.with_extension("socket").display().to_string();
    for transport in ["unix", "unixgram"] {
        assert_eq!(
            failure_of_an_ordinary_user(&place, transport, &path),
            format!(
                "echo: Permission denied ({path}): no permission; a path needs write permission on its directory\n"
            )
        );
    }
    fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
}

fn a_path_of_another_users_stale_socket_is_told() {
    if !nix::unistd::geteuid().is_root() {
        clients::lack("no other user's socket without root".to_owned());
        return;
    }
    let place = echo_for_everybody();
    fs::set_permissions(place.path.parent().unwrap(), Permissions::from_mode(0o1777)).unwrap();
    let stale = place.path.with_extension("socket");
    drop(UnixListener::bind(&stale).unwrap());
    // Whether it is stale is for those to find out who may connect.
    fs::set_permissions(&stale, Permissions::from_mode(0o666)).unwrap();
    let path = stale.display();
    let text = failure_of_an_ordinary_user(&place, "unix", &path.to_string());
    let told = format!(
        "echo: Operation not permitted ({path}): no permission; in a directory for everybody (sticky, such as /tmp) only \
         its owner replaces what is there\n"
    );
    assert!(text.ends_with(&told), "{text}");
    assert!(stale.exists());
}

fn a_port_without_permission_is_told() {
    let first_free: u16 = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let place = echo_for_everybody();
    let Some(port) = first_free.checked_sub(1).filter(|port| *port > 0) else {
        // As in many containers.
        clients::lack("no port that is not free to everybody".to_owned());
        return;
    };
    for transport in ["tcp", "udp"] {
        assert_eq!(
            failure_of_an_ordinary_user(&place, transport, &format!("127.0.0.1:{port}")),
            format!(
                "echo: Permission denied (127.0.0.1:{port}): no permission; ports below 1024 need root or \
                 CAP_NET_BIND_SERVICE\n"
            )
        );
    }
}

// ----- Attributes --------------------------------------------------------------------------------

fn a_pool_of_zero_workers_is_refused() {
    let text = "a thread pool of 0 workers would never serve anybody: set workers to 1 or more";
    let server = ThreadPoolTcpServer::new("127.0.0.1:0", EchoLine).workers(0);
    assert_fails(server, ErrorKind::InvalidInput, text);
    let place = temp_path("socket");
    let server = ThreadPoolUnixDatagramServer::new(&place.path, EchoLine).workers(0);
    assert_fails(server, ErrorKind::InvalidInput, text);
    assert!(!place.path.exists());
}

fn a_pool_of_more_workers_than_there_can_be_is_refused() {
    let text = format!(
        "{} workers are more threads than there can be (4194304): set workers to what the machine has room for",
        usize::MAX
    );
    let server = ThreadPoolTcpServer::new("127.0.0.1:0", EchoLine).workers(usize::MAX);
    assert_fails(server, ErrorKind::InvalidInput, &text);
}

fn a_poll_interval_of_zero_is_refused() {
    let text = "a poll_interval of zero would keep a processor busy; set none to do something only when something \
                happens";
    assert_fails(
        tcp("127.0.0.1:0").poll_interval(Duration::ZERO),
        ErrorKind::InvalidInput,
        text,
    );
}

// chown(2) takes it for "leave it as it is".
fn an_owner_that_is_none_is_refused() {
    let place = temp_path("socket");
    for (uid, gid, what) in [(Some(u32::MAX), None, "user"), (None, Some(u32::MAX), "group")] {
        let text = format!("socket_owner: 4294967295 is no {what}");
        let server = unix(&place.path).socket_owner(uid, gid);
        assert_fails(server, ErrorKind::InvalidInput, &text);
        assert!(!place.path.exists());
    }
}

fn a_forking_server_of_zero_children_is_refused() {
    let text = "a forking server of 0 children would never serve anybody: set max_children to 1 or more";
    let server = ForkingTcpServer::new("127.0.0.1:0", EchoLine).max_children(0);
    assert_fails(server, ErrorKind::InvalidInput, text);
}

fn a_signal_that_cannot_be_caught_is_refused() {
    for number in [
        signal::SIGKILL,
        signal::SIGSTOP,
        signal::SIGSEGV,
        signal::SIGILL,
        signal::SIGFPE,
    ] {
        let server = tcp("127.0.0.1:0").shutdown_on_signals([signal::SIGTERM, number]);
        let text =
            format!("signal {number} cannot be caught: SIGKILL, SIGSTOP, SIGILL, SIGFPE and SIGSEGV are the kernel's");
        assert_fails(server, ErrorKind::InvalidInput, &text);
    }
    let text = "cannot listen to signal 4096: Invalid argument (os error 22)";
    let server = tcp("127.0.0.1:0").shutdown_on_signals([4096]);
    assert_fails(server, ErrorKind::InvalidInput, text);
}

fn the_signal_that_a_server_sends_itself_is_refused() {
    let text = format!(
        "signal {} (SIGURG) is what servers send their own threads to have them look around, which would look as if it \
         were meant for you: choose another",
        signal::SIGURG
    );
    let server = tcp("127.0.0.1:0").shutdown_on_signals([signal::SIGTERM, signal::SIGURG]);
    assert_fails(server, ErrorKind::InvalidInput, &text);
    let server = tcp("127.0.0.1:0").on_signal(signal::SIGURG, SignalAction::DumpStats);
    assert_fails(server, ErrorKind::InvalidInput, &text);
}

fn an_error_of_before_bind_is_told_with_the_address() {
    let refuse = |_: BorrowedFd<'_>| Err(io::Error::new(ErrorKind::Unsupported, "not that option"));
    let text = "not that option (127.0.0.1:0): the server cannot listen there";
    assert_fails(tcp("127.0.0.1:0").before_bind(refuse), ErrorKind::Unsupported, text);
    let place = temp_path("socket");
    let text = format!(
        "not that option ({}): the server cannot listen there",
        place.path.display()
    );
    assert_fails(unix(&place.path).before_bind(refuse), ErrorKind::Unsupported, &text);
    assert!(!place.path.exists());
}

/// It may do anything: what the system says then has nothing to do with the address.
fn an_error_of_before_bind_gets_no_advice_about_binding() {
    let refuse = |errno: Errno| move |_: BorrowedFd<'_>| Err(errno.into());
    let server = UdpServer::new("239.255.255.250:0", EchoLine).before_bind(refuse(Errno::EINVAL));
    let text = "Invalid argument (os error 22) (239.255.255.250:0): the server cannot listen there";
    assert_fails(server, ErrorKind::InvalidInput, text);
    let place = temp_path("socket");
    let text = format!(
        "Operation not permitted (os error 1) ({}): the server cannot listen there",
        place.path.display()
    );
    let server = unix(&place.path).before_bind(refuse(Errno::EPERM));
    assert_fails(server, ErrorKind::PermissionDenied, &text);
}

// ----- Descriptors -------------------------------------------------------------------------------

/// With each number of descriptors from too few to enough, the example either serves or says what is
/// missing.
fn a_process_without_descriptors_says_so() {
    for strategy in STRATEGIES {
        let (mut refused, mut served) = (0, 0);
        for limit in 4..24 {
            let mut child = Command::new("sh")
                .args(["-c", "ulimit -n \"$1\" && exec \"$0\" --strategy \"$2\""])
                .arg(echo_path())
                .args([&limit.to_string(), strategy])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut first = [0; 9];
            let count = child.stdout.take().unwrap().read(&mut first).unwrap();
            if count > 0 {
                served += 1;
                child.kill().unwrap();
            }
            let output = child.wait_with_output().unwrap();
            if count == 0 {
                refused += 1;
                let text = String::from_utf8(output.stderr).unwrap();
                assert_eq!(output.status.code(), Some(1), "{strategy} with {limit}: {text}");
                let told = "echo: Too many open files (127.0.0.1:0): this process has no free file descriptor; raise its \
                            limit (ulimit -n)";
                assert!(text.starts_with(told), "{strategy} with {limit}: {text}");
            }
        }
        assert!(refused > 3, "{strategy}: {refused} limits were too low");
        assert!(served > 3, "{strategy}: {served} limits were enough");
    }
}

/// Where a socket is at the path already, one more is needed to find out whose.
fn a_process_without_a_descriptor_to_ask_who_answers_says_so() {
    let place = temp_path("socket");
    let _live = UnixListener::bind(&place.path).unwrap();
    let path = place.path.display().to_string();
    let mut told = Vec::new();
    for limit in 4..24 {
        let output = Command::new("sh")
            .args([
                "-c",
                "ulimit -n \"$1\" && exec \"$0\" --transport unix --address \"$2\"",
            ])
            .arg(echo_path())
            .args([&limit.to_string(), &path])
            .output()
            .unwrap();
        told.push(String::from_utf8(output.stderr).unwrap());
    }
    let descriptors = format!("echo: Too many open files ({path}): this process has no free file descriptor");
    let in_use = format!("echo: Address already in use ({path}): another server answers there");
    let is_told = |text: &String| text.starts_with(&descriptors) || text.starts_with(&in_use);
    assert!(told.iter().all(is_told), "{told:?}");
    assert!(told.last().unwrap().starts_with(&in_use), "{told:?}");
}

fn a_thousand_failed_binds_leave_nothing_behind() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let place = temp_path("file");
    fs::write(&place.path, "").unwrap();
    let before = support::Holdings::now();
    for _ in 0..1_000 {
        let server = tcp(address).forking().shutdown_on_signals([signal::SIGUSR1]);
        assert_eq!(error_of(server).kind(), ErrorKind::AddrInUse);
        assert_eq!(error_of(unix(&place.path).threading()).kind(), ErrorKind::AddrInUse);
    }
    assert_eq!(support::Holdings::now(), before);
}
