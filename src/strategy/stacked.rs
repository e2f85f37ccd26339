//! For doc tests only: no two strategies in one stack build, whatever stands between them, but `PreFork` over
//! threads.
//!
//! The check fires when code is generated, which a test binary cannot catch and a doc test can.

/// A program with the strategies called one after the other, and whether it builds.
macro_rules! stacks {
    ($($name:ident, $build:literal: $($call:ident)+;)+) => {
        $(
            #[doc = concat!("```", $build)]
            /// use socketserver::prelude::*;
            ///
            /// struct MixIn<S>(S);
            ///
            /// impl<S: BaseServer> BaseServer for MixIn<S> {
            ///     type Transport = S::Transport;
            ///     type Inner = S;
            ///     fn inner(&self) -> &S {
            ///         &self.0
            ///     }
            /// }
            ///
            /// trait Wrap: BaseServer {
            ///     fn mix_in(self) -> MixIn<Self> {
            ///         MixIn(self)
            ///     }
            /// }
            ///
            /// impl<S: BaseServer> Wrap for S {}
            ///
            /// fn main() {
            ///     let server = TcpServer::new("127.0.0.1:0", |_: &mut TcpRequest| {});
            #[doc = concat!("    let server = server", $(".", stringify!($call), "()",)+ ";")]
            /// }
            /// ```
            struct $name;
        )+
    };
}

stacks! {
    // That these build shows that the others fail for the right reason.
    Threads, "": mix_in threading mix_in;
    Processes, "": mix_in forking mix_in;
    Pool, "": mix_in thread_pool mix_in;
    Workers, "": mix_in prefork mix_in;
    ThreadsInWorkers, "": threading prefork;
    PoolInWorkers, "": mix_in thread_pool mix_in prefork mix_in;

    ThreadsInThreads, "compile_fail,E0080": threading threading;
    ThreadsInProcesses, "compile_fail,E0080": threading forking;
    ThreadsInPool, "compile_fail,E0080": threading thread_pool;
    ProcessesInThreads, "compile_fail,E0080": forking threading;
    ProcessesInProcesses, "compile_fail,E0080": forking forking;
    ProcessesInPool, "compile_fail,E0080": forking thread_pool;
    PoolInThreads, "compile_fail,E0080": thread_pool threading;
    PoolInProcesses, "compile_fail,E0080": thread_pool forking;
    PoolInPool, "compile_fail,E0080": thread_pool thread_pool;
    ProcessesInWorkers, "compile_fail,E0080": forking prefork;
    WorkersInThreads, "compile_fail,E0080": prefork threading;
    WorkersInProcesses, "compile_fail,E0080": prefork forking;
    WorkersInPool, "compile_fail,E0080": prefork thread_pool;
    WorkersInWorkers, "compile_fail,E0080": prefork prefork;
    ThreadsAroundThreadsInWorkers, "compile_fail,E0080": threading prefork threading;
    AcrossAMixIn, "compile_fail,E0080": threading mix_in forking;
    WorkersAcrossAMixIn, "compile_fail,E0080": forking mix_in prefork;
    AcrossMixIns, "compile_fail,E0080": mix_in thread_pool mix_in mix_in threading;
}
