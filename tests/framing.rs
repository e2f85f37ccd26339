//! `Framed` over streams in memory and over sockets, in handlers and on clients.

mod support;

use std::io::{self, BufRead, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use nix::unistd::gettid;
use socketserver::framing::{
    DecodeError, Decoded, Decoder, DelimiterCodec, Encoder, FixedLengthCodec, NetstringCodec, WholeStreamCodec,
};
use socketserver::prelude::*;
use socketserver::run_handler;
use support::interrupt::{Interrupts, wait_until_asleep};
use support::pieces::Pieces;
use support::serving::{serve_one, serve_well};
use support::{connect, read_to_end, wait_until};

tests![
    an_empty_message_is_a_message,
    messages_are_lent_or_owned_in_any_turn,
    what_has_arrived_is_taken_without_a_read,
    messages_that_come_together_are_answered_with_one_write,
    an_error_of_the_read_keeps_what_has_arrived,
    after_a_decode_error_nothing_more_is_decoded,
    after_an_end_inside_a_message_the_iterator_ends,
    a_refused_message_leaves_the_stream_as_it_was,
    a_message_at_which_its_codec_panics_leaves_the_stream_as_it_was,
    a_codec_may_want_all_the_room_there_is,
    short_writes_go_on,
    a_write_that_fails_is_taken_up_by_flush,
    a_stream_that_takes_nothing_is_an_error,
    fed_messages_go_out_in_one_write,
    what_is_fed_goes_out_when_8_kib_are_gathered,
    a_big_message_goes_out_with_what_is_gathered_in_one_write,
    one_read_and_one_write_a_message_in_ping_pong,
    the_codec_can_change_between_two_messages,
    the_parts_have_what_was_read_ahead_and_not_sent,
    a_borrowed_stream_is_a_stream,
    two_threads_share_a_connection,
    a_message_timeout_ends_a_trickle,
    what_a_request_has_read_ahead_is_used_first,
    what_framed_has_read_ahead_goes_back_to_the_request,
    what_is_fed_in_a_handler_is_sent_at_its_end,
    a_request_that_gathers_writes_gathers_messages,
    a_write_that_fails_in_a_request_cuts_no_message,
    what_a_failed_write_has_left_is_not_tried_again_at_the_end,
    what_a_failed_write_of_a_half_has_left_is_not_tried_again_at_the_end,
    what_is_fed_behind_a_failed_write_is_sent_at_the_end,
    the_halves_of_a_request_are_framed_apart,
    what_the_halves_have_left_goes_back_to_the_request,
    a_timeout_in_the_middle_of_a_message_loses_nothing,
    a_signal_in_the_middle_of_a_message_loses_nothing,
    a_whole_stream_is_answered_after_its_end,
    a_handler_with_messages_is_driven_in_memory,
];

fn messages<S: Read, C: Decoder>(framed: &mut Framed<S, C>) -> Vec<Vec<u8>> {
    framed.collect::<io::Result<_>>().unwrap()
}

fn decode_error(error: &io::Error) -> &DecodeError {
    error.get_ref().and_then(|inner| inner.downcast_ref()).unwrap()
}

fn an_empty_message_is_a_message() {
    let mut framed = Framed::new(&[0; 8][..], LengthDelimitedCodec::u32_be());
    assert_eq!(framed.next_ref().unwrap(), Some(&b""[..]));
    assert_eq!(framed.next_ref().unwrap(), Some(&b""[..]));
    assert_eq!(framed.next_ref().unwrap(), None);
    assert_eq!(framed.next_ref().unwrap(), None, "the end stays the end");
}

fn messages_are_lent_or_owned_in_any_turn() {
    let mut framed = Framed::new(Pieces::bytewise(b"a\nb\nc\nd\n"), LinesCodec::new());
    assert_eq!(framed.next_ref().unwrap(), Some(&b"a"[..]));
    assert_eq!(framed.next().unwrap().unwrap(), b"b");
    assert_eq!(framed.next_ref().unwrap(), Some(&b"c"[..]));
    assert_eq!(messages(&mut framed), [b"d"]);
    assert!(framed.next().is_none());
}

fn what_has_arrived_is_taken_without_a_read() {
    let wire: [&[u8]; 2] = [b"one\ntwo\nthr", b"ee\n"];
    let mut framed = Framed::new(Pieces::new(wire), LinesCodec::new());
    assert_eq!(framed.next_buffered().unwrap(), None, "nothing was read yet");
    assert_eq!(framed.next_ref().unwrap(), Some(&b"one"[..]));
    assert_eq!(framed.next_buffered().unwrap(), Some(&b"two"[..]));
    for _ in 0..2 {
        assert_eq!(framed.next_buffered().unwrap(), None);
    }
    assert_eq!(framed.get_ref().calls.0, 1);
    assert_eq!(framed.next_ref().unwrap(), Some(&b"three"[..]));
    assert_eq!(framed.next_buffered().unwrap(), None);
    assert_eq!(framed.next_ref().unwrap(), None);

    let mut framed = Framed::new(&b"2:ok,x2:no,"[..], NetstringCodec::new());
    assert_eq!(framed.next_ref().unwrap(), Some(&b"ok"[..]));
    let error = framed.next_buffered().unwrap_err();
    assert_eq!(decode_error(&error), &DecodeError::InvalidDigit { byte: b'x' });
    let error = framed.next_buffered().unwrap_err();
    assert_eq!(decode_error(&error), &DecodeError::OutOfStep);
}

fn messages_that_come_together_are_answered_with_one_write() {
    let mut framed = Framed::new(Pieces::new([b"one\ntwo\nthree\n"]), LinesCodec::new());
    while let Some(line) = framed.next_ref().unwrap() {
        let mut answer = line.to_ascii_uppercase();
        framed.feed(&answer).unwrap();
        while let Some(line) = framed.next_buffered().unwrap() {
            answer = line.to_ascii_uppercase();
            framed.feed(&answer).unwrap();
        }
        framed.flush().unwrap();
    }
    assert_eq!(framed.get_ref().written, b"ONE\nTWO\nTHREE\n");
    assert_eq!(framed.get_ref().calls.1, 1);
}

fn an_error_of_the_read_keeps_what_has_arrived() {
    for kind in [ErrorKind::WouldBlock, ErrorKind::TimedOut] {
        let pieces = [
            Ok(b"he".to_vec()),
            Err(kind),
            Ok(b"llo\nwor".to_vec()),
            Err(kind),
            Ok(b"ld\n".to_vec()),
        ];
        let mut framed = Framed::new(Pieces::with_errors(pieces), LinesCodec::new());
        assert_eq!(framed.next_ref().unwrap_err().kind(), kind);
        assert_eq!(framed.next_ref().unwrap(), Some(&b"hello"[..]));
        assert_eq!(
            framed.next().unwrap().unwrap_err().kind(),
            kind,
            "the iterator goes on after it, too"
        );
        assert_eq!(messages(&mut framed), [b"world"]);
    }
    // What a signal interrupts is not even an error.
    let interrupted = || Err(ErrorKind::Interrupted);
    let pieces = [
        interrupted(),
        Ok(b"\x05he".to_vec()),
        interrupted(),
        interrupted(),
        Ok(b"llo".to_vec()),
    ];
    let mut framed = Framed::new(Pieces::with_errors(pieces), LengthDelimitedCodec::u8());
    assert_eq!(messages(&mut framed), [b"hello"]);
}

fn after_a_decode_error_nothing_more_is_decoded() {
    let wire = b"2:ok,x2:no,";
    let mut framed = Framed::new(Pieces::new([wire]), NetstringCodec::new());
    assert_eq!(framed.next_ref().unwrap(), Some(&b"ok"[..]));
    let error = framed.next_ref().unwrap_err();
    assert_eq!(decode_error(&error), &DecodeError::InvalidDigit { byte: b'x' });
    for _ in 0..2 {
        let error = framed.next_ref().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert_eq!(decode_error(&error), &DecodeError::OutOfStep);
    }
    assert!(framed.next().is_none());
    assert_eq!(framed.get_ref().calls.0, 1, "nothing more is read");

    let mut framed = Framed::new(&wire[..], NetstringCodec::new());
    let all: Vec<_> = framed.by_ref().collect();
    assert_eq!(all.len(), 2, "the error is the iterator's last");
    assert!(all[0].is_ok() && all[1].is_err() && framed.next().is_none());
}

fn after_an_end_inside_a_message_the_iterator_ends() {
    let mut framed = Framed::new(&b"\x05hell"[..], LengthDelimitedCodec::u8());
    assert_eq!(framed.next().unwrap().unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert!(framed.next().is_none());
    assert!(framed.next_ref().is_err());
}

fn a_refused_message_leaves_the_stream_as_it_was() {
    let mut framed = Framed::new(Pieces::default(), LinesCodec::new());
    framed.feed("first").unwrap();
    assert!(framed.feed("two\nlines").is_err());
    assert!(framed.send([b'x'; 10_000]).is_err());
    framed.send("last").unwrap();
    assert_eq!(framed.get_ref().written, b"first\nlast\n");
}

/// Begins each message, and then panics at some.
struct Fragile;

impl Encoder for Fragile {
    fn encode_header(&mut self, message: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        out.push(b'<');
        assert_ne!(message, b"header");
        Ok(())
    }

    fn encode_trailer(&mut self, message: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        out.push(b'>');
        assert_ne!(message, b"trailer");
        Ok(())
    }
}

// Its handler is over then, but what it has gathered is sent.
fn a_message_at_which_its_codec_panics_leaves_the_stream_as_it_was() {
    let mut request = StreamRequest::new(MemoryStream::new(""), "a client");
    for message in ["header", "trailer"] {
        let feed = || {
            let mut framed = request.framed(Fragile);
            framed.feed("whole").unwrap();
            framed.feed(message)
        };
        assert!(quietly(|| catch_unwind(AssertUnwindSafe(feed))).is_err());
    }
    request.flush().unwrap();
    assert_eq!(request.get_ref().written(), b"<whole><whole>");
}

/// Without the lines of the default hook among the tests' output.
fn quietly<R>(panics: impl FnOnce() -> R) -> R {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = panics();
    std::panic::set_hook(hook);
    outcome
}

/// Waits for more without end.
struct Insatiable;

impl Decoder for Insatiable {
    fn decode(&mut self, _: &[u8]) -> io::Result<Decoded> {
        Ok(Decoded::Incomplete(usize::MAX))
    }
}

fn a_codec_may_want_all_the_room_there_is() {
    let mut framed = Framed::new(&b"some"[..], Insatiable);
    let (arrived, expected) = (4, usize::MAX);
    let error = framed.next_ref().unwrap_err();
    assert_eq!(decode_error(&error), &DecodeError::Truncated { arrived, expected });
}

fn short_writes_go_on() {
    for size in [5, 20_000] {
        let mut pieces = Pieces::default();
        let short = [Ok(1), Ok(1), Err(ErrorKind::Interrupted), Ok(4), Ok(1)];
        pieces.writes = short.into_iter().collect();
        let mut framed = Framed::new(pieces, NetstringCodec::new());
        let message = vec![b'x'; size];
        framed.send(&message).unwrap();
        assert_eq!(
            framed.get_ref().written,
            [format!("{size}:").as_bytes(), &message, b","].concat()
        );
    }
}

fn a_write_that_fails_is_taken_up_by_flush() {
    for size in [5, 20_000] {
        for cut in [0, 1, 3, 6] {
            let mut pieces = Pieces::default();
            pieces.writes = [Ok(cut), Err(ErrorKind::WouldBlock), Ok(1), Err(ErrorKind::TimedOut)]
                .into_iter()
                .collect();
            if cut == 0 {
                pieces.writes.pop_front();
            }
            let mut framed = Framed::new(pieces, NetstringCodec::new());
            let message = vec![b'x'; size];
            assert_eq!(framed.send(&message).unwrap_err().kind(), ErrorKind::WouldBlock);
            let refused = framed.send("more").unwrap_err();
            assert!(
                refused.kind() == ErrorKind::InvalidInput && refused.to_string().contains("flush"),
                "{refused}"
            );
            assert_eq!(framed.flush().unwrap_err().kind(), ErrorKind::TimedOut);
            assert!(framed.feed("more").is_err());
            framed.flush().unwrap();
            framed.send("more").unwrap();
            let expected = [format!("{size}:").as_bytes(), &message, b",4:more,"].concat();
            assert_eq!(framed.get_ref().written, expected, "each byte once, in order");
        }
    }
}

fn a_stream_that_takes_nothing_is_an_error() {
    let mut pieces = Pieces::default();
    pieces.writes.push_back(Ok(0));
    let mut framed = Framed::new(pieces, LinesCodec::new());
    assert_eq!(framed.send("hello").unwrap_err().kind(), ErrorKind::WriteZero);
}

fn fed_messages_go_out_in_one_write() {
    let mut framed = Framed::new(Pieces::default(), LinesCodec::new());
    for message in ["hello", "world", "egon"] {
        framed.feed(message).unwrap();
    }
    assert_eq!(framed.get_ref().calls.1, 0);
    framed.flush().unwrap();
    framed.flush().unwrap();
    assert_eq!(framed.get_ref().written, b"hello\nworld\negon\n");
    assert_eq!(framed.get_ref().calls.1, 1, "an empty flush writes nothing");
}

fn what_is_fed_goes_out_when_8_kib_are_gathered() {
    let mut framed = Framed::new(Pieces::default(), LengthDelimitedCodec::u32_be());
    for _ in 0..1000 {
        framed.feed([0; 96]).unwrap();
    }
    let pieces = framed.get_ref();
    assert!(pieces.written.len() > 90_000, "{}", pieces.written.len());
    assert!(pieces.calls.1 <= 13, "{} writes", pieces.calls.1);
    framed.flush().unwrap();
    assert_eq!(framed.get_ref().written.len(), 100_000);
}

fn a_big_message_goes_out_with_what_is_gathered_in_one_write() {
    let mut framed = Framed::new(Pieces::default(), NetstringCodec::new());
    framed.feed("small").unwrap();
    let big = vec![b'x'; 100_000];
    framed.send(&big).unwrap();
    let pieces = framed.get_ref();
    assert_eq!(pieces.written, [b"5:small,100000:", &big[..], b","].concat());
    assert_eq!(pieces.calls.1, 1);
}

/// Counts the calls that become system calls: each reads or writes the socket once.
struct Counting<S> {
    socket: S,
    calls: (usize, usize),
}

impl<S: Read> Read for Counting<S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.calls.0 += 1;
        self.socket.read(out)
    }
}

impl<S: Write> Write for Counting<S> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.calls.1 += 1;
        self.socket.write(data)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.calls.1 += 1;
        self.socket.write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

impl<S: Read + Write + Send + 'static> Stream for Counting<S> {}

fn one_read_and_one_write_a_message_in_ping_pong() {
    const ROUNDS: usize = 100;
    // The largest fits into one of the kernel's buffers: of two, a reader may see the first before the second is
    // written.
    for size in [0, 16, 1024, 30_000] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let echo = thread::spawn(move || {
            let socket = Counting {
                socket: theirs,
                calls: (0, 0),
            };
            let mut request = StreamRequest::new(socket, "a client");
            let mut framed = request.framed(LengthDelimitedCodec::u32_be());
            let mut first = (0, 0);
            while let Some(message) = framed.next() {
                framed.send(message.unwrap()).unwrap();
                if first == (0, 0) {
                    first = framed.get_mut().get_ref().calls;
                }
            }
            drop(framed);
            let all = request.get_ref().calls;
            (all.0 - first.0, all.1 - first.1)
        });
        let mut framed = Framed::new(ours, LengthDelimitedCodec::u32_be());
        let message = vec![b'x'; size];
        for _ in 0..=ROUNDS {
            framed.send(&message).unwrap();
            assert_eq!(framed.next_ref().unwrap(), Some(&message[..]));
        }
        framed.get_ref().shutdown(Shutdown::Write).unwrap();
        // The first, for which the buffer grows, may take more; one read sees the end.
        let (reads, writes) = echo.join().unwrap();
        assert_eq!((reads, writes), (ROUNDS + 1, ROUNDS), "messages of {size} bytes");
    }
}

fn the_codec_can_change_between_two_messages() {
    let wire = b"HELLO 5\nhello5:world,;";
    let mut lines = Framed::new(Pieces::new([wire]), LinesCodec::new());
    assert_eq!(lines.next_ref().unwrap(), Some(&b"HELLO 5"[..]));
    let mut fixed = lines.map_codec(|_| FixedLengthCodec::new(5));
    assert_eq!(fixed.next_ref().unwrap(), Some(&b"hello"[..]));
    let mut netstrings = fixed.map_codec(|_| NetstringCodec::new());
    assert_eq!(netstrings.next_ref().unwrap(), Some(&b"world"[..]));
    assert_eq!(messages(&mut netstrings.map_codec(|_| DelimiterCodec::new(";"))), [b""]);
}

fn the_parts_have_what_was_read_ahead_and_not_sent() {
    let mut framed = Framed::new(Pieces::new(["a\nnot a line"]), LinesCodec::crlf());
    framed.next_ref().unwrap();
    framed.feed("fed").unwrap();
    let parts = framed.into_parts();
    assert_eq!(
        (parts.read_buf.as_slice(), parts.write_buf.as_slice()),
        (&b"not a line"[..], &b"fed\r\n"[..])
    );
    assert_eq!(parts.codec, LinesCodec::crlf());
    assert_eq!(parts.io.written, b"");
}

/// The two ends of a connection over loopback.
fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = connect(&listener.local_addr().unwrap().into());
    (client, listener.accept().unwrap().0)
}

fn a_borrowed_stream_is_a_stream() {
    let (mut client, mut server) = tcp_pair();
    Framed::new(&mut client, LinesCodec::new()).send("hello").unwrap();
    assert_eq!(
        Framed::new(&mut server, LinesCodec::new()).next().unwrap().unwrap(),
        b"hello"
    );
    Framed::new(&server, LinesCodec::new()).send("world").unwrap();
    drop(server);
    assert_eq!(read_to_end(client), b"world\n");
}

fn two_threads_share_a_connection() {
    let (client, server) = tcp_pair();
    let echo = thread::spawn(move || {
        let mut framed = Framed::new(server, LengthDelimitedCodec::u32_be());
        while let Some(message) = framed.next() {
            framed.send(message.unwrap()).unwrap();
        }
    });
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut outgoing = Framed::new(&client, LengthDelimitedCodec::u32_be());
            for number in 0..1000_u32 {
                outgoing.feed(number.to_be_bytes()).unwrap();
            }
            outgoing.flush().unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        let mut incoming = Framed::new(&client, LengthDelimitedCodec::u32_be());
        assert_eq!(
            messages(&mut incoming),
            (0..1000_u32).map(u32::to_be_bytes).collect::<Vec<_>>()
        );
    });
    echo.join().unwrap();
}

fn a_message_timeout_ends_a_trickle() {
    let (client, server) = tcp_pair();
    let (stop, stopped) = mpsc::channel::<()>();
    let trickle = thread::spawn(move || {
        let mut client = &client;
        while stopped.recv_timeout(Duration::from_millis(1)) == Err(RecvTimeoutError::Timeout) {
            // The other side may have closed.
            let _ = client.write_all(b"x");
        }
    });
    let mut framed = Framed::new(server, LinesCodec::new().max_frame_length(usize::MAX));
    framed.set_message_timeout(Duration::from_millis(50));
    let error = framed.next_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(error.to_string(), "message: not complete within 0.05 s");
    assert_eq!(
        framed.next_ref().unwrap_err().kind(),
        ErrorKind::TimedOut,
        "the message has no more time"
    );
    // It can be given more.
    framed.set_message_timeout(None);
    drop(stop);
    trickle.join().unwrap();
    assert_eq!(framed.next_ref().unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

fn what_a_request_has_read_ahead_is_used_first() {
    fn handler(request: &mut TcpRequest) -> io::Result<()> {
        let mut greeting = String::new();
        request.read_line(&mut greeting)?;
        let mut framed = request.framed(LengthDelimitedCodec::u8());
        while let Some(message) = framed.next() {
            framed.send([greeting.trim_end_matches('\n').as_bytes(), &message?].concat())?;
        }
        Ok(())
    }
    let answer = serve_well(handler, |client| {
        client.write_all(b"hi \n\x04egon\x05wor").unwrap();
        client.write_all(b"ld").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    });
    assert_eq!(answer, b"\x07hi egon\x08hi world");
}

fn what_framed_has_read_ahead_goes_back_to_the_request() {
    fn handler(request: &mut TcpRequest) -> io::Result<()> {
        let mut line = String::new();
        let first = request.framed(LengthDelimitedCodec::u8()).next().transpose()?;
        request.read_line(&mut line)?;
        let second = request.framed(NetstringCodec::new()).next().transpose()?;
        let mut rest = Vec::new();
        request.read_to_end(&mut rest)?;
        write!(request, "{first:?} {line:?} {second:?} {rest:?}")
    }
    let wire = b"\x01a line\n1:b,rest";
    let answer = serve_well(handler, |client| {
        client.write_all(wire).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    });
    assert_eq!(answer, br#"Some([97]) " line\n" Some([98]) [114, 101, 115, 116]"#);
    // However it arrives.
    let mut request = StreamRequest::new(Pieces::bytewise(wire), "a client");
    run_handler(
        &|request: &mut StreamRequest<Pieces>| -> io::Result<()> {
            request.fill_buf()?;
            assert_eq!(request.framed(LengthDelimitedCodec::u8()).next().unwrap()?, b"a");
            let mut line = String::new();
            request.read_line(&mut line)?;
            assert_eq!(line, " line\n");
            // A message that is dropped half-read is there again.
            assert_eq!(
                request
                    .framed(DelimiterCodec::new("!"))
                    .next()
                    .unwrap()
                    .unwrap_err()
                    .kind(),
                ErrorKind::UnexpectedEof
            );
            assert_eq!(request.framed(NetstringCodec::new()).next().unwrap()?, b"b");
            let mut rest = String::new();
            request.read_to_string(&mut rest)?;
            assert_eq!(rest, "rest");
            Ok(())
        },
        &mut request,
    )
    .unwrap();
}

fn what_is_fed_in_a_handler_is_sent_at_its_end() {
    fn handler(request: &mut TcpRequest) -> io::Result<()> {
        let mut framed = request.framed(LinesCodec::new());
        framed.feed("fed")?;
        drop(framed);
        request.write_all(b"written\n")?;
        request.framed(LinesCodec::new()).feed("last")
    }
    assert_eq!(serve_well(handler, |_| {}), b"fed\nwritten\nlast\n");
}

fn a_request_that_gathers_writes_gathers_messages() {
    let handler = |request: &mut StreamRequest<Pieces>| -> io::Result<()> {
        request.set_wbufsize(100_000);
        request.write_all(b"head;")?;
        let mut framed = request.framed(NetstringCodec::new());
        framed.feed([b'x'; 10_000])?;
        framed.feed("fed")?;
        assert_eq!(framed.get_mut().get_ref().calls.1, 0);
        framed.send("sent")?;
        assert_eq!(framed.get_mut().get_ref().calls.1, 1, "what is sent is sent");
        Ok(())
    };
    let mut request = StreamRequest::new(Pieces::default(), "a client");
    run_handler(&handler, &mut request).unwrap();
    let expected = [b"head;10000:", &[b'x'; 10_000][..], b",3:fed,4:sent,"].concat();
    assert_eq!(request.get_ref().written, expected);
}

fn a_write_that_fails_in_a_request_cuts_no_message() {
    for wbufsize in [0, 1000] {
        for (writes, dropped) in [(1, false), (1, true), (2, false), (2, true)] {
            let mut pieces = Pieces::default();
            pieces.writes = [Ok(3), Err(ErrorKind::WouldBlock), Ok(1), Err(ErrorKind::WouldBlock)]
                .into_iter()
                .take(2 * writes)
                .collect();
            let mut request = StreamRequest::new(pieces, "a client");
            request.set_wbufsize(wbufsize);
            // Given back to the request.
            request.framed(NetstringCodec::new()).feed("one").unwrap();
            let mut framed = request.framed(NetstringCodec::new());
            assert_eq!(framed.send("two").unwrap_err().kind(), ErrorKind::TimedOut);
            for _ in 1..writes {
                assert_eq!(framed.flush().unwrap_err().kind(), ErrorKind::TimedOut);
            }
            if dropped {
                drop(framed);
                request.framed(NetstringCodec::new()).send("three").unwrap();
            } else {
                framed.flush().unwrap();
                framed.send("three").unwrap();
                drop(framed);
            }
            let written = &request.get_ref().written;
            assert_eq!(written.escape_ascii().to_string(), "3:one,3:two,5:three,");
        }
    }
}

fn what_a_failed_write_has_left_is_not_tried_again_at_the_end() {
    for wbufsize in [0, 1000] {
        let handler = move |request: &mut StreamRequest<Pieces>| -> HandlerResult {
            request.set_wbufsize(wbufsize);
            Ok(request.framed(NetstringCodec::new()).send("one")?)
        };
        let mut pieces = Pieces::default();
        pieces.writes = [Ok(3), Err(ErrorKind::WouldBlock)].into_iter().collect();
        let mut request = StreamRequest::new(pieces, "a client");
        run_handler(&handler, &mut request).unwrap_err();
        assert_eq!(request.get_ref().written, b"3:o");
    }
}

/// The client reads as soon as the write has failed: tried again, it would have the rest.
fn what_a_failed_write_of_a_half_has_left_is_not_tried_again_at_the_end() {
    const LENGTH: usize = 32 << 20;
    let (sender, failed) = mpsc::channel();
    let handler = move |request: &mut TcpRequest| -> io::Result<()> {
        request.set_timeout(Duration::from_millis(50))?;
        let (_, wfile) = request.split();
        let codec = NetstringCodec::new().max_frame_length(LENGTH);
        let sent = wfile.framed(codec).send(vec![b'x'; LENGTH]);
        sender.send(()).unwrap();
        sent
    };
    let (answer, failures) = serve_one(handler, |_| failed.recv().unwrap());
    assert!((1..LENGTH).contains(&answer.len()), "{}", answer.len());
    assert_eq!(failures.len(), 1, "{failures:?}");
}

fn what_is_fed_behind_a_failed_write_is_sent_at_the_end() {
    for wbufsize in [0, 1000] {
        let handler = move |request: &mut StreamRequest<Pieces>| -> HandlerResult {
            request.set_wbufsize(wbufsize);
            let failed = request.framed(NetstringCodec::new()).send("one");
            assert_eq!(failed.unwrap_err().kind(), ErrorKind::TimedOut);
            Ok(request.framed(NetstringCodec::new()).feed("two")?)
        };
        let mut pieces = Pieces::default();
        pieces.writes = [Ok(3), Err(ErrorKind::WouldBlock)].into_iter().collect();
        let mut request = StreamRequest::new(pieces, "a client");
        run_handler(&handler, &mut request).unwrap();
        assert_eq!(
            request.get_ref().written.escape_ascii().to_string(),
            "3:one,3:two,",
            "{wbufsize}"
        );
    }
}

fn the_halves_of_a_request_are_framed_apart() {
    fn handler(request: &mut TcpRequest) -> io::Result<()> {
        let (rfile, wfile) = request.split();
        let mut incoming = rfile.framed(LinesCodec::new());
        let mut outgoing = wfile.framed(NetstringCodec::new());
        // The message is lent and sent without a copy.
        while let Some(message) = incoming.next_ref()? {
            outgoing.send(message)?;
        }
        Ok(())
    }
    let long = [b'x'; 8192];
    let answer = serve_well(handler, |client| {
        client.write_all(&[b"hello\n", &long[..], b"\n"].concat()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    });
    assert_eq!(answer, [b"5:hello,8192:", &long[..], b","].concat());
}

fn what_the_halves_have_left_goes_back_to_the_request() {
    fn handler(request: &mut TcpRequest) -> io::Result<()> {
        let (rfile, wfile) = request.split();
        let mut outgoing = wfile.framed(LinesCodec::new());
        outgoing.feed(rfile.framed(LinesCodec::new()).next().unwrap()?)?;
        drop(outgoing);
        let mut rest = Vec::new();
        request.read_to_end(&mut rest)?;
        request.write_all(&rest)
    }
    let answer = serve_well(handler, |client| {
        client.write_all(b"a line\nthe rest").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    });
    assert_eq!(answer, b"a line\nthe rest");
}

fn a_timeout_in_the_middle_of_a_message_loses_nothing() {
    let (sender, timeouts) = mpsc::channel();
    let handler = move |request: &mut TcpRequest| -> io::Result<()> {
        request.set_timeout(Duration::from_millis(5))?;
        let mut framed = request.framed(LengthDelimitedCodec::u32_be());
        loop {
            match framed.next() {
                Some(Err(error)) if error.kind() == ErrorKind::TimedOut => sender.send(()).unwrap(),
                Some(message) => framed.send(message?)?,
                None => return Ok(()),
            }
        }
    };
    let wire = b"\0\0\0\x05hello\0\0\0\x05world";
    let answer = serve_well(handler, |client| {
        for byte in wire {
            client.write_all(&[*byte]).unwrap();
            timeouts.try_iter().for_each(drop);
            timeouts.recv().unwrap();
        }
        client.shutdown(Shutdown::Write).unwrap();
    });
    assert_eq!(answer, wire);
}

fn a_signal_in_the_middle_of_a_message_loses_nothing() {
    let interrupts = Interrupts::new();
    let (sender, thread) = mpsc::channel();
    let handler = move |request: &mut TcpRequest| -> io::Result<()> {
        sender.send(gettid()).unwrap();
        let mut framed = request.framed(LengthDelimitedCodec::u8());
        let message = framed.next().unwrap()?;
        framed.send(message)
    };
    let answer = serve_well(handler, |client| {
        let reader = thread.recv().unwrap();
        for part in [&b"\x05"[..], b"he", b"llo"] {
            wait_until_asleep(reader);
            interrupts.interrupt(reader);
            client.write_all(part).unwrap();
        }
    });
    assert_eq!(answer, b"\x05hello");
    assert_eq!(Interrupts::caught(), 3);
}

fn a_whole_stream_is_answered_after_its_end() {
    fn handler(request: &mut TcpRequest) -> io::Result<()> {
        let mut framed = request.framed(WholeStreamCodec::new());
        let message = framed.next().expect("one message, at least an empty one")?;
        framed.send(format!("{} bytes", message.len()))
    }
    for size in [0, 1, 300_000] {
        let answer = serve_well(handler, |client| {
            client.write_all(&vec![b'x'; size]).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        assert_eq!(answer, format!("{size} bytes").as_bytes());
    }
}

fn a_handler_with_messages_is_driven_in_memory() {
    fn echo<S: Stream>(request: &mut StreamRequest<S>) -> io::Result<()> {
        let mut framed = request.framed(LinesCodec::new());
        while let Some(line) = framed.next() {
            framed.send(line?)?;
        }
        Ok(())
    }
    let mut request = StreamRequest::new(MemoryStream::new("one\r\ntwo\n"), "a client");
    run_handler(&(echo::<MemoryStream> as fn(&mut _) -> _), &mut request).unwrap();
    assert_eq!(request.get_ref().written(), b"one\ntwo\n");
    // The same over a socket, where a line that is cut off is told.
    let (answer, failures) = serve_one(echo::<TcpStream>, |client| {
        client.write_all(b"one\ntw").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    });
    assert_eq!(answer, b"one\n");
    assert_eq!(failures.len(), 1);
    assert!(
        failures[0].ends_with("the stream ended in a message: 2 bytes had arrived and no delimiter"),
        "{failures:?}"
    );
    wait_until("the failure is logged", || !support::logged().is_empty());
}
