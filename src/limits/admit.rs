//! What the limits make of a request that has been accepted and verified.

use super::Verdict;
use crate::acceptor::Turn;
use crate::job::Job;
use crate::observer::Event;
use crate::transport::Transport;

impl<T: Transport> Job<T> {
    /// Asks the limits, and does what they say.
    pub(crate) fn admit(mut self) -> Turn<T> {
        match self.ask_limits() {
            Verdict::Admit => Turn::Job(self.started()),
            Verdict::Hold(limit, turn) => {
                self.observe(|number, client_address| Event::Waiting {
                    number,
                    client_address,
                    limit,
                });
                let (server, active, ticket) = self.into_parts();
                let room = server.core().waiting_room();
                room.push(active, ticket, turn);
                // Whoever has ended the patience meanwhile may have looked before it was there.
                if server.core().shared().registry.is_forcing() {
                    room.drop_all(&server);
                }
                Turn::Again
            }
            Verdict::Reject(limit) => {
                log::debug!("rejecting {}: {limit} is reached", self.client_address());
                self.observe(|number, client_address| Event::Rejected {
                    number,
                    client_address,
                    limit,
                });
                // The ticket gives its place back when this is done.
                let (server, mut active, _ticket) = self.into_parts();
                server.reject_request(&mut active.request, limit);
                server.core().linger().push(&*server, active.request);
                Turn::Rejected
            }
            Verdict::TooLate => {
                self.drop_late();
                Turn::Again
            }
        }
    }
}
