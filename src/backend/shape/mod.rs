//! The backend that computes nothing: it runs model code on shapes alone and keeps the account of memory that a real
//! device would keep. So it answers how much memory a request needs before anything is loaded.
//!
//! What a device allocates beside results ([`Model`]) is said next to the operations that do, in the device's folder.

mod pool;

use std::sync::{Arc, Mutex, PoisonError};

use self::pool::{Block as Memory, Buffer, Pool, Recorded};
use super::account::Account;
use super::{
    Activation, Backend, ConvGeometry, DType, Epilogue, Input, Norm, ResidualBlock, Shape, Tensor, Weight,
    WeightFormat, run_once, whole_block,
};
use crate::util::cancel::Cancel;
use crate::util::error::{Result, bail};

/// What a device allocates. Sizes are in bytes.
pub(crate) trait Model: Send + Sync + 'static {
    /// Of a value of an activation.
    fn value(&self) -> usize;
    /// Offsets of tensors are multiples of this; a view that would not be one is a copy.
    fn alignment(&self) -> usize;
    /// Each buffer of a prepared layer, in no order.
    fn layer(&self, layer: &Layer) -> Vec<usize>;
    /// A table's values, `len` of them.
    fn table(&self, len: usize, dtype: DType) -> usize;
    /// What a product works in while its result exists.
    fn product(&self, product: &Product<'_>) -> Work;
    /// Whether GEGLU is a product and then a gate, each with a result.
    fn gates_apart(&self, layer: &Layer) -> bool;
    /// What a GroupNorm works in.
    fn group_norm(&self, x: Shape, groups: usize) -> Vec<usize>;
    /// What attention works in: queries of this shape, `keys` an image.
    fn attention(&self, q: Shape, keys: usize, heads: usize) -> Vec<usize>;
    /// `len` numbers of tokens, where the device has to be told.
    fn indices(&self, len: usize) -> Option<usize>;
    /// Whether [`Backend::repeat`] records.
    fn records(&self) -> bool;
    /// What [`Backend::norm_conv2d`] works in, where it is one operation for this input.
    fn norm_conv(&self, _x: Shape, _layer: &Layer) -> Option<Vec<Event>> {
        None
    }
    /// Whether [`Backend::norm_conv2d_onto`] adds in the memory of a tensor that nothing shares.
    fn adds_in_place(&self) -> bool {
        false
    }
    /// How a residual block is computed that may take so many bytes, if not operation by operation.
    fn small_block(&self, _block: &Block<'_>, _available: Option<u64>) -> Option<SmallBlock> {
        None
    }
    /// Whether large activations are made of chunks, see [`in_chunks`](super::account::in_chunks).
    fn moves_chunks(&self) -> bool {
        false
    }
}

/// A step of an operation's work.
pub(crate) enum Event {
    /// So many bytes are taken.
    Take(usize),
    /// Those taken last go back, but for so many that were taken after them.
    Give(usize),
}

/// A residual block's size.
pub(crate) struct Block<'a> {
    pub(crate) x: Shape,
    /// Whether nothing shares the memory of `x`.
    pub(crate) own: bool,
    pub(crate) upsample: Option<&'a Layer>,
    pub(crate) conv1: &'a Layer,
    pub(crate) conv2: &'a Layer,
    pub(crate) shortcut: Option<&'a Layer>,
}

/// What [`Model::small_block`] answers.
pub(crate) struct SmallBlock {
    /// Whether the enlarged input is made first.
    pub(crate) materialise: bool,
    /// If the result is a tensor of its own and not the input, it is taken first. What is not given back is at the end.
    pub(crate) events: Vec<Event>,
}

/// What [`Model::product`] answers.
#[derive(Default)]
pub(crate) struct Work {
    /// Goes back to the pool with the product's end; 0 = nothing.
    pub(crate) scratch: usize,
    /// The session's, allocated by the first that needs it; 0 = not needed.
    pub(crate) workspace: usize,
}

/// A linear layer, or a convolution.
pub(crate) struct Layer {
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    /// Height and width; 1 × 1 for a linear layer.
    pub(crate) kernel: [usize; 2],
    /// `None` for a linear layer.
    pub(crate) geometry: Option<ConvGeometry>,
    pub(crate) dtype: DType,
    pub(crate) format: WeightFormat,
    pub(crate) bias: bool,
    /// Prepared for GEGLU.
    pub(crate) geglu: bool,
}

impl Layer {
    /// Values of `inputs` that make one of the outputs.
    pub(crate) fn depth(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.inputs
    }
}

/// A layer at work.
pub(crate) struct Product<'a> {
    pub(crate) layer: &'a Layer,
    /// The result's shape.
    pub(crate) out: Shape,
    /// Whether the epilogue has neither an activation nor a bias for each image.
    pub(crate) plain: bool,
    /// Whether the gate is joined to the product.
    pub(crate) gated: bool,
}

/// A session on a device of which there is only the [`Model`].
#[derive(Clone)]
pub struct Shapes {
    model: Arc<dyn Model>,
    account: Arc<Account>,
    pool: Arc<Pool>,
    workspace: Arc<Mutex<Option<Buffer>>>,
    cancel: Cancel,
    weights: WeightFormat,
}

/// An activation without values.
pub struct ShapeTensor {
    shape: Shape,
    /// In values, from the start of the block, which views share.
    offset: usize,
    block: Arc<Memory>,
}

impl Tensor for ShapeTensor {
    fn shape(&self) -> Shape {
        self.shape
    }
}

impl ShapeTensor {
    /// Whether nothing shares its memory.
    fn is_own(&mut self) -> bool {
        self.offset == 0 && Arc::get_mut(&mut self.block).is_some()
    }
}

/// A layer and the memory of its weights.
pub struct ShapeLayer {
    layer: Layer,
    _memory: Vec<Buffer>,
}

/// A norm.
pub struct ShapeAffine {
    channels: usize,
    _memory: [Buffer; 2],
}

/// A table.
pub struct ShapeEmbedding {
    entries: usize,
    channels: usize,
    _memory: Buffer,
}

/// What [`Backend::repeat`] keeps, as the CUDA backend does.
#[derive(Default)]
pub struct ShapeRepeated {
    inputs: Option<Vec<ShapeTensor>>,
    recording: Option<(ShapeTensor, Recorded)>,
    failures: u32,
}

/// How often the CUDA backend tries to record.
const ATTEMPTS: u32 = 3;

impl Shapes {
    /// A device that allocates at most `limit` bytes.
    pub(crate) fn new(model: Arc<dyn Model>, limit: Option<u64>) -> Self {
        let account = Arc::new(Account::new(limit));
        Self {
            pool: Pool::new(&account, model.moves_chunks()),
            model,
            account,
            workspace: Arc::default(),
            cancel: Cancel::default(),
            weights: WeightFormat::default(),
        }
    }

    /// The same device with weights of this format prepared from now on.
    pub(crate) fn with_weights(&self, weights: WeightFormat) -> Self {
        Self { weights, ..self.clone() }
    }

    /// Bytes that would be allocated now.
    pub(crate) fn memory_used(&self) -> u64 {
        self.account.used()
    }

    /// The most bytes that would have been allocated at a time.
    pub(crate) fn memory_peak(&self) -> u64 {
        self.account.peak()
    }

    /// What the limit leaves, the session's reserves included.
    fn available(&self) -> Option<u64> {
        let used = self.account.used().saturating_sub(self.pool.reserves());
        self.account.limit().map(|limit| limit.saturating_sub(used))
    }

    fn tensor(&self, shape: Shape, operation: &str) -> Result<ShapeTensor> {
        self.cancel.check()?;
        let Shape { n, h, w, c } = shape;
        let bytes = [h, w, c, self.model.value()].iter().try_fold(n, |len, &side| len.checked_mul(side));
        let Some(bytes) = bytes else {
            bail!(OutOfMemory, "{operation}: {shape} is more memory than can be addressed");
        };
        Ok(ShapeTensor { shape, offset: 0, block: Arc::new(self.pool.take(bytes)?) })
    }

    /// Takes what an operation works in, and gives it back.
    fn work(&self, sizes: &[usize]) -> Result<()> {
        sizes.iter().map(|&bytes| self.pool.take(bytes)).collect::<Result<Vec<_>>>().map(drop)
    }

    /// Takes and gives back as an operation does. Returns what was taken first and not given back.
    fn play(&self, events: &[Event]) -> Result<Option<Memory>> {
        let mut held = Vec::new();
        for event in events {
            match *event {
                Event::Take(bytes) => held.push(self.pool.take(bytes)?),
                Event::Give(above) if above < held.len() => drop(held.remove(held.len() - 1 - above)),
                Event::Give(_) => bail!(Internal, "memory is given back that was not taken"),
            }
        }
        held.reverse();
        Ok(held.pop())
    }

    fn buffer(&self, bytes: usize) -> Result<Buffer> {
        Buffer::new(&self.account, bytes)
    }

    fn prepare(&self, layer: Layer, weight: Weight<'_>, bias: Option<Weight<'_>>) -> Result<ShapeLayer> {
        if let Some(bias) = bias.filter(|bias| bias.shape != [layer.outputs]) {
            bail!(Internal, "a bias of shape {:?} for {:?}", bias.shape, weight.shape);
        }
        let memory = self.model.layer(&layer).into_iter().map(|bytes| self.buffer(bytes));
        Ok(ShapeLayer { _memory: memory.collect::<Result<_>>()?, layer })
    }

    fn prepare_matrix(
        &self,
        weight: Weight<'_>,
        bias: Option<Weight<'_>>,
        geglu: bool,
    ) -> Result<ShapeLayer> {
        let &([outputs, inputs] | [outputs, inputs, 1, 1]) = weight.shape else {
            bail!(Internal, "a linear weight of shape {:?}", weight.shape);
        };
        let layer = Layer {
            outputs,
            inputs,
            kernel: [1, 1],
            geometry: None,
            dtype: weight.dtype,
            format: self.weights,
            bias: bias.is_some(),
            geglu,
        };
        self.prepare(layer, weight, bias)
    }

    fn multiply(
        &self,
        operation: &str,
        layer: &Layer,
        out: Shape,
        epilogue: &Epilogue<'_, ShapeTensor>,
        gated: bool,
    ) -> Result<ShapeTensor> {
        if let Some(bias) = epilogue.channel_bias.filter(|bias| bias.shape != Shape::vector(out.n, out.c)) {
            bail!(Internal, "{operation}: channel bias {} for {out}", bias.shape);
        }
        if let Some(residual) = epilogue.residual.filter(|residual| residual.shape != out) {
            bail!(Internal, "{operation}: residual {} for {out}", residual.shape);
        }
        let result = self.tensor(out, operation)?;
        let plain = epilogue.activation.is_none() && epilogue.channel_bias.is_none();
        let Work { scratch, workspace } = self.model.product(&Product { layer, out, plain, gated });
        if scratch > 0 {
            self.work(&[scratch])?;
        }
        let mut kept = self.workspace.lock().unwrap_or_else(PoisonError::into_inner);
        if workspace > 0 && kept.is_none() {
            *kept = Some(self.buffer(workspace)?);
        }
        Ok(result)
    }

    fn convolve(
        &self,
        operation: &str,
        x: &ShapeTensor,
        sides: [usize; 2],
        weight: &ShapeLayer,
        epilogue: &Epilogue<'_, ShapeTensor>,
    ) -> Result<ShapeTensor> {
        let layer = &weight.layer;
        let geometry = layer.geometry.unwrap_or(ConvGeometry::same(1));
        let ConvGeometry { stride, padding: [top, left, bottom, right], .. } = geometry;
        let [kernel_h, kernel_w] = layer.kernel;
        let (h, w) = (sides[0] + top + bottom, sides[1] + left + right);
        if x.shape.c != layer.inputs || h < kernel_h || w < kernel_w {
            bail!(Internal, "{operation}: {} for {} inputs and {geometry:?}", x.shape, layer.inputs);
        }
        let (h, w) = ((h - kernel_h) / stride + 1, (w - kernel_w) / stride + 1);
        let out = Shape::image(x.shape.n, h, w, layer.outputs);
        self.multiply(operation, layer, out, epilogue, false)
    }

    /// As the CUDA backend's `repeat`.
    fn record(
        &self,
        state: &mut ShapeRepeated,
        inputs: &[Input<'_, ShapeTensor>],
        body: &dyn Fn(&[ShapeTensor]) -> Result<ShapeTensor>,
        out: &mut [f32],
    ) -> Result<()> {
        let places = match state.inputs.take() {
            Some(places) => {
                if state.recording.is_none() && state.failures < ATTEMPTS {
                    self.pool.begin_recording();
                    let result = body(&places);
                    let memory = self.pool.end_recording();
                    match result {
                        Ok(result) => state.recording = Some((result, memory)),
                        Err(_) => state.failures += 1,
                    }
                }
                places
            }
            None => {
                let make = |input: &Input<'_, ShapeTensor>| match *input {
                    Input::Host(shape, _) => self.tensor(shape, "a step's input"),
                    Input::Device(tensor) => self.tensor(tensor.shape, "a step's input"),
                };
                inputs.iter().map(make).collect::<Result<Vec<_>>>()?
            }
        };
        match &state.recording {
            Some((result, _)) => self.download(result, out)?,
            None => self.download(&body(&places)?, out)?,
        }
        state.inputs = Some(places);
        Ok(())
    }
}

impl Backend for Shapes {
    type Tensor = ShapeTensor;
    type Linear = ShapeLayer;
    type Conv2d = ShapeLayer;
    type Affine = ShapeAffine;
    type Embedding = ShapeEmbedding;
    type Repeated = ShapeRepeated;

    const READS_WEIGHTS: bool = false;

    fn session(&self) -> Result<Self> {
        let pool = Pool::new(&self.account, self.model.moves_chunks());
        Ok(Self { pool, workspace: Arc::default(), cancel: Cancel::default(), ..self.clone() })
    }

    fn with_cancel(&self, cancel: &Cancel) -> Self {
        Self { cancel: cancel.clone(), ..self.clone() }
    }

    fn as_stored(&self) -> Self {
        self.with_weights(WeightFormat::AsStored)
    }

    fn prepare_linear(&self, weight: Weight<'_>, bias: Option<Weight<'_>>) -> Result<ShapeLayer> {
        self.prepare_matrix(weight, bias, false)
    }

    fn prepare_geglu(&self, weight: Weight<'_>, bias: Option<Weight<'_>>) -> Result<ShapeLayer> {
        self.prepare_matrix(weight, bias, true)
    }

    fn prepare_conv2d(
        &self,
        weight: Weight<'_>,
        bias: Option<Weight<'_>>,
        geometry: ConvGeometry,
    ) -> Result<ShapeLayer> {
        let &[outputs, inputs, height, width] = weight.shape else {
            bail!(Internal, "a convolution weight of shape {:?}", weight.shape);
        };
        if height * width * geometry.stride == 0 {
            bail!(Internal, "a convolution of shape {:?} and {geometry:?}", weight.shape);
        }
        let layer = Layer {
            outputs,
            inputs,
            kernel: [height, width],
            geometry: Some(geometry),
            dtype: weight.dtype,
            format: self.weights,
            bias: bias.is_some(),
            geglu: false,
        };
        self.prepare(layer, weight, bias)
    }

    fn prepare_affine(&self, weight: Weight<'_>, bias: Weight<'_>) -> Result<ShapeAffine> {
        let &[channels] = weight.shape else {
            bail!(Internal, "a norm's weight of shape {:?}", weight.shape);
        };
        if bias.shape != weight.shape {
            bail!(Internal, "a norm's weight of shape {:?} and bias of shape {:?}", weight.shape, bias.shape);
        }
        // f32 on every device.
        Ok(ShapeAffine { channels, _memory: [self.buffer(channels * 4)?, self.buffer(channels * 4)?] })
    }

    fn prepare_embedding(&self, weight: Weight<'_>) -> Result<ShapeEmbedding> {
        let &[entries, channels] = weight.shape else {
            bail!(Internal, "an embedding of shape {:?}", weight.shape);
        };
        let memory = self.buffer(self.model.table(entries * channels, weight.dtype))?;
        Ok(ShapeEmbedding { entries, channels, _memory: memory })
    }

    fn upload(&self, shape: Shape, values: &[f32]) -> Result<ShapeTensor> {
        if values.len() != shape.len() {
            bail!(Internal, "upload: {} values for {shape}", values.len());
        }
        self.tensor(shape, "upload")
    }

    fn download(&self, x: &ShapeTensor, out: &mut [f32]) -> Result<()> {
        self.cancel.check()?;
        if out.len() != x.shape.len() {
            bail!(Internal, "download: {} values for {}", out.len(), x.shape);
        }
        out.fill(0.0);
        Ok(())
    }

    fn view(&self, x: &ShapeTensor, offset: usize, shape: Shape) -> Result<ShapeTensor> {
        self.cancel.check()?;
        if offset.checked_add(shape.len()).is_none_or(|end| end > x.shape.len()) {
            bail!(Internal, "view: {shape} from {offset} of {}", x.shape);
        }
        let offset = x.offset + offset;
        if !(offset * self.model.value()).is_multiple_of(self.model.alignment()) {
            return self.tensor(shape, "view");
        }
        Ok(ShapeTensor { shape, offset, block: Arc::clone(&x.block) })
    }

    fn repeat(
        &self,
        state: &mut ShapeRepeated,
        inputs: &[Input<'_, ShapeTensor>],
        body: &dyn Fn(&[ShapeTensor]) -> Result<ShapeTensor>,
        out: &mut [f32],
    ) -> Result<()> {
        if self.model.records() {
            self.record(state, inputs, body, out)
        } else {
            run_once(self, inputs, body, out)
        }
    }

    fn linear(
        &self,
        x: &ShapeTensor,
        weight: &ShapeLayer,
        epilogue: Epilogue<'_, ShapeTensor>,
    ) -> Result<ShapeTensor> {
        let layer = &weight.layer;
        if x.shape.c != layer.inputs {
            bail!(Internal, "linear: {} for {} inputs", x.shape, layer.inputs);
        }
        self.multiply("linear", layer, x.shape.with_channels(layer.outputs), &epilogue, false)
    }

    fn linear_geglu(&self, x: &ShapeTensor, weight: &ShapeLayer) -> Result<ShapeTensor> {
        let layer = &weight.layer;
        if x.shape.c != layer.inputs || !layer.outputs.is_multiple_of(2) {
            bail!(Internal, "linear_geglu: {} for [{}, {}]", x.shape, layer.outputs, layer.inputs);
        }
        let out = x.shape.with_channels(layer.outputs / 2);
        if !self.model.gates_apart(layer) {
            return self.multiply("linear_geglu", layer, out, &Epilogue::default(), true);
        }
        let both = x.shape.with_channels(layer.outputs);
        let _both = self.multiply("linear_geglu", layer, both, &Epilogue::default(), false)?;
        self.tensor(out, "linear_geglu")
    }

    fn conv2d(
        &self,
        x: &ShapeTensor,
        weight: &ShapeLayer,
        epilogue: Epilogue<'_, ShapeTensor>,
    ) -> Result<ShapeTensor> {
        self.convolve("conv2d", x, [x.shape.h, x.shape.w], weight, &epilogue)
    }

    fn upsample_conv2d(
        &self,
        x: &ShapeTensor,
        weight: &ShapeLayer,
        height: usize,
        width: usize,
    ) -> Result<ShapeTensor> {
        if height.div_ceil(2) != x.shape.h || width.div_ceil(2) != x.shape.w {
            bail!(Internal, "upsample_conv2d: {} to {height} × {width}", x.shape);
        }
        self.convolve("upsample_conv2d", x, [height, width], weight, &Epilogue::default())
    }

    fn group_norm(
        &self,
        x: &ShapeTensor,
        affine: &ShapeAffine,
        groups: usize,
        _eps: f32,
        _silu: bool,
    ) -> Result<ShapeTensor> {
        if groups == 0 || !x.shape.c.is_multiple_of(groups) || affine.channels != x.shape.c {
            bail!(Internal, "group_norm: {groups} groups and {} scales for {}", affine.channels, x.shape);
        }
        let out = self.tensor(x.shape, "group_norm")?;
        self.work(&self.model.group_norm(x.shape, groups))?;
        Ok(out)
    }

    fn norm_conv2d(
        &self,
        x: &ShapeTensor,
        norm: Norm<'_, ShapeAffine>,
        weight: &ShapeLayer,
        epilogue: Epilogue<'_, ShapeTensor>,
    ) -> Result<ShapeTensor> {
        let Some(events) = self.model.norm_conv(x.shape, &weight.layer) else {
            let h = self.group_norm(x, norm.affine, norm.groups, norm.eps, norm.silu)?;
            return self.conv2d(&h, weight, epilogue);
        };
        let out = self.tensor(x.shape.with_channels(weight.layer.outputs), "norm_conv2d")?;
        self.play(&events)?;
        Ok(out)
    }

    fn norm_conv2d_onto(
        &self,
        x: &ShapeTensor,
        norm: Norm<'_, ShapeAffine>,
        weight: &ShapeLayer,
        sum: ShapeTensor,
    ) -> Result<ShapeTensor> {
        let mut sum = sum;
        if !self.model.adds_in_place() || !sum.is_own() {
            return self.norm_conv2d(x, norm, weight, Epilogue::residual(&sum));
        }
        match self.model.norm_conv(x.shape, &weight.layer) {
            Some(events) => self.play(&events).map(drop)?,
            None => {
                let _h = self.group_norm(x, norm.affine, norm.groups, norm.eps, norm.silu)?;
                let (layer, out) = (&weight.layer, sum.shape);
                self.work(&[self.model.product(&Product { layer, out, plain: true, gated: false }).scratch])?;
            }
        }
        Ok(sum)
    }

    fn residual_block(
        &self,
        x: ShapeTensor,
        upsample: Option<&ShapeLayer>,
        block: &ResidualBlock<'_, Shapes>,
    ) -> Result<ShapeTensor> {
        let mut x = x;
        let sizes = Block {
            x: x.shape,
            own: x.is_own(),
            upsample: upsample.map(|conv| &conv.layer),
            conv1: &block.conv1.layer,
            conv2: &block.conv2.layer,
            shortcut: block.shortcut.map(|shortcut| &shortcut.layer),
        };
        let Some(small) = self.model.small_block(&sizes, self.available()) else {
            return whole_block(self, x, upsample, block);
        };
        let own = sizes.own || upsample.is_some();
        if let Some(conv) = upsample.filter(|_| small.materialise) {
            let Shape { h, w, .. } = x.shape;
            x = self.upsample_conv2d(&x, conv, 2 * h, 2 * w)?;
        }
        let taken = self.play(&small.events)?;
        if block.shortcut.is_none() && own {
            return Ok(x);
        }
        let Some(taken) = taken else {
            bail!(Internal, "a residual block without a result");
        };
        let Shape { h, w, .. } = x.shape;
        let twice = if upsample.is_some() && !small.materialise { 2 } else { 1 };
        let shape = Shape { h: h * twice, w: w * twice, c: block.conv1.layer.outputs, ..x.shape };
        Ok(ShapeTensor { shape, offset: 0, block: Arc::new(taken) })
    }

    fn layer_norm(&self, x: &ShapeTensor, affine: &ShapeAffine, _eps: f32) -> Result<ShapeTensor> {
        if affine.channels != x.shape.c {
            bail!(Internal, "layer_norm: {} scales for {}", affine.channels, x.shape);
        }
        self.tensor(x.shape, "layer_norm")
    }

    fn attention(
        &self,
        q: &ShapeTensor,
        k: &ShapeTensor,
        v: &ShapeTensor,
        heads: usize,
        _causal: bool,
    ) -> Result<ShapeTensor> {
        let fits = heads > 0
            && q.shape.c.is_multiple_of(heads)
            && k.shape == v.shape
            && (k.shape.n, k.shape.c) == (q.shape.n, q.shape.c)
            && !k.shape.is_empty();
        if !fits {
            bail!(Internal, "attention: {heads} heads of {}, {} and {}", q.shape, k.shape, v.shape);
        }
        let out = self.tensor(q.shape, "attention")?;
        self.work(&self.model.attention(q.shape, k.shape.pixels(), heads))?;
        Ok(out)
    }

    fn activation(&self, x: &ShapeTensor, _activation: Activation) -> Result<ShapeTensor> {
        self.tensor(x.shape, "activation")
    }

    fn add(&self, a: &ShapeTensor, b: &ShapeTensor) -> Result<ShapeTensor> {
        if a.shape != b.shape {
            bail!(Internal, "add: {} and {} differ", a.shape, b.shape);
        }
        self.tensor(a.shape, "add")
    }

    fn concat_channels(&self, a: &ShapeTensor, b: &ShapeTensor) -> Result<ShapeTensor> {
        if a.shape.with_channels(0) != b.shape.with_channels(0) {
            bail!(Internal, "concat_channels: {} and {} do not fit", a.shape, b.shape);
        }
        self.tensor(a.shape.with_channels(a.shape.c + b.shape.c), "concat_channels")
    }

    fn splice_images(&self, a: &ShapeTensor, b: &ShapeTensor, at: usize) -> Result<ShapeTensor> {
        if a.shape != b.shape || at > a.shape.n {
            bail!(Internal, "splice_images: {} and {} at {at}", a.shape, b.shape);
        }
        self.tensor(a.shape, "splice_images")
    }

    fn embed_tokens(
        &self,
        ids: &[u32],
        n: usize,
        tokens: &ShapeEmbedding,
        positions: &ShapeEmbedding,
    ) -> Result<ShapeTensor> {
        let length = ids.len() / n.max(1);
        let (channels, most) = (tokens.channels, tokens.entries);
        let fits = n * length == ids.len() && length <= positions.entries && positions.channels == channels;
        if !fits || ids.iter().any(|&id| id as usize >= most) {
            bail!(Internal, "embed_tokens: {} ids below {most} for {n} sequences", ids.len());
        }
        let out = self.tensor(Shape::tokens(n, length, channels), "embed_tokens")?;
        self.work(self.model.indices(ids.len()).as_slice())?;
        Ok(out)
    }

    fn select_tokens(&self, x: &ShapeTensor, index: &[usize]) -> Result<ShapeTensor> {
        if index.len() != x.shape.n || index.iter().any(|&i| i >= x.shape.pixels()) {
            bail!(Internal, "select_tokens: {index:?} of {}", x.shape);
        }
        let out = self.tensor(Shape::vector(x.shape.n, x.shape.c), "select_tokens")?;
        self.work(self.model.indices(index.len()).as_slice())?;
        Ok(out)
    }
}
