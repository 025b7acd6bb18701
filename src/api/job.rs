//! A job: one submitted request, from the queue to its result.
//!
//! States only move forward: queued → text → encode → denoise → decode → finished (done, failed or cancelled).

use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::image::Image;
use super::request::{GuideFn, ProgressFn};
use super::session::Session;
use crate::pipeline::request::{Observer, Predictions, Sampler, Stage, TokenCount};
use crate::util::cancel::Cancel;
use crate::util::error::{Error, Result, bail, error};

/// Where a job is, in the order in which it passes them. The numbers never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i32)]
pub enum JobStage {
    Queued = 0,
    Text = 1,
    /// Only where a job starts from a picture.
    Encode = 2,
    Denoise = 3,
    Decode = 4,
    Finished = 5,
}

/// A moment in a job's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub stage: JobStage,
    /// Denoising steps done.
    pub step: u32,
    /// Denoising steps in all; 0 until the job runs.
    pub steps: u32,
    /// Time since the job was submitted; stands still once it is finished.
    pub elapsed: Duration,
}

/// What a finished job says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Images the job made; 0 if only latents were asked for.
    pub image_count: u32,
    pub width: u32,
    pub height: u32,
    pub prompt: TokenCount,
    pub negative_prompt: TokenCount,
    /// The sampler that ran.
    pub sampler: Sampler,
    /// Steps taken: image-to-image goes only the end of the way.
    pub steps: u32,
    /// The seed of image 0.
    pub seed: u64,
    pub text_time: Duration,
    pub denoise_time: Duration,
    pub decode_time: Duration,
    /// Time from start to finish, without the time in the queue.
    pub total_time: Duration,
}

/// What a job leaves behind.
pub(super) struct Outcome {
    pub(super) report: Report,
    pub(super) images: Vec<Image>,
    pub(super) latents: Vec<Vec<f32>>,
}

/// One submitted request. Dropping it cancels it and waits until its progress function can no longer run.
///
/// Drop a job inside a progress or log function of its own session and there is no wait, which would never end;
/// the progress function is then not called again.
pub struct Job {
    core: Arc<Core>,
    session: Session,
}

impl Job {
    pub(super) fn new(core: Arc<Core>, session: Session) -> Self {
        Self { core, session }
    }

    /// `None` while the job is not finished, then how it ended.
    pub fn status(&self) -> Option<Result<()>> {
        self.core.lock().status()
    }

    /// Waits until the job is finished, but no longer than `timeout` (`None` = as long as it takes).
    /// Returns [`Job::status`].
    ///
    /// # Errors
    /// `InvalidState` in a progress or log function of the job's own session: the job cannot go on until that
    /// function returns.
    pub fn wait(&self, timeout: Option<Duration>) -> Option<Result<()>> {
        let state = self.core.lock();
        if state.finished.is_some() || timeout == Some(Duration::ZERO) {
            return state.status();
        }
        if self.session.is_current_thread() {
            return Some(Err(error!(
                InvalidState,
                "a job cannot be waited for inside a callback of its session"
            )));
        }
        let changed = &self.core.changed;
        let state = match timeout {
            None => {
                changed.wait_while(state, |s| s.finished.is_none()).unwrap_or_else(PoisonError::into_inner)
            }
            Some(timeout) => {
                let result = changed.wait_timeout_while(state, timeout, |s| s.finished.is_none());
                result.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        state.status()
    }

    /// Where the job is now.
    pub fn progress(&self) -> Progress {
        self.core.progress()
    }

    /// Asks the job to stop, from any thread. A job that waits in the queue is finished at once, a running one
    /// soon; one that is finished stays as it is.
    pub fn cancel(&self) {
        self.core.cancel.cancel();
        if self.session.withdraw(&self.core) {
            self.core.finish(Err(cancelled()));
        }
    }

    /// Facts about the finished job.
    ///
    /// # Errors
    /// `InvalidState` before the job is done; the job's own error if it failed.
    pub fn report(&self) -> Result<Report> {
        Ok(self.outcome()?.report)
    }

    /// Image `index` of the batch. Images are shared: this may be called again.
    ///
    /// # Errors
    /// As [`Job::report`]; `InvalidArgument` if there is no such image.
    pub fn image(&self, index: u32) -> Result<Image> {
        let outcome = self.outcome()?;
        match outcome.images.get(index as usize) {
            Some(image) => Ok(image.clone()),
            None => bail!(InvalidArgument, "index {index}: the job made {} images", outcome.images.len()),
        }
    }

    /// Number of values that [`Job::copy_latents`] gives: channels · height / f · width / f.
    ///
    /// # Errors
    /// As [`Job::report`].
    pub fn latents_len(&self) -> Result<usize> {
        Ok(self.outcome()?.latents.first().map_or(0, Vec::len))
    }

    /// Copies the final latents of image `index`, `[channels, height / f, width / f]` scaled as the U-Net sees
    /// them (diffusers' `output_type="latent"`), to the start of `dst`.
    ///
    /// # Errors
    /// As [`Job::report`]; `InvalidArgument` if there is no such image; `BufferTooSmall` if `dst` is shorter.
    pub fn copy_latents(&self, index: u32, dst: &mut [f32]) -> Result<()> {
        let outcome = self.outcome()?;
        let Some(latents) = outcome.latents.get(index as usize) else {
            bail!(
                InvalidArgument,
                "index {index}: the job made latents for {} images",
                outcome.latents.len()
            );
        };
        let Some(target) = dst.get_mut(..latents.len()) else {
            bail!(BufferTooSmall, "latents: {} floats do not fit into {}", latents.len(), dst.len());
        };
        target.copy_from_slice(latents);
        Ok(())
    }

    fn outcome(&self) -> Result<Arc<Outcome>> {
        match &self.core.lock().finished {
            None => bail!(InvalidState, "the job is not finished"),
            Some((_, result)) => result.clone(),
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.cancel();
        if !self.session.is_current_thread() {
            self.wait(None);
        }
    }
}

/// The part of a job that its session's thread works with.
pub(super) struct Core {
    pub(super) cancel: Cancel,
    submitted: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    stage: JobStage,
    step: u32,
    steps: u32,
    /// How long the job took since it was submitted, and how it ended.
    finished: Option<(Duration, Result<Arc<Outcome>>)>,
}

impl State {
    fn status(&self) -> Option<Result<()>> {
        self.finished.as_ref().map(|(_, result)| result.as_ref().map(|_| ()).map_err(Error::clone))
    }
}

impl Core {
    pub(super) fn new() -> Self {
        Self {
            cancel: Cancel::default(),
            submitted: Instant::now(),
            state: Mutex::new(State { stage: JobStage::Queued, step: 0, steps: 0, finished: None }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> Progress {
        let state = self.lock();
        Progress {
            stage: state.stage,
            step: state.step,
            steps: state.steps,
            elapsed: state
                .finished
                .as_ref()
                .map_or_else(|| self.submitted.elapsed(), |(elapsed, _)| *elapsed),
        }
    }

    fn advance(&self, stage: JobStage, step: u32, steps: u32) {
        let mut state = self.lock();
        state.stage = state.stage.max(stage);
        state.step = state.step.max(step);
        state.steps = steps;
    }

    /// Ends the job. The first end counts.
    pub(super) fn finish(&self, result: Result<Outcome>) {
        let mut state = self.lock();
        if state.finished.is_none() {
            state.stage = JobStage::Finished;
            state.finished = Some((self.submitted.elapsed(), result.map(Arc::new)));
            self.changed.notify_all();
        }
    }
}

/// Tells a job, and whoever listens to it, what the pipeline does.
pub(super) struct Watcher<'a> {
    pub(super) core: &'a Core,
    pub(super) callback: Option<&'a ProgressFn>,
    pub(super) guide: Option<&'a GuideFn>,
}

impl Observer for Watcher<'_> {
    fn progress(&mut self, stage: Stage, step: u32, steps: u32) -> Result<()> {
        self.core.cancel.check()?;
        let stage = match stage {
            Stage::Text => JobStage::Text,
            Stage::Encode => JobStage::Encode,
            Stage::Denoise => JobStage::Denoise,
            Stage::Decode => JobStage::Decode,
        };
        self.core.advance(stage, step, steps);
        if let Some(callback) = self.callback
            && callback(&self.core.progress()) == ControlFlow::Break(())
        {
            self.core.cancel.cancel();
        }
        self.core.cancel.check()
    }

    fn guide(&mut self, predictions: &Predictions<'_>, out: &mut [f32]) -> Result<bool> {
        let Some(guide) = self.guide else { return Ok(false) };
        if guide(predictions, out) == ControlFlow::Break(()) {
            self.core.cancel.cancel();
        }
        self.core.cancel.check()?;
        Ok(true)
    }
}

fn cancelled() -> Error {
    error!(Cancelled, "the job was cancelled")
}
