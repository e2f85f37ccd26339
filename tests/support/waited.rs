//! What comes of waiting for a server where that is an error.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use socketserver::WaitError;
use socketserver::prelude::*;

/// What each wait for a server has come to. Clones collect together.
#[derive(Clone, Default)]
pub struct Waited(Arc<Mutex<Vec<Result<(), WaitError>>>>);

impl Waited {
    pub fn wait_for(&self, server: &impl BaseServer) {
        let waited = server.shutdown_handle().wait_timeout(Duration::ZERO);
        self.0.lock().unwrap().push(waited);
    }

    pub fn take(&self) -> Vec<Result<(), WaitError>> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}
