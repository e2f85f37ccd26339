//! Connections as handlers see them: CPython's `SocketWriterTest` and what `StreamRequestHandler` documents.

mod support;

use std::cell::Cell;
use std::io::{self, BufRead, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use nix::unistd::gettid;
use socketserver::prelude::*;
use socketserver::{Timeouts, run_handler};
use support::gate::Gate;
use support::interrupt::{Interrupts, wait_until_asleep};
use support::serving::{serve_one, serve_well};
use support::{EchoLine, connect, exchange_line, inet, read_to_end, reset, temp_path, wait_until};

tests![
    wfile_is_a_writer_whose_descriptor_is_the_requests,
    a_small_write_reaches_the_peer_without_a_flush,
    write_returns_the_number_of_bytes,
    what_is_formatted_is_sent_in_one_piece,
    a_write_of_16_mib_is_complete_although_signals_interrupt_it,
    a_read_goes_on_although_a_signal_interrupts_it,
    the_two_halves_work_in_two_threads,
    the_writing_half_ends_while_the_reading_half_goes_on,
    lines_and_raw_reads_mix_without_losing_a_byte,
    an_rbufsize_of_1_reads_nothing_ahead,
    by_default_reading_a_line_reads_ahead,
    a_read_into_the_handlers_own_memory_reads_nothing_ahead,
    consuming_more_than_was_read_ahead_takes_that_only,
    an_rbufsize_that_memory_has_no_room_for_fails_the_read,
    a_large_rbufsize_takes_memory_for_what_is_read,
    with_a_wbufsize_writes_are_gathered,
    what_a_stream_gathers_is_sent_with_each_write_and_flush,
    a_flush_of_the_stream_is_called_again_until_the_write_timeout,
    what_is_gathered_is_sent_when_the_handler_ends,
    a_last_flush_that_fails_is_reported,
    what_is_gathered_behind_a_flush_that_failed_is_sent_when_the_handler_ends,
    a_write_that_the_stream_could_not_send_is_not_tried_again_at_the_end,
    a_read_past_its_timeout_is_timed_out,
    a_write_past_its_timeout_is_timed_out,
    a_read_that_failed_leaves_nothing_that_was_not_sent,
    a_flush_into_a_stream_that_takes_nothing_ends,
    a_timeout_ends_one_request_not_the_server,
    a_timeout_of_zero_is_refused,
    disabling_nagle_sets_the_option,
    a_unix_connection_takes_the_options_of_tcp,
    the_stream_ends_with_the_handler,
    the_stream_ends_although_the_client_sent_more_than_was_read,
    the_stream_ends_for_a_client_that_sends_until_then,
    the_stream_ends_although_the_handler_kept_another_handle,
    the_stream_ends_although_the_handler_kept_a_copy_of_wfiles_descriptor,
    the_stream_ends_for_a_client_that_has_ended_its_own_although_the_handler_kept_a_copy,
    a_client_that_has_left_is_noticed_without_a_read,
    a_client_that_was_reset_is_noticed_without_a_read,
    a_connection_that_the_server_ends_is_disconnected,
    a_request_knows_both_addresses_and_its_number,
    a_handler_is_driven_in_memory,
    a_handler_that_fails_in_memory_says_why,
    a_request_in_memory_has_no_server,
];

type Handled = io::Result<()>;

// SocketWriterTest.test_basics
fn wfile_is_a_writer_whose_descriptor_is_the_requests() {
    fn handler(request: &mut TcpRequest) -> Handled {
        let own = request.get_ref().as_raw_fd();
        let (_, mut wfile) = request.split();
        let same = wfile.fileno().is_some_and(|fd| fd.as_raw_fd() == own);
        let writer: &mut dyn Write = &mut wfile;
        write!(writer, "{same}")
    }
    assert_eq!(serve_well(handler, |_| {}), b"true");
}

// SocketWriterTest.test_write (a)
fn a_small_write_reaches_the_peer_without_a_flush() {
    let received = Gate::default();
    let in_handler = received.clone();
    let handler = move |request: &mut TcpRequest| -> Handled {
        request.write_all(b"now")?;
        in_handler.wait();
        Ok(())
    };
    serve_well(handler, |client| {
        let mut answer = [0; 3];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"now");
        received.open();
    });
}

// SocketWriterTest.test_write (b)
fn write_returns_the_number_of_bytes() {
    fn handler(request: &mut TcpRequest) -> Handled {
        let whole = request.write(b"12345")?;
        let half = request.split().1.write(b"123")?;
        write!(request, " {whole} {half} {}", request.get_ref().peer_addr()?.port() > 0)
    }
    assert_eq!(serve_well(handler, |_| {}), b"12345123 5 3 true");
}

/// Keeps each write apart.
#[derive(Default)]
struct Pieces(Mutex<Vec<Vec<u8>>>);

impl Read for Pieces {
    fn read(&mut self, _out: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
}

impl Read for &Pieces {
    fn read(&mut self, _out: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
}

impl Write for Pieces {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        (&*self).write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for &Pieces {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().push(data.to_vec());
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Pieces {}

// In pieces, the second would wait for the acknowledgement of the first: 40 ms each time.
fn what_is_formatted_is_sent_in_one_piece() {
    let mut request = StreamRequest::new(Pieces::default(), "a client");
    let name = String::from("answer");
    writeln!(request, "{name}: {:?}", 42).unwrap();
    writeln!(&mut request as &mut dyn Write, "{}", 1).unwrap();
    writeln!(StreamRequest::split(&mut request).1, "{}!", 2).unwrap();
    writeln!(request, "as it is").unwrap();
    let pieces = request.get_ref().0.lock().unwrap().clone();
    assert_eq!(pieces, ["answer: 42\n", "1\n", "2!\n", "as it is\n"].map(Vec::from));
}

// SocketWriterTest.test_write (c): support.SOCK_MAX_SIZE bytes, SIGUSR1 in the middle of the send.
fn a_write_of_16_mib_is_complete_although_signals_interrupt_it() {
    const SIZE: usize = 16 * 1024 * 1024 + 1;
    let interrupts = Interrupts::new();
    let ((sender, writer), (result_sender, result)) = (mpsc::channel(), mpsc::channel());
    let handler = move |request: &mut TcpRequest| {
        let whole: Vec<u8> = (0..SIZE).map(pattern).collect();
        sender.send(gettid()).unwrap();
        result_sender.send(request.write(&whole)?).unwrap();
        io::Result::Ok(())
    };
    let rest = serve_well(handler, |client| {
        let writer = writer.recv().unwrap();
        // Nobody reads, so the send blocks, with a part of the bytes sent.
        for _ in 0..3 {
            wait_until_asleep(writer);
            interrupts.interrupt(writer);
        }
        let mut received = vec![0; SIZE / 2];
        client.read_exact(&mut received).unwrap();
        wait_until_asleep(writer);
        interrupts.interrupt(writer);
        assert!(result.try_recv().is_err(), "the write waits for the reader");
        assert!(received.iter().enumerate().all(|(index, byte)| *byte == pattern(index)));
    });
    assert_eq!(result.recv().unwrap(), SIZE);
    assert_eq!(rest.len(), SIZE - SIZE / 2);
    assert!(
        rest.iter()
            .enumerate()
            .all(|(index, byte)| *byte == pattern(SIZE / 2 + index))
    );
    assert!(Interrupts::caught() >= 4);
}

/// Bytes that show it when some are missing.
fn pattern(index: usize) -> u8 {
    (index % 251).to_le_bytes()[0]
}

fn a_read_goes_on_although_a_signal_interrupts_it() {
    let interrupts = Interrupts::new();
    let (sender, thread) = mpsc::channel();
    let handler = move |request: &mut TcpRequest| -> Handled {
        sender.send(gettid()).unwrap();
        // Neither is one of std's loops, which try again themselves.
        let mut first = [0; 10];
        let count = request.read(&mut first)?;
        let second = request.fill_buf()?.to_vec();
        request.write_all(&[&first[..count], &second].concat())
    };
    let answer = serve_well(handler, |client| {
        let reader = thread.recv().unwrap();
        for part in ["half", " and half"] {
            wait_until_asleep(reader);
            interrupts.interrupt(reader);
            client.write_all(part.as_bytes()).unwrap();
        }
    });
    assert_eq!(answer, b"half and half");
}

fn the_two_halves_work_in_two_threads() {
    fn handler(request: &mut TcpRequest) -> Handled {
        let (mut rfile, mut wfile) = request.split();
        thread::scope(|scope| {
            // Neither waits for the other: the client reads all before it writes.
            let writing = scope.spawn(move || wfile.write_all(&[b'x'; 1000]));
            let mut line = String::new();
            rfile.read_line(&mut line)?;
            assert_eq!(line, "thanks\n");
            writing.join().expect("no panic")
        })
    }
    let answer = serve_well(handler, |client| {
        client.read_exact(&mut [0; 1000]).unwrap();
        client.write_all(b"thanks\n").unwrap();
    });
    assert_eq!(answer, b"");
}

fn the_writing_half_ends_while_the_reading_half_goes_on() {
    fn handler(request: &mut TcpRequest) -> Handled {
        request.set_wbufsize(100);
        let (mut rfile, mut wfile) = request.split();
        wfile.write_all(b"that was all")?;
        wfile.shutdown()?;
        let mut line = String::new();
        rfile.read_line(&mut line)?;
        assert_eq!(line, "thanks\n");
        Ok(())
    }
    serve_well(handler, |client| {
        assert_eq!(read_to_end(&*client), b"that was all");
        client.write_all(b"thanks\n").unwrap();
    });
}

fn lines_and_raw_reads_mix_without_losing_a_byte() {
    fn handler(request: &mut TcpRequest) -> Handled {
        let (mut first, mut four, mut until, mut rest) = (String::new(), [0; 4], Vec::new(), String::new());
        request.read_line(&mut first)?;
        request.read_exact(&mut four)?;
        let (mut rfile, _) = request.split();
        rfile.read_until(b';', &mut until)?;
        request.read_to_string(&mut rest)?;
        let (four, until) = (String::from_utf8_lossy(&four), String::from_utf8_lossy(&until));
        write!(request, "{first:?} {four:?} {until:?} {rest:?}")
    }
    let answer = serve_well(handler, |client| {
        client.write_all(b"line\nfouruntil;the rest\n").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    });
    assert_eq!(str::from_utf8(&answer), Ok(r#""line\n" "four" "until;" "the rest\n""#));
}

/// What is left in the raw stream after a line was read.
fn left_in_the_stream(rbufsize: Option<usize>) -> String {
    let mut request = StreamRequest::new(MemoryStream::new("line\nrest"), "a client");
    if let Some(bytes) = rbufsize {
        request.set_rbufsize(bytes);
    }
    let mut line = String::new();
    request.read_line(&mut line).unwrap();
    assert_eq!(line, "line\n");
    let mut left = String::new();
    request.get_mut().read_to_string(&mut left).unwrap();
    left
}

// rbufsize: a handler that gives the raw socket away reads nothing ahead.
fn an_rbufsize_of_1_reads_nothing_ahead() {
    assert_eq!(left_in_the_stream(Some(1)), "rest");
    assert_eq!(left_in_the_stream(Some(0)), "rest");
}

// rbufsize = -1
fn by_default_reading_a_line_reads_ahead() {
    assert_eq!(left_in_the_stream(None), "");
}

fn a_read_into_the_handlers_own_memory_reads_nothing_ahead() {
    let mut request = StreamRequest::new(MemoryStream::new("line\nrest"), "a client");
    request.read_exact(&mut [0; 5]).unwrap();
    let mut rest = String::new();
    request.get_mut().read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "rest");
}

fn consuming_more_than_was_read_ahead_takes_that_only() {
    let mut request = StreamRequest::new(MemoryStream::new("one,two,"), "a client");
    request.set_rbufsize(4);
    assert_eq!(request.fill_buf().unwrap(), b"one,");
    request.consume(1);
    request.consume(usize::MAX);
    assert_eq!(request.fill_buf().unwrap(), b"two,");
}

fn an_rbufsize_that_memory_has_no_room_for_fails_the_read() {
    // Where that is half of all the memory there can be, it can be had once.
    let mut half = Vec::<u8>::new();
    let _ = half.try_reserve_exact(usize::MAX / 2);
    for bytes in [usize::MAX, usize::MAX / 2] {
        let mut request = StreamRequest::new(MemoryStream::new("line\nrest"), "a client");
        request.set_rbufsize(bytes);
        let error = request.fill_buf().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
        request.set_rbufsize(4);
        assert_eq!(request.fill_buf().unwrap(), b"line", "nothing is lost");
    }
}

/// Says how much room each read has.
#[derive(Default)]
struct Roomy(Vec<usize>);

impl Read for Roomy {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.push(out.len());
        Ok(out.len())
    }
}

impl Write for Roomy {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Roomy {}

fn a_large_rbufsize_takes_memory_for_what_is_read() {
    const SIZE: usize = 1 << 20;
    let mut request = StreamRequest::new(Roomy::default(), "a client");
    request.set_rbufsize(SIZE);
    while request.get_ref().0.last() != Some(&SIZE) {
        let read = request.fill_buf().unwrap().len();
        request.consume(read);
    }
    let rooms = &request.get_ref().0;
    assert!(rooms[0] <= 64 * 1024, "{rooms:?}");
    assert!(rooms.windows(2).all(|pair| pair[1] <= 2 * pair[0]), "{rooms:?}");
}

// wbufsize
fn with_a_wbufsize_writes_are_gathered() {
    let mut request = StreamRequest::new(MemoryStream::default(), "a client");
    let written = |request: &StreamRequest<MemoryStream>| String::from_utf8(request.get_ref().written()).unwrap();
    request.write_all(b"at once,").unwrap();
    assert_eq!(written(&request), "at once,");
    request.set_wbufsize(8);
    assert_eq!(request.write(b"four").unwrap(), 4);
    assert_eq!(request.write(b"+3,").unwrap(), 3);
    assert_eq!(written(&request), "at once,");
    request.flush().unwrap();
    assert_eq!(written(&request), "at once,four+3,");
    request.write_all(b"little ").unwrap();
    request.write_all(b"and more than the buffer holds").unwrap();
    assert_eq!(
        written(&request),
        "at once,four+3,little and more than the buffer holds"
    );
}

/// Sends what was written when it is flushed, as streams of TLS and of compression do.
#[derive(Default)]
struct Gathering {
    gathered: Vec<u8>,
    sent: Vec<u8>,
    /// How many of the next flushes a signal interrupts.
    interrupted: usize,
    /// Its peer takes nothing: a flush waits until this is over (`SO_SNDTIMEO`).
    full: Cell<Option<Duration>>,
}

impl Read for Gathering {
    fn read(&mut self, _out: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
}

impl Write for Gathering {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.gathered.extend(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.interrupted > 0 {
            self.interrupted -= 1;
            return Err(ErrorKind::Interrupted.into());
        }
        if let Some(wait) = self.full.get() {
            thread::sleep(wait);
            return Err(ErrorKind::WouldBlock.into());
        }
        self.sent.append(&mut self.gathered);
        Ok(())
    }
}

impl Stream for Gathering {
    fn set_stream_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        if self.full.get().is_some() {
            self.full.set(timeout);
        }
        Ok(())
    }
}

fn what_a_stream_gathers_is_sent_with_each_write_and_flush() {
    let mut request = StreamRequest::new(Gathering::default(), "a client");
    let sent = |request: &StreamRequest<Gathering>| String::from_utf8(request.get_ref().sent.clone()).unwrap();
    request.write_all(b"at once,").unwrap();
    assert_eq!(sent(&request), "at once,");
    // May be written short, so it ends nothing.
    assert_eq!(request.write_vectored(&[IoSlice::new(b"slices,")]).unwrap(), 7);
    request.flush().unwrap();
    assert_eq!(sent(&request), "at once,slices,");
    request.set_wbufsize(8);
    request.write_all(b"more than 8 bytes,").unwrap();
    request.write_all(b"few").unwrap();
    request.flush().unwrap();
    assert_eq!(sent(&request), "at once,slices,more than 8 bytes,few");

    let mut request = StreamRequest::new(Gathering::default(), "a client");
    let handler = |request: &mut StreamRequest<Gathering>| request.get_mut().write_all(b"to the stream itself");
    run_handler(&handler, &mut request).unwrap();
    assert_eq!(sent(&request), "to the stream itself");
}

fn a_flush_of_the_stream_is_called_again_until_the_write_timeout() {
    let interrupted = Gathering {
        interrupted: 3,
        ..Gathering::default()
    };
    let mut request = StreamRequest::new(interrupted, "a client");
    request.write_all(b"late").unwrap();
    assert_eq!(request.get_ref().sent, b"late");

    let full = Gathering {
        full: Cell::new(Some(Duration::ZERO)),
        ..Gathering::default()
    };
    let mut request = StreamRequest::new(full, "a client");
    request
        .set_timeouts(Timeouts::new().write(Duration::from_millis(100)))
        .unwrap();
    for outcome in [request.write_all(b"never"), request.flush()] {
        let text = outcome.unwrap_err().to_string();
        assert_eq!(text, "write: the peer did not take all of it within 0.1 s");
    }
}

fn what_is_gathered_is_sent_when_the_handler_ends() {
    let gathered = |request: &mut TcpRequest| {
        request.set_wbufsize(1024);
        request.write_all(b"gathered")
    };
    assert_eq!(serve_well(gathered, |_| {}), b"gathered");
    let failing = |request: &mut TcpRequest| -> HandlerResult {
        request.set_wbufsize(1024);
        request.write_all(b"gathered")?;
        Err("told to fail".into())
    };
    let (answer, failures) = serve_one(failing, |_| {});
    assert_eq!((answer.as_slice(), failures.len()), (&b"gathered"[..], 1));
}

// CPython swallows it.
fn a_last_flush_that_fails_is_reported() {
    fn handler(request: &mut TcpRequest) -> Handled {
        request.set_wbufsize(1024);
        request.write_all(b"lost")?;
        request.get_ref().shutdown(Shutdown::Write)
    }
    let (answer, failures) = serve_one(handler, |_| {});
    assert_eq!(answer, b"");
    assert_eq!(failures.len(), 1);
    assert!(failures[0].contains("finish failed for 127.0.0.1:") && failures[0].contains("Broken pipe"));
}

fn what_is_gathered_behind_a_flush_that_failed_is_sent_when_the_handler_ends() {
    let handler = |request: &mut StreamRequest<Gathering>| -> HandlerResult {
        request.set_wbufsize(1024);
        request.write_all(b"early,")?;
        request.get_mut().full.set(Some(Duration::ZERO));
        request.flush().unwrap_err();
        request.get_mut().full.set(None);
        Ok(request.write_all(b"late")?)
    };
    let mut request = StreamRequest::new(Gathering::default(), "a client");
    run_handler(&handler, &mut request).unwrap();
    assert_eq!(request.get_ref().sent.escape_ascii().to_string(), "early,late");
}

/// The end would wait for the write timeout once more.
fn a_write_that_the_stream_could_not_send_is_not_tried_again_at_the_end() {
    let handler = |request: &mut StreamRequest<Gathering>| -> HandlerResult {
        request.get_mut().full.set(Some(Duration::ZERO));
        let failed = request.write_all(b"never");
        request.get_mut().full.set(None);
        Ok(failed?)
    };
    let mut request = StreamRequest::new(Gathering::default(), "a client");
    run_handler(&handler, &mut request).unwrap_err();
    assert_eq!(request.get_ref().sent, b"");
}

/// `timeout`, set in setup as in Python.
#[derive(Clone)]
struct Impatient(fn(&mut TcpRequest) -> Handled);

impl BaseRequestHandler<TcpRequest> for Impatient {
    fn setup(&mut self, request: &mut TcpRequest) -> HandlerResult {
        Ok(request.set_timeout(Duration::from_millis(10))?)
    }

    fn handle(&mut self, request: &mut TcpRequest) -> HandlerResult {
        match (self.0)(request) {
            Err(error) if error.kind() == ErrorKind::TimedOut => Ok(request.write_all(b"timed out")?),
            other => Err(format!("not a timeout: {other:?}").into()),
        }
    }
}

fn a_read_past_its_timeout_is_timed_out() {
    let read = Impatient(|request| request.read(&mut [0]).map(drop));
    assert_eq!(serve_well(read, |_| {}), b"timed out");
    let line = Impatient(|request| request.read_line(&mut String::new()).map(drop));
    assert_eq!(
        serve_well(line, |client| client.write_all(b"half a li").unwrap()),
        b"timed out"
    );
}

fn a_write_past_its_timeout_is_timed_out() {
    let (sender, kinds) = mpsc::channel();
    let handler = move |request: &mut TcpRequest| -> Handled {
        request.set_timeout(Duration::from_millis(10))?;
        let error = loop {
            if let Err(error) = request.write_all(&vec![0; 1 << 20]) {
                break error;
            }
        };
        sender.send(error.kind()).unwrap();
        Ok(())
    };
    // The client does not read before the handler has given up.
    serve_well(handler, |_| assert_eq!(kinds.recv().unwrap(), ErrorKind::TimedOut));
}

/// The buffer was made ready for it, and has what came before in it still.
fn a_read_that_failed_leaves_nothing_that_was_not_sent() {
    let pieces = [Ok(b"one\n".to_vec()), Err(ErrorKind::WouldBlock), Ok(b"two\n".to_vec())];
    let mut request = StreamRequest::new(support::pieces::Pieces::with_errors(pieces), "a client");
    let mut lines = String::new();
    request.read_line(&mut lines).unwrap();
    assert_eq!(request.read_line(&mut lines).unwrap_err().kind(), ErrorKind::TimedOut);
    request.read_line(&mut lines).unwrap();
    assert_eq!(lines, "one\ntwo\n");
}

fn a_flush_into_a_stream_that_takes_nothing_ends() {
    let mut stream = support::pieces::Pieces::default();
    stream.writes.extend([Ok(0)]);
    let mut request = StreamRequest::new(stream, "a client");
    request.set_wbufsize(1024);
    request.write_all(b"gathered").unwrap();
    assert_eq!(request.flush().unwrap_err().kind(), ErrorKind::WriteZero);
    request.flush().unwrap();
    assert_eq!(request.get_ref().written, b"gathered");
}

fn a_timeout_ends_one_request_not_the_server() {
    let handler = |request: &mut TcpRequest| -> HandlerResult {
        request.set_timeout(Duration::from_millis(10))?;
        EchoLine.handle(request)
    };
    let running = TcpServer::new("127.0.0.1:0", handler).spawn().unwrap();
    // It says nothing, so the one-at-a-time server gives it up.
    assert_eq!(read_to_end(connect(running.server_address())), b"");
    assert_eq!(exchange_line(connect(running.server_address()), "here\n"), "here\n");
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed), (1, 1));
}

fn a_timeout_of_zero_is_refused() {
    let handler = |request: &mut TcpRequest| {
        let refused = request.set_timeout(Duration::ZERO).unwrap_err();
        write!(request, "{:?}", refused.kind())
    };
    assert_eq!(serve_well(handler, |_| {}), b"InvalidInput");
}

// disable_nagle_algorithm
fn disabling_nagle_sets_the_option() {
    let handler = |request: &mut TcpRequest| -> Handled {
        let before = request.get_ref().nodelay()?;
        request.disable_nagle_algorithm()?;
        write!(request, "{before} {}", request.get_ref().nodelay()?)
    };
    assert_eq!(serve_well(handler, |_| {}), b"false true");
}

fn a_unix_connection_takes_the_options_of_tcp() {
    let place = temp_path("server");
    let handler = |request: &mut UnixStreamRequest| -> Handled {
        request.disable_nagle_algorithm()?;
        request.set_timeout(Duration::from_millis(10))?;
        let kind = request.read(&mut [0]).map_err(|error| error.kind());
        write!(request, "{kind:?}")
    };
    let running = UnixStreamServer::new(&place.path, handler).spawn().unwrap();
    let client = support::unix::connect_unix(running.server_address());
    assert_eq!(read_to_end(client), b"Err(TimedOut)");
    assert_eq!(running.stop().unwrap().served, 1);
}

fn the_stream_ends_with_the_handler() {
    assert_eq!(
        serve_well(|request: &mut TcpRequest| request.write_all(b"all"), |_| {}),
        b"all"
    );
}

/// Serves a client that has sent more than the handler reads; returns what that got, once the server has closed.
fn answer_to_more_than_was_read(handler: impl BaseRequestHandler<TcpRequest>) -> io::Result<Vec<u8>> {
    let running = TcpServer::new("127.0.0.1:0", handler).spawn().unwrap();
    let mut client = connect(running.server_address());
    client.write_all(b"one and more").unwrap();
    running.stop().unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer)?;
    Ok(answer)
}

// shutdown_request: SHUT_WR before close, because closing alone would be a reset (RFC 2525, 2.17).
fn the_stream_ends_although_the_client_sent_more_than_was_read() {
    let buffered_by_nobody = |request: &mut TcpRequest| -> Handled {
        request.read_exact(&mut [0; 3])?;
        request.write_all(b"all")
    };
    assert_eq!(answer_to_more_than_was_read(buffered_by_nobody).unwrap(), b"all");
    let in_halves = |request: &mut TcpRequest| -> Handled {
        let (mut rfile, mut wfile) = request.split();
        rfile.read_exact(&mut [0; 3])?;
        wfile.write_all(b"all")
    };
    assert_eq!(answer_to_more_than_was_read(in_halves).unwrap(), b"all");
    let nothing_read = |request: &mut TcpRequest| request.write_all(b"all");
    assert_eq!(answer_to_more_than_was_read(nothing_read).unwrap(), b"all");
}

// shutdown_request: SHUT_WR before close, because somebody may have another handle.
fn the_stream_ends_for_a_client_that_sends_until_then() {
    let enough = |request: &mut TcpRequest| -> Handled {
        // Of many: the rest is there when the handler ends.
        request.read_exact(&mut [0])?;
        request.write_all(b"enough")
    };
    let answer = serve_well(enough, |client| {
        let mut sending = client.try_clone().unwrap();
        let sender = thread::spawn(move || while sending.write_all(&[b'x'; 1000]).is_ok() {});
        assert_eq!(client.read(&mut [0; 6]).unwrap(), 6);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        // A sender that was not scheduled for long finds the connection closed.
        let _ = client.shutdown(Shutdown::Write);
        sender.join().unwrap();
    });
    assert_eq!(answer, b"");
}

fn the_stream_ends_although_the_handler_kept_another_handle() {
    let (sender, kept) = mpsc::channel();
    let handler = move |request: &mut TcpRequest| -> Handled {
        request.write_all(b"all")?;
        // One of the two ways to have it each time.
        let clone = if request.server().number() % 2 == 1 {
            request.get_ref().try_clone()?
        } else {
            request.get_mut().try_clone()?
        };
        sender.send(clone).unwrap();
        Ok(())
    };
    let running = TcpServer::new("127.0.0.1:0", handler).spawn().unwrap();
    for _ in 0..2 {
        assert_eq!(read_to_end(connect(running.server_address())), b"all");
    }
    running.stop().unwrap();
    assert_eq!(kept.try_iter().count(), 2, "the other handles were open all the time");
}

fn the_stream_ends_although_the_handler_kept_a_copy_of_wfiles_descriptor() {
    let (sender, kept) = mpsc::channel();
    let handler = move |request: &mut TcpRequest| -> Handled {
        let (_, mut wfile) = request.split();
        wfile.write_all(b"all")?;
        sender.send(wfile.fileno().unwrap().try_clone_to_owned()?).unwrap();
        Ok(())
    };
    assert_eq!(serve_well(handler, |_| {}), b"all");
    assert!(kept.try_recv().is_ok(), "the copy was open all the time");
}

/// Of such a client closing alone would do, were it the last.
fn the_stream_ends_for_a_client_that_has_ended_its_own_although_the_handler_kept_a_copy() {
    fn keep(request: &mut TcpRequest, way: usize) -> io::Result<OwnedFd> {
        match way {
            0 => request.get_ref().as_fd().try_clone_to_owned(),
            1 => request.get_mut().as_fd().try_clone_to_owned(),
            _ => request.split().1.fileno().unwrap().try_clone_to_owned(),
        }
    }
    for way in 0..3 {
        let (sender, kept) = mpsc::channel();
        let handler = move |request: &mut TcpRequest| -> Handled {
            sender.send(keep(request, way)?).unwrap();
            request.read_to_end(&mut Vec::new()).map(drop)
        };
        let answer = serve_well(handler, |client| client.shutdown(Shutdown::Write).unwrap());
        assert_eq!(answer, b"");
        assert!(kept.try_recv().is_ok(), "the copy was open all the time");
    }
}

/// What is asked of a request whose client has sent four bytes; then they are still there.
#[track_caller]
fn while_four_bytes_are_unread<S: Stream>(mut request: StreamRequest<S>, ask: impl FnOnce(&StreamRequest<S>)) {
    ask(&request);
    request.read_exact(&mut [0; 4]).unwrap();
}

fn a_client_that_has_left_is_noticed_without_a_read() {
    let (mut client, stream) = UnixStream::pair().unwrap();
    client.write_all(b"four").unwrap();
    while_four_bytes_are_unread(StreamRequest::new(stream, "a client"), |request| {
        assert!(!request.is_disconnected());
        client.shutdown(Shutdown::Write).unwrap();
        assert!(request.is_disconnected());
        drop(client);
        assert!(request.is_disconnected());
    });
    let in_memory = StreamRequest::new(MemoryStream::new(b"four"), "a client");
    while_four_bytes_are_unread(in_memory, |request| {
        assert!(!request.is_disconnected());
    });
}

fn a_client_that_was_reset_is_noticed_without_a_read() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, address) = listener.accept().unwrap();
    let request = StreamRequest::new(stream, address);
    assert!(!request.is_disconnected());
    reset(client);
    wait_until("it is noticed", || request.is_disconnected());
}

fn a_connection_that_the_server_ends_is_disconnected() {
    let (runs, gave_up) = (Gate::default(), Gate::default());
    let (begun, ended) = (runs.clone(), gave_up.clone());
    let handler = move |request: &mut TcpRequest| {
        begun.open();
        wait_until("it is to give up", || request.is_disconnected());
        ended.open();
    };
    let running = ThreadingTcpServer::new("127.0.0.1:0", handler).spawn().unwrap();
    let client = connect(running.server_address());
    runs.wait();
    assert!(running.handle().close_connection(1));
    gave_up.wait();
    drop(client);
    running.stop().unwrap();
}

fn a_request_knows_both_addresses_and_its_number() {
    let handler = |request: &mut TcpRequest| -> Handled {
        let (client, server) = (request.client_address().clone(), request.server().clone());
        let address = server.server_address().expect("it has a server");
        writeln!(request, "{client} {address} {}", server.number())
    };
    let running = ThreadingTcpServer::new("127.0.0.1:0", handler).spawn().unwrap();
    for number in 1..=3 {
        let client = connect(running.server_address());
        let expected = format!(
            "{} {} {number}\n",
            client.local_addr().unwrap(),
            inet(running.server_address())
        );
        assert_eq!(read_to_end(client), expected.as_bytes());
    }
    running.stop().unwrap();
}

// "Handlers are hard to test alone" in Python, whose constructor runs them.
fn a_handler_is_driven_in_memory() {
    let mut request = StreamRequest::new(MemoryStream::new("line\nanother\n"), ("10.0.0.1", 1));
    run_handler(&EchoLine, &mut request).unwrap();
    assert_eq!(request.get_ref().written(), b"line\n");
    assert_eq!(request.client_address().to_string(), "10.0.0.1:1");
}

fn a_handler_that_fails_in_memory_says_why() {
    let handler = |request: &mut StreamRequest<MemoryStream>| -> Handled { request.read_exact(&mut [0; 5]) };
    let mut request = StreamRequest::new(MemoryStream::new("four"), "a client");
    let error = run_handler(&handler, &mut request).unwrap_err();
    let error: &io::Error = error.downcast_ref().expect("an I/O error");
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}

fn a_request_in_memory_has_no_server() {
    let request = StreamRequest::new(MemoryStream::default(), "a client");
    let server = request.server();
    assert!(!server.is_draining() && server.shutdown_handle().is_none() && server.server_address().is_none());
    assert_eq!(server.number(), 0);
    server.shutdown();
    assert!(!server.is_draining());
}
