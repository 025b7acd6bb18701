#![allow(clippy::unwrap_used)]

use super::*;
use crate::backend::cases::{random, weight_bytes};
use crate::backend::cuda::Options;
use crate::backend::cuda::stand_in::Gpu;
use crate::backend::reference::Reference;
use crate::backend::{Activation, Backend, DType, Tensor, Weight};
use crate::testing::relative_l2;
use crate::util::error::Status;

const SAME: ConvGeometry = ConvGeometry::same(3);

fn gpu(precision: Precision) -> Cuda {
    Cuda::new(&Options { precision, ..Options::default() }).unwrap()
}

fn upload<B: Backend>(b: &B, shape: Shape, seed: u64) -> B::Tensor {
    b.upload(shape, &random(shape.len(), seed)).unwrap()
}

fn values<B: Backend>(b: &B, x: &B::Tensor) -> Vec<f32> {
    let mut values = vec![0.0; x.shape().len()];
    b.download(x, &mut values).unwrap();
    values
}

fn prepare<B: Backend>(b: &B, shape: [usize; 4], geometry: ConvGeometry) -> B::Conv2d {
    let (weight, bias) = (weight_bytes(&shape, DType::F32, 1), weight_bytes(&shape[..1], DType::F32, 2));
    let part = |bytes, shape| Weight { dtype: DType::F32, shape, bytes };
    b.prepare_conv2d(part(&weight, &shape), Some(part(&bias, &shape[..1])), geometry).unwrap()
}

/// With strides, odd sides, a whole epilogue, and splits whose borders lie between taps and within one.
#[test]
fn every_tile_and_split_convolves() {
    let Some(_turn) = Gpu::take() else { return };
    let down = ConvGeometry { stride: 2, padding: [0, 1, 1, 0], upsample: false };
    let precisions =
        [(Precision::F16, DType::F16, 2.0 / 2048.0), (Precision::Bf16, DType::Bf16, 2.0 / 256.0)];
    for (precision, dtype, bound) in precisions {
        for (x, outputs, geometry) in [
            (Shape::image(2, 9, 8, 40), 168, SAME),
            (Shape::image(1, 7, 10, 16), 12, down),
            (Shape::image(2, 6, 5, 11), 70, SAME),
        ] {
            let weight = [outputs, x.c, 3, 3];
            let reference = Reference::with_inputs(dtype);
            let plain = prepare(&reference, weight, geometry);
            let y = reference.conv2d(&upload(&reference, x, 3), &plain, Epilogue::default()).unwrap();
            let (out_shape, vector) = (y.shape(), Shape::vector(x.n, outputs));
            let residual = upload(&reference, out_shape, 4);
            let channel_bias = upload(&reference, vector, 5);
            let epilogue = Epilogue {
                activation: Some(Activation::Silu),
                channel_bias: Some(&channel_bias),
                residual: Some(&residual),
            };
            let expected = reference.conv2d(&upload(&reference, x, 3), &plain, epilogue).unwrap().values;

            let cuda = gpu(precision);
            let weight = prepare(&cuda, weight, geometry);
            let (x, residual) = (upload(&cuda, x, 3), upload(&cuda, out_shape, 4));
            let channel_bias = upload(&cuda, vector, 5);
            let epilogue = Epilogue {
                activation: Some(Activation::Silu),
                channel_bias: Some(&channel_bias),
                residual: Some(&residual),
            };
            let tiles = if x.shape().c.is_multiple_of(8) { CONV } else { GATHER };
            for tile in tiles {
                for splits in [1, 2, 4] {
                    let sides = [x.shape().h, x.shape().w];
                    let (out, shape) = output(&cuda, "conv2d", &x, sides, &weight).unwrap();
                    let finish = Finish::new(&weight.matrix, &epilogue, &out);
                    let choice = Choice { tile, splits };
                    // SAFETY: `output` compared the shapes.
                    let launched = unsafe {
                        run_on(&cuda, "conv2d", &x, &weight.matrix, &shape, out.shape(), &finish, choice)
                    };
                    launched.unwrap();
                    let error = relative_l2(&values(&cuda, &out), &expected);
                    assert!(error < bound, "{} × {splits} in {precision:?}: {error:e}", tile.name);
                }
            }
        }
    }
}

/// A 1×1 convolution is a linear layer, but not with a stride or a border.
#[test]
fn a_1x1_convolution_is_a_product() {
    let Some(device) = Gpu::take() else { return };
    let (cuda, reference) = (gpu(Precision::F16), Reference::with_inputs(DType::F16));
    let same = ConvGeometry::same(1);
    let geometries = [
        (same, 1),
        (ConvGeometry { stride: 2, ..same }, 0),
        (ConvGeometry { padding: [1, 0, 0, 0], ..same }, 0),
    ];
    for (geometry, products) in geometries {
        let (x, weight) = (Shape::image(2, 5, 4, 16), [24, 16, 1, 1]);
        let plain = prepare(&reference, weight, geometry);
        let expected = reference.conv2d(&upload(&reference, x, 3), &plain, Epilogue::default()).unwrap();
        let before = device.get("matmuls");
        let weight = prepare(&cuda, weight, geometry);
        let y = cuda.conv2d(&upload(&cuda, x, 3), &weight, Epilogue::default()).unwrap();
        assert_eq!(y.shape(), expected.shape());
        let error = relative_l2(&values(&cuda, &y), &expected.values);
        assert!(error < 2.0 / 2048.0, "{error:e}");
        assert_eq!(device.get("matmuls"), before.map(|n| n + products));
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let Some(device) = Gpu::take() else { return };
    for precision in [Precision::F16, Precision::F32] {
        let cuda = gpu(precision);
        let weight = prepare(&cuda, [8, 16, 3, 3], SAME);
        let enlarging = prepare(&cuda, [16, 16, 3, 3], ConvGeometry { upsample: true, ..SAME });
        let x = upload(&cuda, Shape::image(1, 4, 4, 16), 3);
        let narrow = upload(&cuda, Shape::image(1, 4, 4, 8), 3);
        let empty = upload(&cuda, Shape::image(0, 4, 4, 16), 3);
        let status = |result: Result<CudaTensor>| result.err().unwrap().status();
        assert_eq!(status(cuda.conv2d(&narrow, &weight, Epilogue::default())), Status::Internal);
        assert_eq!(status(cuda.conv2d(&x, &enlarging, Epilogue::default())), Status::Internal);
        assert_eq!(status(cuda.conv2d(&x, &weight, Epilogue::residual(&x))), Status::Internal);
        assert_eq!(status(cuda.upsample_conv2d(&x, &weight, 8, 8)), Status::Internal);
        assert_eq!(status(cuda.upsample_conv2d(&x, &enlarging, 9, 8)), Status::Internal);
        let launches = device.get("launches");
        assert!(cuda.conv2d(&empty, &weight, Epilogue::default()).unwrap().shape().is_empty());
        assert!(cuda.upsample_conv2d(&empty, &enlarging, 7, 8).unwrap().shape().is_empty());
        assert_eq!(device.get("launches"), launches);
    }
}

/// Sizes that no test has the memory for.
#[test]
fn sizes_beyond_the_kernels_are_errors() {
    let sizes = |x: Shape, out: Shape, kernel, stride| {
        let geometry = ConvGeometry { stride, ..SAME };
        Sizes { x, enlarged: [x.h, x.w], out, kernel: [kernel, kernel], geometry }.shape("conv2d")
    };
    let small = Shape::image(1, 8, 8, 8);
    assert!(sizes(small, small, 3, 1).is_ok());
    for result in [
        sizes(Shape::image(1, 1 << 16, 1 << 13, 8), small, 3, 1),
        sizes(Shape::image(1 << 32, 8, 8, 8), small, 3, 1),
        sizes(Shape::image(1, 1 << 29, 1, 1), small, 3, 1),
        sizes(small, Shape::image(1, 1 << 28, 1, 1), 3, 2),
        sizes(small, small.with_channels(1 << 32), 3, 1),
        sizes(small, small, 1 << 16, 1),
    ] {
        assert_eq!(result.err().unwrap().status(), Status::Unsupported);
    }
}
