//! Convolutions: which algorithm computes which.

use super::finish::Finish;
use super::gemm::{self, Rows};
use super::kernel::Kernels;
use super::pack::{Packed, Target, Values};
use super::transform::Transforms;
use super::winograd::{self, Patches};
use super::{Cpu, CpuTensor, finish};
use crate::backend::{ConvGeometry, Epilogue, Shape};
use crate::util::error::{Result, bail};

/// A packed convolution.
pub struct CpuConv2d {
    pub(super) packed: Packed,
    pub(super) kernel: [usize; 2],
    pub(super) geometry: ConvGeometry,
}

/// How a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// As the definition says.
    Direct,
    /// Winograd's F(4×4, 3×3).
    Winograd4,
    /// Winograd's F(2×2, 3×3).
    Winograd2,
    /// F(4×4, 3×3) of the enlarged image, from the small one.
    Enlarged,
    /// Four convolutions of 2×2 on the small image.
    Phases,
}

/// What a method takes, in the time of one multiply-add for each pair of an input and an output channel: so much for each
/// tile, with what a tile's transforms add divided by the number of channels that they are not done for, and so much for
/// the filters, whatever the size.
struct Cost {
    /// Side of a tile.
    side: usize,
    tile: f64,
    /// Of the transform of a patch, divided by the output channels.
    data: f64,
    /// Of the transform of the sums, divided by the input channels.
    output: f64,
    filter: f64,
}

/// The choice table: fitted to benches/results/2026-11-25-winograd.md, 14 sizes of image and 13 pairs of channels on one
/// thread. One of each line of images: 64×64 and 320 channels take F(4×4) 3.1 times less time than the direct method, 5×5
/// take F(2×2) 1.2 times less, and 3×3 or 1×64 are best left to the direct method.
const COSTS: [(Method, Cost); 3] = [
    (Method::Direct, Cost { side: 1, tile: 9.0, data: 0.0, output: 0.0, filter: 22.0 }),
    (Method::Winograd2, Cost { side: 2, tile: 18.0, data: 90.0, output: 120.0, filter: 60.0 }),
    (Method::Winograd4, Cost { side: 4, tile: 40.0, data: 300.0, output: 440.0, filter: 165.0 }),
];

/// The fastest method for `height` × `width` pixels of one image, `inputs` channels and `outputs` columns of panels.
fn fastest(height: usize, width: usize, inputs: usize, outputs: usize) -> Method {
    let time = |cost: &Cost| {
        let tiles = height.div_ceil(cost.side) * width.div_ceil(cost.side);
        let tile = cost.tile + cost.data / outputs as f64 + cost.output / inputs as f64;
        tiles as f64 * tile + cost.filter
    };
    let costs = COSTS.iter().map(|(method, cost)| (*method, time(cost)));
    costs.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(Method::Direct, |(method, _)| method)
}

/// Whether there is only the direct method, whatever the size of the image.
pub(super) fn is_always_direct(kernel: [usize; 2], geometry: ConvGeometry) -> bool {
    kernel != [3, 3] || geometry.stride != 1 || geometry.padding != [1; 4]
}

impl Method {
    /// The fastest for an output of `height` × `width` from `inputs` channels to `outputs` columns of panels, `strict` or
    /// not. It is chosen for one image, whatever the batch, so that an image's result does not depend on the others.
    pub(super) fn of(
        kernel: [usize; 2],
        geometry: ConvGeometry,
        (height, width): (usize, usize),
        inputs: usize,
        outputs: usize,
        strict: bool,
    ) -> Self {
        if is_always_direct(kernel, geometry) {
            return Self::Direct;
        }
        let upsample = geometry.upsample;
        // At an odd size the last pixel of the enlarged image is there once, not twice.
        let whole = upsample && height.is_multiple_of(2) && width.is_multiple_of(2);
        match (whole, strict) {
            (true, true) => Self::Phases,
            (true, false) => Self::Enlarged,
            (false, true) => Self::Direct,
            (false, false) => fastest(height, width, inputs, outputs),
        }
    }

    /// Whether it enlarges by computing on the small image.
    pub(super) fn is_small(self) -> bool {
        matches!(self, Self::Enlarged | Self::Phases)
    }

    /// Its transforms, if it has any.
    pub(super) fn transforms(self, kernels: &Kernels) -> Option<&Transforms> {
        let all = &kernels.transforms;
        match self {
            Self::Direct => None,
            Self::Winograd4 => Some(&all.four),
            Self::Winograd2 => Some(&all.two),
            Self::Enlarged => Some(&all.enlarged),
            Self::Phases => Some(&all.phases),
        }
    }
}

/// The size of a convolution.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConvSize {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) kernel: [usize; 2],
    pub(super) geometry: ConvGeometry,
    /// What the weight is packed as.
    pub(super) values: Values,
}

impl CpuConv2d {
    pub(super) fn size(&self) -> ConvSize {
        let Packed { k: inputs, n: outputs, values, .. } = self.packed;
        ConvSize { inputs, outputs, kernel: self.kernel, geometry: self.geometry, values }
    }

    /// [`Method::of`] for an output of this size.
    pub(super) fn method(&self, kernels: &Kernels, height: usize, width: usize, strict: bool) -> Method {
        let outputs = kernels.padded(self.packed.n);
        Method::of(self.kernel, self.geometry, (height, width), self.packed.k, outputs, strict)
    }
}

/// What a convolution reads.
pub(super) struct Source<'a> {
    pub(super) x: &'a [f32],
    pub(super) shape: Shape,
    /// Rows of `x` above the first of the output: 0 for all of an image. In one that is enlarged, rows before that.
    pub(super) above: usize,
}

impl<'a> Source<'a> {
    pub(super) fn whole(x: &'a CpuTensor) -> Self {
        Self { x: x.values(), shape: x.shape, above: 0 }
    }
}

/// The shape of what a convolution that does not enlarge makes of `x`.
pub(super) fn output(operation: &str, x: Shape, weight: &CpuConv2d) -> Result<Shape> {
    let ConvGeometry { stride, padding: [top, left, bottom, right], upsample } = weight.geometry;
    let [height, width] = weight.kernel;
    let (padded_h, padded_w) = (x.h + top + bottom, x.w + left + right);
    if upsample || padded_h < height || padded_w < width {
        bail!(Internal, "{operation}: {height} × {width} over {x} with {:?}", weight.geometry);
    }
    let (h, w) = ((padded_h - height) / stride + 1, (padded_w - width) / stride + 1);
    Ok(Shape::image(x.n, h, w, weight.packed.n))
}

/// Convolves `x` to the shape `output`, which the caller has checked.
pub(super) fn run(
    cpu: &Cpu,
    operation: &str,
    x: &CpuTensor,
    weight: &CpuConv2d,
    output: Shape,
    epilogue: &Epilogue<'_, CpuTensor>,
) -> Result<CpuTensor> {
    if x.shape.c != weight.packed.k {
        bail!(Internal, "{operation}: {} for {} input channels", x.shape, weight.packed.k);
    }
    let finish = finish(operation, output, epilogue)?;
    let mut out = cpu.tensor(output, operation)?;
    let method = weight.method(cpu.device.kernels, output.h, output.w, cpu.strict);
    let target = Target(out.values_mut().as_mut_ptr());
    run_method(cpu, method, &Source::whole(x), weight, output, &finish, target)?;
    Ok(out)
}

/// Convolves by `method`, which fits the weight and the sizes, to where `target` points: room for all of `output`.
pub(super) fn run_method(
    cpu: &Cpu,
    method: Method,
    source: &Source<'_>,
    weight: &CpuConv2d,
    output: Shape,
    finish: &Finish<'_>,
    target: Target<f32>,
) -> Result<()> {
    let packed = &weight.packed;
    let &Source { x, shape: input, above } = source;
    let Some(transforms) = method.transforms(cpu.device.kernels) else {
        let mut geometry = weight.geometry;
        geometry.padding[0] -= above;
        let rows = Rows { x, zeros: packed.zeros(), input, output, kernel: weight.kernel, geometry };
        return gemm::run(cpu, &rows, packed, finish, target);
    };
    let small = method.is_small();
    let patches = Patches {
        x,
        zeros: packed.zeros(),
        input,
        output,
        step: if small { transforms.tile / 2 } else { transforms.tile },
        above,
        enlarge: weight.geometry.upsample && !small,
    };
    winograd::run(cpu, transforms, &patches, packed, finish, target)
}
