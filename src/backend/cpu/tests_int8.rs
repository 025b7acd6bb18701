//! Weights in 8 bits: packing against its definition, products against `f64` ones with the same weights.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::conv::{Method, Source, run_method};
use super::pack::{KBlock, Values};
use super::*;
use crate::backend::cases::{random, weight_bytes};
use crate::backend::reference::Reference;
use crate::testing::relative_l2;

fn cpu(simd: Simd, threads: usize) -> Cpu {
    Cpu::with_simd(threads, None, simd).unwrap().with_weights(WeightFormat::Int8)
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn f32_weight<'a>(shape: &'a [usize], bytes: &'a [u8]) -> Weight<'a> {
    Weight { dtype: DType::F32, shape, bytes }
}

/// What the kernels will see, as `[n, k, taps]`: block after block, and in steps as fast convolutions take them.
fn unpack(cpu: &Cpu, packed: &Packed) -> Vec<f32> {
    let kernels = cpu.device.kernels;
    let Packed { n, k, taps, .. } = *packed;
    let read = |blocks: &[KBlock]| {
        let mut values = vec![f32::NAN; n * k * taps];
        for panel in 0..n.div_ceil(kernels.nr) {
            let width = kernels.width(n, panel);
            for block in blocks {
                let mut scratch = vec![
                    f32::NAN;
                    Packed::block_depth(kernels, packed.values, packed.k, packed.taps)
                        * kernels.nr
                ];
                let rows = packed.block(kernels, panel, block, &mut scratch);
                for row in 0..block.taps * block.k {
                    let (tap, input) = (block.tap + row / block.k, block.k_start + row % block.k);
                    for column in 0..width {
                        // SAFETY: a block has `width` values for each of its rows.
                        let value = unsafe { *rows.add(row * width + column) };
                        match panel * kernels.nr + column {
                            i if i < n => values[(i * k + input) * taps + tap] = value,
                            _ => assert_eq!(value, 0.0, "past the last column"),
                        }
                    }
                }
            }
        }
        values
    };
    let steps =
        |tap| (0..k).step_by(8).map(move |k_start| KBlock { tap, taps: 1, k_start, k: 8.min(k - k_start) });
    let values = read(&packed.k_blocks());
    assert_eq!(values, read(&(0..taps).flat_map(steps).collect::<Vec<_>>()));
    values
}

/// Each group of 64 inputs of a tap is whole numbers up to 127 times its largest magnitude over 127, the nearest ones.
fn check_rounding(stored: &[f32], packed: &[f32], [n, k, taps]: [usize; 3], what: &str) {
    for (output, tap) in (0..n).flat_map(|output| (0..taps).map(move |tap| (output, tap))) {
        let at = |input: usize| (output * k + input) * taps + tap;
        for start in (0..k).step_by(64) {
            let group = start..k.min(start + 64);
            let largest = group.clone().map(|i| stored[at(i)].abs()).fold(0.0, f32::max);
            let scale = f64::from(largest) / 127.0;
            for input in group {
                let (from, to) = (f64::from(stored[at(input)]), f64::from(packed[at(input)]));
                let place =
                    format!("{what}: output {output}, input {input}, tap {tap}: {from:e} became {to:e}");
                assert!(to.is_finite(), "{place}");
                if scale < 1e-32 {
                    assert!(to == 0.0, "{place}");
                    continue;
                }
                assert!((to - from).abs() <= scale * 0.5001, "{place}, scale {scale:e}");
                let number = to / scale;
                assert!((number - number.round()).abs() < 1e-4 && number.abs() < 127.001, "{place}");
            }
        }
    }
}

#[test]
fn packing_rounds_to_the_nearest_multiple_of_the_scale() {
    let sizes = [
        [1, 2, 1],
        [1, 64, 1],
        [3, 65, 1],
        [40, 63, 1],
        [17, 320, 1],
        [33, 129, 9],
        [1, 70, 9],
        [70, 5, 9],
        [32, 2, 25],
    ];
    for simd in Simd::available() {
        let cpu = cpu(simd, 2);
        for size @ [n, k, taps] in sizes {
            let mut stored: Vec<f32> = random(n * k * taps, 7).into_iter().map(|x| x * 0.02).collect();
            let len = stored.len();
            // An output of zeros, a huge outlier that leaves nothing of its group, the ends of the range, and what is
            // below all normal numbers.
            if n > 2 {
                stored[k * taps..2 * k * taps].fill(0.0);
                stored[2 * k * taps..][..taps].fill(1e-44);
                stored[0] = -1e6;
            }
            stored[len - 1] = if n % 2 == 0 { f32::MAX } else { 127.0 };
            stored[len - taps - 1] = if n % 2 == 0 { -f32::MAX } else { -127.0 };
            let bytes = bytes(&stored);
            let shape = [n, k, taps, 1];
            let packed =
                Packed::new(&cpu.device, (cpu.weights, false), f32_weight(&shape, &bytes), None).unwrap();
            assert_eq!(packed.values, Values::Int8);
            check_rounding(&stored, &unpack(&cpu, &packed), size, &format!("{size:?} with {simd:?}"));
        }
    }
}

#[test]
fn every_precision_of_the_file_is_read() {
    let shape = [33, 130, 3, 3];
    let size = [33, 130, 9];
    for simd in Simd::available() {
        let cpu = cpu(simd, 1);
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let bytes = weight_bytes(&shape, dtype, 3);
            let mut stored = vec![0.0; shape.iter().product()];
            pack::widen(dtype, &bytes, &mut stored);
            // Where a file has them, aligned or not.
            for offset in [0, 1] {
                let bytes = [&[0; 16][..offset], &bytes].concat();
                let weight = Weight { dtype, shape: &shape, bytes: &bytes[offset..] };
                let packed = Packed::new(&cpu.device, (cpu.weights, false), weight, None).unwrap();
                assert_eq!(packed.values, Values::Int8);
                check_rounding(&stored, &unpack(&cpu, &packed), size, &format!("{dtype:?} with {simd:?}"));
            }
        }
    }
}

#[test]
fn few_inputs_stay_as_stored() {
    let cpu = cpu(Simd::detect(), 1);
    for (k, dtype, values) in [
        (1, DType::F32, Values::Stored(DType::F32)),
        (2, DType::F32, Values::Int8),
        (4, DType::F16, Values::Stored(DType::F16)),
        (5, DType::Bf16, Values::Int8),
    ] {
        let shape = [20, k];
        let bytes = weight_bytes(&shape, dtype, 1);
        let weight = Weight { dtype, shape: &shape, bytes: &bytes };
        assert_eq!(Packed::new(&cpu.device, (cpu.weights, false), weight, None).unwrap().values, values);
        let stored = cpu.as_stored().prepare_linear(weight, None).unwrap();
        assert_eq!(stored.0.values, Values::Stored(dtype));
    }
}

/// Linear layers and GEGLU: the bound of every other operation, against the weights as they were rounded.
#[test]
fn products_are_close_to_f64() {
    let sizes = [(1, 2, 1), (5, 321, 40), (77, 640, 66), (13, 700, 320), (97, 3, 4), (130, 40, 168)];
    let b = Reference::default();
    for (tokens, k, n) in sizes {
        let shape = [n, k];
        let stored = weight_bytes(&shape, DType::F32, 1);
        let bias = weight_bytes(&[n], DType::F32, 2);
        let bias = Some(f32_weight(&shape[..1], &bias));
        let x = random(2 * tokens * k, 3);
        let rows = Shape::tokens(2, tokens, k);
        for simd in Simd::available() {
            let run = |threads| {
                let cpu = cpu(simd, threads);
                let linear = cpu.prepare_linear(f32_weight(&shape, &stored), bias).unwrap();
                let x = cpu.upload(rows, &x).unwrap();
                let y = cpu.linear(&x, &linear, Epilogue::activation(Activation::Silu)).unwrap();
                let gated = (n % 2 == 0).then(|| cpu.linear_geglu(&x, &linear).unwrap());
                (unpack(&cpu, &linear.0), y.values().to_vec(), gated.map(|y| y.values().to_vec()))
            };
            let (rounded, y, gated) = run(1);
            assert!((rounded.clone(), y.clone(), gated.clone()) == run(3), "{simd:?}: threads change bits");
            let rounded = bytes(&rounded);
            let linear = b.prepare_linear(f32_weight(&shape, &rounded), bias).unwrap();
            let x = b.upload(rows, &x).unwrap();
            let expected = b.linear(&x, &linear, Epilogue::activation(Activation::Silu)).unwrap().values;
            let error = relative_l2(&y, &expected);
            assert!(error < 1.5e-6, "{tokens}×{k}→{n} with {simd:?}: relative error {error:e}");
            if let Some(gated) = gated {
                let error = relative_l2(&gated, &b.linear_geglu(&x, &linear).unwrap().values);
                assert!(error < 1.5e-6, "GEGLU {tokens}×{k}→{n} with {simd:?}: relative error {error:e}");
            }
        }
    }
}

#[test]
fn convolutions_by_every_method_are_close_to_f64() {
    let b = Reference::default();
    for (h, w, k, n) in [(1, 9, 17, 3), (9, 1, 130, 33), (7, 5, 40, 70), (8, 13, 300, 16), (1, 1, 2, 1)] {
        let shape = [n, k, 3, 3];
        let stored = weight_bytes(&shape, DType::F32, 1);
        let pixels = Shape::image(2, h, w, k);
        let x = random(pixels.len(), 3);
        for enlarges in [false, true] {
            let geometry = ConvGeometry { upsample: enlarges, ..ConvGeometry::same(3) };
            let sides = if enlarges { [2 * h, 2 * w] } else { [h, w] };
            // About twice the errors of the methods themselves.
            let methods: &[(Method, f64)] = match enlarges {
                false => &[(Method::Direct, 5e-7), (Method::Winograd2, 1e-6), (Method::Winograd4, 3e-6)],
                true => &[(Method::Phases, 5e-7), (Method::Enlarged, 5e-6)],
            };
            for simd in Simd::available() {
                let cpu = cpu(simd, 2);
                let conv = cpu.prepare_conv2d(f32_weight(&shape, &stored), None, geometry).unwrap();
                let rounded = bytes(&unpack(&cpu, &conv.packed));
                let reference = b.prepare_conv2d(f32_weight(&shape, &rounded), None, geometry).unwrap();
                let host = b.upload(pixels, &x).unwrap();
                let expected = match enlarges {
                    false => b.conv2d(&host, &reference, Epilogue::default()),
                    true => b.upsample_conv2d(&host, &reference, sides[0], sides[1]),
                };
                let expected = expected.unwrap().values;
                let x = cpu.upload(pixels, &x).unwrap();
                for &(method, bound) in methods {
                    let mut out = cpu.tensor(Shape::image(2, sides[0], sides[1], n), "test").unwrap();
                    let (shape, target) = (out.shape, Target(out.values_mut().as_mut_ptr()));
                    run_method(&cpu, method, &Source::whole(&x), &conv, shape, &Finish::default(), target)
                        .unwrap();
                    let error = relative_l2(out.values(), &expected);
                    assert!(
                        error < bound,
                        "{h}×{w} {k}→{n} by {method:?} with {simd:?}: relative error {error:e}"
                    );
                }
            }
        }
    }
}
