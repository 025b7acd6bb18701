#![allow(clippy::unwrap_used)]

use half::f16;

use super::*;
use crate::backend::cases::random;
use crate::backend::cuda::Options;
use crate::backend::cuda::stand_in::{Gpu, StandIn};
use crate::backend::reference::{HostTensor, Reference};
use crate::backend::{Activation, Backend, DType, Shape, Tensor, Weight};
use crate::testing::relative_l2;
use crate::util::error::Status;

const PRECISIONS: [(Precision, DType, f64); 3] = [
    (Precision::F16, DType::F16, 2.0 / 2048.0),
    (Precision::Bf16, DType::Bf16, 2.0 / 256.0),
    (Precision::F32, DType::F32, 2e-6),
];

fn gpu(precision: Precision) -> Cuda {
    Cuda::new(&Options { precision, ..Options::default() }).unwrap()
}

/// A layer with all that an epilogue may have, for any backend.
struct Layer {
    x: Shape,
    outputs: usize,
    /// The bytes of weight and bias, f16 so that every precision but bf16 has them as they are.
    weight: Vec<u8>,
    bias: Vec<u8>,
}

impl Layer {
    fn new(x: Shape, outputs: usize) -> Self {
        let bytes = |len, seed| -> Vec<u8> {
            random(len, seed).into_iter().flat_map(|x| f16::from_f32(x * 0.25).to_le_bytes()).collect()
        };
        Self { x, outputs, weight: bytes(outputs * x.c, 1), bias: bytes(outputs, 2) }
    }

    fn weight(&self) -> Weight<'_> {
        // The shapes live as long as the test.
        let shape = Box::leak(Box::new([self.outputs, self.x.c]));
        Weight { dtype: DType::F16, shape, bytes: &self.weight }
    }

    fn bias(&self) -> Weight<'_> {
        let shape = Box::leak(Box::new([self.outputs]));
        Weight { dtype: DType::F16, shape, bytes: &self.bias }
    }

    fn upload<B: Backend>(&self, b: &B, shape: Shape, seed: u64) -> B::Tensor {
        b.upload(shape, &random(shape.len(), seed)).unwrap()
    }

    fn input<B: Backend>(&self, b: &B) -> B::Tensor {
        self.upload(b, self.x, 3)
    }

    fn residual<B: Backend>(&self, b: &B) -> B::Tensor {
        self.upload(b, self.x.with_channels(self.outputs), 4)
    }

    fn channel_bias<B: Backend>(&self, b: &B) -> B::Tensor {
        self.upload(b, Shape::vector(self.x.n, self.outputs), 5)
    }

    fn expected(&self, dtype: DType, epilogue: Epilogue<'_, HostTensor>) -> Vec<f32> {
        let reference = Reference::with_inputs(dtype);
        let linear = reference.prepare_linear(self.weight(), Some(self.bias())).unwrap();
        reference.linear(&self.input(&reference), &linear, epilogue).unwrap().values
    }
}

fn values<B: Backend>(b: &B, x: &B::Tensor) -> Vec<f32> {
    let mut values = vec![0.0; x.shape().len()];
    b.download(x, &mut values).unwrap();
    values
}

/// Rows, columns and depths that fill no tile, with all splits that their depth has steps for and some more.
#[test]
fn every_tile_and_split_multiplies() {
    let Some(_turn) = Gpu::take() else { return };
    for (precision, dtype, bound) in &PRECISIONS[..2] {
        for (x, outputs) in [(Shape::tokens(2, 75, 104), 168), (Shape::tokens(3, 1, 72), 5)] {
            let layer = Layer::new(x, outputs);
            let reference = Reference::with_inputs(*dtype);
            let (residual, vector) = (layer.residual(&reference), layer.channel_bias(&reference));
            let epilogue = Epilogue {
                activation: Some(Activation::Gelu),
                channel_bias: Some(&vector),
                residual: Some(&residual),
            };
            let expected = layer.expected(*dtype, epilogue);
            let cuda = gpu(*precision);
            let weight = cuda.prepare_linear(layer.weight(), Some(layer.bias())).unwrap();
            let (x, residual) = (layer.input(&cuda), layer.residual(&cuda));
            let vector = layer.channel_bias(&cuda);
            let epilogue = Epilogue {
                activation: Some(Activation::Gelu),
                channel_bias: Some(&vector),
                residual: Some(&residual),
            };
            for tile in GEMM {
                for splits in [1, 2, 3, 5] {
                    let out = cuda.tensor(residual.shape(), "linear").unwrap();
                    let finish = Finish::new(&weight, &epilogue, &out);
                    gemm(&cuda, "linear", &x, &weight, &finish, &out, Choice { tile, splits }).unwrap();
                    let error = relative_l2(&values(&cuda, &out), &expected);
                    assert!(error < *bound, "{} × {splits} in {precision:?}: {error:e}", tile.name);
                }
            }
        }
    }
}

#[test]
fn every_tile_has_geglu() {
    let Some(_turn) = Gpu::take() else { return };
    let layer = Layer::new(Shape::tokens(1, 131, 40), 336);
    let reference = Reference::with_inputs(DType::F16);
    let plain = reference.prepare_geglu(layer.weight(), Some(layer.bias())).unwrap();
    let expected = reference.linear_geglu(&layer.input(&reference), &plain).unwrap().values;
    let cuda = gpu(Precision::F16);
    let x = layer.input(&cuda);
    let expect = |out: &CudaTensor| {
        let error = relative_l2(&values(&cuda, out), &expected);
        assert!(error < 2.0 / 2048.0, "{error:e}");
    };
    let weight = cuda.prepare_geglu(layer.weight(), Some(layer.bias())).unwrap();
    assert!(weight.interleaved);
    for tile in GEGLU {
        let out = cuda.tensor(x.shape().with_channels(168), "linear_geglu").unwrap();
        geglu(&cuda, &x, &weight, &out, Choice { tile, splits: 1 }).unwrap();
        expect(&out);
    }
    let error = cuda.linear(&x, &weight, Epilogue::default()).err().unwrap();
    assert_eq!(error.status(), Status::Internal);
    // A weight that was not prepared for it, in two steps.
    let weight = cuda.prepare_linear(layer.weight(), Some(layer.bias())).unwrap();
    expect(&cuda.linear_geglu(&x, &weight).unwrap());
}

/// cuBLASLt, and our kernels where it would find nothing, with and without bias and residual.
#[test]
fn our_kernels_serve_what_cublaslt_does() {
    let Some(device) = Gpu::take() else { return };
    for (precision, dtype, bound) in PRECISIONS {
        let cuda = gpu(precision);
        for (x, outputs) in [(Shape::tokens(2, 37, 24), 20), (Shape::vector(1, 320), 64)] {
            let layer = Layer::new(x, outputs);
            let reference = Reference::with_inputs(dtype);
            let (residual, x) = (layer.residual(&cuda), layer.input(&cuda));
            for (has_bias, has_residual) in [(false, false), (true, false), (false, true), (true, true)] {
                let bias = has_bias.then(|| layer.bias());
                let plain = reference.prepare_linear(layer.weight(), bias).unwrap();
                let added = layer.residual(&reference);
                let epilogue = Epilogue { residual: has_residual.then_some(&added), ..Epilogue::default() };
                let expected = reference.linear(&layer.input(&reference), &plain, epilogue).unwrap().values;

                let weight = cuda.prepare_linear(layer.weight(), bias).unwrap();
                let epilogue =
                    || Epilogue { residual: has_residual.then_some(&residual), ..Epilogue::default() };
                let multiplied = device.get("matmuls").map(|n| n + 1);
                let y = values(&cuda, &cuda.linear(&x, &weight, epilogue()).unwrap());
                assert_eq!(device.get("matmuls"), multiplied);
                let out = cuda.tensor(residual.shape(), "linear").unwrap();
                own(&cuda, "linear", &x, &weight, &epilogue(), &out).unwrap();
                let ours = values(&cuda, &out);
                assert_eq!(device.get("matmuls"), multiplied);
                for y in [y, ours] {
                    let error = relative_l2(&y, &expected);
                    assert!(error < bound, "{precision:?}, {has_bias}, {has_residual}: {error:e}");
                }
            }
        }
    }
}

#[test]
fn an_algorithm_is_searched_for_once() {
    let Some(stand_in) = StandIn::take() else { return };
    let cuda = gpu(Precision::F16);
    let layer = Layer::new(Shape::tokens(1, 8, 16), 24);
    let [first, second] = [1, 2].map(|_| cuda.prepare_linear(layer.weight(), Some(layer.bias())).unwrap());
    let plain = cuda.prepare_linear(layer.weight(), None).unwrap();
    let searched = || stand_in.get("heuristics");
    let run = |cuda: &Cuda, x: &CudaTensor, weight| {
        values(cuda, &cuda.linear(x, weight, Epilogue::default()).unwrap())
    };
    let x = layer.input(&cuda);
    let y = run(&cuda, &x, &first);
    assert_eq!(searched(), 1);
    // Another weight, another session.
    let session = cuda.session().unwrap();
    let allocations = stand_in.get("allocations");
    assert!(run(&cuda, &x, &second) == y);
    assert_eq!(stand_in.get("allocations"), allocations);
    assert!(run(&session, &layer.input(&session), &first) == y);
    assert_eq!(searched(), 1);
    run(&cuda, &x, &plain);
    assert_eq!(searched(), 2);
    // A view that starts 16 bytes on.
    let view = cuda.view(&layer.upload(&cuda, Shape::tokens(1, 9, 16), 3), 8, x.shape()).unwrap();
    for _ in 0..2 {
        let y = run(&cuda, &view, &first);
        assert_eq!(searched(), 3);
        let shifted = random(9 * 16, 3);
        let x = cuda.upload(x.shape(), &shifted[8..][..8 * 16]).unwrap();
        assert!(run(&cuda, &x, &first) == y);
    }
    assert_eq!(searched(), 3);
}

/// cuBLASLt's failure is the job's, and not the session's.
#[test]
fn a_product_that_fails_is_an_error() {
    let Some(stand_in) = StandIn::take() else { return };
    let cuda = gpu(Precision::F16);
    let layer = Layer::new(Shape::tokens(1, 8, 16), 24);
    let weight = cuda.prepare_linear(layer.weight(), Some(layer.bias())).unwrap();
    let x = layer.input(&cuda);
    // The result has its memory, and the workspace does not get any.
    stand_in.set("fail_allocation", 2);
    let error = cuda.linear(&x, &weight, Epilogue::default()).err().unwrap();
    assert_eq!(error.status(), Status::DeviceOutOfMemory);
    assert!(error.message().starts_with("cuBLASLt's workspace needs 8 MiB"), "{error}");
    let expected = values(&cuda, &cuda.linear(&x, &weight, Epilogue::default()).unwrap());
    stand_in.set("fail_launch", 1);
    let error = cuda.linear(&x, &weight, Epilogue::default()).err().unwrap();
    assert_eq!(error.status(), Status::Device);
    assert!(error.message().starts_with("linear: CUBLAS_STATUS_EXECUTION_FAILED"), "{error}");
    assert!(values(&cuda, &cuda.linear(&x, &weight, Epilogue::default()).unwrap()) == expected);
    stand_in.set("fault_kernel", 1);
    let y = cuda.linear(&x, &weight, Epilogue::default()).unwrap();
    let lost = cuda.download(&y, &mut vec![0.0; y.shape().len()]).err().unwrap();
    assert_eq!(lost.status(), Status::DeviceLost);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let Some(device) = Gpu::take() else { return };
    let cuda = gpu(Precision::F16);
    let shape = Shape::tokens(2, 3, 16);
    let layer = Layer::new(shape, 24);
    let weight = cuda.prepare_linear(layer.weight(), None).unwrap();
    let x = layer.input(&cuda);
    let wrong = cuda.upload(Shape::vector(2, 16), &[0.0; 32]).unwrap();
    let status = |result: Result<CudaTensor>| result.err().unwrap().status();
    let narrow = cuda.upload(Shape::vector(1, 8), &[0.0; 8]).unwrap();
    assert_eq!(status(cuda.linear(&narrow, &weight, Epilogue::default())), Status::Internal);
    assert_eq!(status(cuda.linear(&x, &weight, Epilogue::residual(&x))), Status::Internal);
    assert_eq!(status(cuda.linear(&x, &weight, Epilogue::channel_bias(&wrong))), Status::Internal);
    assert!(cuda.prepare_linear(layer.weight(), Some(layer.weight())).is_err());
    let large: Vec<u8> = [1.0f32, -70000.0].into_iter().flat_map(f32::to_le_bytes).collect();
    let too_large = Weight { dtype: DType::F32, shape: &[1, 2], bytes: &large };
    let error = cuda.prepare_linear(too_large, None).err().unwrap();
    assert_eq!((error.status(), error.message()), (Status::Numeric, "-7e4 is more than f16 can hold"));
    assert!(gpu(Precision::Bf16).prepare_linear(too_large, None).is_ok());

    let launches = device.get("launches");
    let geglu = cuda.prepare_geglu(layer.weight(), None).unwrap();
    let both = Layer::new(shape, 32);
    let joined = cuda.prepare_geglu(both.weight(), None).unwrap();
    let empty = cuda.upload(Shape::tokens(0, 3, 16), &[]).unwrap();
    assert!(cuda.linear(&empty, &weight, Epilogue::default()).unwrap().shape().is_empty());
    assert!(cuda.linear_geglu(&empty, &geglu).unwrap().shape().is_empty());
    assert!(cuda.linear_geglu(&empty, &joined).unwrap().shape().is_empty());
    assert_eq!((device.get("launches"), device.get("matmuls").unwrap_or(0)), (launches, 0));
}
