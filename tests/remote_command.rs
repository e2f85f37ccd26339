//! The command line of the remote command, with the struct protocol.

mod support;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::sys::socket::{Backlog, listen};
use support::clients::ipv6_available;
use support::connect_to;
use support::process::{STRATEGIES, assert_ends_well_unread, example_path};
use support::program::{Program, assert_ends_with_its_reader, unread};
use support::remote_command::{ask, assert_failed, call, client, output_of, read_answer, serve, server};

tests![
    call_prints_the_output_and_nothing_else,
    call_joins_the_words_of_a_command,
    call_ends_well_whatever_the_command_did,
    the_prompt_is_there_before_anything_is_typed,
    the_prompt_skips_empty_lines_and_ends_on_quit,
    the_prompt_ends_with_the_input,
    the_prompt_goes_on_after_a_command_that_is_too_long,
    the_prompt_goes_on_after_a_command_that_is_no_text,
    call_refuses_an_empty_command,
    call_without_a_server_says_where_it_could_not_connect,
    call_does_not_wait_for_ever_for_a_host_that_is_silent,
    every_strategy_serves,
    one_receive_is_one_command_of_at_most_1024_bytes,
    two_commands_in_one_receive_are_run_as_one,
    a_command_that_is_not_text_is_run_as_it_is,
    a_command_that_cannot_be_started_says_why,
    a_command_has_nothing_on_its_standard_input,
    a_command_is_logged_in_one_line_and_at_most_its_beginning,
    loopback_addresses_are_served,
    the_loopback_address_of_ipv6_is_served,
    an_address_that_is_not_loopback_is_refused,
    an_address_that_is_not_loopback_is_served_if_that_is_allowed,
    what_gbk_does_not_have_becomes_a_question_mark,
    a_server_whose_output_nobody_reads_any_more_ends_well,
    a_server_that_cannot_tell_its_address_ends,
    a_client_ends_with_its_reader,
    arguments_that_make_no_sense_are_refused,
    two_clients_are_served_at_once,
];

// ----- The client --------------------------------------------------------------------------------

fn call_prints_the_output_and_nothing_else() {
    let server = serve("struct", &[]);
    let ended = call("struct", server.address(), "printf 'no newline'");
    assert_eq!((&*ended.output, &*ended.errors), ("no newline", ""));
}

fn call_joins_the_words_of_a_command() {
    let server = serve("struct", &[]);
    let ended = Program::run(
        client("struct", server.address()).args(["echo", "-n", "--", "two words"]),
        "",
    );
    assert_eq!(ended.output, "-- two words");
}

fn call_ends_well_whatever_the_command_did() {
    let server = serve("struct", &[]);
    assert_eq!(output_of("struct", server.address(), "echo before; exit 3"), "before\n");
}

fn the_prompt_is_there_before_anything_is_typed() {
    let server = serve("struct", &[]);
    let mut client = Program::start(&mut client("struct", server.address()));
    client.wait_for_output(">>: ");
    client.say("echo one\n");
    client.wait_for_output(">>: one\n>>: ");
    client.say("printf two\n");
    client.wait_for_output(">>: one\n>>: two\n>>: ");
    client.say("quit\n");
    assert!(client.end().status.success());
}

fn the_prompt_skips_empty_lines_and_ends_on_quit() {
    let server = serve("struct", &[]);
    let ended = Program::run(
        &mut client("struct", server.address()),
        "\n  \t \n echo one \nquit\necho two\n",
    );
    assert_eq!(ended.output, ">>: >>: >>: one\n>>: ");
    assert!(ended.status.success(), "{ended:?}");
}

fn the_prompt_ends_with_the_input() {
    let server = serve("struct", &[]);
    let ended = Program::run(&mut client("struct", server.address()), "echo the last line");
    assert_eq!(ended.output, ">>: the last line\n>>: ");
    assert!(ended.status.success(), "{ended:?}");
}

fn the_prompt_goes_on_after_a_command_that_is_too_long() {
    let server = serve("struct", &[]);
    let typed = format!("echo {}\necho short\n", "x".repeat(1020));
    let ended = Program::run(&mut client("struct", server.address()), &typed);
    assert_eq!(ended.output, ">>: >>: short\n>>: ");
    let told = "the command has 1025 bytes; over this protocol more than 1024 would run as two commands";
    assert!(ended.errors.contains(told), "{ended:?}");
}

fn the_prompt_goes_on_after_a_command_that_is_no_text() {
    let server = serve("struct", &[]);
    let mut command = client("struct", server.address());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut client = command.spawn().unwrap();
    client.stdin.take().unwrap().write_all(b"echo \xFF\necho on\n").unwrap();
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.stdout, b">>: >>: on\n>>: ", "{output:?}");
    let told = "remote_command: not sent: a command has to be UTF-8\n";
    assert_eq!(output.stderr, told.as_bytes(), "{output:?}");
}

fn call_refuses_an_empty_command() {
    let server = serve("struct", &[]);
    let ended = call("struct", server.address(), " ");
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.errors.contains("an empty command sends nothing"), "{ended:?}");
}

fn call_without_a_server_says_where_it_could_not_connect() {
    // A port that was free a moment ago.
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let ended = call("struct", &address, "true");
    assert_eq!(ended.status.code(), Some(1));
    let told = format!("remote_command: cannot connect to {address}: Connection refused");
    assert!(ended.errors.starts_with(&told), "{ended:?}");
}

fn call_does_not_wait_for_ever_for_a_host_that_is_silent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Its queue is full with one: what others send to connect is dropped.
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let _first = TcpStream::connect(address).unwrap();
    let ended = Program::run(
        client("struct", &address.to_string()).args(["--wait", "0.1", "true"]),
        "",
    );
    assert_failed(&ended, &format!("cannot connect to {address}: connection timed out"));
}

// ----- Commands ----------------------------------------------------------------------------------

fn every_strategy_serves() {
    for strategy in STRATEGIES {
        let server = serve("struct", &["--strategy", strategy]);
        let mut client = connect_to(server.address());
        assert_eq!(ask(&mut client, b"echo one"), "one\n", "{strategy}");
        assert_eq!(ask(&mut client, b"echo two"), "two\n", "{strategy}");
        drop(client);
        server.signal(Signal::SIGTERM);
        let ended = server.end();
        assert!(
            ended.output.starts_with("stopped: served=1 failed=0 "),
            "{strategy}: {ended:?}"
        );
    }
}

fn one_receive_is_one_command_of_at_most_1024_bytes() {
    let server = serve("struct", &[]);
    let mut client = connect_to(server.address());
    let longest = format!("echo {}", "x".repeat(1019));
    assert_eq!(ask(&mut client, longest.as_bytes()), format!("{}\n", "x".repeat(1019)));
    // What is more is a command of its own: the flaw that the protocol's module tells of.
    let longer = longest + "echo more";
    assert_eq!(ask(&mut client, longer.as_bytes()), format!("{}\n", "x".repeat(1019)));
    assert_eq!(read_answer(&mut client), "more\n");
}

fn two_commands_in_one_receive_are_run_as_one() {
    let server = serve("struct", &[]);
    let mut client = connect_to(server.address());
    assert_eq!(ask(&mut client, b"echo one; echo two"), "one\ntwo\n");
    assert_eq!(ask(&mut client, b"echo three"), "three\n");
}

fn a_command_that_is_not_text_is_run_as_it_is() {
    let server = serve("struct", &[]);
    let mut client = connect_to(server.address());
    assert_eq!(ask(&mut client, b"printf '\xFF\xFE' | wc -c"), "2\n");
}

fn a_command_that_cannot_be_started_says_why() {
    let server = serve("struct", &[]);
    let mut client = connect_to(server.address());
    let answer = ask(&mut client, b"echo \0");
    assert!(answer.starts_with("[remote_command: not run: "), "{answer}");
    assert_eq!(ask(&mut client, b"echo on"), "on\n");
}

fn a_command_has_nothing_on_its_standard_input() {
    let server = serve("struct", &[]);
    assert_eq!(ask(&mut connect_to(server.address()), b"cat; echo end"), "end\n");
}

fn a_command_is_logged_in_one_line_and_at_most_its_beginning() {
    let server = serve("struct", &[]);
    let command = format!("echo {}\n# {}", "x".repeat(100), "y".repeat(500));
    ask(&mut connect_to(server.address()), command.as_bytes());
    server.signal(Signal::SIGTERM);
    let errors = server.end().errors;
    assert!(errors.contains(": echo xxx"), "{errors}");
    assert!(errors.contains(r"xxx\n# yyy"), "{errors}");
    assert!(errors.contains("yyy …\n"), "{errors}");
    assert!(errors.len() < 500, "{errors}");
}

fn what_gbk_does_not_have_becomes_a_question_mark() {
    let server = serve("struct", &["--encoding", "gbk"]);
    let mut client = client("struct", server.address());
    let ended = Program::run(
        client.args(["--encoding", "gbk", r"printf '好\360\237\230\200\377 é\n'"]),
        "",
    );
    assert_eq!(ended.output, "好?? é\n");
}

fn a_server_whose_output_nobody_reads_any_more_ends_well() {
    assert_ends_well_unread(&mut server("framed", "127.0.0.1:0"));
}

fn a_server_that_cannot_tell_its_address_ends() {
    for protocol in ["framed", "udp"] {
        let output = unread(&mut server(protocol, "127.0.0.1:0")).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(
            output.stderr, b"remote_command: Broken pipe (os error 32)\n",
            "{output:?}"
        );
    }
}

fn a_client_ends_with_its_reader() {
    let server = serve("struct", &[]);
    assert_ends_with_its_reader(client("struct", server.address()).args(["echo", "hello"]));
    // The prompt.
    assert_ends_with_its_reader(&mut client("struct", server.address()));
}

/// One waits for what only the other brings.
fn two_clients_are_served_at_once() {
    for strategy in ["threading", "forking", "pool"] {
        let place = support::temp_path("fifo");
        let fifo = place.quoted();
        let server = serve("struct", &["--strategy", strategy]);
        let (mut first, mut second) = (connect_to(server.address()), connect_to(server.address()));
        assert_eq!(ask(&mut second, format!("mkfifo {fifo}").as_bytes()), "");
        first.write_all(format!("cat {fifo}").as_bytes()).unwrap();
        assert_eq!(ask(&mut second, format!("echo across > {fifo}").as_bytes()), "");
        assert_eq!(read_answer(&mut first), "across\n", "{strategy}");
    }
}

// ----- The server's address ----------------------------------------------------------------------

#[track_caller]
fn assert_is_served(address: &str) {
    let mut server = Program::start(&mut server("struct", address));
    let bound = server.address();
    assert_eq!(ask(&mut connect_to(&bound), b"echo here"), "here\n", "{address}");
}

fn loopback_addresses_are_served() {
    for address in ["127.0.0.1:0", "127.0.0.2:0", "localhost:0"] {
        assert_is_served(address);
    }
}

fn the_loopback_address_of_ipv6_is_served() {
    if ipv6_available() {
        assert_is_served("[::1]:0");
    }
}

fn an_address_that_is_not_loopback_is_refused() {
    for (address, meant) in [
        ("0.0.0.0:0", "0.0.0.0"),
        (":0", "0.0.0.0"),
        ("0:0", "0.0.0.0"),
        ("[::]:0", "::"),
        ("[::%0]:0", "::"),
        ("[::ffff:0.0.0.0]:0", "0.0.0.0"),
    ] {
        let ended = Program::run(&mut server("struct", address), "");
        assert_eq!(
            (ended.status.code(), &*ended.output),
            (Some(1), ""),
            "{address}: {ended:?}"
        );
        let told = format!("remote_command: {meant} is not a loopback address: anybody who reaches it");
        assert!(ended.errors.starts_with(&told), "{address}: {ended:?}");
        assert!(ended.errors.contains("--allow-remote"), "{address}: {ended:?}");
    }
}

fn an_address_that_is_not_loopback_is_served_if_that_is_allowed() {
    let mut server = Program::start(server("struct", "0.0.0.0:0").arg("--allow-remote"));
    let bound = server.address();
    let port = bound.strip_prefix("0.0.0.0:").unwrap();
    assert_eq!(
        ask(&mut connect_to(format!("127.0.0.1:{port}")), b"echo here"),
        "here\n"
    );
}

fn arguments_that_make_no_sense_are_refused() {
    for (arguments, told) in [
        (&["--timeout", "0"][..], "not a number of seconds above 0"),
        (&["--timeout", "soon"], "not a number of seconds"),
        (&["--timeout", "-1"], "not a number of seconds above 0"),
        (&["--timeout", "1e19"], "such as 60 or 0.5, and up to a year"),
        (&["--idle-timeout", "0"], "not a number of seconds above 0"),
        (&["--max-output", "-1"], "not a number of bytes from 1 to 1073741824"),
        (&["--max-output", "0"], "not a number of bytes from 1 to 1073741824"),
        (
            &["--max-output", "9999999999"],
            "not a number of bytes from 1 to 1073741824",
        ),
        (&["--encoding", "latin-1"], "[possible values: utf-8, gbk]"),
        (
            &["--strategy", "async"],
            "[possible values: sync, threading, forking, pool, prefork]",
        ),
        (&["--protocol", "http"], "[possible values: ready, struct, udp, framed]"),
        (&["--address", "127.0.0.1"], "write HOST:PORT"),
    ] {
        let mut command = Command::new(example_path("remote_command"));
        command.arg("serve").args(arguments);
        for (option, value) in [("--protocol", "struct"), ("--address", "127.0.0.1:0")] {
            if !arguments.contains(&option) {
                command.args([option, value]);
            }
        }
        let ended = Program::run(&mut command, "");
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {ended:?}");
        assert!(ended.errors.contains(told), "{arguments:?}: {ended:?}");
    }
}
