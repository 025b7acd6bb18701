//! ER-SDE: the extended reverse-time SDE, whose noise is a function of the noise-to-signal ratio.

use super::super::plan::Settings;
use super::super::program::{Builder, Value};

/// How finely ComfyUI and stable-diffusion.cpp cut their integrals: exact ones would be other numbers.
const INTEGRATION_POINTS: usize = 200;

/// VP ER-SDE-Solver-3 (Cui et al. 2023, arXiv:2309.06169) over ρ = σ/α with the noise scaler
/// φ(ρ) = ρ·(exp(ρ^0.3) + 10). Same numbers as ComfyUI's `er_sde` at its defaults.
pub(super) fn write(b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
    // ρ, the prediction there and its slope, of the steps before.
    let mut past: Vec<(f64, Value, Option<Value>)> = Vec::new();
    for (from, to) in settings.grid.steps() {
        let original = b.evaluate(x, from).original;
        let (rho, rho_to) = (from.level.ratio(), to.level.ratio());
        if rho_to == 0.0 {
            x = b.combine(&[(to.alpha(), original)]);
            b.end_step(x);
            continue;
        }
        // φ(ρ')/φ(ρ) is this times ρ'/ρ.
        let scaler = scaler_ratio(rho_to, rho);
        let mut terms = vec![
            // α'/α·φ(ρ')/φ(ρ), finite without signal
            (to.sigma() / from.sigma() * scaler, x),
            (to.alpha() * (1.0 - rho_to / rho * scaler), original),
        ];
        let mut slope = None;
        if let Some(&(rho_1, original_1, slope_1)) = past.last() {
            let step = rho_to - rho;
            let width = -step / INTEGRATION_POINTS as f64;
            let points = || (0..INTEGRATION_POINTS).map(|i| rho_to + i as f64 * width);
            // ∫ φ(ρ')/φ(ρ) dρ, and that of (ρ − ρₛ)·φ(ρ')/φ(ρ).
            let integrand = |at: f64| rho_to / at * scaler_ratio(rho_to, at);
            let integral = points().map(integrand).sum::<f64>() * width;
            let moment = points().map(|at| (at - rho) * integrand(at)).sum::<f64>() * width;
            let by_rho = 1.0 / (rho - rho_1);
            let d = b.combine(&[(by_rho, original), (-by_rho, original_1)]);
            terms.push((to.alpha() * (step + integral), d));
            if let (Some(d_1), [.., (rho_2, ..), _]) = (slope_1, past.as_slice()) {
                let weight = to.alpha() * (0.5 * step * step + moment) * 2.0 / (rho - rho_2);
                terms.extend([(weight, d), (-weight, d_1)]);
            }
            slope = Some(d);
        }
        // α'·√(ρ'² − ρ²·(φ(ρ')/φ(ρ))²)
        let std_dev = to.sigma() * (1.0 - scaler * scaler).sqrt();
        terms.push((std_dev * settings.options.s_noise, b.noise(rho, rho_to)));
        x = b.combine(&terms);
        b.end_step(x);
        past.push((rho, original, slope));
    }
}

/// (exp(a^0.3) + 10)/(exp(b^0.3) + 10) for a ≤ b, which does not overflow.
fn scaler_ratio(a: f64, b: f64) -> f64 {
    let (a, b) = (libm::pow(a, 0.3), libm::pow(b, 0.3));
    (libm::exp(a - b) + 10.0 * libm::exp(-b)) / (1.0 + 10.0 * libm::exp(-b))
}

#[cfg(test)]
mod tests {
    use super::super::super::mixture::equals_golden;

    #[test]
    fn trajectories_equal_comfyuis() {
        equals_golden("er-sde");
    }
}
