//! Attention at sizes that fill no tile, with scores that are hard on a softmax, and what it reaches on real models.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use super::attention_kernel::{Parts, Softmax};
use super::*;
use crate::backend::cases::{Case, input, run};
use crate::backend::reference::Reference;
use crate::testing::relative_l2;

/// Head sizes that are no multiple of a tile's rows, and those of real models; few queries, and many with many keys;
/// one key, one tile of keys, a key more, several tiles; few keys, which tasks take several heads of.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for d in [1, 3, 8, 13, 24, 40, 72, 160, 512] {
        for (queries, keys, heads) in [(1, 1, 1), (1, 77, 2), (33, 78, 3), (17, 129, 1)] {
            cases.push(Case::Attention { queries, keys, heads, d, causal: false });
        }
        cases.push(Case::Attention { queries: 35, keys: 35, heads: 2, d, causal: true });
    }
    for (queries, keys, heads, d) in [
        (257, 128, 1, 40),
        (300, 1, 2, 5),
        (260, 77, 9, 24),
        (513, 257, 2, 33),
        (256, 385, 1, 512),
        (1100, 520, 1, 8),
        (2050, 515, 2, 11),
    ] {
        cases.push(Case::Attention { queries, keys, heads, d, causal: false });
    }
    for (tokens, heads, d) in [(77, 12, 64), (129, 1, 3), (300, 2, 40)] {
        cases.push(Case::Attention { queries: tokens, keys: tokens, heads, d, causal: true });
    }
    cases
}

#[test]
fn attention_is_close_to_f64() {
    let mut worst: f64 = 0.0;
    for case in cases() {
        let expected = run(&Reference::default(), case, 0..2).unwrap();
        for simd in Simd::available() {
            let cpu = Cpu::with_simd(2, None, simd).unwrap();
            let error = relative_l2(&run(&cpu, case, 0..2).unwrap(), &expected);
            assert!(error < 1e-6, "{case:?} with {simd:?}: relative error {error:e}");
            worst = worst.max(error);
        }
    }
    println!("largest relative error {worst:e}");
}

#[test]
fn bits_do_not_depend_on_how_attention_is_cut() {
    for simd in Simd::available() {
        let one = Cpu::with_simd(1, None, simd).unwrap();
        for case in cases() {
            let batch = run(&one, case, 0..2).unwrap();
            for threads in [2, 7] {
                let several = run(&Cpu::with_simd(threads, None, simd).unwrap(), case, 0..2).unwrap();
                assert!(several == batch, "{case:?} with {simd:?} and {threads} threads");
            }
            let alone = run(&one, case, 1..2).unwrap();
            assert!(batch[alone.len()..] == alone, "{case:?} with {simd:?}, the second image alone");
        }
    }
}

/// Attention of one head on every instruction set, and the reference's.
fn all(q: &[f32], k: &[f32], v: &[f32], d: usize, causal: bool) -> (Vec<Vec<f32>>, Vec<f32>) {
    fn one<B: Backend>(b: &B, [q, k, v]: [&[f32]; 3], d: usize, causal: bool) -> Vec<f32> {
        let upload = |x: &[f32]| b.upload(Shape::tokens(1, x.len() / d, d), x).unwrap();
        let y = b.attention(&upload(q), &upload(k), &upload(v), 1, causal).unwrap();
        let mut out = vec![0.0; q.len()];
        b.download(&y, &mut out).unwrap();
        out
    }
    let results = Simd::available().into_iter();
    let results = results.map(|simd| one(&Cpu::with_simd(1, None, simd).unwrap(), [q, k, v], d, causal));
    (results.collect(), one(&Reference::default(), [q, k, v], d, causal))
}

#[test]
fn scores_of_any_size_are_weighed() {
    // Two channels: the first makes the score, which is `query · key / √2`, the second nothing.
    let pairs =
        |values: &mut dyn Iterator<Item = f32>| -> Vec<f32> { values.flat_map(|x| [x, 0.0]).collect() };
    let root = 2f32.sqrt();
    for keys in [5, 77, 300] {
        let values: Vec<f32> = (0..2 * keys).map(|i| (i % 17) as f32 - 8.0).collect();
        for size in [0.0, 1.0, 1e2, 1e4, 1e8, 1e30] {
            let queries = pairs(&mut (0..40).map(|i| root * size * [1.0, -1.0, 0.5][i % 3]));
            // One key scores far more than the others; where it lies, none may be overlooked.
            for peak in [0, 1, 2, keys / 2, keys - 2, keys - 1, keys] {
                let key = |i: usize| if i == peak { 1.0 } else { (i % 7) as f32 / 16.0 };
                let k = pairs(&mut (0..keys).map(key));
                let (results, expected) = all(&queries, &k, &values, 2, false);
                for (result, simd) in results.iter().zip(Simd::available()) {
                    let error = relative_l2(result, &expected);
                    assert!(
                        error < 3e-6,
                        "{keys} keys, scores of {size:e}, peak {peak}, {simd:?}: {error:e}"
                    );
                }
            }
        }
    }
}

#[test]
fn keys_that_score_minus_infinity_weigh_nothing() {
    for keys in [3, 77, 300] {
        let values: Vec<f32> = (0..keys).map(|i| i as f32).collect();
        let q = vec![1.0; 50];
        for hidden in [0..1, 0..keys / 2, keys / 2..keys] {
            let k: Vec<f32> =
                (0..keys).map(|i| if hidden.contains(&i) { f32::NEG_INFINITY } else { 0.5 }).collect();
            let seen: Vec<f32> = (0..keys).filter(|i| !hidden.contains(i)).map(|i| i as f32).collect();
            let mean = seen.iter().sum::<f32>() / seen.len() as f32;
            for result in all(&q, &k, &values, 1, false).0 {
                assert!(relative_l2(&result, &[mean; 50]) < 1e-6, "{keys} keys without {hidden:?}");
            }
        }
        for result in all(&q, &vec![f32::NEG_INFINITY; keys], &values, 1, false).0 {
            assert_eq!(result, [0.0; 50], "no key is seen");
        }
    }
}

#[test]
fn later_keys_are_hidden_whatever_they_score() {
    let tokens = 200;
    let q = vec![1.0; tokens];
    let k: Vec<f32> = (0..tokens).map(|i| i as f32 * 40.0).collect();
    let v: Vec<f32> = (0..tokens).map(|i| (i % 13) as f32 + 1.0).collect();
    let (results, expected) = all(&q, &k, &v, 1, true);
    for (result, simd) in results.iter().zip(Simd::available()) {
        for (i, (y, exact)) in result.iter().zip(&expected).enumerate() {
            assert!((y / exact - 1.0).abs() < 1e-5, "query {i}, {simd:?}: {y}, not {exact}");
        }
    }
}

/// What the softmax makes of scores whose maximum so far is 0: `2^score`.
fn powers(simd: Simd, scores: &[f32]) -> Vec<f32> {
    let nr = Kernels::new(simd).nr;
    let mut rows = scores.to_vec();
    rows.resize(scores.len().next_multiple_of(nr), 0.0);
    let (mut maxima, mut totals, mut fades) = (vec![0.0; nr], vec![0.0; nr], vec![0.0; nr]);
    let arguments = Softmax {
        scores: rows.as_mut_ptr(),
        keys: rows.len() / nr,
        maxima: maxima.as_mut_ptr(),
        totals: totals.as_mut_ptr(),
        fades: fades.as_mut_ptr(),
    };
    // SAFETY: all rows have `nr` values.
    unsafe { Parts::new(simd).softmax(false)(&arguments) };
    rows.truncate(scores.len());
    rows
}

#[test]
fn powers_of_two_are_close() {
    let exponents: Vec<f32> =
        (0..=1_260_000).map(|i| i as f32 * -1e-4).chain((0..4000).map(|i| i as f32 * -1e-9)).collect();
    for simd in Simd::available() {
        let mut worst: f64 = 0.0;
        for (x, y) in exponents.iter().zip(powers(simd, &exponents)) {
            worst = worst.max((f64::from(y) / f64::from(*x).exp2() - 1.0).abs());
        }
        println!("{simd:?}: largest relative error {worst:e}");
        assert!(worst < 2.5e-7, "{simd:?}: {worst:e}");
        let extremes =
            powers(simd, &[0.0, -0.0, -127.0, -128.0, -1e10, f32::MIN, f32::NEG_INFINITY, f32::NAN]);
        assert_eq!(extremes[..7], [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0], "{simd:?}");
        assert!(extremes[7].is_nan(), "{simd:?}");
        let tiny = powers(simd, &[-126.2, -126.6, -126.999]);
        assert!(tiny.iter().all(|y| (0.0..2e-38).contains(y)), "{simd:?}: {tiny:?}");
    }
}

/// Queries, keys, heads, channels of a head, causal: Stable Diffusion 1.5 at 512 × 512, its text encoder and VAE, SDXL
/// at 1024 × 1024.
const SIZES: [(usize, usize, usize, usize, bool); 15] = [
    (4096, 4096, 8, 40, false),
    (1024, 1024, 8, 80, false),
    (256, 256, 8, 160, false),
    (64, 64, 8, 160, false),
    (4096, 77, 8, 40, false),
    (4096, 154, 8, 40, false),
    (4096, 231, 8, 40, false),
    (1024, 77, 8, 80, false),
    (256, 77, 8, 160, false),
    (64, 77, 8, 160, false),
    (4096, 4096, 10, 64, false),
    (1024, 1024, 20, 64, false),
    (1024, 77, 20, 64, false),
    (77, 77, 12, 64, true),
    (4096, 4096, 1, 512, false),
];

/// What the matrix product's micro-kernel reaches on data in the L1 cache, in GFLOP/s.
fn micro_kernel(kernels: &Kernels) -> f64 {
    const K: usize = 128;
    let (mr, nr) = (kernels.mr, kernels.nr);
    let (a, b, mut c) = (vec![0.5; mr * K], vec![0.5; nr * K], vec![0.0; mr * nr]);
    let rows: Vec<*const f32> = a.chunks_exact(K).map(<[f32]>::as_ptr).collect();
    let tile = kernel::Tile {
        rows: rows.as_ptr(),
        next: rows[0],
        offset: 0,
        taps: 1,
        k: K,
        b: b.as_ptr(),
        c: c.as_mut_ptr(),
        stride: nr,
        add: std::ptr::null(),
        add_stride: 0,
        bias: std::ptr::null(),
    };
    let rounds = 20_000;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        for _ in 0..rounds {
            // SAFETY: all parts have the sizes that the tile says.
            unsafe { kernels.tile(mr, nr)(&tile) };
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    (2 * mr * nr * K * rounds) as f64 / best / 1e9
}

#[test]
#[ignore = "a measurement"]
fn rates_of_attention() {
    let threads = std::env::var("BENCH_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    for simd in Simd::available().into_iter().rev().take(2) {
        let cpu = Cpu::with_simd(threads, None, simd).unwrap();
        println!("{} | micro-kernel | {:.1} GFLOP/s a thread", simd.name(), micro_kernel(cpu.device.kernels));
        for (queries, keys, heads, d, causal) in SIZES {
            let q = input(&cpu, &(0..1), queries, 1, heads * d, 1);
            let k = input(&cpu, &(0..1), keys, 1, heads * d, 2);
            let v = input(&cpu, &(0..1), keys, 1, heads * d, 3);
            let once = || {
                let start = Instant::now();
                cpu.attention(&q, &k, &v, heads, causal).unwrap();
                start.elapsed().as_secs_f64()
            };
            once();
            let begun = Instant::now();
            let mut times = Vec::new();
            while times.len() < 3 || begun.elapsed().as_secs_f64() < 0.25 {
                times.push(once());
            }
            times.sort_by(f64::total_cmp);
            let median = times[times.len() / 2];
            let rate = (4 * queries * keys * heads * d) as f64 / median / 1e9;
            let name = simd.name();
            println!("{name} | {queries}×{keys} {heads}×{d} | {:.3} ms | {rate:.1} GFLOP/s", median * 1e3);
        }
    }
}
