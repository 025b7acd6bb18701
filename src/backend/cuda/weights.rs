//! Prepared weights: converted to the precision of the activations, in the order that kernels read them, once at load.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use cudarc::driver::sys::CUdeviceptr;

use super::pool::Buffer;
use super::{Cuda, Precision, as_values};
use crate::backend::{ConvGeometry, DType, Weight};
use crate::util::error::{Result, bail};

/// Values that are converted at a time, on the stack.
const BLOCK: usize = 512;

/// A linear layer: `y = x · wᵀ + bias`.
pub struct CudaLinear {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// `[outputs, inputs]`
    pub(super) weight: Buffer,
    pub(super) bias: Option<Bias>,
    /// Whether rows are in groups of 16, eight of values and the eight of their gates: for the kernel that joins GEGLU to
    /// the product, and nothing else.
    pub(super) interleaved: bool,
}

/// `[outputs]`, twice: our kernels read f32, cuBLASLt the type of the result.
pub(super) struct Bias {
    f32: Buffer,
    /// `None` where that is f32 as well.
    typed: Option<Buffer>,
}

impl Bias {
    pub(super) fn f32(&self) -> CUdeviceptr {
        self.f32.pointer()
    }

    pub(super) fn typed(&self) -> CUdeviceptr {
        self.typed.as_ref().unwrap_or(&self.f32).pointer()
    }
}

/// A convolution.
pub struct CudaConv2d {
    /// `[outputs, kernel height · kernel width · inputs]`: a checkpoint's order with the channels moved last.
    pub(super) matrix: CudaLinear,
    pub(super) inputs: usize,
    /// Height and width.
    pub(super) kernel: [usize; 2],
    pub(super) geometry: ConvGeometry,
}

/// A norm's scale and shift, f32.
pub struct CudaAffine {
    pub(super) channels: usize,
    pub(super) weight: Buffer,
    pub(super) bias: Buffer,
}

/// A table in the precision of the activations.
pub struct CudaEmbedding {
    pub(super) entries: usize,
    pub(super) channels: usize,
    pub(super) table: Buffer,
}

pub(super) fn prepare_linear(
    cuda: &Cuda,
    weight: Weight<'_>,
    bias: Option<Weight<'_>>,
) -> Result<CudaLinear> {
    let &([outputs, inputs] | [outputs, inputs, 1, 1]) = weight.shape else {
        bail!(Internal, "a linear layer's weight of shape {:?}", weight.shape);
    };
    let bias = prepare_bias(cuda, outputs, bias)?;
    let stored = store(cuda, weight, cuda.device.precision, "a linear layer's weight")?;
    Ok(CudaLinear { inputs, outputs, weight: stored, bias, interleaved: false })
}

/// Whether there is a kernel that joins GEGLU to a product of these sizes.
pub(super) fn interleaves(precision: Precision, outputs: usize, inputs: usize) -> bool {
    precision != Precision::F32 && outputs.is_multiple_of(16) && inputs.is_multiple_of(8)
}

/// As [`prepare_linear`], but interleaved where the kernel for that can have the sizes.
pub(super) fn prepare_geglu(cuda: &Cuda, weight: Weight<'_>, bias: Option<Weight<'_>>) -> Result<CudaLinear> {
    let &[outputs, inputs] = weight.shape else {
        return prepare_linear(cuda, weight, bias);
    };
    if !interleaves(cuda.device.precision, outputs, inputs) {
        return prepare_linear(cuda, weight, bias);
    }
    let what = "a linear layer's weight";
    let size = weight.dtype.size();
    let row = inputs * size;
    let stored = store_rows(cuda, outputs, inputs, cuda.device.precision, what, |i, to| {
        let from = &weight.bytes[interleaved(i, outputs) * row..][..row];
        convert(weight.dtype, from, cuda.device.precision, to)
    })?;
    let bias = match bias {
        None => None,
        Some(bias) => {
            check_bias(outputs, bias)?;
            let size = bias.dtype.size();
            let f32 = store_rows(cuda, outputs, 1, Precision::F32, "a bias", |i, to| {
                let from = &bias.bytes[interleaved(i, outputs) * size..][..size];
                convert(bias.dtype, from, Precision::F32, to)
            })?;
            Some(Bias { f32, typed: None })
        }
    };
    Ok(CudaLinear { inputs, outputs, weight: stored, bias, interleaved: true })
}

/// Which row of a GEGLU weight, values and then gates, comes `i`-th in groups of eight values and their eight gates.
fn interleaved(i: usize, outputs: usize) -> usize {
    i / 16 * 8 + i % 8 + if i % 16 < 8 { 0 } else { outputs / 2 }
}

pub(super) fn prepare_conv2d(
    cuda: &Cuda,
    weight: Weight<'_>,
    bias: Option<Weight<'_>>,
    geometry: ConvGeometry,
) -> Result<CudaConv2d> {
    let &[outputs, inputs, height, width] = weight.shape else {
        bail!(Internal, "a convolution's weight of shape {:?}", weight.shape);
    };
    if height == 0 || width == 0 || geometry.stride == 0 {
        bail!(Internal, "a convolution's weight of shape {:?} with stride {}", weight.shape, geometry.stride);
    }
    let bias = prepare_bias(cuda, outputs, bias)?;
    let (taps, what) = (height * width, "a convolution's weight");
    let depth = taps * inputs;
    let stored = if taps == 1 {
        store(cuda, weight, cuda.device.precision, what)?
    } else {
        let (mut row, mut turned) = (vec![0.0; depth], vec![0.0; depth]);
        let bytes = depth * weight.dtype.size();
        store_rows(cuda, outputs, depth, cuda.device.precision, what, |i, to| {
            widen(weight.dtype, &weight.bytes[i * bytes..][..bytes], &mut row);
            move_channels_last(&row, taps, &mut turned);
            narrow(&turned, cuda.device.precision, to)
        })?
    };
    let matrix = CudaLinear { inputs: depth, outputs, weight: stored, bias, interleaved: false };
    Ok(CudaConv2d { matrix, inputs, kernel: [height, width], geometry })
}

/// `[channels, taps]` to `[taps, channels]`.
fn move_channels_last(from: &[f32], taps: usize, to: &mut [f32]) {
    match taps {
        // Nearly every convolution has a 3×3 kernel: strides that the compiler knows.
        9 => move_channels_of::<9>(from, to),
        _ => {
            let channels = (from.len() / taps).max(1);
            for (tap, to) in to.chunks_exact_mut(channels).enumerate() {
                for (to, from) in to.iter_mut().zip(from[tap..].iter().step_by(taps)) {
                    *to = *from;
                }
            }
        }
    }
}

fn move_channels_of<const TAPS: usize>(from: &[f32], to: &mut [f32]) {
    let (from, _) = from.as_chunks::<TAPS>();
    for (tap, to) in to.chunks_exact_mut(from.len().max(1)).take(TAPS).enumerate() {
        for (to, from) in to.iter_mut().zip(from) {
            *to = from[tap];
        }
    }
}

pub(super) fn prepare_affine(cuda: &Cuda, weight: Weight<'_>, bias: Weight<'_>) -> Result<CudaAffine> {
    let &[channels] = weight.shape else {
        bail!(Internal, "a norm's weight of shape {:?}", weight.shape);
    };
    if bias.shape != weight.shape {
        bail!(Internal, "a norm's weight of shape {:?} and bias of shape {:?}", weight.shape, bias.shape);
    }
    let store = |weight| store(cuda, weight, Precision::F32, "a norm");
    Ok(CudaAffine { channels, weight: store(weight)?, bias: store(bias)? })
}

pub(super) fn prepare_embedding(cuda: &Cuda, weight: Weight<'_>) -> Result<CudaEmbedding> {
    let &[entries, channels] = weight.shape else {
        bail!(Internal, "an embedding of shape {:?}", weight.shape);
    };
    let table = store(cuda, weight, cuda.device.precision, "an embedding")?;
    Ok(CudaEmbedding { entries, channels, table })
}

fn check_bias(outputs: usize, bias: Weight<'_>) -> Result<()> {
    if bias.shape != [outputs] {
        bail!(Internal, "a bias of shape {:?} for {outputs} outputs", bias.shape);
    }
    Ok(())
}

fn prepare_bias(cuda: &Cuda, outputs: usize, bias: Option<Weight<'_>>) -> Result<Option<Bias>> {
    let Some(bias) = bias else { return Ok(None) };
    check_bias(outputs, bias)?;
    let precision = cuda.device.precision;
    let f32 = store(cuda, bias, Precision::F32, "a bias")?;
    let typed = match precision {
        Precision::F32 => None,
        Precision::F16 | Precision::Bf16 => Some(store(cuda, bias, precision, "a bias")?),
    };
    Ok(Some(Bias { f32, typed }))
}

/// A weight in its own order.
fn store(cuda: &Cuda, weight: Weight<'_>, precision: Precision, what: &str) -> Result<Buffer> {
    let size = weight.dtype.size();
    let values = weight.bytes.len() / size;
    store_values(cuda, values, 1, precision, what, |range, to| {
        convert(weight.dtype, &weight.bytes[range.start * size..range.end * size], precision, to)
    })
}

/// `rows` rows of `len` values, each converted by `write`, which returns a value that the precision does not have.
fn store_rows(
    cuda: &Cuda,
    rows: usize,
    len: usize,
    precision: Precision,
    what: &str,
    mut write: impl FnMut(usize, &mut [u8]) -> Option<f32>,
) -> Result<Buffer> {
    let bytes = (len * precision.size()).max(1);
    store_values(cuda, rows, len, precision, what, |range, to| {
        range.zip(to.chunks_exact_mut(bytes)).map(|(i, to)| write(i, to)).fold(None, Option::or)
    })
}

fn store_values(
    cuda: &Cuda,
    units: usize,
    unit: usize,
    precision: Precision,
    what: &str,
    mut write: impl FnMut(std::ops::Range<usize>, &mut [u8]) -> Option<f32>,
) -> Result<Buffer> {
    cuda.start()?;
    let unit = unit * precision.size();
    let buffer = Buffer::new(&cuda.device, units * unit, what)?;
    let mut too_large = None;
    let stream = &cuda.pool.stream;
    cuda.staging().upload(stream, &cuda.device, buffer.pointer(), units, unit, |range, to| {
        too_large = too_large.or(write(range, to));
    })?;
    stream.synchronize(what)?;
    match too_large {
        None => Ok(buffer),
        Some(value) => bail!(Numeric, "{value:e} is more than {} can hold", precision.suffix()),
    }
}

/// Converts the values of a file, whose bytes may lie anywhere. Returns one that is too large for `precision`, if any is.
fn convert(dtype: DType, from: &[u8], precision: Precision, to: &mut [u8]) -> Option<f32> {
    let same = matches!(
        (dtype, precision),
        (DType::F16, Precision::F16) | (DType::Bf16, Precision::Bf16) | (DType::F32, Precision::F32)
    );
    if same {
        to.copy_from_slice(from);
        return None;
    }
    let mut block = [0.0; BLOCK];
    let mut too_large = None;
    for (from, to) in from.chunks(BLOCK * dtype.size()).zip(to.chunks_mut(BLOCK * precision.size())) {
        let values = &mut block[..from.len() / dtype.size()];
        widen(dtype, from, values);
        too_large = too_large.or(narrow(values, precision, to));
    }
    too_large
}

fn widen(dtype: DType, from: &[u8], to: &mut [f32]) {
    match dtype {
        DType::F32 => {
            for (to, b) in to.iter_mut().zip(from.chunks_exact(4)) {
                *to = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        DType::F16 => {
            let mut block = [f16::ZERO; BLOCK];
            for (from, to) in from.chunks(2 * BLOCK).zip(to.chunks_mut(BLOCK)) {
                let halves = &mut block[..to.len()];
                for (half, b) in halves.iter_mut().zip(from.chunks_exact(2)) {
                    *half = f16::from_le_bytes([b[0], b[1]]);
                }
                halves.convert_to_f32_slice(to);
            }
        }
        DType::Bf16 => {
            for (to, b) in to.iter_mut().zip(from.chunks_exact(2)) {
                *to = f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16);
            }
        }
    }
}

/// Rounds to the nearest, ties to even.
fn narrow(from: &[f32], precision: Precision, to: &mut [u8]) -> Option<f32> {
    let overflows = match precision {
        Precision::F32 => {
            as_values::<f32>(to).copy_from_slice(from);
            return None;
        }
        Precision::F16 => {
            let to = as_values::<f16>(to);
            to.convert_from_f32_slice(from);
            to.iter().fold(false, |any, x| any | (x.to_bits() & 0x7fff == 0x7c00))
        }
        Precision::Bf16 => {
            let to = as_values::<bf16>(to);
            // half's own conversion also keeps NaN what it is, which is not to be had in vectors; weights are finite.
            for (to, from) in to.iter_mut().zip(from) {
                let bits = from.to_bits();
                let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
                *to = bf16::from_bits((rounded >> 16) as u16);
            }
            to.iter().fold(false, |any, x| any | (x.to_bits() & 0x7fff == 0x7f80))
        }
    };
    if overflows { from.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Aligned as staging memory is.
    fn converted(dtype: DType, from: &[u8], precision: Precision) -> (Vec<u8>, Option<f32>) {
        let bytes = from.len() / dtype.size() * precision.size();
        let mut to = vec![0u64; bytes.div_ceil(8) + 1];
        // SAFETY: as many bytes, initialised.
        let to = unsafe { std::slice::from_raw_parts_mut(to.as_mut_ptr().cast::<u8>(), bytes) };
        let too_large = convert(dtype, from, precision, to);
        (to.to_vec(), too_large)
    }

    /// Every type to every other as half converts single values, at odd addresses and in lengths that fill no block.
    #[test]
    fn conversions_round_as_half_does() {
        let values: Vec<f32> = (0..2 * BLOCK + 7)
            .map(|i| (i as f32 - 500.0) * 1.2345e-3 * if i % 3 == 0 { 1e-4 } else { 7.0 })
            .chain([0.0, -0.0, 65504.0, -65519.0, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 6e-8, 1e-30])
            .collect();
        let bytes = |dtype| -> Vec<u8> {
            match dtype {
                DType::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
                DType::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
                DType::Bf16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
            }
        };
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let source = |x: f32| match dtype {
                DType::F32 => x,
                DType::F16 => f16::from_f32(x).to_f32(),
                DType::Bf16 => bf16::from_f32(x).to_f32().clamp(-65504.0, 65504.0),
            };
            let mut file = vec![0];
            file.extend(match dtype {
                // 65504 rounds to 65536 in bf16.
                DType::Bf16 => {
                    values.iter().flat_map(|&x| bf16::from_f32(source(x) * 0.5).to_le_bytes()).collect()
                }
                _ => bytes(dtype),
            });
            let scale = if dtype == DType::Bf16 { 0.5 } else { 1.0 };
            let values: Vec<f32> = match dtype {
                DType::Bf16 => values.iter().map(|&x| bf16::from_f32(source(x) * scale).to_f32()).collect(),
                _ => values.iter().map(|&x| source(x)).collect(),
            };
            let expect = |precision| -> Vec<u8> {
                match precision {
                    Precision::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
                    Precision::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
                    Precision::Bf16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
                }
            };
            for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
                let got = converted(dtype, &file[1..], precision);
                assert!(got == (expect(precision), None), "{dtype:?} to {precision:?}");
            }
        }
    }

    #[test]
    fn a_value_too_large_is_found_wherever_it_is() {
        let numbers = |large: f32, at| -> Vec<u8> {
            (0..1000).flat_map(|i| if i == at { large } else { 1.0f32 }.to_le_bytes()).collect()
        };
        for at in [0, 511, 512, 999] {
            let large = converted(DType::F32, &numbers(-65520.0, at), Precision::F16).1;
            assert_eq!(large, Some(-65520.0));
            assert_eq!(converted(DType::F32, &numbers(-65519.0, at), Precision::F16).1, None);
            let large = converted(DType::F32, &numbers(f32::MAX, at), Precision::Bf16).1;
            assert_eq!(large, Some(f32::MAX));
            assert_eq!(converted(DType::F32, &numbers(f32::MAX, at), Precision::F32).1, None);
        }
    }

    #[test]
    fn orders() {
        let mut turned = [0.0; 6];
        move_channels_last(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3, &mut turned);
        assert_eq!(turned, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        let order: Vec<usize> = (0..32).map(|i| interleaved(i, 32)).collect();
        let expected: Vec<usize> = [0..8, 16..24, 8..16, 24..32].into_iter().flatten().collect();
        assert_eq!(order, expected);
    }
}
