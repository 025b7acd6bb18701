//! How attention is cut into tiles and tasks, and what that takes.

use super::inner::InnerKernels;
use super::kernel::Kernels;
use super::prefetch::LINE;
use super::{attention_bf16, attention_inner};
use crate::backend::Shape;

/// Most keys in a tile: a panel's weights stay in the L1 cache.
const KEYS: usize = 128;
/// Most queries in a task: what a tile of keys and values is read for, often from afar.
const QUERIES: usize = 512;
/// The same where there are few keys, which stay at hand, and the queries of several heads share cache lines.
const SHORT_QUERIES: usize = 128;
/// Most values of a panel of queries between two visits of scores to memory: they stay in the L1 cache.
pub(super) const PANEL: usize = 5 << 10;
/// Fewest queries, and most channels of a head, that keys and values are copied for.
const COPY: (usize, usize) = (2048, 256);
/// Fewest queries that keys and values are copied for by Winograd's inner product.
const COPY_INNER: usize = 256;
/// Keys times heads that make a task worth its while: few keys are for several heads at once, which lie side by side.
const TASK: usize = 1024;

/// Sizes that every part of the computation needs.
pub(super) struct Sizes {
    pub(super) heads: usize,
    /// Channels of a head.
    pub(super) d: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) causal: bool,
    /// Columns of the micro-kernel: queries in a panel.
    pub(super) nr: usize,
    /// Keys in a tile.
    pub(super) tile: usize,
    /// Panels of queries in a task.
    pub(super) panels: usize,
    /// Heads in a task.
    pub(super) group: usize,
    /// From one key to the next, and from one value, where each head has a copy of its own: an odd number of cache lines.
    /// Where they lie, heads side by side, the steps are often such that rows share few places in the L1 cache.
    pub(super) copied: Option<usize>,
    /// Whether the copies, and what they are multiplied by, are bf16: see [`attention_bf16`].
    pub(super) bf16: bool,
    /// The kernels of Winograd's inner product, if the copies are for these: see [`attention_inner`].
    pub(super) inner: Option<&'static InnerKernels>,
}

impl Sizes {
    /// For queries of this shape with `keys` keys an image. How the work is cut into tasks changes no result: each panel
    /// of queries goes through the same tiles of keys.
    pub(super) fn new(
        kernels: &Kernels,
        threads: usize,
        q: Shape,
        keys: usize,
        heads: usize,
        causal: bool,
        (strict, bf16): (bool, bool),
    ) -> Self {
        let (d, nr) = (q.c / heads, kernels.nr);
        let all_panels = q.n * heads * q.pixels().div_ceil(nr);
        let long = keys >= TASK / 2;
        let most = if long { QUERIES } else { SHORT_QUERIES } / nr;
        let panels = (all_panels / (4 * threads)).clamp(1, most);
        let group = (TASK / keys.max(1)).min(all_panels / panels / (4 * threads)).clamp(1, heads);
        // Equal tiles: a short last one would rescale for little.
        let tile = keys.div_ceil(keys.div_ceil(KEYS).max(1));
        let copies = long && q.pixels() >= COPY.0 && d <= COPY.1;
        let bf16 = bf16 && copies && !causal;
        let inner = kernels.inner.filter(|_| {
            !strict && !bf16 && !causal && q.pixels() >= COPY_INNER && d <= COPY.1 && keys >= LINE
        });
        let step = if bf16 { d.div_ceil(2) } else { d };
        let copied = (copies || inner.is_some()).then_some((step.div_ceil(LINE) | 1) * LINE);
        Self { heads, d, queries: q.pixels(), keys, causal, nr, tile, panels, group, copied, bf16, inner }
    }

    /// Values, or pairs of them, of the copies of a head's keys and of its values.
    pub(super) fn copy_len(&self) -> Option<[usize; 2]> {
        let keys = self.keys * self.copied?;
        if self.inner.is_some() {
            return Some(attention_inner::copy_len(self));
        }
        Some([keys, if self.bf16 { attention_bf16::values_len(self) } else { keys }])
    }

    /// Bytes of the copies of `n` images' keys, and of their values.
    pub(super) fn copy_bytes(&self, n: usize) -> Option<[usize; 2]> {
        self.copy_len().map(|lengths| lengths.map(|len| n * self.heads * len * size_of::<f32>()))
    }

    /// Floats of a panel: queries, sums, maxima, totals, and for each query what a kernel begins and ends with.
    pub(super) fn panel_floats(&self) -> usize {
        (2 * self.d + if self.inner.is_some() { 4 } else { 2 }) * self.nr
    }

    /// Floats that a thread works in.
    pub(super) fn floats(&self) -> usize {
        (self.tile + 1) * self.nr + self.panels * self.panel_floats()
    }
}
