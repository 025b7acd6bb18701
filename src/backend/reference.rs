//! The oracle: every operation as its definition says, by direct loops that accumulate in `f64` and round to
//! `f32` once, when the value is stored. Slow on purpose. Operations of real backends are tested against it,
//! and it runs the models where no other backend should be trusted.

use half::{bf16, f16};

use super::{Activation, Backend, ConvGeometry, DType, Epilogue, Input, Shape, Tensor, Weight, run_once};
use crate::util::cancel::Cancel;
use crate::util::error::{Result, bail};

/// The naive backend. Its pool is the heap.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reference {
    cancel: Cancel,
    /// What is uploaded is rounded to this.
    inputs: Option<DType>,
}

impl Reference {
    /// As a device starts that stores activations as `inputs`; results are not rounded to that.
    pub(crate) fn with_inputs(inputs: DType) -> Self {
        Self { inputs: Some(inputs), ..Self::default() }
    }
}

/// A tensor in host memory, `[n, h, w, c]` row-major.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HostTensor {
    pub(crate) shape: Shape,
    pub(crate) values: Vec<f32>,
}

impl Tensor for HostTensor {
    fn shape(&self) -> Shape {
        self.shape
    }
}

impl HostTensor {
    fn at(&self, n: usize, y: usize, x: usize, c: usize) -> f64 {
        let s = self.shape;
        f64::from(self.values[((n * s.h + y) * s.w + x) * s.c + c])
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.shape.c..(row + 1) * self.shape.c]
    }
}

/// `[out, in]` and `[out]`.
#[derive(Debug)]
pub(crate) struct Linear {
    inputs: usize,
    outputs: usize,
    weight: Vec<f64>,
    bias: Vec<f64>,
}

/// `[out, in, kh, kw]` and `[out]`.
#[derive(Debug)]
pub(crate) struct Conv2d {
    inputs: usize,
    outputs: usize,
    kernel: [usize; 2],
    weight: Vec<f64>,
    bias: Vec<f64>,
    geometry: ConvGeometry,
}

/// `[c]` and `[c]`.
#[derive(Debug)]
pub(crate) struct Affine {
    weight: Vec<f64>,
    bias: Vec<f64>,
}

/// `[entries, c]`.
#[derive(Debug)]
pub(crate) struct Embedding {
    entries: usize,
    channels: usize,
    weight: Vec<f64>,
}

fn widen(weight: Weight<'_>) -> Vec<f64> {
    match weight.dtype {
        DType::F32 => weight
            .bytes
            .chunks_exact(4)
            .map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])))
            .collect(),
        DType::F16 => {
            weight.bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f64()).collect()
        }
        DType::Bf16 => {
            weight.bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f64()).collect()
        }
    }
}

/// The bias, or zeros.
fn widen_bias(bias: Option<Weight<'_>>, outputs: usize) -> Result<Vec<f64>> {
    let bias = bias.map_or_else(|| vec![0.0; outputs], widen);
    if bias.len() != outputs {
        bail!(Internal, "bias of {} values for {outputs} outputs", bias.len());
    }
    Ok(bias)
}

pub(crate) fn activate(x: f64, activation: Activation) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => x * 0.5 * (1.0 + libm::erf(x / std::f64::consts::SQRT_2)),
        Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
    }
}

/// Applies the epilogue to the products (bias included) of an output of `shape`.
fn finish(op: &str, shape: Shape, mut y: Vec<f64>, epilogue: Epilogue<'_, HostTensor>) -> Result<HostTensor> {
    if let Some(bias) = epilogue.channel_bias {
        if bias.shape != Shape::vector(shape.n, shape.c) {
            bail!(Internal, "{op}: channel bias {} for output {shape}", bias.shape);
        }
        for (i, y) in y.iter_mut().enumerate() {
            let image = i / (shape.h * shape.w * shape.c);
            *y += f64::from(bias.values[image * shape.c + i % shape.c]);
        }
    }
    if let Some(activation) = epilogue.activation {
        y.iter_mut().for_each(|y| *y = activate(*y, activation));
    }
    if let Some(residual) = epilogue.residual {
        if residual.shape != shape {
            bail!(Internal, "{op}: residual {} for output {shape}", residual.shape);
        }
        y.iter_mut().zip(&residual.values).for_each(|(y, r)| *y += f64::from(*r));
    }
    Ok(HostTensor { shape, values: y.into_iter().map(|y| y as f32).collect() })
}

fn matmul(op: &str, x: &HostTensor, weight: &Linear) -> Result<Vec<f64>> {
    if x.shape.c != weight.inputs {
        bail!(Internal, "{op}: input {} for a weight [{}, {}]", x.shape, weight.outputs, weight.inputs);
    }
    let mut y = Vec::with_capacity(x.shape.rows() * weight.outputs);
    for row in 0..x.shape.rows() {
        let x = x.row(row);
        for o in 0..weight.outputs {
            let w = &weight.weight[o * weight.inputs..(o + 1) * weight.inputs];
            let sum: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * w).sum();
            y.push(sum + weight.bias[o]);
        }
    }
    Ok(y)
}

/// The convolution proper; `x` has been enlarged already if it should be.
fn convolve(op: &str, x: &HostTensor, w: &Conv2d, epilogue: Epilogue<'_, HostTensor>) -> Result<HostTensor> {
    let (s, [kh, kw]) = (x.shape, w.kernel);
    let ConvGeometry { stride, padding: [top, left, bottom, right], .. } = w.geometry;
    let (padded_h, padded_w) = (s.h + top + bottom, s.w + left + right);
    if s.c != w.inputs || padded_h < kh || padded_w < kw {
        bail!(Internal, "{op}: input {s} for a weight [{}, {}, {kh}, {kw}]", w.outputs, w.inputs);
    }
    let shape = Shape::image(s.n, (padded_h - kh) / stride + 1, (padded_w - kw) / stride + 1, w.outputs);
    let mut y = Vec::with_capacity(shape.len());
    for n in 0..shape.n {
        for oy in 0..shape.h {
            for ox in 0..shape.w {
                for o in 0..shape.c {
                    let mut sum = w.bias[o];
                    for ky in 0..kh {
                        for kx in 0..kw {
                            // Position in the padded input; outside the real one the value is zero.
                            let (py, px) = (oy * stride + ky, ox * stride + kx);
                            if py < top || px < left || py >= top + s.h || px >= left + s.w {
                                continue;
                            }
                            for c in 0..s.c {
                                let weight = w.weight[((o * s.c + c) * kh + ky) * kw + kx];
                                sum += weight * x.at(n, py - top, px - left, c);
                            }
                        }
                    }
                    y.push(sum);
                }
            }
        }
    }
    finish(op, shape, y, epilogue)
}

/// Mean and `1 / √(variance + eps)` of the values, with the biased variance.
fn moments(values: &[f64], eps: f32) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
    (mean, 1.0 / (variance + f64::from(eps)).sqrt())
}

impl Backend for Reference {
    type Tensor = HostTensor;
    type Linear = Linear;
    type Conv2d = Conv2d;
    type Affine = Affine;
    type Embedding = Embedding;
    type Repeated = ();

    fn session(&self) -> Result<Self> {
        Ok(Self::default())
    }

    fn with_cancel(&self, cancel: &Cancel) -> Self {
        Self { cancel: cancel.clone(), ..self.clone() }
    }

    fn prepare_linear(&self, weight: Weight<'_>, bias: Option<Weight<'_>>) -> Result<Linear> {
        let (outputs, inputs) = match *weight.shape {
            [outputs, inputs] | [outputs, inputs, 1, 1] => (outputs, inputs),
            _ => bail!(Internal, "prepare_linear: weight {:?}", weight.shape),
        };
        Ok(Linear { inputs, outputs, weight: widen(weight), bias: widen_bias(bias, outputs)? })
    }

    fn prepare_conv2d(
        &self,
        weight: Weight<'_>,
        bias: Option<Weight<'_>>,
        geometry: ConvGeometry,
    ) -> Result<Conv2d> {
        let [outputs, inputs, kh, kw] = *weight.shape else {
            bail!(Internal, "prepare_conv2d: weight {:?}", weight.shape)
        };
        let bias = widen_bias(bias, outputs)?;
        Ok(Conv2d { inputs, outputs, kernel: [kh, kw], weight: widen(weight), bias, geometry })
    }

    fn prepare_affine(&self, weight: Weight<'_>, bias: Weight<'_>) -> Result<Affine> {
        let (weight, bias) = (widen(weight), widen(bias));
        if weight.len() != bias.len() {
            bail!(Internal, "prepare_affine: scale [{}], shift [{}]", weight.len(), bias.len());
        }
        Ok(Affine { weight, bias })
    }

    fn prepare_embedding(&self, weight: Weight<'_>) -> Result<Embedding> {
        let [entries, channels] = *weight.shape else {
            bail!(Internal, "prepare_embedding: weight {:?}", weight.shape)
        };
        Ok(Embedding { entries, channels, weight: widen(weight) })
    }

    fn upload(&self, shape: Shape, values: &[f32]) -> Result<HostTensor> {
        self.cancel.check()?;
        if values.len() != shape.len() {
            bail!(Internal, "upload: {} values for {shape}", values.len());
        }
        let round = |x: f32| match self.inputs {
            Some(DType::F16) => f16::from_f32(x).to_f32(),
            Some(DType::Bf16) => bf16::from_f32(x).to_f32(),
            Some(DType::F32) | None => x,
        };
        Ok(HostTensor { shape, values: values.iter().copied().map(round).collect() })
    }

    fn download(&self, x: &HostTensor, out: &mut [f32]) -> Result<()> {
        self.cancel.check()?;
        if out.len() != x.values.len() {
            bail!(Internal, "download: {} into {} values", x.shape, out.len());
        }
        out.copy_from_slice(&x.values);
        Ok(())
    }

    fn view(&self, x: &HostTensor, offset: usize, shape: Shape) -> Result<HostTensor> {
        let Some(values) = x.values.get(offset..).and_then(|rest| rest.get(..shape.len())) else {
            bail!(Internal, "view: {shape} from {offset} of {}", x.shape);
        };
        Ok(HostTensor { shape, values: values.to_vec() })
    }

    fn repeat(
        &self,
        (): &mut (),
        inputs: &[Input<'_, HostTensor>],
        body: &dyn Fn(&[HostTensor]) -> Result<HostTensor>,
        out: &mut [f32],
    ) -> Result<()> {
        run_once(self, inputs, body, out)
    }

    fn linear(
        &self,
        x: &HostTensor,
        weight: &Linear,
        epilogue: Epilogue<'_, HostTensor>,
    ) -> Result<HostTensor> {
        self.cancel.check()?;
        let y = matmul("linear", x, weight)?;
        finish("linear", x.shape.with_channels(weight.outputs), y, epilogue)
    }

    fn linear_geglu(&self, x: &HostTensor, weight: &Linear) -> Result<HostTensor> {
        self.cancel.check()?;
        let y = matmul("linear_geglu", x, weight)?;
        if !weight.outputs.is_multiple_of(2) {
            bail!(Internal, "linear_geglu: a weight with {} outputs", weight.outputs);
        }
        let c = weight.outputs / 2;
        let mut gated = Vec::with_capacity(x.shape.rows() * c);
        for row in y.chunks_exact(2 * c) {
            for i in 0..c {
                gated.push(row[i] * activate(row[c + i], Activation::Gelu));
            }
        }
        finish("linear_geglu", x.shape.with_channels(c), gated, Epilogue::default())
    }

    fn conv2d(
        &self,
        x: &HostTensor,
        weight: &Conv2d,
        epilogue: Epilogue<'_, HostTensor>,
    ) -> Result<HostTensor> {
        self.cancel.check()?;
        if weight.geometry.upsample {
            bail!(Internal, "conv2d: the weight was prepared for upsample_conv2d");
        }
        convolve("conv2d", x, weight, epilogue)
    }

    fn upsample_conv2d(
        &self,
        x: &HostTensor,
        weight: &Conv2d,
        height: usize,
        width: usize,
    ) -> Result<HostTensor> {
        self.cancel.check()?;
        let s = x.shape;
        let fits = |out: usize, side: usize| out == 2 * side || out + 1 == 2 * side;
        if !weight.geometry.upsample || !fits(height, s.h) || !fits(width, s.w) {
            bail!(Internal, "upsample_conv2d: {s} to {height} × {width}");
        }
        let shape = Shape { h: height, w: width, ..s };
        let mut values = Vec::with_capacity(shape.len());
        for n in 0..shape.n {
            for y in 0..height {
                for col in 0..width {
                    for c in 0..shape.c {
                        values.push(x.at(n, y * s.h / height, col * s.w / width, c) as f32);
                    }
                }
            }
        }
        convolve("upsample_conv2d", &HostTensor { shape, values }, weight, Epilogue::default())
    }

    fn group_norm(
        &self,
        x: &HostTensor,
        affine: &Affine,
        groups: usize,
        eps: f32,
        silu: bool,
    ) -> Result<HostTensor> {
        self.cancel.check()?;
        let s = x.shape;
        if affine.weight.len() != s.c || groups == 0 || !s.c.is_multiple_of(groups) {
            bail!(Internal, "group_norm: {s} with {} scales, {groups} groups", affine.weight.len());
        }
        let width = s.c / groups;
        let mut y = vec![0.0; s.len()];
        for n in 0..s.n {
            for group in 0..groups {
                let channels = group * width..(group + 1) * width;
                let mut members = Vec::with_capacity(s.pixels() * width);
                for pixel in 0..s.pixels() {
                    let row = &x.row(n * s.pixels() + pixel)[channels.clone()];
                    members.extend(row.iter().map(|v| f64::from(*v)));
                }
                let (mean, scale) = moments(&members, eps);
                for pixel in 0..s.pixels() {
                    for c in channels.clone() {
                        let i = (n * s.pixels() + pixel) * s.c + c;
                        let v = (f64::from(x.values[i]) - mean) * scale * affine.weight[c] + affine.bias[c];
                        y[i] = if silu { activate(v, Activation::Silu) } else { v };
                    }
                }
            }
        }
        finish("group_norm", s, y, Epilogue::default())
    }

    fn layer_norm(&self, x: &HostTensor, affine: &Affine, eps: f32) -> Result<HostTensor> {
        self.cancel.check()?;
        if affine.weight.len() != x.shape.c {
            bail!(Internal, "layer_norm: {} with {} scales", x.shape, affine.weight.len());
        }
        let mut y = Vec::with_capacity(x.shape.len());
        for row in 0..x.shape.rows() {
            let row: Vec<f64> = x.row(row).iter().map(|v| f64::from(*v)).collect();
            let (mean, scale) = moments(&row, eps);
            for (c, v) in row.iter().enumerate() {
                y.push((v - mean) * scale * affine.weight[c] + affine.bias[c]);
            }
        }
        finish("layer_norm", x.shape, y, Epilogue::default())
    }

    fn attention(
        &self,
        q: &HostTensor,
        k: &HostTensor,
        v: &HostTensor,
        heads: usize,
        causal: bool,
    ) -> Result<HostTensor> {
        self.cancel.check()?;
        let (s, keys) = (q.shape, k.shape.pixels());
        let fits = k.shape == v.shape && k.shape.n == s.n && k.shape.c == s.c && keys > 0;
        if !fits || heads == 0 || !s.c.is_multiple_of(heads) || (causal && keys != s.pixels()) {
            bail!(Internal, "attention: q {s}, k {}, v {}, {heads} heads", k.shape, v.shape);
        }
        let width = s.c / heads;
        let mut y = vec![0.0; s.len()];
        for n in 0..s.n {
            for head in 0..heads {
                let channels = head * width..(head + 1) * width;
                for query in 0..s.pixels() {
                    let visible = if causal { query + 1 } else { keys };
                    let q_row = &q.row(n * s.pixels() + query)[channels.clone()];
                    let scores: Vec<f64> = (0..visible)
                        .map(|key| {
                            let k_row = &k.row(n * keys + key)[channels.clone()];
                            let dot: f64 =
                                q_row.iter().zip(k_row).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                            dot / (width as f64).sqrt()
                        })
                        .collect();
                    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    for c in channels.clone() {
                        let sum: f64 = weights
                            .iter()
                            .enumerate()
                            .map(|(key, weight)| weight * f64::from(v.row(n * keys + key)[c]))
                            .sum();
                        y[(n * s.pixels() + query) * s.c + c] = sum / total;
                    }
                }
            }
        }
        finish("attention", s, y, Epilogue::default())
    }

    fn activation(&self, x: &HostTensor, activation: Activation) -> Result<HostTensor> {
        self.cancel.check()?;
        let y = x.values.iter().map(|v| f64::from(*v)).collect();
        finish("activation", x.shape, y, Epilogue::activation(activation))
    }

    fn add(&self, a: &HostTensor, b: &HostTensor) -> Result<HostTensor> {
        self.cancel.check()?;
        let y = a.values.iter().map(|v| f64::from(*v)).collect();
        finish("add", a.shape, y, Epilogue::residual(b))
    }

    fn concat_channels(&self, a: &HostTensor, b: &HostTensor) -> Result<HostTensor> {
        self.cancel.check()?;
        if a.shape.with_channels(0) != b.shape.with_channels(0) {
            bail!(Internal, "concat_channels: {} and {}", a.shape, b.shape);
        }
        let shape = a.shape.with_channels(a.shape.c + b.shape.c);
        let mut values = Vec::with_capacity(shape.len());
        for row in 0..shape.rows() {
            values.extend_from_slice(a.row(row));
            values.extend_from_slice(b.row(row));
        }
        Ok(HostTensor { shape, values })
    }

    fn splice_images(&self, a: &HostTensor, b: &HostTensor, at: usize) -> Result<HostTensor> {
        self.cancel.check()?;
        if a.shape != b.shape || at > a.shape.n {
            bail!(Internal, "splice_images: {} and {} at {at}", a.shape, b.shape);
        }
        let (first, pixels) = (at * a.shape.pixels(), a.shape.rows());
        let rows = (0..pixels).flat_map(|row| if row < first { a.row(row) } else { b.row(row) });
        Ok(HostTensor { shape: a.shape, values: rows.copied().collect() })
    }

    fn embed_tokens(
        &self,
        ids: &[u32],
        n: usize,
        tokens: &Embedding,
        positions: &Embedding,
    ) -> Result<HostTensor> {
        self.cancel.check()?;
        let c = tokens.channels;
        if n == 0
            || !ids.len().is_multiple_of(n)
            || ids.len() / n > positions.entries
            || positions.channels != c
        {
            bail!(
                Internal,
                "embed_tokens: {} ids, {n} sequences, {} positions",
                ids.len(),
                positions.entries
            );
        }
        let length = ids.len() / n;
        let mut values = Vec::with_capacity(ids.len() * c);
        for (i, id) in ids.iter().map(|id| *id as usize).enumerate() {
            if id >= tokens.entries {
                bail!(Internal, "embed_tokens: id {id} of {} entries", tokens.entries);
            }
            for channel in 0..c {
                let position = positions.weight[(i % length) * c + channel];
                values.push((tokens.weight[id * c + channel] + position) as f32);
            }
        }
        Ok(HostTensor { shape: Shape::tokens(n, length, c), values })
    }

    fn select_tokens(&self, x: &HostTensor, index: &[usize]) -> Result<HostTensor> {
        self.cancel.check()?;
        let s = x.shape;
        if index.len() != s.n || index.iter().any(|i| *i >= s.pixels()) {
            bail!(Internal, "select_tokens: {index:?} of {s}");
        }
        let values = index.iter().enumerate().flat_map(|(n, i)| x.row(n * s.pixels() + i)).copied().collect();
        Ok(HostTensor { shape: Shape::vector(s.n, s.c), values })
    }
}

/// Hand-computed values: what the oracle says must itself be checked by something simpler.
#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn tensor(shape: Shape, values: &[f32]) -> HostTensor {
        Reference::default().upload(shape, values).unwrap()
    }

    fn conv(weight: &[f32], shape: &[usize], bias: &[f32], geometry: ConvGeometry) -> Conv2d {
        let (weight, bias) = (bytes(weight), bytes(bias));
        let outputs = [shape[0]];
        Reference::default()
            .prepare_conv2d(
                Weight { dtype: DType::F32, shape, bytes: &weight },
                Some(Weight { dtype: DType::F32, shape: &outputs, bytes: &bias }),
                geometry,
            )
            .unwrap()
    }

    #[test]
    fn convolution_pads_top_left_bottom_right() {
        let x = tensor(Shape::image(1, 2, 2, 1), &[1.0, 2.0, 3.0, 4.0]);
        // The kernel reads the pixel below and to the right of its corner.
        let w = conv(
            &[0.0, 0.0, 0.0, 1.0],
            &[1, 1, 2, 2],
            &[10.0],
            ConvGeometry { stride: 1, padding: [0, 0, 1, 1], upsample: false },
        );
        let y = Reference::default().conv2d(&x, &w, Epilogue::default()).unwrap();
        assert_eq!(y, tensor(Shape::image(1, 2, 2, 1), &[14.0, 10.0, 10.0, 10.0]));
    }

    #[test]
    fn upsampling_repeats_pixels_and_drops_the_last_of_an_odd_size() {
        let x = tensor(Shape::image(1, 1, 2, 1), &[1.0, 2.0]);
        let geometry = ConvGeometry { upsample: true, ..ConvGeometry::same(1) };
        let w = conv(&[1.0], &[1, 1, 1, 1], &[0.0], geometry);
        let y = Reference::default().upsample_conv2d(&x, &w, 1, 3).unwrap();
        assert_eq!(y, tensor(Shape::image(1, 1, 3, 1), &[1.0, 1.0, 2.0]));
        assert!(Reference::default().upsample_conv2d(&x, &w, 1, 5).is_err());
    }

    #[test]
    fn attention_averages_values_and_hides_the_future() {
        let s = Shape::tokens(1, 2, 1);
        let (q, k) = (tensor(s, &[0.0, 0.0]), tensor(s, &[5.0, 7.0]));
        let v = tensor(s, &[1.0, 3.0]);
        let open = Reference::default().attention(&q, &k, &v, 1, false).unwrap();
        assert_eq!(open.values, [2.0, 2.0]);
        let causal = Reference::default().attention(&q, &k, &v, 1, true).unwrap();
        assert_eq!(causal.values, [1.0, 2.0]);
    }

    #[test]
    fn splicing_takes_images_from_two_tensors() {
        let s = Shape::image(3, 1, 2, 1);
        let (a, b) = (tensor(s, &[1., 2., 3., 4., 5., 6.]), tensor(s, &[-1., -2., -3., -4., -5., -6.]));
        let splice = |at| Reference::default().splice_images(&a, &b, at);
        assert_eq!(splice(1).unwrap().values, [1., 2., -3., -4., -5., -6.]);
        assert_eq!((splice(0).unwrap(), splice(3).unwrap()), (b.clone(), a.clone()));
        assert!(splice(4).is_err());
    }

    #[test]
    fn norms_give_zero_mean_and_unit_variance() {
        let (one, zero) = (bytes(&[1.0, 1.0]), bytes(&[0.0, 0.0]));
        let weight = Weight { dtype: DType::F32, shape: &[2], bytes: &one };
        let bias = Weight { dtype: DType::F32, shape: &[2], bytes: &zero };
        let affine = Reference::default().prepare_affine(weight, bias).unwrap();
        let x = tensor(Shape::image(1, 1, 2, 2), &[1.0, 10.0, 3.0, 30.0]);
        let y = Reference::default().group_norm(&x, &affine, 2, 0.0, false).unwrap();
        assert_eq!(y.values, [-1.0, -1.0, 1.0, 1.0]);
        let y = Reference::default().layer_norm(&x, &affine, 0.0).unwrap();
        assert_eq!(y.values, [-1.0, 1.0, -1.0, 1.0]);
    }

    #[test]
    fn epilogue_is_bias_activation_then_residual() {
        let x = tensor(Shape::vector(2, 1), &[1.0, 2.0]);
        let (bias, residual) = (tensor(x.shape, &[-1.0, -2.0]), tensor(x.shape, &[5.0, 6.0]));
        let one = bytes(&[1.0]);
        let weight = Weight { dtype: DType::F32, shape: &[1, 1], bytes: &one };
        let w = Reference::default().prepare_linear(weight, None).unwrap();
        let epilogue = Epilogue {
            activation: Some(Activation::Silu),
            channel_bias: Some(&bias),
            residual: Some(&residual),
        };
        let y = Reference::default().linear(&x, &w, epilogue).unwrap();
        assert_eq!(y.values, [5.0, 6.0]);
    }

    #[test]
    fn activations_match_tables() {
        // Sigmoid of 1, normal CDF of 1, sigmoid of 1.702.
        assert!((activate(1.0, Activation::Silu) - 0.731_058_578_630_004_9).abs() < 1e-12);
        assert!((activate(1.0, Activation::Gelu) - 0.841_344_746_068_543).abs() < 1e-12);
        assert!((activate(1.0, Activation::QuickGelu) - 0.845_795_765_932_821_2).abs() < 1e-12);
    }
}
