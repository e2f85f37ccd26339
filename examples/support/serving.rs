//! How an example that serves begins and ends.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use socketserver::prelude::*;

/// Serves with a bound server: says where it listens, and at its end what it has served.
pub(crate) fn serve(server: impl BaseServer) -> io::Result<Report> {
    let mut output = io::stdout();
    writeln!(output, "listening on {}", server.server_address())?;
    output.flush()?;
    let report = server.serve_forever()?;
    // Whoever started it may have stopped reading.
    let _ = writeln!(output, "stopped: {report}");
    Ok(report)
}

/// Tells why the program fails; the status is 2 for what its caller has to mend.
pub(crate) fn failure(program: &str, error: &io::Error) -> ExitCode {
    let _ = writeln!(io::stderr(), "{program}: {error}");
    match error.kind() {
        ErrorKind::InvalidInput => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}
