//! Elementary functions without branches or tables, so that loops over them become vector code.
//!
//! Each is generic over `FMA`: whether a fused multiply-add is one instruction. NaN goes in and comes out.

/// `a · b + c`.
#[inline(always)]
pub(super) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Below this, [`exp2`] is 0: denormal numbers, also those of a few factors after it, would cost a hundred cycles.
const LOWEST: f32 = -120.0;

/// `2^x`, relative error below 2e-7; 0 below -120, and 2^127.49 above 127.49.
#[inline(always)]
pub(super) fn exp2<const FMA: bool>(x: f32) -> f32 {
    // Written as comparisons so that NaN passes through.
    let clamped = if x > 127.49 { 127.49 } else { x };
    let clamped = if clamped < LOWEST { LOWEST } else { clamped };
    // Adding 1.5·2²³ leaves the nearest integer in the low bits of the sum.
    const MAGIC: f32 = 12_582_912.0;
    let shifted = clamped + MAGIC;
    let whole = shifted - MAGIC;
    let r = clamped - whole;
    // The polynomial of degree 6 with the smallest relative error on [-1/2, 1/2]: 2e-9 before rounding.
    let mut p = 1.534_581_2e-4;
    p = fma::<FMA>(p, r, 1.339_993_2e-3);
    p = fma::<FMA>(p, r, 9.618_489e-3);
    p = fma::<FMA>(p, r, 5.550_328_6e-2);
    p = fma::<FMA>(p, r, 2.402_264_6e-1);
    p = fma::<FMA>(p, r, 6.931_472e-1);
    p = fma::<FMA>(p, r, 1.0);
    // 2^whole: the integer is moved to where the exponent is. NaN makes it anything, and stays NaN in `p`.
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    let y = p * power;
    if x < LOWEST { 0.0 } else { y }
}

/// `e^x`, relative error below 4e-7 where `|x| < 20`; 0 below -83.1.
#[inline(always)]
pub(super) fn exp<const FMA: bool>(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    exp2::<FMA>(x * LOG2_E)
}

/// `x · sigmoid(scale · x)`: SiLU for 1, the quick GELU for 1.702.
#[inline(always)]
pub(super) fn swish<const FMA: bool>(x: f32, scale: f32) -> f32 {
    x / (1.0 + exp::<FMA>(-scale * x))
}

/// From here on `Φ(-x)` counts as 0: `x · Φ(-x)` is below 1.1e-7.
const TAIL: f32 = 5.5;

/// `x · Φ(x)`, absolute error below 5e-7, relative below 1e-6 near 0.
///
/// That is `max(x, 0) - u · Φ(-u)` with `u = |x|`, and `Φ(-u)` is `5.5 - u`, so that it ends in 0, times the polynomial of
/// degree 14 in `u - 2.75` with the smallest error of `max(u, 1) · Φ(-u)` on [0, 5.5]: 1.5e-7 before rounding.
#[inline(always)]
pub(super) fn gelu<const FMA: bool>(x: f32) -> f32 {
    // Written as comparisons so that NaN passes through.
    let u = if x.abs() > TAIL { TAIL } else { x.abs() };
    let positive = if x < 0.0 { 0.0 } else { x };
    let t = u - TAIL / 2.0;
    let mut p = 1.580_803_5e-9;
    p = fma::<FMA>(p, t, -6.956_366e-12);
    p = fma::<FMA>(p, t, -6.128_159e-8);
    p = fma::<FMA>(p, t, 7.668_667_5e-8);
    p = fma::<FMA>(p, t, 9.486_879_5e-7);
    p = fma::<FMA>(p, t, -2.879_799_5e-6);
    p = fma::<FMA>(p, t, -4.063_761_5e-6);
    p = fma::<FMA>(p, t, 3.908_305_7e-5);
    p = fma::<FMA>(p, t, -7.625_039e-5);
    p = fma::<FMA>(p, t, -9.163_508e-5);
    p = fma::<FMA>(p, t, 8.747_665e-4);
    p = fma::<FMA>(p, t, -2.347_75e-3);
    p = fma::<FMA>(p, t, 3.487_590_7e-3);
    p = fma::<FMA>(p, t, -2.912_855_7e-3);
    p = fma::<FMA>(p, t, 1.083_551_1e-3);
    fma::<FMA>(u * (u - TAIL), p, positive)
}

/// Interleaved partial results of a reduction: several vector registers full, so that the loop over them stays a
/// loop, which the compiler vectorises, and the additions do not wait for each other.
const LANES: usize = 64;

/// `Σ f(x)` in `f64`, always in the same order.
#[inline(always)]
pub(super) fn sum(values: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += f(f64::from(value));
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += f(f64::from(value));
    }
    fold(lanes, |a, b| a + b)
}

/// Combines partial results pairwise. `N` is a power of two.
#[inline(always)]
pub(super) fn fold<T: Copy, const N: usize>(mut lanes: [T; N], f: impl Fn(T, T) -> T) -> T {
    let mut width = N;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn erf(x: f64) -> f64 {
        libm::erf(x)
    }

    fn points() -> impl Iterator<Item = f32> {
        (-40_000..=40_000).map(|i| i as f32 * 5e-4)
    }

    #[test]
    fn exp_is_close() {
        for x in points() {
            let exact = f64::from(x).exp();
            for y in [exp::<true>(x), exp::<false>(x)] {
                assert!((f64::from(y) / exact - 1.0).abs() < 2e-6, "exp({x}) = {y}, not {exact}");
            }
            let exact = f64::from(x).exp2();
            let y = exp2::<true>(x);
            assert!((f64::from(y) / exact - 1.0).abs() < 2e-7, "exp2({x}) = {y}, not {exact}");
        }
    }

    #[test]
    fn activations_are_close() {
        for x in points() {
            let d = f64::from(x);
            let cases = [
                ("silu", swish::<true>(x, 1.0), d / (1.0 + (-d).exp())),
                ("quick_gelu", swish::<false>(x, 1.702), d / (1.0 + (-1.702 * d).exp())),
                ("gelu", gelu::<true>(x), d * 0.5 * (1.0 + erf(d / 2f64.sqrt()))),
                ("gelu without fma", gelu::<false>(x), d * 0.5 * (1.0 + erf(d / 2f64.sqrt()))),
            ];
            for (name, y, exact) in cases {
                let error = (f64::from(y) - exact).abs();
                assert!(error < 1e-6 * exact.abs().max(1.0), "{name}({x}) = {y}, not {exact}");
            }
        }
    }

    #[test]
    fn gelu_of_small_values_keeps_its_digits() {
        for i in 0..=400 {
            let small = 2f32.powf(-0.25 * i as f32);
            for x in [small, -small] {
                let exact = f64::from(x) * 0.5 * (1.0 + erf(f64::from(x) / 2f64.sqrt()));
                for y in [gelu::<true>(x), gelu::<false>(x)] {
                    assert!((f64::from(y) / exact - 1.0).abs() < 2e-6, "gelu({x}) = {y}, not {exact}");
                }
            }
        }
    }

    #[test]
    fn extremes_are_sane() {
        for f in [exp2::<true>, exp2::<false>] {
            assert_eq!(f(f32::NEG_INFINITY), 0.0);
            assert_eq!(f(-200.0), 0.0);
            assert!(f(f32::INFINITY) > 1e38);
            assert!(f(f32::NAN).is_nan());
        }
        assert!(swish::<true>(f32::NAN, 1.0).is_nan() && gelu::<true>(f32::NAN).is_nan());
        assert_eq!(swish::<true>(1e30, 1.0), 1e30);
        assert!(swish::<true>(-1e4, 1.0).abs() < 1e-30);
        assert_eq!(gelu::<true>(1e20), 1e20);
        assert_eq!(gelu::<true>(-50.0), 0.0);
        assert_eq!(gelu::<false>(f32::INFINITY), f32::INFINITY);
    }
}
