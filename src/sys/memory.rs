//! Memory that a process shares with those that it forks, and memory that they do not have.

use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// Whether this process may have another `bytes` of memory in one piece; none of it is touched.
///
/// # Errors
///
/// What the system says if not (mmap(2)).
pub(crate) fn check_room(bytes: usize) -> io::Result<()> {
    let Some(bytes) = NonZeroUsize::new(bytes) else {
        return Ok(());
    };
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address that the kernel chooses touches no memory that is in use.
    let memory = unsafe { mmap_anonymous(None, bytes, protection, MapFlags::MAP_PRIVATE) }?;
    // SAFETY: it is the mapping that was just made, which nobody else knows of.
    Ok(unsafe { munmap(memory, bytes.get()) }?)
}

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

    /// Words that a process and those it forks afterwards all see (`MAP_SHARED`, mmap(2)).
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
    /// A word that is 0 in what is forked (`MADV_WIPEONFORK`, madvise(2)).
    ///
    /// # Errors
    ///
    /// As [`shared`](Self::shared), or the system cannot do that: Linux before 4.14, a sandbox.
    pub(super) fn own() -> io::Result<Self> {
        let words = Self::map(MapFlags::MAP_PRIVATE)?;
        // SAFETY: the mapping is this value's own, whole pages of it, and zero bytes, which a forked process finds
        // there, are words as any.
        unsafe { madvise(words.words.cast(), Self::SIZE.get(), MmapAdvise::MADV_WIPEONFORK) }?;
        Ok(words)
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
