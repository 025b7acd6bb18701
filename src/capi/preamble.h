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
#define DIFFUSION_VERSION_MAJOR @MAJOR@
#define DIFFUSION_VERSION_MINOR @MINOR@
#define DIFFUSION_VERSION_PATCH @PATCH@
#define DIFFUSION_VERSION_STRING "@VERSION@"
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
