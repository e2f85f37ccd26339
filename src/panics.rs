//! Running what is the program's own (hooks, handlers, values that they throw or return), and may panic.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a hook; `None` if it panics, which is logged and never ends the loop.
pub(crate) fn guarded<R>(hook: &str, run: impl FnOnce() -> R) -> Option<R> {
    let outcome = caught(run);
    if let Err(text) = &outcome {
        // The program's logger can panic, too: one that prints, once standard output is closed.
        let _ = caught(|| log::error!("{hook} panicked: {text}"));
    }
    outcome.ok()
}

/// What `run` returns, or the text of its panic.
pub(crate) fn caught<R>(run: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        let text = panic_message(payload.as_ref()).to_owned();
        discard(payload);
        text
    })
}

/// As [`caught`], for what returns an error anyway: a panic is one, which says `what` and its text.
pub(crate) fn panic_as_error<R>(what: &str, run: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
    caught(run).unwrap_or_else(|text| Err(io::Error::other(format!("{what}: {text}"))))
}

/// Drops what was thrown, or returned as an error: the program's own value, whose drop can panic.
pub(crate) fn discard<T>(value: T) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        // The next drop would, too.
        std::mem::forget(payload);
    }
}

/// The text of a panic, if it had one.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "(no message)"
    }
}
