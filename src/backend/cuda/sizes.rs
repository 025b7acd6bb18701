//! What the CUDA backend allocates, for [`Shapes`].

use std::sync::Arc;

use super::tiles::{CONV, Choice, GATHER, GEMM, STEP, Size};
use super::{Cuda, Precision, matmul, norm, weights};
use crate::backend::shape::{Layer, Model, Product, Shapes, Work};
use crate::backend::{ConvGeometry, DType, Shape};

struct Sizes {
    precision: Precision,
    multiprocessors: u32,
    workspace: usize,
}

impl Cuda {
    /// A backend that allocates as this one does, on paper; at most `limit` bytes.
    pub(crate) fn shapes(&self, limit: Option<u64>) -> Shapes {
        let device = &self.device;
        let sizes = Sizes {
            precision: device.precision,
            multiprocessors: device.multiprocessors,
            workspace: matmul::workspace_bytes(device),
        };
        Shapes::new(Arc::new(sizes), limit)
    }
}

impl Sizes {
    fn interleaved(&self, layer: &Layer) -> bool {
        layer.geglu && weights::interleaves(self.precision, layer.outputs, layer.inputs)
    }

    /// Whether cuBLASLt multiplies, if it has an algorithm, as `linear::product` asks.
    fn blas(&self, product: &Product<'_>) -> bool {
        let aligned = self.precision == Precision::F32 || product.layer.inputs.is_multiple_of(8);
        is_linear(product.layer) && product.plain && aligned
    }
}

/// Whether it runs as a linear layer.
fn is_linear(layer: &Layer) -> bool {
    layer.geometry.is_none_or(|geometry| layer.kernel == [1, 1] && geometry == ConvGeometry::same(1))
}

impl Model for Sizes {
    fn value(&self) -> usize {
        self.precision.size()
    }

    fn alignment(&self) -> usize {
        16
    }

    fn layer(&self, layer: &Layer) -> Vec<usize> {
        let mut sizes = vec![layer.outputs * layer.depth() * self.precision.size()];
        if layer.bias {
            sizes.push(layer.outputs * 4);
            if self.precision != Precision::F32 && !self.interleaved(layer) {
                sizes.push(layer.outputs * self.precision.size());
            }
        }
        sizes
    }

    fn table(&self, len: usize, _: DType) -> usize {
        len * self.precision.size()
    }

    /// As `linear::own` and `conv::run` choose.
    fn product(&self, product: &Product<'_>) -> Work {
        let (layer, out) = (product.layer, product.out);
        if product.gated {
            return Work::default();
        }
        if self.blas(product) {
            return Work { scratch: 0, workspace: self.workspace };
        }
        if self.precision == Precision::F32 {
            return Work::default();
        }
        let taps = layer.kernel[0] * layer.kernel[1];
        let (tiles, steps) = match (layer.inputs.is_multiple_of(8), taps) {
            (true, _) if is_linear(layer) => (GEMM, layer.inputs.div_ceil(STEP)),
            (true, _) => (CONV, taps * layer.inputs.div_ceil(STEP)),
            (false, _) => (GATHER, layer.depth().div_ceil(STEP)),
        };
        let size = Size { images: out.n, rows: out.pixels(), columns: out.c, steps };
        let splits = Choice::new(tiles, size, true, self.multiprocessors).splits;
        let scratch = if splits == 1 { 0 } else { splits * out.len() * size_of::<f32>() };
        Work { scratch, workspace: 0 }
    }

    fn gates_apart(&self, layer: &Layer) -> bool {
        !self.interleaved(layer)
    }

    fn group_norm(&self, x: Shape, groups: usize) -> Vec<usize> {
        vec![norm::moments(x, groups)]
    }

    fn attention(&self, _q: Shape, _keys: usize, _heads: usize) -> Vec<usize> {
        Vec::new()
    }

    fn indices(&self, len: usize) -> Option<usize> {
        Some(len * 4)
    }

    fn records(&self) -> bool {
        true
    }
}
