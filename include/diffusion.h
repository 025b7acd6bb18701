/* diffusion.h - libdiffusion: images from text with latent diffusion models, on the CPU.
 *
 * Load a model folder in diffusers layout once, share it among sessions, submit requests, and poll,
 * wait for or cancel the jobs that come of them. The library needs no Python and no network, prints
 * nothing, never ends the process, and gives the same image for the same request on every run and
 * with any number of threads.
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
 *             || diffusion_model_load(engine, "models/emoji-64", NULL, &model, &error)
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
 *    Callbacks come from the library's threads and are optional: all they tell can be polled.
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

/* Before a function: it comes from the library. Define DIFFUSION_STATIC to link statically. */
#ifndef DIFFUSION_API
#if defined(_WIN32) && !defined(DIFFUSION_STATIC)
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
 * Sessions of one model share its weights and run side by side. After ::DIFFUSION_ERROR_INTERNAL in
 * one of its jobs a session takes no more (::DIFFUSION_ERROR_INVALID_STATE); other sessions are not
 * touched.
 * \since 0.1.0
 */
typedef struct diffusion_session diffusion_session;

/**
 * One submitted request: queued, running, then done, failed or cancelled for ever.
 * \since 0.1.0
 */
typedef struct diffusion_job diffusion_job;

/**
 * A finished picture, immutable. It depends on no other object.
 * \since 0.1.0
 */
typedef struct diffusion_image diffusion_image;

/* ---- Version --------------------------------------------------------------------------------- */
/** \defgroup version Version
 *  \{ */

/**
 * The version of the library that is loaded, as one number.
 *
 * Compare it with ::DIFFUSION_VERSION_NUMBER, the version of the header the program was compiled
 * with. Versions with the same major and minor number (the same major number from 1.0 on) fit
 * together.
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
    /** The device is gone; the engine must be made anew. */
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
    /** The best device there is. In this version always the CPU. */
    DIFFUSION_DEVICE_AUTO = 0,
    /** The CPU. */
    DIFFUSION_DEVICE_CPU = 1,
    /** An NVIDIA GPU. ::DIFFUSION_ERROR_UNSUPPORTED in this version. */
    DIFFUSION_DEVICE_CUDA = 2
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
 * \since 0.1.0
 */
typedef struct diffusion_engine_desc {
    /** sizeof(diffusion_engine_desc) */
    uint32_t struct_size;
    /** What computes. */
    diffusion_device device;
    /** Threads that compute, up to 1024; 0 = one for each core this process may use. */
    uint32_t threads;
    /** The least important level sent to log. */
    diffusion_log_level log_level;
    /**
     * Bytes of weights and activations in host memory, past which calls and jobs fail with
     * ::DIFFUSION_ERROR_OUT_OF_MEMORY; 0 = no limit.
     */
    uint64_t memory_limit_host;
    /** Hears the messages; NULL = no log. */
    diffusion_log_callback log;
    /** Handed to log. */
    void *log_user_data;
} diffusion_engine_desc;
/** A diffusion_engine_desc with struct_size set and all else zero. */
#define DIFFUSION_ENGINE_DESC_INIT { sizeof(diffusion_engine_desc), 0, 0, 0, 0, NULL, NULL }

/**
 * Facts about an engine.
 * \since 0.1.0
 */
typedef struct diffusion_engine_info {
    /** sizeof(diffusion_engine_info), set by the caller */
    uint32_t struct_size;
    /** The device in use; never ::DIFFUSION_DEVICE_AUTO. */
    diffusion_device device;
    /** Threads that compute. */
    uint32_t threads;
    /** 0 */
    uint32_t reserved;
    /** Bytes of weights and activations held now. */
    uint64_t memory_used;
    /** The most bytes ever held. */
    uint64_t memory_peak;
    /** ::diffusion_engine_desc::memory_limit_host. */
    uint64_t memory_limit;
    /** The device and its instruction set, for people. Valid until the engine is freed. */
    const char *device_name;
} diffusion_engine_info;
/** A diffusion_engine_info with struct_size set and all else zero. */
#define DIFFUSION_ENGINE_INFO_INIT { sizeof(diffusion_engine_info), 0, 0, 0, 0, 0, 0, NULL }

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
 * \param desc What is wanted; NULL = all defaults.
 * \param engine Receives the engine, to be freed with diffusion_engine_free(); NULL on failure.
 * \param error Receives the error on failure, else NULL; may be NULL.
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_UNSUPPORTED for a device this build or machine does
 *     not have; ::DIFFUSION_ERROR_INVALID_ARGUMENT; ::DIFFUSION_ERROR_OUT_OF_MEMORY.
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

/** \} */

/* ---- Models ---------------------------------------------------------------------------------- */
/** \defgroup models Models
 *  \{ */

/**
 * How to load a model. All zero (but for struct_size) is the default.
 * \since 0.1.0
 */
typedef struct diffusion_model_desc {
    /** sizeof(diffusion_model_desc) */
    uint32_t struct_size;
    /** 0 */
    uint32_t reserved;
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
    /** What the network predicts: "epsilon", "v_prediction" or "sample". */
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
 *     ::DIFFUSION_ERROR_UNSUPPORTED for a component this version does not know;
 *     ::DIFFUSION_ERROR_IO; ::DIFFUSION_ERROR_NUMERIC; ::DIFFUSION_ERROR_OUT_OF_MEMORY;
 *     ::DIFFUSION_ERROR_INVALID_ARGUMENT.
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
     * Image width in pixels, a multiple of size_multiple; 0 = the model's own. [int, 0, 0..8192]
     */
    DIFFUSION_OPTION_WIDTH = 3,
    /**
     * Image height in pixels, a multiple of size_multiple; 0 = the model's own. [int, 0, 0..8192]
     */
    DIFFUSION_OPTION_HEIGHT = 4,
    /** Denoising steps; 0 = decode the given latents as they are. [int, 20, 0..1000] */
    DIFFUSION_OPTION_STEPS = 5,
    /** Strength of classifier-free guidance; 1 and below turn it off. [float, 7.5, 0..100] */
    DIFFUSION_OPTION_GUIDANCE_SCALE = 6,
    /** Seed of the noise, any 64 bits; image i of a batch uses seed + i. [int, 0, any] */
    DIFFUSION_OPTION_SEED = 7,
    /** Images to make at once. [int, 1, 1..64] */
    DIFFUSION_OPTION_BATCH_SIZE = 8,
    /**
     * How noise becomes an image; auto = the model's default_sampler. [::diffusion_sampler, auto]
     */
    DIFFUSION_OPTION_SAMPLER = 9,
    /**
     * Which training timesteps the sampler visits; auto = the model's own.
     * [::diffusion_timestep_spacing, auto]
     */
    DIFFUSION_OPTION_TIMESTEP_SPACING = 10,
    /** Fresh noise in each ddim step: 0 = none, 1 = as much as ddpm. [float, 0, 0..1] */
    DIFFUSION_OPTION_ETA = 11,
    /**
     * Noise generator: philox equals torch's CUDA randn, mt19937 its CPU randn; auto = philox.
     * [::diffusion_noise, auto]
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
    DIFFUSION_OPTION_OUTPUT = 14
};

/**
 * How noise becomes an image: a value of ::diffusion_sampler_enum.
 * \since 0.1.0
 */
typedef int32_t diffusion_sampler;

/** Values of ::diffusion_sampler. */
enum diffusion_sampler_enum {
    /** The one of the model's scheduler_config.json. */
    DIFFUSION_SAMPLER_AUTO = 0,
    /** Denoising diffusion probabilistic models (Ho et al. 2020). */
    DIFFUSION_SAMPLER_DDPM = 1,
    /** Denoising diffusion implicit models (Song et al. 2020). */
    DIFFUSION_SAMPLER_DDIM = 2,
    /** Euler's method on the probability flow (Karras et al. 2022, algorithm 2 without churn). */
    DIFFUSION_SAMPLER_EULER = 3
};

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

/** Values of ::diffusion_noise. */
enum diffusion_noise_enum {
    /** ::DIFFUSION_NOISE_PHILOX */
    DIFFUSION_NOISE_AUTO = 0,
    /** Philox 4x32-10: equal to torch.randn on CUDA. */
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
    DIFFUSION_OPTION_TYPE_FLOATS = 5
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

/** Values of ::diffusion_stage, in the order in which a job passes them. */
enum diffusion_stage_enum {
    /** It waits in its session's queue. */
    DIFFUSION_STAGE_QUEUED = 0,
    /** The text encoder runs. */
    DIFFUSION_STAGE_TEXT = 1,
    /** The denoising steps run. */
    DIFFUSION_STAGE_DENOISE = 2,
    /** The decoder makes images. */
    DIFFUSION_STAGE_DECODE = 3,
    /** Done, failed or cancelled. */
    DIFFUSION_STAGE_FINISHED = 4
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
 * Makes a request as new: every option at its default, no progress callback, the first failure
 * forgotten.
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
 * \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT; ::DIFFUSION_ERROR_OUT_OF_MEMORY.
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
 *     of size_multiple, or latents that do not fit; ::DIFFUSION_ERROR_BUSY if the queue is full or
 *     another thread changes the request; ::DIFFUSION_ERROR_INVALID_STATE after an internal error
 *     in the session.
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
    diffusion_sampler sampler;
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
 * called again.
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
    /** Four bytes: red, green, blue, 255. */
    DIFFUSION_FORMAT_RGBA8 = 2,
    /** Four bytes: blue, green, red, 255. */
    DIFFUSION_FORMAT_BGRA8 = 3,
    /**
     * Three 32-bit floats in 0..1: red, green, blue, as the decoder made them, not rounded to
     * bytes.
     */
    DIFFUSION_FORMAT_RGBF32 = 4
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
 * \returns UTF-8, valid until the image is freed; "" for NULL.
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
