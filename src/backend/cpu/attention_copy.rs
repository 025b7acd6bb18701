//! Keys and values as [`Product`](super::attention_kernel::Product) reads them.
//!
//! A tile's keys are cut into parts of at most a micro-kernel's rows, a row of a part's keys for each channel; its values into
//! parts of channels, a row of a part's channels for each key. A kernel then reads a part from its start to its end: where
//! keys and values lie, its rows would be far apart, each with a pointer and a place in the cache of its own.

use super::attention_sizes::Sizes;
use super::kernel::for_each_part;
use super::pack::Target;
use super::pool::Block;
use super::transpose::gather;
use super::{Cpu, CpuTensor};
use crate::util::error::Result;

/// Calls `body(tile's first key, its keys, where the head's rows begin, index of the head)` for every tile.
pub(super) fn for_each_tile(
    cpu: &Cpu,
    sizes: &Sizes,
    images: usize,
    body: impl Fn(usize, usize, usize, usize) + Sync,
) -> Result<()> {
    let tiles = sizes.keys.div_ceil(sizes.tile);
    cpu.parallel(images * sizes.heads * tiles, |task, _| {
        let (head, first) = (task / tiles, task % tiles * sizes.tile);
        let keys = sizes.tile.min(sizes.keys - first);
        body(first, keys, sizes.token(head / sizes.heads, sizes.keys, head % sizes.heads), head);
    })
}

/// Copies keys and values, tile by tile, to this many bytes each.
pub(super) fn copy(
    cpu: &Cpu,
    sizes: &Sizes,
    [keys, values]: [&CpuTensor; 2],
    [key_bytes, value_bytes]: [usize; 2],
) -> Result<[Block; 2]> {
    let mut copied_keys = cpu.pool.take(key_bytes, "attention")?;
    let mut copied_values = cpu.pool.take(value_bytes, "attention")?;
    let to_keys = Target(copied_keys.as_mut_ptr().cast::<f32>());
    let to_values = Target(copied_values.as_mut_ptr().cast::<f32>());
    let (d, channels, mr) = (sizes.d, keys.shape.c, cpu.device.kernels.mr);
    for_each_tile(cpu, sizes, keys.shape.n, |first, count, start, head| {
        let at = (head * sizes.keys + first) * d;
        // SAFETY: this task alone writes this tile of this head.
        let (to_keys, to_values) = unsafe { (to_keys.slice(at, count * d), to_values.slice(at, count * d)) };
        for_each_part(count, mr, |key, rows| {
            let at = start + (first + key) * channels;
            gather(&keys.values()[at..], channels, rows, 1.0, rows, &mut to_keys[key * d..][..rows * d]);
        });
        for_each_part(d, mr, |channel, rows| {
            let to = to_values[channel * count..][..rows * count].chunks_exact_mut(rows);
            let from = values.values()[start + first * channels + channel..].chunks(channels);
            for (to, from) in to.zip(from) {
                copy_few(&from[..rows], to);
            }
        });
    })?;
    Ok([copied_keys, copied_values])
}

/// Copies as many values. A call of `memcpy` takes longer than the few of a micro-kernel's rows do.
#[inline(always)]
fn copy_few(from: &[f32], to: &mut [f32]) {
    match to.len() {
        8..=16 => copy_ends::<8>(from, to),
        4..8 => copy_ends::<4>(from, to),
        _ => to.copy_from_slice(from),
    }
}

/// Copies the first and the last `N` values, which may overlap.
#[inline(always)]
fn copy_ends<const N: usize>(from: &[f32], to: &mut [f32]) {
    if let (Some(from), Some(to)) = (from.first_chunk::<N>(), to.first_chunk_mut()) {
        *to = *from;
    }
    if let (Some(from), Some(to)) = (from.last_chunk::<N>(), to.last_chunk_mut()) {
        *to = *from;
    }
}
