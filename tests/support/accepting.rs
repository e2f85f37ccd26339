//! A strategy of one's own.

use std::io;
use std::thread;

use socketserver::prelude::*;
use socketserver::{Acceptor, Capacity, LimitKind};

/// A strategy whose threads accept for themselves.
pub struct Accepting<S> {
    inner: S,
    threads: usize,
    places: usize,
}

impl<S: BaseServer> Accepting<S> {
    pub fn over(inner: S, threads: usize) -> Self {
        Accepting {
            inner,
            threads,
            places: usize::MAX,
        }
    }

    /// Serves so many at once, if there are more threads.
    pub fn places(mut self, places: usize) -> Self {
        self.places = places;
        self
    }
}

impl<S: BaseServer> BaseServer for Accepting<S> {
    type Transport = S::Transport;
    type Inner = S;
    const CONCURRENCY: Concurrency = Concurrency::Threads;

    fn inner(&self) -> &S {
        &self.inner
    }

    fn serve(&self, acceptor: Acceptor<S::Transport>) -> io::Result<()> {
        thread::scope(|scope| {
            let accept = |mut acceptor: Acceptor<S::Transport>| {
                while let Some(job) = acceptor.next()? {
                    acceptor.process(job)?;
                }
                Ok(())
            };
            let threads: Vec<_> = (1..self.threads)
                .map(|_| {
                    let acceptor = acceptor.clone();
                    scope.spawn(move || accept(acceptor))
                })
                .collect();
            let first = accept(acceptor);
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .fold(first, Result::and)
        })
    }

    fn capacity(&self) -> Capacity {
        self.inner.capacity().and(self.places.into(), LimitKind::Connections)
    }
}
