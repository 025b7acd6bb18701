//! What linear layers and convolutions do to their sums before they store them.

use std::ops::Range;

use super::elementwise::{activate, gate};
use super::pack::Target;
use super::simd::{Simd, vectorized};
use crate::backend::{Activation, Shape};

/// Values that are finished at a time: as many as the largest vectors have.
const CHUNK: usize = 16;

/// What happens to the sums before they are stored.
#[derive(Default)]
pub(super) struct Finish<'a> {
    /// `[n, c_out]`
    pub(super) channel_bias: Option<&'a [f32]>,
    pub(super) activation: Option<Activation>,
    /// The output's shape.
    pub(super) residual: Option<&'a [f32]>,
    /// The residual is what lies in the output's place; there is then no activation.
    pub(super) onto: bool,
    /// The first half of the columns times the GELU of the second.
    pub(super) geglu: bool,
}

impl Finish<'_> {
    /// Whether a bias and a residual are all that is added, and nothing comes after.
    pub(super) fn is_sum(&self) -> bool {
        !self.geglu && self.activation.is_none() && self.channel_bias.is_none()
    }
}

/// Sums of some rows and columns of an output of `shape`.
pub(super) struct Sums<'a> {
    pub(super) values: &'a [f32],
    /// From one row to the next.
    pub(super) stride: usize,
    /// Where the gates of a row's columns begin.
    pub(super) gates: usize,
    pub(super) shape: Shape,
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
}

impl Sums<'_> {
    /// Finishes them to their places behind `target`.
    ///
    /// # Safety
    /// `target` points to room for the whole output, of which nothing else uses these rows and columns.
    pub(super) unsafe fn finish(&self, simd: Simd, finish: &Finish<'_>, bias: &[f32], target: Target<f32>) {
        match finish.geglu {
            true => geglu_rows(simd, self, bias, target),
            false => finish_rows(simd, self, finish, bias, target),
        }
    }
}

vectorized! {
    fn finish_rows(
        sums: &Sums<'_>,
        finish: &Finish<'_>,
        bias: &[f32],
        target: Target<f32>,
    ) = finish_rows_body
}

#[inline(always)]
fn finish_rows_body<const FMA: bool>(
    sums: &Sums<'_>,
    finish: &Finish<'_>,
    bias: &[f32],
    target: Target<f32>,
) {
    let Range { start, end } = sums.columns;
    let (columns, width) = (sums.shape.c, end - start);
    let bias = &bias[start..end];
    for (row, values) in sums.rows.clone().zip(sums.values.chunks(sums.stride)) {
        let (values, at) = (&values[..width], row * columns + start);
        // SAFETY: see `Sums::finish`.
        let out = unsafe { target.slice(at, width) };
        let channel_bias =
            finish.channel_bias.map(|bias| &bias[row / sums.shape.pixels() * columns + start..][..width]);
        let residual = finish.residual.map(|residual| &residual[at..][..width]);
        if finish.onto {
            add_row_body::<FMA>(values, bias, channel_bias, out);
        } else {
            finish_row_body::<FMA>(values, bias, channel_bias, finish.activation, residual, out);
        }
    }
}

vectorized! {
    /// `out = (sums + bias) · gelu(gates + gate_bias)`
    fn geglu_rows(sums: &Sums<'_>, bias: &[f32], target: Target<f32>) = geglu_rows_body
}

#[inline(always)]
fn geglu_rows_body<const FMA: bool>(sums: &Sums<'_>, bias: &[f32], target: Target<f32>) {
    let Range { start, end } = sums.columns;
    let (columns, width) = (sums.shape.c, end - start);
    let (bias, gate_bias) = (&bias[start..end], &bias[columns + start..columns + end]);
    for (row, values) in sums.rows.clone().zip(sums.values.chunks(sums.stride)) {
        let (values, gates) = (&values[..width], &values[sums.gates..][..width]);
        // SAFETY: see `Sums::finish`.
        let out = unsafe { target.slice(row * columns + start, width) };
        // By chunks of a known size: a loop of unknown length would begin every row with the constants of the function.
        let (out, out_rest) = out.as_chunks_mut::<CHUNK>();
        let (values, values_rest) = values.as_chunks::<CHUNK>();
        let (bias, bias_rest) = bias.as_chunks::<CHUNK>();
        let (gates, gates_rest) = gates.as_chunks::<CHUNK>();
        let (gate_bias, gate_bias_rest) = gate_bias.as_chunks::<CHUNK>();
        let values = values.iter().zip(bias);
        let gates = gates.iter().zip(gate_bias);
        for ((out, (values, bias)), (gates, gate_bias)) in out.iter_mut().zip(values).zip(gates) {
            let mut chunk = [0.0; CHUNK];
            for i in 0..CHUNK {
                chunk[i] = gate::<FMA>(values[i] + bias[i], gates[i] + gate_bias[i]);
            }
            *out = chunk;
        }
        let values = values_rest.iter().zip(bias_rest);
        let gates = gates_rest.iter().zip(gate_bias_rest);
        for ((out, (value, bias)), (gates, gate_bias)) in out_rest.iter_mut().zip(values).zip(gates) {
            *out = gate::<FMA>(value + bias, gates + gate_bias);
        }
    }
}

vectorized! {
    /// `out = activation(sums + bias + channel_bias) + residual`
    pub(super) fn finish_row(
        sums: &[f32],
        bias: &[f32],
        channel_bias: Option<&[f32]>,
        activation: Option<Activation>,
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) = finish_row_body
}

#[inline(always)]
fn finish_row_body<const FMA: bool>(
    sums: &[f32],
    bias: &[f32],
    channel_bias: Option<&[f32]>,
    activation: Option<Activation>,
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    for ((out, sum), bias) in out.iter_mut().zip(sums).zip(bias) {
        *out = sum + bias;
    }
    if let Some(channel_bias) = channel_bias {
        for (out, bias) in out.iter_mut().zip(channel_bias) {
            *out += bias;
        }
    }
    if let Some(activation) = activation {
        activate::<FMA>(activation, out);
    }
    if let Some(residual) = residual {
        for (out, residual) in out.iter_mut().zip(residual) {
            *out += residual;
        }
    }
}

vectorized! {
    /// `out = sums + bias + channel_bias + out`, to the same bits as [`finish_row`] with that residual.
    pub(super) fn add_row(
        sums: &[f32],
        bias: &[f32],
        channel_bias: Option<&[f32]>,
        out: &mut [f32],
    ) = add_row_body
}

#[inline(always)]
fn add_row_body<const FMA: bool>(sums: &[f32], bias: &[f32], channel_bias: Option<&[f32]>, out: &mut [f32]) {
    let values = out.iter_mut().zip(sums).zip(bias);
    match channel_bias {
        None => values.for_each(|((out, sum), bias)| *out += sum + bias),
        Some(channel_bias) => {
            values.zip(channel_bias).for_each(|(((out, sum), bias), more)| *out += sum + bias + more);
        }
    }
}
