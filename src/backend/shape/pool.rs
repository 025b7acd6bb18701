//! A session's pool by the rule of the real ones.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::account::{Account, best_fit, in_chunks, rounded, worth};
use crate::util::error::{Result, bail};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory on the account.
pub(super) struct Buffer {
    bytes: usize,
    /// Whether a recording uses it.
    recorded: bool,
    account: Arc<Account>,
}

impl Buffer {
    pub(super) fn new(account: &Arc<Account>, bytes: usize) -> Result<Self> {
        let mut buffer = Self::empty(account);
        match rounded(bytes) {
            Some(bytes) => buffer.grow(bytes, || {})?,
            None => bail!(OutOfMemory, "a weight needs more memory than can be addressed"),
        }
        Ok(buffer)
    }

    fn empty(account: &Arc<Account>) -> Self {
        Self { bytes: 0, recorded: false, account: Arc::clone(account) }
    }

    /// To `bytes`. `trim` gives up what it can before the allocation fails.
    fn grow(&mut self, bytes: usize, trim: impl FnOnce()) -> Result<()> {
        let more = bytes - self.bytes;
        if !self.account.reserve(more) {
            trim();
            if !self.account.reserve(more) {
                bail!(OutOfMemory, "{bytes} bytes more than the limit has");
            }
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Takes `bytes` of `from`, or all that it has.
    fn take_from(&mut self, from: &mut Buffer, bytes: usize) {
        let bytes = bytes.min(from.bytes);
        from.bytes -= bytes;
        self.bytes += bytes;
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.account.release(self.bytes);
    }
}

/// Buffers that nobody uses; those of a recording go back to the session's when it is gone.
#[derive(Default)]
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

/// A session's buffers. What is said of recordings is as in the CUDA backend's pool, what is said of chunks as in the CPU's.
pub(super) struct Pool {
    account: Arc<Account>,
    session: Arc<Shelf>,
    recording: Mutex<Option<Arc<Shelf>>>,
    /// The chunks that nobody uses, if large activations are made of chunks.
    chunks: Option<Arc<Mutex<Buffer>>>,
}

/// The memory of a recording.
pub(super) struct Recorded {
    _shelf: Arc<Shelf>,
}

impl Pool {
    pub(super) fn new(account: &Arc<Account>, moves_chunks: bool) -> Arc<Self> {
        Arc::new(Self {
            account: Arc::clone(account),
            session: Arc::default(),
            recording: Mutex::default(),
            chunks: moves_chunks.then(|| Arc::new(Mutex::new(Buffer::empty(account)))),
        })
    }

    /// Frees what the session does not use.
    fn trim(&self) {
        let free = std::mem::take(&mut *lock(&self.session.free));
        drop(free);
        if let Some(chunks) = &self.chunks {
            *lock(chunks) = Buffer::empty(&self.account);
        }
    }

    /// Bytes that the session does not use.
    pub(super) fn reserves(&self) -> u64 {
        let chunks = self.chunks.as_ref().map_or(0, |chunks| lock(chunks).bytes);
        (chunks + lock(&self.session.free).iter().map(|buffer| buffer.bytes).sum::<usize>()) as u64
    }

    /// Free chunks and what they lack; for what is too small for them the smallest free buffer that has `bytes` and is
    /// not more than twice too large, else a new one. In a recording there are no new ones, and none is too large.
    pub(super) fn take(&self, bytes: usize) -> Result<Block> {
        if let Some((bytes, chunks)) = in_chunks(bytes).zip(self.chunks.as_ref()) {
            let mut buffer = Buffer::empty(&self.account);
            buffer.take_from(&mut lock(chunks), bytes);
            buffer.grow(bytes, || self.trim())?;
            return Ok(Block { buffer: Some(buffer), from: Place::Chunks(Arc::clone(chunks)) });
        }
        let recording = lock(&self.recording).clone();
        let shelf = recording.as_ref().unwrap_or(&self.session);
        let most = if recording.is_some() { usize::MAX } else { worth(bytes) };
        let mut free = lock(&shelf.free);
        let best = best_fit(free.iter().map(|buffer| buffer.bytes), bytes, most);
        let reused = best.map(|i| free.swap_remove(i));
        drop(free);
        let mut buffer = match (reused, rounded(bytes)) {
            (Some(buffer), _) => buffer,
            (None, Some(bytes)) if recording.is_none() => {
                let mut buffer = Buffer::empty(&self.account);
                buffer.grow(bytes, || self.trim())?;
                buffer
            }
            (None, None) => bail!(OutOfMemory, "an activation needs more memory than can be addressed"),
            _ => bail!(OutOfMemory, "no memory for a recording"),
        };
        buffer.recorded = recording.is_some();
        Ok(Block { buffer: Some(buffer), from: Place::Shelf(Arc::clone(shelf)) })
    }

    pub(super) fn begin_recording(&self) {
        let free = std::mem::take(&mut *lock(&self.session.free));
        let shelf = Shelf { free: Mutex::new(free), parent: Some(Arc::clone(&self.session)) };
        *lock(&self.recording) = Some(Arc::new(shelf));
    }

    pub(super) fn end_recording(&self) -> Recorded {
        let shelf = lock(&self.recording).take().unwrap_or_else(|| Arc::clone(&self.session));
        let (used, unused): (Vec<_>, Vec<_>) =
            std::mem::take(&mut *lock(&shelf.free)).into_iter().partition(|buffer| buffer.recorded);
        *lock(&shelf.free) = used;
        lock(&self.session.free).extend(unused);
        Recorded { _shelf: shelf }
    }
}

/// Where a buffer goes back to.
enum Place {
    Shelf(Arc<Shelf>),
    Chunks(Arc<Mutex<Buffer>>),
}

/// A buffer on loan from a pool.
pub(super) struct Block {
    /// Always there until `drop` takes it.
    buffer: Option<Buffer>,
    from: Place,
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(mut buffer) = self.buffer.take() {
            match &self.from {
                Place::Shelf(shelf) => lock(&shelf.free).push(buffer),
                Place::Chunks(chunks) => lock(chunks).take_from(&mut buffer, usize::MAX),
            }
        }
    }
}
