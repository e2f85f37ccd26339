//! What a client may send that is no message: it gets its connection closed, the server a clear error, and
//! nobody else notices.

mod support;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use socketserver::framing::{Decoder, DelimiterCodec, Encoder, FixedLengthCodec, NetstringCodec, WholeStreamCodec};
use socketserver::prelude::*;
use support::connect;
use support::journal::{Journaled, journal};

tests![
    a_length_of_all_ones,
    a_length_of_minus_one,
    a_message_over_the_limit_by_one,
    a_truncated_header,
    a_truncated_body,
    no_delimiter_within_the_limit,
    a_netstring_with_invalid_digits,
    a_netstring_with_leading_zeros,
    a_netstring_without_its_comma,
    a_varint_that_does_not_end,
    a_peer_that_speaks_another_protocol,
    one_byte_at_a_time_under_a_deadline,
    silence_in_the_middle_of_a_message,
    an_answer_that_cannot_be_sent,
];

/// Sends every message back.
#[derive(Clone)]
struct Echo<C> {
    codec: C,
    message_timeout: Option<Duration>,
}

impl<S: Stream, C: Decoder + Encoder + Clone + Send + Sync + 'static> BaseRequestHandler<StreamRequest<S>> for Echo<C> {
    fn handle(&mut self, request: &mut StreamRequest<S>) -> HandlerResult {
        let mut framed = request.framed(self.codec.clone());
        framed.set_message_timeout(self.message_timeout);
        while let Some(message) = framed.next() {
            framed.send(message?)?;
        }
        Ok(())
    }
}

/// What a client does that is served by a good server, and what becomes of it.
struct Case<C> {
    echo: Echo<C>,
    /// A message that is echoed.
    good: &'static [u8],
}

impl<C: Decoder + Encoder + Clone + Send + Sync + 'static> Case<C> {
    fn new(codec: C, good: &'static [u8]) -> Self {
        Case {
            echo: Echo {
                codec,
                message_timeout: None,
            },
            good,
        }
    }

    /// Two clients are served; one then does `bad`. Its connection is closed and the reason reported, in
    /// these words; the other and a third are served on.
    #[track_caller]
    fn refuses(&self, bad: impl FnOnce(&mut TcpStream), words: &[&str]) {
        let (journal, pen) = journal();
        let server = ThreadingTcpServer::new("127.0.0.1:0", self.echo.clone());
        let running = Journaled::over(server, &pen).spawn().unwrap();
        let mut other = connect(running.server_address());
        let mut client = connect(running.server_address());
        self.is_served(&mut other);
        self.is_served(&mut client);

        bad(&mut client);
        // Bytes that the server has not read make the end a reset.
        let end = client.read(&mut [0; 1]);
        assert!(
            matches!(&end, Ok(0))
                || end
                    .as_ref()
                    .is_err_and(|error| error.kind() == ErrorKind::ConnectionReset),
            "{end:?}"
        );
        let reports = journal.of("handle_error");
        assert_eq!(reports.len(), 1, "{reports:?}");
        for word in words {
            assert!(
                reports[0].event.contains(word),
                "{} does not say {word}",
                reports[0].event
            );
        }

        self.is_served(&mut other);
        self.is_served(&mut connect(running.server_address()));
        drop(other);
        let report = running.stop().unwrap();
        assert_eq!((report.served, report.failed, report.leaked), (2, 1, 0));
    }

    /// As [`refuses`](Self::refuses), of a client that sends bytes and says nothing more.
    #[track_caller]
    fn refuses_bytes(&self, bytes: &[u8], words: &[&str]) {
        self.refuses(|client| client.write_all(bytes).unwrap(), words);
    }

    /// As [`refuses`](Self::refuses), of a client that sends bytes and then ends its direction.
    #[track_caller]
    fn refuses_end(&self, bytes: &[u8], words: &[&str]) {
        self.refuses(
            |client| {
                client.write_all(bytes).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
            },
            words,
        );
    }

    #[track_caller]
    fn is_served(&self, client: &mut TcpStream) {
        client.write_all(self.good).unwrap();
        let mut answer = vec![0; self.good.len()];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, self.good);
    }
}

fn u32_be() -> Case<LengthDelimitedCodec> {
    Case::new(LengthDelimitedCodec::u32_be(), b"\0\0\0\x05hello")
}

fn u32_le() -> Case<LengthDelimitedCodec> {
    Case::new(LengthDelimitedCodec::u32_le(), b"\x05\0\0\0hello")
}

fn struct_i() -> Case<LengthDelimitedCodec> {
    Case::new(
        LengthDelimitedCodec::struct_i(),
        if cfg!(target_endian = "big") {
            b"\0\0\0\x02hi"
        } else {
            b"\x02\0\0\0hi"
        },
    )
}

fn varint() -> Case<LengthDelimitedCodec> {
    Case::new(LengthDelimitedCodec::varint(), b"\x05hello")
}

fn lines() -> Case<LinesCodec> {
    Case::new(LinesCodec::new(), b"hello\n")
}

fn delimited() -> Case<DelimiterCodec> {
    Case::new(DelimiterCodec::new("<end>"), b"hello<end>")
}

fn fixed() -> Case<FixedLengthCodec> {
    Case::new(FixedLengthCodec::new(5), b"hello")
}

fn netstrings() -> Case<NetstringCodec> {
    Case::new(NetstringCodec::new(), b"5:hello,")
}

fn a_length_of_all_ones() {
    let words = ["handle failed for 127.0.0.1:", "4294967295 bytes", "limit of 8388608"];
    u32_be().refuses_bytes(&[0xff; 4], &words);
    u32_le().refuses_bytes(&[0xff; 4], &words);
    let u64_be = Case::new(LengthDelimitedCodec::u64_be(), b"\0\0\0\0\0\0\0\x05hello");
    u64_be.refuses_bytes(&[0xff; 8], &["18446744073709551615 bytes", "limit of 8388608"]);
}

fn a_length_of_minus_one() {
    struct_i().refuses_bytes(
        &(-1_i32).to_ne_bytes(),
        &["a message of -1 bytes", "another protocol or byte order"],
    );
    netstrings().refuses_bytes(b"-1:", &["byte 0x2d in the length of a netstring"]);
}

fn a_message_over_the_limit_by_one() {
    let default = ["8388609 bytes", "limit of 8388608", "max_frame_length"];
    u32_be().refuses_bytes(&8_388_609_u32.to_be_bytes(), &default);
    u32_le().refuses_bytes(&8_388_609_u32.to_le_bytes(), &default);
    struct_i().refuses_bytes(&8_388_609_i32.to_ne_bytes(), &default);
    varint().refuses_bytes(b"\x81\x80\x80\x04", &default);
    netstrings().refuses_bytes(b"8388609:", &default);
    let set = Case::new(LengthDelimitedCodec::u32_be().max_frame_length(5), b"\0\0\0\x05hello");
    set.refuses_bytes(b"\0\0\0\x06", &["6 bytes", "limit of 5"]);
    lines().refuses_bytes(
        &[&[b'x'; 8193][..], b"\n"].concat(),
        &["first 8193 bytes", "limit is 8192"],
    );
    delimited().refuses_bytes(&[b'x'; 8197], &["first 8197 bytes", "limit is 8192"]);
}

fn a_truncated_header() {
    let words = ["the stream ended in the header of a message: 3 of at least 4 bytes"];
    u32_be().refuses_end(&[0; 3], &words);
    u32_le().refuses_end(&[0; 3], &words);
    struct_i().refuses_end(&[0; 3], &words);
    varint().refuses_end(b"\x80", &["in the header of a message: 1 of at least 2 bytes"]);
    netstrings().refuses_end(b"123", &["in the header of a message: 3 of at least 4 bytes"]);
}

fn a_truncated_body() {
    let words = ["the stream ended in a message: 4 of 5 bytes"];
    u32_be().refuses_end(b"\0\0\0\x05hell", &words);
    u32_le().refuses_end(b"\x05\0\0\0hell", &words);
    varint().refuses_end(b"\x05hell", &words);
    fixed().refuses_end(b"hell", &words);
    // Of a netstring the comma counts.
    netstrings().refuses_end(b"5:hello", &["the stream ended in a message: 5 of 6 bytes"]);
    lines().refuses_end(b"hell", &["4 bytes had arrived and no delimiter"]);
    delimited().refuses_end(b"hello<end", &["9 bytes had arrived and no delimiter"]);
}

fn no_delimiter_within_the_limit() {
    let lines_of_5 = Case::new(LinesCodec::new().max_frame_length(5), b"hello\n");
    lines_of_5.refuses_bytes(b"hello w", &["no delimiter in the first 7 bytes", "limit is 5"]);
    let of_5 = Case::new(DelimiterCodec::new("<end>").max_frame_length(5), b"hello<end>");
    of_5.refuses_bytes(b"hello worl", &["no delimiter in the first 10 bytes", "limit is 5"]);
}

fn a_netstring_with_invalid_digits() {
    for (bytes, byte) in [
        (&b"x:"[..], "0x78"),
        (b":", "0x3a"),
        (b"1 ", "0x20"),
        (b"\xd9\xa1:", "0xd9"),
        (b"5,", "0x2c"),
    ] {
        netstrings().refuses_bytes(bytes, &["byte ", byte, "digits and then a colon"]);
    }
}

fn a_netstring_with_leading_zeros() {
    netstrings().refuses_bytes(b"05:hello,", &["begins with a zero"]);
    netstrings().refuses_bytes(b"00:,", &["begins with a zero"]);
}

fn a_netstring_without_its_comma() {
    netstrings().refuses_bytes(b"4:hello,", &["byte 0x6f where a netstring ends with a comma"]);
}

fn a_varint_that_does_not_end() {
    varint().refuses_bytes(&[0xff; 10], &["varint", "over 64 bits"]);
    varint().refuses_bytes(b"\x85\0", &["varint with more bytes than it needs"]);
}

fn a_peer_that_speaks_another_protocol() {
    // "GET " is a length of 1,195,725,856.
    u32_be().refuses_bytes(b"GET / HTTP/1.1\r\n\r\n", &["1195725856 bytes", "another protocol"]);
    netstrings().refuses_bytes(
        b"GET / HTTP/1.1\r\n\r\n",
        &["byte 0x47", "is the peer sending netstrings?"],
    );
    // 5 in the other byte order.
    u32_be().refuses_bytes(b"\x05\0\0\0hello", &["83886080 bytes", "byte order"]);
}

fn one_byte_at_a_time_under_a_deadline() {
    /// A message begins, and goes on for ever, byte by byte: none waits long, so no timeout of a read helps.
    #[track_caller]
    fn is_ended<C: Decoder + Encoder + Clone + Send + Sync + 'static>(mut case: Case<C>, beginning: &[u8]) {
        case.echo.message_timeout = Some(Duration::from_millis(50));
        case.refuses(
            |client| {
                client.write_all(beginning).unwrap();
                while client.write_all(b"1").is_ok() {
                    thread::sleep(Duration::from_millis(1));
                }
            },
            &["message: not complete within 0.05 s"],
        );
    }
    is_ended(u32_be(), b"\0\x0f\xff\xff");
    is_ended(u32_le(), b"\xff\xff\x0f\0");
    is_ended(struct_i(), &1_000_000_i32.to_ne_bytes());
    is_ended(varint(), b"\xff\xff\x3f");
    is_ended(netstrings(), b"1000000:");
    is_ended(lines(), b"");
    is_ended(delimited(), b"");
    is_ended(Case::new(FixedLengthCodec::new(5_000), &[b'x'; 5_000]), b"");
}

fn silence_in_the_middle_of_a_message() {
    let handler = |request: &mut TcpRequest| -> HandlerResult {
        request.set_timeout(Duration::from_millis(20))?;
        Echo {
            codec: LengthDelimitedCodec::u32_be(),
            message_timeout: None,
        }
        .handle(request)
    };
    let (answer, failures) = support::serving::serve_one(handler, |client| {
        client.write_all(b"\0\0\0\x05hello\0\0\0\x05hell").unwrap();
    });
    assert_eq!(answer, b"\0\0\0\x05hello");
    assert!(
        failures.len() == 1 && failures[0].ends_with(": read: the peer sent nothing for 0.02 s"),
        "{failures:?}"
    );
}

fn an_answer_that_cannot_be_sent() {
    #[track_caller]
    fn fails(handler: fn(&mut TcpRequest) -> io::Result<()>, sent: &[u8], words: &str) {
        let (answer, failures) = support::serving::serve_one(handler, |_| {});
        assert_eq!(answer, sent);
        assert!(failures.len() == 1 && failures[0].contains(words), "{failures:?}");
    }
    // Nothing of it is written.
    fails(
        |request| request.framed(LinesCodec::new()).send("two\nlines"),
        b"",
        "the delimiter in it, at byte 3",
    );
    // What was sent before it has gone out.
    fails(
        |request| {
            let mut framed = request.framed(WholeStreamCodec::new());
            framed.send("one")?;
            framed.send("two")
        },
        b"one",
        "the whole stream is one message",
    );
}
