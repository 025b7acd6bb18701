//! Memory: one account for the engine, and a pool of activation buffers for each session.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, Weak};

use memmap2::{MmapMut, MmapOptions};

use super::threads::lock;
use crate::backend::account::{Account, best_fit, rounded, worth};
use crate::util::error::{Result, bail, error};

/// Every buffer starts on a cache line, which is also the widest vector.
const ALIGN: usize = 64;
/// Buffers of this size and more are pages of their own, which the kernel clears when they are first written, on the
/// thread that does, and has back at once when they are freed. They start on a huge page and ask for such pages: fewer
/// TLB misses in long strides.
const HUGE_PAGE: usize = 2 << 20;

/// The engine's account of weights and activations, in bytes as allocated.
pub(super) struct Memory {
    pub(super) account: Account,
    /// Every session's pool: what they hold in reserve is given up before an allocation fails.
    pools: Mutex<Vec<Weak<Pool>>>,
}

impl Memory {
    pub(super) fn new(limit: Option<u64>) -> Arc<Self> {
        Arc::new(Self { account: Account::new(limit), pools: Mutex::new(Vec::new()) })
    }

    /// Frees every pool's unused buffers.
    fn trim(&self) {
        // The pools are collected first: dropping the last reference to one must not happen under this lock.
        let pools: Vec<Arc<Pool>> = lock(&self.pools).iter().filter_map(Weak::upgrade).collect();
        pools.iter().for_each(|pool| pool.trim());
    }

    /// What the limit leaves when every pool's unused buffers are freed.
    pub(super) fn available(&self) -> Option<u64> {
        let limit = self.account.limit()?;
        let pools: Vec<Arc<Pool>> = lock(&self.pools).iter().filter_map(Weak::upgrade).collect();
        let reserve = |pool: &Arc<Pool>| lock(&pool.free).iter().map(Buffer::capacity).sum::<usize>() as u64;
        let used = self.account.used().saturating_sub(pools.iter().map(reserve).sum());
        Some(limit.saturating_sub(used))
    }

    fn exhausted(&self, what: &str, bytes: usize) -> crate::util::error::Error {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let (needs, used) = (mib(bytes as u64), mib(self.account.used()));
        match self.account.limit() {
            Some(limit) => {
                error!(
                    OutOfMemory,
                    "{what} needs {needs} MiB, {used} of the limit of {} MiB in use",
                    limit >> 20
                )
            }
            None => error!(OutOfMemory, "{what} needs {needs} MiB, {used} MiB in use"),
        }
    }
}

/// Where a buffer's bytes are, and how they are given back.
enum Allocation {
    Heap(NonNull<u8>, Layout),
    Pages(MmapMut),
}

impl Allocation {
    /// `size` zero bytes, not none; `None` if there is too little memory.
    fn new(size: usize) -> Option<Self> {
        if size < HUGE_PAGE {
            let layout = Layout::from_size_align(size, ALIGN).ok()?;
            // SAFETY: the layout's size is not zero.
            return NonNull::new(unsafe { alloc_zeroed(layout) }).map(|ptr| Self::Heap(ptr, layout));
        }
        // What lies before the first huge page is never touched, so it is no memory.
        let map = MmapOptions::new().len(size.checked_add(HUGE_PAGE)?).map_anon().ok()?;
        #[cfg(target_os = "linux")]
        {
            // Whole huge pages only: one for the rest would be more memory than was asked for. Advice: its failure
            // changes nothing.
            let start = map.as_ptr().align_offset(HUGE_PAGE);
            let _ = map.advise_range(memmap2::Advice::HugePage, start, size / HUGE_PAGE * HUGE_PAGE);
        }
        Some(Self::Pages(map))
    }

    fn start(&mut self) -> NonNull<u8> {
        match self {
            Self::Heap(ptr, _) => *ptr,
            Self::Pages(map) => {
                let before = map.as_ptr().align_offset(HUGE_PAGE);
                NonNull::from(&mut map[before..]).cast()
            }
        }
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if let Self::Heap(ptr, layout) = self {
            // SAFETY: allocated in `new` with this layout.
            unsafe { dealloc(ptr.as_ptr(), *layout) };
        }
    }
}

/// Aligned memory booked on the engine's account.
pub(super) struct Buffer {
    ptr: NonNull<u8>,
    size: usize,
    /// Owns what `ptr` points to.
    _allocation: Allocation,
    memory: Arc<Memory>,
}

// SAFETY: a buffer owns its memory; shared access is read-only.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// At least `bytes` zero bytes; `what` names them in the error.
    pub(super) fn new(memory: &Arc<Memory>, bytes: usize, what: &str) -> Result<Self> {
        let Some(size) = rounded(bytes) else {
            bail!(OutOfMemory, "{what} needs more memory than can be addressed");
        };
        if !memory.account.reserve(size) {
            memory.trim();
            if !memory.account.reserve(size) {
                return Err(memory.exhausted(what, size));
            }
        }
        let allocation = Allocation::new(size).or_else(|| {
            memory.trim();
            Allocation::new(size)
        });
        let Some(mut allocation) = allocation else {
            memory.account.release(size);
            return Err(memory.exhausted(what, size));
        };
        Ok(Self { ptr: allocation.start(), size, _allocation: allocation, memory: Arc::clone(memory) })
    }

    /// A copy of `bytes`.
    pub(super) fn from_bytes(memory: &Arc<Memory>, bytes: &[u8], what: &str) -> Result<Self> {
        let mut buffer = Self::new(memory, bytes.len(), what)?;
        // SAFETY: the buffer has at least as many bytes, and nothing else refers to it yet.
        unsafe { buffer.as_mut_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(buffer)
    }

    fn capacity(&self) -> usize {
        self.size
    }

    /// The first `len` bytes.
    pub(super) fn bytes(&self, len: usize) -> &[u8] {
        assert!(len <= self.capacity());
        // SAFETY: within the allocation, initialised, and mutable only through `&mut self`.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), len) }
    }

    /// The first `len` values.
    pub(super) fn f32(&self, len: usize) -> &[f32] {
        assert!(len <= self.capacity() / 4);
        // SAFETY: as `bytes`; any bits are an `f32`, and the memory is aligned to 64 bytes.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr().cast(), len) }
    }

    /// The first `len` values.
    pub(super) fn f32_mut(&mut self, len: usize) -> &mut [f32] {
        assert!(len <= self.capacity() / 4);
        // SAFETY: as `f32`, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr().cast(), len) }
    }

    /// The start, for tasks that write disjoint parts.
    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.ptr.as_ptr()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.memory.account.release(self.size);
    }
}

/// A session's activation buffers. A dropped activation's buffer is kept for the next of about its size, so a
/// step that has run once allocates nothing.
pub(super) struct Pool {
    memory: Arc<Memory>,
    free: Mutex<Vec<Buffer>>,
}

impl Pool {
    pub(super) fn new(memory: &Arc<Memory>) -> Arc<Self> {
        let pool = Arc::new(Self { memory: Arc::clone(memory), free: Mutex::new(Vec::new()) });
        let mut pools = lock(&memory.pools);
        pools.retain(|other| other.strong_count() > 0);
        pools.push(Arc::downgrade(&pool));
        pool
    }

    /// Frees the unused buffers.
    pub(super) fn trim(&self) {
        let free = std::mem::take(&mut *lock(&self.free));
        drop(free);
    }

    /// At least `bytes` bytes with whatever values were last in them: the smallest free buffer that fits, unless
    /// it is more than twice too large, else a new one.
    pub(super) fn take(self: &Arc<Self>, bytes: usize, what: &str) -> Result<Block> {
        let mut free = lock(&self.free);
        let best = best_fit(free.iter().map(Buffer::capacity), bytes, worth(bytes));
        let reused = best.map(|i| free.swap_remove(i));
        drop(free);
        let buffer = match reused {
            Some(buffer) => buffer,
            None => Buffer::new(&self.memory, bytes, what)?,
        };
        Ok(Block { buffer: Some(buffer), pool: Arc::clone(self) })
    }
}

/// A buffer on loan from a pool.
pub(super) struct Block {
    /// Always there until `drop` takes it.
    buffer: Option<Buffer>,
    pool: Arc<Pool>,
}

impl Block {
    /// The first `len` values.
    pub(super) fn f32(&self, len: usize) -> &[f32] {
        self.buffer.as_ref().map_or(&[], |buffer| buffer.f32(len))
    }

    /// The first `len` values.
    pub(super) fn f32_mut(&mut self, len: usize) -> &mut [f32] {
        self.buffer.as_mut().map_or(&mut [], |buffer| buffer.f32_mut(len))
    }

    /// The start, for tasks that write disjoint parts.
    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.buffer.as_mut().map_or(std::ptr::null_mut(), Buffer::as_mut_ptr)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            lock(&self.pool.free).push(buffer);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::util::error::Status;

    const MIB: usize = 1 << 20;

    #[test]
    fn buffers_are_reused_and_counted() {
        let memory = Memory::new(None);
        let pool = Pool::new(&memory);
        let first = pool.take(3 * MIB, "a").unwrap();
        let address = first.f32(1).as_ptr();
        assert_eq!(address as usize % ALIGN, 0);
        assert_eq!(memory.account.used(), 3 * MIB as u64);
        drop(first);
        let second = pool.take(2 * MIB, "b").unwrap();
        assert_eq!(second.f32(1).as_ptr(), address, "the free buffer fits");
        let third = pool.take(MIB, "c").unwrap();
        assert_eq!((memory.account.used(), memory.account.peak()), (4 * MIB as u64, 4 * MIB as u64));
        drop((second, third));
        let small = pool.take(MIB / 4, "d").unwrap();
        assert_eq!(memory.account.used(), (4 * MIB + MIB / 4) as u64, "no large buffer for a small need");
        drop((small, pool));
        assert_eq!(memory.account.used(), 0);
        assert_eq!(memory.account.peak(), (4 * MIB + MIB / 4) as u64);
    }

    #[test]
    fn the_limit_frees_reserves_first_and_then_fails() {
        let memory = Memory::new(Some(8 * MIB as u64));
        let (pool, other) = (Pool::new(&memory), Pool::new(&memory));
        drop(pool.take(5 * MIB, "a").unwrap());
        let kept = other.take(6 * MIB, "b").unwrap();
        assert_eq!(memory.account.used(), 6 * MIB as u64);
        let error = pool.take(3 * MIB, "conv2d").err().unwrap();
        assert_eq!(error.status(), Status::OutOfMemory);
        assert_eq!(error.message(), "conv2d needs 3 MiB, 6 of the limit of 8 MiB in use");
        drop(kept);
        pool.take(8 * MIB, "c").unwrap();
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        let memory = Memory::new(None);
        for bytes in [usize::MAX, usize::MAX / 2 - 8192, 1 << 52] {
            assert_eq!(Buffer::new(&memory, bytes, "x").err().unwrap().status(), Status::OutOfMemory);
        }
        assert_eq!(memory.account.used(), 0);
    }
}
