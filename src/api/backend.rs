//! Which backend computes: the one file of the API that tells them apart.

use std::path::Path;
use std::sync::Arc;

use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::pipeline::request::{Observer, Output, Request};
use crate::pipeline::{Info, Pipeline};
use crate::sampling::SchedulerConfig;
use crate::util::cancel::Cancel;
use crate::util::error::Result;
use crate::util::log::Log;

/// An engine's backend.
pub(super) enum AnyBackend {
    Cpu(Cpu),
}

impl AnyBackend {
    /// [`Pipeline::load`].
    pub(super) fn load(&self, path: &Path, variant: Option<&str>, log: &Log) -> Result<Box<dyn AnyPipeline>> {
        match self {
            AnyBackend::Cpu(cpu) => Loaded::load(path, variant, cpu, log),
        }
    }

    /// The device for people.
    pub(super) fn description(&self) -> String {
        match self {
            AnyBackend::Cpu(cpu) => cpu.description(),
        }
    }

    /// Threads that compute.
    pub(super) fn threads(&self) -> usize {
        match self {
            AnyBackend::Cpu(cpu) => cpu.threads(),
        }
    }

    /// Bytes allocated now, by all sessions.
    pub(super) fn memory_used(&self) -> u64 {
        match self {
            AnyBackend::Cpu(cpu) => cpu.memory_used(),
        }
    }

    /// The most bytes that were ever allocated at a time.
    pub(super) fn memory_peak(&self) -> u64 {
        match self {
            AnyBackend::Cpu(cpu) => cpu.memory_peak(),
        }
    }

    /// The most bytes that may be allocated.
    pub(super) fn memory_limit(&self) -> Option<u64> {
        match self {
            AnyBackend::Cpu(cpu) => cpu.memory_limit(),
        }
    }

    /// Panics on a thread that computes. For tests of what a panic does.
    #[cfg(feature = "fault-injection")]
    pub(super) fn panic_in_a_task(&self) -> Result<()> {
        match self {
            AnyBackend::Cpu(cpu) => cpu.panic_in_a_task(),
        }
    }
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
