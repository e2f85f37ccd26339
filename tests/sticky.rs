//! The `sticky` example, to the letter.

mod support;

use std::process::Command;

use support::process::example_path;
use support::program::{Program, assert_ends_with_its_reader, assert_tells_that_the_disk_is_full};

tests![
    three_messages_over_tcp_arrive_as_one,
    one_message_over_tcp_arrives_as_three,
    three_framed_messages_arrive_as_three,
    three_datagrams_stay_three_and_an_empty_one_is_one,
    another_case_is_refused_with_those_there_are,
    it_ends_with_its_reader,
    a_full_disk_is_told,
];

/// It prints the same on every run.
#[track_caller]
fn assert_prints(case: &str, expected: &str) {
    for run in 1..=20 {
        let ended = Program::run(Command::new(example_path("sticky")).arg(case), "");
        assert_eq!(ended.output, expected, "run {run}");
        assert_eq!((ended.status.code(), &*ended.errors), (Some(0), ""));
    }
}

fn three_messages_over_tcp_arrive_as_one() {
    assert_prints(
        "coalesced",
        r#"Three messages are sent over TCP. Then the receiver asks three times for up to 1024 bytes.

send     "hello"
send     "world"
send     "egon"
receive  up to 1024 bytes: "helloworldegon"
receive  up to 1024 bytes: ""
receive  up to 1024 bytes: ""

Why: TCP carries a stream of bytes and does not keep where one send ended and the next began; a receive returns
     what has arrived. An empty one is no message: the sender has closed, and nothing will ever come again.
"#,
    );
}

fn one_message_over_tcp_arrives_as_three() {
    assert_prints(
        "remainder",
        r#"One message is sent over TCP. Then the receiver asks for 1 byte, for up to 5, and for 1.

send     "helloworldegon"
receive  up to 1 byte: "h"
receive  up to 5 bytes: "ellow"
receive  up to 1 byte: "o"

Why: what a receive has no room for stays in the stream, and the next one goes on there, though it was meant for
     the next message. "rldegon" was never asked for; it would be the beginning of whatever is received next.
"#,
    );
}

fn three_framed_messages_arrive_as_three() {
    assert_prints(
        "framed",
        r#"Three messages are sent over TCP, each behind its length in 4 bytes. Then the receiver asks for messages.

send     "hello"
send     "world"
send     "egon"
arrived  "\x00\x00\x00\x05hello\x00\x00\x00\x05world\x00\x00\x00\x04egon"
message  "hello"
message  "world"
message  "egon"
no more: the sender has closed

Why: the bytes arrive in one piece as before, but now each message says where it ends: the receiver takes 4 bytes,
     then as many as they say, however the network cuts or joins them. An empty message would be one, too.
"#,
    );
}

fn three_datagrams_stay_three_and_an_empty_one_is_one() {
    assert_prints(
        "udp",
        r#"Three messages are sent over UDP, and an empty one. Then the receiver asks for up to 1024 bytes each time.

send     "hello"
send     "world"
send     "egon"
send     ""
receive  up to 1024 bytes: "hello"
receive  up to 1024 bytes: "world"
receive  up to 1024 bytes: "egon"
receive  up to 1024 bytes: ""

Why: each send is a datagram, which arrives whole or not at all and is never joined to another; an empty one is a
     message, too. The price: one may be lost, come twice or overtake another, and none is longer than 65,507 bytes.
"#,
    );
}

fn another_case_is_refused_with_those_there_are() {
    let ended = Program::run(Command::new(example_path("sticky")).arg("tcp"), "");
    assert_eq!((ended.status.code(), &*ended.output), (Some(2), ""));
    let told = "[possible values: coalesced, remainder, framed, udp]";
    assert!(ended.errors.contains(told), "{ended:?}");
}

fn it_ends_with_its_reader() {
    for case in ["coalesced", "remainder", "framed", "udp"] {
        assert_ends_with_its_reader(Command::new(example_path("sticky")).arg(case));
    }
}

fn a_full_disk_is_told() {
    for case in ["coalesced", "remainder", "framed", "udp"] {
        assert_tells_that_the_disk_is_full("sticky", &[case]);
    }
}
