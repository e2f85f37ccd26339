//! The chat room: what members hear, and that none holds up the others.

mod support;

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;

use nix::sys::signal::Signal;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn, setsockopt, sockopt};
use socketserver::framing::{Framed, LengthDelimitedCodec};
use support::process::{Process, assert_ends_well_unread, example_path};
use support::program::{Program, assert_ends_with_its_reader};
use support::{CEILING, connect_to, read_to_end, wait_until};

tests![
    what_one_says_all_others_hear,
    a_member_hears_who_is_here_who_joins_and_who_leaves,
    many_members_hear_all_that_the_others_say_in_order,
    an_empty_line_says_nothing_and_a_long_one_is_told,
    what_would_control_the_terminal_is_shown_as_text,
    what_is_no_text_is_heard_as_replaced,
    what_is_typed_need_not_be_text,
    the_last_words_of_a_member_are_heard,
    a_name_that_is_taken_is_refused,
    a_name_is_free_again_when_its_member_has_left,
    a_name_that_could_be_mistaken_is_refused,
    the_room_refuses_such_a_name_too,
    a_member_that_does_not_read_is_dropped_and_holds_up_nobody,
    a_member_that_takes_nothing_for_too_long_is_dropped,
    a_member_whose_process_is_stopped_is_dropped,
    a_member_that_is_killed_has_left,
    what_is_no_message_ends_its_sender_only,
    a_client_that_says_no_name_holds_up_nobody,
    a_signal_ends_the_room_and_its_members_are_told,
    a_room_whose_output_nobody_reads_any_more_ends_well,
    a_member_ends_with_its_reader,
    join_tells_that_there_is_no_room,
    join_does_not_wait_for_ever_for_what_is_no_room,
    a_patience_below_zero_is_told,
];

fn room() -> Process {
    room_with(&[])
}

fn room_with(options: &[&str]) -> Process {
    let mut command = Command::new(example_path("chat"));
    Process::start(command.args(["room", "--address", "127.0.0.1:0"]).args(options))
}

fn join(room: &Process, name: &str) -> Command {
    let mut command = Command::new(example_path("chat"));
    command.args(["join", "--address", room.address(), "--name", name]);
    command
}

/// A member in a process of its own; it has heard `first`.
#[track_caller]
fn member(room: &Process, name: &str, first: &str) -> Program {
    let mut member = Program::start(&mut join(room, name));
    member.wait_for_output(&format!("* {first}\n"));
    member
}

/// A member in this process.
struct Member(Framed<TcpStream, LengthDelimitedCodec>);

impl Member {
    #[track_caller]
    fn join(room: &Process, name: &str) -> Self {
        Self::over(connect_to(room.address()), name)
    }

    #[track_caller]
    fn over(stream: TcpStream, name: &str) -> Self {
        let mut member = Member(Framed::new(stream, LengthDelimitedCodec::u32_be()));
        member.say(name);
        assert_eq!(member.hear(), "welcome");
        member.hear();
        member
    }

    #[track_caller]
    fn say(&mut self, text: &str) {
        self.0.send(text).unwrap();
    }

    #[track_caller]
    fn hear(&mut self) -> String {
        String::from_utf8(self.0.next().expect("the room goes on").unwrap()).unwrap()
    }
}

// ----- What is heard -----------------------------------------------------------------------------

fn what_one_says_all_others_hear() {
    let room = room();
    let mut ann = member(&room, "ann", "nobody else is here");
    let mut bob = member(&room, "bob", "here: ann");
    let mut eve = member(&room, "eve", "here: ann, bob");
    ann.say("hello\n");
    bob.wait_for_output("* here: ann\n* eve has joined\nann: hello\n");
    eve.wait_for_output("* here: ann, bob\nann: hello\n");
    eve.say("  你好\n");
    ann.wait_for_output("* nobody else is here\n* bob has joined\n* eve has joined\neve: 你好\n");
    bob.wait_for_output("* here: ann\n* eve has joined\nann: hello\neve: 你好\n");
    assert_eq!(
        eve.output(),
        "* here: ann, bob\nann: hello\n",
        "nobody hears what they say themselves"
    );
}

fn a_member_hears_who_is_here_who_joins_and_who_leaves() {
    let room = room();
    let mut ann = member(&room, "ann", "nobody else is here");
    let bob = member(&room, "bob", "here: ann");
    let ended = bob.end();
    assert_eq!((ended.status.code(), &*ended.errors), (Some(0), ""), "{ended:?}");
    ann.wait_for_output("* nobody else is here\n* bob has joined\n* bob has left\n");
    let ended = ann.end();
    assert_eq!((ended.status.code(), &*ended.errors), (Some(0), ""), "{ended:?}");

    let members: Vec<_> = (0..22)
        .map(|number| Member::join(&room, &format!("member {number}")))
        .collect();
    let names: Vec<_> = (0..20).map(|number| format!("member {number}")).collect();
    member(&room, "eve", &format!("here: {} and 2 more", names.join(", ")));
    drop(members);
}

fn many_members_hear_all_that_the_others_say_in_order() {
    const MEMBERS: usize = 20;
    const MESSAGES: usize = 50;
    let room = room();
    let members: Vec<_> = (0..MEMBERS)
        .map(|number| Member::join(&room, &number.to_string()))
        .collect();
    thread::scope(|scope| {
        for (mine, mut member) in members.into_iter().enumerate() {
            scope.spawn(move || {
                for message in 0..MESSAGES {
                    member.say(&message.to_string());
                }
                let mut next = [0; MEMBERS];
                while (0..MEMBERS).any(|speaker| speaker != mine && next[speaker] < MESSAGES) {
                    let heard = member.hear();
                    // The others are notices of who has joined, or has left because it has heard all.
                    if let Some((speaker, message)) = heard.split_once(": ") {
                        let speaker: usize = speaker.parse().unwrap();
                        assert_eq!(message, next[speaker].to_string());
                        next[speaker] += 1;
                    }
                }
                assert_eq!(next[mine], 0);
            });
        }
    });
}

fn an_empty_line_says_nothing_and_a_long_one_is_told() {
    let room = room();
    let mut ann = Member::join(&room, "ann");
    let mut bob = member(&room, "bob", "here: ann");
    bob.say(&format!("\n  \n{}\nshort\n{}\n", "x".repeat(4097), "y".repeat(4096)));
    assert_eq!(ann.hear(), "* bob has joined");
    assert_eq!(ann.hear(), "bob: short");
    assert_eq!(ann.hear(), format!("bob: {}", "y".repeat(4096)));
    bob.wait_for_errors_with("chat: not sent: it has 4097 bytes, and a message at most 4096\n");
}

fn what_would_control_the_terminal_is_shown_as_text() {
    let room = room();
    let mut ann = member(&room, "ann", "nobody else is here");
    let mut bob = Member::join(&room, "b\x1Bb\n");
    bob.say("\x1B[2Jgone\n* eve has left\u{202E}");
    ann.wait_for_output(
        "* nobody else is here\n* b\\u{1b}b has joined\nb\\u{1b}b: \\u{1b}[2Jgone\\n* eve has left\\u{202e}\n",
    );
}

fn what_is_no_text_is_heard_as_replaced() {
    let room = room();
    let mut ann = Member::join(&room, "ann");
    let mut bob = Member::join(&room, "bob");
    assert_eq!(ann.hear(), "* bob has joined");
    // As long as a message can be, and it becomes three times as long.
    bob.0.send([0xFF; 4096]).unwrap();
    assert_eq!(ann.hear(), format!("bob: {}", "\u{FFFD}".repeat(4096)));
}

fn the_last_words_of_a_member_are_heard() {
    let room = room();
    let mut ann = Member::join(&room, "ann");
    let ended = Program::run(&mut join(&room, "bob"), "one\ntwo\nthree");
    assert!(ended.status.success(), "{ended:?}");
    let heard: Vec<_> = (0..5).map(|_| ann.hear()).collect();
    assert_eq!(
        heard,
        [
            "* bob has joined",
            "bob: one",
            "bob: two",
            "bob: three",
            "* bob has left"
        ]
    );
}

fn what_is_typed_need_not_be_text() {
    let room = room();
    let mut ann = Member::join(&room, "ann");
    let mut bob = join(&room, "bob").stdin(Stdio::piped()).spawn().unwrap();
    bob.stdin.take().unwrap().write_all(b"caf\xE9\n").unwrap();
    assert_eq!(ann.hear(), "* bob has joined");
    assert_eq!(ann.hear(), "bob: caf\u{FFFD}");
    assert!(bob.wait().unwrap().success());
}

// ----- Names -------------------------------------------------------------------------------------

#[track_caller]
fn assert_refused(room: &Process, name: &str, why: &str) {
    let ended = Program::run(&mut join(room, name), "hello\n");
    assert_eq!((ended.status.code(), &*ended.output), (Some(1), ""), "{ended:?}");
    assert_eq!(ended.errors, format!("chat: {why}\n"));
}

fn a_name_that_is_taken_is_refused() {
    let room = room();
    let mut ann = Member::join(&room, "ann");
    for name in ["ann", " ann "] {
        assert_refused(&room, name, "the name `ann` is taken");
    }
    // The others hear nothing of it.
    let _bob = Member::join(&room, "bob");
    assert_eq!(ann.hear(), "* bob has joined");
}

fn a_name_is_free_again_when_its_member_has_left() {
    let room = room();
    let mut ann = Member::join(&room, "ann");
    for _ in 0..3 {
        drop(Member::join(&room, "bob"));
        assert_eq!(ann.hear(), "* bob has joined");
        assert_eq!(ann.hear(), "* bob has left");
    }
}

fn a_name_that_could_be_mistaken_is_refused() {
    let room = room();
    for name in ["", " ", "*", "ann: hello", &"x".repeat(33)] {
        let ended = Program::run(&mut join(&room, name), "hello\n");
        assert_eq!((ended.status.code(), &*ended.output), (Some(2), ""), "{ended:?}");
        assert!(
            ended.errors.contains(&format!("'--name <NAME>': {NO_NAME}\n")),
            "{ended:?}"
        );
    }
    member(&room, &"好".repeat(32), "nobody else is here");
}

const NO_NAME: &str = "a name has 1 to 32 characters other than `*` and `:`";

fn the_room_refuses_such_a_name_too() {
    let room = room();
    for name in ["", " ", "*", "ann: hello", &"x".repeat(33)] {
        let mut client = Member(Framed::new(connect_to(room.address()), LengthDelimitedCodec::u32_be()));
        client.say(name);
        assert_eq!(client.hear(), NO_NAME);
        assert!(client.0.next().is_none());
    }
}

// ----- Members that do not behave ----------------------------------------------------------------

/// A stream with small buffers on this side.
fn connect_with_small_buffers(room: &Process) -> TcpStream {
    let fd = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&fd, sockopt::RcvBuf, &4096).unwrap();
    let address: std::net::SocketAddrV4 = room.address().parse().unwrap();
    socket::connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrIn::from(address)).unwrap();
    let stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(CEILING)).unwrap();
    stream
}

const DROPPED: &str = "* slow is dropped: it does not read";

/// Says so much that `slow`, which is in the room, is dropped; all is heard by another.
#[track_caller]
fn assert_slow_is_dropped(room: &Process) {
    let (mut speaker, mut listener) = (Member::join(room, "speaker"), Member::join(room, "listener"));
    assert_eq!(speaker.hear(), "* listener has joined");
    let (mut said, mut heard, mut dropped) = (0, 0, false);
    while !dropped {
        assert!(said < 20_000, "80 MB are more than any queue has room for");
        // So few that the listener's queue has room for them: only the slow one can be dropped.
        for _ in 0..100 {
            said += 1;
            speaker.say(&format!("{said} {}", "x".repeat(4000)));
        }
        while heard < said {
            let text = listener.hear();
            if text == DROPPED {
                assert!(!dropped, "it is told once");
                dropped = true;
                continue;
            }
            heard += 1;
            assert!(text.starts_with(&format!("speaker: {heard} x")), "{}", &text[..30]);
        }
    }
    assert_eq!(speaker.hear(), DROPPED);
    // The place and the name are free again.
    let mut late = Member::join(room, "slow");
    speaker.say("at last");
    assert_eq!(late.hear(), "speaker: at last");
}

fn a_member_that_does_not_read_is_dropped_and_holds_up_nobody() {
    // The limit of the queue is reached before that of time.
    let room = room_with(&["--patience", "1000"]);
    let slow = Member::over(connect_with_small_buffers(&room), "slow");
    assert_slow_is_dropped(&room);
    // What had been sent by then arrives, and the end.
    let mut stream = slow.0.into_parts().io;
    if let Err(error) = std::io::copy(&mut stream, &mut std::io::sink()) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

fn a_member_that_takes_nothing_for_too_long_is_dropped() {
    let room = room_with(&["--patience", "0.2"]);
    let _slow = Member::over(connect_with_small_buffers(&room), "slow");
    let mut speaker = Member::join(&room, "speaker");
    // More than the buffers of two sockets take, and less than the queue.
    for _ in 0..1000 {
        speaker.say(&"x".repeat(4096));
    }
    assert_eq!(speaker.hear(), DROPPED);
}

fn a_member_whose_process_is_stopped_is_dropped() {
    let room = room_with(&["--patience", "1000"]);
    let mut slow = member(&room, "slow", "nobody else is here");
    slow.signal(Signal::SIGSTOP);
    assert_slow_is_dropped(&room);
    slow.signal(Signal::SIGCONT);
    wait_until("it ends while its input is open", || !slow.is_running());
    let ended = slow.end();
    // What had been sent by then may end anywhere.
    assert_eq!(ended.status.code(), Some(1), "{}", ended.errors);
    assert!(ended.errors.starts_with("chat: the "), "{}", ended.errors);
}

fn a_member_that_is_killed_has_left() {
    let room = room();
    let mut ann = Member::join(&room, "ann");
    let bob = member(&room, "bob", "here: ann");
    bob.signal(Signal::SIGKILL);
    assert_eq!(ann.hear(), "* bob has joined");
    assert_eq!(ann.hear(), "* bob has left");
}

fn what_is_no_message_ends_its_sender_only() {
    let room = room();
    let mut ann = Member::join(&room, "ann");
    let mut browser = connect_to(room.address());
    browser.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let _ = std::io::Read::read_to_end(&mut browser, &mut Vec::new());

    let mut bob = Member::join(&room, "bob");
    bob.0.get_mut().write_all(&4097_u32.to_be_bytes()).unwrap();
    assert_eq!(ann.hear(), "* bob has joined");
    assert_eq!(ann.hear(), "* bob has left");

    let eve = Member::join(&room, "eve");
    let mut stream = eve.0.into_parts().io;
    stream.write_all(b"\0\0\0\x64half").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ann.hear(), "* eve has joined");
    assert_eq!(ann.hear(), "* eve has left");
    assert_eq!(read_to_end(stream), b"");

    let mut dora = Member::join(&room, "dora");
    dora.say("still here?");
    assert_eq!(ann.hear(), "* dora has joined");
    assert_eq!(ann.hear(), "dora: still here?");
}

fn a_client_that_says_no_name_holds_up_nobody() {
    let room = room();
    let silent = connect_to(room.address());
    let (mut ann, mut bob) = (Member::join(&room, "ann"), Member::join(&room, "bob"));
    bob.say("hello");
    assert_eq!(ann.hear(), "* bob has joined");
    assert_eq!(ann.hear(), "bob: hello");
    silent.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(silent), b"");
}

fn a_signal_ends_the_room_and_its_members_are_told() {
    let room = room();
    let mut ann = member(&room, "ann", "nobody else is here");
    room.signal(Signal::SIGTERM);
    let ended = room.end();
    assert_eq!((ended.status.code(), &*ended.errors), (Some(0), ""), "{ended:?}");
    assert!(ended.output.starts_with("stopped: served=1 failed=0 "), "{ended:?}");
    ann.wait_for_errors_with("chat: the room closed the connection");
    wait_until("it ends while its input is open", || !ann.is_running());
    assert_eq!(ann.end().status.code(), Some(1));
}

fn a_room_whose_output_nobody_reads_any_more_ends_well() {
    let mut room = Command::new(example_path("chat"));
    assert_ends_well_unread(room.args(["room", "--address", "127.0.0.1:0"]));
}

fn a_member_ends_with_its_reader() {
    let room = room();
    assert_ends_with_its_reader(&mut join(&room, "ann"));
}

fn join_does_not_wait_for_ever_for_what_is_no_room() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut command = Command::new(example_path("chat"));
    let ended = Program::run(command.args(["join", "--address", &address, "--name", "ann"]), "");
    assert_eq!(ended.status.code(), Some(1));
    let told = format!("chat: no answer within 5 s: {address} is no `chat room`\n");
    assert_eq!(ended.errors, told);
}

fn join_tells_that_there_is_no_room() {
    let room = room();
    let mut join = join(&room, "ann");
    room.signal(Signal::SIGTERM);
    room.end();
    let ended = Program::run(&mut join, "");
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.errors.contains("Connection refused"), "{ended:?}");
}

fn a_patience_below_zero_is_told() {
    let ended = Program::run(
        Command::new(example_path("chat")).args(["room", "--patience", "-1"]),
        "",
    );
    let told = "invalid value '-1' for '--patience <SECS>': not a number of seconds above 0";
    assert!(ended.errors.contains(told), "{ended:?}");
}
