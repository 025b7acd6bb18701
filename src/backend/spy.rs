//! A test double: [`Reference`] that writes down what it is asked to do, holds [`Backend::repeat`] to its promises, and
//! may compute with the range of f16.

use std::sync::{Arc, Mutex, PoisonError};

use super::reference::{Affine, Conv2d, Embedding, HostTensor, Linear, Reference};
use super::{Activation, Backend, ConvGeometry, DType, Epilogue, Input, Shape, Tensor, Weight, run_once};
use crate::util::cancel::Cancel;
use crate::util::error::{Result, bail};

/// An operation and the shape of its first input (for `upload` and `view` of its result).
pub(crate) type Call = (&'static str, Shape);

#[derive(Debug, Clone, Default)]
pub(crate) struct Spy {
    pub(crate) inner: Reference,
    pub(crate) calls: Arc<Mutex<Vec<Call>>>,
    /// What [`Backend::largest_activation`] says; `None` = that of f32.
    pub(crate) says: Option<f32>,
    /// Results are rounded to f16.
    pub(crate) half: bool,
    /// Convolutions of so many inputs have their weights multiplied.
    pub(crate) enlarge: Option<(usize, f32)>,
}

impl Spy {
    /// What was done since the last call of this.
    pub(crate) fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn call(&self, name: &'static str, shape: Shape) -> &Reference {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push((name, shape));
        &self.inner
    }

    fn round(&self, x: Result<HostTensor>) -> Result<HostTensor> {
        let mut x = x?;
        if self.half {
            x.values.iter_mut().for_each(|x| *x = half::f16::from_f32(*x).to_f32());
        }
        Ok(x)
    }
}

impl Backend for Spy {
    type Tensor = HostTensor;
    type Linear = Linear;
    type Conv2d = Conv2d;
    type Affine = Affine;
    type Embedding = Embedding;
    /// What the first call did.
    type Repeated = Option<Vec<Call>>;

    fn session(&self) -> Result<Self> {
        Ok(self.clone())
    }

    fn with_cancel(&self, cancel: &Cancel) -> Self {
        Self { inner: self.inner.with_cancel(cancel), ..self.clone() }
    }

    fn largest_activation(&self) -> f32 {
        self.says.unwrap_or(f32::MAX)
    }

    fn prepare_linear(&self, weight: Weight<'_>, bias: Option<Weight<'_>>) -> Result<Linear> {
        self.inner.prepare_linear(weight, bias)
    }

    fn prepare_conv2d(
        &self,
        weight: Weight<'_>,
        bias: Option<Weight<'_>>,
        geometry: ConvGeometry,
    ) -> Result<Conv2d> {
        match self.enlarge {
            Some((inputs, factor)) if weight.shape.get(1) == Some(&inputs) && weight.dtype == DType::F32 => {
                let values =
                    weight.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                let bytes: Vec<u8> = values.flat_map(|x| (x * factor).to_le_bytes()).collect();
                self.inner.prepare_conv2d(Weight { bytes: &bytes, ..weight }, bias, geometry)
            }
            _ => self.inner.prepare_conv2d(weight, bias, geometry),
        }
    }

    fn prepare_affine(&self, weight: Weight<'_>, bias: Weight<'_>) -> Result<Affine> {
        self.inner.prepare_affine(weight, bias)
    }

    fn prepare_embedding(&self, weight: Weight<'_>) -> Result<Embedding> {
        self.inner.prepare_embedding(weight)
    }

    fn upload(&self, shape: Shape, values: &[f32]) -> Result<HostTensor> {
        self.round(self.call("upload", shape).upload(shape, values))
    }

    fn download(&self, x: &HostTensor, out: &mut [f32]) -> Result<()> {
        self.call("download", x.shape()).download(x, out)
    }

    fn view(&self, x: &HostTensor, offset: usize, shape: Shape) -> Result<HostTensor> {
        self.call("view", shape).view(x, offset, shape)
    }

    fn repeat(
        &self,
        state: &mut Option<Vec<Call>>,
        inputs: &[Input<'_, HostTensor>],
        body: &dyn Fn(&[HostTensor]) -> Result<HostTensor>,
        out: &mut [f32],
    ) -> Result<()> {
        let before = self.take_calls();
        let result = run_once(self, inputs, body, out);
        let done = self.take_calls();
        let hosts = inputs.iter().filter(|input| matches!(input, Input::Host(..))).count();
        let copies = done.iter().filter(|(name, _)| matches!(*name, "upload" | "download")).count();
        *self.calls.lock().unwrap_or_else(PoisonError::into_inner) = [before, done.clone()].concat();
        if result.is_err() {
            *state = None;
            return result;
        }
        if copies != hosts + 1 {
            bail!(Internal, "repeat: a body that copies between host and device");
        }
        if state.as_ref().is_some_and(|first| *first != done) {
            bail!(Internal, "repeat: a body that does something else than before");
        }
        *state = Some(done);
        result
    }

    fn linear(
        &self,
        x: &HostTensor,
        weight: &Linear,
        epilogue: Epilogue<'_, HostTensor>,
    ) -> Result<HostTensor> {
        self.round(self.call("linear", x.shape()).linear(x, weight, epilogue))
    }

    fn linear_geglu(&self, x: &HostTensor, weight: &Linear) -> Result<HostTensor> {
        self.round(self.call("linear_geglu", x.shape()).linear_geglu(x, weight))
    }

    fn conv2d(
        &self,
        x: &HostTensor,
        weight: &Conv2d,
        epilogue: Epilogue<'_, HostTensor>,
    ) -> Result<HostTensor> {
        self.round(self.call("conv2d", x.shape()).conv2d(x, weight, epilogue))
    }

    fn upsample_conv2d(
        &self,
        x: &HostTensor,
        weight: &Conv2d,
        height: usize,
        width: usize,
    ) -> Result<HostTensor> {
        self.round(self.call("upsample_conv2d", x.shape()).upsample_conv2d(x, weight, height, width))
    }

    fn group_norm(
        &self,
        x: &HostTensor,
        affine: &Affine,
        groups: usize,
        eps: f32,
        silu: bool,
    ) -> Result<HostTensor> {
        self.round(self.call("group_norm", x.shape()).group_norm(x, affine, groups, eps, silu))
    }

    fn layer_norm(&self, x: &HostTensor, affine: &Affine, eps: f32) -> Result<HostTensor> {
        self.round(self.call("layer_norm", x.shape()).layer_norm(x, affine, eps))
    }

    fn attention(
        &self,
        q: &HostTensor,
        k: &HostTensor,
        v: &HostTensor,
        heads: usize,
        causal: bool,
    ) -> Result<HostTensor> {
        self.round(self.call("attention", q.shape()).attention(q, k, v, heads, causal))
    }

    fn activation(&self, x: &HostTensor, activation: Activation) -> Result<HostTensor> {
        self.round(self.call("activation", x.shape()).activation(x, activation))
    }

    fn add(&self, a: &HostTensor, b: &HostTensor) -> Result<HostTensor> {
        self.round(self.call("add", a.shape()).add(a, b))
    }

    fn concat_channels(&self, a: &HostTensor, b: &HostTensor) -> Result<HostTensor> {
        self.call("concat_channels", a.shape()).concat_channels(a, b)
    }

    fn splice_images(&self, a: &HostTensor, b: &HostTensor, at: usize) -> Result<HostTensor> {
        self.call("splice_images", a.shape()).splice_images(a, b, at)
    }

    fn embed_tokens(
        &self,
        ids: &[u32],
        n: usize,
        tokens: &Embedding,
        positions: &Embedding,
    ) -> Result<HostTensor> {
        self.round(self.inner.embed_tokens(ids, n, tokens, positions))
    }

    fn select_tokens(&self, x: &HostTensor, index: &[usize]) -> Result<HostTensor> {
        self.call("select_tokens", x.shape()).select_tokens(x, index)
    }
}
