//! Numbers.

use super::*;
use crate::backend::DType;
use crate::backend::cases::{cases, run};
use crate::backend::reference::Reference;
use crate::testing::relative_l2;

const PRECISIONS: [Precision; 3] = [Precision::F16, Precision::Bf16, Precision::F32];

/// What activations are stored as, and how far an operation may be from f64: four roundings.
fn bound(precision: Precision) -> (DType, f64) {
    match precision {
        Precision::F16 => (DType::F16, 4.0 / 2048.0),
        Precision::Bf16 => (DType::Bf16, 4.0 / 256.0),
        Precision::F32 => (DType::F32, 1e-5),
    }
}

#[test]
fn every_operation_is_close_to_f64() {
    let Some(_turn) = Gpu::take() else { return };
    for precision in PRECISIONS {
        let cuda = gpu(precision);
        let (inputs, bound) = bound(precision);
        let reference = Reference::with_inputs(inputs);
        for case in cases() {
            let expected = run(&reference, case, 0..2).unwrap();
            let error = relative_l2(&run(&cuda, case, 0..2).unwrap(), &expected);
            assert!(error < bound, "{case:?} in {precision:?}: relative error {error:e}");
        }
    }
}

/// A cuBLASLt that is older than the GPU may refuse what its heuristic offers. Our kernels multiply in its place, and it is
/// not asked again.
#[test]
fn products_that_cublaslt_refuses_are_ours() {
    let Some(stand_in) = StandIn::take() else { return };
    let reference = Reference::with_inputs(bound(Precision::F16).0);
    let mut refused = 0;
    for case in cases() {
        let cuda = gpu(Precision::F16);
        stand_in.set("refuse_product", 1);
        let first = run(&cuda, case, 0..2).unwrap();
        if stand_in.get("refuse_product") == 0 {
            refused += 1;
            let products = stand_in.get("matmuls");
            assert!(run(&cuda, case, 0..2).unwrap() == first, "{case:?} again");
            assert_eq!(stand_in.get("matmuls"), products, "{case:?}");
            let error = relative_l2(&first, &run(&reference, case, 0..2).unwrap());
            assert!(error < bound(Precision::F16).1, "{case:?}: relative error {error:e}");
        }
        stand_in.set("refuse_product", 0);
    }
    assert!(refused > 1);
}

/// The same bits in every run, eager or deferred, and for each image whatever is beside it.
#[test]
fn results_depend_neither_on_time_nor_on_the_batch() {
    let Some(device) = Gpu::take() else { return };
    for precision in [Precision::F16, Precision::F32] {
        // One engine: making a context takes a card some tenths of a second.
        let cuda = gpu(precision);
        for case in cases() {
            let batch = run(&cuda, case, 0..3).unwrap();
            device.set("eager", 1);
            assert!(run(&cuda, case, 0..3).unwrap() == batch, "{case:?} in {precision:?} again");
            device.set("eager", 0);
            for (i, image) in batch.chunks_exact(batch.len() / 3).enumerate() {
                let alone = run(&cuda, case, i..i + 1).unwrap();
                let same = if device.is_card() {
                    // cuBLASLt's choice of kernel is its own.
                    relative_l2(&alone, image) < bound(precision).1
                } else {
                    alone == image
                };
                assert!(same, "{case:?} in {precision:?}, image {i} alone");
            }
        }
    }
}

#[test]
fn tensors_without_values_are_nothing_to_do() {
    let Some(device) = Gpu::take() else { return };
    let cuda = gpu(Precision::F16);
    let empty = cuda.upload(Shape::image(0, 3, 3, 8), &[]).unwrap();
    let thin = cuda.upload(Shape::image(2, 3, 3, 0), &[]).unwrap();
    let wide = cuda.upload(Shape::image(2, 3, 3, 8), &[1.0; 144]).unwrap();
    for y in [
        cuda.add(&empty, &empty),
        cuda.activation(&empty, Activation::Silu),
        cuda.attention(&empty, &empty, &empty, 2, false),
        cuda.splice_images(&empty, &empty, 0),
        cuda.select_tokens(&empty, &[]),
        cuda.view(&wide, 144, Shape::vector(0, 8)),
        cuda.view(&wide, 3, Shape::vector(0, 8)),
    ] {
        let y = y.unwrap();
        assert!(y.shape().is_empty());
        cuda.download(&y, &mut []).unwrap();
    }
    assert_eq!(device.get("launches").unwrap_or(0), 0);
    let both = cuda.concat_channels(&thin, &wide).unwrap();
    assert_eq!(values_of(&cuda, &both), [1.0; 144]);
}

/// Wherever a view starts, operations read its values; most starts are no multiple of 16 bytes.
#[test]
fn a_view_may_start_anywhere() {
    let Some(_turn) = Gpu::take() else { return };
    for precision in PRECISIONS {
        let cuda = gpu(precision);
        let shape = Shape::image(2, 3, 5, 7);
        let all = values(shape);
        let x = cuda.upload(shape, &all).unwrap();
        let inner = Shape::image(1, 2, 5, 7);
        for offset in [0, 1, 8, 70, shape.len() - inner.len()] {
            let view = cuda.view(&x, offset, inner).unwrap();
            let nested = cuda.view(&view, 4, Shape::vector(1, 3)).unwrap();
            // The stand-in would read from anywhere, a GPU would not.
            assert!([&view, &nested].iter().all(|view| view.pointer().is_multiple_of(16)));
            let sum = cuda.add(&view, &view).unwrap();
            let expected: Vec<f32> = all[offset..][..inner.len()].iter().map(|x| x + x).collect();
            assert_eq!(values_of(&cuda, &sum), expected);
            assert_eq!(values_of(&cuda, &nested), all[offset + 4..][..3]);
        }
        assert_eq!(cuda.view(&x, 1, shape).err().unwrap().status(), Status::Internal);
        assert_eq!(cuda.view(&x, usize::MAX, inner).err().unwrap().status(), Status::Internal);
    }
}

/// More than a piece of the staging memory, so that copies are cut.
#[test]
fn long_copies_come_whole() {
    let Some(_turn) = Gpu::take() else { return };
    let cuda = gpu(Precision::F32);
    let shape = Shape::image(1, 1024, 1024, 9);
    let all: Vec<f32> = (0..shape.len()).map(|i| i as f32).collect();
    let first = cuda.upload(shape, &all).unwrap();
    // Before the first copy is done, perhaps.
    let second = cuda.upload(Shape::vector(1, 3), &[1.0, 2.0, 3.0]).unwrap();
    assert!(values_of(&cuda, &first) == all);
    assert_eq!(values_of(&cuda, &second), [1.0, 2.0, 3.0]);
}

/// Each of several uploads that wait in the stream has its own part of the staging memory.
#[test]
fn uploads_do_not_overwrite_each_other() {
    let Some(_turn) = Gpu::take() else { return };
    let cuda = gpu(Precision::F16);
    let shape = Shape::vector(1, 100_000);
    let tensors: Vec<_> =
        (0..30).map(|i| cuda.upload(shape, &vec![i as f32; shape.len()]).unwrap()).collect();
    for (i, tensor) in tensors.iter().enumerate() {
        assert!(values_of(&cuda, tensor) == vec![i as f32; shape.len()], "upload {i}");
    }
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let Some(_turn) = Gpu::take() else { return };
    let cuda = gpu(Precision::F16);
    let a = cuda.upload(Shape::tokens(1, 2, 3), &[0.0; 6]).unwrap();
    let b = cuda.upload(Shape::tokens(1, 3, 4), &[0.0; 12]).unwrap();
    for result in [
        cuda.add(&a, &b),
        cuda.concat_channels(&a, &b),
        cuda.splice_images(&a, &b, 0),
        cuda.splice_images(&a, &a, 3),
        cuda.attention(&a, &b, &b, 1, false),
        cuda.attention(&a, &a, &a, 2, false),
        cuda.attention(&a, &a, &a, 0, false),
        cuda.select_tokens(&a, &[2]),
        cuda.upload(Shape::vector(1, 3), &[0.0; 2]),
    ] {
        assert_eq!(result.err().unwrap().status(), Status::Internal);
    }
    assert_eq!(cuda.download(&a, &mut [0.0; 5]).err().unwrap().status(), Status::Internal);
    let huge = cuda.tensor(Shape::image(1 << 20, 1 << 20, 1 << 20, 1 << 20), "conv2d");
    assert_eq!(huge.err().unwrap().status(), Status::DeviceOutOfMemory);
}

/// What kernels count in 32 bits they must not be given more of. The tensors have a shape and no memory to speak of.
#[test]
fn sizes_beyond_a_kernel_are_errors() {
    let Some(stand_in) = StandIn::take() else { return };
    stand_in.set("memory", 1 << 50);
    let cuda = gpu(Precision::F16);
    let tensor = |shape| CudaTensor { shape, offset: 0, block: Arc::new(cuda.pool.take(16, "x").unwrap()) };
    let wide = tensor(Shape::tokens(1, 8, 168 + 1));
    let error = cuda.attention(&wide, &wide, &wide, 1, false).err().unwrap();
    assert_eq!(error.status(), Status::Unsupported, "{error}");
    let many = tensor(Shape::tokens(70_000, 1, 8));
    let error = cuda.attention(&many, &many, &many, 1, false).err().unwrap();
    assert_eq!(error.status(), Status::Unsupported, "{error}");
    assert_eq!(stand_in.get("launches"), 0);
}
