//! What the memory of every backend has in common: the account of bytes, the sizes of allocations, and which of the free
//! ones is used again. One source for the backends that allocate and for the one that predicts what they will.

use std::sync::atomic::{AtomicU64, Ordering};

/// Allocations are multiples of this many bytes, so that nearly equal sizes share them.
pub(super) const GRANULE: usize = 4096;

/// Bytes of weights and activations, as allocated.
pub(super) struct Account {
    used: AtomicU64,
    peak: AtomicU64,
    limit: Option<u64>,
}

impl Account {
    /// Of at most `limit` bytes.
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self { used: AtomicU64::new(0), peak: AtomicU64::new(0), limit }
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The most that was ever used at a time.
    pub(super) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    pub(super) fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Books `bytes`, unless that would exceed the limit. Relaxed: the counter publishes nothing but itself.
    pub(super) fn reserve(&self, bytes: usize) -> bool {
        let limit = self.limit.unwrap_or(u64::MAX);
        let booked = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes as u64).filter(|&sum| sum <= limit)
        });
        if let Ok(before) = booked {
            self.peak.fetch_max(before + bytes as u64, Ordering::Relaxed);
        }
        booked.is_ok()
    }

    /// Takes back what was booked.
    pub(super) fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes as u64, Ordering::Relaxed);
    }
}

/// Bytes of an allocation of at least `bytes`; `None` where they cannot be counted.
pub(super) fn rounded(bytes: usize) -> Option<usize> {
    bytes.max(1).checked_next_multiple_of(GRANULE)
}

/// The pages of large activations on the CPU come in chunks of this many bytes: one huge page of a system
/// whose pages have 4096.
pub(super) const CHUNK: usize = 2 << 20;

/// Bytes of an activation of at least `bytes` that is made of whole chunks, which any others that are free will do for;
/// `None` for those that are too small, and where the system cannot move chunks.
pub(super) fn in_chunks(bytes: usize) -> Option<usize> {
    let large = cfg!(target_os = "linux") && rounded(bytes)? >= 2 * CHUNK;
    if large { bytes.checked_next_multiple_of(CHUNK) } else { None }
}

/// The most bytes of a free allocation that is worth using again for `bytes`: twice as many.
pub(super) fn worth(bytes: usize) -> usize {
    bytes.saturating_mul(2).max(GRANULE)
}

/// Which of the free `sizes` is used again for `bytes`: the smallest that has them, and `most` at the most.
pub(super) fn best_fit(sizes: impl Iterator<Item = usize>, bytes: usize, most: usize) -> Option<usize> {
    let fitting = sizes.enumerate().filter(|&(_, size)| (bytes..=most).contains(&size));
    fitting.min_by_key(|&(_, size)| size).map(|(index, _)| index)
}
