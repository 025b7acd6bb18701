//! What the CPU allocates, for [`Shapes`].

use std::ops::Range;
use std::sync::Arc;

use super::conv::{ConvSize, Method, is_always_direct};
use super::kernel::Kernels;
use super::pack::{Packed, Values};
use super::residual::enlarged;
use super::winograd::Room;
use super::{Cpu, attention_sizes, gemm, inner, norm, strips};
use crate::backend::shape::{Block, Event, Layer, Model, Product, Shapes, SmallBlock, Work};
use crate::backend::{ConvGeometry, DType, Shape};

/// What decides how much memory operations work in.
pub(super) struct Sizes {
    kernels: &'static Kernels,
    threads: usize,
    strict: bool,
    strip: usize,
    bf16: bool,
}

/// A residual block's.
#[derive(Clone, Copy)]
pub(super) struct BlockSizes {
    pub(super) x: Shape,
    /// Whether nothing shares the memory of `x`.
    pub(super) own: bool,
    pub(super) upsample: Option<ConvSize>,
    pub(super) conv1: ConvSize,
    pub(super) conv2: ConvSize,
    pub(super) shortcut: Option<ConvSize>,
}

impl Cpu {
    pub(super) fn sizes(&self) -> Sizes {
        let (kernels, threads) = (self.device.kernels, self.concurrency());
        Sizes { kernels, threads, strict: self.strict, strip: self.strip, bf16: self.bf16 }
    }

    /// A backend that allocates as this one does, on paper; at most `limit` bytes.
    pub(crate) fn shapes(&self, limit: Option<u64>) -> Shapes {
        Shapes::new(Arc::new(self.sizes()), limit)
    }
}

fn values(shape: Shape) -> usize {
    shape.len() * size_of::<f32>()
}

/// The bytes of operations on paper, in the order in which they are taken and given back.
#[derive(Default)]
struct Script(Vec<Event>);

impl Script {
    fn take(&mut self, bytes: usize) {
        self.0.push(Event::Take(bytes));
    }

    /// Gives back what was taken last but for `above`.
    fn give(&mut self, above: usize) {
        self.0.push(Event::Give(above));
    }

    fn work(&mut self, bytes: usize) {
        self.take(bytes);
        self.give(0);
    }

    /// The statistics of a norm, then its coefficients, which stay. `between` works while the statistics are there.
    fn norm(&mut self, shape: Shape, between: impl FnOnce(&mut Self)) {
        let [sums, coefficients] = norm::work(shape);
        self.take(sums);
        between(self);
        self.take(coefficients);
        self.give(1);
    }
}

impl Sizes {
    /// As [`Cpu::scratch`].
    fn scratch(&self, own: usize, shared: usize) -> usize {
        super::scratch_bytes(self.threads, own, shared)
    }

    fn method(&self, conv: &ConvSize, out: Shape) -> Method {
        let outputs = self.kernels.padded(conv.outputs);
        Method::of(conv.kernel, conv.geometry, (out.h, out.w), conv.inputs, outputs, self.strict)
    }

    /// What a convolution by `method` works in to make `out`.
    fn conv(&self, conv: &ConvSize, method: Method, out: Shape) -> usize {
        let Some(transforms) = method.transforms(self.kernels) else {
            let size = (conv.inputs, conv.kernel, conv.geometry);
            return self.direct(size, conv.values, out, false);
        };
        let inner = inner::fast_kernels(self.kernels, self.strict, conv.values, transforms, out);
        let room = Room::new(self.kernels, inner, transforms, out, conv.inputs, self.threads);
        self.scratch(room.floats(), 0)
    }

    /// What [`gemm::run`] works in to make `out`.
    fn direct(
        &self,
        size: (usize, [usize; 2], ConvGeometry),
        values: Values,
        out: Shape,
        geglu: bool,
    ) -> usize {
        let inner = inner::kernels(self.kernels, self.strict, values, out);
        let cut = gemm::Cut::new(self.kernels, self.threads, out, size, (values, inner), geglu);
        self.scratch(cut.floats(), cut.copies_len())
    }

    /// A convolution of some rows of an image of `whole`.
    fn conv_rows(&self, script: &mut Script, conv: &ConvSize, whole: Shape, rows: usize) {
        let whole = whole.with_channels(conv.outputs);
        let method = self.method(conv, whole);
        script.work(self.conv(conv, method, Shape { n: 1, h: rows, ..whole }));
    }

    /// [`Model::norm_conv`] of an image that comes in strips: what is ready, before each convolution.
    fn stage(&self, x: Shape, rows: usize, mut each: impl FnMut(Range<usize>, Range<usize>)) {
        let mut done = 0;
        for strip in strips::cut(x.h, rows) {
            let ready = strips::ready(x.h, strip.end, done);
            done = ready.end;
            each(strip, ready);
        }
    }

    /// How a residual block is computed that may take so many bytes: `None` = operation by operation, else by
    /// [`super::residual`], with the enlarged input in one piece or not.
    pub(super) fn way(&self, block: &BlockSizes, available: Option<u64>) -> Option<bool> {
        let available = available?;
        let BlockSizes { x, own, upsample, conv1, conv2, shortcut } = block;
        let input = enlarged(*x, upsample.as_ref().map(|conv| conv.outputs));
        let out = input.with_channels(conv1.outputs);
        let convs = [(input, conv1), (out, conv2)];
        let same = convs.iter().all(|(shape, conv)| {
            let keeps = conv.kernel == [3, 3] && conv.geometry == ConvGeometry::same(3);
            keeps && (conv.inputs, conv.outputs) == (shape.c, out.c)
        });
        // What does not fit together is whole_block's to refuse.
        let fits = shortcut.as_ref().map_or(input.c == out.c, |s| (s.inputs, s.outputs) == (input.c, out.c))
            && upsample.as_ref().is_none_or(|conv| conv.inputs == x.c && conv.geometry.upsample);
        let small = match upsample {
            Some(conv) => {
                let method = self.method(conv, input);
                self.conv(conv, method, input)
            }
            None => 0,
        };
        // Two strips of what a norm makes, or all of it; and what the rest works in, which is little.
        let work = convs.iter().map(|(shape, conv)| {
            let normalized = match strips::plan(self.strip, *shape, conv.kernel, conv.geometry) {
                Some(rows) => strips::window(*shape, rows),
                None => values(*shape),
            };
            let made = shape.with_channels(conv.outputs);
            let [sums, coefficients] = norm::work(*shape);
            normalized + self.conv(conv, self.method(conv, made), made) + sums + coefficients
        });
        let work = work.max().unwrap_or(0).max(small);
        let enlarged = if upsample.is_some() { values(input) } else { 0 };
        let another = shortcut.is_some() || !(*own || upsample.is_some());
        let whole = enlarged + values(out) * (1 + usize::from(another)) + work;
        if !(same && fits) || whole as u64 <= available {
            return None;
        }
        let lazily = shortcut.is_some()
            && upsample.as_ref().is_some_and(|conv| self.method(conv, input).is_small())
            && (enlarged + values(out) + 2 * work) as u64 > available;
        Some(!lazily)
    }

    /// What [`super::residual::small`] takes.
    fn small(&self, block: &BlockSizes, lazily: bool) -> Vec<Event> {
        let mut script = Script::default();
        let upsample = block.upsample.filter(|_| lazily);
        let input = enlarged(block.x, block.upsample.map(|conv| conv.outputs));
        let (out, conv1, conv2) = (input.with_channels(block.conv1.outputs), &block.conv1, &block.conv2);
        let rows = strips::rows(self.strip, input);
        let strip = |shape: Shape| (rows + strips::LAG) * shape.w * shape.c * size_of::<f32>();
        let read = |script: &mut Script, rows: usize| {
            if let Some(conv) = &upsample {
                self.conv_rows(script, conv, input, rows);
            }
        };
        let images = || 0..input.n;
        if let Some(side) = &block.shortcut {
            script.take(values(out));
            if lazily {
                script.take(strip(input));
            }
            script.norm(input, |script| {
                images().for_each(|_| strips::cut(input.h, rows).for_each(|strip| read(script, strip.len())));
            });
            script.take(strips::window(input, rows));
            for _ in images() {
                self.stage(input, rows, |strip, ready| {
                    read(&mut script, strip.len());
                    self.conv_rows(&mut script, conv1, input, ready.len());
                });
            }
            script.give(0);
            script.give(0);
            script.norm(out, |_| ());
            script.take(strips::window(out, rows));
            script.take(strip(out));
            for _ in images() {
                self.stage(out, rows, |_, ready| {
                    read(&mut script, ready.len());
                    self.conv_rows(&mut script, side, input, ready.len());
                    self.conv_rows(&mut script, conv2, out, ready.len());
                });
            }
        } else {
            if !block.own && block.upsample.is_none() {
                script.take(values(input));
            }
            script.norm(input, |_| ());
            script.take(strips::window(input, rows));
            script.take(strip(out));
            script.norm(out, |script| {
                for _ in images() {
                    self.stage(input, rows, |_, ready| self.conv_rows(script, conv1, input, ready.len()));
                }
            });
            script.take(strips::window(out, rows + strips::LAG));
            for _ in images() {
                let mut done = 0;
                self.stage(input, rows, |_, ready| {
                    self.conv_rows(&mut script, conv1, input, ready.len());
                    let ready = strips::ready(input.h, ready.end, done);
                    done = ready.end;
                    self.conv_rows(&mut script, conv2, out, ready.len());
                });
            }
        }
        script.0
    }
}

impl ConvSize {
    /// A linear layer's.
    pub(super) fn linear(weight: &Packed) -> Self {
        let &Packed { k: inputs, n: outputs, values, .. } = weight;
        Self { inputs, outputs, kernel: [1, 1], geometry: ConvGeometry::same(1), values }
    }
}

impl Sizes {
    fn values(&self, layer: &Layer) -> Values {
        let direct = layer.geometry.is_none_or(|geometry| is_always_direct(layer.kernel, geometry));
        Values::new(layer.format, self.bf16 && direct, layer.inputs, layer.dtype)
    }

    fn size(&self, layer: &Layer) -> ConvSize {
        let (geometry, values) = (layer.geometry.unwrap_or(ConvGeometry::same(1)), self.values(layer));
        ConvSize { inputs: layer.inputs, outputs: layer.outputs, kernel: layer.kernel, geometry, values }
    }
}

impl Model for Sizes {
    fn value(&self) -> usize {
        size_of::<f32>()
    }

    fn alignment(&self) -> usize {
        1
    }

    /// Panels, bias, zeros and scales, as `Packed::new`.
    fn layer(&self, layer: &Layer) -> Vec<usize> {
        let values = self.values(layer);
        let taps = layer.kernel[0] * layer.kernel[1];
        let padded = self.kernels.padded(layer.outputs);
        let panels = values.panels_len(self.kernels, layer.outputs, layer.inputs, taps);
        let scales = self.kernels.inner.filter(|_| values.can_be_scaled()).map(|_| 2 * padded * 4);
        [panels, layer.outputs * 4, layer.inputs * 4].into_iter().chain(scales).collect()
    }

    fn table(&self, len: usize, dtype: DType) -> usize {
        len * dtype.size()
    }

    fn product(&self, product: &Product<'_>) -> Work {
        let (layer, out) = (product.layer, product.out);
        let scratch = if product.gated {
            let size = (layer.inputs, [1, 1], ConvGeometry::same(1));
            self.direct(size, self.values(layer), out, true)
        } else {
            let conv = self.size(layer);
            let method = layer.geometry.map_or(Method::Direct, |_| self.method(&conv, out));
            self.conv(&conv, method, out)
        };
        Work { scratch, workspace: 0 }
    }

    fn norm_conv(&self, x: Shape, layer: &Layer) -> Option<Vec<Event>> {
        let conv = self.size(layer);
        let rows = strips::plan(self.strip, x, conv.kernel, conv.geometry)?;
        let mut script = Script::default();
        script.norm(x, |_| ());
        script.take(strips::window(x, rows));
        for _ in 0..x.n {
            self.stage(x, rows, |_, ready| self.conv_rows(&mut script, &conv, x, ready.len()));
        }
        Some(script.0)
    }

    fn adds_in_place(&self) -> bool {
        true
    }

    fn small_block(&self, block: &Block<'_>, available: Option<u64>) -> Option<SmallBlock> {
        let sizes = BlockSizes {
            x: block.x,
            own: block.own,
            upsample: block.upsample.map(|layer| self.size(layer)),
            conv1: self.size(block.conv1),
            conv2: self.size(block.conv2),
            shortcut: block.shortcut.map(|layer| self.size(layer)),
        };
        let materialise = self.way(&sizes, available)?;
        let keeps_input = sizes.upsample.is_some() && !materialise;
        let events = self.small(&sizes, keeps_input);
        Some(SmallBlock { materialise, events })
    }

    fn moves_chunks(&self) -> bool {
        true
    }

    fn gates_apart(&self, _: &Layer) -> bool {
        false
    }

    fn group_norm(&self, x: Shape, _groups: usize) -> Vec<usize> {
        norm::work(x).to_vec()
    }

    fn attention(&self, q: Shape, keys: usize, heads: usize) -> Vec<usize> {
        let sizes = attention_sizes::Sizes::new(
            self.kernels,
            self.threads,
            q,
            keys,
            heads,
            false,
            (self.strict, self.bf16),
        );
        let [keys, values] = sizes.copy_bytes(q.n);
        vec![keys, values, self.scratch(sizes.floats(), 0)]
    }

    fn indices(&self, _len: usize) -> Option<usize> {
        None
    }

    fn records(&self) -> bool {
        false
    }
}
