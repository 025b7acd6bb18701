//! The CUDA backend: activations in one precision on a GPU, our own kernels and cuBLASLt, found at run time.
//!
//! A session has a stream, on which operations are put one after the other without waiting; the host waits only for
//! what it downloads. Results are the same to the last bit in every run. Our own kernels' do not depend on what else is
//! in the batch either; cuBLASLt's may, in the last bits, for it chooses its algorithm by the number of rows.

mod attention;
mod callers;
mod conv;
mod device;
mod elementwise;
mod error;
mod images;
mod launch;
pub mod library;
mod linear;
pub mod list;
mod matmul;
mod norm;
mod nvrtc;
mod pack;
mod pool;
mod repeat;
mod sizes;
mod staging;
#[cfg(test)]
pub(crate) mod stand_in;
mod stream;
#[cfg(test)]
mod tests;
mod tiles;
mod weights;

use std::sync::{Arc, Mutex};

use cudarc::driver::result;
use cudarc::driver::sys::CUdeviceptr;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

pub(crate) use self::callers::CallersState;
use self::device::{Device, lock};
use self::pool::{Block, Pool};
pub use self::repeat::CudaRepeated;
use self::staging::Staging;
pub use self::weights::{CudaAffine, CudaConv2d, CudaEmbedding, CudaLinear};
use super::{Activation, Backend, ConvGeometry, Epilogue, Input, Shape, Tensor, Weight};
use crate::util::cancel::Cancel;
use crate::util::error::{Result, bail};
use crate::util::log::Log;

/// The type of activations, and of weights but norms' and biases, which are `f32`. Sums, softmax and the statistics of
/// norms are `f32` always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    #[default]
    F16,
    Bf16,
    F32,
}

impl Precision {
    /// Bytes of a value.
    pub const fn size(self) -> usize {
        match self {
            Precision::F16 | Precision::Bf16 => 2,
            Precision::F32 => 4,
        }
    }

    /// How names of kernels end.
    pub const fn suffix(self) -> &'static str {
        match self {
            Precision::F16 => "f16",
            Precision::Bf16 => "bf16",
            Precision::F32 => "f32",
        }
    }

    /// Values that a thread reads or writes at a time.
    const fn pack(self) -> usize {
        16 / self.size()
    }
}

/// What a [`Cuda`] is made of.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Which GPU, in the driver's order, from 0.
    pub index: usize,
    pub precision: Precision,
    /// The most device memory for weights and activations together, in bytes; `None`: what the GPU has.
    pub memory_limit: Option<u64>,
    /// Where to look for libraries.
    pub search: library::Search,
    pub log: Log,
}

/// A GPU. Clones share one session's pool and stream; every [`Backend::session`] of it shares the kernels, the weights
/// and the account of memory. One thread at a time may use the clones of a session; tensors and weights may be dropped
/// on any.
#[derive(Clone)]
pub struct Cuda {
    device: Arc<Device>,
    pool: Arc<Pool>,
    staging: Arc<Mutex<Staging>>,
    /// cuBLASLt's working memory.
    workspace: Arc<matmul::Workspace>,
    cancel: Cancel,
}

/// An activation on a GPU, in the [`Precision`] of its backend. Its values start on a multiple of 16 bytes.
pub struct CudaTensor {
    shape: Shape,
    /// Where its values start in the block, in bytes; views share the block.
    offset: usize,
    block: Arc<Block>,
}

impl CudaTensor {
    /// Where its values are on the device.
    fn pointer(&self) -> CUdeviceptr {
        self.block.pointer() + self.offset as u64
    }
}

impl Tensor for CudaTensor {
    fn shape(&self) -> Shape {
        self.shape
    }
}

impl Cuda {
    /// The GPU that `options` names.
    ///
    /// Fails with `Unsupported` where a library is missing or the GPU or its driver is too old, with `NotFound` for an
    /// index that no GPU has, and with `DeviceLost` if another engine of this process broke the GPU's context.
    pub fn new(options: &Options) -> Result<Self> {
        Self::session_of(Device::new(options)?)
    }

    fn session_of(device: Arc<Device>) -> Result<Self> {
        let _callers = CallersState::keep();
        device.bind()?;
        let pool = Pool::new(&device)?;
        Ok(Self {
            pool,
            device,
            staging: Arc::new(Mutex::new(Staging::new())),
            workspace: Arc::default(),
            cancel: Cancel::default(),
        })
    }

    /// Which GPU, in the driver's order, from 0.
    pub fn index(&self) -> usize {
        self.device.index
    }

    /// The type of activations.
    pub fn precision(&self) -> Precision {
        self.device.precision
    }

    /// Bytes of device memory allocated now: weights and activations of all sessions, with what their pools hold in
    /// reserve.
    pub fn memory_used(&self) -> u64 {
        self.device.memory.account.used()
    }

    /// The most bytes that were ever allocated at a time.
    pub fn memory_peak(&self) -> u64 {
        self.device.memory.account.peak()
    }

    /// The most bytes that may be allocated.
    pub fn memory_limit(&self) -> Option<u64> {
        self.device.memory.account.limit()
    }

    /// Bytes of memory that the GPU has.
    pub fn total_memory(&self) -> u64 {
        self.device.total_memory()
    }

    /// The device for people, for example `NVIDIA H200 (GPU 0), f16`.
    pub fn description(&self) -> String {
        format!("{}, {}", self.device.name(), self.device.precision.suffix())
    }

    /// An operation's result, whose values are whatever was last in its memory; `operation` names it in errors. Every
    /// operation begins here: a cancelled one fails here, and the device is the calling thread's from here on.
    fn tensor(&self, shape: Shape, operation: &str) -> Result<CudaTensor> {
        self.start()?;
        let Shape { n, h, w, c } = shape;
        let bytes = [h, w, c, self.device.precision.size()].iter().try_fold(n, |len, &f| len.checked_mul(f));
        let Some(bytes) = bytes else {
            bail!(DeviceOutOfMemory, "{operation}: {shape} is more memory than can be addressed");
        };
        Ok(CudaTensor { shape, offset: 0, block: Arc::new(self.pool.take(bytes, operation)?) })
    }

    fn start(&self) -> Result<()> {
        self.cancel.check()?;
        self.device.bind()
    }

    /// `bytes` bytes of the session's for an operation to work in, after [`Cuda::tensor`]. When it is dropped its memory
    /// goes on to later work of the stream.
    fn scratch(&self, bytes: usize, operation: &str) -> Result<Block> {
        self.pool.take(bytes, operation)
    }

    fn staging(&self) -> std::sync::MutexGuard<'_, Staging> {
        lock(&self.staging)
    }

    /// Copies bytes within the device, in the stream.
    ///
    /// # Safety
    /// Both places have as many bytes, which do not overlap, and belong to tensors or blocks of this session.
    unsafe fn copy(&self, from: CUdeviceptr, to: CUdeviceptr, bytes: usize, operation: &str) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the caller's.
        let copied = unsafe { result::memcpy_dtod_async(to, from, bytes, self.pool.stream.handle()) };
        self.device.check(operation, copied)
    }

    /// Copies host values to a tensor of the same length. They are rounded here: half the bytes to copy, and no second
    /// tensor for a kernel to read from.
    fn write(&self, to: &CudaTensor, values: &[f32]) -> Result<()> {
        let precision = self.device.precision;
        let write = |range: std::ops::Range<usize>, bytes: &mut [u8]| {
            let values = &values[range];
            match precision {
                Precision::F16 => as_values::<f16>(bytes).convert_from_f32_slice(values),
                Precision::Bf16 => as_values::<bf16>(bytes).convert_from_f32_slice(values),
                Precision::F32 => as_values::<f32>(bytes).copy_from_slice(values),
            }
        };
        self.staging().upload(
            &self.pool.stream,
            &self.device,
            to.pointer(),
            values.len(),
            precision.size(),
            write,
        )
    }
}

/// A type any bits of which are a value.
trait Plain: Copy {}
impl Plain for f32 {}
impl Plain for f16 {}
impl Plain for bf16 {}

/// The values in staging memory, whose parts are aligned to 64 bytes.
fn as_values<T: Plain>(bytes: &mut [u8]) -> &mut [T] {
    assert!(bytes.as_ptr().cast::<T>().is_aligned());
    let len = bytes.len() / size_of::<T>();
    // SAFETY: aligned, within the bytes, initialised, and any bits are a value.
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), len) }
}

impl Backend for Cuda {
    type Tensor = CudaTensor;
    type Linear = CudaLinear;
    type Conv2d = CudaConv2d;
    type Affine = CudaAffine;
    type Embedding = CudaEmbedding;
    type Repeated = CudaRepeated;

    fn session(&self) -> Result<Self> {
        Self::session_of(Arc::clone(&self.device))
    }

    fn with_cancel(&self, cancel: &Cancel) -> Self {
        Self { cancel: cancel.clone(), ..self.clone() }
    }

    fn largest_activation(&self) -> f32 {
        match self.device.precision {
            Precision::F16 => f16::MAX.to_f32(),
            Precision::Bf16 | Precision::F32 => f32::MAX,
        }
    }

    fn prepare_linear(&self, weight: Weight<'_>, bias: Option<Weight<'_>>) -> Result<CudaLinear> {
        weights::prepare_linear(self, weight, bias)
    }

    fn prepare_geglu(&self, weight: Weight<'_>, bias: Option<Weight<'_>>) -> Result<CudaLinear> {
        weights::prepare_geglu(self, weight, bias)
    }

    fn prepare_conv2d(
        &self,
        weight: Weight<'_>,
        bias: Option<Weight<'_>>,
        geometry: ConvGeometry,
    ) -> Result<CudaConv2d> {
        weights::prepare_conv2d(self, weight, bias, geometry)
    }

    fn prepare_affine(&self, weight: Weight<'_>, bias: Weight<'_>) -> Result<CudaAffine> {
        weights::prepare_affine(self, weight, bias)
    }

    fn prepare_embedding(&self, weight: Weight<'_>) -> Result<CudaEmbedding> {
        weights::prepare_embedding(self, weight)
    }

    fn upload(&self, shape: Shape, values: &[f32]) -> Result<CudaTensor> {
        let tensor = self.tensor(shape, "upload")?;
        if values.len() != shape.len() {
            bail!(Internal, "upload: {} values for {shape}", values.len());
        }
        self.write(&tensor, values)?;
        Ok(tensor)
    }

    fn download(&self, x: &CudaTensor, out: &mut [f32]) -> Result<()> {
        self.start()?;
        if out.len() != x.shape.len() {
            bail!(Internal, "download: {} values for {}", out.len(), x.shape);
        }
        let precision = self.device.precision;
        let read = |range: std::ops::Range<usize>, bytes: &mut [u8]| {
            let out = &mut out[range];
            match precision {
                Precision::F16 => as_values::<f16>(bytes).convert_to_f32_slice(out),
                Precision::Bf16 => as_values::<bf16>(bytes).convert_to_f32_slice(out),
                Precision::F32 => out.copy_from_slice(as_values(bytes)),
            }
        };
        self.staging().download(
            &self.pool.stream,
            &self.device,
            x.pointer(),
            x.shape.len(),
            precision.size(),
            read,
        )
    }

    fn view(&self, x: &CudaTensor, offset: usize, shape: Shape) -> Result<CudaTensor> {
        if offset.checked_add(shape.len()).is_none_or(|end| end > x.shape.len()) {
            bail!(Internal, "view: {shape} from {offset} of {}", x.shape);
        }
        let size = self.device.precision.size();
        let view = CudaTensor { shape, offset: x.offset + offset * size, block: Arc::clone(&x.block) };
        if view.offset.is_multiple_of(16) {
            self.cancel.check()?;
            return Ok(view);
        }
        // Kernels read 16 bytes at a time.
        let copy = self.tensor(shape, "view")?;
        // SAFETY: both have the shape's values.
        unsafe { self.copy(view.pointer(), copy.pointer(), shape.len() * size, "view") }?;
        Ok(copy)
    }

    fn repeat(
        &self,
        state: &mut CudaRepeated,
        inputs: &[Input<'_, CudaTensor>],
        body: &dyn Fn(&[CudaTensor]) -> Result<CudaTensor>,
        out: &mut [f32],
    ) -> Result<()> {
        repeat::repeat(self, state, inputs, body, out)
    }

    fn linear(
        &self,
        x: &CudaTensor,
        weight: &CudaLinear,
        epilogue: Epilogue<'_, CudaTensor>,
    ) -> Result<CudaTensor> {
        linear::linear(self, x, weight, &epilogue)
    }

    fn linear_geglu(&self, x: &CudaTensor, weight: &CudaLinear) -> Result<CudaTensor> {
        linear::linear_geglu(self, x, weight)
    }

    fn conv2d(
        &self,
        x: &CudaTensor,
        weight: &CudaConv2d,
        epilogue: Epilogue<'_, CudaTensor>,
    ) -> Result<CudaTensor> {
        conv::conv2d(self, x, weight, &epilogue)
    }

    fn upsample_conv2d(
        &self,
        x: &CudaTensor,
        weight: &CudaConv2d,
        height: usize,
        width: usize,
    ) -> Result<CudaTensor> {
        conv::upsample_conv2d(self, x, weight, height, width)
    }

    fn group_norm(
        &self,
        x: &CudaTensor,
        affine: &CudaAffine,
        groups: usize,
        eps: f32,
        silu: bool,
    ) -> Result<CudaTensor> {
        norm::group_norm(self, x, affine, groups, eps, silu)
    }

    fn layer_norm(&self, x: &CudaTensor, affine: &CudaAffine, eps: f32) -> Result<CudaTensor> {
        norm::layer_norm(self, x, affine, eps)
    }

    fn attention(
        &self,
        q: &CudaTensor,
        k: &CudaTensor,
        v: &CudaTensor,
        heads: usize,
        causal: bool,
    ) -> Result<CudaTensor> {
        attention::attention(self, q, k, v, heads, causal)
    }

    fn activation(&self, x: &CudaTensor, activation: Activation) -> Result<CudaTensor> {
        elementwise::activation(self, x, activation)
    }

    fn add(&self, a: &CudaTensor, b: &CudaTensor) -> Result<CudaTensor> {
        elementwise::add(self, a, b)
    }

    fn concat_channels(&self, a: &CudaTensor, b: &CudaTensor) -> Result<CudaTensor> {
        elementwise::concat_channels(self, a, b)
    }

    fn splice_images(&self, a: &CudaTensor, b: &CudaTensor, at: usize) -> Result<CudaTensor> {
        elementwise::splice_images(self, a, b, at)
    }

    fn embed_tokens(
        &self,
        ids: &[u32],
        n: usize,
        tokens: &CudaEmbedding,
        positions: &CudaEmbedding,
    ) -> Result<CudaTensor> {
        elementwise::embed_tokens(self, ids, n, tokens, positions)
    }

    fn select_tokens(&self, x: &CudaTensor, index: &[usize]) -> Result<CudaTensor> {
        elementwise::select_tokens(self, x, index)
    }
}
