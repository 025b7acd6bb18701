//! A session's pool by the rule of the real ones.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::account::{Account, best_fit, rounded, worth};
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
        Self::or_trim(account, bytes, || {})
    }

    /// `trim` gives up what it can before the allocation fails.
    fn or_trim(account: &Arc<Account>, bytes: usize, trim: impl FnOnce()) -> Result<Self> {
        let Some(bytes) = rounded(bytes) else {
            bail!(OutOfMemory, "an activation needs more memory than can be addressed");
        };
        if !account.reserve(bytes) {
            trim();
            if !account.reserve(bytes) {
                bail!(OutOfMemory, "{bytes} bytes more than the limit has");
            }
        }
        Ok(Self { bytes, recorded: false, account: Arc::clone(account) })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.account.release(self.bytes);
    }
}

/// Buffers that nobody uses; those of a recording go back to the session's when it is gone.
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

/// A session's buffers. What is said of recordings is as in the CUDA backend's pool.
pub(super) struct Pool {
    account: Arc<Account>,
    session: Arc<Shelf>,
    recording: Mutex<Option<Arc<Shelf>>>,
}

/// The memory of a recording.
pub(super) struct Recorded {
    _shelf: Arc<Shelf>,
}

impl Pool {
    pub(super) fn new(account: &Arc<Account>) -> Arc<Self> {
        let session = Arc::new(Shelf { free: Mutex::default(), parent: None });
        Arc::new(Self { account: Arc::clone(account), session, recording: Mutex::default() })
    }

    /// Frees the session's unused buffers.
    pub(super) fn trim(&self) {
        let free = std::mem::take(&mut *lock(&self.session.free));
        drop(free);
    }

    /// Bytes of the session's unused buffers.
    pub(super) fn reserves(&self) -> u64 {
        lock(&self.session.free).iter().map(|buffer| buffer.bytes).sum::<usize>() as u64
    }

    /// The smallest free buffer that has `bytes` and is not more than twice too large, else a new one. In a recording
    /// there are no new ones, and none is too large.
    pub(super) fn take(&self, bytes: usize) -> Result<Block> {
        let recording = lock(&self.recording).clone();
        let shelf = recording.as_ref().unwrap_or(&self.session);
        let most = if recording.is_some() { usize::MAX } else { worth(bytes) };
        let mut free = lock(&shelf.free);
        let best = best_fit(free.iter().map(|buffer| buffer.bytes), bytes, most);
        let reused = best.map(|i| free.swap_remove(i));
        drop(free);
        let mut buffer = match reused {
            Some(buffer) => buffer,
            None if recording.is_some() => bail!(OutOfMemory, "no memory for a recording"),
            None => Buffer::or_trim(&self.account, bytes, || self.trim())?,
        };
        buffer.recorded = recording.is_some();
        Ok(Block { buffer: Some(buffer), shelf: Arc::clone(shelf) })
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

/// A buffer on loan from a pool.
pub(super) struct Block {
    /// Always there until `drop` takes it.
    buffer: Option<Buffer>,
    shelf: Arc<Shelf>,
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            lock(&self.shelf.free).push(buffer);
        }
    }
}
