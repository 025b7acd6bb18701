//! Tensors and the arithmetic on them. Models are written once against [`Backend`]; each device is one folder.
//!
//! Activations are channels-last, in the precision of the backend (`f32` on the CPU), and always four-dimensional:
//! an image is `[n, h, w, c]`, a sequence of tokens is `[n, tokens, 1, c]`, a vector is `[n, 1, 1, c]`. Image and
//! sequence are the same memory, so convolution, linear and attention need no transposes. Weights are prepared once
//! at load, in whatever layout and precision the backend computes with.
//!
//! Operations never panic on shapes: a mismatch is an `Internal` error that names the operation and the shapes
//! (the loader has checked every weight against the config, so a file cannot cause one).

mod account;
#[cfg(test)]
pub(crate) mod cases;
pub mod cpu;
pub mod cuda;
#[cfg(test)]
pub(crate) mod reference;
pub mod shape;
#[cfg(test)]
pub(crate) mod spy;
#[cfg(test)]
mod tests;

use crate::util::cancel::Cancel;
use crate::util::error::Result;

/// The size of an activation: `n` images of `h` × `w` pixels (or `h·w` tokens) with `c` channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
}

impl Shape {
    /// An image batch `[n, h, w, c]`.
    pub const fn image(n: usize, h: usize, w: usize, c: usize) -> Self {
        Self { n, h, w, c }
    }

    /// A token sequence batch `[n, tokens, 1, c]`.
    pub const fn tokens(n: usize, tokens: usize, c: usize) -> Self {
        Self { n, h: tokens, w: 1, c }
    }

    /// One vector an image: `[n, 1, 1, c]`.
    pub const fn vector(n: usize, c: usize) -> Self {
        Self { n, h: 1, w: 1, c }
    }

    /// Pixels (or tokens) of one image.
    pub const fn pixels(&self) -> usize {
        self.h * self.w
    }

    /// Rows of the matrix `[n·h·w, c]`.
    pub const fn rows(&self) -> usize {
        self.n * self.h * self.w
    }

    /// Number of values.
    pub const fn len(&self) -> usize {
        self.n * self.h * self.w * self.c
    }

    /// Whether there are no values.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same rows with another number of channels.
    pub const fn with_channels(&self, c: usize) -> Self {
        Self { c, ..*self }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}, {}, {}, {}]", self.n, self.h, self.w, self.c)
    }
}

/// The element type of a weight as a file stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    F16,
    Bf16,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::Bf16 => 2,
        }
    }
}

/// What weights of linear layers and convolutions are in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    /// As the file has them, or in the precision of the backend.
    #[default]
    AsStored,
    /// 8-bit integers with a scale for every 64 inputs of an output. The CPU's only.
    Int8,
}

/// A weight in a file: row-major little-endian bytes (not necessarily aligned), borrowed from the mapped file.
/// The loader has checked that `bytes.len() == shape.product() · dtype.size()`.
#[derive(Debug, Clone, Copy)]
pub struct Weight<'a> {
    pub dtype: DType,
    pub shape: &'a [usize],
    pub bytes: &'a [u8],
}

/// How a convolution meets its input. Padding is `[top, left, bottom, right]` in input pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConvGeometry {
    pub stride: usize,
    pub padding: [usize; 4],
    /// The input is enlarged twofold (nearest) before the convolution. Such a convolution runs through
    /// [`Backend::upsample_conv2d`] only.
    pub upsample: bool,
}

impl ConvGeometry {
    /// Stride 1 and the padding that keeps the size, for an odd `kernel` side.
    pub const fn same(kernel: usize) -> Self {
        let p = kernel / 2;
        Self { stride: 1, padding: [p, p, p, p], upsample: false }
    }
}

/// An elementwise function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x · sigmoid(x)`
    Silu,
    /// `x · Φ(x)` with the exact error function
    Gelu,
    /// `x · sigmoid(1.702 x)`
    QuickGelu,
}

/// What happens to a product before it is stored: `y = activation(x·W + bias + channel_bias) + residual`.
pub struct Epilogue<'a, T> {
    pub activation: Option<Activation>,
    /// A vector `[n, 1, 1, c_out]` added to every pixel of its image (the time embedding).
    pub channel_bias: Option<&'a T>,
    /// A tensor of the output's shape.
    pub residual: Option<&'a T>,
}

impl<T> Default for Epilogue<'_, T> {
    fn default() -> Self {
        Self { activation: None, channel_bias: None, residual: None }
    }
}

impl<'a, T> Epilogue<'a, T> {
    /// Adds `residual` to the product.
    pub fn residual(residual: &'a T) -> Self {
        Self { residual: Some(residual), ..Self::default() }
    }

    /// Applies `activation` to the product.
    pub fn activation(activation: Activation) -> Self {
        Self { activation: Some(activation), ..Self::default() }
    }

    /// Adds `channel_bias` to the product.
    pub fn channel_bias(channel_bias: &'a T) -> Self {
        Self { channel_bias: Some(channel_bias), ..Self::default() }
    }
}

/// A GroupNorm: over `groups` groups of channels, each image on its own; then SiLU if asked.
pub struct Norm<'a, A> {
    pub affine: &'a A,
    pub groups: usize,
    pub eps: f32,
    pub silu: bool,
}

impl<A> Clone for Norm<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Norm<'_, A> {}

/// The parts of a residual block: twice norm and convolution, then the sum with the input.
pub struct ResidualBlock<'a, B: Backend> {
    pub norm1: Norm<'a, B::Affine>,
    /// Keeps the size.
    pub conv1: &'a B::Conv2d,
    /// A vector `[n, 1, 1, c_out]` added to every pixel between the convolutions.
    pub channel_bias: Option<&'a B::Tensor>,
    pub norm2: Norm<'a, B::Affine>,
    /// Keeps the size.
    pub conv2: &'a B::Conv2d,
    /// What the input goes through where its channels are not those of the output.
    pub shortcut: Option<&'a B::Linear>,
}

/// An activation on a device. Its memory goes back to the backend's pool when it is dropped.
pub trait Tensor: Send + Sync {
    /// The tensor's size.
    fn shape(&self) -> Shape;
}

/// What [`Backend::repeat`] runs.
pub type Body<'a, T> = dyn Fn(&[T]) -> Result<T> + 'a;

/// What [`Backend::repeat`] computes with: values of the host, or of the device.
pub enum Input<'a, T> {
    Host(Shape, &'a [f32]),
    Device(&'a T),
}

/// A device, its memory pool and its queue of work. Cheap to clone; clones share the pool.
///
/// Prepared weights ([`Backend::Linear`] and so on) belong to the device, not to the pool, and are shared by
/// any number of backends on that device.
pub trait Backend: Clone + Send + Sync + 'static {
    /// An activation.
    type Tensor: Tensor;
    /// A prepared matrix `[out, in]` with an optional bias `[out]`.
    type Linear: Send + Sync;
    /// A prepared convolution `[out, in, kh, kw]` with an optional bias `[out]`.
    type Conv2d: Send + Sync;
    /// A prepared scale and shift per channel, `[c]` each.
    type Affine: Send + Sync;
    /// A prepared table `[entries, c]`.
    type Embedding: Send + Sync;
    /// What [`Backend::repeat`] keeps from one call to the next.
    type Repeated: Default + Send;

    /// Whether it looks at the bytes of weights; else their shapes do, and they are not checked to be finite.
    const READS_WEIGHTS: bool = true;

    /// The same device with a pool of its own: what a session computes with.
    fn session(&self) -> Result<Self>;
    /// The same pool; every operation fails with `Cancelled` soon after `cancel` is set.
    fn with_cancel(&self, cancel: &Cancel) -> Self;

    /// The same backend with weights prepared as [`WeightFormat::AsStored`], for layers that bear no rounding.
    fn as_stored(&self) -> Self {
        self.clone()
    }

    /// Calls `body(task)` once for each task below `tasks`, on the threads that compute where they are the host's.
    fn on_threads(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) -> Result<()> {
        (0..tasks).for_each(body);
        Ok(())
    }

    /// The largest finite magnitude of an activation.
    fn largest_activation(&self) -> f32 {
        f32::MAX
    }

    /// Prepares `y = x·Wᵀ + b` from `[out, in]` (or `[out, in, 1, 1]`) and `[out]`.
    fn prepare_linear(&self, weight: Weight<'_>, bias: Option<Weight<'_>>) -> Result<Self::Linear>;
    /// [`Backend::prepare_linear`] for [`Backend::linear_geglu`] alone, which may want the weight in another order.
    fn prepare_geglu(&self, weight: Weight<'_>, bias: Option<Weight<'_>>) -> Result<Self::Linear> {
        self.prepare_linear(weight, bias)
    }
    /// Prepares a convolution from `[out, in, kh, kw]` and `[out]`.
    fn prepare_conv2d(
        &self,
        weight: Weight<'_>,
        bias: Option<Weight<'_>>,
        geometry: ConvGeometry,
    ) -> Result<Self::Conv2d>;
    /// Prepares a norm's scale and shift from `[c]` and `[c]`.
    fn prepare_affine(&self, weight: Weight<'_>, bias: Weight<'_>) -> Result<Self::Affine>;
    /// Prepares a table from `[entries, c]`.
    fn prepare_embedding(&self, weight: Weight<'_>) -> Result<Self::Embedding>;

    /// Copies host values to the device. `values.len()` is `shape.len()`.
    fn upload(&self, shape: Shape, values: &[f32]) -> Result<Self::Tensor>;
    /// Copies device values to the host. `out.len()` is the tensor's length.
    fn download(&self, x: &Self::Tensor, out: &mut [f32]) -> Result<()>;

    /// The values from `offset` on as a tensor of `shape`. It may share memory with `x`, which no operation changes.
    fn view(&self, x: &Self::Tensor, offset: usize, shape: Shape) -> Result<Self::Tensor>;

    /// Runs `body` on `inputs` and copies its result to `out`.
    ///
    /// A later call with the same `state` may replay the work that an earlier one recorded on the device, without
    /// running `body`. So the shapes of the inputs and all that `body` does but for their values must stay the same,
    /// `body` neither uploads nor downloads, and the tensors and weights that it borrows outlive `state`. After an error
    /// `state` starts anew.
    fn repeat(
        &self,
        state: &mut Self::Repeated,
        inputs: &[Input<'_, Self::Tensor>],
        body: &Body<'_, Self::Tensor>,
        out: &mut [f32],
    ) -> Result<()>;

    /// `[.., in] → [.., out]`.
    fn linear(
        &self,
        x: &Self::Tensor,
        weight: &Self::Linear,
        epilogue: Epilogue<'_, Self::Tensor>,
    ) -> Result<Self::Tensor>;
    /// GEGLU: the weight gives `2·c` channels `(a, g)`; the result is `a · gelu(g)` with `c` channels.
    fn linear_geglu(&self, x: &Self::Tensor, weight: &Self::Linear) -> Result<Self::Tensor>;
    /// `[n, h, w, in] → [n, h', w', out]`.
    fn conv2d(
        &self,
        x: &Self::Tensor,
        weight: &Self::Conv2d,
        epilogue: Epilogue<'_, Self::Tensor>,
    ) -> Result<Self::Tensor>;
    /// Nearest-neighbour enlargement to `height` × `width` (each twice the input's, or one less), then the
    /// convolution, which was prepared with `upsample`.
    fn upsample_conv2d(
        &self,
        x: &Self::Tensor,
        weight: &Self::Conv2d,
        height: usize,
        width: usize,
    ) -> Result<Self::Tensor>;

    /// GroupNorm over `groups` groups of channels, each image on its own; then SiLU if asked.
    fn group_norm(
        &self,
        x: &Self::Tensor,
        affine: &Self::Affine,
        groups: usize,
        eps: f32,
        silu: bool,
    ) -> Result<Self::Tensor>;
    /// [`Backend::group_norm`], then [`Backend::conv2d`].
    fn norm_conv2d(
        &self,
        x: &Self::Tensor,
        norm: Norm<'_, Self::Affine>,
        weight: &Self::Conv2d,
        epilogue: Epilogue<'_, Self::Tensor>,
    ) -> Result<Self::Tensor> {
        let h = self.group_norm(x, norm.affine, norm.groups, norm.eps, norm.silu)?;
        self.conv2d(&h, weight, epilogue)
    }
    /// [`Backend::norm_conv2d`] with the residual `sum`, whose memory may become the result's.
    fn norm_conv2d_onto(
        &self,
        x: &Self::Tensor,
        norm: Norm<'_, Self::Affine>,
        weight: &Self::Conv2d,
        sum: Self::Tensor,
    ) -> Result<Self::Tensor> {
        self.norm_conv2d(x, norm, weight, Epilogue::residual(&sum))
    }
    /// A residual block of `x`, which is first enlarged twofold by `upsample` if there is one, as
    /// [`Backend::upsample_conv2d`] does. How it is computed may depend on how much memory there is; the result does not.
    fn residual_block(
        &self,
        x: Self::Tensor,
        upsample: Option<&Self::Conv2d>,
        block: &ResidualBlock<'_, Self>,
    ) -> Result<Self::Tensor> {
        whole_block(self, x, upsample, block)
    }
    /// LayerNorm over channels.
    fn layer_norm(&self, x: &Self::Tensor, affine: &Self::Affine, eps: f32) -> Result<Self::Tensor>;
    /// `softmax(q·kᵀ/√d)·v` per head. `q` is `[n, .., heads·d]`, `k` and `v` have one sequence an image;
    /// `causal` hides later keys from earlier queries. The result has `q`'s shape.
    fn attention(
        &self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        heads: usize,
        causal: bool,
    ) -> Result<Self::Tensor>;

    /// An elementwise function.
    fn activation(&self, x: &Self::Tensor, activation: Activation) -> Result<Self::Tensor>;
    /// The sum of two tensors of one shape.
    fn add(&self, a: &Self::Tensor, b: &Self::Tensor) -> Result<Self::Tensor>;
    /// `[.., a]` and `[.., b]` side by side: `[.., a + b]`.
    fn concat_channels(&self, a: &Self::Tensor, b: &Self::Tensor) -> Result<Self::Tensor>;
    /// The first `at` images of `a`, then the others of `b`; both tensors have one shape.
    fn splice_images(&self, a: &Self::Tensor, b: &Self::Tensor, at: usize) -> Result<Self::Tensor>;
    /// Token and position embeddings added up: `n` sequences of `ids.len() / n` tokens, positions from 0.
    fn embed_tokens(
        &self,
        ids: &[u32],
        n: usize,
        tokens: &Self::Embedding,
        positions: &Self::Embedding,
    ) -> Result<Self::Tensor>;
    /// One token of each sequence: `index[i]` of image `i`, as `[n, 1, 1, c]`.
    fn select_tokens(&self, x: &Self::Tensor, index: &[usize]) -> Result<Self::Tensor>;
}

/// [`Backend::residual_block`] operation by operation.
fn whole_block<B: Backend>(
    b: &B,
    x: B::Tensor,
    upsample: Option<&B::Conv2d>,
    block: &ResidualBlock<'_, B>,
) -> Result<B::Tensor> {
    let mut x = x;
    if let Some(conv) = upsample {
        let Shape { h, w, .. } = x.shape();
        x = b.upsample_conv2d(&x, conv, 2 * h, 2 * w)?;
    }
    let ResidualBlock { norm1, conv1, channel_bias, norm2, conv2, shortcut } = *block;
    let epilogue = Epilogue { channel_bias, ..Epilogue::default() };
    let h = b.norm_conv2d(&x, norm1, conv1, epilogue)?;
    if let Some(shortcut) = shortcut {
        x = b.linear(&x, shortcut, Epilogue::default())?;
    }
    b.norm_conv2d_onto(&h, norm2, conv2, x)
}

/// [`Backend::repeat`] for devices that record nothing.
fn run_once<B: Backend>(
    b: &B,
    inputs: &[Input<'_, B::Tensor>],
    body: &Body<'_, B::Tensor>,
    out: &mut [f32],
) -> Result<()> {
    let place = |input: &Input<'_, B::Tensor>| match *input {
        Input::Host(shape, values) => b.upload(shape, values),
        Input::Device(tensor) => b.view(tensor, 0, tensor.shape()),
    };
    let inputs = inputs.iter().map(place).collect::<Result<Vec<_>>>()?;
    b.download(&body(&inputs)?, out)
}
