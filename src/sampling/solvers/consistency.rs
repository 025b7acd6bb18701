//! LCM and TCD: samplers of distilled models, which jump to x₀ and add noise again.

use super::super::Sampler;
use super::super::grid::{Grid, Node};
use super::super::levels::Levels;
use super::super::plan::Settings;
use super::super::program::{Builder, Value};
use super::super::sampler::Coordinates;

pub(super) fn write(b: &mut Builder, x: Value, settings: &Settings<'_>) {
    match settings.sampler {
        Sampler::Tcd => tcd(b, x, settings),
        _ => lcm(b, x, settings),
    }
}

/// Luo et al. 2023 (arXiv:2310.04378), algorithm 3. Same numbers as diffusers' `LCMScheduler.step`, and for a flow as
/// its `FlowMatchLCMScheduler.step`.
fn lcm(b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
    let grid = settings.grid;
    for (from, to) in grid.steps() {
        let model = b.evaluate(x, from);
        let (skip, out) = boundary(settings, from);
        let mut terms = vec![(to.alpha() * out, model.original), (to.alpha() * skip, x)];
        if to.sigma() > 0.0 {
            let noise = b.noise(from.level.ratio(), to.level.ratio());
            terms.push((to.sigma() * settings.options.s_noise, noise));
        }
        x = b.combine(&terms);
        b.end_step(x);
    }
}

/// The boundary conditions c_skip and c_out: at timestep 0 the answer is x itself. They count in the timesteps and the
/// x of a variance-preserving model; elsewhere σ goes to 0 with the noise, and the prediction is right there by itself.
fn boundary(settings: &Settings<'_>, from: Node) -> (f64, f64) {
    const SIGMA_DATA: f64 = 0.5;
    match (&settings.grid.levels, settings.grid.coordinates) {
        (Levels::Discrete { .. }, Coordinates::Model) => {
            let scaled = from.timestep * settings.config.timestep_scaling;
            let norm = libm::hypot(scaled, SIGMA_DATA);
            ((SIGMA_DATA / norm).powi(2), scaled / norm)
        }
        _ => (0.0, 1.0),
    }
}

/// Zheng et al. 2024 (arXiv:2402.19159), algorithm 4, strategic stochastic sampling; γ is `eta`. Same numbers as
/// diffusers' `TCDScheduler.step`.
fn tcd(b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
    let (grid, gamma) = (settings.grid, settings.eta(0.3));
    for (i, (from, to)) in grid.steps().enumerate() {
        let model = b.evaluate(x, from);
        let last = i + 1 == grid.len();
        // Down to s with the model, then up to the next node with noise.
        let s = if gamma > 0.0 && !last { below(grid, to, gamma) } else { to };
        let ratio = to.alpha() / s.alpha();
        let mut terms = vec![(to.alpha(), model.original), (ratio * s.sigma(), model.epsilon)];
        if gamma > 0.0 && !last {
            let variance = to.sigma().powi(2) - (ratio * s.sigma()).powi(2);
            let noise = b.noise(from.level.ratio(), to.level.ratio());
            terms.push((variance.max(0.0).sqrt() * settings.options.s_noise, noise));
        }
        x = b.combine(&terms);
        b.end_step(x);
    }
}

/// The place s = (1 − γ)·t, where t is counted in a table's timesteps, which diffusers keeps whole, or else in σ.
fn below(grid: &Grid, to: Node, gamma: f64) -> Node {
    match (&grid.levels, grid.coordinates) {
        (Levels::Discrete { .. }, coordinates) => {
            // torch multiplies in `f32`.
            let timestep = ((1.0 - gamma) as f32 * to.timestep as f32).floor();
            match coordinates {
                Coordinates::Model => grid.at_timestep(timestep as usize),
                Coordinates::VarianceExploding => {
                    let timestep = f64::from(timestep);
                    grid.node(timestep, grid.levels.sigma(timestep))
                }
            }
        }
        _ => grid.at_sigma((1.0 - gamma) * to.sigma()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::mixture::equals_golden;

    #[test]
    fn trajectories_equal_diffusers() {
        equals_golden("consistency");
    }
}
