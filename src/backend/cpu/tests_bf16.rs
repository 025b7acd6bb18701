//! Products in bf16 against `f64` ones of values rounded here, on machines that have the instructions.
#![allow(clippy::unwrap_used)]

use super::pack::Values;
use super::*;
use crate::backend::cases::{Case, random, run, weight_bytes};
use crate::backend::reference::Reference;
use crate::testing::relative_l2;

/// A CPU for bf16, if this machine has one.
fn cpu(threads: usize) -> Option<Cpu> {
    Cpu::with_simd(threads, None, *Simd::available().last().unwrap()).unwrap().with_pairs()
}

fn round(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect()
}

/// A weight's bytes in a file, and as they are after rounding.
fn weight(shape: &[usize], dtype: DType, seed: u64) -> (Vec<u8>, Vec<u8>) {
    let stored = weight_bytes(shape, dtype, seed);
    let mut values = vec![0.0; shape.iter().product()];
    pack::widen(dtype, &stored, &mut values);
    (stored, round(&values).iter().flat_map(|x| x.to_le_bytes()).collect())
}

#[test]
fn products_are_close_to_f64() {
    let sizes = [
        (1, 1, 1),
        (5, 321, 40),
        (77, 640, 66),
        (13, 770, 320),
        (97, 3, 4),
        (130, 40, 168),
        (1, 257, 17),
        (400, 31, 700),
    ];
    let b = Reference::default();
    for ((tokens, k, n), dtype) in
        sizes.into_iter().zip([DType::F16, DType::F32, DType::Bf16].into_iter().cycle())
    {
        let (stored, rounded) = weight(&[n, k], dtype, 1);
        let bias = weight_bytes(&[n], DType::F32, 2);
        let bias = Some(Weight { dtype: DType::F32, shape: &[n], bytes: &bias });
        let x = random(3 * tokens * k, 3);
        let run = |threads, images: Range<usize>| {
            let cpu = cpu(threads)?;
            let linear = cpu.prepare_linear(Weight { dtype, shape: &[n, k], bytes: &stored }, bias).unwrap();
            assert_eq!(linear.0.values, Values::Pairs);
            let shape = Shape::tokens(images.len(), tokens, k);
            let x = cpu.upload(shape, &x[images.start * tokens * k..images.end * tokens * k]).unwrap();
            let y = cpu.linear(&x, &linear, Epilogue::activation(Activation::Silu)).unwrap();
            let gated = (n % 2 == 0).then(|| cpu.linear_geglu(&x, &linear).unwrap());
            Some((y.values().to_vec(), gated.map(|y| y.values().to_vec())))
        };
        let Some((y, gated)) = run(1, 0..3) else { return };
        let what = format!("{tokens}×{k}→{n} {dtype:?}");
        assert!((y.clone(), gated.clone()) == run(3, 0..3).unwrap(), "{what}: threads change bits");
        assert!(y[2 * tokens * n..] == run(1, 2..3).unwrap().0, "{what}: the batch changes bits");
        let weight = Weight { dtype: DType::F32, shape: &[n, k], bytes: &rounded };
        let linear = b.prepare_linear(weight, bias).unwrap();
        let x = b.upload(Shape::tokens(3, tokens, k), &round(&x)).unwrap();
        let expected = b.linear(&x, &linear, Epilogue::activation(Activation::Silu)).unwrap().values;
        let error = relative_l2(&y, &expected);
        assert!(error < 1.5e-6, "{what}: relative error {error:e}");
        if let Some(gated) = gated {
            let error = relative_l2(&gated, &b.linear_geglu(&x, &linear).unwrap().values);
            assert!(error < 1.5e-6, "GEGLU {what}: relative error {error:e}");
        }
    }
}

#[test]
fn convolutions_are_close_to_f64() {
    let b = Reference::default();
    let same = ConvGeometry::same(3);
    for (h, w, k, n, kernel, geometry) in [
        (9, 7, 40, 33, 1, ConvGeometry::same(1)),
        (8, 6, 321, 64, 1, ConvGeometry::same(1)),
        (9, 8, 17, 20, 3, ConvGeometry { stride: 2, ..same }),
        (8, 8, 130, 40, 3, ConvGeometry { stride: 2, padding: [0, 0, 1, 1], ..same }),
        (5, 5, 300, 8, 5, ConvGeometry::same(5)),
    ] {
        let shape = [n, k, kernel, kernel];
        let (stored, rounded) = weight(&shape, DType::F16, 1);
        let pixels = Shape::image(2, h, w, k);
        let x = random(pixels.len(), 3);
        let Some(cpu) = cpu(2) else { return };
        let weight = Weight { dtype: DType::F16, shape: &shape, bytes: &stored };
        let conv = cpu.prepare_conv2d(weight, None, geometry).unwrap();
        assert_eq!(conv.packed.values, Values::Pairs);
        let y = cpu.conv2d(&cpu.upload(pixels, &x).unwrap(), &conv, Epilogue::default()).unwrap();
        let weight = Weight { dtype: DType::F32, shape: &shape, bytes: &rounded };
        let conv = b.prepare_conv2d(weight, None, geometry).unwrap();
        let expected = b.conv2d(&b.upload(pixels, &round(&x)).unwrap(), &conv, Epilogue::default()).unwrap();
        let error = relative_l2(y.values(), &expected.values);
        assert!(error < 1.5e-6, "{h}×{w} {k}→{n}, {kernel}×{kernel}: relative error {error:e}");
    }
}

/// Queries, keys and heads that are rounded, several tiles, odd numbers of keys and channels.
const ATTENTION: [(usize, usize, usize, usize); 4] =
    [(2050, 515, 2, 11), (2048, 640, 1, 40), (2100, 513, 1, 64), (2048, 512, 3, 1)];

#[test]
fn attention_loses_no_more_than_bf16_does() {
    for (queries, keys, heads, d) in ATTENTION {
        let case = Case::Attention { queries, keys, heads, d, causal: false };
        let Some(one) = cpu(1) else { return };
        let y = run(&one, case, 0..2).unwrap();
        assert!(y == run(&cpu(3).unwrap(), case, 0..2).unwrap(), "{case:?}: threads change bits");
        assert!(y[y.len() / 2..] == run(&one, case, 1..2).unwrap(), "{case:?}: the batch changes bits");
        let expected = run(&Reference::default(), case, 0..2).unwrap();
        let error = relative_l2(&y, &expected);
        assert!(1e-4 < error && error < 1e-2, "{case:?}: relative error {error:e}");
    }
}

/// Where a query sees one key alone, it gets that key's value, rounded: whatever is wrong with an order shows.
#[test]
fn attention_to_one_key_is_its_value() {
    for (queries, keys, heads, d) in ATTENTION {
        let Some(cpu) = cpu(2) else { return };
        let channels = heads * d;
        let (shape, of) = (Shape::tokens(1, queries, channels), Shape::tokens(1, keys, channels));
        // The first channel of each head marks one key.
        let chosen = keys - 2;
        let fill = |rows: usize, value: &dyn Fn(usize) -> f32| -> Vec<f32> {
            (0..rows * channels).map(|i| if i % d == 0 { value(i / channels) } else { 0.0 }).collect()
        };
        let q = cpu.upload(shape, &fill(queries, &|_| 1000.0)).unwrap();
        let k = cpu.upload(of, &fill(keys, &|key| if key == chosen { 100.0 } else { -100.0 })).unwrap();
        let values = random(keys * channels, 5);
        let y = cpu.attention(&q, &k, &cpu.upload(of, &values).unwrap(), heads, false).unwrap();
        let expected = round(&values[chosen * channels..][..channels]);
        assert!(
            y.values().chunks_exact(channels).all(|row| row == expected),
            "{queries}, {keys}, {heads}, {d}"
        );
    }
}

/// Winograd's algorithms would lose more than bf16 wins.
#[test]
fn what_has_fast_algorithms_stays_as_stored() {
    let Some(cpu) = cpu(2) else { return };
    let shape = [8, 16, 3, 3];
    let bytes = weight_bytes(&shape, DType::F16, 1);
    let weight = Weight { dtype: DType::F16, shape: &shape, bytes: &bytes };
    let conv = cpu.prepare_conv2d(weight, None, ConvGeometry::same(3)).unwrap();
    assert_eq!(conv.packed.values, Values::Stored(DType::F16));
    let int8 = cpu.with_weights(WeightFormat::Int8);
    let bytes = weight_bytes(&[8, 64], DType::F16, 1);
    let weight = Weight { dtype: DType::F16, shape: &[8, 64], bytes: &bytes };
    assert_eq!(int8.prepare_linear(weight, None).unwrap().0.values, Values::Int8);
}

#[test]
fn an_instruction_set_without_bf16_has_none() {
    for simd in Simd::available().into_iter().filter(|simd| !simd.name().starts_with("AVX-512")) {
        assert!(Cpu::with_simd(1, None, simd).unwrap().with_pairs().is_none(), "{simd:?}");
    }
}

/// By what the system says of the processor.
#[cfg(target_os = "linux")]
#[test]
fn it_is_offered_where_it_is_faster() {
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let faster = processor.contains("AuthenticAMD") && processor.contains("avx512_bf16");
    let best = Cpu::with_simd(1, None, *Simd::available().last().unwrap()).unwrap();
    assert_eq!(best.with_bf16().is_some(), faster);
}
