//! Attention in tiles: the scores of a few queries with a few hundred keys at a time, never all of them.
//!
//! The softmax is taken online: each tile of keys rescales what the earlier ones left (Milakov and Gimelshein
//! 2018; Dao et al., "FlashAttention", 2022).

use super::kernel::{Kernels, Tile};
use super::math::{exp2, fma, fold, max};
use super::pack::Target;
use super::simd::vectorized;
use super::{Cpu, CpuTensor};
use crate::backend::Shape;
use crate::util::error::{Result, bail};

/// Keys in a tile. A multiple of every panel width, and of [`LANES`].
const KEYS: usize = 512;
/// Weights that the softmax sums side by side.
const LANES: usize = 16;
/// Query tiles (of the micro-kernel's rows) in a task.
const QUERY_TILES: usize = 4;

/// Sizes that every part of the computation needs.
pub(super) struct Sizes {
    heads: usize,
    /// Channels of a head.
    d: usize,
    queries: usize,
    keys: usize,
    /// Values of a head's packed keys: `d` rows of each panel of keys.
    packed_keys: usize,
    /// Values of a head's packed values: `keys` rows of each panel of channels.
    packed_values: usize,
    causal: bool,
}

impl Sizes {
    /// For queries of this shape with `keys` keys an image.
    pub(super) fn new(kernels: &Kernels, q: Shape, keys: usize, heads: usize, causal: bool) -> Self {
        let d = q.c / heads;
        Self {
            heads,
            d,
            queries: q.pixels(),
            keys,
            packed_keys: kernels.padded(keys) * d,
            packed_values: kernels.padded(d) * keys,
            causal,
        }
    }

    /// Bytes of the packed keys and of the packed values of `n` images.
    pub(super) fn packed(&self, n: usize) -> [usize; 2] {
        [self.packed_keys, self.packed_values].map(|len| n * self.heads * len * size_of::<f32>())
    }

    /// Floats that a thread works in.
    pub(super) fn floats(&self, kernels: &Kernels) -> usize {
        let block = QUERY_TILES * kernels.mr;
        pointer_floats(block) + block * (2 + KEYS + kernels.padded(self.d))
    }
}

/// Floats in whose place `block` pointers fit.
fn pointer_floats(block: usize) -> usize {
    block * size_of::<*const f32>() / size_of::<f32>()
}

pub(super) fn attention(
    cpu: &Cpu,
    q: &CpuTensor,
    k: &CpuTensor,
    v: &CpuTensor,
    heads: usize,
    causal: bool,
) -> Result<CpuTensor> {
    let channels = q.shape.c;
    let shapes_fit = heads > 0
        && channels.is_multiple_of(heads)
        && k.shape == v.shape
        && k.shape.c == channels
        && k.shape.n == q.shape.n
        && !k.shape.is_empty();
    if !shapes_fit {
        bail!(Internal, "attention: {heads} heads of {}, {} and {}", q.shape, k.shape, v.shape);
    }
    let kernels = cpu.device.kernels;
    let keys = k.shape.pixels();
    let sizes = Sizes::new(kernels, q.shape, keys, heads, causal);

    let n = q.shape.n;
    let mut out = cpu.tensor(q.shape, "attention")?;
    let [bytes_k, bytes_v] = sizes.packed(n);
    let mut packed_k = cpu.pool.take(bytes_k, "attention")?;
    let mut packed_v = cpu.pool.take(bytes_v, "attention")?;
    let key_tiles = keys.div_ceil(KEYS);
    let k_target = Target(packed_k.as_mut_ptr().cast::<f32>());
    let v_target = Target(packed_v.as_mut_ptr().cast::<f32>());
    cpu.parallel(n * heads * key_tiles, |task, _| {
        let (head, tile) = (task / key_tiles, task % key_tiles);
        pack_keys(kernels, &sizes, k.values(), head, tile * KEYS, k_target);
        pack_values(kernels, &sizes, v.values(), head, tile * KEYS, v_target);
    })?;
    let packed_k = packed_k.f32(n * heads * sizes.packed_keys);
    let packed_v = packed_v.f32(n * heads * sizes.packed_values);

    let block = QUERY_TILES * kernels.mr;
    let blocks = sizes.queries.div_ceil(block);
    let width = kernels.padded(sizes.d);
    let pointer_floats = pointer_floats(block);
    let scratch = cpu.scratch(sizes.floats(kernels))?;
    let target = Target(out.values_mut().as_mut_ptr());
    cpu.parallel(n * heads * blocks, |task, slot| {
        let (head, first) = (task / blocks, task % blocks * block);
        let start = scratch.slot(slot);
        // SAFETY: a slot belongs to one thread at a time and has room for these parts; the first is at its start,
        // which is aligned to a cache line.
        let (pointers, floats) = unsafe {
            (
                std::slice::from_raw_parts_mut(start.cast::<*const f32>(), block),
                std::slice::from_raw_parts_mut(start.add(pointer_floats), block * (2 + KEYS + width)),
            )
        };
        let (maxima, floats) = floats.split_at_mut(block);
        let (totals, floats) = floats.split_at_mut(block);
        let (scores, sums) = floats.split_at_mut(block * KEYS);
        let count = block.min(sizes.queries - first);
        let state = Queries { first, count, pointers, maxima, totals, scores, sums, width };
        let head_k = &packed_k[head * sizes.packed_keys..][..sizes.packed_keys];
        let head_v = &packed_v[head * sizes.packed_values..][..sizes.packed_values];
        attend(cpu, &sizes, q.values(), head_k, head_v, head, state, target);
    })?;
    Ok(out)
}

/// Where channel 0 of a head's token `token` lies, of `tokens` an image.
fn token_start(sizes: &Sizes, tokens: usize, head: usize, token: usize) -> usize {
    ((head / sizes.heads * tokens + token) * sizes.heads + head % sizes.heads) * sizes.d
}

/// Writes the panels of a tile of keys from `first`: for each channel, a row of keys.
fn pack_keys(kernels: &Kernels, sizes: &Sizes, k: &[f32], head: usize, first: usize, target: Target<f32>) {
    let last = sizes.keys.min(first + KEYS);
    for start in (first..last).step_by(kernels.nr) {
        let width = kernels.width(sizes.keys, start / kernels.nr);
        // SAFETY: this panel belongs to this task alone; all panels before it are whole.
        let panel = unsafe { target.slice(head * sizes.packed_keys + start * sizes.d, width * sizes.d) };
        for column in 0..width {
            let key = start + column;
            if key < last {
                let key = &k[token_start(sizes, sizes.keys, head, key)..][..sizes.d];
                for (row, value) in panel.chunks_exact_mut(width).zip(key) {
                    row[column] = *value;
                }
            } else {
                panel.chunks_exact_mut(width).for_each(|row| row[column] = 0.0);
            }
        }
    }
}

/// Writes a tile of values from `first` into each panel of channels: for each key, a row of channels.
fn pack_values(kernels: &Kernels, sizes: &Sizes, v: &[f32], head: usize, first: usize, target: Target<f32>) {
    let last = sizes.keys.min(first + KEYS);
    for panel in 0..sizes.d.div_ceil(kernels.nr) {
        let width = kernels.width(sizes.d, panel);
        let start = panel * kernels.nr;
        let count = width.min(sizes.d - start);
        let offset = head * sizes.packed_values + start * sizes.keys;
        // SAFETY: these rows of the panel belong to this task alone; all panels before it are whole.
        let rows = unsafe { target.slice(offset + first * width, (last - first) * width) };
        for (key, row) in rows.chunks_exact_mut(width).enumerate() {
            let from = token_start(sizes, sizes.keys, head, first + key) + start;
            row[..count].copy_from_slice(&v[from..][..count]);
            row[count..].fill(0.0);
        }
    }
}

/// A task's queries and what it knows about them so far.
struct Queries<'a> {
    first: usize,
    count: usize,
    /// A pointer for each query.
    pointers: &'a mut [*const f32],
    /// The largest score of each query so far, in units of log2.
    maxima: &'a mut [f32],
    /// The sum of each query's weights so far.
    totals: &'a mut [f32],
    /// A tile of scores, then of weights: `KEYS` for each query.
    scores: &'a mut [f32],
    /// The weighted sums of values so far: `width` for each query.
    sums: &'a mut [f32],
    width: usize,
}

/// One head's attention for a block of queries.
#[allow(clippy::too_many_arguments)]
fn attend(
    cpu: &Cpu,
    sizes: &Sizes,
    q: &[f32],
    packed_k: &[f32],
    packed_v: &[f32],
    head: usize,
    queries: Queries<'_>,
    target: Target<f32>,
) {
    let kernels = cpu.device.kernels;
    let Queries { first, count, pointers, maxima, totals, scores, sums, width } = queries;
    let (mr, nr) = (kernels.mr, kernels.nr);
    // Scores become powers of two: e^(s/√d) = 2^(s·scale).
    let scale = (std::f64::consts::LOG2_E / (sizes.d as f64).sqrt()) as f32;
    maxima.fill(f32::NEG_INFINITY);
    totals.fill(0.0);
    sums.fill(0.0);
    let visible = if sizes.causal { sizes.keys.min(first + count) } else { sizes.keys };
    for tile in (0..visible).step_by(KEYS) {
        if cpu.cancel.is_cancelled() {
            return;
        }
        let tile_keys = KEYS.min(visible - tile);
        for (i, pointer) in pointers[..count].iter_mut().enumerate() {
            *pointer = q[token_start(sizes, sizes.queries, head, first + i)..][..sizes.d].as_ptr();
        }
        for start in (tile..tile + tile_keys).step_by(nr) {
            let columns = kernels.width(sizes.keys, start / nr);
            let panel = &packed_k[start * sizes.d..][..columns * sizes.d];
            for row in (0..count).step_by(mr) {
                let rows = mr.min(count - row);
                let arguments = Tile {
                    rows: pointers[row..].as_ptr(),
                    offset: 0,
                    taps: 1,
                    k: sizes.d,
                    b: panel.as_ptr(),
                    c: scores[row * KEYS + start - tile..].as_mut_ptr(),
                    stride: KEYS,
                    accumulate: false,
                };
                // SAFETY: each pointer leads to `d` values, the panel has `d` rows of `columns`, and the scores
                // have `KEYS` columns, a multiple of every panel's.
                unsafe { kernels.tile(rows, columns)(&arguments) };
            }
        }
        for row in 0..count {
            // A query sees the keys up to its own place.
            let seen = if sizes.causal { (first + row + 1).saturating_sub(tile) } else { tile_keys };
            let weights = &mut scores[row * KEYS..][..tile_keys.next_multiple_of(LANES)];
            let sums = &mut sums[row * width..][..width];
            let (maximum, total) = (&mut maxima[row], &mut totals[row]);
            softmax_tile(cpu.device.simd, weights, seen.min(tile_keys), scale, maximum, total, sums);
        }
        for (i, pointer) in pointers[..count].iter_mut().enumerate() {
            *pointer = scores[i * KEYS..].as_ptr();
        }
        for panel in 0..sizes.d.div_ceil(nr) {
            let columns = kernels.width(sizes.d, panel);
            let values = &packed_v[panel * nr * sizes.keys + tile * columns..][..tile_keys * columns];
            for row in (0..count).step_by(mr) {
                let rows = mr.min(count - row);
                let arguments = Tile {
                    rows: pointers[row..].as_ptr(),
                    offset: 0,
                    taps: 1,
                    k: tile_keys,
                    b: values.as_ptr(),
                    c: sums[row * width + panel * nr..].as_mut_ptr(),
                    stride: width,
                    accumulate: true,
                };
                // SAFETY: each pointer leads to `KEYS` weights, the panel has `tile_keys` rows of `columns` from
                // here, and the sums have `width` columns, all panels together.
                unsafe { kernels.tile(rows, columns)(&arguments) };
            }
        }
    }
    for row in 0..count {
        let start = token_start(sizes, sizes.queries, head, first + row);
        // SAFETY: this task alone writes these queries of this head.
        let out = unsafe { target.slice(start, sizes.d) };
        let inverse = 1.0 / totals[row];
        for (out, sum) in out.iter_mut().zip(&sums[row * width..]) {
            *out = sum * inverse;
        }
    }
}

vectorized! {
    /// Turns a query's scores with a tile of keys into weights, of which only the first `seen` are not zero,
    /// and rescales what came before to the new maximum. The length is a multiple of [`LANES`].
    fn softmax_tile(
        scores: &mut [f32],
        seen: usize,
        scale: f32,
        maximum: &mut f32,
        total: &mut f32,
        sums: &mut [f32],
    ) = softmax_tile_body
}

#[inline(always)]
fn softmax_tile_body<const FMA: bool>(
    scores: &mut [f32],
    seen: usize,
    scale: f32,
    maximum: &mut f32,
    total: &mut f32,
    sums: &mut [f32],
) {
    if seen == 0 {
        scores.fill(0.0);
        return;
    }
    // Hidden keys, and columns after the last key: their weights become zero.
    scores[seen..].fill(f32::NEG_INFINITY);
    let new = max(scores) * scale;
    let new = if new > *maximum { new } else { *maximum };
    let mut lanes = [0.0; LANES];
    for chunk in scores.as_chunks_mut::<LANES>().0 {
        for (lane, score) in lanes.iter_mut().zip(chunk) {
            *score = exp2::<FMA>(fma::<FMA>(*score, scale, -new));
            *lane += *score;
        }
    }
    let fade = exp2::<FMA>(*maximum - new);
    *maximum = new;
    *total = *total * fade + fold(lanes, |a, b| a + b);
    if fade != 1.0 {
        sums.iter_mut().for_each(|value| *value *= fade);
    }
}
