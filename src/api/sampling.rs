//! A sampler on its own: for hosts that bring their own network and their own loop.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use super::schedule::Schedule;
pub use crate::sampling::{
    Clip, Evaluation, Noise, Options, Plan, PredictionType, Profile, SAMPLERS, SIGMA_SCHEDULES, SamplerInfo,
    SigmaSchedule,
};
use crate::sampling::{Denoise, NoiseSource, NoiseStream, Run};
use crate::util::buffer;
use crate::util::error::{Error, Result, bail, error};
use crate::util::limits;

/// Gives a sampler noise in place of its own: fills a batch `[images, values of one image]` for the way between two
/// noise-to-signal ratios (`from`, `to`, images, out). `Break` stops the sampler.
pub type NoiseFn = Arc<dyn Fn(f64, f64, usize, &mut [f32]) -> ControlFlow<()> + Send + Sync>;

/// What a sampler works on, and where its noise comes from.
#[derive(Clone)]
pub struct Batch {
    pub images: usize,
    /// Values of one image.
    pub values: usize,
    pub noise: Noise,
    /// One an image.
    pub seeds: Vec<u64>,
    /// `None` = fresh noise goes on from the seeds' streams.
    pub fresh: Option<NoiseFn>,
}

impl Batch {
    /// Whether so many images of so many values can be sampled.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub fn check_size(images: usize, values: usize) -> Result<()> {
        if images == 0 || images > limits::SAMPLER_IMAGES {
            bail!(InvalidArgument, "images {images} is not in 1..={}", limits::SAMPLER_IMAGES);
        }
        if values == 0 {
            bail!(InvalidArgument, "values is 0");
        }
        if images.checked_mul(values).is_none_or(|len| len > isize::MAX as usize / 8) {
            bail!(InvalidArgument, "{images} images of {values} values are too many");
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let Self { images, values, seeds, .. } = self;
        Self::check_size(*images, *values)?;
        if seeds.len() != *images {
            bail!(InvalidArgument, "{} seeds for {images} images", seeds.len());
        }
        Ok(())
    }
}

/// A plan and the run that carries it out, for one caller at a time: a call that meets another one is `Busy`.
pub struct Stepper {
    plan: Arc<Plan>,
    batch: Batch,
    /// Image-to-image: the way begins in its middle.
    is_cut: bool,
    steps_done: AtomicUsize,
    under_way: Mutex<Option<UnderWay>>,
}

struct UnderWay {
    run: Run,
    /// The model was asked since the last step ended: the latents are in use.
    in_step: bool,
    failure: Failure,
}

/// What a host's noise function did wrong, kept until the run can tell.
type Failure = Arc<Mutex<Option<Error>>>;

impl Stepper {
    /// Plans the steps of `options` for a model of this schedule. `solver_order` overrides the schedule's.
    ///
    /// # Errors
    /// `InvalidArgument` for options out of range; those of [`Plan::new`].
    pub fn new(
        schedule: &Schedule,
        options: &Options,
        solver_order: Option<usize>,
        batch: Batch,
    ) -> Result<Self> {
        batch.check()?;
        if options.steps == 0 || options.steps > limits::SAMPLER_STEPS {
            bail!(InvalidArgument, "steps {} is not in 1..={}", options.steps, limits::SAMPLER_STEPS);
        }
        match options.clip {
            Some(Clip::Range(range)) if !(range > 0.0 && range.is_finite()) => {
                bail!(InvalidArgument, "clip_range {range} is not a finite number above 0");
            }
            Some(Clip::Dynamic { ratio, max })
                if !(ratio > 0.0 && ratio <= 1.0 && max >= 1.0 && max.is_finite()) =>
            {
                bail!(InvalidArgument, "clip_ratio {ratio} is not in 0..1, or clip_range {max} is below 1");
            }
            _ => {}
        }
        let plan = match solver_order {
            None => Plan::new(schedule.config(), options)?,
            Some(order) if (1..=3).contains(&order) => {
                let mut config = schedule.config().clone();
                config.solver_order = order;
                Plan::new(&config, options)?
            }
            Some(order) => bail!(InvalidArgument, "solver_order {order} is not in 1..=3"),
        };
        Ok(Self {
            plan: Arc::new(plan),
            batch,
            is_cut: options.strength.is_some(),
            steps_done: AtomicUsize::new(0),
            under_way: Mutex::new(None),
        })
    }

    /// The steps, before and while they are taken.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn images(&self) -> usize {
        self.batch.images
    }

    /// Values of one image.
    pub fn values(&self) -> usize {
        self.batch.values
    }

    /// Values of the whole batch.
    pub fn len(&self) -> usize {
        self.batch.images * self.batch.values
    }

    /// Never: a batch has at least one value.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// How many steps are done. Any thread may look at any time.
    pub fn steps_done(&self) -> usize {
        self.steps_done.load(Ordering::Acquire)
    }

    /// Begins, or begins anew, from `latents` at [`Plan::level`] 0, or from the noise of the seeds.
    ///
    /// # Errors
    /// `InvalidArgument` for latents of another length or that are not finite, or none for a sampler with a strength;
    /// `OutOfMemory`; `Busy`.
    pub fn start(&self, latents: Option<&[f32]>) -> Result<()> {
        let mut under_way = self.lock()?;
        let mut streams = self.streams()?;
        let latents = match latents {
            Some(latents) => self.copy(latents, "latents")?,
            None if self.is_cut => {
                bail!(InvalidArgument, "latents is NULL: a sampler with a strength starts from pictures")
            }
            None => {
                let scale = self.plan.init_noise_sigma();
                let mut latents = self.first_noise(&mut streams)?;
                latents.iter_mut().for_each(|x| *x *= scale);
                latents
            }
        };
        self.begin(&mut under_way, latents, streams)
    }

    /// Begins from pictures: [`Plan::level`] 0 says how much is left of `originals` under the noise of the seeds.
    ///
    /// # Errors
    /// As [`Stepper::start`].
    pub fn start_from(&self, originals: &[f32]) -> Result<()> {
        let mut under_way = self.lock()?;
        let mut latents = self.copy(originals, "originals")?;
        let mut streams = self.streams()?;
        let noise = self.first_noise(&mut streams)?;
        let level = self.plan.level(0);
        for (x, noise) in latents.iter_mut().zip(noise) {
            *x = (level.alpha * f64::from(*x) + level.sigma * f64::from(noise)) as f32;
        }
        self.begin(&mut under_way, latents, streams)
    }

    /// Takes one step, asking `denoise` as often as the sampler needs; `false` if none is left to take.
    ///
    /// # Errors
    /// `InvalidState` before the start; `Busy`, which `denoise` gets from this very sampler; those of `denoise` and
    /// `Numeric`, after which the step can be gone on with; those of a host's noise, after which the sampler must be
    /// started anew.
    pub fn step(&self, denoise: &mut Denoise<'_>) -> Result<bool> {
        self.with_run(|under_way| {
            if under_way.run.is_done() {
                return Ok(false);
            }
            let failure = under_way.failure.clone();
            under_way.in_step = true;
            under_way.run.step(&mut |evaluation, prediction, unconditional| {
                if has_failed(&failure) {
                    bail!(Cancelled, "the noise callback stopped the sampler");
                }
                denoise(evaluation, prediction, unconditional)
            })?;
            under_way.in_step = false;
            Ok(true)
        })
    }

    /// The next question to the model, the same until it is answered; `None` when every step is done. Its input stays
    /// where it is until the next call but [`Stepper::copy_latents`].
    ///
    /// # Errors
    /// As [`Stepper::step`].
    pub fn ask<T>(&self, read: impl FnOnce(Evaluation<'_>) -> T) -> Result<Option<T>> {
        self.with_run(|under_way| {
            let answer = under_way.run.ask()?.map(read);
            under_way.in_step = answer.is_some();
            Ok(answer)
        })
    }

    /// Answers [`Stepper::ask`]; see [`Run::tell`].
    ///
    /// # Errors
    /// `InvalidState` without a question; `InvalidArgument` for a wrong length and `Numeric` for a value that is not
    /// finite, after which the question stands; as [`Stepper::step`].
    pub fn tell(&self, prediction: &[f32], unconditional: &[f32]) -> Result<()> {
        self.with_run(|under_way| {
            let step = under_way.run.step_index();
            under_way.run.tell(prediction, unconditional)?;
            under_way.in_step = under_way.run.step_index() == step;
            Ok(())
        })
    }

    /// Copies the latents after the steps done so far, at [`Plan::level`] [`Stepper::steps_done`].
    ///
    /// # Errors
    /// `InvalidState` before the start; `Busy`.
    pub fn copy_latents(&self, out: &mut [f32]) -> Result<()> {
        let mut guard = self.lock()?;
        let latents = started(&mut guard)?.run.latents();
        if out.len() != latents.len() {
            bail!(InvalidArgument, "{} latents do not fit into {}", latents.len(), out.len());
        }
        out.copy_from_slice(latents);
        Ok(())
    }

    /// Replaces the latents between two steps.
    ///
    /// # Errors
    /// `InvalidArgument` for another length, `Numeric` for values that are not finite; `InvalidState` before the start
    /// and while a question of the step stands; `Busy`.
    pub fn set_latents(&self, latents: &[f32]) -> Result<()> {
        self.check(latents, "latents")?;
        let mut guard = self.lock()?;
        let under_way = started(&mut guard)?;
        if under_way.in_step {
            bail!(InvalidState, "the latents are in use: step {} has begun", under_way.run.step_index());
        }
        under_way.run.latents_mut().copy_from_slice(latents);
        Ok(())
    }

    fn lock(&self) -> Result<MutexGuard<'_, Option<UnderWay>>> {
        match self.under_way.try_lock() {
            Ok(guard) => Ok(guard),
            Err(TryLockError::WouldBlock) => bail!(Busy, "the sampler is in use by another call"),
            Err(TryLockError::Poisoned(guard)) => {
                // An internal error went through it: what it left is not to be trusted.
                let mut guard = guard.into_inner();
                *guard = None;
                self.steps_done.store(0, Ordering::Release);
                self.under_way.clear_poison();
                Ok(guard)
            }
        }
    }

    fn with_run<T>(&self, body: impl FnOnce(&mut UnderWay) -> Result<T>) -> Result<T> {
        let mut guard = self.lock()?;
        let under_way = started(&mut guard)?;
        let result = body(under_way);
        self.steps_done.store(under_way.run.step_index(), Ordering::Release);
        let failure = under_way.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(error) = failure {
            *guard = None;
            self.steps_done.store(0, Ordering::Release);
            return Err(error);
        }
        result
    }

    fn begin(
        &self,
        under_way: &mut Option<UnderWay>,
        latents: Vec<f32>,
        streams: Vec<NoiseStream>,
    ) -> Result<()> {
        let Batch { images, .. } = self.batch;
        let failure = Failure::default();
        let source: Box<dyn NoiseSource + Send> = match &self.batch.fresh {
            Some(draw) => Box::new(HostNoise { draw: draw.clone(), failure: failure.clone() }),
            None => self.plan.noise_source(streams, &self.batch.seeds, self.len())?,
        };
        let run = Run::new(self.plan.clone(), latents, images, source)?;
        *under_way = Some(UnderWay { run, in_step: false, failure });
        self.steps_done.store(0, Ordering::Release);
        Ok(())
    }

    fn streams(&self) -> Result<Vec<NoiseStream>> {
        let mut streams = buffer::reserve(self.batch.images, "a sampler's streams of noise")?;
        streams.extend(self.batch.seeds.iter().map(|seed| NoiseStream::new(self.batch.noise, *seed)));
        Ok(streams)
    }

    /// Unit noise, each image from its stream.
    fn first_noise(&self, streams: &mut [NoiseStream]) -> Result<Vec<f32>> {
        let mut noise = buffer::zeros(self.len(), "a sampler")?;
        for (stream, image) in streams.iter_mut().zip(noise.chunks_mut(self.batch.values)) {
            stream.normal(image);
        }
        Ok(noise)
    }

    fn copy(&self, values: &[f32], name: &str) -> Result<Vec<f32>> {
        self.check(values, name)?;
        buffer::copy(values, "a sampler")
    }

    fn check(&self, values: &[f32], name: &str) -> Result<()> {
        if values.len() != self.len() {
            bail!(InvalidArgument, "{name} has {} values, not {}", values.len(), self.len());
        }
        check_finite(values, name)
    }
}

fn started(under_way: &mut Option<UnderWay>) -> Result<&mut UnderWay> {
    under_way.as_mut().ok_or_else(|| error!(InvalidState, "the sampler is not started"))
}

fn check_finite(values: &[f32], name: &str) -> Result<()> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(i) => bail!(Numeric, "{name}[{i}] is {}", values[i]),
        None => Ok(()),
    }
}

fn has_failed(failure: &Failure) -> bool {
    failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

/// A host's noise function as a source. Sources cannot fail, so it leaves its first error for the run to find.
struct HostNoise {
    draw: NoiseFn,
    failure: Failure,
}

impl NoiseSource for HostNoise {
    fn draw(&mut self, from: f64, to: f64, images: usize, out: &mut [f32]) {
        out.fill(0.0);
        if has_failed(&self.failure) {
            return;
        }
        let result = match (self.draw)(from, to, images, out) {
            ControlFlow::Break(()) => Err(error!(Cancelled, "the noise callback stopped the sampler")),
            ControlFlow::Continue(()) => check_finite(out, "the noise callback's out"),
        };
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = result.err();
    }
}

/// Fills `out` with standard normal noise as one call of `torch.randn` with this seed does.
pub fn fill_noise(noise: Noise, seed: u64, out: &mut [f32]) {
    NoiseStream::new(noise, seed).normal(out);
}
