//! Weights in the order in which the micro-kernels read them.

use super::inner::InnerKernels;
use super::kernel::Kernels;
use super::pack_panel::{pack_pairs, pack_panel};
use super::pool::Buffer;
use super::prefetch::{APART, prefetch};
use super::{Device, inner, int8};
use crate::backend::{DType, Weight, WeightFormat};
use crate::util::cancel::Cancel;
use crate::util::error::{Result, bail};

/// Most values of `k` between two visits of a tile to memory. A panel's block of B stays in the L2 cache, from where it
/// comes as fast as it is multiplied; more would add little to the rate, and to the rounding of longer sums.
pub(super) const DEPTH: usize = 640;
/// The same where nothing but a panel's block has to stay there: of one tap, whose rows are read as they lie.
const LONG_DEPTH: usize = 1280;

/// Columns of the widest panel.
pub(super) const WIDEST: usize = 32;
/// Rows that are converted at a time to find a weight's scales.
const ROWS_AT_A_TIME: usize = 16;

/// A matrix `[taps·k, n]` cut into panels of `nr` columns; a panel holds for each tap and each `k` one row. A
/// linear layer has one tap, a convolution `kh·kw`.
pub(super) struct Packed {
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) taps: usize,
    pub(super) values: Values,
    /// Most values of a tap in a block of the sum.
    depth: usize,
    panels: Buffer,
    /// `n` values, zeros where the file has none.
    bias: Buffer,
    /// `k` zeros: the row that padding points to.
    zeros: Buffer,
    /// For kernels of Winograd's inner product: for each column of the panels a power of two that brings it to the size of
    /// one, then for each the power that undoes it.
    scales: Option<Buffer>,
}

/// What the panels hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Values {
    /// Those of the file.
    Stored(DType),
    /// bf16, two neighbours in `k` side by side in every column, for [`PairKernels`](super::kernel::PairKernels).
    Pairs,
    /// See [`int8`].
    Int8,
}

impl Values {
    /// For a weight of `k` inputs that a file holds as `dtype`, for products in bf16 or not.
    pub(super) fn new(format: WeightFormat, bf16: bool, k: usize, dtype: DType) -> Self {
        match format {
            WeightFormat::Int8 if int8::is_smaller(k, dtype) => Values::Int8,
            _ if bf16 => Values::Pairs,
            _ => Values::Stored(dtype),
        }
    }

    /// Whether columns can be multiplied by powers of two where they are converted.
    pub(super) fn can_be_scaled(self) -> bool {
        self != Values::Pairs
    }

    /// Bytes of one column of a tap of `k` inputs.
    pub(super) fn tap_len(self, k: usize) -> usize {
        match self {
            Values::Stored(dtype) => k * dtype.size(),
            Values::Pairs => k.div_ceil(2) * size_of::<u32>(),
            Values::Int8 => int8::tap_len(k),
        }
    }

    /// Bytes of a tap in `panels` panels of `columns` columns together, with the space after it in each.
    fn tap_space(self, k: usize, taps: usize, columns: usize, panels: usize) -> usize {
        let apart = if taps > 1 && matches!(self, Values::Stored(_)) { APART * size_of::<f32>() } else { 0 };
        columns * self.tap_len(k) + panels * apart
    }

    /// Bytes from one tap of a panel of `width` columns to the next.
    fn tap_stride(self, k: usize, taps: usize, width: usize) -> usize {
        self.tap_space(k, taps, width, 1)
    }

    /// Bytes of all panels of a weight of `n` columns.
    pub(super) fn panels_len(self, kernels: &Kernels, n: usize, k: usize, taps: usize) -> usize {
        taps * self.tap_space(k, taps, kernels.padded(n), n.div_ceil(kernels.nr))
    }
}

/// A part of the sum over taps and `k`: some taps whole, or a part of one tap.
#[derive(Clone, Copy)]
pub(super) struct KBlock {
    pub(super) tap: usize,
    pub(super) taps: usize,
    pub(super) k_start: usize,
    pub(super) k: usize,
}

/// Most values of a tap in a block of the sum.
fn depth(kernels: &Kernels, values: Values) -> usize {
    if kernels.inner.is_some() || values == Values::Pairs { DEPTH } else { LONG_DEPTH }
}

/// Values of `k` in a block of the sum: those of some taps, or at most `depth` of one tap. Always whole pairs of a tap.
fn k_step(depth: usize, k: usize, taps: usize) -> usize {
    if k <= DEPTH { (DEPTH / k).min(taps) * k } else { k.div_ceil(k.div_ceil(depth)).next_multiple_of(2) }
}

impl Packed {
    /// Packs `[out, in, taps..]` and an optional `[out]`.
    pub(super) fn new(
        device: &Device,
        (format, bf16): (WeightFormat, bool),
        weight: Weight<'_>,
        bias: Option<Weight<'_>>,
    ) -> Result<Self> {
        let &[n, k, ref kernel @ ..] = weight.shape else {
            bail!(Internal, "a weight of shape {:?} is not a matrix", weight.shape);
        };
        let taps: usize = kernel.iter().product();
        if n * k * taps == 0 || weight.bytes.len() != n * k * taps * weight.dtype.size() {
            bail!(Internal, "a weight of shape {:?} has {} bytes", weight.shape, weight.bytes.len());
        }
        let memory = &device.memory;
        let bias = match bias {
            Some(bias) if bias.shape == [n] => read_f32(device, bias)?,
            Some(bias) => bail!(Internal, "a bias of shape {:?} for {n} outputs", bias.shape),
            None => Buffer::new(memory, n * 4, "a bias")?,
        };
        let kernels = device.kernels;
        let values = Values::new(format, bf16, k, weight.dtype);
        let mut panels = Buffer::new(memory, values.panels_len(kernels, n, k, taps), "a weight")?;
        let full = taps * values.tap_stride(k, taps, kernels.nr);
        let target = Target(panels.as_mut_ptr());
        let count = n.div_ceil(kernels.nr);
        device.threads.run(count, &Cancel::default(), |panel, _| {
            let start = panel * kernels.nr;
            let width = kernels.width(n, panel);
            let stride = values.tap_stride(k, taps, width);
            // SAFETY: the part of the buffer that belongs to this panel alone; the last panel may be narrow, and
            // `panels_len` counts it so.
            let panel = unsafe { std::slice::from_raw_parts_mut(target.at(panel * full), taps * stride) };
            let columns = start..n.min(start + width);
            match values {
                Values::Stored(DType::F32) => {
                    pack_panel::<4>(weight.bytes, panel, columns, [k, taps, width], stride);
                }
                Values::Stored(_) => pack_panel::<2>(weight.bytes, panel, columns, [k, taps, width], stride),
                Values::Pairs => {
                    let from = (weight.dtype, weight.bytes);
                    pack_pairs((device.simd, kernels), from, panel, columns, [k, taps, width]);
                }
                Values::Int8 => {
                    let from = (weight.dtype, weight.bytes);
                    int8::pack_panel((device.simd, kernels), from, panel, columns, [k, taps, width])
                }
            }
        })?;
        let zeros = Buffer::new(memory, k * 4, "a row of zeros")?;
        let depth = depth(kernels, values);
        let mut packed = Self { n, k, taps, values, depth, panels, bias, zeros, scales: None };
        if values.can_be_scaled() && kernels.inner.is_some() {
            packed.scales = Some(packed.find_scales(device)?);
        }
        Ok(packed)
    }

    fn find_scales(&self, device: &Device) -> Result<Buffer> {
        let (kernels, padded) = (device.kernels, device.kernels.padded(self.n));
        let mut scales = Buffer::new(&device.memory, 2 * padded * 4, "a weight's scales")?;
        let target = Target(scales.as_mut_ptr().cast::<f32>());
        device.threads.run(self.n.div_ceil(kernels.nr), &Cancel::default(), |panel, _| {
            let width = kernels.width(self.n, panel);
            let mut squares = [0.0; WIDEST];
            let squares = &mut squares[..width];
            let mut rows = [0.0; ROWS_AT_A_TIME * WIDEST];
            for tap in 0..self.taps {
                for k_start in (0..self.k).step_by(ROWS_AT_A_TIME) {
                    let k = ROWS_AT_A_TIME.min(self.k - k_start);
                    let rows = &mut rows[..k * width];
                    self.copy_block(kernels, panel, &KBlock { tap, taps: 1, k_start, k }, rows);
                    inner::add_squares(device.simd, rows, squares);
                }
            }
            for (column, square) in squares.iter().enumerate() {
                let exponent = inner::exponent(square / (self.taps * self.k) as f32);
                let at = panel * kernels.nr + column;
                // SAFETY: this task alone writes the scales of its columns; there is one of each kind for all of them.
                unsafe {
                    *target.at(at) = inner::power(-exponent);
                    *target.at(padded + at) = inner::power(exponent);
                }
            }
        })?;
        Ok(scales)
    }

    /// Of every column of the panels, what its products are multiplied by where [`Self::scaled_block`] was.
    pub(super) fn column_scales(&self, kernels: &Kernels) -> &[f32] {
        let padded = kernels.padded(self.n);
        self.scales.as_ref().map_or(&[], |scales| &scales.f32(2 * padded)[padded..])
    }

    /// A panel's rows of a block as `f32`.
    fn copy_block(&self, kernels: &Kernels, panel: usize, block: &KBlock, to: &mut [f32]) {
        let from = self.block(kernels, panel, block, to);
        if from != to.as_ptr() {
            // SAFETY: a block has as many values, and these are those of the weight.
            to.copy_from_slice(unsafe { std::slice::from_raw_parts(from, to.len()) });
        }
    }

    /// A panel's bytes, and how many there are from one of its taps to the next.
    fn panel(&self, kernels: &Kernels, panel: usize) -> (&[u8], usize) {
        let stride = |width| self.values.tap_stride(self.k, self.taps, width);
        let (start, width) = (panel * self.taps * stride(kernels.nr), kernels.width(self.n, panel));
        (&self.panels.bytes(start + self.taps * stride(width))[start..], stride(width))
    }

    /// The bytes of a panel's rows of a block's first tap, if they are those of the file.
    fn stored(&self, kernels: &Kernels, panel: usize, block: &KBlock) -> Option<(DType, &[u8])> {
        let Values::Stored(dtype) = self.values else { return None };
        let row = kernels.width(self.n, panel) * dtype.size();
        let (bytes, stride) = self.panel(kernels, panel);
        Some((dtype, &bytes[block.tap * stride + block.k_start * row..][..block.k * row]))
    }

    /// Where the memory begins that a panel's rows of a block are read from.
    pub(super) fn ahead(&self, kernels: &Kernels, panel: usize, block: &KBlock) -> Option<*const f32> {
        Some(self.stored(kernels, panel, block)?.1.as_ptr().cast())
    }

    /// Where a panel's rows of a block of each tap begin, if they are f16.
    pub(super) fn f16_blocks(
        &self,
        kernels: &Kernels,
        panel: usize,
        blocks: &[KBlock; 9],
    ) -> Option<[*const u16; 9]> {
        let mut rows = [std::ptr::null(); 9];
        for (rows, block) in rows.iter_mut().zip(blocks) {
            *rows = match self.stored(kernels, panel, block)? {
                (DType::F16, bytes) => bytes.as_ptr().cast(),
                _ => return None,
            };
        }
        Some(rows)
    }

    /// Asks for a part, of so many equal ones, of the memory that a panel's rows of a block are read from.
    pub(super) fn prefetch(
        &self,
        kernels: &Kernels,
        panel: usize,
        block: &KBlock,
        part: usize,
        parts: usize,
    ) {
        if let Some((_, bytes)) = self.stored(kernels, panel, block) {
            let bytes = &bytes[bytes.len() * part / parts..bytes.len() * (part + 1) / parts];
            prefetch(bytes.as_ptr(), bytes.len());
        }
    }

    /// A panel's rows of a block as `f32`, brought to the size of one.
    pub(super) fn scaled_block(
        &self,
        device: &Device,
        inner: &InnerKernels,
        panel: usize,
        block: &KBlock,
        to: &mut [f32],
    ) {
        let kernels = device.kernels;
        let Some(scales) = &self.scales else { return self.copy_block(kernels, panel, block, to) };
        let scales = &scales.f32(2 * kernels.padded(self.n))[panel * kernels.nr..];
        let scales = &scales[..kernels.width(self.n, panel)];
        match self.stored(kernels, panel, block) {
            Some((DType::F16, bytes)) => {
                let (from, width) = (bytes.as_ptr().cast(), scales.len());
                // SAFETY: there are so many rows of the width of the scales.
                unsafe { (inner.widen_f16)(from, scales.as_ptr(), width, to.as_mut_ptr(), to.len() / width) };
            }
            _ => {
                self.copy_block(kernels, panel, block, to);
                inner::scale_columns(device.simd, to, scales);
            }
        }
    }

    pub(super) fn bias(&self) -> &[f32] {
        self.bias.f32(self.n)
    }

    pub(super) fn zeros(&self) -> &[f32] {
        self.zeros.f32(self.k)
    }

    /// The blocks of the sum, in the order in which they are added up. They depend on the weight alone, so that
    /// every result is the same sum wherever and with whatever it is computed.
    pub(super) fn k_blocks(&self) -> Vec<KBlock> {
        let (k, taps) = (self.k, self.taps);
        let step = k_step(self.depth, k, taps);
        if k <= DEPTH {
            let step = step / k;
            let block = |tap| KBlock { tap, taps: step.min(taps - tap), k_start: 0, k };
            return (0..taps).step_by(step).map(block).collect();
        }
        let blocks = move |tap| {
            (0..k).step_by(step).map(move |k_start| KBlock {
                tap,
                taps: 1,
                k_start,
                k: step.min(k - k_start),
            })
        };
        (0..taps).flat_map(blocks).collect()
    }

    /// Pairs of a row of a block of [`Values::Pairs`], at the most.
    pub(super) fn most_pairs(k: usize, taps: usize) -> usize {
        let step = k_step(DEPTH, k, taps);
        if k <= DEPTH { step / k * k.div_ceil(2) } else { step.div_ceil(2) }
    }

    /// Values of a column in the largest block of the sum.
    pub(super) fn block_depth(kernels: &Kernels, values: Values, k: usize, taps: usize) -> usize {
        k_step(depth(kernels, values), k, taps)
    }

    /// A panel's rows of a block as `f32`, in `scratch` if they have to be converted; those of [`Values::Pairs`] as they are.
    pub(super) fn block(
        &self,
        kernels: &Kernels,
        panel: usize,
        block: &KBlock,
        scratch: &mut [f32],
    ) -> *const f32 {
        let width = kernels.width(self.n, panel);
        let (panel, stride) = self.panel(kernels, panel);
        let len = block.taps * block.k * width;
        let dtype = match self.values {
            Values::Stored(dtype) => dtype,
            Values::Pairs => {
                let rows = block.tap * self.k.div_ceil(2) + block.k_start / 2;
                return panel[rows * width * size_of::<u32>()..].as_ptr().cast();
            }
            Values::Int8 => {
                int8::widen(kernels, panel, self.k, width, block, &mut scratch[..len]);
                return scratch.as_ptr();
            }
        };
        let row = width * dtype.size();
        let tap = |tap| &panel[tap * stride + block.k_start * row..][..block.k * row];
        if dtype == DType::F32 && block.taps == 1 {
            return tap(block.tap).as_ptr().cast();
        }
        for (i, to) in scratch[..len].chunks_exact_mut(block.k * width).enumerate() {
            kernels.widen(dtype, tap(block.tap + i), to);
        }
        scratch.as_ptr()
    }
}

/// A weight's values as `f32`.
pub(super) fn read_f32(device: &Device, weight: Weight<'_>) -> Result<Buffer> {
    let len: usize = weight.shape.iter().product();
    if weight.bytes.len() != len * weight.dtype.size() {
        bail!(Internal, "a weight of shape {:?} has {} bytes", weight.shape, weight.bytes.len());
    }
    let mut buffer = Buffer::new(&device.memory, len * 4, "a weight")?;
    widen(weight.dtype, weight.bytes, buffer.f32_mut(len));
    Ok(buffer)
}

/// Converts little-endian values to `f32`.
pub(super) fn widen(dtype: DType, from: &[u8], to: &mut [f32]) {
    match dtype {
        DType::F32 => {
            for (to, from) in to.iter_mut().zip(from.as_chunks().0) {
                *to = f32::from_le_bytes(*from);
            }
        }
        DType::F16 => {
            for (to, from) in to.iter_mut().zip(from.as_chunks().0) {
                *to = half::f16::from_le_bytes(*from).to_f32();
            }
        }
        DType::Bf16 => {
            for (to, from) in to.iter_mut().zip(from.as_chunks().0) {
                *to = half::bf16::from_le_bytes(*from).to_f32();
            }
        }
    }
}

/// The start of memory whose disjoint parts several tasks write.
#[derive(Clone, Copy)]
pub(super) struct Target<T>(pub(super) *mut T);

// SAFETY: a plain address; whoever writes through it states why the parts are disjoint.
unsafe impl<T> Send for Target<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Target<T> {}

impl<T> Target<T> {
    /// The address of value `index`.
    pub(super) fn at(self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }

    /// `len` values from `start`.
    ///
    /// # Safety
    /// They lie within the memory, and no other slice of them is in use.
    pub(super) unsafe fn slice<'a>(self, start: usize, len: usize) -> &'a mut [T] {
        // SAFETY: passed on to the caller.
        unsafe { std::slice::from_raw_parts_mut(self.at(start), len) }
    }
}
