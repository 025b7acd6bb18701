//! Logarithm, sine and cosine in `f32`, to the bit as torch's CPU `randn` computes them.
//!
//! torch (x86-64 with AVX2 and FMA) uses the single-precision polynomials of S. Moshier's Cephes library, and its
//! compiler fuses multiplications with the additions they feed. The same sums are written out here, so that every
//! machine gets those bits.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_PI_4};

use libm::fmaf;

/// A polynomial by Horner's rule, highest power first.
fn polynomial(x: f32, coefficients: &[f32]) -> f32 {
    coefficients.iter().copied().reduce(|sum, coefficient| fmaf(sum, x, coefficient)).unwrap_or(0.0)
}

/// The natural logarithm (Cephes `logf`) of a positive normal number.
pub(super) fn ln(x: f32) -> f32 {
    const LN_1P: [f32; 9] = [
        7.037_683_6e-2,
        -1.151_461e-1,
        1.167_699_87e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_4e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    // ln 2 in two parts, the first of few bits.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;

    // x = (1 + fraction)·2^exponent, with 1 + fraction between √½ and √2.
    let mantissa = f32::from_bits(x.to_bits() & 0x007F_FFFF | 0x3F00_0000);
    let exponent = ((x.to_bits() >> 23) as i32 - 126) as f32;
    let (fraction, exponent) = if mantissa < FRAC_1_SQRT_2 {
        (mantissa - 1.0 + mantissa, exponent - 1.0)
    } else {
        (mantissa - 1.0, exponent)
    };
    let square = fraction * fraction;
    let cubic = polynomial(fraction, &LN_1P) * fraction;
    let rest = fmaf(cubic, square, exponent * LN_2_LOW);
    let rest = fmaf(square, -0.5, rest);
    fmaf(exponent, LN_2_HIGH, fraction + rest)
}

/// Sine and cosine (Cephes `sinf`, `cosf`) of an angle from 0 to a few turns.
pub(super) fn sin_cos(x: f32) -> (f32, f32) {
    const SIN: [f32; 3] = [-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1];
    const COS: [f32; 3] = [2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2];
    // π/4 in three parts, the first two of few bits.
    const FRAC_PI_4_PARTS: [f32; 3] = [0.785_156_25, 2.418_756_5e-4, 3.774_895e-8];

    // The nearest even multiple of π/4 leaves an angle of at most π/4 either way.
    let octant = ((x * (1.0 / FRAC_PI_4)) as i32 + 1) & !1;
    let angle = FRAC_PI_4_PARTS.iter().fold(x, |angle, part| fmaf(octant as f32, -part, angle));
    let square = angle * angle;
    let cos = fmaf(polynomial(square, &COS) * square, square, -0.5 * square) + 1.0;
    let sin = fmaf(polynomial(square, &SIN) * square, angle, angle);
    let (sin, cos) = if octant & 2 == 0 { (sin, cos) } else { (cos, sin) };
    let negate = |negative: bool, value: f32| if negative { -value } else { value };
    (negate(octant & 4 != 0, sin), negate((octant + 2) & 4 != 0, cos))
}
