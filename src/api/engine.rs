//! The engine: a device, its threads, and where its log goes.

use std::path::PathBuf;
use std::sync::Arc;

use super::backend::AnyBackend;
use super::device::{Device, Precision};
use crate::util::error::{Result, bail};
use crate::util::limits;
use crate::util::log::Log;
use crate::util::thread;

/// How to make an engine. The default is the best device with all its cores, no memory limit, no log.
///
/// What is said of one kind of device does nothing on the other, but for a precision that the device cannot have.
#[derive(Debug, Clone, Default)]
pub struct EngineOptions {
    pub device: Device,
    /// Threads of the CPU; 0 = as many as the process may use.
    pub threads: u32,
    /// Bytes of weights and activations in host memory, past which requests fail with `OutOfMemory`; 0 = no limit.
    pub memory_limit_host: u64,
    /// Which CUDA device, from 0, in the order of [`super::DeviceList`].
    pub device_index: u32,
    /// What activations and weights are on the device. `None` = f16 on CUDA, f32 on the CPU, which has nothing else.
    pub precision: Option<Precision>,
    /// Bytes of a CUDA device's memory, past which requests fail with `DeviceOutOfMemory`; 0 = no limit.
    pub memory_limit_device: u64,
    /// A folder in which the CUDA libraries are looked for first.
    pub cuda_library_directory: Option<PathBuf>,
    /// The CPU computes every convolution and product by its definition rather than by fast algorithms.
    pub strict: bool,
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
    /// `Unsupported` if this machine lacks what the device needs, or the device the precision; `NotFound` for a
    /// CUDA device that does not exist; `Device` or `DeviceOutOfMemory` if it does not start; `InvalidArgument` for
    /// more threads than [`limits::THREADS`], `OutOfMemory` if threads cannot be started.
    pub fn new(options: EngineOptions) -> Result<Self> {
        if options.threads > limits::THREADS {
            bail!(InvalidArgument, "threads: {} is more than {}", options.threads, limits::THREADS);
        }
        thread::stay_loaded();
        let backend = AnyBackend::new(&options)?;
        options.log.info(format_args!(
            "engine: {}, {} threads, memory limit {} bytes",
            backend.description(),
            backend.threads(),
            backend.memory_limit().unwrap_or(0)
        ));
        Ok(Self(Arc::new(Inner { backend, log: options.log })))
    }

    /// The device in use; never `Auto`.
    pub fn device(&self) -> Device {
        self.0.backend.device()
    }

    /// Which CUDA device it is; 0 for the CPU.
    pub fn device_index(&self) -> u32 {
        self.0.backend.device_index()
    }

    /// The device's name for people.
    pub fn device_name(&self) -> String {
        self.0.backend.description()
    }

    /// What activations are on the device.
    pub fn precision(&self) -> Precision {
        self.0.backend.precision()
    }

    /// Threads of the CPU that compute; 0 if a GPU does.
    pub fn threads(&self) -> u32 {
        self.0.backend.threads() as u32
    }

    /// Bytes held now in the memory of the device, which is the host's for the CPU: weights, activations, and what
    /// sessions keep in reserve.
    pub fn memory_used(&self) -> u64 {
        self.0.backend.memory_used()
    }

    /// The most bytes ever held.
    pub fn memory_peak(&self) -> u64 {
        self.0.backend.memory_peak()
    }

    /// The limit on them given at creation; 0 = none.
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
