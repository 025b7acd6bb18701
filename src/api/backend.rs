//! Which backend computes: the one file of the API that tells them apart.

use std::path::Path;
use std::sync::Arc;

use super::device::{Device, Precision};
use super::engine::EngineOptions;
use super::model::ModelOptions;
use crate::backend::cpu::{Cpu, ignored_environment};
use crate::backend::cuda::library::Search;
use crate::backend::cuda::{self, CallersState, Cuda};
use crate::backend::shape::Shapes;
use crate::backend::{Backend, WeightFormat};
use crate::pipeline::request::{Observer, Output, Request};
use crate::pipeline::{Info, Pipeline};
use crate::sampling::SchedulerConfig;
use crate::util::cancel::Cancel;
use crate::util::error::{Error, Result, Status, bail, error};
use crate::util::log::{Level, Log};

/// An engine's backend.
pub(super) enum AnyBackend {
    Cpu(Cpu),
    Cuda(Cuda),
}

impl AnyBackend {
    /// The backend that `options` ask for; it also says in the log why `Auto` is not CUDA.
    ///
    /// # Errors
    /// As [`super::Engine::new`].
    pub(super) fn new(options: &EngineOptions) -> Result<Self> {
        match options.device {
            Device::Cpu => cpu(options),
            Device::Cuda => cuda(options),
            Device::Auto => match cuda(options) {
                Err(missing) if is_unusable(&missing) => {
                    // A machine without a GPU is as it should be; a GPU that does not start is not.
                    let level = match missing.status() {
                        Status::Unsupported => Level::Info,
                        _ => Level::Warn,
                    };
                    options.log.write(level, format_args!("engine: the CPU computes, not CUDA: {missing}"));
                    cpu(options).map_err(|error| match error.status() {
                        Status::Unsupported => {
                            error!(Unsupported, "{error}, and CUDA cannot be used: {missing}")
                        }
                        _ => error,
                    })
                }
                opened => opened,
            },
        }
    }

    /// [`Pipeline::load`].
    ///
    /// # Errors
    /// Also `Unsupported` for a format of weights that the device does not have.
    pub(super) fn load(
        &self,
        path: &Path,
        options: ModelOptions<'_>,
        log: &Log,
    ) -> Result<Box<dyn AnyPipeline>> {
        let ModelOptions { variant, weights } = options;
        match self {
            Self::Cpu(cpu) => Loaded::load(path, variant, &cpu.with_weights(weights), log),
            Self::Cuda(cuda) => {
                check_cuda_weights(weights)?;
                let _callers = CallersState::keep();
                Loaded::load(path, variant, cuda, log)
            }
        }
    }

    /// A backend that counts what this one would allocate with such weights, at most `limit` bytes.
    ///
    /// # Errors
    /// `Unsupported` for a format of weights that the device does not have.
    pub(super) fn shapes(&self, weights: WeightFormat, limit: Option<u64>) -> Result<Shapes> {
        match self {
            Self::Cpu(cpu) => Ok(cpu.shapes(limit).with_weights(weights)),
            Self::Cuda(cuda) => {
                check_cuda_weights(weights)?;
                Ok(cuda.shapes(limit))
            }
        }
    }

    /// The most bytes that there can be: the engine's limit, or what a GPU has if that is less.
    pub(super) fn most_memory(&self) -> Option<u64> {
        match self {
            Self::Cpu(cpu) => cpu.memory_limit(),
            Self::Cuda(cuda) => {
                Some(cuda.memory_limit().map_or(cuda.total_memory(), |limit| limit.min(cuda.total_memory())))
            }
        }
    }

    /// Never `Auto`.
    pub(super) fn device(&self) -> Device {
        match self {
            Self::Cpu(_) => Device::Cpu,
            Self::Cuda(_) => Device::Cuda,
        }
    }

    /// The device for people.
    pub(super) fn description(&self) -> String {
        match self {
            Self::Cpu(cpu) => cpu.description(),
            Self::Cuda(cuda) => cuda.description(),
        }
    }

    /// Which CUDA device; 0 for the CPU.
    pub(super) fn device_index(&self) -> u32 {
        match self {
            Self::Cpu(_) => 0,
            Self::Cuda(cuda) => cuda.index() as u32,
        }
    }

    /// What activations are.
    pub(super) fn precision(&self) -> Precision {
        match self {
            Self::Cpu(cpu) if cpu.has_bf16() => Precision::Bf16,
            Self::Cpu(_) => Precision::F32,
            Self::Cuda(cuda) => cuda.precision(),
        }
    }

    /// Threads of the CPU that compute.
    pub(super) fn threads(&self) -> usize {
        match self {
            Self::Cpu(cpu) => cpu.threads(),
            Self::Cuda(_) => 0,
        }
    }

    /// Bytes of the device allocated now, by all sessions.
    pub(super) fn memory_used(&self) -> u64 {
        match self {
            Self::Cpu(cpu) => cpu.memory_used(),
            Self::Cuda(cuda) => cuda.memory_used(),
        }
    }

    /// The most bytes that were ever allocated at a time.
    pub(super) fn memory_peak(&self) -> u64 {
        match self {
            Self::Cpu(cpu) => cpu.memory_peak(),
            Self::Cuda(cuda) => cuda.memory_peak(),
        }
    }

    /// The most bytes that may be allocated.
    pub(super) fn memory_limit(&self) -> Option<u64> {
        match self {
            Self::Cpu(cpu) => cpu.memory_limit(),
            Self::Cuda(cuda) => cuda.memory_limit(),
        }
    }

    /// Panics on a thread that computes, where the device has some. For tests of what a panic does.
    #[cfg(feature = "fault-injection")]
    #[allow(clippy::panic)]
    pub(super) fn panic_in_a_task(&self) -> Result<()> {
        match self {
            Self::Cpu(cpu) => cpu.panic_in_a_task(),
            Self::Cuda(_) => panic!("planted by fault-injection"),
        }
    }
}

fn cpu(options: &EngineOptions) -> Result<AnyBackend> {
    if options.precision == Some(Precision::F16) {
        bail!(Unsupported, "precision: the CPU computes in f32 or bf16, not in f16");
    }
    let mut cpu = Cpu::new(options.threads as usize, limit(options.memory_limit_host))?;
    if options.precision == Some(Precision::Bf16) {
        cpu = cpu.with_bf16().ok_or_else(|| {
            let cpu = cpu.description();
            error!(
                Unsupported,
                "precision: {cpu} multiplies no faster in bf16, which takes AMD's AVX512-BF16; use f32"
            )
        })?;
    }
    if let Some(message) = ignored_environment() {
        options.log.warn(format_args!("{message}"));
    }
    Ok(AnyBackend::Cpu(cpu.with_strict(options.strict)))
}

fn cuda(options: &EngineOptions) -> Result<AnyBackend> {
    let cuda = Cuda::new(&cuda::Options {
        index: options.device_index as usize,
        precision: options.precision.unwrap_or(Precision::F16),
        memory_limit: limit(options.memory_limit_device),
        search: Search { directory: options.cuda_library_directory.clone() },
        log: options.log.clone(),
    })?;
    Ok(AnyBackend::Cuda(cuda))
}

fn check_cuda_weights(weights: WeightFormat) -> Result<()> {
    match weights {
        WeightFormat::AsStored => Ok(()),
        WeightFormat::Int8 => {
            bail!(Unsupported, "weights: CUDA has no int8; load them as stored, or on the CPU")
        }
    }
}

fn limit(bytes: u64) -> Option<u64> {
    (bytes != 0).then_some(bytes)
}

/// Whether the machine, rather than what was asked for, is why there is no CUDA.
fn is_unusable(error: &Error) -> bool {
    use Status::{Device, DeviceLost, DeviceOutOfMemory, Unsupported};
    matches!(error.status(), Unsupported | Device | DeviceLost | DeviceOutOfMemory)
}

/// A [`Pipeline`] with what computes it, on whichever backend.
pub(super) trait AnyPipeline: Send + Sync {
    /// [`Pipeline::info`].
    fn info(&self) -> &Info;
    /// [`Pipeline::scheduler`].
    fn scheduler(&self) -> &SchedulerConfig;
    /// [`Pipeline::check`].
    fn check(&self, request: &Request) -> Result<()>;
    /// The same pipeline with a pool of its own: what a session generates with.
    fn session(&self) -> Result<Box<dyn AnyPipeline>>;
    /// [`Pipeline::generate`], which fails with `Cancelled` soon after `cancel` is set.
    fn generate(&self, cancel: &Cancel, request: &Request, observer: &mut dyn Observer) -> Result<Output>;
}

// The pipeline comes first so that the weights go before the backend does.
struct Loaded<B: Backend> {
    pipeline: Arc<Pipeline<B>>,
    backend: B,
}

impl<B: Backend> Loaded<B> {
    fn load(path: &Path, variant: Option<&str>, backend: &B, log: &Log) -> Result<Box<dyn AnyPipeline>> {
        let pipeline = Arc::new(Pipeline::load(path, variant, backend, log)?);
        Ok(Box::new(Self { pipeline, backend: backend.clone() }))
    }
}

impl<B: Backend> AnyPipeline for Loaded<B> {
    fn info(&self) -> &Info {
        self.pipeline.info()
    }

    fn scheduler(&self) -> &SchedulerConfig {
        self.pipeline.scheduler()
    }

    fn check(&self, request: &Request) -> Result<()> {
        self.pipeline.check(request)
    }

    fn session(&self) -> Result<Box<dyn AnyPipeline>> {
        Ok(Box::new(Self { pipeline: self.pipeline.clone(), backend: self.backend.session()? }))
    }

    fn generate(&self, cancel: &Cancel, request: &Request, observer: &mut dyn Observer) -> Result<Output> {
        self.pipeline.generate(&self.backend.with_cancel(cancel), request, observer)
    }
}
