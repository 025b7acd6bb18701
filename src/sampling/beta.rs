//! Quantiles of the beta distribution.

/// The x in 0..=1 with I(x; a, b) = `p`: how far the beta distribution's lowest share `p` reaches, for a, b > 0.
pub(super) fn quantile(p: f64, a: f64, b: f64) -> f64 {
    if p <= 0.0 || p.is_nan() {
        0.0
    } else if p >= 1.0 {
        1.0
    } else if p > libm::exp(log_cumulative(a / (a + b), a, b)) {
        1.0 - lower_quantile(1.0 - p, b, a)
    } else {
        lower_quantile(p, a, b)
    }
}

/// [`quantile`] up to the mean a/(a + b).
///
/// Newton's method on the logarithms of both sides. There the curve bends to one side only, so it cannot go astray,
/// and x keeps its relative precision however near 0 it comes.
fn lower_quantile(p: f64, a: f64, b: f64) -> f64 {
    let (target, top) = (libm::log(p), libm::log(a / (a + b)));
    // What the series' first term says: I = xᵃ/(a·B).
    let mut log_x = ((target + libm::log(a) + log_beta(a, b)) / a).min(top);
    for _ in 0..100 {
        let log_i = log_cumulative(libm::exp(log_x), a, b);
        // d ln I/d ln x = x·density/I
        let slope = a * log_x + (b - 1.0) * libm::log1p(-libm::exp(log_x)) - log_beta(a, b) - log_i;
        let next = (log_x - (log_i - target) / libm::exp(slope)).min(top);
        let moved = (next - log_x).abs();
        log_x = next;
        if moved <= 1e-15 * log_x.abs() {
            break;
        }
    }
    libm::exp(log_x)
}

/// ln B(a, b).
fn log_beta(a: f64, b: f64) -> f64 {
    libm::lgamma(a) + libm::lgamma(b) - libm::lgamma(a + b)
}

/// ln I(x; a, b) of the regularised incomplete beta function for 0 < x ≤ a/(a + b): its continued fraction (NIST DLMF
/// 8.17.22), evaluated by Lentz's method.
fn log_cumulative(x: f64, a: f64, b: f64) -> f64 {
    let (mut fraction, mut c, mut d) = (1.0, f64::INFINITY, 1.0);
    for i in 1..300 {
        let m = f64::from(i / 2);
        let numerator = match i % 2 {
            0 => m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m)),
            _ => -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0)),
        };
        d = 1.0 / (1.0 + numerator * d);
        c = 1.0 + numerator / c;
        fraction *= c * d;
        if (c * d - 1.0).abs() < 1e-16 {
            break;
        }
    }
    a * libm::log(x) + b * libm::log1p(-x) - libm::log(a) - log_beta(a, b) + libm::log(fraction)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::quantile;
    use crate::testing::golden_json;

    #[test]
    fn quantiles_equal_scipy() {
        let cases = golden_json("schedules");
        let cases = cases["beta_quantiles"].as_array().unwrap();
        assert!(cases.len() > 50);
        for case in cases {
            let number = |i: usize| case[i].as_f64().unwrap();
            let (p, a, b, expected) = (number(0), number(1), number(2), number(3));
            let x = quantile(p, a, b);
            assert!((x - expected).abs() <= 1e-9 * expected, "{x} but scipy has {expected} for {p} {a} {b}");
        }
        for p in [f64::NAN, -1.0, 0.0] {
            assert_eq!(quantile(p, 0.6, 0.6), 0.0);
        }
        assert_eq!(quantile(1.0, 0.6, 0.6), 1.0);
    }
}
