//! Guidance on its own: combines the raw predictions of a host's network.

use std::sync::{Mutex, MutexGuard, TryLockError};

use crate::sampling::guidance::Guidance;
pub use crate::sampling::guidance::{GuidanceMethod, GuidanceOptions, Needs, Predictions};
use crate::util::error::{Result, bail};
use crate::util::limits;

/// One request's guidance, for one caller at a time: a call that meets another one is `Busy`.
pub struct Guider {
    steps: usize,
    len: usize,
    guidance: Mutex<Guidance>,
}

impl Guider {
    /// For `steps` steps of `images` images of `values` values each. `always_unconditional`: the sampler needs the
    /// unconditional prediction at every step.
    ///
    /// # Errors
    /// `InvalidArgument` for options or sizes out of range; `OutOfMemory`.
    pub fn new(
        options: &GuidanceOptions,
        steps: usize,
        [images, values]: [usize; 2],
        always_unconditional: bool,
    ) -> Result<Self> {
        if steps == 0 || steps > limits::SAMPLER_STEPS {
            bail!(InvalidArgument, "steps {steps} is not in 1..={}", limits::SAMPLER_STEPS);
        }
        super::sampling::Batch::check_size(images, values)?;
        let guidance = Guidance::new(options, steps, images, values, always_unconditional)?;
        Ok(Self { steps, len: images * values, guidance: Mutex::new(guidance) })
    }

    /// Values of the whole batch.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a batch has at least one value.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Which predictions a step takes besides the conditional one.
    ///
    /// # Errors
    /// `InvalidArgument` for a step past the last; `Busy`.
    pub fn needs(&self, step: usize) -> Result<Needs> {
        self.check(step)?;
        Ok(self.lock()?.needs(step))
    }

    /// Writes the guided prediction to `out`.
    ///
    /// # Errors
    /// `InvalidArgument` for a step past the last, a prediction that is missing or of another length; `Busy`.
    pub fn combine(&self, predictions: &Predictions<'_>, out: &mut [f32]) -> Result<()> {
        self.check(predictions.step)?;
        if out.len() != self.len {
            bail!(InvalidArgument, "predictions of {} values, not {}", out.len(), self.len);
        }
        self.lock()?.combine(predictions, out)
    }

    fn check(&self, step: usize) -> Result<()> {
        if step >= self.steps {
            bail!(InvalidArgument, "step {step} is not below the {} steps", self.steps);
        }
        Ok(())
    }

    fn lock(&self) -> Result<MutexGuard<'_, Guidance>> {
        match self.guidance.try_lock() {
            Ok(guidance) => Ok(guidance),
            Err(TryLockError::Poisoned(guidance)) => Ok(guidance.into_inner()),
            Err(TryLockError::WouldBlock) => bail!(Busy, "the guidance is in use by another call"),
        }
    }
}
