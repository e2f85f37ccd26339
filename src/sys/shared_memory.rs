//! Memory that a process shares with those that it forks.

use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// `N` words, 0 at first, that a process and those it forks afterwards all see (`MAP_SHARED`, mmap(2)).
///
/// What one writes, the others read; a process that is killed leaves what it had written. Dropped in one
/// process, the words stay for the others.
#[derive(Debug)]
pub(crate) struct SharedWords<const N: usize> {
    words: NonNull<[AtomicU64; N]>,
}

// SAFETY: it is the only owner of the mapping in this process, which no thread in particular has made.
unsafe impl<const N: usize> Send for SharedWords<N> {}

// SAFETY: all access is to atomics.
unsafe impl<const N: usize> Sync for SharedWords<N> {}

impl<const N: usize> SharedWords<N> {
    const SIZE: NonZeroUsize = NonZeroUsize::new(size_of::<[AtomicU64; N]>()).expect("there are words");

    /// # Errors
    ///
    /// The system has no memory, or the process too many mappings (mmap(2)).
    pub(crate) fn new() -> io::Result<Self> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory that is in use.
        let memory = unsafe { mmap_anonymous(None, Self::SIZE, protection, MapFlags::MAP_SHARED) }?;
        Ok(SharedWords { words: memory.cast() })
    }
}

impl<const N: usize> Deref for SharedWords<N> {
    type Target = [AtomicU64; N];

    fn deref(&self) -> &Self::Target {
        // SAFETY: the mapping lives as long as `self`, is aligned to a page and as large as the type, and zero
        // bytes, which it begins with, are a value of it. Other threads and processes go through atomics too,
        // which are free of locks for this width on every target that Rust offers `AtomicU64` for.
        unsafe { self.words.as_ref() }
    }
}

impl<const N: usize> Drop for SharedWords<N> {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, of this size, and no reference into it outlives the value.
        let _ = unsafe { munmap(self.words.cast(), Self::SIZE.get()) };
    }
}
