//! What the machine can do at most: multiply-adds in registers, and copies of more than its caches hold.

use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};

/// How long threads run before their time is taken: a new one shares its parent's processor for a while.
const SETTLING: Duration = Duration::from_millis(10);

/// The time of `runs` runs of `body` on every thread at once, on the slowest of them.
fn on_all_threads(runs: u64, body: impl Fn(usize) + Sync) -> Duration {
    let settled = AtomicUsize::new(0);
    let one = |thread| {
        let start = Instant::now();
        while start.elapsed() < SETTLING {
            body(thread);
        }
        settled.fetch_add(1, Ordering::Relaxed);
        while settled.load(Ordering::Relaxed) < super::threads() {
            std::hint::spin_loop();
        }
        let start = Instant::now();
        (0..runs).for_each(|_| body(thread));
        start.elapsed()
    };
    std::thread::scope(|scope| {
        let one = &one;
        let others: Vec<_> = (1..super::threads()).map(|thread| scope.spawn(move || one(thread))).collect();
        let mine = one(0);
        others
            .into_iter()
            .map(|other| other.join().expect("the body does not panic"))
            .fold(mine, Duration::max)
    })
}

/// `peak/fma`, on processors that have such instructions, and `peak/copy`.
pub(super) fn peak(c: &mut Criterion) {
    let mut group = super::group(c, "peak");
    #[cfg(target_arch = "x86_64")]
    if let Some((lanes, multiply_add)) = fma::widest() {
        group.throughput(Throughput::Elements((super::threads() * fma::FLOPS_A_LANE * lanes) as u64));
        let once = |_| {
            // SAFETY: `widest` found the instructions.
            black_box(unsafe { multiply_add(black_box(0.5)) });
        };
        group.bench_function("fma", |b| b.iter_custom(|runs| on_all_threads(runs, once)));
    }
    const VALUES: usize = 32 << 20;
    let source = vec![1.0f32; VALUES];
    let targets: Vec<_> = (0..super::threads()).map(|_| Mutex::new(vec![0.0f32; VALUES])).collect();
    group.throughput(Throughput::Bytes((super::threads() * 2 * size_of::<f32>() * VALUES) as u64));
    group.bench_function("copy", |b| {
        b.iter_custom(|runs| {
            on_all_threads(runs, |thread| {
                let mut target = targets[thread].lock().expect("no thread panics");
                target.copy_from_slice(black_box(&source));
            })
        });
    });
}

#[cfg(target_arch = "x86_64")]
mod fma {
    use std::arch::x86_64::*;

    const ROUNDS: usize = 1 << 16;
    /// Enough to keep two units with a latency of five busy.
    const CHAINS: usize = 12;
    pub(super) const FLOPS_A_LANE: usize = 2 * CHAINS * ROUNDS;

    /// # Safety
    /// The machine has the function's instructions.
    type MultiplyAdd = unsafe fn(f32) -> f32;

    /// Floats of a register, and a function that multiplies and adds with it, for the widest that the processor has and
    /// `LIBDIFFUSION_CPU` allows. SSE2 has no such instruction: its share is of what AVX2 could do.
    pub(super) fn widest() -> Option<(usize, MultiplyAdd)> {
        let capped = std::env::var("LIBDIFFUSION_CPU").is_ok_and(|most| !most.eq_ignore_ascii_case("avx512"));
        if is_x86_feature_detected!("avx512f") && !capped {
            return Some((16, avx512));
        }
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some((8, avx2))
    }

    #[target_feature(enable = "avx512f")]
    fn avx512(value: f32) -> f32 {
        let a = _mm512_set1_ps(value);
        let mut sums = [_mm512_set1_ps(1.0); CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, a);
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
    }

    #[target_feature(enable = "avx2,fma")]
    fn avx2(value: f32) -> f32 {
        let a = _mm256_set1_ps(value);
        let mut sums = [_mm256_set1_ps(1.0); CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, a);
            }
        }
        sums.into_iter().map(|sum| _mm_cvtss_f32(_mm256_castps256_ps128(sum))).sum()
    }
}
