//! A process that may have less than usual (getrlimit(2)).

use std::fs;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// As long as it lives this process has the limit that it was made with.
#[must_use]
pub struct Limited {
    resource: Resource,
    soft: rlim_t,
    hard: rlim_t,
}

pub fn limited(resource: Resource, limit: rlim_t) -> Limited {
    let (soft, hard) = getrlimit(resource).unwrap();
    setrlimit(resource, limit, hard).unwrap();
    Limited { resource, soft, hard }
}

impl Drop for Limited {
    fn drop(&mut self) {
        setrlimit(self.resource, self.soft, self.hard).unwrap();
    }
}

/// There is no room for a stack of so many bytes any more, but for small ones.
pub fn without_room_for(stack: usize) -> Limited {
    limited(Resource::RLIMIT_AS, taken() + (stack / 2) as rlim_t)
}

/// How many bytes of addresses this process has taken (proc(5)).
fn taken() -> rlim_t {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let kilobytes: rlim_t = size.trim().trim_end_matches(" kB").parse().unwrap();
    kilobytes * 1024
}
