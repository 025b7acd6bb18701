//! Which of the training timesteps a sampler visits.

use super::{SchedulerConfig, TimestepSpacing};
use crate::util::error::{Result, bail};

/// How diffusers' classes read a [`TimestepSpacing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spread {
    /// Whole timesteps from the first to the last (`DDIMScheduler` and its kin).
    Whole,
    /// The same, but linspace keeps its fractions (`EulerDiscreteScheduler` and its kin).
    Exact,
    /// Whole timesteps of a schedule of one step more, without its last (`DPMSolverMultistepScheduler` and its kin).
    OneMore,
}

/// Fails with `InvalidArgument` for no steps, or more than a model has training timesteps.
pub(super) fn check_steps(train_steps: usize, steps: usize) -> Result<()> {
    if steps == 0 || steps > train_steps {
        bail!(InvalidArgument, "steps {steps} is not in 1..={train_steps}, the model's training timesteps");
    }
    Ok(())
}

/// The `steps` timesteps of a spacing, noisiest first, as diffusers' `set_timesteps`.
///
/// Fails with `InvalidArgument` when the schedule does not have that many timesteps.
pub(super) fn timesteps(
    config: &SchedulerConfig,
    spread: Spread,
    spacing: TimestepSpacing,
    steps: usize,
) -> Result<Vec<f64>> {
    let train_steps = config.num_train_timesteps;
    check_steps(train_steps, steps)?;
    let last = (train_steps - 1) as f64;
    let timesteps: Vec<f64> = match (spacing, spread) {
        (TimestepSpacing::Linspace, Spread::Whole) => {
            linspace(last, steps).map(f64::round_ties_even).collect()
        }
        (TimestepSpacing::Linspace, Spread::Exact) => {
            // diffusers hands them to the model in `f32`, and looks their σ up by that.
            linspace(last, steps).map(|t| f64::from(t as f32)).collect()
        }
        (TimestepSpacing::Linspace, Spread::OneMore) => {
            linspace(last, steps + 1).take(steps).map(f64::round_ties_even).collect()
        }
        (TimestepSpacing::Leading, Spread::Whole | Spread::Exact) => {
            let stride = train_steps / steps;
            (0..steps).rev().map(|i| (i * stride + config.steps_offset) as f64).collect()
        }
        (TimestepSpacing::Leading, Spread::OneMore) => {
            let stride = train_steps / (steps + 1);
            (1..=steps).rev().map(|i| (i * stride + config.steps_offset) as f64).collect()
        }
        (TimestepSpacing::Trailing, _) => {
            // numpy's `arange(T, 0, -stride)` takes its step from the first two values it has rounded.
            let start = train_steps as f64;
            let step = (start - start / steps as f64) - start;
            (0..steps).map(|i| (start + i as f64 * step).round_ties_even() - 1.0).collect()
        }
    };
    match timesteps.first() {
        Some(&first) if first > last => bail!(
            InvalidArgument,
            "steps {steps}, spaced leading from the model's steps_offset {}, run past its {train_steps} timesteps",
            config.steps_offset
        ),
        _ => Ok(timesteps),
    }
}

/// The timesteps of a model distilled by consistency: evenly chosen, as far as they go, from those of the
/// `original_inference_steps` that it was distilled with, noisiest first, as `LCMScheduler.set_timesteps`.
///
/// Fails with `InvalidArgument` when there are not that many.
pub(super) fn lcm_timesteps(config: &SchedulerConfig, steps: usize) -> Result<Vec<f64>> {
    let (train_steps, original) = (config.num_train_timesteps, config.original_inference_steps);
    if original == 0 || original > train_steps {
        bail!(
            Format,
            "original_inference_steps {original} is not in 1..={train_steps}, the training timesteps"
        );
    }
    if steps == 0 || steps > original {
        bail!(
            InvalidArgument,
            "steps {steps} is not in 1..={original}, the model's original_inference_steps"
        );
    }
    let (stride, every) = (train_steps / original, original as f64 / steps as f64);
    Ok((0..steps).map(|i| ((original - (i as f64 * every) as usize) * stride - 1) as f64).collect())
}

/// numpy's `linspace(0, last, count)`, from its end.
fn linspace(last: f64, count: usize) -> impl Iterator<Item = f64> {
    let stride = if count > 1 { last / (count - 1) as f64 } else { 0.0 };
    (0..count).rev().map(move |i| if i + 1 == count && i > 0 { last } else { i as f64 * stride })
}
