/* diffusion.h - libdiffusion: images from text with latent diffusion models, on CPUs
 * and NVIDIA GPUs.
 *
 * Load a model folder in diffusers layout once, share it among sessions, submit requests, and poll,
 * wait for or cancel the jobs that come of them. The library needs no Python and no network, prints
 * nothing, never ends the process, and gives the same image for the same request on every run and
 * with any number of threads. Programs with a network of their own find noise schedules, samplers
 * and guidance at the end; those need no engine.
 *
 * A complete program:
 *
 *     #include <diffusion.h>
 *     #include <stdio.h>
 *
 *     int main(void) {
 *         diffusion_engine *engine = NULL;   diffusion_model *model = NULL;
 *         diffusion_session *session = NULL; diffusion_request *request = NULL;
 *         diffusion_image *image = NULL;     diffusion_error *error = NULL;
 *
 *         int failed = diffusion_engine_new(NULL, &engine, &error) != DIFFUSION_OK
 *             || diffusion_model_load(engine, "models/emoji", NULL, &model, &error)
 *                != DIFFUSION_OK
 *             || diffusion_session_new(model, NULL, &session, &error) != DIFFUSION_OK
 *             || diffusion_request_new(model, &request, &error) != DIFFUSION_OK;
 *         diffusion_request_set_string(request, DIFFUSION_OPTION_PROMPT, "a blue cat");
 *         diffusion_request_set_float(request, DIFFUSION_OPTION_GUIDANCE_SCALE, 2.5);
 *         failed = failed || diffusion_generate(session, request, &image, &error) != DIFFUSION_OK
 *             || diffusion_image_save_png(image, "cat.png", &error) != DIFFUSION_OK;
 *         if (failed) fprintf(stderr, "%s\n", diffusion_error_message(error));
 *
 *         diffusion_error_free(error);     diffusion_image_free(image);
 *         diffusion_request_free(request); diffusion_session_free(session);
 *         diffusion_model_free(model);     diffusion_engine_free(engine);
 *         return failed;
 *     }
 *
 * Five rules hold everywhere (docs/conventions.md has the rest):
 *
 * 1. Ownership. Only handles are freed, each once with its own _free function, in any order:
 *    children keep their parents alive. Every _free takes NULL. Text and pixels that a function
 *    returns are borrowed from a handle.
 * 2. Errors. 0 is success, below 0 an error. A last parameter diffusion_error ** receives what went
 *    wrong; it may be NULL. Handles that a failed function would have made are NULL. A NULL
 *    argument is an error, never a crash.
 * 3. Threads. Each function says which threads may call it; const parameters may be shared freely.
 *    Callbacks are optional: all they tell can be polled, all they ask can be asked and told. A
 *    job's come from the library's threads, a sampler's from the thread that called it.
 * 4. Text is UTF-8 that ends with a NUL, copied before the function returns. So are paths, on every
 *    system.
 * 5. ABI. Symbols are never removed or changed within a soname. Structures begin with struct_size
 *    and grow at the end; zero means default: use the _INIT macros. Enums travel as int32_t.
 *
 * This file is generated from src/capi; change it there.
 */
#ifndef DIFFUSION_H
#define DIFFUSION_H

#include <stddef.h>
#include <stdint.h>

/* The version of this header; diffusion_version() is that of the library. */
#define DIFFUSION_VERSION_MAJOR 0
#define DIFFUSION_VERSION_MINOR 1
#define DIFFUSION_VERSION_PATCH 0
#define DIFFUSION_VERSION_STRING "0.1.0"
#define DIFFUSION_VERSION_NUMBER \
    (DIFFUSION_VERSION_MAJOR * 1000000 + DIFFUSION_VERSION_MINOR * 1000 \
     + DIFFUSION_VERSION_PATCH)

/* Before a function: it comes from the library. */
#ifndef DIFFUSION_API
#if defined(_WIN32)
#define DIFFUSION_API __declspec(dllimport)
#elif defined(__GNUC__)
#define DIFFUSION_API __attribute__((visibility("default")))
#else
#define DIFFUSION_API
#endif
#endif

/* Before a function: its result must be looked at. */
#ifndef DIFFUSION_MUST_USE
#if defined(__GNUC__)
#define DIFFUSION_MUST_USE __attribute__((warn_unused_result))
#elif defined(_MSC_VER)
#define DIFFUSION_MUST_USE _Check_return_
#else
#define DIFFUSION_MUST_USE
#endif
#endif

/* Before a function: use something else instead. */
#ifndef DIFFUSION_DEPRECATED
#if defined(__GNUC__)
#define DIFFUSION_DEPRECATED(instead) __attribute__((deprecated(instead)))
#elif defined(_MSC_VER)
#define DIFFUSION_DEPRECATED(instead) __declspec(deprecated(instead))
#else
#define DIFFUSION_DEPRECATED(instead)
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Objects --------------------------------------------------------------------------------- */

/**
 * An error: a status for programs, one line for people, and what lies behind it.
 *
 * Functions that can fail for a reason worth telling take `diffusion_error **error` last. It may be
 * NULL. The function sets it to NULL when it succeeds and to a new object when it fails; the caller
 * frees that object. Objects are immutable.
 * \since 0.1.0
 */
typedef struct diffusion_error diffusion_error;

/**
 * A device, its threads and its log. Everything else is made from an engine; most programs need
 * one.
 *
 * Engines share nothing. An engine keeps running until it and everything made from it are freed.
 * \since 0.1.0
 */
typedef struct diffusion_engine diffusion_engine;

/**
 * The CUDA devices of a machine, as they were when the list was made. The CPU is always there and
 * in no list.
 * \since 0.1.0
 */
typedef struct diffusion_device_list diffusion_device_list;

/**
 * The weights of a pipeline, loaded once, immutable, and shared by any number of sessions.
 * \since 0.1.0
 */
typedef struct diffusion_model diffusion_model;

/**
 * What to generate: a value for each option.
 *
 * A request belongs to one model and may be submitted any number of times, and changed in between:
 * each job works on a copy. It may be used by one thread at a time; a call that meets another
 * thread's returns ::DIFFUSION_ERROR_BUSY and does nothing.
 * \since 0.1.0
 */
typedef struct diffusion_request diffusion_request;

/**
 * A thread and working memory for one model: runs the jobs submitted to it one after another.
 *
 * It keeps the memory that its largest job needed until it is freed, so that the next one starts
 * with it.
 *
 * Sessions of one model share its weights and run side by side. After ::DIFFUSION_ERROR_INTERNAL in
 * one of its jobs a session takes no more (::DIFFUSION_ERROR_INVALID_STATE); other sessions are not
 * touched. After a job that ran out of memory, the host's or the device's, it works as before.
 * After ::DIFFUSION_ERROR_DEVICE_LOST every job of the engine fails; engines on other devices are
 * not touched.
 * \since 0.1.0
 */
typedef struct diffusion_session diffusion_session;

/**
 * One submitted request: queued, running, then done, failed or cancelled for ever.
 * \since 0.1.0
 */
typedef struct diffusion_job diffusion_job;

/**
 * A picture, immutable: a finished one, or one to start from. It depends on no other object.
 * \since 0.1.0
 */
typedef struct diffusion_image diffusion_image;

/**
 * How much noise each training timestep carries, and what a model trained on that predicts.
 * Immutable.
 * \since 0.1.0
 */
typedef struct diffusion_schedule diffusion_schedule;

/**
 * A sampler under way: it takes noise to samples, step by step, and asks the host for what the
 * model predicts.
 *
 * It may be used by one thread at a time; a call that meets another one returns
 * ::DIFFUSION_ERROR_BUSY and does nothing.
 * \since 0.1.0
 */
typedef struct diffusion_sampler diffusion_sampler;

/**
 * The guidance of one way from noise to samples, and what it remembers from step to step.
 *
 * It may be used by one thread at a time; a call that meets another one returns
 * ::DIFFUSION_ERROR_BUSY and does nothing.
 * \since 0.1.0
 */
typedef struct diffusion_guidance diffusion_guidance;

/* ---- Version --------------------------------------------------------------------------------- */
/** \defgroup version Version
 *  \{ */

/**
 * The version of the library that is loaded, as one number.
 *
 * Compare it with ::DIFFUSION_VERSION_NUMBER, the version of the header the program was compiled
 * with. A library fits if it has the same major number and is not older.
 *
 * \returns major * 1000000 + minor * 1000 + patch.
 * \threadsafety Any thread.
 * \since 0.1.0
 * \sa diffusion_version_string
 */
DIFFUSION_API uint32_t diffusion_version(void);

/**
 * The version of the library that is loaded, as text.
 *
 * \returns For example "0.1.0". Static: valid for ever.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API const char *diffusion_version_string(void);

/**
 * How the library was built, for bug reports.
 *
 * One "key: value" a line: version, target, profile, cpu (the instruction sets it has code for; the
 * one in use is ::diffusion_engine_info::device_name) and features.
 *
 * \returns Several lines, each ended by a line feed. Static: valid for ever.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API const char *diffusion_build_info(void);

/** \} */

/* ---- Status and errors ----------------------------------------------------------------------- */
/** \defgroup errors Status and errors
 *  \{ */

/**
 * What a function has to say: 0 is success, above 0 is an outcome that is no error, below 0 is an
 * error.
 *
 * The values are those of ::diffusion_status_enum. Numbers never change their meaning; later
 * versions may add some, so treat an unknown negative value as an error.
 * \since 0.1.0
 */
typedef int32_t diffusion_status;

/** Values of ::diffusion_status. */
enum diffusion_status_enum {
    /** Success. */
    DIFFUSION_OK = 0,
    /** Not finished yet. */
    DIFFUSION_PENDING = 1,
    /** The time was up first. (Not used in this version.) */
    DIFFUSION_TIMEOUT = 2,
    /** Nothing is left to do: a sampler has taken all its steps. */
    DIFFUSION_DONE = 3,
    /**
     * A bug in the library; the message says where. The session it happened in cannot be used any
     * more.
     */
    DIFFUSION_ERROR_INTERNAL = -1,
    /** An argument or option value outside its documented range. */
    DIFFUSION_ERROR_INVALID_ARGUMENT = -2,
    /** The object cannot do this now. */
    DIFFUSION_ERROR_INVALID_STATE = -3,
    /** The object is in use by another thread, or the session's queue is full. */
    DIFFUSION_ERROR_BUSY = -4,
    /** There is no such file or folder. */
    DIFFUSION_ERROR_NOT_FOUND = -5,
    /** The operating system failed to read or write. */
    DIFFUSION_ERROR_IO = -6,
    /** A corrupt or unrecognised file. */
    DIFFUSION_ERROR_FORMAT = -7,
    /** Valid, but not supported by this build, device or model. */
    DIFFUSION_ERROR_UNSUPPORTED = -8,
    /** Host memory ran out, or the engine's limit was reached. */
    DIFFUSION_ERROR_OUT_OF_MEMORY = -9,
    /** Device memory ran out. */
    DIFFUSION_ERROR_DEVICE_OUT_OF_MEMORY = -10,
    /** The device failed. */
    DIFFUSION_ERROR_DEVICE = -11,
    /** The device is gone; CUDA asks that the process be started anew to use it again. */
    DIFFUSION_ERROR_DEVICE_LOST = -12,
    /** The job was cancelled. */
    DIFFUSION_ERROR_CANCELLED = -13,
    /** The caller's buffer is too small; the message says how much is needed. */
    DIFFUSION_ERROR_BUFFER_TOO_SMALL = -14,
    /**
     * The caller's structure has settings this library does not know: the header is newer than the
     * library.
     */
    DIFFUSION_ERROR_VERSION_MISMATCH = -15,
    /** NaN or infinity in weights or results. */
    DIFFUSION_ERROR_NUMERIC = -16
};

/**
 * The name of a status.
 *
 * \param status Any number.
 * \returns The name without its prefix, such as "OK" or "NOT_FOUND"; "UNKNOWN" for a number that is
 *     no status. Static: valid for ever.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API const char *diffusion_status_name(diffusion_status status);

/**
 * The error's status.
 *
 * \param error The error, or NULL.
 * \returns A negative status; ::DIFFUSION_OK for NULL.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_error_status(const diffusion_error *error);

/**
 * What went wrong, in one line without a trailing dot that names the file, tensor, option or value.
 *
 * \param error The error, or NULL.
 * \returns UTF-8, valid until the error is freed; "" for NULL.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API const char *diffusion_error_message(const diffusion_error *error);

/**
 * What lies behind the error: causes and logs, outermost first.
 *
 * \param error The error, or NULL.
 * \returns UTF-8 of any number of lines, valid until the error is freed; "" if there is nothing to
 *     add, and for NULL.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API const char *diffusion_error_detail(const diffusion_error *error);

/**
 * Whether the calling program is to blame rather than a file, the system or the library.
 *
 * \param error The error, or NULL.
 * \returns 1 for ::DIFFUSION_ERROR_INVALID_ARGUMENT, ::DIFFUSION_ERROR_INVALID_STATE,
 *     ::DIFFUSION_ERROR_BUSY, ::DIFFUSION_ERROR_BUFFER_TOO_SMALL and
 *     ::DIFFUSION_ERROR_VERSION_MISMATCH, else 0; 0 for NULL.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API int32_t diffusion_error_is_usage(const diffusion_error *error);

/**
 * Frees an error.
 *
 * Not for the borrowed error of diffusion_job_error().
 *
 * \param error The error, or NULL for nothing to happen.
 * \threadsafety Any thread; the error must not be in use.
 * \since 0.1.0
 */
DIFFUSION_API void diffusion_error_free(diffusion_error *error);

/** \} */

/* ---- Engine and devices ---------------------------------------------------------------------- */
/** \defgroup engine Engine and devices
 *  \{ */

/**
 * What computes: a value of ::diffusion_device_enum.
 * \since 0.1.0
 */
typedef int32_t diffusion_device;

/** Values of ::diffusion_device. */
enum diffusion_device_enum {
    /**
     * CUDA if there is a GPU that can be used, else the CPU; the log then says at
     * ::DIFFUSION_LOG_INFO what is missing.
     */
    DIFFUSION_DEVICE_AUTO = 0,
    /** The CPU. */
    DIFFUSION_DEVICE_CPU = 1,
    /** An NVIDIA GPU of compute capability 8.0 or more, with its driver and cuBLASLt. */
    DIFFUSION_DEVICE_CUDA = 2
};

/**
 * What activations and weights are while they are computed with: a value of
 * ::diffusion_precision_enum. Sums, and what norms and softmax need, are f32 always.
 * \since 0.1.0
 */
typedef int32_t diffusion_precision;

/** Values of ::diffusion_precision. */
enum diffusion_precision_enum {
    /** f16 on CUDA, f32 on the CPU. */
    DIFFUSION_PRECISION_DEFAULT = 0,
    /** IEEE half precision. CUDA only. */
    DIFFUSION_PRECISION_F16 = 1,
    /**
     * bfloat16: the range of f32, less precise than f16. On the CPU only where it is faster than
     * f32, which is AMD's with AVX512-BF16, and only for what linear layers, 1x1 and strided
     * convolutions and long attention multiply: activations and all else stay f32. The relative
     * error (L2) of a Stable Diffusion 1.5 U-Net is then 5e-3.
     */
    DIFFUSION_PRECISION_BF16 = 2,
    /** Single precision. On CUDA several times slower than the others. */
    DIFFUSION_PRECISION_F32 = 3
};

/**
 * How much a log message matters: a value of ::diffusion_log_level_enum.
 * \since 0.1.0
 */
typedef int32_t diffusion_log_level;

/** Values of ::diffusion_log_level. */
enum diffusion_log_level_enum {
    /** Nothing. */
    DIFFUSION_LOG_OFF = 0,
    /** Failures that no return value tells. */
    DIFFUSION_LOG_ERROR = 1,
    /** Things that are probably not meant so. */
    DIFFUSION_LOG_WARN = 2,
    /** What was asked of the library, with its parameters but without prompt text. */
    DIFFUSION_LOG_INFO = 3,
    /** Everything, prompt text included. */
    DIFFUSION_LOG_DEBUG = 4
};

/**
 * Hears an engine's messages.
 *
 * It may be called from any thread, also from several at once, until the engine and everything made
 * from it are freed. It must return normally: no exception, no longjmp. It may call into the
 * library, but must not wait for a job.
 *
 * \param level How much the message matters, ::DIFFUSION_LOG_ERROR to ::DIFFUSION_LOG_DEBUG.
 * \param message One line of UTF-8 without a line feed, valid during the call.
 * \param user_data ::diffusion_engine_desc::log_user_data.
 * \since 0.1.0
 */

typedef void (
    *diffusion_log_callback)(diffusion_log_level level, const char *message, void *user_data);

/**
 * How to make an engine. All zero (but for struct_size) means: the best device with all its cores,
 * no memory limit, no log.
 *
 * What is said of one kind of device does nothing on the other, so that a description with
 * ::DIFFUSION_DEVICE_AUTO may say all.
 * \since 0.1.0
 */
typedef struct diffusion_engine_desc {
    /** sizeof(diffusion_engine_desc) */
    uint32_t struct_size;
    /** What computes. */
    diffusion_device device;
    /**
     * Threads of the CPU that compute, up to 1024; 0 = one for each core this process may use. None
     * are made on CUDA.
     */
    uint32_t threads;
    /** The least important level sent to log. */
    diffusion_log_level log_level;
    /**
     * Bytes of weights and activations in host memory, past which calls and jobs fail with
     * ::DIFFUSION_ERROR_OUT_OF_MEMORY; 0 = no limit. On the CPU, residual blocks whose activations
     * would not fit are computed in strips, some more than once: the same images in more time.
     * diffusion_predict_memory() knows.
     */
    uint64_t memory_limit_host;
    /** Hears the messages; NULL = no log. */
    diffusion_log_callback log;
    /** Handed to log. */
    void *log_user_data;
    /**
     * Which CUDA device, from 0, in the order of diffusion_device_list_new(). One that does not
     * exist is ::DIFFUSION_ERROR_NOT_FOUND, with ::DIFFUSION_DEVICE_AUTO too where there is any.
     */
    uint32_t device_index;
    /** What the device computes in. One that it does not have is ::DIFFUSION_ERROR_UNSUPPORTED. */
    diffusion_precision precision;
    /**
     * Bytes of the CUDA device's memory for weights, activations and what sessions keep in reserve,
     * past which calls and jobs fail with ::DIFFUSION_ERROR_DEVICE_OUT_OF_MEMORY; 0 = no limit.
     */
    uint64_t memory_limit_device;
    /**
     * A folder, UTF-8, in which the CUDA libraries (libcublasLt, libnvrtc, libcuda) are looked for
     * before the places where they usually are; NULL = none.
     */
    const char *cuda_library_directory;
    /**
     * 1 = the CPU computes every convolution and every matrix product by its definition; 0 = by
     * Winograd's algorithms where these are faster: 3x3 convolutions, which take a third of the
     * time, and on AMD's Zen 4 all products, which take three quarters. The relative error (L2) of
     * a Stable Diffusion 1.5 U-Net is then 2.5e-6 instead of 2.0e-6. On CUDA it changes nothing.
     */
    int32_t strict;
    /** 0 */
    uint32_t reserved;
} diffusion_engine_desc;
/** A diffusion_engine_desc with struct_size set and all else zero. */
#define DIFFUSION_ENGINE_DESC_INIT \
    { sizeof(diffusion_engine_desc), 0, 0, 0, 0, NULL, NULL, 0, 0, 0, NULL, 0, 0 }

/**
 * Facts about an engine.
 * \since 0.1.0
 */
typedef struct diffusion_engine_info {
    /** sizeof(diffusion_engine_info), set by the caller */
    uint32_t struct_size;
    /** The device in use; never ::DIFFUSION_DEVICE_AUTO. */
    diffusion_device device;
    /** Threads of the CPU that compute; 0 on CUDA. */
    uint32_t threads;
    /** 0 */
    uint32_t reserved;
    /**
     * Bytes that this engine holds now in the memory of the device in use: the host's for the CPU,
     * the GPU's for CUDA. Weights, activations and what sessions keep in reserve; not what the
     * driver takes for itself.
     */
    uint64_t memory_used;
    /** The most bytes ever held. */
    uint64_t memory_peak;
    /**
     * The limit on them: ::diffusion_engine_desc::memory_limit_host or
     * ::diffusion_engine_desc::memory_limit_device.
     */
    uint64_t memory_limit;
    /**
     * The device, for people, and for the CPU its instruction set. Valid until the engine is freed.
     */
    const char *device_name;
    /** Which CUDA device, as in ::diffusion_engine_desc::device_index; 0 for the CPU. */
    uint32_t device_index;
    /** What the device computes in; never ::DIFFUSION_PRECISION_DEFAULT. */
    diffusion_precision precision;
} diffusion_engine_info;
/** A diffusion_engine_info with struct_size set and all else zero. */
#define DIFFUSION_ENGINE_INFO_INIT { sizeof(diffusion_engine_info), 0, 0, 0, 0, 0, 0, NULL, 0, 0 }

/**
 * Fills a description with defaults, for languages that cannot use ::DIFFUSION_ENGINE_DESC_INIT.
 *
 * \param desc The description, or NULL for nothing to happen.
 * \param size Its size in bytes, sizeof(diffusion_engine_desc). All of it is set to zero but
 *     struct_size, which is set to size.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API void diffusion_engine_desc_init(diffusion_engine_desc *desc, size_t size);

/**
 * Makes an engine: finds the device and starts its threads.
 *
 * CUDA's libraries are looked for, and loaded, when the first engine needs them and stay loaded.
 *
 * The CPU's instruction set is found at run time. To keep it from those past one, set the
 * environment variable LIBDIFFUSION_CPU to portable, sse2, avx2, avx512 or zen4, on AArch64 to
 * portable or neon; another value limits nothing and is told in the log at ::DIFFUSION_LOG_WARN.
 *
 * \param desc What is wanted; NULL = all defaults.
 * \param engine Receives the engine, to be freed with diffusion_engine_free(); NULL on failure.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_UNSUPPORTED if this machine lacks what the device
 *     needs (the message says what, and how to get it), or the device the precision;
 *     ::DIFFUSION_ERROR_NOT_FOUND for a device_index that does not exist; ::DIFFUSION_ERROR_DEVICE,
 *     ::DIFFUSION_ERROR_DEVICE_LOST or ::DIFFUSION_ERROR_DEVICE_OUT_OF_MEMORY if the device does
 *     not start; ::DIFFUSION_ERROR_INVALID_ARGUMENT; ::DIFFUSION_ERROR_OUT_OF_MEMORY.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_engine_new(
    const diffusion_engine_desc *desc, diffusion_engine **engine, diffusion_error **error);

/**
 * Frees an engine.
 *
 * What was made from it goes on working and keeps the device and its threads until it is freed too.
 *
 * \param engine The engine, or NULL for nothing to happen.
 * \threadsafety Any thread; the engine must not be in use.
 * \since 0.1.0
 */
DIFFUSION_API void diffusion_engine_free(diffusion_engine *engine);

/**
 * Tells what an engine is and how much memory it holds.
 *
 * \param engine The engine.
 * \param info Receives the facts; the caller sets struct_size before.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_engine_get_info(
    const diffusion_engine *engine, diffusion_engine_info *info, diffusion_error **error);

/**
 * Where to look for devices. All zero (but for struct_size) is the default.
 * \since 0.1.0
 */
typedef struct diffusion_device_list_desc {
    /** sizeof(diffusion_device_list_desc) */
    uint32_t struct_size;
    /** 0 */
    uint32_t reserved;
    /** ::diffusion_engine_desc::cuda_library_directory. */
    const char *cuda_library_directory;
} diffusion_device_list_desc;
/** A diffusion_device_list_desc with struct_size set and all else zero. */
#define DIFFUSION_DEVICE_LIST_DESC_INIT { sizeof(diffusion_device_list_desc), 0, NULL }

/**
 * Facts about a device.
 * \since 0.1.0
 */
typedef struct diffusion_device_info {
    /** sizeof(diffusion_device_info), set by the caller */
    uint32_t struct_size;
    /** Its kind, for ::diffusion_engine_desc::device: ::DIFFUSION_DEVICE_CUDA in this version. */
    diffusion_device device;
    /** Which of its kind, for ::diffusion_engine_desc::device_index. */
    uint32_t device_index;
    /** 10 times the compute capability, as in sm_90: 90 is 9.0. Engines need 80. */
    uint32_t compute_capability;
    /** Bytes of memory the device has, free or not. */
    uint64_t memory;
    /** What its maker calls it. Valid until the list is freed. */
    const char *name;
} diffusion_device_info;
/** A diffusion_device_info with struct_size set and all else zero. */
#define DIFFUSION_DEVICE_INFO_INIT { sizeof(diffusion_device_info), 0, 0, 0, 0, NULL }

/**
 * Lists the CUDA devices of this machine.
 *
 * A machine without a driver or a GPU is no error: its list is empty, and
 * diffusion_device_list_reason() says why. A device in the list may still not do for an engine (too
 * old, or without cuBLASLt): diffusion_engine_new() tells.
 *
 * \param desc Where to look; NULL = all defaults.
 * \param list Receives the list, to be freed with diffusion_device_list_free(); NULL on failure.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_DEVICE if the driver fails;
 *     ::DIFFUSION_ERROR_INVALID_ARGUMENT.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_device_list_new(
    const diffusion_device_list_desc *desc, diffusion_device_list **list, diffusion_error **error);

/**
 * Frees a list of devices. Engines do not need it.
 *
 * \param list The list, or NULL for nothing to happen.
 * \threadsafety Any thread; the list must not be in use.
 * \since 0.1.0
 */
DIFFUSION_API void diffusion_device_list_free(diffusion_device_list *list);

/**
 * How many devices a list has.
 *
 * \param list The list.
 * \returns The number of devices; 0 for NULL.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API size_t diffusion_device_list_count(const diffusion_device_list *list);

/**
 * Tells what a device is.
 *
 * \param list The list.
 * \param index 0 to diffusion_device_list_count() - 1.
 * \param info Receives the facts; the caller sets struct_size before.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_device_list_get_info(
    const diffusion_device_list *list, size_t index, diffusion_device_info *info,
    diffusion_error **error);

/**
 * Why a list is empty.
 *
 * \param list The list.
 * \returns One line, such as what is missing and how to get it; "" for a list with devices, or
 *     NULL. Valid until the list is freed.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API const char *diffusion_device_list_reason(const diffusion_device_list *list);

/** \} */

/* ---- Models ---------------------------------------------------------------------------------- */
/** \defgroup models Models
 *  \{ */

/**
 * What the weights are in memory: a value of ::diffusion_weight_format_enum.
 * \since 0.1.0
 */
typedef int32_t diffusion_weight_format;

/** Values of ::diffusion_weight_format. */
enum diffusion_weight_format_enum {
    /** In the precision of the files on the CPU, in that of the engine on CUDA. */
    DIFFUSION_WEIGHT_FORMAT_AS_STORED = 0,
    /**
     * Linear layers and convolutions, but for the U-Net's first and last, as 8-bit integers with a
     * scale for every 64 inputs of an output. The weights of Stable Diffusion 1.5 take 1.18 GB for
     * 2.14 GB in f16, a step about the same time. One evaluation of the U-Net of models/emoji-64 is
     * 0.6 % off (relative L2), its pictures have a PSNR of 52 dB and more against f16. CPU only.
     */
    DIFFUSION_WEIGHT_FORMAT_INT8 = 1
};

/**
 * How to load a model. All zero (but for struct_size) is the default.
 * \since 0.1.0
 */
typedef struct diffusion_model_desc {
    /** sizeof(diffusion_model_desc) */
    uint32_t struct_size;
    /**
     * What the weights are in memory. A format that the device does not have is
     * ::DIFFUSION_ERROR_UNSUPPORTED.
     */
    diffusion_weight_format weights;
    /**
     * Variant in the names of the weight files: "fp16" picks model.fp16.safetensors. NULL = the
     * plain files, or the only ones there are.
     */
    const char *variant;
} diffusion_model_desc;
/** A diffusion_model_desc with struct_size set and all else zero. */
#define DIFFUSION_MODEL_DESC_INIT { sizeof(diffusion_model_desc), 0, NULL }

/**
 * Facts about a model. The strings are valid until the model is freed.
 * \since 0.1.0
 */
typedef struct diffusion_model_info {
    /** sizeof(diffusion_model_info), set by the caller */
    uint32_t struct_size;
    /** Width in pixels of the images the model was trained for. */
    uint32_t width;
    /** Height in pixels of the images the model was trained for. */
    uint32_t height;
    /** Width and height of an image must be multiples of this. */
    uint32_t size_multiple;
    /** Channels of the latents. */
    uint32_t latent_channels;
    /** Longest prompt in tokens, begin and end marks not counted. Tokens past it are dropped. */
    uint32_t max_tokens;
    /** Numbers in all weights. */
    uint64_t parameters;
    /** Bytes of the weights in their files. */
    uint64_t weight_bytes;
    /** The pipeline's class in model_index.json, such as "StableDiffusionPipeline". */
    const char *pipeline_class;
    /**
     * What the network predicts: "epsilon", "v_prediction", "sample", "flow_prediction" or
     * "edm_v_prediction".
     */
    const char *prediction_type;
    /**
     * The sampler of the model's scheduler_config.json, as ::DIFFUSION_OPTION_SAMPLER spells it.
     */
    const char *default_sampler;
} diffusion_model_info;
/** A diffusion_model_info with struct_size set and all else zero. */
#define DIFFUSION_MODEL_INFO_INIT \
    { sizeof(diffusion_model_info), 0, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL }

/**
 * Loads a model from a folder in diffusers layout.
 *
 * The folder holds model_index.json and, for each component it names, a folder with its config and
 * weights as safetensors: one file, or shards with an index. Every tensor is accounted for: one
 * that is missing, unknown or of the wrong shape is an error that names it. The files must not
 * change until the function returns.
 *
 * \param engine What the model runs on; the model keeps it alive.
 * \param path The folder, UTF-8.
 * \param desc What is wanted; NULL = all defaults.
 * \param model Receives the model, to be freed with diffusion_model_free(); NULL on failure.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_NOT_FOUND if the folder or one of its files is not
 *     there; ::DIFFUSION_ERROR_FORMAT for a file that is corrupt or contradicts another;
 *     ::DIFFUSION_ERROR_UNSUPPORTED for a component this version does not know or weights the
 *     device does not have; ::DIFFUSION_ERROR_IO; ::DIFFUSION_ERROR_NUMERIC;
 *     ::DIFFUSION_ERROR_OUT_OF_MEMORY; ::DIFFUSION_ERROR_INVALID_ARGUMENT; on CUDA also
 *     ::DIFFUSION_ERROR_DEVICE_OUT_OF_MEMORY, ::DIFFUSION_ERROR_DEVICE and
 *     ::DIFFUSION_ERROR_DEVICE_LOST.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_model_load(
    diffusion_engine *engine, const char *path, const diffusion_model_desc *desc,
    diffusion_model **model, diffusion_error **error);

/**
 * Frees a model.
 *
 * Sessions and requests made from it go on working and keep the weights until they are freed too.
 *
 * \param model The model, or NULL for nothing to happen.
 * \threadsafety Any thread; the model must not be in use.
 * \since 0.1.0
 */
DIFFUSION_API void diffusion_model_free(diffusion_model *model);

/**
 * Tells what a model is.
 *
 * \param model The model.
 * \param info Receives the facts; the caller sets struct_size before.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_model_get_info(
    const diffusion_model *model, diffusion_model_info *info, diffusion_error **error);

/**
 * What decides how much memory a text-to-image request takes. All zero (but for struct_size) is one
 * image of the model's size without guidance.
 * \since 0.1.0
 */
typedef struct diffusion_memory_query {
    /** sizeof(diffusion_memory_query) */
    uint32_t struct_size;
    /** Width of the images in pixels; 0 = the model's. */
    uint32_t width;
    /** Height of the images in pixels; 0 = the model's. */
    uint32_t height;
    /** Images of one request; 0 = 1. */
    uint32_t batch_size;
    /** 1 with guidance (a guidance scale above 1), which doubles the batch; 0 without. */
    int32_t guided;
    /** Denoising steps; 0 = 20. */
    uint32_t steps;
} diffusion_memory_query;
/** A diffusion_memory_query with struct_size set and all else zero. */
#define DIFFUSION_MEMORY_QUERY_INIT { sizeof(diffusion_memory_query), 0, 0, 0, 0, 0 }

/**
 * Bytes of the memory of the device in use (the host's for the CPU, the GPU's for CUDA) that a
 * model and one request on it take, with what the session keeps in reserve. It is the
 * ::diffusion_engine_info::memory_peak to come, and what the driver takes for itself is not
 * counted.
 * \since 0.1.0
 */
typedef struct diffusion_memory_prediction {
    /** sizeof(diffusion_memory_prediction), set by the caller */
    uint32_t struct_size;
    /**
     * 1 if the request runs within limit while nothing else does in the engine, else 0. It may be 1
     * with a total above limit: reserves are given up before a request fails.
     */
    int32_t fits;
    /** Of the model's weights, which all its sessions share. */
    uint64_t weights;
    /** The most that a session takes at a time beside them. */
    uint64_t activations;
    /** Both. */
    uint64_t total;
    /**
     * The most that there can be: ::diffusion_engine_info::memory_limit, or on CUDA what the GPU
     * has if that is less or there is no limit; 0 = no limit.
     */
    uint64_t limit;
} diffusion_memory_prediction;
/** A diffusion_memory_prediction with struct_size set and all else zero. */
#define DIFFUSION_MEMORY_PREDICTION_INIT { sizeof(diffusion_memory_prediction), 0, 0, 0, 0, 0 }

/**
 * Predicts how much memory one request takes, before its model is loaded.
 *
 * Of the model's folder only configs, tokenizers and the headers of the weight files are read; on
 * the device nothing is allocated. Image-to-image, perturbed attention and several sessions take
 * more.
 *
 * \param engine What the model would run on.
 * \param path The model's folder, UTF-8, as for diffusion_model_load().
 * \param desc As for diffusion_model_load(); NULL = all defaults.
 * \param query The request; NULL = all defaults.
 * \param prediction Receives the prediction; the caller sets struct_size before.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK, whether it fits or not; ::DIFFUSION_ERROR_NOT_FOUND,
 *     ::DIFFUSION_ERROR_FORMAT, ::DIFFUSION_ERROR_UNSUPPORTED and ::DIFFUSION_ERROR_IO as
 *     diffusion_model_load(); ::DIFFUSION_ERROR_INVALID_ARGUMENT also for a size, a batch_size or
 *     steps that no request may have; ::DIFFUSION_ERROR_OUT_OF_MEMORY.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_predict_memory(
    const diffusion_engine *engine, const char *path, const diffusion_model_desc *desc,
    const diffusion_memory_query *query, diffusion_memory_prediction *prediction,
    diffusion_error **error);

/** \} */

/* ---- Requests and options -------------------------------------------------------------------- */
/** \defgroup requests Requests and options
 *  \{ */

/**
 * An option of a request: a value of ::diffusion_option_enum.
 * \since 0.1.0
 */
typedef int32_t diffusion_option;

/**
 * Values of ::diffusion_option. In brackets: type, default, range. diffusion_option_get_info()
 * tells the same.
 */
enum diffusion_option_enum {
    /** What the image shows. [string, ""] */
    DIFFUSION_OPTION_PROMPT = 1,
    /**
     * What guidance steers away from; unset is not the same as empty for some SDXL models. [string,
     * unset]
     */
    DIFFUSION_OPTION_NEGATIVE_PROMPT = 2,
    /**
     * Image width in pixels, a multiple of size_multiple; 0 = that of the option image, else the
     * model's own. [int, 0, 0..8192]
     */
    DIFFUSION_OPTION_WIDTH = 3,
    /**
     * Image height in pixels, a multiple of size_multiple; 0 = that of the option image, else the
     * model's own. [int, 0, 0..8192]
     */
    DIFFUSION_OPTION_HEIGHT = 4,
    /** Denoising steps; 0 = decode the given latents as they are. [int, 20, 0..1000] */
    DIFFUSION_OPTION_STEPS = 5,
    /** Strength of classifier-free guidance; 1 and below turn it off. [float, 7.5, 0..100] */
    DIFFUSION_OPTION_GUIDANCE_SCALE = 6,
    /**
     * Seed of the noise, any 64 bits; image i of a batch uses seed + i (but see variation_seed and
     * profile). [int, 0, any]
     *
     * Where variation_strength is above 0, all images of a batch have the first noise of seed; in
     * the profile ::DIFFUSION_PROFILE_COMFYUI, each has its part of one noise for the whole batch.
     */
    DIFFUSION_OPTION_SEED = 7,
    /** Images to make at once. [int, 1, 1..64] */
    DIFFUSION_OPTION_BATCH_SIZE = 8,
    /**
     * How noise becomes an image; auto = the model's default_sampler. [::diffusion_sampler_id,
     * auto]
     */
    DIFFUSION_OPTION_SAMPLER = 9,
    /**
     * Which training timesteps the sampler visits; auto = the model's own.
     * [::diffusion_timestep_spacing, auto]
     */
    DIFFUSION_OPTION_TIMESTEP_SPACING = 10,
    /**
     * How much fresh noise a step adds: 0 = none, 1 = as much as ddpm; negative = the sampler's
     * own. [float, -1, -1..1]
     */
    DIFFUSION_OPTION_ETA = 11,
    /**
     * Noise generator: philox equals torch's CUDA randn, mt19937 its CPU randn; auto = the
     * profile's. [::diffusion_noise, auto]
     */
    DIFFUSION_OPTION_NOISE = 12,
    /**
     * Start noise of unit variance, batch x channels x height/f x width/f, in place of noise from
     * the seed. [floats, unset]
     *
     * NCHW as in diffusers: the latents of image 0 first, f the model's reduction (8 for all Stable
     * Diffusion models). With 0 steps these are the latents to decode, as
     * diffusion_job_copy_latents() gives them.
     */
    DIFFUSION_OPTION_LATENTS = 13,
    /** What to make: auto = image; latents skips the decoder. [::diffusion_output, auto] */
    DIFFUSION_OPTION_OUTPUT = 14,
    /**
     * How the noise levels are laid out; auto = the model's own, else by timestep_spacing.
     * [::diffusion_sigma_schedule, auto]
     */
    DIFFUSION_OPTION_SIGMA_SCHEDULE = 15,
    /**
     * Noise levels of your own, falling, one more than steps: the last (often 0) is where the last
     * step ends. [floats, unset]
     *
     * In the sampler's own terms: noise-to-signal ratios, or a flow model's t from 1 to 0. The
     * number of values decides the number of steps, whatever ::DIFFUSION_OPTION_STEPS says (unless
     * that is 0).
     */
    DIFFUSION_OPTION_SIGMAS = 16,
    /**
     * Training timesteps of your own, falling, one a step, in place of sigmas or a schedule.
     * [floats, unset]
     *
     * Their number decides the number of steps. The last step ends without noise.
     */
    DIFFUSION_OPTION_TIMESTEPS = 17,
    /**
     * Noise put back before each step and taken away in it, over all steps; for euler, heun and
     * dpm2. [float, 0, 0..1000]
     */
    DIFFUSION_OPTION_S_CHURN = 18,
    /** The least noise level at which s_churn acts. [float, 0, 0..1000000] */
    DIFFUSION_OPTION_S_TMIN = 19,
    /** The greatest noise level at which s_churn acts; 0 = any. [float, 0, 0..1000000] */
    DIFFUSION_OPTION_S_TMAX = 20,
    /** What all fresh noise is multiplied by. [float, 1, 0..10] */
    DIFFUSION_OPTION_S_NOISE = 21,
    /**
     * Whose numbers to give where programs differ; auto = diffusers. [::diffusion_profile, auto]
     *
     * It decides the scale of the first noise, the steps of image-to-image, how sigma schedules
     * end, and what the seeds of a batch are.
     */
    DIFFUSION_OPTION_PROFILE = 22,
    /**
     * The picture that image-to-image and inpainting start from, width x height pixels. [image,
     * unset]
     *
     * Each image of a batch starts from it. Its size is the request's where width and height are 0,
     * and must be equal to it elsewhere.
     */
    DIFFUSION_OPTION_IMAGE = 23,
    /**
     * What to paint anew: white is painted, black keeps the pixels of the option image to the bit.
     * [image, unset]
     *
     * As large as ::DIFFUSION_OPTION_IMAGE, which it needs. A pixel is white if the mean of its
     * red, green and blue is at least a half. Works with any text-to-image model: after each step
     * the latents of what is black are put back, noised to that step, and at the end its pixels
     * are, always. The latents go with the upper left pixel of those they stand for. The final
     * latents are not put together so.
     */
    DIFFUSION_OPTION_MASK = 24,
    /**
     * How much of the way to go from the option image, above 0; 1 = all steps. [float, 0.8, 0..1]
     *
     * Below 1 the first steps are left out, and those that remain start from the noised picture.
     * With ::DIFFUSION_OPTION_MASK, 1 starts from pure noise.
     */
    DIFFUSION_OPTION_STRENGTH = 25,
    /**
     * Seed to vary the picture of seed towards, any 64 bits; image i of a batch uses variation_seed
     * + i. [int, 0, any]
     *
     * A1111's variation seed: the first noise is interpolated spherically between the two.
     */
    DIFFUSION_OPTION_VARIATION_SEED = 26,
    /**
     * How far to go from seed to variation_seed: 0 = not at all, 1 = all the way. [float, 0, 0..1]
     */
    DIFFUSION_OPTION_VARIATION_STRENGTH = 27,
    /**
     * Added to the seeds of the noise that steps add; 0 = it goes on where the first noise ends.
     * [int, 0, any]
     *
     * A1111's ENSD, which for many shared settings is 31337.
     */
    DIFFUSION_OPTION_ETA_NOISE_SEED_DELTA = 28,
    /**
     * Quantile of each prediction's values that becomes the limit of all; 0 = as the model's config
     * says. [float, 0, 0..1]
     */
    DIFFUSION_OPTION_DYNAMIC_THRESHOLDING_RATIO = 29,
    /** The most that the limit of dynamic_thresholding_ratio may be. [float, 1, 1..1000000] */
    DIFFUSION_OPTION_DYNAMIC_THRESHOLDING_MAX = 30,
    /**
     * How the predictions with and without the prompt combine; auto = cfg.
     * [::diffusion_guidance_method, auto]
     */
    DIFFUSION_OPTION_GUIDANCE_METHOD = 31,
    /** A guidance scale for each step that is taken, in place of guidance_scale. [floats, unset] */
    DIFFUSION_OPTION_GUIDANCE_SCHEDULE = 32,
    /**
     * How far guided predictions are brought back to the contrast of unguided ones. [float, 0,
     * 0..1]
     */
    DIFFUSION_OPTION_GUIDANCE_RESCALE = 33,
    /** The part of the steps after which guidance begins. [float, 0, 0..1] */
    DIFFUSION_OPTION_GUIDANCE_START = 34,
    /** The part of the steps after which guidance ends. [float, 1, 0..1] */
    DIFFUSION_OPTION_GUIDANCE_STOP = 35,
    /** Steps at the start that cfg_zero_star takes with a prediction of zero. [int, 1, 0..1000] */
    DIFFUSION_OPTION_ZERO_INIT_STEPS = 36,
    /**
     * What apg keeps of guidance along the predicted x0: 0 = nothing, 1 = all. [float, 1, 0..10]
     */
    DIFFUSION_OPTION_APG_ETA = 37,
    /** The longest difference that apg guides by; 0 = any. [float, 15, 0..1000000] */
    DIFFUSION_OPTION_APG_NORM_THRESHOLD = 38,
    /**
     * What apg keeps of the differences of earlier steps; its paper's is negative. [float, 0,
     * -0.99..0.99]
     */
    DIFFUSION_OPTION_APG_MOMENTUM = 39,
    /** Strength of guidance away from a perturbed network; 0 turns it off. [float, 0, 0..100] */
    DIFFUSION_OPTION_PAG_SCALE = 40,
    /**
     * Blocks that pag_scale perturbs, such as mid_block,down_blocks.1,up_blocks.0; empty =
     * mid_block. [string, ""]
     */
    DIFFUSION_OPTION_PAG_APPLIED_LAYERS = 41,
    /**
     * What those blocks lose: what attention sees, or all their layers; auto = identity_attention.
     * [::diffusion_perturbation, auto]
     */
    DIFFUSION_OPTION_PERTURBATION = 42
};

/**
 * How noise becomes an image: a value of ::diffusion_sampler_id_enum.
 * \since 0.1.0
 */
typedef int32_t diffusion_sampler_id;

/** Values of ::diffusion_sampler_id. */
enum diffusion_sampler_id_enum {
    /** The one of the model's scheduler_config.json. */
    DIFFUSION_SAMPLER_AUTO = 0,
    /** The original; needs hundreds of steps. Ho et al. 2020, arXiv:2006.11239, algorithm 2. */
    DIFFUSION_SAMPLER_DDPM = 1,
    /**
     * The plain deterministic one; eta adds noise. Song et al. 2020, arXiv:2010.02502, equation 12.
     */
    DIFFUSION_SAMPLER_DDIM = 2,
    /**
     * Simple and robust. Karras et al. 2022, arXiv:2206.00364, algorithm 2 without its correction.
     */
    DIFFUSION_SAMPLER_EULER = 3,
    /**
     * Varied pictures that never settle as steps grow. k-diffusion sample_euler_ancestral; for
     * flows diffusers LTXEulerAncestralRFScheduler.
     */
    DIFFUSION_SAMPLER_EULER_ANCESTRAL = 4,
    /**
     * Guidance scales of 0 to 1 without oversaturation. Chung et al. 2024, arXiv:2406.08070,
     * algorithm 2.
     */
    DIFFUSION_SAMPLER_EULER_CFG_PP = 5,
    /** Precise; twice the work of a step. Karras et al. 2022, arXiv:2206.00364, algorithm 2. */
    DIFFUSION_SAMPLER_HEUN = 6,
    /**
     * As heun, and mostly a little more precise. k-diffusion sample_dpm_2: Karras et al. 2022,
     * algorithm 2, with DPM-Solver-2's midpoint, arXiv:2206.00927.
     */
    DIFFUSION_SAMPLER_DPM2 = 7,
    /** As dpm2, with fresh noise. k-diffusion sample_dpm_2_ancestral. */
    DIFFUSION_SAMPLER_DPM2_ANCESTRAL = 8,
    /**
     * An older multistep method, cheap and smooth. Adams-Bashforth for uneven steps of sigma;
     * k-diffusion sample_lms.
     */
    DIFFUSION_SAMPLER_LMS = 9,
    /**
     * Runge-Kutta steps first, then multistep; four evaluations in each of the first three steps.
     * Liu et al. 2022, arXiv:2202.09778, algorithm 2.
     */
    DIFFUSION_SAMPLER_PNDM = 10,
    /**
     * Stable Diffusion 1's first default. Liu et al. 2022, arXiv:2202.09778, without Runge-Kutta
     * steps (latent diffusion).
     */
    DIFFUSION_SAMPLER_PLMS = 11,
    /**
     * Detailed and varied; twice the work of a step. Lu et al. 2022, arXiv:2211.01095, algorithm 1;
     * k-diffusion.
     */
    DIFFUSION_SAMPLER_DPMPP_2S_ANCESTRAL = 12,
    /** The usual choice for 15 to 30 steps. Lu et al. 2022, arXiv:2211.01095, algorithm 2. */
    DIFFUSION_SAMPLER_DPMPP_2M = 13,
    /**
     * Detailed pictures in 20 to 40 steps. Lu et al. 2022, arXiv:2211.01095; k-diffusion
     * sample_dpmpp_2m_sde, midpoint.
     */
    DIFFUSION_SAMPLER_DPMPP_2M_SDE = 14,
    /** As dpmpp_2m_sde, a little smoother. k-diffusion sample_dpmpp_2m_sde, heun. */
    DIFFUSION_SAMPLER_DPMPP_2M_SDE_HEUN = 15,
    /**
     * Good with few steps; twice the work of a step. Lu et al. 2022, arXiv:2211.01095; k-diffusion
     * sample_dpmpp_sde.
     */
    DIFFUSION_SAMPLER_DPMPP_SDE = 16,
    /** For many steps. k-diffusion sample_dpmpp_3m_sde. */
    DIFFUSION_SAMPLER_DPMPP_3M_SDE = 17,
    /**
     * As dpmpp_2m, but steps come in groups. Lu et al. 2022, arXiv:2206.00927, algorithms 1 and 2,
     * for the data prediction of arXiv:2211.01095.
     */
    DIFFUSION_SAMPLER_DPM_SOLVER_SINGLESTEP = 18,
    /**
     * Predictor and corrector; good below 10 steps. Zhao et al. 2023, arXiv:2302.04867, B(h) = h.
     */
    DIFFUSION_SAMPLER_UNIPC_BH1 = 19,
    /**
     * Predictor and corrector; good for guided pictures in few steps. Zhao et al. 2023,
     * arXiv:2302.04867, B(h) = exp(h) - 1.
     */
    DIFFUSION_SAMPLER_UNIPC_BH2 = 20,
    /**
     * Exponential integrator; good with few steps. Zhang & Chen 2022, arXiv:2204.13902, log-rho.
     */
    DIFFUSION_SAMPLER_DEIS = 21,
    /**
     * Multistep without PNDM's warm-up. Zhang & Chen 2022, arXiv:2204.13902, iPNDM; diffusers
     * IPNDMScheduler.step.
     */
    DIFFUSION_SAMPLER_IPNDM = 22,
    /**
     * For models distilled by consistency: 1 to 8 steps. Luo et al. 2023, arXiv:2310.04378,
     * algorithm 3.
     */
    DIFFUSION_SAMPLER_LCM = 23,
    /**
     * For models distilled along trajectories; eta is its gamma. Zheng et al. 2024,
     * arXiv:2402.19159, algorithm 4.
     */
    DIFFUSION_SAMPLER_TCD = 24,
    /** Stochastic Adams predictor and corrector. Xue et al. 2023, arXiv:2309.05019, algorithm 1. */
    DIFFUSION_SAMPLER_SA_SOLVER = 25,
    /**
     * Heun that, from 20 steps on, goes back up and down again to shed errors. Xu et al. 2023,
     * arXiv:2306.14878, with the restarts of A1111.
     */
    DIFFUSION_SAMPLER_RESTART = 26,
    /** Extended reverse-time SDE; detailed with few steps. Cui et al. 2023, arXiv:2309.06169. */
    DIFFUSION_SAMPLER_ER_SDE = 27,
    /** Refined exponential solver; a sharper dpmpp_2m. Zhang et al. 2023, arXiv:2308.02157. */
    DIFFUSION_SAMPLER_RES_MULTISTEP = 28,
    /**
     * Euler that leans on the last step's direction. Permenter & Yuan 2023, arXiv:2306.04848,
     * gradient estimation; ComfyUI gradient_estimation.
     */
    DIFFUSION_SAMPLER_GRADIENT_ESTIMATION = 29
};

/**
 * How noise levels are laid out: a value of ::diffusion_sigma_schedule_enum.
 * \since 0.1.0
 */
typedef int32_t diffusion_sigma_schedule;

/** Values of ::diffusion_sigma_schedule. */
enum diffusion_sigma_schedule_enum {
    /**
     * The one of the model's scheduler_config.json, else by ::DIFFUSION_OPTION_TIMESTEP_SPACING.
     */
    DIFFUSION_SIGMA_SCHEDULE_AUTO = 0,
    /**
     * Even in timesteps: what models are trained on; other programs' normal and uniform.
     * k-diffusion DiscreteSchedule.get_sigmas; diffusers timestep_spacing.
     */
    DIFFUSION_SIGMA_SCHEDULE_DISCRETE = 1,
    /**
     * Even in timesteps, whole ones of the model's table, without its least noisy. ComfyUI
     * simple_scheduler.
     */
    DIFFUSION_SIGMA_SCHEDULE_SIMPLE = 2,
    /**
     * Even in timesteps, one more than the steps, without its least noisy; for distilled models.
     * Stability generative-models; ComfyUI normal_scheduler, sgm.
     */
    DIFFUSION_SIGMA_SCHEDULE_SGM_UNIFORM = 3,
    /**
     * Many steps at little noise; the usual choice for dpmpp samplers in 15 to 30 steps. Karras et
     * al. 2022, arXiv:2206.00364, equation 5 with rho 7.
     */
    DIFFUSION_SIGMA_SCHEDULE_KARRAS = 4,
    /**
     * Even in the logarithm of the noise; goes with the SDE samplers. k-diffusion
     * get_sigmas_exponential.
     */
    DIFFUSION_SIGMA_SCHEDULE_EXPONENTIAL = 5,
    /**
     * At rho 1 the same as exponential, under the name other programs have for it. k-diffusion
     * get_sigmas_polyexponential with rho 1.
     */
    DIFFUSION_SIGMA_SCHEDULE_POLYEXPONENTIAL = 6,
    /**
     * Many steps at both ends, few in the middle. Lee et al. 2024, arXiv:2407.12173, alpha and beta
     * 0.6.
     */
    DIFFUSION_SIGMA_SCHEDULE_BETA = 7,
    /**
     * Even in the arc tangent of the noise: optimal if the data were one Gaussian. Sabour et al.
     * 2024, arXiv:2404.14507, theorem 3.1.
     */
    DIFFUSION_SIGMA_SCHEDULE_KL_OPTIMAL = 8,
    /**
     * Found by optimisation for Stable Diffusion 1 in 10 steps, other counts in between. Sabour et
     * al. 2024, arXiv:2404.14507, Stable Diffusion 1.5's table.
     */
    DIFFUSION_SIGMA_SCHEDULE_ALIGN_YOUR_STEPS = 9,
    /**
     * Found by optimisation for SDXL in 10 steps, other counts in between. Sabour et al. 2024,
     * arXiv:2404.14507, SDXL's table.
     */
    DIFFUSION_SIGMA_SCHEDULE_ALIGN_YOUR_STEPS_XL = 10,
    /**
     * Whole strides of timesteps from the second; the count of steps may come out a little higher.
     * Song et al. 2020, arXiv:2010.02502, appendix D.2; ComfyUI ddim_scheduler.
     */
    DIFFUSION_SIGMA_SCHEDULE_DDIM_UNIFORM = 11,
    /**
     * Small even steps at the most noise, then ever larger ones; for flow models. Genmo Mochi 1;
     * ComfyUI linear_quadratic_schedule.
     */
    DIFFUSION_SIGMA_SCHEDULE_LINEAR_QUADRATIC = 12,
    /**
     * The timesteps that consistency models were distilled at. Luo et al. 2023, arXiv:2310.04378,
     * section 4.3; diffusers LCMScheduler.
     */
    DIFFUSION_SIGMA_SCHEDULE_LCM = 13,
    /**
     * Counts down from the last timestep, as models distilled adversarially want it: 1 to 4 steps.
     * Sauer et al. 2023, arXiv:2311.17042; ComfyUI SDTurboScheduler.
     */
    DIFFUSION_SIGMA_SCHEDULE_TURBO = 14
};

/**
 * Whose numbers to give where programs use one name for different arithmetic: a value of
 * ::diffusion_profile_enum.
 * \since 0.1.0
 */
typedef int32_t diffusion_profile;

/** Values of ::diffusion_profile. */
enum diffusion_profile_enum {
    /** ::DIFFUSION_PROFILE_DIFFUSERS */
    DIFFUSION_PROFILE_AUTO = 0,
    /** Hugging Face diffusers, with a generator for each image. */
    DIFFUSION_PROFILE_DIFFUSERS = 1,
    /** AUTOMATIC1111's Stable Diffusion web UI. */
    DIFFUSION_PROFILE_A1111 = 2,
    /**
     * ComfyUI. A batch's first noise is drawn at once from one stream of the Mersenne Twister, so
     * that an image depends on its place in the batch; the noise of steps comes from seed + 1 + i
     * for image i.
     */
    DIFFUSION_PROFILE_COMFYUI = 3
};

/**
 * Which training timesteps a sampler visits: a value of ::diffusion_timestep_spacing_enum.
 * \since 0.1.0
 */
typedef int32_t diffusion_timestep_spacing;

/** Values of ::diffusion_timestep_spacing (Lin et al. 2023, table 2). */
enum diffusion_timestep_spacing_enum {
    /** The one of the model's scheduler_config.json. */
    DIFFUSION_TIMESTEP_SPACING_AUTO = 0,
    /** Even steps from the first timestep. */
    DIFFUSION_TIMESTEP_SPACING_LEADING = 1,
    /** Even steps to the last timestep. */
    DIFFUSION_TIMESTEP_SPACING_TRAILING = 2,
    /** Even steps from the first to the last timestep. */
    DIFFUSION_TIMESTEP_SPACING_LINSPACE = 3
};

/**
 * How the predictions with and without the prompt combine: a value of
 * ::diffusion_guidance_method_enum.
 * \since 0.1.0
 */
typedef int32_t diffusion_guidance_method;

/** Values of ::diffusion_guidance_method. */
enum diffusion_guidance_method_enum {
    /** ::DIFFUSION_GUIDANCE_METHOD_CFG */
    DIFFUSION_GUIDANCE_METHOD_AUTO = 0,
    /** Classifier-free guidance (Ho & Salimans 2022). */
    DIFFUSION_GUIDANCE_METHOD_CFG = 1,
    /** CFG-Zero* (Fan et al. 2025), for flow models. */
    DIFFUSION_GUIDANCE_METHOD_CFG_ZERO_STAR = 2,
    /** Adaptive projected guidance (Sadat et al. 2024): high scales without oversaturation. */
    DIFFUSION_GUIDANCE_METHOD_APG = 3
};

/** Values of ::diffusion_perturbation. */
enum diffusion_perturbation_enum {
    /** ::DIFFUSION_PERTURBATION_IDENTITY_ATTENTION */
    DIFFUSION_PERTURBATION_AUTO = 0,
    /**
     * Self-attention sees only each place itself: perturbed-attention guidance (Ahn et al. 2024).
     */
    DIFFUSION_PERTURBATION_IDENTITY_ATTENTION = 1,
    /** The transformer layers are left out: skip-layer guidance. */
    DIFFUSION_PERTURBATION_SKIP_LAYER = 2
};

/**
 * Where noise comes from: a value of ::diffusion_noise_enum.
 * \since 0.1.0
 */
typedef int32_t diffusion_noise;

/** Values of ::diffusion_noise. */
enum diffusion_noise_enum {
    /**
     * ::DIFFUSION_NOISE_PHILOX, and ::DIFFUSION_NOISE_MT19937 in the profile
     * ::DIFFUSION_PROFILE_COMFYUI.
     */
    DIFFUSION_NOISE_AUTO = 0,
    /**
     * Philox 4x32-10: equal to torch.randn on CUDA, for an image of at most as many values as
     * torch's GPU can run threads at once (its multiprocessors times the threads of each: 43008 for
     * 28 of 1536).
     */
    DIFFUSION_NOISE_PHILOX = 1,
    /** Mersenne Twister: equal to torch.randn on the CPU. */
    DIFFUSION_NOISE_MT19937 = 2
};

/** Values of ::diffusion_output. */
enum diffusion_output_enum {
    /** ::DIFFUSION_OUTPUT_IMAGE */
    DIFFUSION_OUTPUT_AUTO = 0,
    /** Images, and the latents they were decoded from. */
    DIFFUSION_OUTPUT_IMAGE = 1,
    /** Latents only: the decoder does not run. */
    DIFFUSION_OUTPUT_LATENTS = 2
};

/**
 * What values an option takes: a value of ::diffusion_option_type_enum.
 * \since 0.1.0
 */
typedef int32_t diffusion_option_type;

/** Values of ::diffusion_option_type. */
enum diffusion_option_type_enum {
    /** UTF-8 text: diffusion_request_set_string(). */
    DIFFUSION_OPTION_TYPE_STRING = 1,
    /** A whole number: diffusion_request_set_int(). */
    DIFFUSION_OPTION_TYPE_INT = 2,
    /** A number: diffusion_request_set_float(). */
    DIFFUSION_OPTION_TYPE_FLOAT = 3,
    /**
     * One of some choices: diffusion_request_set_int() by number, diffusion_request_set_string() by
     * name.
     */
    DIFFUSION_OPTION_TYPE_ENUM = 4,
    /** A list of numbers: diffusion_request_set_floats(). */
    DIFFUSION_OPTION_TYPE_FLOATS = 5,
    /** A picture: diffusion_request_set_image(). */
    DIFFUSION_OPTION_TYPE_IMAGE = 6
};

/**
 * What an option is. The strings are static: valid for ever.
 * \since 0.1.0
 */
typedef struct diffusion_option_info {
    /** sizeof(diffusion_option_info), set by the caller */
    uint32_t struct_size;
    /** The option. */
    diffusion_option option;
    /** What values it takes. */
    diffusion_option_type type;
    /** For ::DIFFUSION_OPTION_TYPE_ENUM: the choices are 0 to choice_count - 1. Else 0. */
    uint32_t choice_count;
    /**
     * The least value of a number or enum; else 0. For ::DIFFUSION_OPTION_SEED the nearest double.
     */
    double min;
    /**
     * The greatest value of a number or enum; else 0. For ::DIFFUSION_OPTION_SEED the nearest
     * double.
     */
    double max;
    /** The value of a number or enum that is not set; else 0. */
    double default_value;
    /** The name bindings and tools use, such as "guidance_scale". */
    const char *name;
    /** One line for people. */
    const char *summary;
} diffusion_option_info;
/** A diffusion_option_info with struct_size set and all else zero. */
#define DIFFUSION_OPTION_INFO_INIT { sizeof(diffusion_option_info), 0, 0, 0, 0, 0, 0, NULL, NULL }

/**
 * How many options there are.
 *
 * \returns The number of options; diffusion_option_get_info() takes 0 to one less.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API size_t diffusion_option_count(void);

/**
 * Tells what an option is, so that bindings and user interfaces need no list of their own.
 *
 * \param index 0 to diffusion_option_count() - 1. Not the option's number.
 * \param info Receives the facts; the caller sets struct_size before.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_option_get_info(
    size_t index, diffusion_option_info *info, diffusion_error **error);

/**
 * Finds an option by name.
 *
 * \param name Such as "guidance_scale".
 * \returns The option; 0 if there is none of that name, and for NULL.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API diffusion_option diffusion_option_find(const char *name);

/**
 * The name of an enum option's choice.
 *
 * \param option The option.
 * \param value The choice, from 0.
 * \returns Such as "euler"; NULL if there is no such option or choice. Static: valid for ever.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API const char *diffusion_option_choice(diffusion_option option, int32_t value);

/**
 * Where a job is: a value of ::diffusion_stage_enum.
 * \since 0.1.0
 */
typedef int32_t diffusion_stage;

/** Values of ::diffusion_stage. A job passes them in this order, and may leave some out. */
enum diffusion_stage_enum {
    /** It waits in its session's queue. */
    DIFFUSION_STAGE_QUEUED = 0,
    /** The text encoder runs. */
    DIFFUSION_STAGE_TEXT = 1,
    /** The encoder makes latents of ::DIFFUSION_OPTION_IMAGE, where there is one. */
    DIFFUSION_STAGE_ENCODE = 2,
    /** The denoising steps run. */
    DIFFUSION_STAGE_DENOISE = 3,
    /** The decoder makes images. */
    DIFFUSION_STAGE_DECODE = 4,
    /** Done, failed or cancelled. */
    DIFFUSION_STAGE_FINISHED = 5
};

/**
 * A moment in a job's life.
 * \since 0.1.0
 */
typedef struct diffusion_progress {
    /** sizeof(diffusion_progress), set by the caller of diffusion_job_get_progress() */
    uint32_t struct_size;
    /** Where the job is. */
    diffusion_stage stage;
    /** Denoising steps done. */
    uint32_t step;
    /** Denoising steps in all; 0 before the job runs. */
    uint32_t steps;
    /** Nanoseconds since the job was submitted; stands still once it is finished. */
    uint64_t elapsed_ns;
} diffusion_progress;
/** A diffusion_progress with struct_size set and all else zero. */
#define DIFFUSION_PROGRESS_INIT { sizeof(diffusion_progress), 0, 0, 0, 0 }

/**
 * Hears of a job's progress: of the beginning of each stage and the end of each denoising step.
 *
 * It is called from the session's thread, one call at a time, between diffusion_submit() and the
 * end of the job; the job waits for it. It must return normally: no exception, no longjmp. It may
 * call into the library, free the job included, but must not wait for a job of the same session.
 * Everything it hears can be polled with diffusion_job_get_progress() instead.
 *
 * \param progress Where the job is, valid during the call.
 * \param user_data As given to diffusion_request_set_progress_callback().
 * \returns 0 to go on, anything else to cancel the job.
 * \since 0.1.0
 */
typedef int32_t (*diffusion_progress_callback)(const diffusion_progress *progress, void *user_data);

/**
 * Makes a request with every option at its default.
 *
 * \param model The model the request is for; the request keeps it alive.
 * \param request Receives the request, to be freed with diffusion_request_free(); NULL on failure.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_request_new(
    const diffusion_model *model, diffusion_request **request, diffusion_error **error);

/**
 * Sets a string option, or an enum option by the name of its choice.
 *
 * Like every setter, it checks the value. A setter that fails leaves the option as it was, and the
 * request remembers the first failure, which diffusion_submit() reports with its message: a program
 * may set everything and check once.
 *
 * \param request The request.
 * \param option An option of type ::DIFFUSION_OPTION_TYPE_STRING or ::DIFFUSION_OPTION_TYPE_ENUM.
 * \param value UTF-8, copied; at most 1 MiB. NULL unsets the option.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT for an option of another type, an
 *     unknown choice or text that is not UTF-8; ::DIFFUSION_ERROR_BUSY.
 * \threadsafety One thread at a time for each request.
 * \since 0.1.0
 */
DIFFUSION_API
diffusion_status diffusion_request_set_string(
    diffusion_request *request, diffusion_option option, const char *value);

/**
 * Sets an integer option, or an enum option by the number of its choice.
 *
 * \param request The request.
 * \param option An option of type ::DIFFUSION_OPTION_TYPE_INT or ::DIFFUSION_OPTION_TYPE_ENUM.
 * \param value A value in the option's range.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT for an option of another type or a
 *     value outside its range; ::DIFFUSION_ERROR_BUSY.
 * \threadsafety One thread at a time for each request.
 * \since 0.1.0
 * \sa diffusion_request_set_string
 */
DIFFUSION_API
diffusion_status diffusion_request_set_int(
    diffusion_request *request, diffusion_option option, int64_t value);

/**
 * Sets a float option.
 *
 * \param request The request.
 * \param option An option of type ::DIFFUSION_OPTION_TYPE_FLOAT.
 * \param value A value in the option's range.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT for an option of another type or a
 *     value outside its range; ::DIFFUSION_ERROR_BUSY.
 * \threadsafety One thread at a time for each request.
 * \since 0.1.0
 * \sa diffusion_request_set_string
 */
DIFFUSION_API
diffusion_status diffusion_request_set_float(
    diffusion_request *request, diffusion_option option, double value);

/**
 * Sets a list of numbers.
 *
 * Whether the count fits width, height and batch_size is checked by diffusion_submit().
 *
 * \param request The request.
 * \param option An option of type ::DIFFUSION_OPTION_TYPE_FLOATS.
 * \param data Finite numbers, copied; the option says in which order. NULL with a count of 0 unsets
 *     the option.
 * \param count How many numbers.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT for an option of another type, a
 *     number that is not finite, or NULL with a count; ::DIFFUSION_ERROR_OUT_OF_MEMORY;
 *     ::DIFFUSION_ERROR_BUSY.
 * \threadsafety One thread at a time for each request.
 * \since 0.1.0
 * \sa diffusion_request_set_string
 */
DIFFUSION_API
diffusion_status diffusion_request_set_floats(
    diffusion_request *request, diffusion_option option, const float *data, size_t count);

/**
 * Sets an image.
 *
 * Whether its size fits the request is checked by diffusion_submit(). The request shares the
 * image's pixels: the image may be freed at once.
 *
 * \param request The request.
 * \param option An option of type ::DIFFUSION_OPTION_TYPE_IMAGE.
 * \param image From diffusion_image_new(), diffusion_image_load_png() or a job. NULL unsets the
 *     option.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT for an option of another type;
 *     ::DIFFUSION_ERROR_BUSY.
 * \threadsafety One thread at a time for each request.
 * \since 0.1.0
 * \sa diffusion_request_set_string
 */
DIFFUSION_API
diffusion_status diffusion_request_set_image(
    diffusion_request *request, diffusion_option option, const diffusion_image *image);

/**
 * Sets who hears of the progress of jobs submitted from now on.
 *
 * \param request The request.
 * \param callback Called from the session's thread; NULL = nobody.
 * \param user_data Handed to callback. It must stay valid until every job submitted with it is
 *     finished or freed.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT; ::DIFFUSION_ERROR_BUSY.
 * \threadsafety One thread at a time for each request.
 * \since 0.1.0
 */
DIFFUSION_API
diffusion_status diffusion_request_set_progress_callback(
    diffusion_request *request, diffusion_progress_callback callback, void *user_data);

/**
 * Makes a request as new: every option at its default, no callbacks, the first failure forgotten.
 *
 * \param request The request.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT; ::DIFFUSION_ERROR_BUSY.
 * \threadsafety One thread at a time for each request.
 * \since 0.1.0
 */
DIFFUSION_API diffusion_status diffusion_request_reset(diffusion_request *request);

/**
 * Frees a request. Jobs submitted with it are not touched.
 *
 * \param request The request, or NULL for nothing to happen.
 * \threadsafety Any thread; the request must not be in use.
 * \since 0.1.0
 */
DIFFUSION_API void diffusion_request_free(diffusion_request *request);

/** \} */

/* ---- Sessions and jobs ----------------------------------------------------------------------- */
/** \defgroup jobs Sessions and jobs
 *  \{ */

/**
 * How to make a session. All zero (but for struct_size) is the default.
 * \since 0.1.0
 */
typedef struct diffusion_session_desc {
    /** sizeof(diffusion_session_desc) */
    uint32_t struct_size;
    /** Jobs that may wait behind the running one; 0 = 16. */
    uint32_t queue_limit;
} diffusion_session_desc;
/** A diffusion_session_desc with struct_size set and all else zero. */
#define DIFFUSION_SESSION_DESC_INIT { sizeof(diffusion_session_desc), 0 }

/**
 * Makes a session.
 *
 * \param model What the session runs; the session keeps it alive.
 * \param desc What is wanted; NULL = all defaults.
 * \param session Receives the session, to be freed with diffusion_session_free(); NULL on failure.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT; ::DIFFUSION_ERROR_OUT_OF_MEMORY; on
 *     CUDA also ::DIFFUSION_ERROR_DEVICE_OUT_OF_MEMORY, ::DIFFUSION_ERROR_DEVICE and
 *     ::DIFFUSION_ERROR_DEVICE_LOST.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_session_new(
    diffusion_model *model, const diffusion_session_desc *desc, diffusion_session **session,
    diffusion_error **error);

/**
 * Frees a session.
 *
 * Jobs submitted to it go on, and keep its thread and memory until they are freed too; without any,
 * this waits until the thread has ended.
 *
 * \param session The session, or NULL for nothing to happen.
 * \threadsafety Any thread; the session must not be in use.
 * \since 0.1.0
 */
DIFFUSION_API void diffusion_session_free(diffusion_session *session);

/**
 * Puts a copy of a request into a session's queue and returns at once.
 *
 * \param session Where the job runs; the job keeps it alive.
 * \param request What to generate. It may be changed, submitted again or freed right after.
 * \param job Receives the job, to be freed with diffusion_job_free(); NULL on failure.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; the first failure of the request's setters;
 *     ::DIFFUSION_ERROR_INVALID_ARGUMENT for a request of another model, a size that is no multiple
 *     of size_multiple, or latents that do not fit; ::DIFFUSION_ERROR_UNSUPPORTED for a sampler,
 *     schedule or guidance that the model cannot have; ::DIFFUSION_ERROR_BUSY if the queue is full
 *     or another thread changes the request; ::DIFFUSION_ERROR_INVALID_STATE after an internal
 *     error in the session; ::DIFFUSION_ERROR_OUT_OF_MEMORY.
 * \threadsafety Any thread.
 * \since 0.1.0
 * \sa diffusion_job_wait
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_submit(
    diffusion_session *session, const diffusion_request *request, diffusion_job **job,
    diffusion_error **error);

/**
 * Generates an image and waits for it: diffusion_submit(), diffusion_job_wait(),
 * diffusion_job_take_image().
 *
 * \param session Where the job runs.
 * \param request What to generate. Its progress callback may cancel.
 * \param image Receives the first image of the batch, to be freed with diffusion_image_free(); NULL
 *     on failure.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; whatever diffusion_submit() or the job fails with;
 *     ::DIFFUSION_ERROR_INVALID_ARGUMENT if the request asks for latents only;
 *     ::DIFFUSION_ERROR_INVALID_STATE in a callback of the same session.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_generate(
    diffusion_session *session, const diffusion_request *request, diffusion_image **image,
    diffusion_error **error);

/**
 * Facts about a finished job.
 * \since 0.1.0
 */
typedef struct diffusion_result {
    /** sizeof(diffusion_result), set by the caller */
    uint32_t struct_size;
    /** Images diffusion_job_take_image() can give; 0 if only latents were asked for. */
    uint32_t image_count;
    /** Width of the images in pixels. */
    uint32_t width;
    /** Height of the images in pixels. */
    uint32_t height;
    /** Tokens of the prompt, begin and end marks not counted. */
    uint32_t prompt_tokens;
    /** How many of them came after the model's max_tokens and had no effect. */
    uint32_t prompt_tokens_dropped;
    /** Tokens of the negative prompt, begin and end marks not counted. */
    uint32_t negative_tokens;
    /** How many of them came after the model's max_tokens and had no effect. */
    uint32_t negative_tokens_dropped;
    /** The sampler that ran; never ::DIFFUSION_SAMPLER_AUTO. */
    diffusion_sampler_id sampler;
    /** Denoising steps. */
    uint32_t steps;
    /** The seed of image 0; image i has seed + i. */
    uint64_t seed;
    /** Nanoseconds in the text encoder. */
    uint64_t text_ns;
    /** Nanoseconds in the denoising steps. */
    uint64_t denoise_ns;
    /** Nanoseconds in the decoder. */
    uint64_t decode_ns;
    /** Nanoseconds from the job's start to its end, without its time in the queue. */
    uint64_t total_ns;
} diffusion_result;
/** A diffusion_result with struct_size set and all else zero. */
#define DIFFUSION_RESULT_INIT { sizeof(diffusion_result), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }

/**
 * Waits until a job is finished, but not for ever.
 *
 * \param job The job.
 * \param timeout_ms Most milliseconds to wait; 0 = do not wait; negative = as long as it takes.
 * \returns ::DIFFUSION_OK if the job is done; the job's error if it failed or was cancelled, with
 *     details in diffusion_job_error(); ::DIFFUSION_PENDING if the time was up first;
 *     ::DIFFUSION_ERROR_INVALID_ARGUMENT for NULL; ::DIFFUSION_ERROR_INVALID_STATE in a callback of
 *     the job's session, where the wait would never end.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_job_wait(diffusion_job *job, int64_t timeout_ms);

/**
 * Tells how a job stands, without waiting.
 *
 * \param job The job.
 * \returns ::DIFFUSION_PENDING until the job is finished, then ::DIFFUSION_OK or the job's error;
 *     ::DIFFUSION_ERROR_INVALID_ARGUMENT for NULL.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE diffusion_status diffusion_job_status(const diffusion_job *job);

/**
 * Tells where a job is now.
 *
 * \param job The job.
 * \param progress Receives the moment; the caller sets struct_size before.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_job_get_progress(
    const diffusion_job *job, diffusion_progress *progress, diffusion_error **error);

/**
 * Asks a job to stop and returns at once.
 *
 * A queued job is finished right away; a running one stops within a fraction of a denoising step
 * and ends with ::DIFFUSION_ERROR_CANCELLED, unless it is done first. A finished job stays as it
 * is. No partial image is kept.
 *
 * \param job The job, or NULL for nothing to happen.
 * \threadsafety Any thread, callbacks included.
 * \since 0.1.0
 */
DIFFUSION_API void diffusion_job_cancel(diffusion_job *job);

/**
 * The error of a failed or cancelled job.
 *
 * \param job The job, or NULL.
 * \returns The error, valid until the job is freed and not to be freed itself; NULL while the job
 *     is not finished, if it is done, and for NULL.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API const diffusion_error *diffusion_job_error(const diffusion_job *job);

/**
 * Tells what a finished job did.
 *
 * \param job The job.
 * \param result Receives the facts; the caller sets struct_size before.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_STATE before the job is finished; the job's
 *     error if it failed or was cancelled; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_job_get_result(
    const diffusion_job *job, diffusion_result *result, diffusion_error **error);

/**
 * Takes an image out of a finished job.
 *
 * It may be called again for the same image: the handles share the pixels.
 *
 * \param job The job.
 * \param index Which image of the batch, 0 to image_count - 1.
 * \param image Receives the image, to be freed with diffusion_image_free(); NULL on failure. It
 *     does not depend on the job.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_STATE before the job is finished; the job's
 *     error if it failed or was cancelled; ::DIFFUSION_ERROR_INVALID_ARGUMENT if there is no such
 *     image.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_job_take_image(
    diffusion_job *job, uint32_t index, diffusion_image **image, diffusion_error **error);

/**
 * The size of one image's latents.
 *
 * \param job The job.
 * \param count Receives the number of floats, channels x height/f x width/f; 0 on failure.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_STATE before the job is finished; the job's
 *     error if it failed or was cancelled; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
 * \threadsafety Any thread.
 * \since 0.1.0
 * \sa diffusion_job_copy_latents
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_job_latents_size(
    const diffusion_job *job, size_t *count, diffusion_error **error);

/**
 * Copies the final latents of one image.
 *
 * They are what diffusers returns for `output_type="latent"`: channels x height/f x width/f floats,
 * scaled as the U-Net sees them. Given back as ::DIFFUSION_OPTION_LATENTS with 0 steps they decode
 * to the same image.
 *
 * \param job The job.
 * \param index Which image of the batch, 0 to batch_size - 1.
 * \param dst Receives the floats.
 * \param dst_count How many floats dst has room for, at least what diffusion_job_latents_size()
 *     tells.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_BUFFER_TOO_SMALL; ::DIFFUSION_ERROR_INVALID_STATE
 *     before the job is finished; the job's error if it failed or was cancelled;
 *     ::DIFFUSION_ERROR_INVALID_ARGUMENT if there is no such image.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_job_copy_latents(
    const diffusion_job *job, uint32_t index, float *dst, size_t dst_count,
    diffusion_error **error);

/**
 * Frees a job. One that is not finished is cancelled first.
 *
 * It returns when the progress callback can no longer run, which for a running job takes a fraction
 * of a denoising step: cancel first and free later, or free on another thread, where that is too
 * long. In a callback of the job's own session it returns at once, and the progress callback is not
 * called again; nor is the log, if everything else is freed by then.
 *
 * \param job The job, or NULL for nothing to happen.
 * \threadsafety Any thread, callbacks included; the job must not be in use by another call.
 * \since 0.1.0
 */
DIFFUSION_API void diffusion_job_free(diffusion_job *job);

/** \} */

/* ---- Images ---------------------------------------------------------------------------------- */
/** \defgroup images Images
 *  \{ */

/**
 * How a pixel lies in memory: a value of ::diffusion_format_enum.
 * \since 0.1.0
 */
typedef int32_t diffusion_format;

/** Values of ::diffusion_format. */
enum diffusion_format_enum {
    /** Three bytes: red, green, blue. */
    DIFFUSION_FORMAT_RGB8 = 1,
    /** Four bytes: red, green, blue, alpha, which is written as 255 and not read. */
    DIFFUSION_FORMAT_RGBA8 = 2,
    /** Four bytes: blue, green, red, alpha, which is written as 255 and not read. */
    DIFFUSION_FORMAT_BGRA8 = 3,
    /**
     * Three 32-bit floats in 0..1: red, green, blue, as the decoder made them, not rounded to
     * bytes.
     */
    DIFFUSION_FORMAT_RGBF32 = 4,
    /** One byte: the mean of red, green and blue; read as all three of them. For masks. */
    DIFFUSION_FORMAT_GRAY8 = 5
};

/**
 * Flags of diffusion_image_copy(), to be combined with |.
 * \since 0.1.0
 */
enum diffusion_copy_flags_enum {
    /** The bottom row comes first, as OpenGL and Unity want it. */
    DIFFUSION_COPY_FLIP_Y = 1
};

/**
 * What diffusion_image_pixels() points to.
 * \since 0.1.0
 */
typedef struct diffusion_image_info {
    /** sizeof(diffusion_image_info), set by the caller */
    uint32_t struct_size;
    /** Width in pixels. */
    uint32_t width;
    /** Height in pixels. */
    uint32_t height;
    /** Channels of a pixel: 3. */
    uint32_t channels;
    /** How a pixel lies in memory: ::DIFFUSION_FORMAT_RGB8. */
    diffusion_format format;
    /** 0 */
    uint32_t reserved;
    /** Bytes from one row to the next: width * 3. */
    size_t row_stride;
} diffusion_image_info;
/** A diffusion_image_info with struct_size set and all else zero. */
#define DIFFUSION_IMAGE_INFO_INIT { sizeof(diffusion_image_info), 0, 0, 0, 0, 0, 0 }

/**
 * Makes an image from pixels of the caller's, to be a request's ::DIFFUSION_OPTION_IMAGE or
 * ::DIFFUSION_OPTION_MASK.
 *
 * \param width Width in pixels, 1 to 8192.
 * \param height Height in pixels, 1 to 8192.
 * \param format How a pixel lies in memory. Alpha is not read. Floats outside 0..1 are clamped.
 * \param pixels height rows, top row first, copied: (height - 1) * row_stride bytes and those of
 *     one row. No alignment is needed.
 * \param row_stride Bytes from one row to the next, at least those of one row; 0 = rows without
 *     gaps.
 * \param image Receives the image, to be freed with diffusion_image_free(); NULL on failure.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT for a size out of range or a float
 *     that is not finite; ::DIFFUSION_ERROR_OUT_OF_MEMORY.
 * \threadsafety Any thread.
 * \since 0.1.0
 * \sa diffusion_request_set_image
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_image_new(
    uint32_t width, uint32_t height, diffusion_format format, const void *pixels, size_t row_stride,
    diffusion_image **image, diffusion_error **error);

/**
 * Reads a PNG file, of any kind of pixels. Transparency, colour profiles and texts are not read;
 * 16-bit values lose their lower half.
 *
 * \param path The file, UTF-8.
 * \param image Receives the image, to be freed with diffusion_image_free(); NULL on failure.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_NOT_FOUND; ::DIFFUSION_ERROR_IO;
 *     ::DIFFUSION_ERROR_FORMAT for a file that is damaged, no PNG, or larger than 8192 pixels on a
 *     side; ::DIFFUSION_ERROR_OUT_OF_MEMORY; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_image_load_png(
    const char *path, diffusion_image **image, diffusion_error **error);

/**
 * Tells an image's size and layout.
 *
 * \param image The image.
 * \param info Receives the facts; the caller sets struct_size before.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_image_get_info(
    const diffusion_image *image, diffusion_image_info *info, diffusion_error **error);

/**
 * An image's pixels, where they are.
 *
 * Each byte is the decoder's value times 255, rounded to the nearest integer.
 *
 * \param image The image, or NULL.
 * \returns height rows of width red-green-blue bytes without gaps, top row first, valid until the
 *     image is freed; NULL for NULL.
 * \threadsafety Any thread.
 * \since 0.1.0
 * \sa diffusion_image_copy
 */
DIFFUSION_API const uint8_t *diffusion_image_pixels(const diffusion_image *image);

/**
 * Copies an image's pixels in the form a program needs.
 *
 * \param image The image.
 * \param dst Receives the rows. No alignment is needed. Bytes between rows are left as they are.
 * \param dst_size Bytes at dst; at least (height - 1) * row_stride plus the bytes of one row.
 * \param row_stride Bytes from one row to the next, at least those of one row; 0 = rows without
 *     gaps.
 * \param format How a pixel lies in memory.
 * \param flags 0 or ::DIFFUSION_COPY_FLIP_Y.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_BUFFER_TOO_SMALL, with the bytes needed in the
 *     message; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_image_copy(
    const diffusion_image *image, void *dst, size_t dst_size, size_t row_stride,
    diffusion_format format, uint32_t flags, diffusion_error **error);

/**
 * What made an image, as image tools exchange it: the prompt, a line "Negative prompt: ..." if
 * there was one, and a line "Steps: 20, Sampler: ddim, CFG scale: 2.5, Seed: 1, Size: 64x64,
 * Version: libdiffusion 0.1.0".
 *
 * \param image The image, or NULL.
 * \returns UTF-8, valid until the image is freed; "" for NULL and for an image that no job made.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API const char *diffusion_image_metadata(const diffusion_image *image);

/**
 * Writes an image as a PNG file, with its metadata in a text chunk "parameters".
 *
 * \param image The image.
 * \param path The file, UTF-8. One that is there is replaced.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_NOT_FOUND if the folder does not exist;
 *     ::DIFFUSION_ERROR_IO; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_image_save_png(
    const diffusion_image *image, const char *path, diffusion_error **error);

/**
 * Frees an image.
 *
 * \param image The image, or NULL for nothing to happen.
 * \threadsafety Any thread; the image must not be in use.
 * \since 0.1.0
 */
DIFFUSION_API void diffusion_image_free(diffusion_image *image);

/** \} */

/* ---- Noise schedules without a model --------------------------------------------------------- */
/** \defgroup schedules Noise schedules without a model
 *  \{ */

/**
 * What a network predicts about its input x = alpha * x0 + sigma * epsilon: a value of
 * ::diffusion_prediction_enum.
 * \since 0.1.0
 */
typedef int32_t diffusion_prediction;

/** Values of ::diffusion_prediction. */
enum diffusion_prediction_enum {
    /** The schedule's own; for a new schedule ::DIFFUSION_PREDICTION_EPSILON. */
    DIFFUSION_PREDICTION_AUTO = 0,
    /** The noise epsilon (Ho et al. 2020). */
    DIFFUSION_PREDICTION_EPSILON = 1,
    /** v = alpha * epsilon - sigma * x0 (Salimans & Ho 2022). */
    DIFFUSION_PREDICTION_V = 2,
    /** The clean sample x0. */
    DIFFUSION_PREDICTION_SAMPLE = 3,
    /**
     * The velocity epsilon - x0 of a straight path, on which alpha + sigma = 1 (Liu et al. 2022).
     */
    DIFFUSION_PREDICTION_FLOW = 4,
    /** v of a model preconditioned as in Karras et al. 2022 (table 1). */
    DIFFUSION_PREDICTION_EDM_V = 5
};

/**
 * How beta grows over the training timesteps: a value of ::diffusion_beta_schedule_enum.
 * \since 0.1.0
 */
typedef int32_t diffusion_beta_schedule;

/** Values of ::diffusion_beta_schedule. */
enum diffusion_beta_schedule_enum {
    /** ::DIFFUSION_BETA_SCHEDULE_LINEAR */
    DIFFUSION_BETA_SCHEDULE_AUTO = 0,
    /** Evenly from beta_start to beta_end (Ho et al. 2020). */
    DIFFUSION_BETA_SCHEDULE_LINEAR = 1,
    /** The square of an even walk between the square roots: Stable Diffusion's. */
    DIFFUSION_BETA_SCHEDULE_SCALED_LINEAR = 2,
    /** From a squared cosine of alphas_cumprod, without start and end (Nichol & Dhariwal 2021). */
    DIFFUSION_BETA_SCHEDULE_SQUAREDCOS_CAP_V2 = 3,
    /** From beta_start to beta_end along a logistic curve (GeoDiff). */
    DIFFUSION_BETA_SCHEDULE_SIGMOID = 4
};

/**
 * A table of a schedule, one number for each training timestep: a value of
 * ::diffusion_schedule_table_enum.
 * \since 0.1.0
 */
typedef int32_t diffusion_schedule_table;

/** Values of ::diffusion_schedule_table. */
enum diffusion_schedule_table_enum {
    /** The variance of the noise that the timestep adds. */
    DIFFUSION_SCHEDULE_TABLE_BETAS = 1,
    /**
     * How much of the sample's variance is left: the product of all 1 - beta so far. The last is 0
     * at zero terminal SNR.
     */
    DIFFUSION_SCHEDULE_TABLE_ALPHAS_CUMPROD = 2,
    /**
     * The noise-to-signal ratio sqrt((1 - alphas_cumprod) / alphas_cumprod); 4096 where there is no
     * signal.
     */
    DIFFUSION_SCHEDULE_TABLE_SIGMAS = 3,
    /** The signal-to-noise ratio alphas_cumprod / (1 - alphas_cumprod). */
    DIFFUSION_SCHEDULE_TABLE_SNR = 4
};

/**
 * What a schedule is made of. All zero (but for struct_size) is the default of diffusers'
 * DDIMScheduler, without clipping. What is not here, diffusion_schedule_from_config() reads from
 * text.
 * \since 0.1.0
 */
typedef struct diffusion_schedule_desc {
    /** sizeof(diffusion_schedule_desc) */
    uint32_t struct_size;
    /** How beta grows. Not looked at if trained_betas are given. */
    diffusion_beta_schedule beta_schedule;
    /** What the network predicts. Flow and EDM models have no betas. */
    diffusion_prediction prediction_type;
    /** Which training timesteps samplers visit; 0 = the sampler's own. */
    diffusion_timestep_spacing timestep_spacing;
    /**
     * How many training timesteps there are, up to 1048576; 0 = 1000, or as many as trained_betas.
     */
    uint32_t num_train_timesteps;
    /** Added to each timestep of the leading spacing; 1 for most Stable Diffusion models. */
    uint32_t steps_offset;
    /**
     * 1 = rescale the betas so that the last timestep has no signal (Lin et al. 2023). Not for
     * epsilon.
     */
    int32_t rescale_betas_zero_snr;
    /**
     * 1 = ddim, pndm and their kin end at the first training timestep rather than at no noise at
     * all: diffusers' set_alpha_to_one turned round.
     */
    int32_t set_alpha_to_first;
    /** The first beta, between 0 and 1; 0 = 0.0001. */
    double beta_start;
    /** The last beta, between 0 and 1; 0 = 0.02. */
    double beta_end;
    /** A flow's shift towards noise (Esser et al. 2024, equation 23); 0 = 1, none. */
    double shift;
    /** The least sigma of an EDM model; 0 = 0.002. */
    double sigma_min;
    /** The greatest sigma of an EDM model; 0 = 80. */
    double sigma_max;
    /** The standard deviation of an EDM model's data; 0 = 1. */
    double sigma_data;
    /** The betas themselves, each between 0 and 1; NULL = those of beta_schedule. */
    const double *trained_betas;
    /** How many trained_betas there are. */
    size_t trained_beta_count;
} diffusion_schedule_desc;
/** A diffusion_schedule_desc with struct_size set and all else zero. */
#define DIFFUSION_SCHEDULE_DESC_INIT \
    { sizeof(diffusion_schedule_desc), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, 0 }

/**
 * Facts about a schedule.
 * \since 0.1.0
 */
typedef struct diffusion_schedule_info {
    /** sizeof(diffusion_schedule_info), set by the caller */
    uint32_t struct_size;
    /** How many training timesteps there are: the length of the tables. */
    uint32_t num_train_timesteps;
    /** What the network predicts; never ::DIFFUSION_PREDICTION_AUTO. */
    diffusion_prediction prediction_type;
    /** The sampler that ::DIFFUSION_SAMPLER_AUTO stands for. */
    diffusion_sampler_id default_sampler;
} diffusion_schedule_info;
/** A diffusion_schedule_info with struct_size set and all else zero. */
#define DIFFUSION_SCHEDULE_INFO_INIT { sizeof(diffusion_schedule_info), 0, 0, 0 }

/**
 * Makes a schedule from its parameters.
 *
 * \param desc What it is made of; NULL = all defaults.
 * \param schedule Receives the schedule, to be freed with diffusion_schedule_free(); NULL on
 *     failure.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT for a parameter out of its range, or
 *     betas that leave no signal or no noise; ::DIFFUSION_ERROR_VERSION_MISMATCH.
 * \threadsafety Any thread.
 * \since 0.1.0
 * \sa diffusion_schedule_from_config, diffusion_schedule_from_model
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_schedule_new(
    const diffusion_schedule_desc *desc, diffusion_schedule **schedule, diffusion_error **error);

/**
 * Makes a schedule from the text of a scheduler_config.json of diffusers.
 *
 * \param json The text, UTF-8: an object with _class_name and whatever the class takes. An absent
 *     key means what diffusers' class takes for it.
 * \param schedule Receives the schedule, to be freed with diffusion_schedule_free(); NULL on
 *     failure.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_FORMAT for text that is no such config or values that
 *     make no sense; ::DIFFUSION_ERROR_UNSUPPORTED for classes and settings that this version does
 *     not know; ::DIFFUSION_ERROR_INVALID_ARGUMENT for NULL or bad UTF-8.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_schedule_from_config(
    const char *json, diffusion_schedule **schedule, diffusion_error **error);

/**
 * Takes the schedule a model was trained on.
 *
 * \param model The model. The schedule does not keep it alive.
 * \param schedule Receives the schedule, to be freed with diffusion_schedule_free(); NULL on
 *     failure.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_FORMAT if its betas make no sense;
 *     ::DIFFUSION_ERROR_INVALID_ARGUMENT.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_schedule_from_model(
    const diffusion_model *model, diffusion_schedule **schedule, diffusion_error **error);

/**
 * Tells what a schedule is.
 *
 * \param schedule The schedule.
 * \param info Receives the facts; the caller sets struct_size before.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_schedule_get_info(
    const diffusion_schedule *schedule, diffusion_schedule_info *info, diffusion_error **error);

/**
 * Copies a table of a schedule.
 *
 * Like diffusers' tables the values are rounded to 32-bit floats where they are computed.
 *
 * \param schedule The schedule.
 * \param table Which table.
 * \param dst Receives num_train_timesteps numbers, the least noise first.
 * \param dst_count How many numbers dst has room for.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_BUFFER_TOO_SMALL, with the numbers needed in the
 *     message; ::DIFFUSION_ERROR_UNSUPPORTED for flow and EDM models, which have no tables;
 *     ::DIFFUSION_ERROR_INVALID_ARGUMENT.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_schedule_copy_table(
    const diffusion_schedule *schedule, diffusion_schedule_table table, double *dst,
    size_t dst_count, diffusion_error **error);

/**
 * Tells how signal and noise mix at a timestep: x = alpha * x0 + sigma * epsilon.
 *
 * \param schedule The schedule.
 * \param timestep A whole number from 0 to num_train_timesteps - 1; of a flow any number from 0 to
 *     num_train_timesteps; of an EDM model a quarter of the natural logarithm of sigma.
 * \param alpha Receives the signal's share; 0 on failure.
 * \param sigma Receives the noise's share; 0 on failure.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_schedule_get_level(
    const diffusion_schedule *schedule, double timestep, double *alpha, double *sigma,
    diffusion_error **error);

/**
 * The forward process: adds noise to a batch of samples, each image at a timestep of its own.
 *
 * out = alpha * samples + sigma * noise, with the alpha and sigma that
 * diffusion_schedule_get_level() tells. The same numbers as diffusers' add_noise.
 *
 * \param schedule The schedule.
 * \param samples images x values floats, image 0 first.
 * \param noise As many floats, usually standard normal: see diffusion_noise_fill().
 * \param images How many images there are, at least 1.
 * \param values Values of one image: channels x height x width.
 * \param timesteps One timestep an image, as diffusion_schedule_get_level() takes it.
 * \param out Receives images x values floats. It may be samples; else it must not overlap them, nor
 *     noise.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT, and out is as it was.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_schedule_add_noise(
    const diffusion_schedule *schedule, const float *samples, const float *noise, uint32_t images,
    uint32_t values, const double *timesteps, float *out, diffusion_error **error);

/**
 * The target of training: what a perfect model answers about samples and the noise that was added
 * to them.
 *
 * ::DIFFUSION_PREDICTION_V gives the velocity target, alpha * noise - sigma * samples.
 *
 * \param schedule The schedule.
 * \param prediction What the model predicts; ::DIFFUSION_PREDICTION_AUTO = what the schedule's
 *     does.
 * \param samples images x values floats, image 0 first: x0.
 * \param noise As many floats: epsilon.
 * \param images How many images there are, at least 1.
 * \param values Values of one image.
 * \param timesteps One timestep an image, as diffusion_schedule_get_level() takes it.
 * \param out Receives images x values floats. It may be samples; else it must not overlap them, nor
 *     noise.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT, and out is as it was.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_schedule_target(
    const diffusion_schedule *schedule, diffusion_prediction prediction, const float *samples,
    const float *noise, uint32_t images, uint32_t values, const double *timesteps, float *out,
    diffusion_error **error);

/**
 * Says a prediction as another one: x0, epsilon or v from whichever the model gave.
 *
 * \param schedule The schedule.
 * \param from What the predictions are; ::DIFFUSION_PREDICTION_AUTO = what the schedule's model
 *     predicts.
 * \param to What they become: ::DIFFUSION_PREDICTION_SAMPLE for x0, ::DIFFUSION_PREDICTION_EPSILON,
 *     ::DIFFUSION_PREDICTION_V, ...; ::DIFFUSION_PREDICTION_AUTO = what the schedule's model
 *     predicts.
 * \param predictions images x values floats, image 0 first.
 * \param inputs As many floats: the noisy samples that the predictions are about, as
 *     diffusion_schedule_add_noise() makes them.
 * \param images How many images there are, at least 1.
 * \param values Values of one image.
 * \param timesteps One timestep an image, as diffusion_schedule_get_level() takes it.
 * \param out Receives images x values floats. It may be predictions; else it must not overlap them,
 *     nor inputs.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT, also where one does not tell the
 *     other: epsilon nothing of x0 where no signal is left, x0 nothing of epsilon where there is no
 *     noise. Then out is as it was.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_schedule_convert(
    const diffusion_schedule *schedule, diffusion_prediction from, diffusion_prediction to,
    const float *predictions, const float *inputs, uint32_t images, uint32_t values,
    const double *timesteps, float *out, diffusion_error **error);

/**
 * Frees a schedule. Samplers made from it are not touched.
 *
 * \param schedule The schedule, or NULL for nothing to happen.
 * \threadsafety Any thread; the schedule must not be in use.
 * \since 0.1.0
 */
DIFFUSION_API void diffusion_schedule_free(diffusion_schedule *schedule);

/** \} */

/* ---- Samplers for a loop of your own --------------------------------------------------------- */
/** \defgroup samplers Samplers for a loop of your own
 *  \{ */

/**
 * How predictions of x0 are clipped: a value of ::diffusion_clip_enum.
 * \since 0.1.0
 */
typedef int32_t diffusion_clip;

/** Values of ::diffusion_clip. */
enum diffusion_clip_enum {
    /** As the schedule's config says. */
    DIFFUSION_CLIP_AUTO = 0,
    /** Not at all. */
    DIFFUSION_CLIP_NONE = 1,
    /** To plus or minus clip_range. */
    DIFFUSION_CLIP_RANGE = 2,
    /**
     * Dynamic thresholding: to the clip_ratio quantile of an image's values, kept in 1..clip_range,
     * by which they are then divided (Saharia et al. 2022, section 2.3).
     */
    DIFFUSION_CLIP_DYNAMIC = 3
};

/**
 * Flags of ::diffusion_sampler_desc, to be combined with |.
 * \since 0.1.0
 */
enum diffusion_sampler_flags_enum {
    /** eta is 0, where that is not the sampler's own. */
    DIFFUSION_SAMPLER_ETA_ZERO = 1,
    /** s_noise is 0 rather than 1. */
    DIFFUSION_SAMPLER_S_NOISE_ZERO = 2
};

/**
 * Gives a sampler fresh noise in place of its own.
 *
 * It is called from the thread that runs the sampler, in the midst of its call, and must return
 * normally: no exception, no longjmp. It must not use the sampler (::DIFFUSION_ERROR_BUSY), nor
 * free it.
 *
 * \param from The noise-to-signal ratio that the way of this noise begins at.
 * \param to The ratio that it ends at.
 * \param images Images of the batch.
 * \param values Values of one image.
 * \param out Receives images x values finite floats, standard normal in most uses; zeros before.
 *     Anything that is not finite is ::DIFFUSION_ERROR_NUMERIC.
 * \param user_data ::diffusion_sampler_desc::noise_user_data.
 * \returns 0 to go on, anything else to stop with ::DIFFUSION_ERROR_CANCELLED. After a stop, or
 *     noise that is not finite, the sampler must be started anew.
 * \since 0.1.0
 */

typedef int32_t (
    *diffusion_noise_callback)(double from, double to, uint32_t images, uint32_t values, float *out,
    void *user_data);

/**
 * How to sample. A sampler needs steps (or sigmas, or timesteps) and values; all else may be zero.
 * \since 0.1.0
 */
typedef struct diffusion_sampler_desc {
    /** sizeof(diffusion_sampler_desc) */
    uint32_t struct_size;
    /** How noise becomes samples; 0 = the schedule's own. */
    diffusion_sampler_id sampler;
    /**
     * Denoising steps, 1 to 65536; spaced timesteps allow no more than the schedule has. 0 = what
     * sigmas or timesteps make.
     */
    uint32_t steps;
    /** How the noise levels are spaced; 0 = the schedule's own. */
    diffusion_sigma_schedule sigma_schedule;
    /** Which training timesteps are visited; 0 = the schedule's own. */
    diffusion_timestep_spacing timestep_spacing;
    /** Whose numbers to give where programs differ; 0 = diffusers'. */
    diffusion_profile profile;
    /**
     * Where noise comes from; 0 = ::DIFFUSION_NOISE_PHILOX, and the Mersenne Twister in ComfyUI's
     * profile.
     */
    diffusion_noise noise;
    /** How predictions of x0 are clipped; 0 = as the schedule's config says. */
    diffusion_clip clip;
    /** 0, ::DIFFUSION_SAMPLER_ETA_ZERO, ::DIFFUSION_SAMPLER_S_NOISE_ZERO. */
    uint32_t flags;
    /**
     * Order of the multistep solvers that have several, 1 to 3; 0 = the schedule's own, usually 2.
     */
    uint32_t solver_order;
    /** Images of the batch, up to 1048576; 0 = 1. */
    uint32_t images;
    /** Values of one image: channels x height x width. */
    uint32_t values;
    /**
     * How much of DDPM's fresh noise is added, 0 to 1. 0 = the sampler's own: none for ddim, all
     * for the ancestral and SDE samplers. To mean 0 there, set ::DIFFUSION_SAMPLER_ETA_ZERO.
     */
    double eta;
    /** Churn (Karras et al. 2022, algorithm 2): how much noise is added before steps; 0 = none. */
    double s_churn;
    /** The least sigma at which there is churn. */
    double s_tmin;
    /** The greatest sigma at which there is churn; 0 = any. */
    double s_tmax;
    /**
     * The standard deviation of all fresh noise; 0 = 1. To mean 0, set
     * ::DIFFUSION_SAMPLER_S_NOISE_ZERO.
     */
    double s_noise;
    /** Image-to-image: how much of the way to go, above 0 up to 1; 0 = start from noise. */
    double strength;
    /**
     * The bound of ::DIFFUSION_CLIP_RANGE, above 0, and the greatest of ::DIFFUSION_CLIP_DYNAMIC,
     * at least 1; 0 = 1.
     */
    double clip_range;
    /** The quantile of ::DIFFUSION_CLIP_DYNAMIC, above 0 up to 1; 0 = 0.995. */
    double clip_ratio;
    /** Seed of image 0; image i has seed + i. Not looked at if seeds are given. */
    uint64_t seed;
    /** One seed an image; NULL = from seed. */
    const uint64_t *seeds;
    /**
     * Noise levels of your own, falling, one more than steps: the last is where the last step ends,
     * usually 0. NULL = none.
     */
    const double *sigmas;
    /** How many sigmas there are. */
    size_t sigma_count;
    /**
     * Timesteps of your own, falling, one a step; the last step ends without noise. NULL = none.
     */
    const double *timesteps;
    /** How many timesteps there are. */
    size_t timestep_count;
    /** Gives fresh noise; NULL = it goes on from the seeds' streams. */
    diffusion_noise_callback noise_callback;
    /** Handed to noise_callback. It must stay valid until the sampler is freed. */
    void *noise_user_data;
} diffusion_sampler_desc;
/** A diffusion_sampler_desc with struct_size set and all else zero. */
#define DIFFUSION_SAMPLER_DESC_INIT \
    { sizeof(diffusion_sampler_desc), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, \
      NULL, NULL, 0, NULL, 0, NULL, NULL }

/**
 * What a sampler is going to do.
 * \since 0.1.0
 */
typedef struct diffusion_sampler_plan {
    /** sizeof(diffusion_sampler_plan), set by the caller */
    uint32_t struct_size;
    /** The sampler; never ::DIFFUSION_SAMPLER_AUTO. */
    diffusion_sampler_id sampler;
    /** Steps in all; with a strength fewer than were asked for. */
    uint32_t steps;
    /** Evaluations of the model in all. */
    uint32_t evaluations;
    /** Images of the batch. */
    uint32_t images;
    /** Values of one image. */
    uint32_t values;
    /** Floats of a prediction for each value: 2 if the model predicts its variance too, else 1. */
    uint32_t prediction_values;
    /**
     * 1 if the sampler needs the prediction without the prompt besides the guided one (the CFG++
     * samplers), else 0.
     */
    int32_t needs_unconditional;
    /** What noise of unit variance is multiplied by to be the latents before the first step. */
    double init_noise_sigma;
} diffusion_sampler_plan;
/** A diffusion_sampler_plan with struct_size set and all else zero. */
#define DIFFUSION_SAMPLER_PLAN_INIT { sizeof(diffusion_sampler_plan), 0, 0, 0, 0, 0, 0, 0, 0 }

/**
 * What a sampler asks of the model: its prediction for an input.
 * \since 0.1.0
 */
typedef struct diffusion_question {
    /** sizeof(diffusion_question), set by the caller of diffusion_sampler_ask() */
    uint32_t struct_size;
    /** The step it belongs to, from 0. */
    uint32_t step;
    /** Images of the batch. */
    uint32_t images;
    /** Values of one image. */
    uint32_t values;
    /** Floats of the prediction for each value of the input, 1 or 2. */
    uint32_t prediction_values;
    /** Whether the prediction without the prompt is needed besides, 0 or 1. */
    int32_t needs_unconditional;
    /** What the model is told; it may have a fraction. */
    double timestep;
    /** The signal's share of input: input = alpha * x0 + sigma * epsilon. */
    double alpha;
    /** The noise's share of input. */
    double sigma;
    /** What a prediction says of x0: x0_from_input * input + x0_from_prediction * prediction. */
    double x0_from_input;
    /** See x0_from_input. */
    double x0_from_prediction;
    /**
     * images x values floats, scaled as the model was trained on. They stay there, unchanged, until
     * the question is answered or the sampler started anew or freed.
     */
    const float *input;
} diffusion_question;
/** A diffusion_question with struct_size set and all else zero. */
#define DIFFUSION_QUESTION_INIT { sizeof(diffusion_question), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL }

/**
 * Answers a sampler's question: runs the model.
 *
 * It is called from the thread that called diffusion_sampler_step(), before that returns. It must
 * return normally: no exception, no longjmp. It may call into the library, but must not use this
 * sampler (::DIFFUSION_ERROR_BUSY), nor free it. Hosts that cannot take callbacks use
 * diffusion_sampler_ask() and diffusion_sampler_tell().
 *
 * \param question What is asked, valid during the call.
 * \param prediction Receives images x values x prediction_values floats, what the model was trained
 *     to predict, guided if you like; of a model that predicts its variance each image's
 *     prediction, then its variance.
 * \param unconditional Receives images x values floats, the prediction without the prompt; NULL
 *     unless needs_unconditional.
 * \param user_data As given to diffusion_sampler_step().
 * \returns 0 to go on, anything else to stop with ::DIFFUSION_ERROR_CANCELLED.
 * \since 0.1.0
 */

typedef int32_t (
    *diffusion_denoise_callback)(const diffusion_question *question, float *prediction,
    float *unconditional, void *user_data);

/**
 * Plans a way from noise to samples for a model of a schedule.
 *
 * \param schedule What the model was trained on. The sampler takes what it needs of it.
 * \param desc What is wanted.
 * \param sampler Receives the sampler, to be freed with diffusion_sampler_free(); NULL on failure.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT for a setting out of its range, no
 *     steps or more than there are timesteps, sigmas or timesteps that do not fall;
 *     ::DIFFUSION_ERROR_UNSUPPORTED for what the schedule or its prediction type forbids;
 *     ::DIFFUSION_ERROR_OUT_OF_MEMORY; ::DIFFUSION_ERROR_VERSION_MISMATCH.
 * \threadsafety Any thread.
 * \since 0.1.0
 * \sa diffusion_sampler_start
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_sampler_new(
    const diffusion_schedule *schedule, const diffusion_sampler_desc *desc,
    diffusion_sampler **sampler, diffusion_error **error);

/**
 * Tells what a sampler is going to do.
 *
 * \param sampler The sampler.
 * \param plan Receives the facts; the caller sets struct_size before.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_sampler_get_plan(
    const diffusion_sampler *sampler, diffusion_sampler_plan *plan, diffusion_error **error);

/**
 * Copies the timestep of each step's first evaluation, noisiest first.
 *
 * \param sampler The sampler.
 * \param dst Receives as many numbers as there are steps; they may have a fraction.
 * \param dst_count How many numbers dst has room for.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_BUFFER_TOO_SMALL; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_sampler_copy_timesteps(
    const diffusion_sampler *sampler, double *dst, size_t dst_count, diffusion_error **error);

/**
 * Tells the signal and noise of the latents after some steps: latents = alpha * x0 + sigma *
 * epsilon.
 *
 * \param sampler The sampler.
 * \param steps_done 0 to the number of steps.
 * \param alpha Receives the signal's share; 0 on failure.
 * \param sigma Receives the noise's share; 0 on failure.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_sampler_get_level(
    const diffusion_sampler *sampler, uint32_t steps_done, double *alpha, double *sigma,
    diffusion_error **error);

/**
 * Begins, or begins anew, from latents or from the noise of the seeds.
 *
 * The fresh noise of a stochastic sampler goes on from the streams that drew the first; with
 * latents of your own it begins at the seeds, so make the latents with others.
 *
 * \param sampler The sampler.
 * \param latents images x values floats at the level of diffusion_sampler_get_level() for 0 steps:
 *     noise of unit variance times init_noise_sigma. NULL = from the seeds, which a sampler with a
 *     strength cannot: use diffusion_sampler_start_from().
 * \param count How many floats: images x values, or 0 for NULL.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT; ::DIFFUSION_ERROR_NUMERIC for
 *     latents that are not finite; ::DIFFUSION_ERROR_OUT_OF_MEMORY; ::DIFFUSION_ERROR_BUSY.
 * \threadsafety One thread at a time for each sampler.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_sampler_start(
    diffusion_sampler *sampler, const float *latents, size_t count, diffusion_error **error);

/**
 * Begins from pictures, under as much noise of the seeds as is left before the first step:
 * image-to-image.
 *
 * \param sampler The sampler, usually one with a strength.
 * \param originals images x values floats: x0.
 * \param count How many floats: images x values.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns As diffusion_sampler_start().
 * \threadsafety One thread at a time for each sampler.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_sampler_start_from(
    diffusion_sampler *sampler, const float *originals, size_t count, diffusion_error **error);

/**
 * Takes one step, asking the callback as often as the sampler needs.
 *
 * \param sampler The sampler, started.
 * \param callback Runs the model.
 * \param user_data Handed to callback.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK if a step was taken; ::DIFFUSION_DONE if none was left to take;
 *     ::DIFFUSION_ERROR_CANCELLED if the callback stopped it; ::DIFFUSION_ERROR_NUMERIC for a
 *     prediction that is not finite. After these two the step can be gone on with.
 *     ::DIFFUSION_ERROR_INVALID_STATE before the start; ::DIFFUSION_ERROR_INVALID_ARGUMENT;
 *     ::DIFFUSION_ERROR_BUSY.
 * \threadsafety One thread at a time for each sampler.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_sampler_step(
    diffusion_sampler *sampler, diffusion_denoise_callback callback, void *user_data,
    diffusion_error **error);

/**
 * Asks what the sampler wants to know next.
 *
 * The question stays the same until diffusion_sampler_tell() answers it. So a loop asks while the
 * outcome is ::DIFFUSION_OK, runs the model on what is asked, and tells.
 *
 * \param sampler The sampler, started.
 * \param question Receives the question; the caller sets struct_size before. Untouched if there is
 *     none.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_DONE if every step is done; ::DIFFUSION_ERROR_INVALID_STATE
 *     before the start; ::DIFFUSION_ERROR_INVALID_ARGUMENT; ::DIFFUSION_ERROR_BUSY.
 * \threadsafety One thread at a time for each sampler.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_sampler_ask(
    diffusion_sampler *sampler, diffusion_question *question, diffusion_error **error);

/**
 * Answers the question of diffusion_sampler_ask(). When it was the step's last, the step is done.
 *
 * \param sampler The sampler, with a question open.
 * \param prediction images x values x prediction_values floats, as ::diffusion_denoise_callback
 *     writes them.
 * \param count How many floats.
 * \param unconditional images x values floats, the prediction without the prompt, where
 *     needs_unconditional; else NULL.
 * \param unconditional_count How many floats; 0 for NULL.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_NUMERIC for a prediction that is not finite and
 *     ::DIFFUSION_ERROR_INVALID_ARGUMENT for a wrong count, after which the question stands;
 *     ::DIFFUSION_ERROR_INVALID_STATE if none was open; ::DIFFUSION_ERROR_BUSY.
 * \threadsafety One thread at a time for each sampler.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_sampler_tell(
    diffusion_sampler *sampler, const float *prediction, size_t count, const float *unconditional,
    size_t unconditional_count, diffusion_error **error);

/**
 * How many steps a sampler has taken since its start.
 *
 * \param sampler The sampler, or NULL.
 * \returns 0 to the number of steps; 0 for NULL.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API uint32_t diffusion_sampler_steps_done(const diffusion_sampler *sampler);

/**
 * Copies the latents after the steps done so far; in the end these are the samples.
 *
 * \param sampler The sampler, started.
 * \param dst Receives images x values floats, at the level of diffusion_sampler_get_level().
 * \param dst_count How many floats dst has room for.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_BUFFER_TOO_SMALL; ::DIFFUSION_ERROR_INVALID_STATE
 *     before the start; ::DIFFUSION_ERROR_INVALID_ARGUMENT; ::DIFFUSION_ERROR_BUSY.
 * \threadsafety One thread at a time for each sampler.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_sampler_copy_latents(
    const diffusion_sampler *sampler, float *dst, size_t dst_count, diffusion_error **error);

/**
 * Replaces the latents between two steps: to blend in what a mask protects, say.
 *
 * \param sampler The sampler, started, with no question open.
 * \param latents images x values floats, copied.
 * \param count How many floats.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_STATE before the start and in the midst of a
 *     step; ::DIFFUSION_ERROR_NUMERIC for latents that are not finite;
 *     ::DIFFUSION_ERROR_INVALID_ARGUMENT; ::DIFFUSION_ERROR_BUSY.
 * \threadsafety One thread at a time for each sampler.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_sampler_set_latents(
    diffusion_sampler *sampler, const float *latents, size_t count, diffusion_error **error);

/**
 * Frees a sampler.
 *
 * \param sampler The sampler, or NULL for nothing to happen.
 * \threadsafety Any thread; the sampler must not be in use: not in its own callbacks.
 * \since 0.1.0
 */
DIFFUSION_API void diffusion_sampler_free(diffusion_sampler *sampler);

/**
 * Fills memory with standard normal noise, equal to one call of torch.randn after
 * torch.manual_seed(seed); for ::DIFFUSION_NOISE_PHILOX with the limit that it names.
 *
 * \param noise Which generator; ::DIFFUSION_NOISE_AUTO = ::DIFFUSION_NOISE_PHILOX.
 * \param seed Any number; ::DIFFUSION_NOISE_MT19937 takes its low 32 bits.
 * \param out Receives the noise.
 * \param count How many floats. A longer call does not begin like a shorter one with every
 *     generator.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_noise_fill(
    diffusion_noise noise, uint64_t seed, float *out, size_t count, diffusion_error **error);

/**
 * Facts about one of the samplers there are. The strings are static: valid for ever.
 * \since 0.1.0
 */
typedef struct diffusion_sampler_info {
    /** sizeof(diffusion_sampler_info), set by the caller */
    uint32_t struct_size;
    /** The sampler. */
    diffusion_sampler_id sampler;
    /** Order of accuracy: the error falls with steps^-order. */
    uint32_t order;
    /** Evaluations of the model a step. */
    uint32_t evaluations;
    /** 1 if it draws fresh noise at its default settings, else 0. */
    int32_t stochastic;
    /** 0 */
    uint32_t reserved;
    /** The name options use, such as "dpmpp_2m". */
    const char *name;
    /** The paper and where in it, or the code that defined it. */
    const char *source;
    /** When to use it: one line. */
    const char *summary;
} diffusion_sampler_info;
/** A diffusion_sampler_info with struct_size set and all else zero. */
#define DIFFUSION_SAMPLER_INFO_INIT \
    { sizeof(diffusion_sampler_info), 0, 0, 0, 0, 0, NULL, NULL, NULL }

/**
 * How many samplers there are.
 *
 * \returns The number of samplers; diffusion_sampler_get_info() takes 0 to one less.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API size_t diffusion_sampler_count(void);

/**
 * Tells what a sampler is, so that bindings and user interfaces need no list of their own.
 *
 * \param index 0 to diffusion_sampler_count() - 1. Not the sampler's number.
 * \param info Receives the facts; the caller sets struct_size before.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_sampler_get_info(
    size_t index, diffusion_sampler_info *info, diffusion_error **error);

/**
 * Facts about one of the sigma schedules there are. The strings are static: valid for ever.
 * \since 0.1.0
 */
typedef struct diffusion_sigma_schedule_info {
    /** sizeof(diffusion_sigma_schedule_info), set by the caller */
    uint32_t struct_size;
    /** The sigma schedule. */
    diffusion_sigma_schedule sigma_schedule;
    /** The name options use, such as "karras". */
    const char *name;
    /** The paper and where in it, or the code that defined it. */
    const char *source;
    /** What it does and when to use it: one line. */
    const char *summary;
} diffusion_sigma_schedule_info;
/** A diffusion_sigma_schedule_info with struct_size set and all else zero. */
#define DIFFUSION_SIGMA_SCHEDULE_INFO_INIT \
    { sizeof(diffusion_sigma_schedule_info), 0, NULL, NULL, NULL }

/**
 * How many sigma schedules there are.
 *
 * \returns The number of sigma schedules; diffusion_sigma_schedule_get_info() takes 0 to one less.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API size_t diffusion_sigma_schedule_count(void);

/**
 * Tells what a sigma schedule is.
 *
 * \param index 0 to diffusion_sigma_schedule_count() - 1. Not the schedule's number.
 * \param info Receives the facts; the caller sets struct_size before.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_sigma_schedule_get_info(
    size_t index, diffusion_sigma_schedule_info *info, diffusion_error **error);

/** \} */

/* ---- Guidance of your own -------------------------------------------------------------------- */
/** \defgroup guidance Guidance of your own
 *  \{ */

/**
 * Flags of ::diffusion_guidance_desc, to be combined with |: 0 where a field's zero means its
 * default.
 * \since 0.1.0
 */
enum diffusion_guidance_flags_enum {
    /** guidance_scale is 0 rather than 7.5. */
    DIFFUSION_GUIDANCE_SCALE_ZERO = 1,
    /** zero_init_steps is 0 rather than 1. */
    DIFFUSION_GUIDANCE_ZERO_INIT_NONE = 2,
    /** apg_eta is 0 rather than 1. */
    DIFFUSION_GUIDANCE_APG_ETA_ZERO = 4,
    /** apg_norm_threshold is 0, any length, rather than 15. */
    DIFFUSION_GUIDANCE_APG_NORM_ANY = 8
};

/**
 * Which raw predictions a step takes besides the conditional one: bits of
 * diffusion_guidance_get_needs().
 * \since 0.1.0
 */
enum diffusion_needs_enum {
    /** Without the prompt, or with the negative one. */
    DIFFUSION_NEEDS_UNCONDITIONAL = 1,
    /** Without the prompt, with the image that three-way guidance follows. */
    DIFFUSION_NEEDS_IMAGE = 2,
    /** With the prompt, from the perturbed network. */
    DIFFUSION_NEEDS_PERTURBED = 4
};

/**
 * How to guide. All zero but steps and values is classifier-free guidance at 7.5.
 * \since 0.1.0
 */
typedef struct diffusion_guidance_desc {
    /** sizeof(diffusion_guidance_desc) */
    uint32_t struct_size;
    /** How the predictions with and without the prompt combine; 0 = classifier-free guidance. */
    diffusion_guidance_method method;
    /** Steps of the sampler, 1 to 65536: ::diffusion_sampler_plan::steps. */
    uint32_t steps;
    /** Images of the batch, up to 1048576; 0 = 1. */
    uint32_t images;
    /** Values of one image. */
    uint32_t values;
    /**
     * 1 if the sampler needs the prediction without the prompt at every step:
     * ::diffusion_sampler_plan::needs_unconditional.
     */
    int32_t needs_unconditional;
    /** 0, or ::DIFFUSION_GUIDANCE_SCALE_ZERO and the like. */
    uint32_t flags;
    /** CFG-Zero*: steps at the start whose prediction is zero; 0 = 1. */
    uint32_t zero_init_steps;
    /** How strongly the prompt pulls; 1 and below turn it off, but for CFG++ samplers. 0 = 7.5. */
    double guidance_scale;
    /**
     * How far guided predictions are brought back to the standard deviation of unguided ones, 0 to
     * 1.
     */
    double guidance_rescale;
    /** The part of the steps after which guidance begins, 0 to 1. */
    double guidance_start;
    /** The part of the steps after which guidance ends, 0 to 1; 0 = 1. */
    double guidance_stop;
    /** APG: what is kept of guidance along the predicted x0; 0 = 1, all. */
    double apg_eta;
    /** APG: the longest difference of x0 that guides, in the L2 norm of one image; 0 = 15. */
    double apg_norm_threshold;
    /** APG: what stays of earlier differences, between -1 and 1. */
    double apg_momentum;
    /** How strongly to guide away from the perturbed network; 0 = not at all. */
    double pag_scale;
    /**
     * Three-way guidance: how strongly the image pulls, where guidance_scale is the text's; 0 = no
     * image.
     */
    double image_guidance_scale;
    /** A scale for each step in place of guidance_scale; NULL = none. */
    const double *guidance_schedule;
    /** How many scales there are: as many as steps, or 0 for NULL. */
    size_t guidance_schedule_count;
} diffusion_guidance_desc;
/** A diffusion_guidance_desc with struct_size set and all else zero. */
#define DIFFUSION_GUIDANCE_DESC_INIT \
    { sizeof(diffusion_guidance_desc), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, 0 }

/**
 * The raw predictions of one evaluation. A step that does not need one has NULL.
 * \since 0.1.0
 */
typedef struct diffusion_predictions {
    /** sizeof(diffusion_predictions), set by the caller of diffusion_guidance_combine() */
    uint32_t struct_size;
    /** The step they belong to, from 0. */
    uint32_t step;
    /** What the model was told. */
    double timestep;
    /** Floats of each prediction: all images of the batch. */
    size_t count;
    /** With the prompt. */
    const float *conditional;
    /** Without the prompt, or with the negative one. */
    const float *unconditional;
    /** Without the prompt, with the image that three-way guidance follows. */
    const float *image;
    /** With the prompt, from the perturbed network. */
    const float *perturbed;
    /**
     * What the model was asked about. NULL = the predictions are of x0, or to be guided as if they
     * were.
     */
    const float *input;
    /**
     * What a prediction says of x0: x0_from_input * input + x0_from_prediction * prediction, as in
     * ::diffusion_question. Only adaptive projected guidance looks at it. Not looked at if input is
     * NULL.
     */
    double x0_from_input;
    /** See x0_from_input. */
    double x0_from_prediction;
} diffusion_predictions;
/** A diffusion_predictions with struct_size set and all else zero. */
#define DIFFUSION_PREDICTIONS_INIT \
    { sizeof(diffusion_predictions), 0, 0, 0, NULL, NULL, NULL, NULL, NULL, 0, 0 }

/**
 * Combines the raw predictions of a job in place of the request's guidance.
 *
 * It is called from the session's thread, once for each evaluation of the model; the job waits for
 * it. It must return normally: no exception, no longjmp. It may call into the library, but must not
 * wait for a job of the same session.
 *
 * \param predictions Those that the request's own guidance would take at this step, valid during
 *     the call.
 * \param out Receives the guided prediction: count floats, all finite; else the job fails with
 *     ::DIFFUSION_ERROR_NUMERIC.
 * \param user_data As given to diffusion_request_set_guidance_callback().
 * \returns 0 to go on, anything else to cancel the job.
 * \since 0.1.0
 */

typedef int32_t (
    *diffusion_guidance_callback)(const diffusion_predictions *predictions, float *out,
    void *user_data);

/**
 * Makes guidance for one way from noise to samples.
 *
 * \param desc What is wanted.
 * \param guidance Receives the guidance, to be freed with diffusion_guidance_free(); NULL on
 *     failure.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT for a setting out of its range;
 *     ::DIFFUSION_ERROR_OUT_OF_MEMORY; ::DIFFUSION_ERROR_VERSION_MISMATCH.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_guidance_new(
    const diffusion_guidance_desc *desc, diffusion_guidance **guidance, diffusion_error **error);

/**
 * Tells which raw predictions a step takes besides the conditional one, so that nothing more need
 * be evaluated.
 *
 * \param guidance The guidance.
 * \param step From 0.
 * \param needs Receives ::DIFFUSION_NEEDS_UNCONDITIONAL, ::DIFFUSION_NEEDS_IMAGE and
 *     ::DIFFUSION_NEEDS_PERTURBED, combined with |; 0 on failure.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT; ::DIFFUSION_ERROR_BUSY.
 * \threadsafety One thread at a time for each guidance.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_guidance_get_needs(
    const diffusion_guidance *guidance, uint32_t step, uint32_t *needs, diffusion_error **error);

/**
 * Combines the raw predictions of one evaluation into the guided one that a sampler takes.
 *
 * \param guidance The guidance. Adaptive projected guidance with a momentum remembers: call it once
 *     for each evaluation, in order.
 * \param predictions The conditional one and those that diffusion_guidance_get_needs() names;
 *     struct_size set.
 * \param out Receives images x values floats. It must not overlap the predictions.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT for a prediction that is needed and
 *     NULL, or a count that is not images x values; ::DIFFUSION_ERROR_BUSY;
 *     ::DIFFUSION_ERROR_VERSION_MISMATCH.
 * \threadsafety One thread at a time for each guidance.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_guidance_combine(
    diffusion_guidance *guidance, const diffusion_predictions *predictions, float *out,
    diffusion_error **error);

/**
 * Frees guidance.
 *
 * \param guidance The guidance, or NULL for nothing to happen.
 * \threadsafety Any thread; the guidance must not be in use.
 * \since 0.1.0
 */
DIFFUSION_API void diffusion_guidance_free(diffusion_guidance *guidance);

/**
 * Sets who combines the raw predictions of jobs submitted from now on, in place of the request's
 * guidance.
 *
 * The request's guidance options still say which predictions are made at which step.
 *
 * \param request The request.
 * \param callback Called from the session's thread; NULL = the request's own guidance.
 * \param user_data Handed to callback. It must stay valid until every job submitted with it is
 *     finished or freed.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT; ::DIFFUSION_ERROR_BUSY.
 * \threadsafety One thread at a time for each request.
 * \since 0.1.0
 */
DIFFUSION_API
diffusion_status diffusion_request_set_guidance_callback(
    diffusion_request *request, diffusion_guidance_callback callback, void *user_data);

/** \} */

/* ---- Experimental: not part of the ABI ------------------------------------------------------- */
/** \defgroup experimental Experimental: not part of the ABI
 *  \{ */

#ifdef DIFFUSION_EXPERIMENTAL

/**
 * For tests only: makes the session's next job panic, as a bug in the library would.
 *
 * Exported only by a library built with the cargo feature fault-injection, which a release never
 * has.
 *
 * \param session The session.
 * \param compute 1: in one of the engine's threads that compute; 0: in the session's own thread.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
 * \threadsafety Any thread.
 * \since 0.1.0
 */
DIFFUSION_API DIFFUSION_MUST_USE
diffusion_status diffusion_x_inject_panic(diffusion_session *session, int32_t compute);

#endif /* DIFFUSION_EXPERIMENTAL */

/** \} */
#ifdef __cplusplus
}
#endif

#endif /* DIFFUSION_H */
