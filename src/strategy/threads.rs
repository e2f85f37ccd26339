//! The threads of [`Threading`](super::Threading): kept from one request to the next.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::mem;
use std::sync::{Arc, Condvar, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::accepting::Accepting;
use super::stack::StackSize;
use crate::acceptor::Acceptor;
use crate::job::Job;
use crate::mutex::Mutex;
use crate::transport::Transport;

/// How many threads accept at once. More of them wake each other up for one connection; with fewer,
/// under load, each request calls for another thread.
const ACCEPTING: usize = 4;

/// How long a thread is kept that has nothing to do.
const KEPT: Duration = Duration::from_secs(10);

/// Leader and followers: up to [`ACCEPTING`] threads accept for themselves. The last of them that turns
/// to a request first calls another thread to accept: one that rests, or a new one.
pub(super) struct Threads<T: Transport> {
    accepting: Accepting,
    stack_size: StackSize,
    books: Mutex<Books<T>>,
}

/// Which threads there are, and which of them are free.
struct Books<T: Transport> {
    /// Threads are kept: there is an accept loop that needs them again and again.
    keeping: bool,
    /// The threads that rest; the one that has rested least comes first, its memory is still warm.
    resting: Vec<Arc<Mailbox<T>>>,
    /// The number of the next new thread.
    next: usize,
    /// Each takes itself off when it ends, so that there are never more records than threads, and one.
    running: HashMap<usize, JoinHandle<()>>,
    /// The last thread that ended. The next one joins it, and closing the server the last.
    ended: Option<JoinHandle<()>>,
}

impl<T: Transport> Books<T> {
    /// In a worker process: the threads that `handle_request` has started before are its master's. Who joined one would
    /// wait for whichever thread has its memory here.
    fn forget_masters(&mut self) {
        let running = mem::take(&mut self.running).into_values();
        running.chain(self.ended.take()).for_each(mem::forget);
    }
}

/// What a thread is to do next.
enum Task<T: Transport> {
    /// Accept; it is counted as accepting already.
    Accept(Acceptor<T>),
    Run(Job<T>),
    /// End.
    Leave,
}

/// Where a thread finds its next task.
struct Mailbox<T: Transport> {
    task: Mutex<Option<Task<T>>>,
    given: Condvar,
}

impl<T: Transport> Mailbox<T> {
    fn new(task: Task<T>) -> Self {
        Mailbox {
            task: Mutex::new(Some(task)),
            given: Condvar::new(),
        }
    }

    fn give(&self, task: Task<T>) {
        *self.task.lock() = Some(task);
        self.given.notify_one();
    }

    fn take(&self) -> Option<Task<T>> {
        self.task.lock().take()
    }

    /// The next task, if it comes in time.
    fn wait(&self, timeout: Duration) -> Option<Task<T>> {
        let task = self.task.lock();
        let waited = self.given.wait_timeout_while(task, timeout, |task| task.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.take()
    }
}

impl<T: Transport> Threads<T> {
    pub(super) fn new(stack_size: StackSize) -> Self {
        Threads {
            accepting: Accepting::new(ACCEPTING),
            stack_size,
            books: Mutex::new(Books {
                keeping: false,
                resting: Vec::new(),
                next: 0,
                running: HashMap::new(),
                ended: None,
            }),
        }
    }

    pub(super) fn stack_size(&self) -> StackSize {
        self.stack_size
    }

    /// Lets threads accept until the server has stopped. This thread steps in when there can be no other.
    pub(super) fn serve(self: &Arc<Self>, mut acceptor: Acceptor<T>) -> io::Result<()> {
        if acceptor.shared().master().is_some() {
            self.books.lock().forget_masters();
        }
        self.books.lock().keeping = true;
        // Those that accept, and this one.
        acceptor.let_sleep(ACCEPTING + 1);
        let mut stopping = false;
        while !stopping {
            if self.call(&acceptor).is_ok() {
                stopping = acceptor.stand_by()?;
            } else {
                stopping = !accept_here(&mut acceptor)?;
            }
        }
        while !self.accepting.is_over() {
            if !self.accepting.is_idle() {
                if !acceptor.stand_by_stopping()? {
                    break;
                }
            } else if !accept_here(&mut acceptor)? {
                // All threads are busy, and the kernel has nothing queued any more.
                self.accepting.end();
            }
        }
        self.accepting.finish()
    }

    /// Sees to it that a thread accepts.
    fn call(self: &Arc<Self>, acceptor: &Acceptor<T>) -> io::Result<()> {
        let mut books = self.books.lock();
        if !self.accepting.is_idle() || !self.accepting.join() {
            return Ok(());
        }
        let called = self.give(&mut books, Task::Accept(acceptor.clone()));
        called.map_err(|(_, error)| {
            self.accepting.leave();
            error
        })
    }

    /// Runs a job: on this thread if it accepts for itself, else on another; gives it back if there can
    /// be none.
    pub(super) fn run(self: &Arc<Self>, job: Job<T>) -> Result<(), (Job<T>, io::Error)> {
        let Some(job) = self.accepting.run_here(job) else {
            return Ok(());
        };
        match self.give(&mut self.books.lock(), Task::Run(job)) {
            Err((Some(Task::Run(job)), error)) => Err((job, error)),
            _ => Ok(()),
        }
    }

    /// Gives a task to a thread that rests, or else to a new one. Not inlined: what it needs for a new thread would
    /// stay on the stack below each handler.
    #[inline(never)]
    fn give(self: &Arc<Self>, books: &mut Books<T>, task: Task<T>) -> Result<(), (Option<Task<T>>, io::Error)> {
        if let Some(mailbox) = books.resting.pop() {
            mailbox.give(task);
            return Ok(());
        }
        let mailbox = Arc::new(Mailbox::new(task));
        let number = books.next;
        let (threads, its_mailbox) = (Arc::clone(self), Arc::clone(&mailbox));
        let thread = self.stack_size.thread().name(format!("request-{number}"));
        match thread.spawn(move || threads.live(number, &its_mailbox)) {
            Ok(handle) => {
                books.next += 1;
                // The books are locked until the record is made, which the thread looks for when it ends.
                books.running.insert(number, handle);
                Ok(())
            }
            Err(error) => Err((mailbox.take(), error)),
        }
    }

    /// What a thread does from its first task to its end.
    fn live(self: &Arc<Self>, number: usize, mailbox: &Arc<Mailbox<T>>) {
        let mut acceptor = None;
        let mut task = mailbox.take();
        while let Some(current) = task {
            match current {
                Task::Accept(new) => self.accept(acceptor.insert(new.for_thread(number))),
                Task::Run(job) => job.run_handed_over(),
                Task::Leave => break,
            }
            task = self.rest(mailbox, acceptor.as_ref());
        }
        drop(acceptor);
        self.leave(number);
    }

    fn accept(self: &Arc<Self>, acceptor: &mut Acceptor<T>) {
        self.accepting.run(acceptor, |acceptor, last| {
            if last && self.call(acceptor).is_err() {
                // No other thread: the accept loop steps in while this one is busy.
                acceptor.shared().wake();
            }
        });
    }

    /// The next task of a thread that has done what it was to do; `None`: to end.
    fn rest(&self, mailbox: &Arc<Mailbox<T>>, acceptor: Option<&Acceptor<T>>) -> Option<Task<T>> {
        let mut books = self.books.lock();
        if !books.keeping || self.accepting.has_ended() {
            return None;
        }
        // Again under the lock: since this thread found enough others, the last of them may have looked
        // for one that rests, and found none.
        if let Some(acceptor) = acceptor
            && self.accepting.join()
        {
            return Some(Task::Accept(acceptor.clone()));
        }
        books.resting.push(Arc::clone(mailbox));
        drop(books);
        if let Some(task) = mailbox.wait(KEPT) {
            return Some(task);
        }
        let mut books = self.books.lock();
        match books.resting.iter().position(|resting| Arc::ptr_eq(resting, mailbox)) {
            Some(position) => {
                books.resting.remove(position);
                None
            }
            // It was called at the last moment.
            None => mailbox.take(),
        }
    }

    /// The calling thread is about to end.
    fn leave(&self, number: usize) {
        let mut books = self.books.lock();
        let Some(this) = books.running.remove(&number) else {
            return;
        };
        let before = books.ended.replace(this);
        drop(books);
        if let Some(before) = before {
            join(before);
        }
    }

    /// Lets the threads end that rest. If all requests have ended, waits for all threads: all they have
    /// still to do is to let go of the server, and its socket must not outlive it.
    pub(super) fn close(&self, all_ended: bool) {
        let mut books = self.books.lock();
        books.keeping = false;
        for mailbox in books.resting.drain(..) {
            mailbox.give(Task::Leave);
        }
        let running = if all_ended {
            mem::take(&mut books.running)
        } else {
            HashMap::new()
        };
        drop(books);
        running.into_values().for_each(join);
        while let Some(last) = self.take_ended() {
            join(last);
        }
    }

    /// A method, so that the books are not locked while the thread is joined: another that ends needs them.
    fn take_ended(&self) -> Option<JoinHandle<()>> {
        self.books.lock().ended.take()
    }
}

/// Accepts and serves one request on this thread; false if the server has stopped.
fn accept_here<T: Transport>(acceptor: &mut Acceptor<T>) -> io::Result<bool> {
    let Some(job) = acceptor.next()? else {
        return Ok(false);
    };
    acceptor.process(job)?;
    Ok(true)
}

fn join(thread: JoinHandle<()>) {
    // Its work catches panics; nothing is lost with the payload of one that got past it.
    let _ = thread.join();
}

impl<T: Transport> fmt::Debug for Threads<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let books = self.books.lock();
        f.debug_struct("Threads")
            .field("running", &books.running.len())
            .field("resting", &books.resting.len())
            .finish_non_exhaustive()
    }
}
