//! What the CPU allocates, for [`Shapes`].

use std::sync::Arc;

use super::conv::Method;
use super::kernel::Kernels;
use super::pack::Values;
use super::winograd::Room;
use super::{Cpu, attention, gemm, norm};
use crate::backend::shape::{Layer, Model, Product, Shapes, Work};
use crate::backend::{DType, Shape};

struct Sizes {
    kernels: &'static Kernels,
    threads: usize,
    strict: bool,
}

impl Cpu {
    /// A backend that allocates as this one does, on paper; at most `limit` bytes.
    pub(crate) fn shapes(&self, limit: Option<u64>) -> Shapes {
        let sizes = Sizes { kernels: self.device.kernels, threads: self.concurrency(), strict: self.strict };
        Shapes::new(Arc::new(sizes), limit)
    }
}

impl Sizes {
    /// As [`Cpu::scratch`].
    fn scratch(&self, floats: usize) -> usize {
        super::scratch_stride(floats) * self.threads * size_of::<f32>()
    }
}

impl Model for Sizes {
    fn value(&self) -> usize {
        size_of::<f32>()
    }

    fn alignment(&self) -> usize {
        1
    }

    /// Panels, bias and zeros, as `Packed::new`.
    fn layer(&self, layer: &Layer) -> Vec<usize> {
        let values = Values::new(layer.format, layer.inputs, layer.dtype);
        let taps = layer.kernel[0] * layer.kernel[1];
        let panels = self.kernels.padded(layer.outputs) * taps * values.tap_len(layer.inputs);
        vec![panels, layer.outputs * 4, layer.inputs * 4]
    }

    fn table(&self, len: usize, dtype: DType) -> usize {
        len * dtype.size()
    }

    fn product(&self, product: &Product<'_>) -> Work {
        let (layer, out) = (product.layer, product.out);
        let outputs = self.kernels.padded(layer.outputs);
        let method = layer.geometry.map_or(Method::Direct, |geometry| {
            Method::of(layer.kernel, geometry, (out.h, out.w), layer.inputs, outputs, self.strict)
        });
        let floats = match method.transforms(self.kernels) {
            Some(transforms) => Room::new(self.kernels, transforms, out, layer.inputs, self.threads).floats(),
            None => {
                let taps = layer.kernel[0] * layer.kernel[1];
                gemm::Cut::new(self.kernels, self.threads, out, layer.inputs, taps, product.gated).floats()
            }
        };
        Work { scratch: self.scratch(floats), workspace: 0 }
    }

    fn gates_apart(&self, _: &Layer) -> bool {
        false
    }

    fn group_norm(&self, x: Shape, _groups: usize) -> Vec<usize> {
        norm::work(x).to_vec()
    }

    fn attention(&self, q: Shape, keys: usize, heads: usize) -> Vec<usize> {
        let sizes = attention::Sizes::new(self.kernels, self.threads, q, keys, heads, false);
        let copies = sizes.copy_bytes(q.n).map_or(vec![], |bytes| vec![bytes; 2]);
        [copies, vec![self.scratch(sizes.floats())]].concat()
    }

    fn indices(&self, _len: usize) -> Option<usize> {
        None
    }

    fn records(&self) -> bool {
        false
    }
}
