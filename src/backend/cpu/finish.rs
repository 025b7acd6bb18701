//! What linear layers and convolutions do to their sums before they store them.

use super::elementwise::{activate, gate};
use super::simd::vectorized;
use crate::backend::Activation;

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

vectorized! {
    /// `out = (sums + bias) · gelu(gates + gate_bias)`
    pub(super) fn finish_geglu(
        sums: &[f32],
        bias: &[f32],
        gates: &[f32],
        gate_bias: &[f32],
        out: &mut [f32],
    ) = finish_geglu_body
}

#[inline(always)]
fn finish_geglu_body<const FMA: bool>(
    sums: &[f32],
    bias: &[f32],
    gates: &[f32],
    gate_bias: &[f32],
    out: &mut [f32],
) {
    for ((out, sum), bias) in out.iter_mut().zip(sums).zip(bias) {
        *out = sum + bias;
    }
    for ((out, sum), bias) in out.iter_mut().zip(gates).zip(gate_bias) {
        *out = gate::<FMA>(*out, sum + bias);
    }
}
