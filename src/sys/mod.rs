//! The only unsafe code of the crate: system calls without a safe wrapper, most of them because what makes
//! them sound is a promise of the caller, and the lock that a signal handler may try. Each says which.

#![allow(
    unsafe_code,
    reason = "fork, signal handlers, timers, shared memory and descriptor replacement have no safe form; they live here \
              only"
)]

mod chmod;
mod descriptor;
mod filter;
mod memory;
mod packet_info;
mod policy;
mod process;
mod receive;
mod rename;
mod send;
mod signals;
mod tcp;
mod this_process;
mod timer;
mod try_lock;

pub(crate) use chmod::chmod_opened;
pub(crate) use descriptor::{is_shut_down, listen, replace, set_nonblocking};
pub(crate) use filter::{refuse_connections, refuse_datagrams};
pub(crate) use memory::{Words, check_room};
pub(crate) use packet_info::PacketInfo;
pub(crate) use policy::{scheduling_policy, set_scheduling_policy};
pub(crate) use process::{Fork, exit_now, fork, generation, next_generation, reap, watch_process};
pub(crate) use receive::{Received, Receiver};
pub(crate) use rename::rename_new;
pub(crate) use send::{Outgoing, may_be_of_an_earlier, send, send_past_reports};
pub(crate) use signals::{
    NUDGE, Reaction, SignalGuard, default_action, keep_errno, let_signals_come, on_signal, on_sigterm_in_worker,
    signal_thread, unblock,
};
pub(crate) use tcp::{reset, set_defer_accept, set_fast_open};
pub(crate) use this_process::ThisProcess;
pub(crate) use timer::Timer;
pub(crate) use try_lock::TryLock;
