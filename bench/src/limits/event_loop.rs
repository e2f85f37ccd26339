//! One thread and an epoll loop: what a connection costs when nothing is kept for it.

use std::io;

use nix::sys::socket::SockFlag;

use super::sys;
use crate::servers::Setup;

pub fn run(setup: &Setup) -> io::Result<()> {
    let listener = sys::open(setup, SockFlag::SOCK_NONBLOCK)?;
    let set = sys::epoll(&[listener])?;
    let mut ready = [libc::epoll_event { events: 0, u64: 0 }; 64];
    let mut buffer = vec![0; setup.buffer()];
    loop {
        let count = sys::epoll_wait(set, &mut ready).unwrap_or(0);
        for event in &ready[..count] {
            let number = event.u64;
            let fd = i32::try_from(number).unwrap_or(-1);
            if fd == listener {
                while let Ok(connection) = sys::accept(listener) {
                    sys::epoll_add(set, connection)?;
                }
            } else if !sys::echo_once(fd, &mut buffer) {
                sys::close(fd);
            }
        }
    }
}
