//! Attention in tiles: the scores of a panel of queries with about a hundred keys at a time, never all of them.
//!
//! The softmax is taken online: each tile of keys rescales what the earlier ones left (Milakov and Gimelshein
//! 2018; Dao et al., "FlashAttention", 2022). All products are transposed: a micro-kernel's columns are queries, its rows
//! keys first, then channels. So no size of a head leaves a part of a register empty, and the softmax never adds up a
//! register; queries are turned, and results turned back.

use super::attention_kernel::{ONES, Parts, Product, Softmax};
use super::attention_sizes::{PANEL, Sizes};
use super::inner::{InnerKernels, scale_matrix};
use super::kernel::{Kernels, PairKernels, for_each_part};
use super::pack::Target;
use super::simd::Simd;
use super::transpose::{gather, scatter};
use super::{Cpu, CpuTensor, attention_bf16, attention_copy, attention_inner};
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
    let copies = match (sizes.inner, kernels.pairs.filter(|_| sizes.bf16)) {
        (Some(inner), _) => Copies::Inner(inner),
        (None, Some(pairs)) => Copies::Pairs(pairs),
        (None, None) => Copies::Plain,
    };
    let [keys, values] = sizes.copy_bytes(k.shape.n);
    let [k, v] = match copies {
        Copies::Plain => attention_copy::copy(cpu, &sizes, [k, v], [keys, values])?,
        Copies::Pairs(pairs) => [
            attention_bf16::copy_keys(cpu, &sizes, pairs, k, keys)?,
            attention_bf16::copy_values(cpu, &sizes, pairs, v, values)?,
        ],
        Copies::Inner(inner) => [
            attention_inner::copy_keys(cpu, &sizes, inner, k, keys)?,
            attention_inner::copy_values(cpu, &sizes, inner, v, values)?,
        ],
    };
    let [key_len, value_len] = sizes.copy_len();
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
            let copy = image * heads + index;
            let head = Head {
                sizes: &sizes,
                kernels,
                copies,
                simd: cpu.device.simd,
                parts: Parts::new(cpu.device.simd),
                q: &q.values()[sizes.token(image, sizes.queries, index)..],
                k: &k.f32((copy + 1) * key_len)[copy * key_len..],
                v: &v.f32((copy + 1) * value_len)[copy * value_len..],
            };
            let last = sizes.queries.min(first + block);
            if cpu.cancel.is_cancelled() {
                return;
            }
            let out = Target(target.at(sizes.token(image, sizes.queries, index)));
            head.attend(cpu, first, last, room, out);
        }
    })?;
    Ok(out)
}

/// How keys and values are copied, and so how they are multiplied.
#[derive(Clone, Copy)]
enum Copies<'a> {
    /// As [`attention_copy`] copies them.
    Plain,
    /// As [`attention_bf16`] does.
    Pairs(&'a PairKernels),
    /// As [`attention_inner`] does.
    Inner(&'a InnerKernels),
}

/// A head of an image.
struct Head<'a> {
    sizes: &'a Sizes,
    kernels: &'a Kernels,
    copies: Copies<'a>,
    simd: Simd,
    parts: &'static Parts,
    /// From this head's first value on: a row for each token.
    q: &'a [f32],
    /// Copied.
    k: &'a [f32],
    v: &'a [f32],
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
            match self.copies {
                Copies::Plain => (),
                Copies::Pairs(pairs) => attention_bf16::pair_rows(pairs, panel.queries, panel.width),
                Copies::Inner(inner) => {
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
        match self.copies {
            Copies::Inner(inner) => {
                let (sums, scales) = panel.ends.split_at(width);
                let queries = attention_inner::Queries { rows: panel.queries, sums, scales };
                let kernels = (self.kernels, inner);
                attention_inner::score(kernels, sizes, (self.k, start, keys), &queries, scores);
            }
            Copies::Pairs(pairs) => {
                let (kernels, queries) = ((self.kernels, pairs), (&*panel.queries, width));
                attention_bf16::score(kernels, sizes, (self.k, start, keys), queries, scores);
            }
            Copies::Plain => self.score(&panel, start, keys, scores),
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
        match self.copies {
            Copies::Inner(inner) => {
                let (kernels, weights) = ((self.simd, self.kernels, inner), &scores[..keys * width]);
                let values = (self.v, start, keys);
                attention_inner::weigh(kernels, sizes, values, weights, &fades[..width], panel.sums);
            }
            Copies::Pairs(pairs) => {
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
            Copies::Plain => self.weigh(panel, start, keys, scores, fades),
        }
    }

    /// The scores of a panel with the first `keys` keys of the tile that begins with key `start`.
    fn score(&self, panel: &Panel<'_>, start: usize, keys: usize, scores: &mut [f32]) {
        let (sizes, width) = (self.sizes, panel.width);
        let (mr, half) = (self.kernels.mr, width < sizes.nr);
        for_each_part(sizes.d, PANEL / width, |channel, channels| {
            let queries = &panel.queries[channel * width..][..channels * width];
            for_each_part(sizes.tile_keys(start), mr, |key, count| {
                // The others are hidden from all of the panel.
                if key < keys {
                    let part = &self.k[(start + key) * sizes.d..][..count * sizes.d];
                    let arguments = Product {
                        a: part[channel * count..][..channels * count].as_ptr(),
                        k: channels,
                        b: queries.as_ptr(),
                        c: scores[key * width..][..count * width].as_mut_ptr(),
                        factors: if channel > 0 { ONES.as_ptr() } else { std::ptr::null() },
                    };
                    // SAFETY: the slices are what the arguments say.
                    unsafe { self.parts.product(half, count)(&arguments) };
                }
            });
        });
    }

    /// Adds up the tile's values, by the weights that its scores became.
    fn weigh(&self, panel: Panel<'_>, start: usize, keys: usize, weights: &[f32], fades: &[f32]) {
        let (sizes, width) = (self.sizes, panel.width);
        let (mr, half) = (self.kernels.mr, width < sizes.nr);
        let tile_keys = sizes.tile_keys(start);
        let values = &self.v[start * sizes.d..];
        for_each_part(sizes.d, mr, |channel, count| {
            let arguments = Product {
                a: values[channel * tile_keys..][..keys * count].as_ptr(),
                k: keys,
                b: weights[..keys * width].as_ptr(),
                c: panel.sums[channel * width..][..count * width].as_mut_ptr(),
                factors: if start > 0 { fades.as_ptr() } else { std::ptr::null() },
            };
            // SAFETY: the slices are what the arguments say.
            unsafe { self.parts.product(half, count)(&arguments) };
        });
    }
}
