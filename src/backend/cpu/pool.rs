//! Memory: one account for the engine, and a pool of activation buffers for each session.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, Weak};

use super::pages::Pages;
use super::threads::lock;
use crate::backend::account::{Account, best_fit, in_chunks, rounded, worth};
use crate::util::error::{Result, bail, error};

/// Every buffer starts on a cache line, which is also the widest vector.
const ALIGN: usize = 64;
/// The smallest allocation, in bytes, that comes from the kernel: a heap would keep what is freed, and belongs to the
/// whole process.
const MAPPED: usize = 128 << 10;

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
        let reserves: usize = pools.iter().map(|pool| lock(&pool.free).bytes()).sum();
        let used = self.account.used().saturating_sub(reserves as u64);
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

/// Memory of the heap, for what is small.
struct Heap(NonNull<u8>, Layout);

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: allocated in `Allocation::new` with this layout.
        unsafe { dealloc(self.0.as_ptr(), self.1) };
    }
}

/// Where a buffer's bytes are.
enum Allocation {
    Heap(Heap),
    /// From [`MAPPED`] bytes on: what is freed goes back to the kernel, or to a pool in chunks.
    Pages(Pages),
    /// Nowhere any more.
    Gone,
}

impl Allocation {
    /// `size` zero bytes, not none; `None` if there is too little memory.
    fn new(size: usize) -> Option<Self> {
        if cfg!(target_os = "linux") && size >= MAPPED {
            return Pages::new(size).map(Self::Pages);
        }
        let layout = Layout::from_size_align(size, ALIGN).ok()?;
        // SAFETY: the layout's size is not zero.
        NonNull::new(unsafe { alloc_zeroed(layout) }).map(|ptr| Self::Heap(Heap(ptr, layout)))
    }

    fn start(&self) -> NonNull<u8> {
        match self {
            Self::Heap(heap) => heap.0,
            Self::Pages(pages) => pages.start(),
            Self::Gone => NonNull::dangling(),
        }
    }
}

/// Aligned memory booked on the engine's account.
pub(super) struct Buffer {
    ptr: NonNull<u8>,
    size: usize,
    /// Owns what `ptr` points to.
    allocation: Allocation,
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
        match allocation {
            Some(allocation) => Ok(Self::of(memory, size, allocation)),
            None => {
                memory.account.release(size);
                Err(memory.exhausted(what, size))
            }
        }
    }

    /// An allocation that is booked.
    fn of(memory: &Arc<Memory>, size: usize, allocation: Allocation) -> Self {
        Self { ptr: allocation.start(), size, allocation, memory: Arc::clone(memory) }
    }

    /// A copy of `bytes`.
    pub(super) fn from_bytes(memory: &Arc<Memory>, bytes: &[u8], what: &str) -> Result<Self> {
        let mut buffer = Self::new(memory, bytes.len(), what)?;
        // SAFETY: the buffer has at least as many bytes, and nothing else refers to it yet.
        unsafe { buffer.as_mut_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(buffer)
    }

    /// What a large one is made of, which stays on the account; nothing is left of the buffer.
    fn take_chunks(&mut self) -> Option<Pages> {
        in_chunks(self.size)?;
        match std::mem::replace(&mut self.allocation, Allocation::Gone) {
            Allocation::Pages(pages) => {
                self.size = 0;
                Some(pages)
            }
            other => {
                self.allocation = other;
                None
            }
        }
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

/// What a pool keeps for later, booked on the account.
#[derive(Default)]
struct Free {
    /// Small ones, for others of about their size.
    buffers: Vec<Buffer>,
    /// Whole chunks, for any large one.
    pages: Vec<Pages>,
}

impl Free {
    fn page_bytes(&self) -> usize {
        self.pages.iter().map(Pages::bytes).sum()
    }

    fn bytes(&self) -> usize {
        self.buffers.iter().map(Buffer::capacity).sum::<usize>() + self.page_bytes()
    }

    fn put(&mut self, mut buffer: Buffer) {
        match buffer.take_chunks() {
            Some(pages) => self.pages.push(pages),
            None => self.buffers.push(buffer),
        }
    }

    /// Pages of `bytes` in all, or as many as there are: in one piece if there is one, else in as few as possible.
    fn cut(&mut self, bytes: usize) -> Vec<Pages> {
        let (mut parts, mut missing) = (Vec::new(), bytes);
        while missing > 0 {
            let sizes = || self.pages.iter().map(Pages::bytes);
            let best = best_fit(sizes(), missing, usize::MAX)
                .or_else(|| sizes().enumerate().max_by_key(|&(_, size)| size).map(|(i, _)| i));
            let Some(best) = best else { break };
            let [part, rest] = self.pages.swap_remove(best).split(missing);
            missing -= part.bytes();
            parts.push(part);
            if rest.bytes() > 0 {
                self.pages.push(rest);
            }
        }
        parts
    }
}

/// A session's activation buffers. A dropped activation's buffer is kept for the next, so a step that has run once
/// allocates nothing. The pages of large ones go from any to any, so the pool never has more of them than were once in
/// use at a time.
pub(super) struct Pool {
    memory: Arc<Memory>,
    free: Mutex<Free>,
}

impl Pool {
    pub(super) fn new(memory: &Arc<Memory>) -> Arc<Self> {
        let pool = Arc::new(Self { memory: Arc::clone(memory), free: Mutex::default() });
        let mut pools = lock(&memory.pools);
        pools.retain(|other| other.strong_count() > 0);
        pools.push(Arc::downgrade(&pool));
        pool
    }

    /// Frees what is unused.
    fn trim(&self) {
        let free = std::mem::take(&mut *lock(&self.free));
        self.memory.account.release(free.page_bytes());
    }

    /// At least `bytes` bytes with whatever values were last in them. A large one is made of free pages, and new ones if
    /// they do not suffice; for a small one it is the smallest free buffer that fits, unless it is more than twice too
    /// large, else a new one.
    pub(super) fn take(self: &Arc<Self>, bytes: usize, what: &str) -> Result<Block> {
        let buffer = match in_chunks(bytes) {
            Some(bytes) => self.take_pages(bytes, what)?,
            None => {
                let mut free = lock(&self.free);
                let best = best_fit(free.buffers.iter().map(Buffer::capacity), bytes, worth(bytes));
                let reused = best.map(|i| free.buffers.swap_remove(i));
                drop(free);
                reused.map_or_else(|| Buffer::new(&self.memory, bytes, what), Ok)?
            }
        };
        Ok(Block { buffer: Some(buffer), pool: Arc::clone(self) })
    }

    /// `bytes` is a multiple of a chunk.
    fn take_pages(&self, bytes: usize, what: &str) -> Result<Buffer> {
        let (memory, account) = (&self.memory, &self.memory.account);
        let parts = lock(&self.free).cut(bytes);
        let have = parts.iter().map(Pages::bytes).sum();
        let missing = bytes - have;
        let book = || missing == 0 || account.reserve(missing);
        if !book() {
            memory.trim();
            if !book() {
                drop(parts);
                account.release(have);
                return Err(memory.exhausted(what, bytes));
            }
        }
        let pages = Pages::gather(parts, bytes).or_else(|| {
            memory.trim();
            Pages::new(bytes)
        });
        match pages {
            Some(pages) => Ok(Buffer::of(memory, bytes, Allocation::Pages(pages))),
            None => {
                account.release(bytes);
                Err(memory.exhausted(what, bytes))
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.trim();
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
            lock(&self.pool.free).put(buffer);
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
    #[cfg(target_os = "linux")]
    fn large_buffers_are_made_of_any_free_chunks() {
        let memory = Memory::new(None);
        let pool = Pool::new(&memory);
        let take = |mib: usize, value: f32| {
            let mut block = pool.take(mib * MIB, "a").unwrap();
            block.f32_mut(mib * MIB / 4).fill(value);
            block
        };
        let blocks = [take(4, 1.0), take(6, 2.0), take(9, 3.0)];
        assert_eq!(memory.account.used(), 20 * MIB as u64, "whole chunks");
        drop(blocks);
        let mut all = take(20, 4.0);
        drop(take(3, 5.0));
        assert_eq!(memory.account.used(), 23 * MIB as u64, "only what is too small for chunks is new");
        drop(std::mem::replace(&mut all, take(30, 6.0)));
        let parts = [take(13, 7.0), take(6, 8.0)];
        assert_eq!(memory.account.used(), 53 * MIB as u64, "parts of one that is free");
        for (block, mib, value) in [(&all, 30, 6.0), (&parts[0], 13, 7.0), (&parts[1], 6, 8.0)] {
            assert!(block.f32(mib * MIB / 4).iter().all(|&x| x == value), "{mib} MiB are its own");
        }
        drop((all, parts));
        assert_eq!(memory.available(), None);
        drop(pool);
        assert_eq!((memory.account.used(), memory.account.peak()), (0, 53 * MIB as u64));
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
