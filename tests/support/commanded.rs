//! A handler that does what its client says, for servers whose processes are looked at.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::{Signal, raise};
use socketserver::Running;
use socketserver::prelude::*;

use super::{CEILING, children, wait_until};

/// Tells its process and the request's number, then does what the client's line says, then says `done`.
#[derive(Clone)]
pub struct Commanded;

impl<S: Stream> BaseRequestHandler<StreamRequest<S>> for Commanded {
    fn handle(&mut self, request: &mut StreamRequest<S>) -> HandlerResult {
        let mut order = String::new();
        request.read_line(&mut order)?;
        let number = request.server().number();
        writeln!(request, "{} {number}", std::process::id())?;
        match order.trim() {
            "" => {}
            // The raw stream: the server cannot see that the connection is idle.
            "hold" => drop(request.get_mut().read_to_end(&mut Vec::new())?),
            "idle" => drop(request.read_to_end(&mut Vec::new())?),
            "fail" => return Err("as told".into()),
            "panic" => std::panic::resume_unwind(Box::new("as told")),
            "die" => raise(Signal::SIGKILL)?,
            "exit" => std::process::exit(0),
            "hang" => loop {
                std::thread::sleep(CEILING);
            },
            "beat" => for_a_second(|| {
                request.server().heartbeat();
                Ok(())
            })?,
            "write" => for_a_second(|| request.write_all(b".\n"))?,
            "shutdown" => request.server().shutdown(),
            "until draining" => wait_until("the server drains", || request.server().is_draining()),
            order => return Err(format!("what is `{order}`?").into()),
        }
        Ok(request.write_all(b"done\n")?)
    }
}

fn for_a_second(mut step: impl FnMut() -> std::io::Result<()>) -> std::io::Result<()> {
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(10));
        step()?;
    }
    Ok(())
}

/// A connection to [`Commanded`], in progress.
pub struct Client {
    stream: BufReader<TcpStream>,
    pub process: u32,
    pub number: u64,
}

impl Client {
    /// Connects and tells what to do; returns once the request is in progress.
    #[track_caller]
    pub fn start(address: &str, order: &str) -> Self {
        Self::try_start(address, order).unwrap()
    }

    /// # Errors
    ///
    /// The connection was lost before the handler had begun.
    pub fn try_start(address: &str, order: &str) -> std::io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(CEILING))?;
        stream.write_all(format!("{order}\n").as_bytes())?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((process, number)) = line.trim_end().split_once(' ') else {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        };
        let (process, number) = (process.parse().unwrap(), number.parse().unwrap());
        Ok(Client {
            stream,
            process,
            number,
        })
    }

    /// Its own address.
    pub fn address(&self) -> SocketAddr {
        self.stream.get_ref().local_addr().unwrap()
    }

    /// Says that the client is done. Whoever waits for that may have a copy of the descriptor.
    pub fn finish_sending(&self) {
        self.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    }

    /// Ends the request, which succeeds.
    #[track_caller]
    pub fn finish(self) {
        self.finish_sending();
        assert_eq!(self.rest(), "done\n");
    }

    /// What comes until the server closes the connection.
    #[track_caller]
    pub fn rest(self) -> String {
        self.try_rest().unwrap()
    }

    /// # Errors
    ///
    /// The connection was lost.
    pub fn try_rest(mut self) -> std::io::Result<String> {
        let mut rest = String::new();
        self.stream.read_to_string(&mut rest)?;
        Ok(rest)
    }

    /// Waits until the connection is lost.
    #[track_caller]
    pub fn expect_loss(mut self) {
        let mut rest = String::new();
        let end = self.stream.read_to_string(&mut rest);
        if let Err(error) = end {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
        assert_eq!(rest, "");
    }
}

/// One request from its beginning to its end. Returns the process that served it.
#[track_caller]
pub fn request(address: &str) -> u32 {
    let client = Client::start(address, "");
    let process = client.process;
    client.finish();
    process
}

/// How a process ends that a signal kills, as text.
pub fn killed_by(signal: Signal) -> String {
    ExitStatus::from_raw(signal as i32).to_string()
}

/// Serves in this process, and waits until there are `workers`.
#[track_caller]
pub fn serve(server: impl BaseServer, workers: usize) -> (Running, String) {
    let running = server.spawn().unwrap();
    let address = running.server_address().to_string();
    wait_until("the workers are there", || children().len() == workers);
    (running, address)
}

#[track_caller]
pub fn stop(running: Running, served: u64, failed: u64) {
    let report = running.stop().unwrap();
    assert_eq!((report.served, report.failed, report.leaked), (served, failed, 0));
    assert_eq!(children(), [], "no worker is left");
}
