//! Strategies of one's own, in a handful of lines.

use std::thread;

use socketserver::prelude::*;

/// Runs each request in a thread that does not accept.
pub struct Detached<S>(pub S);

impl<S: BaseServer> BaseServer for Detached<S> {
    type Transport = S::Transport;
    type Inner = S;
    const CONCURRENCY: Concurrency = Concurrency::Threads;

    fn inner(&self) -> &S {
        &self.0
    }

    fn process_request(&self, job: Job<S::Transport>) {
        thread::spawn(move || job.run());
    }
}

/// Runs each request on the very thread that accepts, whatever strategy is inside.
pub struct InPlace<S>(pub S);

impl<S: BaseServer> BaseServer for InPlace<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn process_request(&self, job: Job<S::Transport>) {
        job.run();
    }
}
