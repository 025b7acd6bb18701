//! A GPU: its context, its kernels, and the account of its memory.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute, CUfunction, CUfunction_attribute, CUmodule, CUresult,
};

use super::callers::{CallersState, disregard_other_captures};
use super::error::{Health, opened};
use super::images::{Image, Images};
use super::matmul::Library;
use super::pool::Memory;
use super::{Options, Precision, library};
use crate::util::error::{Result, bail};
use crate::util::log::Log;

/// Dynamic shared memory that a block may have without being asked for, in bytes: 48 KiB less the static shared memory, of
/// which no kernel that takes both has 8 KiB.
const PLAIN_SHARED: u32 = 40 << 10;

/// What all sessions on a GPU share.
pub(super) struct Device {
    /// In the driver's order.
    pub(super) index: usize,
    pub(super) precision: Precision,
    /// Compute capability times ten.
    pub(super) architecture: u32,
    pub(super) multiprocessors: u32,
    pub(super) log: Log,
    /// What a recording that failed says once.
    warned: AtomicBool,
    /// `NVIDIA H200 (GPU 0)`
    name: String,
    total_memory: u64,
    images: Images,
    modules: Mutex<HashMap<&'static str, Module>>,
    pub(super) memory: Memory,
    health: Health,
    /// cuBLASLt. It ends while the context is bound: of a thread without one it would make the first GPU's.
    pub(super) library: ManuallyDrop<Library>,
    /// The last field: everything else is gone when it ends.
    context: Context,
}

/// A family's kernels.
struct Module {
    module: CUmodule,
    functions: HashMap<String, Function>,
}

#[derive(Clone, Copy)]
struct Function {
    function: CUfunction,
    /// Dynamic shared memory that a block may have, in bytes.
    shared: u32,
}

// SAFETY: handles of the driver, which may be used from any thread to which the context is bound.
unsafe impl Send for Module {}

/// A reference to the primary context of a GPU.
struct Context {
    device: CUdevice,
    context: CUcontext,
}

// SAFETY: a handle of the driver, for any thread.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        let _callers = CallersState::keep();
        // SAFETY: retained in `Device::new`, released once. After a sticky error this fails, and nothing can be done.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device {
    /// The GPU that `options` names, with a context and nothing in it.
    ///
    /// Fails with `Unsupported` without a driver or for a GPU older than compute capability 8.0, and with `NotFound`
    /// for an index that no GPU has.
    pub(super) fn new(options: &Options) -> Result<Arc<Self>> {
        library::load(&options.search, &options.log)?;
        let index = options.index;
        let unnamed = format!("GPU {index}");
        let count = match result::init().and_then(|()| result::device::get_count()) {
            Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => 0,
            count => opened("this machine", "CUDA", count)?,
        };
        let count = usize::try_from(count).unwrap_or(0);
        if count == 0 {
            bail!(Unsupported, "no NVIDIA GPU: the driver finds none in this machine");
        }
        let ordinal = match i32::try_from(index) {
            Ok(ordinal) if index < count => ordinal,
            _ => bail!(NotFound, "CUDA device {index} does not exist, there are {count}"),
        };
        let device = opened(&unnamed, "opening", result::device::get(ordinal))?;
        let name = opened(&unnamed, "opening", result::device::get_name(device))?;
        let name = format!("{name} (GPU {index})");
        // SAFETY: the device exists.
        let attribute = |attribute| unsafe { result::device::get_attribute(device, attribute) };
        let attribute =
            |which| opened(&name, "opening", attribute(which)).map(|value| u32::try_from(value).unwrap_or(0));
        let major = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        if major < 8 {
            bail!(Unsupported, "{name} has compute capability {major}.{minor}, at least 8.0 is needed");
        }
        let multiprocessors = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        // SAFETY: the device exists.
        let total = opened(&name, "opening", unsafe { result::device::total_mem(device) })?;
        let _callers = CallersState::keep();
        // SAFETY: the device exists. `Context` releases it.
        let context = opened(&name, "opening", unsafe { result::primary_ctx::retain(device) })?;
        let health = Health::default();
        let context = Context { device, context };
        // SAFETY: the context was just retained.
        health.of(&name, "opening", unsafe { result::ctx::set_current(context.context) })?;
        // The first call that needs a context that works: another engine may have broken it.
        health.of(&name, "opening", result::mem_get_info())?;
        let library = Library::new(&options.search, &options.log)?;
        let device = Self {
            index,
            precision: options.precision,
            architecture: major * 10 + minor,
            multiprocessors,
            log: options.log.clone(),
            warned: AtomicBool::new(false),
            name,
            total_memory: total as u64,
            images: Images::new(&options.search, &options.log),
            modules: Mutex::new(HashMap::new()),
            memory: Memory::new(options.memory_limit),
            health,
            library: ManuallyDrop::new(library),
            context,
        };
        // Every model needs these. Who has no images for this GPU hears of it now, when the CPU can still take over.
        let elementwise = device.load("elementwise")?;
        lock(&device.modules).insert("elementwise", elementwise);
        Ok(Arc::new(device))
    }

    /// For people: `NVIDIA H200 (GPU 0)`.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// All memory of the GPU, in bytes.
    pub(super) fn total_memory(&self) -> u64 {
        self.total_memory
    }

    /// Makes the context the calling thread's, which every call of the driver needs: sessions move between threads.
    /// Fails with `DeviceLost` after an error that the GPU did not survive.
    pub(super) fn bind(&self) -> Result<()> {
        self.health.check()?;
        disregard_other_captures();
        // SAFETY: the context is retained as long as `self` is there.
        self.check("binding", unsafe { result::ctx::set_current(self.context.context) })
    }

    /// [`Device::bind`] for destructors, which run on any thread: until the result is dropped. `None` if it is not worth
    /// while to call the driver.
    pub(super) fn bind_to_drop(&self) -> Option<CallersState> {
        let callers = CallersState::keep();
        // SAFETY: as in `bind`.
        unsafe { result::ctx::set_current(self.context.context) }.is_ok().then_some(callers)
    }

    /// The driver's result, see [`Health::of`]; `what` names the operation.
    pub(super) fn check<T>(&self, what: &str, result: std::result::Result<T, DriverError>) -> Result<T> {
        self.health.of(&self.name, what, result)
    }

    /// Sends a warning to the log, the first time that it is called.
    pub(super) fn warn_once(&self, message: std::fmt::Arguments<'_>) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            self.log.warn(message);
        }
    }

    /// A kernel of `kernels/<family>.cu`, whose blocks may have `shared` bytes of dynamic shared memory. The context
    /// has to be bound. Loads the family's module the first time.
    pub(super) fn kernel(&self, family: &'static str, name: &str, shared: u32) -> Result<CUfunction> {
        let mut modules = lock(&self.modules);
        let module = match modules.entry(family) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(self.load(family)?),
        };
        if !module.functions.contains_key(name) {
            let Ok(symbol) = CString::new(name) else {
                bail!(Internal, "a kernel named {name:?}");
            };
            // SAFETY: the module is loaded.
            let function =
                self.check(name, unsafe { result::module::get_function(module.module, symbol) })?;
            module.functions.insert(name.to_owned(), Function { function, shared: PLAIN_SHARED });
        }
        let Some(function) = module.functions.get_mut(name) else {
            bail!(Internal, "no kernel {name}");
        };
        if shared > function.shared {
            let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = i32::try_from(shared).unwrap_or(i32::MAX);
            // SAFETY: the function is of a loaded module.
            let set = unsafe { result::function::set_function_attribute(function.function, most, bytes) };
            if set == Err(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE)) {
                bail!(
                    Unsupported,
                    "{name} needs {shared} bytes of shared memory, more than {} has",
                    self.name
                );
            }
            self.check(name, set)?;
            function.shared = shared;
        }
        Ok(function.function)
    }

    fn load(&self, family: &'static str) -> Result<Module> {
        let mut bytes = match self.images.image(family, self.architecture)? {
            Image::Cubin(bytes) => bytes,
            Image::Ptx(text) => text.into_bytes(),
        };
        // PTX is a C string.
        bytes.push(0);
        // SAFETY: the image is whole, and the driver copies it.
        let module = unsafe { result::module::load_data(bytes.as_ptr().cast::<c_void>()) };
        let module = match module {
            Err(DriverError(
                code @ (CUresult::CUDA_ERROR_INVALID_IMAGE
                | CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
                | CUresult::CUDA_ERROR_INVALID_PTX
                | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION),
            )) => bail!(
                Unsupported,
                "the kernels {family} are not for {} and its driver: {code:?}; update the driver",
                self.name
            ),
            module => self.check(&format!("loading the kernels {family}"), module)?,
        };
        Ok(Module { module, functions: HashMap::new() })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let Some(_callers) = self.bind_to_drop() else { return };
        for (_, module) in lock(&self.modules).drain() {
            // SAFETY: loaded in `load`; sessions, and with them all launches, are gone.
            let _ = unsafe { result::module::unload(module.module) };
        }
        // SAFETY: dropped here and nowhere else, and not used after.
        unsafe { ManuallyDrop::drop(&mut self.library) };
    }
}
