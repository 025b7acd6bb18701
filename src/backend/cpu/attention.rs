//! Attention in tiles: the scores of a panel of queries with about a hundred keys at a time, never all of them.
//!
//! The softmax is taken online: each tile of keys rescales what the earlier ones left (Milakov and Gimelshein
//! 2018; Dao et al., "FlashAttention", 2022). All products are transposed: a micro-kernel's columns are queries, its rows
//! keys first, then channels. So no size of a head leaves a part of a register empty, the softmax never adds up a
//! register, and keys and values stay rows of channels; only queries are turned, and results turned back.

use super::attention_kernel::{Parts, Softmax, Weigh};
use super::attention_sizes::{PANEL, Sizes};
use super::inner::{InnerKernels, scale_matrix};
use super::kernel::{Kernels, MOST_ROWS, PairKernels, Tile, for_each_part};
use super::pack::Target;
use super::pool::Block;
use super::simd::Simd;
use super::transpose::{gather, scatter};
use super::{Cpu, CpuTensor, attention_bf16, attention_inner};
use crate::util::error::{Result, bail};

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
    let exact = (cpu.strict, cpu.bf16);
    let sizes = Sizes::new(kernels, cpu.concurrency(), q.shape, k.shape.pixels(), heads, causal, exact);
    let mut out = cpu.tensor(q.shape, "attention")?;
    let product = match (sizes.inner, kernels.pairs.filter(|_| sizes.bf16)) {
        (Some(inner), _) => Product::Inner(inner),
        (None, Some(pairs)) => Product::Pairs(pairs),
        (None, None) => Product::Plain,
    };
    let [k, v] = match (sizes.copied.zip(sizes.copy_bytes(k.shape.n)), product) {
        (Some((_, [keys, values])), Product::Inner(inner)) => [
            Rows::Copied(attention_inner::copy_keys(cpu, &sizes, inner, k, keys)?),
            Rows::Copied(attention_inner::copy_values(cpu, &sizes, inner, v, values)?),
        ],
        (Some((step, [keys, values])), Product::Pairs(pairs)) => [
            Rows::Copied(attention_bf16::copy_keys(cpu, &sizes, pairs, k, step, keys)?),
            Rows::Copied(attention_bf16::copy_values(cpu, &sizes, pairs, v, values)?),
        ],
        (Some((step, [keys, values])), Product::Plain) => [
            Rows::Copied(copy(cpu, &sizes, k, step, keys)?),
            Rows::Copied(copy(cpu, &sizes, v, step, values)?),
        ],
        (None, _) => [Rows::There(k.values()), Rows::There(v.values())],
    };
    let block = sizes.panels * sizes.nr;
    let blocks = sizes.queries.div_ceil(block);
    let groups = heads.div_ceil(sizes.group);
    let scratch = cpu.scratch(sizes.floats(), 0)?;
    let target = Target(out.values_mut().as_mut_ptr());
    // Tasks that follow each other have a head's keys and values in common.
    cpu.parallel(q.shape.n * groups * blocks, |task, slot| {
        let (group, first) = (task / blocks, task % blocks * block);
        // SAFETY: a slot belongs to one thread at a time and has this many floats; its start is aligned to a cache line.
        let room = unsafe { std::slice::from_raw_parts_mut(scratch.slot(slot), sizes.floats()) };
        let first_head = group % groups * sizes.group;
        for index in first_head..heads.min(first_head + sizes.group) {
            let image = group / groups;
            let head = Head {
                sizes: &sizes,
                kernels,
                product,
                simd: cpu.device.simd,
                parts: Parts::new(cpu.device.simd),
                q: &q.values()[token(&sizes, image, sizes.queries, index)..],
                k: k.head(&sizes, image, index, 0),
                v: v.head(&sizes, image, index, 1),
                step: sizes.copied.unwrap_or(channels),
            };
            let last = sizes.queries.min(first + block);
            if cpu.cancel.is_cancelled() {
                return;
            }
            let out = Target(target.at(token(&sizes, image, sizes.queries, index)));
            head.attend(cpu, first, last, room, out);
        }
    })?;
    Ok(out)
}

/// Where a head's channels begin in an image of `tokens` tokens.
pub(super) fn token(sizes: &Sizes, image: usize, tokens: usize, head: usize) -> usize {
    (image * tokens * sizes.heads + head) * sizes.d
}

/// Keys or values: where they lie, or copied.
enum Rows<'a> {
    There(&'a [f32]),
    Copied(Block),
}

impl Rows<'_> {
    /// A head's rows, from the first on; `which` is 0 for keys, 1 for values.
    fn head(&self, sizes: &Sizes, image: usize, head: usize, which: usize) -> &[f32] {
        match (self, sizes.copy_len()) {
            (Rows::Copied(block), Some(lengths)) => {
                let len = lengths[which];
                let index = image * sizes.heads + head;
                &block.f32((index + 1) * len)[index * len..]
            }
            (Rows::There(values), _) => &values[token(sizes, image, sizes.keys, head)..],
            (Rows::Copied(_), None) => &[],
        }
    }
}

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
        body(first, keys, token(sizes, head / sizes.heads, sizes.keys, head % sizes.heads), head);
    })
}

/// Keys or values, a row `step` from the next.
fn copy(cpu: &Cpu, sizes: &Sizes, from: &CpuTensor, step: usize, bytes: usize) -> Result<Block> {
    let mut block = cpu.pool.take(bytes, "attention")?;
    let target = Target(block.as_mut_ptr().cast::<f32>());
    let (tiles, channels) = (sizes.keys.div_ceil(sizes.tile), from.shape.c);
    cpu.parallel(from.shape.n * sizes.heads * tiles, |task, _| {
        let (head, first) = (task / tiles, task % tiles * sizes.tile);
        let rows = &from.values()[token(sizes, head / sizes.heads, sizes.keys, head % sizes.heads)..];
        for key in first..sizes.keys.min(first + sizes.tile) {
            // SAFETY: this task alone writes these rows of this head.
            let to = unsafe { target.slice((head * sizes.keys + key) * step, sizes.d) };
            to.copy_from_slice(&rows[key * channels..][..sizes.d]);
        }
    })?;
    Ok(block)
}

/// How keys and values are multiplied.
#[derive(Clone, Copy)]
enum Product<'a> {
    Plain,
    /// As [`attention_bf16`] copies them.
    Pairs(&'a PairKernels),
    /// As [`attention_inner`] does.
    Inner(&'a InnerKernels),
}

/// A head of an image.
struct Head<'a> {
    sizes: &'a Sizes,
    kernels: &'a Kernels,
    product: Product<'a>,
    simd: Simd,
    parts: &'static Parts,
    /// From this head's first value on: a row for each token.
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    /// From one key, or value, to the next.
    step: usize,
}

/// A panel of queries and what is known about them so far, in rows of `width` queries.
struct Panel<'a> {
    first: usize,
    count: usize,
    width: usize,
    /// For each channel a row, times the scale of the scores.
    queries: &'a mut [f32],
    /// For each channel a row: the weighted sums of values.
    sums: &'a mut [f32],
    /// A row: the largest score of each query, in units of log2.
    maxima: &'a mut [f32],
    /// A row: the sum of each query's weights.
    totals: &'a mut [f32],
    /// Two rows, or none: what kernels of Winograd's inner product begin and end with for each query.
    ends: &'a mut [f32],
}

impl Head<'_> {
    /// Splits a panel's memory.
    fn panel<'a>(&self, first: usize, last: usize, room: &'a mut [f32]) -> Panel<'a> {
        let &Sizes { d, nr, .. } = self.sizes;
        let count = nr.min(last - first);
        let width = if count <= nr / 2 && self.sizes.inner.is_none() { nr / 2 } else { nr };
        let (queries, room) = room.split_at_mut(d * nr);
        let (sums, room) = room.split_at_mut(d * nr);
        let (maxima, room) = room.split_at_mut(nr);
        let (totals, ends) = room.split_at_mut(nr);
        let (queries, sums) = (&mut queries[..d * width], &mut sums[..d * width]);
        Panel { first, count, width, queries, sums, maxima, totals, ends }
    }

    /// The attention of queries `first` to `last`.
    fn attend(&self, cpu: &Cpu, first: usize, last: usize, room: &mut [f32], target: Target<f32>) {
        let sizes = self.sizes;
        let (fades, room) = room.split_at_mut(sizes.nr);
        let (scores, panels) = room.split_at_mut(sizes.tile * sizes.nr);
        // Scores become powers of two: e^(s/√d) = 2^(s·scale).
        let scale = (std::f64::consts::LOG2_E / (sizes.d as f64).sqrt()) as f32;
        let firsts = (first..last).step_by(sizes.nr);
        let step = sizes.heads * sizes.d;
        for (first, room) in firsts.clone().zip(panels.chunks_exact_mut(sizes.panel_floats())) {
            let panel = self.panel(first, last, room);
            let rows = &self.q[first * step..];
            gather(rows, step, panel.count, scale, panel.width, panel.queries);
            match self.product {
                Product::Plain => (),
                Product::Pairs(pairs) => attention_bf16::pair_rows(pairs, panel.queries, panel.width),
                Product::Inner(inner) => {
                    let (sums, scales) = panel.ends.split_at_mut(panel.width);
                    scale_matrix(cpu.device.simd, inner, panel.queries, 0, sums, scales);
                }
            }
            // Not -∞, from which a score of -∞ differs by NaN.
            panel.maxima.fill(f32::MIN);
            panel.totals.fill(0.0);
        }
        let visible = if sizes.causal { sizes.keys.min(last) } else { sizes.keys };
        for start in (0..visible).step_by(sizes.tile) {
            if cpu.cancel.is_cancelled() {
                return;
            }
            let end = visible.min(start + sizes.tile);
            for (first, room) in firsts.clone().zip(panels.chunks_exact_mut(sizes.panel_floats())) {
                let panel = self.panel(first, last, room);
                // A query sees the keys up to its own place.
                let end = if sizes.causal { end.min(first + panel.count) } else { end };
                if start < end {
                    self.visit(panel, start, end - start, scores, fades);
                }
            }
        }
        for (first, room) in firsts.zip(panels.chunks_exact_mut(sizes.panel_floats())) {
            let panel = self.panel(first, last, room);
            for total in &mut *panel.totals {
                // Scores of -∞ alone weigh nothing; NaN stays NaN.
                *total = if *total == 0.0 { 0.0 } else { 1.0 / *total };
            }
            let out = Target(target.at(first * step));
            // SAFETY: this task alone writes these queries of this head.
            unsafe { scatter(panel.sums, panel.width, panel.totals, panel.count, step, out) };
        }
    }

    /// Takes a panel to the tile of `keys` keys from `start`.
    fn visit(&self, panel: Panel<'_>, start: usize, keys: usize, scores: &mut [f32], fades: &mut [f32]) {
        let sizes = self.sizes;
        let Panel { first, width, .. } = panel;
        let half = width < sizes.nr;
        match self.product {
            Product::Inner(inner) => {
                let (sums, scales) = panel.ends.split_at(width);
                let queries = attention_inner::Queries { rows: panel.queries, sums, scales };
                let kernels = (self.kernels, inner);
                attention_inner::score(kernels, sizes, (self.k, start, keys), &queries, scores);
            }
            Product::Pairs(pairs) => {
                let keys = &self.k[start * self.step..][..keys * self.step];
                let scores = &mut scores[..keys.len() / self.step * width];
                attention_bf16::score(self.kernels, pairs, (keys, self.step), (panel.queries, width), scores);
            }
            Product::Plain => self.score(&panel, start, keys, scores),
        }
        if sizes.causal {
            for key in first.max(start)..start + keys {
                scores[(key - start) * width..][..key - first].fill(f32::NEG_INFINITY);
            }
        }
        let arguments = Softmax {
            scores: scores[..keys * width].as_mut_ptr(),
            keys,
            maxima: panel.maxima.as_mut_ptr(),
            totals: panel.totals.as_mut_ptr(),
            fades: fades.as_mut_ptr(),
        };
        // SAFETY: there is a row of scores for each key, and the others have `nr` values, not less than `width`.
        unsafe { self.parts.softmax(half)(&arguments) };
        match self.product {
            Product::Inner(inner) => {
                let (kernels, weights) = ((self.simd, self.kernels, inner), &scores[..keys * width]);
                let values = (self.v, start, keys);
                attention_inner::weigh(kernels, sizes, values, weights, &fades[..width], panel.sums);
            }
            Product::Pairs(pairs) => {
                let fades = (start > 0).then_some(&fades[..width]);
                let values = attention_bf16::tile(sizes, self.v, start);
                let weights = &mut scores[..keys * width];
                attention_bf16::weigh(
                    (self.simd, self.kernels, pairs),
                    values,
                    (weights, width),
                    fades,
                    panel.sums,
                );
            }
            Product::Plain => self.weigh(panel, start, keys, scores, fades),
        }
    }

    /// The scores of a panel with the tile of `keys` keys from `start`.
    fn score(&self, panel: &Panel<'_>, start: usize, keys: usize, scores: &mut [f32]) {
        let (sizes, width) = (self.sizes, panel.width);
        let (mr, step) = (self.kernels.mr, self.step);
        let tile = start * step;
        for_each_part(sizes.d, PANEL / width, |channel, channels| {
            let queries = panel.queries[channel * width..][..channels * width].as_ptr();
            for_each_part(keys, mr, |key, count| {
                let keys = &self.k[tile + key * step + channel..][..(count - 1) * step + channels];
                let row = |row: usize| keys.as_ptr().wrapping_add(row * step);
                let rows: [*const f32; MOST_ROWS] = std::array::from_fn(row);
                let arguments = Tile {
                    rows: rows.as_ptr(),
                    next: row(count),
                    offset: 0,
                    taps: 1,
                    k: channels,
                    b: queries,
                    c: scores[key * width..][..count * width].as_mut_ptr(),
                    stride: width,
                    accumulate: channel > 0,
                };
                // SAFETY: the slices are what the arguments say.
                unsafe { self.kernels.tile(count, width)(&arguments) };
            });
        });
    }

    /// Adds up the tile's values, by the weights that its scores became.
    fn weigh(&self, panel: Panel<'_>, start: usize, keys: usize, weights: &[f32], fades: &[f32]) {
        let (sizes, width) = (self.sizes, panel.width);
        let (mr, step, half) = (self.kernels.mr, self.step, width < sizes.nr);
        for_each_part(sizes.d, mr, |channel, count| {
            let values = &self.v[start * step + channel..][..(keys - 1) * step + count];
            let arguments = Weigh {
                values: values.as_ptr(),
                step,
                keys,
                weights: weights[..keys * width].as_ptr(),
                sums: panel.sums[channel * width..][..count * width].as_mut_ptr(),
                fades: fades.as_ptr(),
                first: start == 0,
            };
            // SAFETY: the slices are what the arguments say.
            unsafe { self.parts.weigh(half, count)(&arguments) };
        });
    }
}
