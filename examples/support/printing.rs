//! What an example prints, and how it ends when it fails.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use signal_hook::consts::SIGPIPE;
use signal_hook::low_level::emulate_default_handler;

/// Writes to standard output or standard error. Where nobody reads any more (`| head`), it ends the program as it
/// ends others: by SIGPIPE, which Rust's runtime ignores.
pub(crate) fn print(mut to: impl Write, text: impl AsRef<[u8]>) -> io::Result<()> {
    let printed = to.write_all(text.as_ref()).and_then(|()| to.flush());
    if let Err(error) = &printed
        && error.kind() == ErrorKind::BrokenPipe
    {
        emulate_default_handler(SIGPIPE)?;
    }
    printed
}

/// Tells why the program fails; the status is 2 for what its caller has to mend.
pub(crate) fn failure(program: &str, error: &io::Error) -> ExitCode {
    let _ = print(io::stderr(), format!("{program}: {error}\n"));
    match error.kind() {
        ErrorKind::InvalidInput => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}
