//! DPM-Solver++ over the reverse-time SDE: as much fresh noise as η says, drawn from a Brownian path.

use super::super::Profile;
use super::super::config::{AlgorithmType, SolverType};
use super::super::plan::Settings;
use super::super::program::{Builder, Value};
use super::super::sampler::Sampler;
use super::dpmpp::{Multistep, ancestral, towards};

pub(super) fn write(b: &mut Builder, x: Value, settings: &Settings<'_>) {
    match settings.sampler {
        Sampler::DpmppSde => two_s(b, x, settings),
        Sampler::Dpmpp3mSde => three_m(b, x, settings),
        Sampler::Dpmpp2mSdeHeun => two_m(b, x, settings, SolverType::Heun),
        _ => two_m(b, x, settings, SolverType::Midpoint),
    }
}

/// SDE-DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095). Same numbers as k-diffusion's
/// `sample_dpmpp_2m_sde`, and as diffusers' `DPMSolverMultistepScheduler` of `algorithm_type` "sde-dpmsolver++".
fn two_m(b: &mut Builder, x: Value, settings: &Settings<'_>, solver_type: SolverType) {
    let multistep = match settings.options.profile {
        Profile::Diffusers => Multistep {
            order: settings.config.solver_order.clamp(1, 2),
            eta: settings.eta(1.0),
            solver_type,
            algorithm_type: AlgorithmType::DataPrediction,
            lowers_order: true,
        },
        Profile::A1111 | Profile::ComfyUi => Multistep::k_diffusion(2, settings.eta(1.0), solver_type),
    };
    multistep.write(b, x, settings);
}

/// Same numbers as k-diffusion's `sample_dpmpp_3m_sde`.
fn three_m(b: &mut Builder, x: Value, settings: &Settings<'_>) {
    Multistep::k_diffusion(3, settings.eta(1.0), SolverType::Heun).write(b, x, settings);
}

/// SDE-DPM-Solver++(2S) with its midpoint at r = ½, whose prediction is the one that counts. Same numbers as
/// k-diffusion's `sample_dpmpp_sde` and diffusers' `DPMSolverSDEScheduler`, but for the noise's own.
fn two_s(b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
    let (eta, s_noise) = (settings.eta(1.0), settings.options.s_noise);
    for (from, to) in settings.grid.steps() {
        let (ratio, ratio_to) = (from.level.ratio(), to.level.ratio());
        let mut original = b.evaluate(x, from).original;
        // λ has no midpoint where it is infinite: without signal before the step, or without noise after it.
        if ratio_to > 0.0 && ratio.is_finite() {
            let middle = settings.grid.at_ratio((ratio * ratio_to).sqrt());
            let (down, up) = ancestral(ratio, middle.level.ratio(), eta);
            let mut terms = towards(x, original, from, middle, down).to_vec();
            if up > 0.0 {
                terms.push((middle.alpha() * up * s_noise, b.noise(ratio, middle.level.ratio())));
            }
            let x_middle = b.combine(&terms);
            original = b.evaluate(x_middle, middle).original;
        }
        let (down, up) = ancestral(ratio, ratio_to, eta);
        let mut terms = towards(x, original, from, to, down).to_vec();
        if up > 0.0 {
            terms.push((to.alpha() * up * s_noise, b.noise(ratio, ratio_to)));
        }
        x = b.combine(&terms);
        b.end_step(x);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::mixture::equals_golden;

    #[test]
    fn trajectories_equal_k_diffusion_and_diffusers() {
        equals_golden("dpmpp-sde");
    }
}
