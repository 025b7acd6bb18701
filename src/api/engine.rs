//! The engine: a device, its threads, and where its log goes.

use std::sync::Arc;

use super::backend::AnyBackend;
use crate::backend::cpu::Cpu;
use crate::util::error::{Result, bail};
use crate::util::limits;
use crate::util::log::Log;

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// The best device there is.
    #[default]
    Auto,
    Cpu,
    Cuda,
}

/// How to make an engine. The default is the best device with all its cores, no memory limit, no log.
#[derive(Debug, Clone, Default)]
pub struct EngineOptions {
    pub device: Device,
    /// 0 = as many as the process may use.
    pub threads: u32,
    /// Bytes of weights and activations, past which requests fail with `OutOfMemory`; 0 = no limit.
    pub memory_limit: u64,
    pub log: Log,
}

/// A device and its threads. Cheap to clone; clones are the same engine.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    backend: AnyBackend,
    log: Log,
}

impl Engine {
    /// Starts the device and its threads.
    ///
    /// # Errors
    /// `Unsupported` if this build cannot use the device, `InvalidArgument` for more threads than
    /// [`limits::THREADS`], `OutOfMemory` if threads cannot be started.
    pub fn new(options: EngineOptions) -> Result<Self> {
        if options.device == Device::Cuda {
            bail!(Unsupported, "device CUDA: this version computes on the CPU only");
        }
        if options.threads > limits::THREADS {
            bail!(InvalidArgument, "threads: {} is more than {}", options.threads, limits::THREADS);
        }
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from).min(limits::THREADS as usize),
            threads => threads as usize,
        };
        let limit = (options.memory_limit != 0).then_some(options.memory_limit);
        let backend = AnyBackend::Cpu(Cpu::new(threads, limit)?);
        options.log.info(format_args!(
            "engine: {}, {threads} threads, memory limit {} bytes",
            backend.description(),
            options.memory_limit
        ));
        Ok(Self(Arc::new(Inner { backend, log: options.log })))
    }

    /// The device in use; never `Auto`.
    pub fn device(&self) -> Device {
        Device::Cpu
    }

    /// The device's name for people.
    pub fn device_name(&self) -> String {
        self.0.backend.description()
    }

    /// Threads that compute.
    pub fn threads(&self) -> u32 {
        self.0.backend.threads() as u32
    }

    /// Bytes of weights and activations held now.
    pub fn memory_used(&self) -> u64 {
        self.0.backend.memory_used()
    }

    /// The most bytes ever held.
    pub fn memory_peak(&self) -> u64 {
        self.0.backend.memory_peak()
    }

    /// The limit given at creation; 0 = none.
    pub fn memory_limit(&self) -> u64 {
        self.0.backend.memory_limit().unwrap_or(0)
    }

    pub(super) fn backend(&self) -> &AnyBackend {
        &self.0.backend
    }

    pub(super) fn log(&self) -> &Log {
        &self.0.log
    }
}
