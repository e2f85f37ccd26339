//! Memory that a process shares with those that it forks, and memory that they do not have.

use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use nix::unistd::Pid;

/// `N` words, 0 at first, in pages of their own.
#[derive(Debug)]
pub(crate) struct Words<const N: usize> {
    words: NonNull<[AtomicU64; N]>,
}

// SAFETY: it is the only owner of the mapping in this process, which no thread in particular has made.
unsafe impl<const N: usize> Send for Words<N> {}

// SAFETY: all access is to atomics.
unsafe impl<const N: usize> Sync for Words<N> {}

impl<const N: usize> Words<N> {
    const SIZE: NonZeroUsize = NonZeroUsize::new(size_of::<[AtomicU64; N]>()).expect("there are words");

    /// That a process and those it forks afterwards all see (`MAP_SHARED`, mmap(2)).
    ///
    /// What one writes, the others read; a process that is killed leaves what it had written. Dropped in one
    /// process, the words stay for the others.
    ///
    /// # Errors
    ///
    /// The system has no memory, or the process too many mappings (mmap(2)).
    pub(crate) fn shared() -> io::Result<Self> {
        Self::map(MapFlags::MAP_SHARED)
    }

    fn map(flags: MapFlags) -> io::Result<Self> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory that is in use.
        let memory = unsafe { mmap_anonymous(None, Self::SIZE, protection, flags) }?;
        Ok(Words { words: memory.cast() })
    }
}

impl Words<1> {
    /// That are 0 in what is forked (`MADV_WIPEONFORK`, madvise(2)).
    ///
    /// # Errors
    ///
    /// As [`shared`](Self::shared), or the system cannot do that: Linux before 4.14, a sandbox.
    fn own() -> io::Result<Self> {
        let words = Self::map(MapFlags::MAP_PRIVATE)?;
        // SAFETY: the mapping is this value's own, whole pages of it; nothing relies on what it has in a forked process.
        unsafe { madvise(words.words.cast(), Self::SIZE.get(), MmapAdvise::MADV_WIPEONFORK) }?;
        Ok(words)
    }
}

/// Tells a process from what is forked from it: without a system call, where the system can.
#[derive(Debug)]
pub(crate) struct ThisProcess {
    /// 0 before it is [claimed](Self::claim).
    pid: AtomicI32,
    /// Not 0 where it was claimed.
    mark: Option<Words<1>>,
}

impl ThisProcess {
    /// Of no process yet: the one that claims it may be forked from this one.
    pub(crate) fn new() -> Self {
        ThisProcess {
            pid: AtomicI32::new(0),
            mark: Words::own().ok(),
        }
    }

    /// From now on it is of the calling process.
    pub(crate) fn claim(&self) {
        match self.mark.as_deref() {
            Some([mark]) => mark.store(1, Ordering::Relaxed),
            None => self.pid.store(Pid::this().as_raw(), Ordering::Relaxed),
        }
    }

    /// Whether this is the process that has claimed it.
    ///
    /// Async-signal-safe: atomics, and perhaps getpid(2).
    pub(crate) fn is_here(&self) -> bool {
        match self.mark.as_deref() {
            Some([mark]) => mark.load(Ordering::Relaxed) != 0,
            None => Pid::this().as_raw() == self.pid.load(Ordering::Relaxed),
        }
    }
}

impl<const N: usize> Deref for Words<N> {
    type Target = [AtomicU64; N];

    fn deref(&self) -> &Self::Target {
        // SAFETY: the mapping lives as long as `self`, is aligned to a page and as large as the type, and zero
        // bytes, which it begins with, are a value of it. Other threads and processes go through atomics too,
        // which are free of locks for this width on every target that Rust offers `AtomicU64` for.
        unsafe { self.words.as_ref() }
    }
}

impl<const N: usize> Drop for Words<N> {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, of this size, and no reference into it outlives the value.
        let _ = unsafe { munmap(self.words.cast(), Self::SIZE.get()) };
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    use super::*;

    /// Forks, and says what the child says.
    fn in_child(says: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child does nothing but look and end.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => crate::sys::exit_now(says().into()),
            ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
                WaitStatus::Exited(_, status) => status == 1,
                other => panic!("{other:?}"),
            },
        }
    }

    #[test]
    fn a_process_is_told_from_what_is_forked_from_it() {
        let by_pid = || ThisProcess {
            mark: None,
            ..ThisProcess::new()
        };
        for process in [ThisProcess::new(), by_pid()] {
            assert!(!process.is_here());
            let claims = || {
                process.claim();
                process.is_here() && !in_child(|| process.is_here())
            };
            assert!(in_child(claims));
            assert!(!process.is_here());
            assert!(claims());
        }
    }
}
