//! What attention reaches on the sizes of real models.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use super::*;
use crate::backend::cases::input;

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
        offset: 0,
        taps: 1,
        k: K,
        b: b.as_ptr(),
        c: c.as_mut_ptr(),
        stride: nr,
        accumulate: false,
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
        let only: Option<Vec<usize>> = std::env::var("ONLY").ok().map(|s| s.split(',').map(|x| x.parse().unwrap()).collect());
        for (i, (queries, keys, heads, d, causal)) in SIZES.into_iter().enumerate() {
            if only.as_ref().is_some_and(|o| !o.contains(&i)) { continue; }
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
