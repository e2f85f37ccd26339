//! What happened where, in order, across threads and forked children.

use std::cell::RefCell;
use std::fmt::Display;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nix::unistd::gettid;
use socketserver::prelude::*;

use super::wait_until;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub process: u32,
    pub thread: i32,
    pub event: String,
}

/// Reads what [`Pen`]s wrote, in whatever process.
pub struct Journal {
    reader: UnixStream,
    text: RefCell<Vec<u8>>,
}

/// Writes events; its clones write to the same journal, those in forked children too.
#[derive(Clone, Debug)]
pub struct Pen(Arc<UnixStream>);

pub fn journal() -> (Journal, Pen) {
    let (reader, writer) = UnixStream::pair().unwrap();
    reader.set_nonblocking(true).unwrap();
    let text = RefCell::default();
    (Journal { reader, text }, Pen(Arc::new(writer)))
}

impl Pen {
    pub fn note(&self, event: impl Display) {
        let line = format!("{} {} {event}\n", std::process::id(), gettid());
        (&*self.0).write_all(line.as_bytes()).unwrap();
    }
}

impl Journal {
    /// All entries so far.
    pub fn entries(&self) -> Vec<Entry> {
        let mut text = self.text.borrow_mut();
        if let Err(error) = (&self.reader).read_to_end(&mut text) {
            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
        }
        let text = str::from_utf8(&text).unwrap();
        text.lines().map(Entry::parse).collect()
    }

    /// All events so far.
    pub fn events(&self) -> Vec<String> {
        self.entries().into_iter().map(|entry| entry.event).collect()
    }

    /// The entries that begin with `event`.
    pub fn of(&self, event: &str) -> Vec<Entry> {
        let mut entries = self.entries();
        entries.retain(|entry| entry.event.starts_with(event));
        entries
    }

    /// How many events there are that begin with `event`.
    pub fn count(&self, event: &str) -> usize {
        self.of(event).len()
    }

    /// Waits until there is an event that begins with `event`.
    #[track_caller]
    pub fn wait_for(&self, event: &str) -> Entry {
        wait_until(&format!("the journal has `{event}`"), || self.count(event) > 0);
        self.of(event).remove(0)
    }
}

impl Entry {
    fn parse(line: &str) -> Self {
        let mut fields = line.splitn(3, ' ');
        let mut next = || fields.next().expect("PROCESS THREAD EVENT");
        Entry {
            process: next().parse().unwrap(),
            thread: next().parse().unwrap(),
            event: next().to_owned(),
        }
    }
}

/// A mix-in that notes the hooks of each request.
#[derive(Debug)]
pub struct Journaled<S> {
    inner: S,
    pen: Pen,
}

impl<S: BaseServer> Journaled<S> {
    pub fn over(inner: S, pen: &Pen) -> Self {
        Journaled {
            inner,
            pen: pen.clone(),
        }
    }
}

impl<S: BaseServer> BaseServer for Journaled<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn verify_request(&self, request: &RequestOf<Self>, client_address: &Address) -> bool {
        self.pen.note("verify_request");
        self.inner.verify_request(request, client_address)
    }

    fn process_request(&self, job: Job<Self::Transport>) {
        self.pen.note("process_request");
        self.inner.process_request(job);
    }

    fn finish_request(&self, active: &mut socketserver::Active<Self::Transport>) -> HandlerResult {
        self.pen.note("finish_request");
        self.inner.finish_request(active)
    }

    fn handle_error(&self, error: &RequestError) {
        self.pen.note(format_args!("handle_error: {error}"));
        self.inner.handle_error(error);
    }

    fn shutdown_request(&self, request: &mut RequestOf<Self>) {
        self.pen.note("shutdown_request");
        self.inner.shutdown_request(request);
    }

    fn close_request(&self, request: RequestOf<Self>) {
        self.pen.note("close_request");
        self.inner.close_request(request);
    }

    fn handle_timeout(&self) {
        self.pen.note("handle_timeout");
        self.inner.handle_timeout();
    }
}
