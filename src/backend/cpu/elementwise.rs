//! Functions of single values, sums, and copies.

use super::math::{gelu, swish};
use super::pack::{Target, widen};
use super::simd::vectorized;
use super::{Cpu, CpuEmbedding, CpuTensor};
use crate::backend::{Activation, Shape};
use crate::util::error::{Result, bail};

/// Values in a task.
const CHUNK: usize = 1 << 16;

/// The slope inside the quick GELU's sigmoid.
const QUICK_GELU: f32 = 1.702;

/// Applies `activation` to each value.
#[inline(always)]
pub(super) fn activate<const FMA: bool>(activation: Activation, values: &mut [f32]) {
    match activation {
        Activation::Silu => values.iter_mut().for_each(|x| *x = swish::<FMA>(*x, 1.0)),
        Activation::Gelu => values.iter_mut().for_each(|x| *x = gelu::<FMA>(*x)),
        Activation::QuickGelu => values.iter_mut().for_each(|x| *x = swish::<FMA>(*x, QUICK_GELU)),
    }
}

/// `a · gelu(g)`
#[inline(always)]
pub(super) fn gate<const FMA: bool>(a: f32, g: f32) -> f32 {
    a * gelu::<FMA>(g)
}

vectorized! {
    /// `out = activation(x)`
    fn activate_slice(activation: Activation, x: &[f32], out: &mut [f32]) = activate_slice_body
}

#[inline(always)]
fn activate_slice_body<const FMA: bool>(activation: Activation, x: &[f32], out: &mut [f32]) {
    out.copy_from_slice(x);
    activate::<FMA>(activation, out);
}

vectorized! {
    /// `out = a + b`
    fn add_slices(a: &[f32], b: &[f32], out: &mut [f32]) = add_slices_body
}

#[inline(always)]
fn add_slices_body<const FMA: bool>(a: &[f32], b: &[f32], out: &mut [f32]) {
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        *out = a + b;
    }
}

/// Fills `out` by `body(start, part)` over its parts, each of whole multiples of `unit` values.
fn for_parts(
    cpu: &Cpu,
    out: &mut CpuTensor,
    unit: usize,
    body: impl Fn(usize, &mut [f32]) + Sync,
) -> Result<()> {
    let len = out.shape.len();
    let chunk = (CHUNK / unit).max(1) * unit;
    let target = Target(out.values_mut().as_mut_ptr());
    cpu.parallel(len.div_ceil(chunk), |task, _| {
        let start = task * chunk;
        // SAFETY: each task has its own part.
        body(start, unsafe { target.slice(start, chunk.min(len - start)) });
    })
}

pub(super) fn activation(cpu: &Cpu, x: &CpuTensor, activation: Activation) -> Result<CpuTensor> {
    let mut out = cpu.tensor(x.shape, "activation")?;
    for_parts(cpu, &mut out, 1, |start, out| {
        activate_slice(cpu.device.simd, activation, &x.values()[start..][..out.len()], out);
    })?;
    Ok(out)
}

pub(super) fn add(cpu: &Cpu, a: &CpuTensor, b: &CpuTensor) -> Result<CpuTensor> {
    if a.shape != b.shape {
        bail!(Internal, "add: {} and {} differ", a.shape, b.shape);
    }
    let mut out = cpu.tensor(a.shape, "add")?;
    for_parts(cpu, &mut out, 1, |start, out| {
        let (a, b) = (&a.values()[start..][..out.len()], &b.values()[start..][..out.len()]);
        add_slices(cpu.device.simd, a, b, out);
    })?;
    Ok(out)
}

pub(super) fn concat_channels(cpu: &Cpu, a: &CpuTensor, b: &CpuTensor) -> Result<CpuTensor> {
    if a.shape.with_channels(0) != b.shape.with_channels(0) {
        bail!(Internal, "concat_channels: {} and {} do not fit", a.shape, b.shape);
    }
    let (first, second) = (a.shape.c, b.shape.c);
    let channels = first + second;
    let mut out = cpu.tensor(a.shape.with_channels(channels), "concat_channels")?;
    for_parts(cpu, &mut out, channels.max(1), |start, out| {
        let row = start / channels;
        for (i, out) in out.chunks_exact_mut(channels).enumerate() {
            let (left, right) = out.split_at_mut(first);
            left.copy_from_slice(&a.values()[(row + i) * first..][..first]);
            right.copy_from_slice(&b.values()[(row + i) * second..][..second]);
        }
    })?;
    Ok(out)
}

pub(super) fn splice_images(cpu: &Cpu, a: &CpuTensor, b: &CpuTensor, at: usize) -> Result<CpuTensor> {
    if a.shape != b.shape || at > a.shape.n {
        bail!(Internal, "splice_images: {} and {} at {at}", a.shape, b.shape);
    }
    let image = (a.shape.len() / a.shape.n.max(1)).max(1);
    let mut out = cpu.tensor(a.shape, "splice_images")?;
    for_parts(cpu, &mut out, 1, |start, out| {
        let (left, right) = out.split_at_mut((at * image).saturating_sub(start).min(out.len()));
        left.copy_from_slice(&a.values()[start..][..left.len()]);
        right.copy_from_slice(&b.values()[start + left.len()..][..right.len()]);
    })?;
    Ok(out)
}

pub(super) fn embed_tokens(
    cpu: &Cpu,
    ids: &[u32],
    n: usize,
    tokens: &CpuEmbedding,
    positions: &CpuEmbedding,
) -> Result<CpuTensor> {
    let length = ids.len() / n.max(1);
    let channels = tokens.channels;
    if n * length != ids.len() || length > positions.entries || positions.channels != channels {
        bail!(
            Internal,
            "embed_tokens: {} ids for {n} sequences, {} positions, {channels} and {} channels",
            ids.len(),
            positions.entries,
            positions.channels
        );
    }
    if let Some(id) = ids.iter().find(|&&id| id as usize >= tokens.entries) {
        bail!(Internal, "embed_tokens: token {id} of {}", tokens.entries);
    }
    let mut out = cpu.tensor(Shape::tokens(n, length, channels), "embed_tokens")?;
    let mut position = vec![0.0; channels];
    for (i, (out, &id)) in out.values_mut().chunks_exact_mut(channels.max(1)).zip(ids).enumerate() {
        widen(tokens.dtype, tokens.row(id as usize), out);
        widen(positions.dtype, positions.row(i % length), &mut position);
        for (out, position) in out.iter_mut().zip(&position) {
            *out += position;
        }
    }
    Ok(out)
}

pub(super) fn select_tokens(cpu: &Cpu, x: &CpuTensor, index: &[usize]) -> Result<CpuTensor> {
    let pixels = x.shape.pixels();
    if index.len() != x.shape.n || index.iter().any(|&i| i >= pixels) {
        bail!(Internal, "select_tokens: {index:?} of {}", x.shape);
    }
    let channels = x.shape.c;
    let mut out = cpu.tensor(Shape::vector(x.shape.n, channels), "select_tokens")?;
    for (n, (out, &i)) in out.values_mut().chunks_exact_mut(channels.max(1)).zip(index).enumerate() {
        out.copy_from_slice(&x.values()[(n * pixels + i) * channels..][..channels]);
    }
    Ok(out)
}
