//! Memory straight from the kernel, in chunks that go from one buffer to the next without being cleared.

use std::ptr::NonNull;

use crate::backend::account::CHUNK;

/// Pages that are mapped next to each other, and only here.
pub(super) struct Pages {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it owns its memory; shared access is read-only.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    /// `bytes` zero bytes that start on a chunk; `None` if there is too little memory. The kernel clears them when they are
    /// first written, on the thread that does.
    pub(super) fn new(bytes: usize) -> Option<Self> {
        let whole = bytes.checked_next_multiple_of(system::page_size())?;
        let span = whole.checked_add(CHUNK)?;
        let map = Self { start: system::map(span)?, bytes: span };
        let before = map.start.as_ptr().align_offset(CHUNK).min(CHUNK);
        let [_, rest] = map.split(before);
        let [mut pages, _] = rest.split(whole);
        // What is left of the last page goes with it.
        pages.bytes = bytes;
        // Whole chunks only: a huge page for the rest would be more memory than was asked for.
        system::ask_for_huge_pages(pages.start, bytes / CHUNK * CHUNK);
        Some(pages)
    }

    /// `bytes`, made of `parts` and of new pages for what they lack. All are multiples of a chunk. `None` if there is too
    /// little memory; the parts are then gone.
    pub(super) fn gather(mut parts: Vec<Self>, bytes: usize) -> Option<Self> {
        if parts.len() == 1 && parts.iter().all(|part| part.bytes == bytes) {
            return parts.pop();
        }
        let pages = Self::new(bytes)?;
        let mut at = 0;
        for mut part in parts {
            while part.bytes > 0 {
                let [chunk, rest] = part.split(CHUNK);
                part = rest;
                // SAFETY: the chunk is ours, and so is what it replaces: the parts have no more bytes than `pages`.
                if !unsafe { system::move_chunk(chunk.start, pages.start.add(at)) } {
                    // What it would have replaced may be gone, and the place already another's: it is left alone.
                    let [_, others] = pages.split(at);
                    let [lost, _] = others.split(CHUNK);
                    std::mem::forget(lost);
                    return None;
                }
                std::mem::forget(chunk);
                at += CHUNK;
            }
        }
        Some(pages)
    }

    /// The first `at` bytes, and the others.
    pub(super) fn split(self, at: usize) -> [Self; 2] {
        let Self { start, bytes } = self;
        std::mem::forget(self);
        let at = at.min(bytes);
        // SAFETY: within the mapping, or its end.
        let others = unsafe { start.add(at) };
        [Self { start, bytes: at }, Self { start: others, bytes: bytes - at }]
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.bytes > 0 {
            // SAFETY: mapped in `new`, or moved here; nobody else has it.
            unsafe { system::unmap(self.start, self.bytes) };
        }
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::ptr::NonNull;

    use super::CHUNK;

    /// 4096 on x86-64, up to 65536 on AArch64.
    pub(super) fn page_size() -> usize {
        // SAFETY: it reads a number of the system.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(size).ok().filter(|&size| size > 0).unwrap_or(CHUNK)
    }

    pub(super) fn map(bytes: usize) -> Option<NonNull<u8>> {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, wherever the kernel has room for it.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, kind, -1, 0) };
        if start == libc::MAP_FAILED { None } else { NonNull::new(start.cast()) }
    }

    /// Fewer TLB misses in long strides. Advice: its failure changes nothing.
    pub(super) fn ask_for_huge_pages(start: NonNull<u8>, bytes: usize) {
        // SAFETY: it changes no values.
        let _ = unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
    }

    /// Whether it could be moved. One chunk at a time: what was put together from several is not one mapping to the kernel.
    ///
    /// # Safety
    /// Both chunks are the caller's.
    pub(super) unsafe fn move_chunk(from: NonNull<u8>, to: NonNull<u8>) -> bool {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let to: *mut libc::c_void = to.as_ptr().cast();
        // SAFETY: the caller's promise.
        unsafe { libc::mremap(from.as_ptr().cast(), CHUNK, CHUNK, flags, to) != libc::MAP_FAILED }
    }

    /// # Safety
    /// Mapped, and the caller's.
    pub(super) unsafe fn unmap(start: NonNull<u8>, bytes: usize) {
        // SAFETY: the caller's promise.
        let _ = unsafe { libc::munmap(start.as_ptr().cast(), bytes) };
    }
}

/// Buffers come from the heap where chunks cannot be moved.
#[cfg(not(target_os = "linux"))]
mod system {
    use std::ptr::NonNull;

    pub(super) fn page_size() -> usize {
        1
    }

    pub(super) fn map(_: usize) -> Option<NonNull<u8>> {
        None
    }

    pub(super) fn ask_for_huge_pages(_: NonNull<u8>, _: usize) {}

    pub(super) unsafe fn move_chunk(_: NonNull<u8>, _: NonNull<u8>) -> bool {
        false
    }

    pub(super) unsafe fn unmap(_: NonNull<u8>, _: usize) {}
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    impl Pages {
        fn values(&mut self) -> &mut [u8] {
            // SAFETY: mapped, and unique by `&mut self`.
            unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
        }
    }

    fn filled(chunks: usize, value: u8) -> Pages {
        let mut pages = Pages::new(chunks * CHUNK).unwrap();
        assert!(pages.values().iter().all(|&byte| byte == 0));
        pages.values().fill(value);
        pages
    }

    #[test]
    fn what_is_gathered_keeps_its_bytes_and_the_rest_is_zero() {
        let [first, second] = filled(3, 7).split(CHUNK);
        let mut pages = Pages::gather(vec![second, filled(1, 9), first], 6 * CHUNK).unwrap();
        assert_eq!(pages.start().as_ptr().align_offset(CHUNK), 0);
        let values = pages.values();
        let chunks: Vec<u8> = values.chunks(CHUNK).map(|chunk| chunk[0]).collect();
        assert_eq!(chunks, [7, 7, 9, 7, 0, 0]);
        assert!(values.chunks(CHUNK).all(|chunk| chunk.iter().all(|&byte| byte == chunk[0])));
        // What was put together comes apart elsewhere, and goes together again.
        values.fill(5);
        let [head, tail] = pages.split(4 * CHUNK);
        let [tail, end] = tail.split(CHUNK);
        drop(tail);
        let mut pages = Pages::gather(vec![end, head], 5 * CHUNK).unwrap();
        assert!(pages.values().iter().all(|&byte| byte == 5));
    }

    /// A size that is no whole number of pages, as multiples of 4096 are not everywhere.
    #[test]
    fn nothing_stays_mapped_behind_the_last_page() {
        let (page, bytes) = (system::page_size(), CHUNK + 100);
        let all: Vec<Pages> = (0..64).map(|_| Pages::new(bytes).unwrap()).collect();
        let behind = |pages: &&Pages| {
            let end = pages.start.as_ptr().wrapping_add(bytes.next_multiple_of(page));
            let mut resident = 0;
            // SAFETY: it tells of one page and reads none.
            unsafe { libc::mincore(end.cast(), page, &raw mut resident) == 0 }
        };
        // Other tests may map what was given back.
        let mapped = all.iter().filter(behind).count();
        assert!(mapped < all.len() / 2, "{mapped} of {}", all.len());
    }

    #[test]
    fn a_size_that_cannot_be_mapped() {
        assert!(Pages::new(1 << 62).is_none());
        assert!(Pages::gather(vec![filled(1, 1)], 1 << 62).is_none());
        assert!(Pages::new(usize::MAX & !4095).is_none());
    }
}
