//! Convolutions: which algorithm computes which.

use super::gemm::{self, Finish, Rows};
use super::pack::Packed;
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

impl CpuConv2d {
    /// The fastest method for an image of `height` × `width`: for each image alone, so that its result does not depend on
    /// the batch.
    pub(super) fn method(&self, height: usize, width: usize, strict: bool) -> Method {
        let ConvGeometry { stride, padding, upsample } = self.geometry;
        if self.kernel != [3, 3] || stride != 1 || padding != [1; 4] {
            return Method::Direct;
        }
        if upsample && height.is_multiple_of(2) && width.is_multiple_of(2) {
            return if strict { Method::Phases } else { Method::Enlarged };
        }
        if strict {
            return Method::Direct;
        }
        Method::Winograd4
    }
}

/// Convolves `x` to `output` (height, width), whose size the caller has checked.
pub(super) fn run(
    cpu: &Cpu,
    operation: &str,
    x: &CpuTensor,
    weight: &CpuConv2d,
    output: (usize, usize),
    epilogue: &Epilogue<'_, CpuTensor>,
) -> Result<CpuTensor> {
    if x.shape.c != weight.packed.k {
        bail!(Internal, "{operation}: {} for {} input channels", x.shape, weight.packed.k);
    }
    let shape = Shape::image(x.shape.n, output.0, output.1, weight.packed.n);
    let finish = finish(operation, shape, epilogue)?;
    let mut out = cpu.tensor(shape, operation)?;
    let method = weight.method(shape.h, shape.w, cpu.strict);
    run_method(cpu, method, x, weight, &finish, &mut out)?;
    Ok(out)
}

/// Convolves by `method`, which fits the weight and the sizes.
pub(super) fn run_method(
    cpu: &Cpu,
    method: Method,
    x: &CpuTensor,
    weight: &CpuConv2d,
    finish: &Finish<'_>,
    out: &mut CpuTensor,
) -> Result<()> {
    let packed = &weight.packed;
    let all = &cpu.device.kernels.transforms;
    let (transforms, small) = match method {
        Method::Direct => {
            let rows = Rows {
                x: x.values(),
                zeros: packed.zeros(),
                input: x.shape,
                output: out.shape,
                kernel: weight.kernel,
                geometry: weight.geometry,
            };
            return gemm::run(cpu, &rows, packed, finish, out);
        }
        Method::Winograd4 => (&all.four, false),
        Method::Winograd2 => (&all.two, false),
        Method::Enlarged => (&all.enlarged, true),
        Method::Phases => (&all.phases, true),
    };
    let patches = Patches {
        x: x.values(),
        zeros: packed.zeros(),
        input: x.shape,
        output: out.shape,
        step: if small { transforms.tile / 2 } else { transforms.tile },
        enlarge: weight.geometry.upsample && !small,
    };
    winograd::run(cpu, transforms, &patches, packed, finish, out)
}
