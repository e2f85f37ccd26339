//! A mix-in to stack.

use socketserver::prelude::*;
use socketserver::{Active, Job, RequestOf};

/// A mix-in that overrides what runs for each request and changes nothing.
pub struct Forward<S>(pub S);

impl<S: BaseServer> BaseServer for Forward<S> {
    type Transport = S::Transport;
    type Inner = S;

    fn inner(&self) -> &S {
        &self.0
    }

    fn verify_request(&self, request: &RequestOf<Self>, client_address: &Address) -> bool {
        self.inner().verify_request(request, client_address)
    }

    fn process_request(&self, job: Job<S::Transport>) {
        self.inner().process_request(job);
    }

    fn finish_request(&self, active: &mut Active<S::Transport>) -> HandlerResult {
        self.inner().finish_request(active)
    }
}
