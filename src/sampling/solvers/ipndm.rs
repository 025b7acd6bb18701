//! IPNDM: the classical Adams-Bashforth weights, whatever the steps' lengths.

use super::super::Profile;
use super::super::plan::Settings;
use super::super::program::{Builder, Value};
use super::lms::Directions;

/// Zhang & Chen 2022 (arXiv:2204.13902), iPNDM, with a warm-up of lower orders. The step is that of diffusers'
/// `IPNDMScheduler.step` at the request's own noise levels (that class brings a schedule and timesteps that no model of
/// Stable Diffusion's was trained with). ComfyUI, whose levels are these, ends at the last predicted x₀.
pub(super) fn write(b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
    let mut history = Directions::default();
    for (from, to) in settings.grid.steps() {
        let model = b.evaluate(x, from);
        history.push(b, model, from, to, 4);
        let weights: &[f64] = match history.len() {
            _ if to.sigma() == 0.0 && settings.options.profile != Profile::Diffusers => &[],
            1 => &[1.0],
            2 => &[3.0 / 2.0, -1.0 / 2.0],
            3 => &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
            _ => &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
        };
        let step = to.sigma() - from.sigma();
        let coefficients: Vec<f64> = weights.iter().map(|weight| weight * step).collect();
        x = history.step(b, model, to, &coefficients);
        b.end_step(x);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::mixture::equals_golden;

    #[test]
    fn trajectories_equal_diffusers() {
        equals_golden("ipndm");
    }
}
