//! Device memory: one account for the engine, and a pool of blocks for each session.

use std::sync::{Arc, Mutex, Weak};

use cudarc::driver::result;
use cudarc::driver::sys::{CUdeviceptr, CUgraph, CUstreamCaptureMode};

use super::device::{Device, lock};
use super::stream::Stream;
use crate::backend::account::{Account, best_fit, rounded, worth};
use crate::util::error::{Error, Result, Status, bail, error};

/// The engine's account of weights and activations on a device, in bytes as allocated.
pub(super) struct Memory {
    pub(super) account: Account,
    /// Every session's pool: what they hold in reserve is given up before an allocation fails.
    pools: Mutex<Vec<Weak<Pool>>>,
}

impl Memory {
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self { account: Account::new(limit), pools: Mutex::new(Vec::new()) }
    }

    /// Frees every pool's unused blocks; whether there were any.
    fn trim(&self) -> bool {
        // The pools are collected first: dropping the last reference to one must not happen under this lock.
        let pools: Vec<Arc<Pool>> = lock(&self.pools).iter().filter_map(Weak::upgrade).collect();
        pools.iter().map(|pool| pool.trim()).fold(false, |any, trimmed| any | trimmed)
    }

    fn exhausted(&self, device: &Device, what: &str, bytes: usize) -> Error {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let (needs, used) = (mib(bytes as u64), mib(self.account.used()));
        match self.account.limit() {
            Some(limit) => error!(
                DeviceOutOfMemory,
                "{what} needs {needs} MiB of {}, {used} of the limit of {} MiB in use",
                device.name(),
                limit >> 20
            ),
            None => error!(
                DeviceOutOfMemory,
                "{what} needs {needs} MiB of {}, {used} of {} MiB in use",
                device.name(),
                mib(device.total_memory())
            ),
        }
    }
}

/// Device memory booked on the engine's account, for example of a weight. It starts on a multiple of 256 bytes.
pub(super) struct Buffer {
    pointer: CUdeviceptr,
    bytes: usize,
    /// Whether a recording uses it, see [`Capture::end`].
    recorded: bool,
    device: Arc<Device>,
}

impl Buffer {
    /// At least `bytes` bytes of whatever values; `what` names them in the error. The context has to be bound.
    pub(super) fn new(device: &Arc<Device>, bytes: usize, what: &str) -> Result<Self> {
        let Some(bytes) = rounded(bytes) else {
            bail!(DeviceOutOfMemory, "{what} needs more memory than can be addressed");
        };
        let memory = &device.memory;
        if !memory.account.reserve(bytes) {
            memory.trim();
            if !memory.account.reserve(bytes) {
                return Err(memory.exhausted(device, what, bytes));
            }
        }
        // SAFETY: `Buffer` frees the memory, and nobody reads it before writing to it.
        let allocate = || device.check(what, unsafe { result::malloc_sync(bytes) });
        let pointer = match allocate() {
            Err(error) if error.status() == Status::DeviceOutOfMemory && memory.trim() => allocate(),
            first => first,
        };
        match pointer {
            Ok(pointer) => Ok(Self { pointer, bytes, recorded: false, device: Arc::clone(device) }),
            Err(error) => {
                memory.account.release(bytes);
                let out_of_memory = error.status() == Status::DeviceOutOfMemory;
                Err(if out_of_memory { memory.exhausted(device, what, bytes) } else { error })
            }
        }
    }

    /// Where it starts.
    pub(super) fn pointer(&self) -> CUdeviceptr {
        self.pointer
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(_callers) = self.device.bind_to_drop() {
            // SAFETY: allocated in `new`. The driver waits for work that uses it; if the device is lost it refuses, and
            // the memory goes with the context.
            let _ = unsafe { result::free_sync(self.pointer) };
        }
        self.device.memory.account.release(self.bytes);
    }
}

/// Blocks that nobody uses. Those of a recording go back to the session's when the recording and the last block on loan
/// from it are gone.
struct Shelf {
    free: Mutex<Vec<Buffer>>,
    parent: Option<Arc<Shelf>>,
}

impl Drop for Shelf {
    fn drop(&mut self) {
        if let Some(parent) = &self.parent {
            for mut buffer in lock(&self.free).drain(..) {
                buffer.recorded = false;
                lock(&parent.free).push(buffer);
            }
        }
    }
}

/// A session's blocks on a device, and the stream that works on them. A dropped activation's block is kept for the next
/// of about its size, which may use it at once: the stream does one thing after the other. So a step that has run once
/// allocates nothing.
pub(super) struct Pool {
    device: Arc<Device>,
    pub(super) stream: Stream,
    session: Arc<Shelf>,
    /// That of the recording while there is one, see [`Pool::begin_recording`]. Locked also while the driver is told
    /// that a recording begins and ends, so that [`Pool::trim`] does not disturb it.
    recording: Mutex<Option<Arc<Shelf>>>,
}

/// The memory of a recording, which its work goes on using when it is replayed.
pub(super) struct RecordedMemory {
    _shelf: Arc<Shelf>,
}

impl Pool {
    pub(super) fn new(device: &Arc<Device>) -> Result<Arc<Self>> {
        let pool = Arc::new(Self {
            device: Arc::clone(device),
            stream: Stream::new(device)?,
            session: Arc::new(Shelf { free: Mutex::default(), parent: None }),
            recording: Mutex::new(None),
        });
        let mut pools = lock(&device.memory.pools);
        pools.retain(|other| other.strong_count() > 0);
        pools.push(Arc::downgrade(&pool));
        Ok(pool)
    }

    /// At least `bytes` bytes with whatever values were last in them: the smallest free block that fits, unless it is
    /// more than twice too large, else new memory. None at all for 0 bytes.
    ///
    /// In a recording there is no new memory, and a free block may be too large; if none fits this fails with
    /// `DeviceOutOfMemory`.
    pub(super) fn take(&self, bytes: usize, what: &str) -> Result<Block> {
        let recording = lock(&self.recording).clone();
        let shelf = recording.as_ref().unwrap_or(&self.session);
        if bytes == 0 {
            return Ok(Block { buffer: None, shelf: Arc::clone(shelf) });
        }
        let most = if recording.is_some() { usize::MAX } else { worth(bytes) };
        let mut free = lock(&shelf.free);
        let best = best_fit(free.iter().map(|buffer| buffer.bytes), bytes, most);
        let reused = best.map(|i| free.swap_remove(i));
        drop(free);
        let mut buffer = match reused {
            Some(buffer) => buffer,
            None if recording.is_some() => bail!(DeviceOutOfMemory, "{what}: no memory for a recording"),
            None => Buffer::new(&self.device, bytes, what)?,
        };
        buffer.recorded = recording.is_some();
        Ok(Block { buffer: Some(buffer), shelf: Arc::clone(shelf) })
    }

    /// Frees the unused blocks when the stream no longer works on them; whether there were any.
    fn trim(&self) -> bool {
        let recording = lock(&self.recording);
        if recording.is_some() {
            return false;
        }
        let free = std::mem::take(&mut *lock(&self.session.free));
        if free.is_empty() {
            return false;
        }
        // If the stream has failed, so has the device, and freeing fails in its turn.
        let _ = self.stream.synchronize("freeing memory");
        true
    }

    /// Lets the stream record from here on what it is told to do, on memory of the recording's own: the session's free
    /// blocks. It is this thread that has to tell it.
    pub(super) fn begin_recording(&self) -> Result<Capture<'_>> {
        let mut recording = lock(&self.recording);
        let free = std::mem::take(&mut *lock(&self.session.free));
        let shelf = Shelf { free: Mutex::new(free), parent: Some(Arc::clone(&self.session)) };
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream exists.
        let begun = unsafe { result::stream::begin_capture(self.stream.handle(), mode) };
        self.device.check("recording", begun)?;
        *recording = Some(Arc::new(shelf));
        Ok(Capture { pool: self, ended: false })
    }
}

/// A recording that goes on. It ends at the latest when this is dropped: the driver refuses much to a thread while one of
/// its recordings does.
pub(super) struct Capture<'a> {
    pool: &'a Pool,
    ended: bool,
}

impl Capture<'_> {
    /// What was recorded, and the memory that it uses. What it did not come to use goes back to the session.
    pub(super) fn end(mut self) -> (Result<CUgraph>, RecordedMemory) {
        self.finish()
    }

    fn finish(&mut self) -> (Result<CUgraph>, RecordedMemory) {
        self.ended = true;
        let pool = self.pool;
        let mut recording = lock(&pool.recording);
        // SAFETY: the stream exists, and this thread began to capture it.
        let graph = unsafe { result::stream::end_capture(pool.stream.handle()) };
        let shelf = recording.take().unwrap_or_else(|| Arc::clone(&pool.session));
        let free = std::mem::take(&mut *lock(&shelf.free));
        let (used, unused): (Vec<Buffer>, Vec<Buffer>) = free.into_iter().partition(|b| b.recorded);
        *lock(&shelf.free) = used;
        lock(&pool.session.free).extend(unused);
        (pool.device.check("recording", graph), RecordedMemory { _shelf: shelf })
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if let (Ok(graph), _memory) = self.finish()
            && !graph.is_null()
        {
            // SAFETY: just made, and nobody else's.
            let _ = unsafe { result::graph::destroy(graph) };
        }
    }
}

/// Device memory on loan from a pool. It may be dropped on any thread.
pub(super) struct Block {
    /// Always there until `drop` takes it, but for blocks of 0 bytes.
    buffer: Option<Buffer>,
    shelf: Arc<Shelf>,
}

impl Block {
    /// Where it starts; 0 for a block of 0 bytes.
    pub(super) fn pointer(&self) -> CUdeviceptr {
        self.buffer.as_ref().map_or(0, Buffer::pointer)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            lock(&self.shelf.free).push(buffer);
        }
    }
}
