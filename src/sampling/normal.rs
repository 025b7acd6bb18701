//! Standard normal values from pairs of random words, many at once.
//!
//! Plain additions, multiplications, divisions and square roots in a fixed order, without branches: compilers make
//! vectors of it, and every machine gets the same bits. Errors stay below 10⁻¹⁵, far from where `f32` rounds.

/// The first of cuRAND's two Box-Muller values (`_curand_box_muller`) of each pair of words, √(−2·ln u)·sin(2π·v) with u
/// and v the middles of the words' 2⁻³² intervals. In `f64`, rounded once: cuRAND's own `f32` calculation, with its
/// approximate sine, scatters around this by a few 10⁻⁷.
pub(super) fn box_muller_curand(first: &[u32], second: &[u32], out: &mut [f32]) {
    for ((x, y), out) in first.iter().zip(second).zip(out) {
        *out = ((-2.0 * ln(middle(*x))).sqrt() * sin_turns(*y)) as f32;
    }
}

/// Both Box-Muller values of each pair of words, √(−2·ln u)·sin(2π·v) and √(−2·ln u)·cos(2π·v), in `f32`: half as much
/// work, for noise that need not equal anybody else's.
#[inline]
pub(super) fn box_muller_pairs<const N: usize>(first: &[u32; N], second: &[u32; N]) -> [[f32; N]; 2] {
    let (mut sines, mut cosines) = ([0.0; N], [0.0; N]);
    for i in 0..N {
        let radius = (-2.0 * ln_f32(first[i])).sqrt();
        let (sin, cos) = sin_cos_f32(second[i]);
        sines[i] = radius * sin;
        cosines[i] = radius * cos;
    }
    [sines, cosines]
}

/// ln of the middle of a word's interval, to 10⁻⁶ or so.
#[inline(always)]
fn ln_f32(word: u32) -> f32 {
    const SQRT_HALF: i32 = std::f32::consts::FRAC_1_SQRT_2.to_bits() as i32;
    // From 2⁻³³ up to 1; through `i32`, as processors convert those many at once.
    let x = ((word >> 1) as i32 as f32 + 0.25) * (1.0 / 2_147_483_648.0);
    let exponent = (x.to_bits() as i32 - SQRT_HALF) >> 23;
    let mantissa = f32::from_bits((x.to_bits() as i32 - (exponent << 23)) as u32);
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let sum = (((1.0 / 9.0 * square + 1.0 / 7.0) * square + 1.0 / 5.0) * square + 1.0 / 3.0) * square;
    // Never above 0, which rounding could bring about next to x = 1.
    (exponent as f32 * std::f32::consts::LN_2 + 2.0 * (s + s * sum)).min(0.0)
}

/// Sine and cosine of 2π·v with v the middle of the word's interval, to 10⁻⁶ or so.
#[inline(always)]
fn sin_cos_f32(word: u32) -> (f32, f32) {
    let quarter = word.wrapping_add(1 << 29) >> 30;
    let rest = word.wrapping_sub(quarter << 30) as i32;
    let angle = rest as f32 * (std::f32::consts::TAU / 4_294_967_296.0);
    let square = angle * angle;
    let sin =
        angle * (1.0 - square / 6.0 * (1.0 - square / 20.0 * (1.0 - square / 42.0 * (1.0 - square / 72.0))));
    let cos = 1.0 - square / 2.0 * (1.0 - square / 12.0 * (1.0 - square / 30.0 * (1.0 - square / 56.0)));
    let (sin, cos) = if quarter & 1 == 0 { (sin, cos) } else { (cos, -sin) };
    if quarter & 2 == 0 { (sin, cos) } else { (-sin, -cos) }
}

/// The middle of a word's interval between 0 and 1.
#[inline(always)]
fn middle(word: u32) -> f64 {
    (f64::from(word) + 0.5) * (1.0 / 4_294_967_296.0)
}

/// ln x of a positive normal number: twice the area tangent of (m − 1)/(m + 1), with x = m·2ⁿ and m around 1.
#[inline(always)]
fn ln(x: f64) -> f64 {
    const SQRT_HALF: u64 = std::f64::consts::FRAC_1_SQRT_2.to_bits();
    // Subtracting the bits of √½ leaves the exponent that puts the mantissa into √½..√2.
    let shifted = x.to_bits().wrapping_sub(SQRT_HALF);
    let exponent = (shifted as i64) >> 52;
    let mantissa = f64::from_bits(x.to_bits().wrapping_sub((exponent as u64) << 52));
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    // 1 + s²/3 + s⁴/5 + …; s is at most 0.172.
    let mut sum = 1.0 / 19.0;
    for power in [17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0] {
        sum = sum * square + 1.0 / power;
    }
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * (s + s * (square * sum))
}

/// sin(2π·v) with v the middle of the word's interval.
#[inline(always)]
fn sin_turns(word: u32) -> f64 {
    // The nearest quarter leaves at most an eighth of a turn, exactly.
    let quarter = word.wrapping_add(1 << 29) >> 30;
    let rest = word.wrapping_sub(quarter << 30) as i32;
    let angle = (f64::from(rest) + 0.5) * (std::f64::consts::TAU / 4_294_967_296.0);
    let square = angle * angle;
    // Taylor's series; the angle is at most π/4.
    let (mut sin, mut cos) = (0.0, 0.0);
    for factor in [1.0 / 210.0, 1.0 / 156.0, 1.0 / 110.0, 1.0 / 72.0, 1.0 / 42.0, 1.0 / 20.0, 1.0 / 6.0] {
        sin = square * factor * (1.0 - sin);
    }
    for factor in [1.0 / 240.0, 1.0 / 182.0, 1.0 / 132.0, 1.0 / 90.0, 1.0 / 56.0, 1.0 / 30.0, 1.0 / 12.0, 0.5]
    {
        cos = square * factor * (1.0 - cos);
    }
    let (sin, cos) = (angle * (1.0 - sin), 1.0 - cos);
    let value = if quarter & 1 == 0 { sin } else { cos };
    if quarter & 2 == 0 { value } else { -value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithm_and_sine_are_exact_to_1e_15() {
        // Both ends and all over, with words as the generator gives them.
        let words =
            (0..200_000u32).map(|i| i.wrapping_mul(2_654_435_761)).chain([0, 1, u32::MAX, u32::MAX - 1]);
        for word in words {
            let x = middle(word);
            let expected = libm::log(x);
            assert!((ln(x) - expected).abs() <= 1e-15 * expected.abs().max(1e-9), "ln {x}");
            let expected = libm::sin(std::f64::consts::TAU * x);
            // 2π·x is itself rounded, to 4·10⁻¹⁶.
            assert!((sin_turns(word) - expected).abs() <= 1.5e-15, "sin {x}");
        }
    }
}
