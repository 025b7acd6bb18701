//! Asking for memory before it is read. Processors guess at what comes next, but not at rows that lie apart, nor at what
//! follows the end of a row.

/// Values of `f32` in a cache line.
pub(super) const LINE: usize = 16;
/// So many values between the points or the taps of a fast convolution spread them evenly over the 64 sets of the L1 cache,
/// which have eight places each. At a whole number of pages, as most are long, they would share one, and with a line between
/// points the neighbours of one value would push out another's.
pub(super) const APART: usize = 5 * LINE;

/// Asks for the cache line of a value, which need not exist.
#[inline(always)]
pub(super) fn prefetch_line<T>(from: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 has SSE; a prefetch of any address does no harm.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) };
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a prefetch of any address does no harm.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) from, options(readonly, nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = from;
}

/// Asks for `len` values, which need not exist.
#[inline(always)]
pub(super) fn prefetch<T>(from: *const T, len: usize) {
    let line = LINE * size_of::<f32>() / size_of::<T>();
    for i in (0..len + line - 1).step_by(line) {
        prefetch_line(from.wrapping_add(i));
    }
}
