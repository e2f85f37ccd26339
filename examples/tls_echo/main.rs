//! Echoes what it gets over TLS. `tls.rs` is what makes a server of TLS of any other, to be copied.
//!
//! ```text
//! cargo run --example tls_echo -- --address 127.0.0.1:7777
//! openssl s_client -quiet -connect 127.0.0.1:7777
//! ```

#[path = "../support/printing.rs"]
mod printing;
#[path = "../support/serving.rs"]
mod serving;
mod tls;

use std::fmt::Display;
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Termination};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use socketserver::prelude::*;

use tls::Tls;

/// Echoes bytes over TLS until the client has ended, each in a thread, until SIGTERM or SIGINT stops it.
#[derive(Parser)]
#[command(after_help = "\
When ready it prints `listening on ADDRESS`. SIGTERM or SIGINT: requests in progress are waited for, then it prints
`stopped: served=N failed=N …`; the exit status is 0, or 1 if one had to be left behind or serving fails, and 2 when
the options make no sense.

Logs go to standard error; RUST_LOG=debug shows more of them.")]
struct Options {
    /// HOST:PORT to listen on; port 0: any free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    address: String,

    /// A file with the certificate and those that vouch for it, in PEM [default: one for `localhost` that nobody
    /// vouches for, made at each start].
    #[arg(long, value_name = "PEM", requires = "key")]
    cert: Option<PathBuf>,

    /// A file with the certificate's private key, in PEM.
    #[arg(long, value_name = "PEM", requires = "cert")]
    key: Option<PathBuf>,
}

/// Sends everything back. Nothing in it is about TLS.
#[derive(Clone)]
struct Echo;

impl<S: Stream> BaseRequestHandler<StreamRequest<S>> for Echo {
    fn handle(&mut self, request: &mut StreamRequest<S>) -> HandlerResult {
        let mut buffer = [0; 16 * 1024];
        loop {
            let count = request.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            request.write_all(&buffer[..count])?;
        }
    }
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match run(&Options::parse()) {
        // A failure if a request had to be left behind.
        Ok(report) => report.report(),
        Err(error) => printing::failure("tls_echo", &error),
    }
}

fn run(options: &Options) -> io::Result<Report> {
    let (certificates, key) = match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => (read_certificates(cert)?, read_key(key)?),
        _ => make_certificate()?,
    };
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(|error| invalid("the certificate or its key", &error))?;
    let server = ThreadingTcpServer::new(options.address.as_str(), Tls::over(Echo, Arc::new(config)))
        .handshake_timeout(Duration::from_secs(5))
        .idle_timeout(Duration::from_mins(1))
        .write_timeout(Duration::from_secs(30))
        .shutdown_on_signals([signal::SIGTERM, signal::SIGINT])
        .bind()?;
    serving::serve(server)
}

/// With what a server says who it is.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// For `localhost`, signed with its own key.
fn make_certificate() -> io::Result<Identity> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).map_err(io::Error::other)?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    Ok((vec![made.cert.into()], key.into()))
}

fn read_certificates(file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| invalid(file.display(), &error))
}

fn read_key(file: &Path) -> io::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| invalid(file.display(), &error))
}

fn invalid(what: impl Display, error: &dyn Display) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, format!("{what}: {error}"))
}
