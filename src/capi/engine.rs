//! Engines.

use std::ffi::{CString, c_char, c_void};
use std::path::PathBuf;
use std::ptr;
use std::sync::Arc;

use super::error::{diffusion_error, diffusion_status};
use super::ffi::{
    self, Handle, Out, Struct, UserData, c_string, guard, guard_or, in_ref, in_struct, opt_str, out_struct,
    reserved, truth,
};
use crate::api::{Device, Engine, EngineOptions, Level, Log, Precision};
use crate::util::error::{Result, bail};

/// What computes: a value of ::diffusion_device_enum.
/// \since 0.1.0
/// \ingroup engine
pub type diffusion_device = i32;

/// Values of ::diffusion_device.
/// \ingroup engine
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_device_enum {
    /// CUDA if there is a GPU that can be used, else the CPU; the log then says at ::DIFFUSION_LOG_INFO what
    /// is missing.
    DIFFUSION_DEVICE_AUTO = 0,
    /// The CPU.
    DIFFUSION_DEVICE_CPU = 1,
    /// An NVIDIA GPU of compute capability 8.0 or more, with its driver and cuBLASLt.
    DIFFUSION_DEVICE_CUDA = 2,
}

/// What activations and weights are while they are computed with: a value of ::diffusion_precision_enum. Sums, and what
/// norms and softmax need, are f32 always.
/// \since 0.1.0
/// \ingroup engine
pub type diffusion_precision = i32;

/// Values of ::diffusion_precision.
/// \ingroup engine
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_precision_enum {
    /// f16 on CUDA, f32 on the CPU.
    DIFFUSION_PRECISION_DEFAULT = 0,
    /// IEEE half precision. CUDA only.
    DIFFUSION_PRECISION_F16 = 1,
    /// bfloat16: the range of f32, less precise than f16. On the CPU only where it is faster than f32, which is AMD's with
    /// AVX512-BF16, and only for what linear layers, 1x1 and strided convolutions and long attention multiply: activations
    /// and all else stay f32. The relative error (L2) of a Stable Diffusion 1.5 U-Net is then 5e-3.
    DIFFUSION_PRECISION_BF16 = 2,
    /// Single precision. On CUDA several times slower than the others.
    DIFFUSION_PRECISION_F32 = 3,
}

/// How much a log message matters: a value of ::diffusion_log_level_enum.
/// \since 0.1.0
/// \ingroup engine
pub type diffusion_log_level = i32;

/// Values of ::diffusion_log_level.
/// \ingroup engine
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_log_level_enum {
    /// Nothing.
    DIFFUSION_LOG_OFF = 0,
    /// Failures that no return value tells.
    DIFFUSION_LOG_ERROR = 1,
    /// Things that are probably not meant so.
    DIFFUSION_LOG_WARN = 2,
    /// What was asked of the library, with its parameters but without prompt text.
    DIFFUSION_LOG_INFO = 3,
    /// Everything, prompt text included.
    DIFFUSION_LOG_DEBUG = 4,
}

/// Hears an engine's messages.
///
/// It may be called from any thread, also from several at once, until the engine and everything made from it are
/// freed. It must return normally: no exception, no longjmp. It may call into the library, but must not wait for
/// a job.
///
/// \param level How much the message matters, ::DIFFUSION_LOG_ERROR to ::DIFFUSION_LOG_DEBUG.
/// \param message One line of UTF-8 without a line feed, valid during the call.
/// \param user_data ::diffusion_engine_desc::log_user_data.
/// \since 0.1.0
/// \ingroup engine
pub type diffusion_log_callback =
    Option<unsafe extern "C" fn(level: diffusion_log_level, message: *const c_char, user_data: *mut c_void)>;

/// How to make an engine. All zero (but for struct_size) means: the best device with all its cores, no memory
/// limit, no log.
///
/// What is said of one kind of device does nothing on the other, so that a description with
/// ::DIFFUSION_DEVICE_AUTO may say all.
/// \since 0.1.0
/// \ingroup engine
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_engine_desc {
    /// sizeof(diffusion_engine_desc)
    pub struct_size: u32,
    /// What computes.
    pub device: diffusion_device,
    /// Threads of the CPU that compute, up to 1024; 0 = one for each core this process may use. None are made on
    /// CUDA.
    pub threads: u32,
    /// The least important level sent to log.
    pub log_level: diffusion_log_level,
    /// Bytes of weights and activations in host memory, past which calls and jobs fail with
    /// ::DIFFUSION_ERROR_OUT_OF_MEMORY; 0 = no limit. On the CPU, residual blocks whose activations would not fit are
    /// computed in strips, some more than once: the same images in more time. diffusion_predict_memory() knows.
    pub memory_limit_host: u64,
    /// Hears the messages; NULL = no log.
    pub log: diffusion_log_callback,
    /// Handed to log.
    pub log_user_data: *mut c_void,
    /// Which CUDA device, from 0, in the order of diffusion_device_list_new(). One that does not exist is
    /// ::DIFFUSION_ERROR_NOT_FOUND, with ::DIFFUSION_DEVICE_AUTO too where there is any.
    pub device_index: u32,
    /// What the device computes in. One that it does not have is ::DIFFUSION_ERROR_UNSUPPORTED.
    pub precision: diffusion_precision,
    /// Bytes of the CUDA device's memory for weights, activations and what sessions keep in reserve, past which
    /// calls and jobs fail with ::DIFFUSION_ERROR_DEVICE_OUT_OF_MEMORY; 0 = no limit.
    pub memory_limit_device: u64,
    /// A folder, UTF-8, in which the CUDA libraries (libcublasLt, libnvrtc, libcuda) are looked for before the
    /// places where they usually are; NULL = none.
    pub cuda_library_directory: *const c_char,
    /// 1 = the CPU computes every convolution and every matrix product by its definition; 0 = by Winograd's algorithms
    /// where these are faster: 3x3 convolutions, which take a third of the time, and on AMD's Zen 4 all products, which
    /// take three quarters. The relative error (L2) of a Stable Diffusion 1.5 U-Net is then 2.5e-6 instead of 2.0e-6.
    /// On CUDA it changes nothing.
    pub strict: i32,
    /// 0
    pub reserved: u32,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for diffusion_engine_desc {}

/// Facts about an engine.
/// \since 0.1.0
/// \ingroup engine
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_engine_info {
    /// sizeof(diffusion_engine_info), set by the caller
    pub struct_size: u32,
    /// The device in use; never ::DIFFUSION_DEVICE_AUTO.
    pub device: diffusion_device,
    /// Threads of the CPU that compute; 0 on CUDA.
    pub threads: u32,
    /// 0
    pub reserved: u32,
    /// Bytes that this engine holds now in the memory of the device in use: the host's for the CPU, the GPU's for
    /// CUDA. Weights, activations and what sessions keep in reserve; not what the driver takes for itself.
    pub memory_used: u64,
    /// The most bytes ever held.
    pub memory_peak: u64,
    /// The limit on them: ::diffusion_engine_desc::memory_limit_host or
    /// ::diffusion_engine_desc::memory_limit_device.
    pub memory_limit: u64,
    /// The device, for people, and for the CPU its instruction set. Valid until the engine is freed.
    pub device_name: *const c_char,
    /// Which CUDA device, as in ::diffusion_engine_desc::device_index; 0 for the CPU.
    pub device_index: u32,
    /// What the device computes in; never ::DIFFUSION_PRECISION_DEFAULT.
    pub precision: diffusion_precision,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for diffusion_engine_info {}

/// A device, its threads and its log. Everything else is made from an engine; most programs need one.
///
/// Engines share nothing. An engine keeps running until it and everything made from it are freed.
/// \since 0.1.0
/// \ingroup engine
#[repr(C)]
pub struct diffusion_engine {
    _private: [u8; 0],
}

pub struct EngineHandle {
    pub(super) engine: Engine,
    device_name: CString,
}

impl Handle for diffusion_engine {
    type Value = EngineHandle;
}

/// Fills a description with defaults, for languages that cannot use ::DIFFUSION_ENGINE_DESC_INIT.
///
/// \param desc The description, or NULL for nothing to happen.
/// \param size Its size in bytes, sizeof(diffusion_engine_desc). All of it is set to zero but struct_size, which is
/// set to size.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup engine
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_engine_desc_init(desc: *mut diffusion_engine_desc, size: usize) {
    if desc.is_null() || size < size_of::<u32>() {
        return;
    }
    // SAFETY: the caller's structure has `size` bytes.
    unsafe {
        ptr::write_bytes(desc.cast::<u8>(), 0, size);
        desc.cast::<u32>().write(u32::try_from(size).unwrap_or(u32::MAX));
    }
}

/// Makes an engine: finds the device and starts its threads.
///
/// CUDA's libraries are looked for, and loaded, when the first engine needs them and stay loaded.
///
/// The CPU's instruction set is found at run time. To keep it from those past one, set the environment variable
/// LIBDIFFUSION_CPU to portable, sse2, avx2, avx512 or zen4, on AArch64 to portable or neon; another value limits nothing
/// and is told in the log at ::DIFFUSION_LOG_WARN.
///
/// \param desc What is wanted; NULL = all defaults.
/// \param engine Receives the engine, to be freed with diffusion_engine_free(); NULL on failure.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_UNSUPPORTED if this machine lacks what the device needs (the message
/// says what, and how to get it), or the device the precision; ::DIFFUSION_ERROR_NOT_FOUND for a device_index that
/// does not exist; ::DIFFUSION_ERROR_DEVICE, ::DIFFUSION_ERROR_DEVICE_LOST or
/// ::DIFFUSION_ERROR_DEVICE_OUT_OF_MEMORY if the device does not start; ::DIFFUSION_ERROR_INVALID_ARGUMENT;
/// ::DIFFUSION_ERROR_OUT_OF_MEMORY.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup engine
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_engine_new(
    desc: *const diffusion_engine_desc,
    engine: *mut *mut diffusion_engine,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let out = Out::new(engine, "engine")?;
            let desc = in_struct(desc, "desc")?;
            reserved(desc.reserved, "desc")?;
            let engine = Engine::new(EngineOptions {
                device: device(desc.device)?,
                threads: desc.threads,
                memory_limit_host: desc.memory_limit_host,
                device_index: desc.device_index,
                precision: precision(desc.precision)?,
                memory_limit_device: desc.memory_limit_device,
                cuda_library_directory: opt_str(desc.cuda_library_directory, "cuda_library_directory")?
                    .map(PathBuf::from),
                strict: truth(desc.strict, "strict")?,
                log: log(&desc)?,
            })?;
            let device_name = c_string(&engine.device_name());
            out.set(EngineHandle { engine, device_name });
            Ok(())
        })
    }
}

/// Frees an engine.
///
/// What was made from it goes on working and keeps the device and its threads until it is freed too.
///
/// \param engine The engine, or NULL for nothing to happen.
/// \threadsafety Any thread; the engine must not be in use.
/// \since 0.1.0
/// \ingroup engine
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_engine_free(engine: *mut diffusion_engine) {
    // SAFETY: NULL or an engine the caller gives up.
    unsafe { ffi::free(engine) }
}

/// Tells what an engine is and how much memory it holds.
///
/// \param engine The engine.
/// \param info Receives the facts; the caller sets struct_size before.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup engine
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_engine_get_info(
    engine: *const diffusion_engine,
    info: *mut diffusion_engine_info,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let EngineHandle { engine, device_name } = in_ref(engine, "engine")?;
            let facts = diffusion_engine_info {
                struct_size: 0,
                device: device_number(engine.device()),
                threads: engine.threads(),
                reserved: 0,
                memory_used: engine.memory_used(),
                memory_peak: engine.memory_peak(),
                memory_limit: engine.memory_limit(),
                device_name: device_name.as_ptr(),
                device_index: engine.device_index(),
                precision: precision_number(engine.precision()),
            };
            out_struct(info, "info", facts)
        })
    }
}

fn device(number: diffusion_device) -> Result<Device> {
    match number {
        0 => Ok(Device::Auto),
        1 => Ok(Device::Cpu),
        2 => Ok(Device::Cuda),
        _ => bail!(InvalidArgument, "device: there is no device {number}"),
    }
}

pub(super) fn device_number(device: Device) -> diffusion_device {
    let device = match device {
        Device::Auto => diffusion_device_enum::DIFFUSION_DEVICE_AUTO,
        Device::Cpu => diffusion_device_enum::DIFFUSION_DEVICE_CPU,
        Device::Cuda => diffusion_device_enum::DIFFUSION_DEVICE_CUDA,
    };
    device as diffusion_device
}

fn precision(number: diffusion_precision) -> Result<Option<Precision>> {
    match number {
        0 => Ok(None),
        1 => Ok(Some(Precision::F16)),
        2 => Ok(Some(Precision::Bf16)),
        3 => Ok(Some(Precision::F32)),
        _ => bail!(InvalidArgument, "precision: there is no precision {number}"),
    }
}

fn precision_number(precision: Precision) -> diffusion_precision {
    let precision = match precision {
        Precision::F16 => diffusion_precision_enum::DIFFUSION_PRECISION_F16,
        Precision::Bf16 => diffusion_precision_enum::DIFFUSION_PRECISION_BF16,
        Precision::F32 => diffusion_precision_enum::DIFFUSION_PRECISION_F32,
    };
    precision as diffusion_precision
}

fn log(desc: &diffusion_engine_desc) -> Result<Log> {
    let level = match desc.log_level {
        0 => return Ok(Log::off()),
        1 => Level::Error,
        2 => Level::Warn,
        3 => Level::Info,
        4 => Level::Debug,
        other => bail!(InvalidArgument, "log_level: {other} is not in 0..4"),
    };
    let Some(callback) = desc.log else { return Ok(Log::off()) };
    let user_data = UserData(desc.log_user_data);
    let sink = move |level: Level, message: &str| {
        let message = c_string(&message.replace('\n', " "));
        guard_or((), || {
            // SAFETY: the caller promises a function that may be called with its user_data from any thread.
            unsafe { callback(level as diffusion_log_level, message.as_ptr(), user_data.get()) }
        });
    };
    Ok(Log::new(level, Arc::new(sink)))
}
