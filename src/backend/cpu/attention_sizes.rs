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
/// Fewest queries, and most channels of a head, that keys and values are rounded to bf16 for.
const BF16: (usize, usize) = (2048, 256);
/// The same for keys and values brought to one size, for Winograd's inner product.
const INNER: (usize, usize) = (256, 256);
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
    /// Whether keys and values, and what they are multiplied by, are bf16: see [`attention_bf16`].
    pub(super) bf16: bool,
    /// The kernels of Winograd's inner product, if keys and values are for these: see [`attention_inner`].
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
        let bf16 = bf16 && long && !causal && q.pixels() >= BF16.0 && d <= BF16.1;
        let inner = kernels
            .inner
            .filter(|_| !strict && !bf16 && !causal && q.pixels() >= INNER.0 && d <= INNER.1 && keys >= LINE);
        Self { heads, d, queries: q.pixels(), keys, causal, nr, tile, panels, group, bf16, inner }
    }

    /// Keys of the tile that begins with key `start`.
    pub(super) fn tile_keys(&self, start: usize) -> usize {
        self.tile.min(self.keys - start)
    }

    /// Where a head's channels begin in an image of `tokens` tokens.
    pub(super) fn token(&self, image: usize, tokens: usize, head: usize) -> usize {
        (image * tokens * self.heads + head) * self.d
    }

    /// Values, or pairs of them, of the copies of a head's keys and of its values.
    pub(super) fn copy_len(&self) -> [usize; 2] {
        match self.inner {
            Some(_) => attention_inner::copy_len(self),
            None if self.bf16 => attention_bf16::copy_len(self),
            None => [self.keys * self.d; 2],
        }
    }

    /// Bytes of the copies of `n` images' keys, and of their values.
    pub(super) fn copy_bytes(&self, n: usize) -> [usize; 2] {
        self.copy_len().map(|len| n * self.heads * len * size_of::<f32>())
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
