//! The CPU backend: `f32` activations, weights in the file's precision or in 8 bits, vector code chosen at run time.
//!
//! Every result is the same to the last bit whatever the number of threads and whatever else is in the batch:
//! tasks cut the output, never a sum. Different instruction sets may differ in the last bits.

mod attention;
mod attention_bf16;
mod attention_copy;
mod attention_inner;
mod attention_kernel;
mod attention_sizes;
mod conv;
mod elementwise;
mod finish;
mod gemm;
mod gemm_task;
mod inner;
mod int8;
mod kernel;
#[cfg(target_arch = "aarch64")]
mod kernel_arm;
#[cfg(target_arch = "x86_64")]
mod kernel_bf16;
#[cfg(target_arch = "x86_64")]
mod kernel_inner;
#[cfg(target_arch = "x86_64")]
mod kernel_inner_rows;
#[cfg(target_arch = "x86_64")]
mod kernel_x86;
mod math;
mod norm;
mod pack;
mod pack_panel;
mod pages;
mod pool;
mod prefetch;
mod residual;
mod simd;
mod sizes;
mod strips;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_attention;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests_bf16;
#[cfg(test)]
mod tests_inner;
#[cfg(test)]
mod tests_int8;
#[cfg(test)]
mod tests_strips;
#[cfg(test)]
mod tests_winograd;
mod threads;
mod transform;
mod transpose;
mod winograd;
mod winograd_task;

use std::ops::Range;
use std::sync::Arc;

use self::conv::ConvSize;
pub use self::conv::CpuConv2d;
use self::finish::Finish;
use self::gemm::Rows;
use self::kernel::Kernels;
use self::pack::{Packed, Target};
use self::pool::{Block, Buffer, Memory, Pool};
use self::simd::Simd;
pub use self::simd::ignored_environment;
use self::sizes::BlockSizes;
use self::threads::ThreadPool;
use super::{
    Activation, Backend, ConvGeometry, DType, Epilogue, Input, Norm, ResidualBlock, Shape, Tensor, Weight,
    WeightFormat, run_once, whole_block,
};
use crate::util::cancel::Cancel;
use crate::util::error::{Result, bail};
use crate::util::limits;

/// The CPU. Clones share one activation pool; every [`Backend::session`] of it shares the threads and the
/// account of memory. All methods may be called from several threads at a time.
#[derive(Clone)]
pub struct Cpu {
    device: Arc<Device>,
    pool: Arc<Pool>,
    cancel: Cancel,
    strict: bool,
    /// Bytes of a strip, about; see [`strips`].
    strip: usize,
    weights: WeightFormat,
    /// Whether weights are prepared for products in bf16, where that is faster.
    bf16: bool,
}

/// What all sessions share.
struct Device {
    threads: ThreadPool,
    simd: Simd,
    kernels: &'static Kernels,
    memory: Arc<Memory>,
}

/// An activation on the CPU.
pub struct CpuTensor {
    shape: Shape,
    /// Where its values start in the block, which views share.
    offset: usize,
    block: Arc<Block>,
}

/// A packed linear layer.
pub struct CpuLinear(Packed);

/// A norm's scale and shift.
pub struct CpuAffine {
    channels: usize,
    weight: Buffer,
    bias: Buffer,
}

/// A table in the file's precision.
pub struct CpuEmbedding {
    entries: usize,
    channels: usize,
    dtype: DType,
    table: Buffer,
}

impl Cpu {
    /// A CPU that computes with `threads` threads, the caller's included (0: one for each processor that this
    /// process may use), and allocates at most `memory_limit` bytes for weights and activations together.
    ///
    /// The environment variable `LIBDIFFUSION_CPU` (portable, sse2, avx2, avx512 or zen4; on AArch64 portable or neon) limits
    /// the instructions it uses; [`ignored_environment`] tells of another value.
    ///
    /// Fails with `InvalidArgument` for more threads than `limits::THREADS`, and with `OutOfMemory` when the system
    /// starts no more threads.
    pub fn new(threads: usize, memory_limit: Option<u64>) -> Result<Self> {
        let processors = std::thread::available_parallelism().ok().map(usize::from);
        let threads = match threads {
            0 => processors.unwrap_or(1).min(limits::THREADS as usize),
            _ => threads,
        };
        Self::with_processors(threads, processors.unwrap_or(threads), memory_limit, Simd::detect())
    }

    /// For tests: work is cut for all `threads`, whatever the machine has.
    #[cfg(test)]
    fn with_simd(threads: usize, memory_limit: Option<u64>, simd: Simd) -> Result<Self> {
        Self::with_processors(threads, threads, memory_limit, simd)
    }

    fn with_processors(
        threads: usize,
        processors: usize,
        memory_limit: Option<u64>,
        simd: Simd,
    ) -> Result<Self> {
        let most = limits::THREADS as usize;
        if threads > most {
            bail!(InvalidArgument, "{threads} threads, at most {most}");
        }
        let memory = Memory::new(memory_limit);
        let pool = Pool::new(&memory);
        let device = Device {
            threads: ThreadPool::new(threads, processors)?,
            simd,
            kernels: Kernels::new(simd),
            memory,
        };
        Ok(Self {
            device: Arc::new(device),
            pool,
            cancel: Cancel::default(),
            strict: false,
            strip: strips::STRIP,
            weights: WeightFormat::default(),
            bf16: false,
        })
    }

    /// The same CPU, and sessions of it, with every convolution and product computed as its definition says (`strict`) or by
    /// fast algorithms, whose rounding errors are a few times larger.
    pub fn with_strict(&self, strict: bool) -> Self {
        Self { strict, ..self.clone() }
    }

    /// The same CPU, where linear layers, 1×1 and strided convolutions prepared from now on round weights and inputs to bf16
    /// and add up their products in `f32`, if it has instructions for that and they are faster.
    pub fn with_bf16(&self) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if kernel_bf16::is_faster() {
            return self.with_pairs();
        }
        None
    }

    /// As [`Self::with_bf16`], however fast they are.
    #[cfg(target_arch = "x86_64")]
    fn with_pairs(&self) -> Option<Self> {
        let has = self.device.kernels.pairs.is_some() && kernel_bf16::available();
        has.then(|| Self { bf16: true, ..self.clone() })
    }

    /// Whether it is one [`Cpu::with_bf16`].
    pub fn has_bf16(&self) -> bool {
        self.bf16
    }

    /// The same CPU with weights of this format prepared from now on. Layers that would not get smaller stay as stored.
    pub fn with_weights(&self, weights: WeightFormat) -> Self {
        Self { weights, ..self.clone() }
    }

    /// Threads that compute, the caller's included.
    pub fn threads(&self) -> usize {
        self.device.threads.threads()
    }

    /// Threads that work on one operation: no more than there are processors.
    fn concurrency(&self) -> usize {
        self.device.threads.concurrency()
    }

    /// Bytes allocated now: weights and activations of all sessions, with what their pools hold in reserve.
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

    /// Bytes that operations may take now, reserves included; `None` = no limit.
    fn available(&self) -> Option<u64> {
        self.device.memory.available()
    }

    /// The device for people, for example `CPU (AVX-512, 2 threads)`.
    pub fn description(&self) -> String {
        let threads = self.threads();
        let (simd, bf16) = (self.device.simd.name(), if self.bf16 { " BF16" } else { "" });
        format!("CPU ({simd}{bf16}, {threads} thread{})", if threads == 1 { "" } else { "s" })
    }

    /// An operation's result, whose values are whatever was last in its memory; `operation` names it in errors.
    /// Every operation begins here, so a cancelled one fails here.
    fn tensor(&self, shape: Shape, operation: &str) -> Result<CpuTensor> {
        self.cancel.check()?;
        let Shape { n, h, w, c } = shape;
        let bytes = [h, w, c, size_of::<f32>()].iter().try_fold(n, |len, &side| len.checked_mul(side));
        let Some(bytes) = bytes else {
            bail!(OutOfMemory, "{operation}: {shape} is more memory than can be addressed");
        };
        Ok(CpuTensor { shape, offset: 0, block: Arc::new(self.pool.take(bytes, operation)?) })
    }

    /// Runs `body(task, slot)` for every task, see [`ThreadPool::run`].
    fn parallel(&self, tasks: usize, body: impl Fn(usize, usize) + Sync) -> Result<()> {
        self.device.threads.run(tasks, &self.cancel, body)
    }

    /// Panics on a thread that computes. For tests of what a panic does.
    #[cfg(feature = "fault-injection")]
    #[allow(clippy::panic)]
    pub(crate) fn panic_in_a_task(&self) -> Result<()> {
        self.parallel(self.threads(), |task, _| {
            if task + 1 == self.threads() {
                panic!("planted by fault-injection");
            }
        })
    }

    /// So many floats for each thread that takes part to work in, and so many for all.
    fn scratch(&self, own: usize, shared: usize) -> Result<Scratch> {
        let (threads, stride) = (self.concurrency(), scratch_stride(own));
        let mut block = self.pool.take(scratch_bytes(threads, own, shared), "working memory")?;
        let start = Target(block.as_mut_ptr().cast());
        Ok(Scratch { _block: block, start, stride, shared: Target(start.at(threads * stride)) })
    }
}

/// Floats from one thread's working memory to the next: whole cache lines, so that threads do not share one.
fn scratch_stride(own: usize) -> usize {
    own.next_multiple_of(16)
}

/// The bytes of [`Cpu::scratch`].
fn scratch_bytes(threads: usize, own: usize, shared: usize) -> usize {
    (threads * scratch_stride(own) + shared) * size_of::<f32>()
}

/// Each thread's working memory, and that of all.
struct Scratch {
    /// Keeps the memory on loan.
    _block: Block,
    start: Target<f32>,
    stride: usize,
    shared: Target<f32>,
}

impl Scratch {
    /// The memory of the thread in `slot`.
    fn slot(&self, slot: usize) -> *mut f32 {
        self.start.at(slot * self.stride)
    }
}

impl CpuTensor {
    fn values(&self) -> &[f32] {
        &self.block.f32(self.offset + self.shape.len())[self.offset..]
    }

    /// Rows of one image.
    fn rows(&self, image: usize, rows: Range<usize>) -> &[f32] {
        let row = self.shape.w * self.shape.c;
        &self.values()[(image * self.shape.h + rows.start) * row..][..rows.len() * row]
    }

    /// Whether nothing shares its memory.
    fn is_own(&mut self) -> bool {
        self.offset == 0 && Arc::get_mut(&mut self.block).is_some()
    }

    /// Of a tensor that was just made, or is its [own](CpuTensor::is_own), so that nothing shares its memory yet.
    fn values_mut(&mut self) -> &mut [f32] {
        match Arc::get_mut(&mut self.block) {
            Some(block) => block.f32_mut(self.shape.len()),
            None => unreachable!("an operation's result is shared before it is written"),
        }
    }
}

impl Tensor for CpuTensor {
    fn shape(&self) -> Shape {
        self.shape
    }
}

impl CpuAffine {
    fn weight(&self) -> &[f32] {
        self.weight.f32(self.channels)
    }

    fn bias(&self) -> &[f32] {
        self.bias.f32(self.channels)
    }
}

impl CpuEmbedding {
    /// An entry's bytes.
    fn row(&self, entry: usize) -> &[u8] {
        let size = self.channels * self.dtype.size();
        &self.table.bytes((entry + 1) * size)[entry * size..]
    }
}

/// Checks an epilogue's shapes against the output's.
fn finish<'a>(operation: &str, output: Shape, epilogue: &Epilogue<'a, CpuTensor>) -> Result<Finish<'a>> {
    let channel_bias = epilogue.channel_bias;
    if let Some(bias) = channel_bias.filter(|bias| bias.shape != Shape::vector(output.n, output.c)) {
        bail!(Internal, "{operation}: channel bias {} for {output}", bias.shape);
    }
    if let Some(residual) = epilogue.residual.filter(|residual| residual.shape != output) {
        bail!(Internal, "{operation}: residual {} for {output}", residual.shape);
    }
    Ok(Finish {
        channel_bias: channel_bias.map(CpuTensor::values),
        activation: epilogue.activation,
        residual: epilogue.residual.map(CpuTensor::values),
        onto: false,
        geglu: false,
    })
}

/// The rows of a linear layer's input.
fn linear_rows<'a>(x: &'a CpuTensor, weight: &'a Packed) -> Rows<'a> {
    Rows {
        x: x.values(),
        zeros: weight.zeros(),
        input: x.shape,
        output: x.shape,
        kernel: [1, 1],
        geometry: ConvGeometry::same(1),
    }
}

impl Backend for Cpu {
    type Tensor = CpuTensor;
    type Linear = CpuLinear;
    type Conv2d = CpuConv2d;
    type Affine = CpuAffine;
    type Embedding = CpuEmbedding;
    type Repeated = ();

    fn session(&self) -> Result<Self> {
        let pool = Pool::new(&self.device.memory);
        Ok(Self { pool, cancel: Cancel::default(), ..self.clone() })
    }

    fn with_cancel(&self, cancel: &Cancel) -> Self {
        Self { cancel: cancel.clone(), ..self.clone() }
    }

    fn as_stored(&self) -> Self {
        self.with_weights(WeightFormat::AsStored)
    }

    fn on_threads(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) -> Result<()> {
        self.parallel(tasks, |task, _| body(task))
    }

    fn prepare_linear(&self, weight: Weight<'_>, bias: Option<Weight<'_>>) -> Result<CpuLinear> {
        if !matches!(weight.shape, [_, _] | [_, _, 1, 1]) {
            bail!(Internal, "a linear weight of shape {:?}", weight.shape);
        }
        Ok(CpuLinear(Packed::new(&self.device, (self.weights, self.bf16), weight, bias)?))
    }

    fn prepare_conv2d(
        &self,
        weight: Weight<'_>,
        bias: Option<Weight<'_>>,
        geometry: ConvGeometry,
    ) -> Result<CpuConv2d> {
        let &[_, _, height, width] = weight.shape else {
            bail!(Internal, "a convolution weight of shape {:?}", weight.shape);
        };
        if geometry.stride == 0 {
            bail!(Internal, "a convolution of stride 0");
        }
        let bf16 = self.bf16 && conv::is_always_direct([height, width], geometry);
        Ok(CpuConv2d {
            packed: Packed::new(&self.device, (self.weights, bf16), weight, bias)?,
            kernel: [height, width],
            geometry,
        })
    }

    fn prepare_affine(&self, weight: Weight<'_>, bias: Weight<'_>) -> Result<CpuAffine> {
        let &[channels] = weight.shape else {
            bail!(Internal, "a norm's weight of shape {:?}", weight.shape);
        };
        if bias.shape != weight.shape {
            bail!(Internal, "a norm's weight of shape {:?} and bias of shape {:?}", weight.shape, bias.shape);
        }
        let weight = pack::read_f32(&self.device, weight)?;
        Ok(CpuAffine { channels, weight, bias: pack::read_f32(&self.device, bias)? })
    }

    fn prepare_embedding(&self, weight: Weight<'_>) -> Result<CpuEmbedding> {
        let &[entries, channels] = weight.shape else {
            bail!(Internal, "an embedding of shape {:?}", weight.shape);
        };
        if weight.bytes.len() != entries * channels * weight.dtype.size() {
            bail!(Internal, "an embedding of shape {:?} has {} bytes", weight.shape, weight.bytes.len());
        }
        let table = Buffer::from_bytes(&self.device.memory, weight.bytes, "an embedding")?;
        Ok(CpuEmbedding { entries, channels, dtype: weight.dtype, table })
    }

    fn upload(&self, shape: Shape, values: &[f32]) -> Result<CpuTensor> {
        let mut tensor = self.tensor(shape, "upload")?;
        if values.len() != shape.len() {
            bail!(Internal, "upload: {} values for {shape}", values.len());
        }
        tensor.values_mut().copy_from_slice(values);
        Ok(tensor)
    }

    fn download(&self, x: &CpuTensor, out: &mut [f32]) -> Result<()> {
        self.cancel.check()?;
        if out.len() != x.shape.len() {
            bail!(Internal, "download: {} values for {}", out.len(), x.shape);
        }
        out.copy_from_slice(x.values());
        Ok(())
    }

    fn view(&self, x: &CpuTensor, offset: usize, shape: Shape) -> Result<CpuTensor> {
        self.cancel.check()?;
        if offset.checked_add(shape.len()).is_none_or(|end| end > x.shape.len()) {
            bail!(Internal, "view: {shape} from {offset} of {}", x.shape);
        }
        Ok(CpuTensor { shape, offset: x.offset + offset, block: Arc::clone(&x.block) })
    }

    fn repeat(
        &self,
        (): &mut (),
        inputs: &[Input<'_, CpuTensor>],
        body: &dyn Fn(&[CpuTensor]) -> Result<CpuTensor>,
        out: &mut [f32],
    ) -> Result<()> {
        run_once(self, inputs, body, out)
    }

    fn linear(
        &self,
        x: &CpuTensor,
        weight: &CpuLinear,
        epilogue: Epilogue<'_, CpuTensor>,
    ) -> Result<CpuTensor> {
        let weight = &weight.0;
        if x.shape.c != weight.k {
            bail!(Internal, "linear: {} for {} inputs", x.shape, weight.k);
        }
        let shape = x.shape.with_channels(weight.n);
        let finish = finish("linear", shape, &epilogue)?;
        let mut out = self.tensor(shape, "linear")?;
        let target = Target(out.values_mut().as_mut_ptr());
        gemm::run(self, &linear_rows(x, weight), weight, &finish, target)?;
        Ok(out)
    }

    fn linear_geglu(&self, x: &CpuTensor, weight: &CpuLinear) -> Result<CpuTensor> {
        let weight = &weight.0;
        if x.shape.c != weight.k || !weight.n.is_multiple_of(2) {
            bail!(Internal, "linear_geglu: {} for a weight [{}, {}]", x.shape, weight.n, weight.k);
        }
        let mut out = self.tensor(x.shape.with_channels(weight.n / 2), "linear_geglu")?;
        let finish = Finish { geglu: true, ..Finish::default() };
        let target = Target(out.values_mut().as_mut_ptr());
        gemm::run(self, &linear_rows(x, weight), weight, &finish, target)?;
        Ok(out)
    }

    fn conv2d(
        &self,
        x: &CpuTensor,
        weight: &CpuConv2d,
        epilogue: Epilogue<'_, CpuTensor>,
    ) -> Result<CpuTensor> {
        let output = conv::output("conv2d", x.shape, weight)?;
        conv::run(self, "conv2d", x, weight, output, &epilogue)
    }

    fn upsample_conv2d(
        &self,
        x: &CpuTensor,
        weight: &CpuConv2d,
        height: usize,
        width: usize,
    ) -> Result<CpuTensor> {
        let ConvGeometry { stride, padding: [top, left, bottom, right], upsample } = weight.geometry;
        let [kernel_h, kernel_w] = weight.kernel;
        let keeps_size = stride == 1 && top + bottom + 1 == kernel_h && left + right + 1 == kernel_w;
        let doubles = height.div_ceil(2) == x.shape.h && width.div_ceil(2) == x.shape.w;
        if !upsample || !keeps_size || !doubles {
            bail!(Internal, "upsample_conv2d: {} to {height} × {width} with {:?}", x.shape, weight.geometry);
        }
        let output = Shape::image(x.shape.n, height, width, weight.packed.n);
        conv::run(self, "upsample_conv2d", x, weight, output, &Epilogue::default())
    }

    fn group_norm(
        &self,
        x: &CpuTensor,
        affine: &CpuAffine,
        groups: usize,
        eps: f32,
        silu: bool,
    ) -> Result<CpuTensor> {
        norm::group_norm(self, x, &Norm { affine, groups, eps, silu })
    }

    fn norm_conv2d(
        &self,
        x: &CpuTensor,
        norm: Norm<'_, CpuAffine>,
        weight: &CpuConv2d,
        epilogue: Epilogue<'_, CpuTensor>,
    ) -> Result<CpuTensor> {
        strips::norm_conv2d(self, x, &norm, weight, epilogue, None)
    }

    fn norm_conv2d_onto(
        &self,
        x: &CpuTensor,
        norm: Norm<'_, CpuAffine>,
        weight: &CpuConv2d,
        sum: CpuTensor,
    ) -> Result<CpuTensor> {
        strips::norm_conv2d(self, x, &norm, weight, Epilogue::default(), Some(sum))
    }

    fn residual_block(
        &self,
        x: CpuTensor,
        upsample: Option<&CpuConv2d>,
        block: &ResidualBlock<'_, Cpu>,
    ) -> Result<CpuTensor> {
        let mut x = x;
        let sizes = BlockSizes {
            x: x.shape,
            own: x.is_own(),
            upsample: upsample.map(CpuConv2d::size),
            conv1: block.conv1.size(),
            conv2: block.conv2.size(),
            shortcut: block.shortcut.map(|shortcut| ConvSize::linear(&shortcut.0)),
        };
        let Some(materialise) = self.sizes().way(&sizes, self.available()) else {
            return whole_block(self, x, upsample, block);
        };
        match upsample {
            Some(conv) if materialise => {
                let Shape { h, w, .. } = x.shape;
                x = self.upsample_conv2d(&x, conv, 2 * h, 2 * w)?;
                residual::small(self, x, None, block)
            }
            _ => residual::small(self, x, upsample, block),
        }
    }

    fn layer_norm(&self, x: &CpuTensor, affine: &CpuAffine, eps: f32) -> Result<CpuTensor> {
        norm::layer_norm(self, x, affine, eps)
    }

    fn attention(
        &self,
        q: &CpuTensor,
        k: &CpuTensor,
        v: &CpuTensor,
        heads: usize,
        causal: bool,
    ) -> Result<CpuTensor> {
        attention::attention(self, q, k, v, heads, causal)
    }

    fn activation(&self, x: &CpuTensor, activation: Activation) -> Result<CpuTensor> {
        elementwise::activation(self, x, activation)
    }

    fn add(&self, a: &CpuTensor, b: &CpuTensor) -> Result<CpuTensor> {
        elementwise::add(self, a, b)
    }

    fn concat_channels(&self, a: &CpuTensor, b: &CpuTensor) -> Result<CpuTensor> {
        elementwise::concat_channels(self, a, b)
    }

    fn splice_images(&self, a: &CpuTensor, b: &CpuTensor, at: usize) -> Result<CpuTensor> {
        elementwise::splice_images(self, a, b, at)
    }

    fn embed_tokens(
        &self,
        ids: &[u32],
        n: usize,
        tokens: &CpuEmbedding,
        positions: &CpuEmbedding,
    ) -> Result<CpuTensor> {
        elementwise::embed_tokens(self, ids, n, tokens, positions)
    }

    fn select_tokens(&self, x: &CpuTensor, index: &[usize]) -> Result<CpuTensor> {
        elementwise::select_tokens(self, x, index)
    }
}
