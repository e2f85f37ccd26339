//! Socket filters: what the kernel is to drop before it reaches a socket (`SO_ATTACH_FILTER`, socket(7)).

use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc::{
    self, BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, sock_filter, sock_fprog,
    socklen_t,
};

/// The flags in a TCP header: byte 13 (RFC 9293, 3.1), where a filter on a TCP socket sees the packet
/// from that header on.
const FLAGS: u32 = 13;
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;

const DROP: sock_filter = instruction(BPF_RET | BPF_K, 0);
const PASS: sock_filter = instruction(BPF_RET | BPF_K, u32::MAX);

/// Lets no further connection begin at a TCP listener, as if its SYN had been lost on the way; those that
/// have begun go on. What has an ACK must pass: it ends the handshake of a connection that is being born,
/// which goes through the listener and, once born, has the listener's filter itself.
pub(crate) fn refuse_connections(listener: BorrowedFd<'_>) -> io::Result<()> {
    attach(
        listener,
        &mut [
            instruction(BPF_LD | BPF_B | BPF_ABS, FLAGS),
            instruction(BPF_ALU | BPF_AND | BPF_K, SYN | ACK),
            // Equal: the next one; else: the one after it.
            sock_filter {
                jf: 1,
                ..instruction(BPF_JMP | BPF_JEQ | BPF_K, SYN)
            },
            DROP,
            PASS,
        ],
    )
}

/// Lets no further datagram into a socket's queue; what is queued stays.
pub(crate) fn refuse_datagrams(socket: BorrowedFd<'_>) -> io::Result<()> {
    attach(socket, &mut [DROP])
}

#[expect(clippy::cast_possible_truncation, reason = "an opcode of classic BPF has 16 bits")]
const fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

fn attach(socket: BorrowedFd<'_>, program: &mut [sock_filter]) -> io::Result<()> {
    let option = sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_mut_ptr(),
    };
    let length = socklen_t::try_from(size_of_val(&option)).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the socket is open; `option` is a sock_fprog of the length given, whose pointer and length
    // are those of `program`, which outlives the call. The kernel copies it and refuses what it cannot run.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const option).cast(),
            length,
        )
    };
    Errno::result(outcome)?;
    Ok(())
}
