//! A session: one thread that runs the jobs submitted to it, in order.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::backend::AnyPipeline;
use super::image::Image;
use super::job::{Core, Job, Outcome, Report, Watcher};
use super::metadata::metadata;
use super::model::Model;
use super::request::{GuideFn, ProgressFn, Request};

use crate::pipeline::request as pipeline;
use crate::util::error::{Error, Result, Status, bail, error};
use crate::util::panic;
use crate::util::thread::spawn;

/// Jobs that may wait behind the running one unless the session says otherwise.
const DEFAULT_QUEUE_LIMIT: u32 = 16;

/// How to make a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionOptions {
    /// Jobs that may wait behind the running one; 0 = 16.
    pub queue_limit: u32,
}

/// Runs jobs one after another on a thread and in memory of its own. Sessions of one model share its weights
/// and run side by side. Cheap to clone; clones are the same session. Keeps its model alive, as jobs keep it.
///
/// An `Internal` error of a job (a panic, on whatever thread) is a bug of the library. The session, whose memory
/// may be half changed, refuses jobs with `InvalidState` from then on; other sessions are not touched.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    model: Model,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the session and its thread both see. The thread does not hold the session, or neither would ever end.
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    limit: usize,
    submitted: AtomicU64,
    #[cfg(feature = "fault-injection")]
    planted: Mutex<Option<Plant>>,
}

/// Where a planted panic happens.
#[cfg(feature = "fault-injection")]
enum Plant {
    Session,
    Compute,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Task>,
    running: bool,
    closed: bool,
    poisoned: bool,
}

struct Task {
    number: u64,
    core: Arc<Core>,
    request: pipeline::Request,
    callback: Option<ProgressFn>,
    guide: Option<GuideFn>,
}

impl Session {
    /// Starts the session's thread.
    ///
    /// # Errors
    /// `OutOfMemory` if the system gives no thread or no memory.
    pub fn new(model: &Model, options: SessionOptions) -> Result<Self> {
        let limit = if options.queue_limit == 0 { DEFAULT_QUEUE_LIMIT } else { options.queue_limit };
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            limit: limit as usize,
            submitted: AtomicU64::new(0),
            #[cfg(feature = "fault-injection")]
            planted: Mutex::default(),
        });
        let runner =
            Runner { shared: shared.clone(), pipeline: model.pipeline().session()?, model: model.clone() };
        let thread = spawn("diffusion-job".to_owned(), move || runner.run())
            .map_err(|cause| error!(OutOfMemory, "session: cannot start a thread: {cause}"))?;
        model.engine().log().info(format_args!("session: new, queue limit {limit}"));
        Ok(Self(Arc::new(Inner { model: model.clone(), shared, thread: Some(thread) })))
    }

    /// Queues a copy of `request`.
    ///
    /// # Errors
    /// The request's first failed setting; `InvalidArgument` if it is for another model or asks for something the
    /// model cannot do; `Busy` if the queue is full; `InvalidState` after an internal error.
    pub fn submit(&self, request: &Request) -> Result<Job> {
        if let Some(error) = request.first_error() {
            return Err(error.clone());
        }
        let Inner { model, shared, .. } = &*self.0;
        if !request.model().same(model) {
            bail!(InvalidArgument, "the request was made for another model than the session");
        }
        let values = request.values();
        model.pipeline().check(values)?;
        let number = shared.submitted.fetch_add(1, Ordering::Relaxed) + 1;
        let core = Arc::new(Core::new());
        let task = Task {
            number,
            core: core.clone(),
            request: values.clone(),
            callback: request.progress(),
            guide: request.guide(),
        };
        self.log_submit(number, values);
        shared.push(task)?;
        Ok(Job::new(core, self.clone()))
    }

    /// Submits `request`, waits for it and returns its first image.
    ///
    /// # Errors
    /// As [`Session::submit`], and whatever the job fails with; `InvalidArgument` if only latents are asked for;
    /// `InvalidState` in a callback of this session, where the wait would never end.
    pub fn generate(&self, request: &Request) -> Result<Image> {
        if !request.values().decode {
            bail!(InvalidArgument, "option output: latents only, so there would be no image to return");
        }
        if self.is_current_thread() {
            bail!(InvalidState, "a callback cannot wait for another job of its session");
        }
        let job = self.submit(request)?;
        job.wait(None);
        job.image(0)
    }

    /// The model the session runs.
    pub fn model(&self) -> &Model {
        &self.0.model
    }

    /// Makes the next job panic at its start, in a thread that computes or in the session's own. For tests of what
    /// a panic does.
    #[cfg(feature = "fault-injection")]
    pub fn plant_panic(&self, compute: bool) {
        let plant = if compute { Plant::Compute } else { Plant::Session };
        *self.0.shared.planted.lock().unwrap_or_else(PoisonError::into_inner) = Some(plant);
    }

    /// Whether the caller is a callback of this session.
    pub(super) fn is_current_thread(&self) -> bool {
        self.0.is_current_thread()
    }

    /// Takes a job out of the queue, if it is still there.
    pub(super) fn withdraw(&self, core: &Arc<Core>) -> bool {
        let task = {
            let waiting = &mut self.0.shared.lock().waiting;
            let index = waiting.iter().position(|task| Arc::ptr_eq(&task.core, core));
            index.and_then(|index| waiting.remove(index))
        };
        // Dropped here, without the lock: it owns the caller's function.
        task.is_some()
    }

    fn log_submit(&self, number: u64, values: &pipeline::Request) {
        let log = self.0.model.engine().log();
        log.info(format_args!(
            "submit: job {number}, {}x{}, {} steps, guidance_scale {}, seed {}, batch_size {}, sampler {:?}, \
             timestep_spacing {:?}, eta {:?}, noise {:?}, {} latents, decode {}",
            values.width,
            values.height,
            values.steps,
            values.guidance.guidance_scale,
            values.seed,
            values.batch_size,
            values.sampler,
            values.timestep_spacing,
            values.eta,
            values.noise,
            values.latents.as_ref().map_or(0, Vec::len),
            values.decode
        ));
        log.info(format_args!(
            "submit: job {number}, sigma_schedule {:?}, sigmas {:?}, timesteps {:?}, s_churn {}, s_tmin {}, s_tmax {}, \
             s_noise {}, profile {}, image {:?}, mask {:?}, strength {}, variation_seed {}, variation_strength {}, \
             eta_noise_seed_delta {}, dynamic_thresholding_ratio {}, dynamic_thresholding_max {}, guidance {:?}, \
             pag_applied_layers {:?}, perturbation {:?}",
            values.sigma_schedule,
            values.sigmas,
            values.timesteps,
            values.s_churn,
            values.s_tmin,
            values.s_tmax,
            values.s_noise,
            values.profile.name(),
            values.image,
            values.mask,
            values.strength,
            values.variation_seed,
            values.variation_strength,
            values.eta_noise_seed_delta,
            values.dynamic_thresholding_ratio,
            values.dynamic_thresholding_max,
            values.guidance,
            values.pag_applied_layers,
            values.perturbation
        ));
        log.debug(format_args!(
            "submit: job {number}, prompt {:?}, negative_prompt {:?}",
            values.prompt, values.negative_prompt
        ));
    }
}

impl Inner {
    fn is_current_thread(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| thread.thread().id() == thread::current().id())
    }
}

impl Drop for Inner {
    /// Every job is gone by now, for jobs hold the session: the thread is idle, or it is the one that is here
    /// because a callback freed the last object, and then it ends on its own.
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
        if !self.is_current_thread()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, task: Task) -> Result<()> {
        let mut queue = self.lock();
        if queue.poisoned {
            return Err(poisoned());
        }
        // An idle session may hold one job more than may wait: the one about to run.
        let room = self.limit + usize::from(!queue.running);
        if queue.waiting.len() >= room {
            bail!(Busy, "queue_limit: {} jobs wait already", queue.waiting.len());
        }
        queue.waiting.push_back(task);
        self.wake.notify_one();
        Ok(())
    }

    /// The next task; `None` when the session is gone.
    fn next(&self) -> Option<Task> {
        let mut queue = self.lock();
        loop {
            if let Some(task) = queue.waiting.pop_front() {
                queue.running = true;
                return Some(task);
            }
            if queue.closed {
                return None;
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes note that the running task is over. After a bug no task follows: those that wait are returned.
    fn over(&self, broken: bool) -> VecDeque<Task> {
        let mut queue = self.lock();
        queue.running = false;
        queue.poisoned |= broken;
        if broken { std::mem::take(&mut queue.waiting) } else { VecDeque::new() }
    }
}

/// What the session's thread owns.
struct Runner {
    shared: Arc<Shared>,
    pipeline: Box<dyn AnyPipeline>,
    model: Model,
}

impl Runner {
    fn run(self) {
        while let Some(task) = self.shared.next() {
            let result = panic::catch(|| self.generate(&task)).and_then(|result| result);
            // A panic here, or one that the backend caught on a thread of its own.
            let broken = result.as_ref().is_err_and(|error| error.status() == Status::Internal);
            // Where a callback freed the last object, the log may be gone by now. Else whatever it does, the job ends.
            if !self.shared.lock().closed {
                let _ = panic::catch(|| self.log_end(&task, &result));
            }
            // The queue learns of the end before the waiting caller does, who may submit again at once.
            let abandoned = self.shared.over(broken);
            task.core.finish(result);
            for task in abandoned {
                task.core.finish(Err(poisoned()));
            }
            if broken {
                break;
            }
        }
    }

    fn generate(&self, task: &Task) -> Result<Outcome> {
        let started = Instant::now();
        let Task { request, core, callback, guide, .. } = task;
        core.cancel.check()?;
        #[cfg(feature = "fault-injection")]
        self.spring_planted()?;
        let mut watcher = Watcher { core, callback: callback.as_ref(), guide: guide.as_ref() };
        let output = self.pipeline.generate(&core.cancel, request, &mut watcher)?;
        let (width, height) = (output.width, output.height);
        let mut images = Vec::with_capacity(output.images.len());
        for (index, values) in output.images.into_iter().enumerate() {
            let text = metadata(request, output.sampler, width, height, index as u64);
            images.push(Image::new(width, height, values, text)?);
        }
        let report = Report {
            image_count: images.len() as u32,
            width,
            height,
            prompt: output.prompt,
            negative_prompt: output.negative_prompt,
            sampler: output.sampler,
            steps: output.steps,
            seed: request.seed,
            text_time: output.text_time,
            denoise_time: output.denoise_time,
            decode_time: output.decode_time,
            total_time: started.elapsed(),
        };
        Ok(Outcome { report, images, latents: output.latents })
    }

    #[cfg(feature = "fault-injection")]
    #[allow(clippy::panic)]
    fn spring_planted(&self) -> Result<()> {
        match self.shared.planted.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(Plant::Session) => panic!("planted by fault-injection"),
            Some(Plant::Compute) => self.model.engine().backend().panic_in_a_task(),
            None => Ok(()),
        }
    }

    fn log_end(&self, task: &Task, result: &Result<Outcome>) {
        let log = self.model.engine().log();
        match result {
            Ok(outcome) => {
                log.info(format_args!("job {}: done in {:?}", task.number, outcome.report.total_time))
            }
            Err(error) => log.info(format_args!("job {}: {:?}: {error}", task.number, error.status())),
        }
    }
}

fn poisoned() -> Error {
    error!(InvalidState, "the session had an internal error and runs no more jobs; make a new one")
}
