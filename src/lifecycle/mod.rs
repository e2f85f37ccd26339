//! The life of a server: new → bound → serving → draining → closed, and who may ask for what when.

mod activity;
mod board;
mod busy;
mod drain;
mod handle;
mod inline;
mod master;
mod registry;
mod report;
mod running;
mod shared;
mod shutdown;
mod signals;
mod slab;
mod sleepers;
mod slot;
mod stamp;
mod state;
mod suspension;
mod ticket;
mod wakeup;

pub(crate) use activity::Activity;
pub(crate) use board::Board;
pub(crate) use drain::{Backlog, drain, drain_worker};
pub(crate) use master::{Duty, Master};
pub(crate) use registry::Registry;
pub(crate) use shared::{Closing, Shared};
pub(crate) use signals::run_actions;
pub(crate) use slot::{Order, Slot, Stage};
pub(crate) use ticket::{Pause, Ticket};
pub(crate) use wakeup::{Wakeup, event};

pub use handle::ServerHandle;
pub use report::Report;
pub use running::Running;
pub use shutdown::{ShutdownHandle, WaitError};
pub use signals::SignalAction;
pub use state::State;
