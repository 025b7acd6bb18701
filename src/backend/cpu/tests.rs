//! Every operation on every instruction set against the naive `f64` backend.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use super::*;
use crate::backend::cases::{Case, cases, input, run, weight_bytes};
use crate::backend::reference::Reference;
use crate::testing::relative_l2;
use crate::util::error::Status;

#[test]
fn every_operation_is_close_to_f64() {
    for simd in Simd::available() {
        let cpu = Cpu::with_simd(2, None, simd).unwrap();
        for case in cases() {
            let expected = run(&Reference::default(), case, 0..2).unwrap();
            let error = relative_l2(&run(&cpu, case, 0..2).unwrap(), &expected);
            assert!(error < 1.5e-6, "{case:?} with {simd:?}: relative error {error:e}");
        }
    }
}

#[test]
fn rows_a_page_apart_are_multiplied_like_others() {
    // Several heights of tiles, and several blocks of the sum.
    for (inputs, tokens) in [(1024, 47), (1024, 5), (1040, 47), (2048, 13)] {
        let case = Case::Linear { tokens, inputs, outputs: 72, dtype: DType::F16, epilogue: true };
        let expected = run(&Reference::default(), case, 0..2).unwrap();
        for simd in Simd::available() {
            let cpu = Cpu::with_simd(2, None, simd).unwrap();
            let error = relative_l2(&run(&cpu, case, 0..2).unwrap(), &expected);
            assert!(error < 1.5e-6, "{case:?} with {simd:?}: relative error {error:e}");
        }
    }
}

/// Linear layers that copy their rows, and some that need not.
fn layers_of_aliased_rows<B: Backend>(b: &B) {
    for (tokens, inputs) in [(47, 1024), (4, 1024), (13, 2048), (47, 1040)] {
        let bytes = vec![0; 72 * inputs * 2];
        let weight = Weight { dtype: DType::F16, shape: &[72, inputs], bytes: &bytes };
        let weight = b.prepare_linear(weight, None).unwrap();
        let shape = Shape::tokens(2, tokens, inputs);
        let x = b.upload(shape, &vec![0.5; shape.len()]).unwrap();
        b.linear(&x, &weight, Epilogue::default()).unwrap();
        b.linear_geglu(&x, &weight).unwrap();
    }
}

#[test]
fn what_copies_of_aliased_rows_take_is_predicted() {
    for simd in Simd::available() {
        let cpu = Cpu::with_simd(2, None, simd).unwrap();
        let shapes = cpu.shapes(None);
        layers_of_aliased_rows(&cpu);
        layers_of_aliased_rows(&shapes);
        assert_eq!(shapes.memory_peak(), cpu.memory_peak(), "{simd:?}");
    }
}

#[test]
fn a_large_mean_keeps_the_digits_of_a_norm() {
    let case = Case::GroupNorm { h: 256, w: 128, channels: 8, groups: 2, silu: false, offset: 30.0 };
    let expected = run(&Reference::default(), case, 0..1).unwrap();
    for simd in Simd::available() {
        let error =
            relative_l2(&run(&Cpu::with_simd(1, None, simd).unwrap(), case, 0..1).unwrap(), &expected);
        assert!(error < 5e-6, "{simd:?}: relative error {error:e}");
    }
}

#[test]
fn results_do_not_depend_on_threads_or_batch() {
    for simd in Simd::available() {
        let one = Cpu::with_simd(1, None, simd).unwrap();
        for case in cases() {
            let batch = run(&one, case, 0..3).unwrap();
            for threads in [2, 3] {
                let several = run(&Cpu::with_simd(threads, None, simd).unwrap(), case, 0..3).unwrap();
                assert!(several == batch, "{case:?} with {simd:?} and {threads} threads");
            }
            for (i, image) in batch.chunks_exact(batch.len() / 3).enumerate() {
                assert!(
                    run(&one, case, i..i + 1).unwrap() == image,
                    "{case:?} with {simd:?}, image {i} alone"
                );
            }
        }
    }
}

#[test]
fn a_second_step_allocates_nothing() {
    let cpu = Cpu::new(2, None).unwrap();
    let geometry = ConvGeometry::same(3);
    let shape = [40, 40, 3, 3];
    let bytes = weight_bytes(&shape, DType::F16, 1);
    let conv = cpu
        .prepare_conv2d(Weight { dtype: DType::F16, shape: &shape, bytes: &bytes }, None, geometry)
        .unwrap();
    let step = || {
        let x = input(&cpu, &(0..2), 33, 33, 40, 1);
        let y = cpu.conv2d(&x, &conv, Epilogue::residual(&x)).unwrap();
        let z = cpu.attention(&x, &y, &y, 5, false).unwrap();
        cpu.concat_channels(&y, &z).unwrap();
    };
    step();
    let before = cpu.memory_used();
    step();
    step();
    assert_eq!((cpu.memory_used(), cpu.memory_peak()), (before, before));
}

#[test]
fn the_memory_limit_holds() {
    let cpu = Cpu::new(1, Some(4 << 20)).unwrap();
    let x = cpu.upload(Shape::image(1, 256, 256, 12), &vec![1.0; 256 * 256 * 12]).unwrap();
    let error = cpu.add(&x, &x).err().unwrap();
    assert_eq!(error.status(), Status::OutOfMemory);
    assert_eq!(error.message(), "add needs 3 MiB, 3 of the limit of 4 MiB in use");
}

#[test]
fn values_that_are_not_finite_do_no_harm() {
    for simd in Simd::available() {
        let cpu = Cpu::with_simd(1, None, simd).unwrap();
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38] {
            let x = cpu.upload(Shape::tokens(1, 300, 32), &vec![value; 300 * 32]).unwrap();
            let mut out = vec![0.0; 300 * 32];
            for y in [
                cpu.attention(&x, &x, &x, 1, false),
                cpu.attention(&x, &x, &x, 2, true),
                cpu.activation(&x, Activation::Silu),
                cpu.activation(&x, Activation::Gelu),
            ] {
                cpu.download(&y.unwrap(), &mut out).unwrap();
                assert!(!value.is_nan() || out.iter().all(|y| y.is_nan()), "{simd:?} hides NaN");
            }
        }
    }
}

#[test]
fn cancelling_stops_an_operation_in_the_middle() {
    let cpu = Cpu::new(1, None).unwrap();
    let cancel = Cancel::default();
    let job = cpu.session().unwrap().with_cancel(&cancel);
    let x = job.upload(Shape::tokens(1, 40_000, 64), &vec![0.5; 40_000 * 64]).unwrap();
    let stopped = std::thread::scope(|scope| {
        let worker =
            scope.spawn(|| job.attention(&x, &x, &x, 1, false).err().map(|e| (e.status(), Instant::now())));
        std::thread::sleep(Duration::from_millis(100));
        let asked = Instant::now();
        cancel.cancel();
        let (status, stopped) = worker.join().unwrap().unwrap();
        assert_eq!(status, Status::Cancelled);
        stopped - asked
    });
    assert!(stopped < Duration::from_millis(500), "{stopped:?}");
    assert_eq!(job.select_tokens(&x, &[0]).err().unwrap().status(), Status::Cancelled);
    assert!(cpu.activation(&x, Activation::Silu).is_ok(), "another session goes on");
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let cpu = Cpu::new(1, None).unwrap();
    let a = cpu.upload(Shape::tokens(1, 2, 3), &[0.0; 6]).unwrap();
    let b = cpu.upload(Shape::tokens(1, 3, 4), &[0.0; 12]).unwrap();
    let bytes = [0; 20];
    let weight = |shape| Weight { dtype: DType::F32, shape, bytes: &bytes };
    let linear = cpu.prepare_linear(weight(&[1, 5]), None).unwrap();
    for result in [
        cpu.add(&a, &b),
        cpu.concat_channels(&a, &b),
        cpu.splice_images(&a, &b, 0),
        cpu.splice_images(&a, &a, 3),
        cpu.attention(&a, &b, &b, 1, false),
        cpu.attention(&a, &a, &a, 2, false),
        cpu.linear(&a, &linear, Epilogue::default()),
        cpu.linear_geglu(&a, &linear),
        cpu.select_tokens(&a, &[2]),
        cpu.upload(Shape::vector(1, 3), &[0.0; 2]),
    ] {
        assert_eq!(result.err().unwrap().status(), Status::Internal);
    }
    assert_eq!(cpu.prepare_linear(weight(&[2, 5]), None).err().unwrap().status(), Status::Internal);
    let huge = cpu.tensor(Shape::image(1 << 20, 1 << 20, 1 << 20, 1 << 20), "conv2d");
    assert_eq!(huge.err().unwrap().status(), Status::OutOfMemory);
    assert_eq!(Cpu::new(100_000, None).err().unwrap().status(), Status::InvalidArgument);
}
