//! How an example that serves begins and ends.

use std::io::{self, Write};

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
