/* Shows how a program with a loop of its own (a game, a window, a server) generates: submit a job, keep
 * drawing frames, poll the progress, and cancel when the user has seen enough. No callback is needed.
 *
 * Build it against the source tree (after `make`):
 *   cc -std=c99 -Iinclude examples/c/03_async_cancel.c -Lbuild/lib -Wl,-rpath,$PWD/build/lib -ldiffusion -o 03_async_cancel
 * Run it:
 *   ./03_async_cancel models/emoji
 */
#include <diffusion.h>
#include <stdio.h>

static const char *stage_name(diffusion_stage stage) {
    switch (stage) {
    case DIFFUSION_STAGE_QUEUED: return "queued";
    case DIFFUSION_STAGE_TEXT: return "text";
    case DIFFUSION_STAGE_ENCODE: return "encode";
    case DIFFUSION_STAGE_DENOISE: return "denoise";
    case DIFFUSION_STAGE_DECODE: return "decode";
    case DIFFUSION_STAGE_FINISHED: return "finished";
    default: return "unknown";
    }
}

/* One frame of the host's loop: here it prints where the job is. Returns the denoising steps done. */
static uint32_t draw_frame(const diffusion_job *job) {
    diffusion_progress progress = DIFFUSION_PROGRESS_INIT;
    if (diffusion_job_get_progress(job, &progress, NULL) != DIFFUSION_OK) return 0;
    printf("%6.1f ms  %-8s %u/%u\n", (double)progress.elapsed_ns * 1e-6, stage_name(progress.stage), progress.step,
           progress.steps);
    return progress.step;
}

/* Runs a job to its end, or cancels it once `cancel_at` steps are done (0 = never). */
static diffusion_status run(diffusion_session *session, const diffusion_request *request, uint32_t cancel_at,
                            diffusion_error **error) {
    diffusion_job *job = NULL;
    diffusion_status status = diffusion_submit(session, request, &job, error);
    if (status != DIFFUSION_OK) return status;

    /* Waiting 20 ms stands for a frame; a host with its own clock calls diffusion_job_wait(job, 0). */
    while ((status = diffusion_job_wait(job, 20)) == DIFFUSION_PENDING)
        if (draw_frame(job) >= cancel_at && cancel_at > 0) diffusion_job_cancel(job);

    draw_frame(job);
    /* The job owns its error: it is borrowed, and goes when the job is freed. */
    if (status != DIFFUSION_OK)
        printf("           %s: %s\n", diffusion_status_name(status), diffusion_error_message(diffusion_job_error(job)));
    diffusion_job_free(job);
    return status;
}

int main(int argc, char **argv) {
    const char *path = argc > 1 ? argv[1] : "models/emoji";
    diffusion_engine *engine = NULL;
    diffusion_model *model = NULL;
    diffusion_session *session = NULL;
    diffusion_request *request = NULL;
    diffusion_error *error = NULL;
    int exit_code = 1;

    if (diffusion_engine_new(NULL, &engine, &error) != DIFFUSION_OK) goto end;
    if (diffusion_model_load(engine, path, NULL, &model, &error) != DIFFUSION_OK) goto end;
    if (diffusion_session_new(model, NULL, &session, &error) != DIFFUSION_OK) goto end;
    if (diffusion_request_new(model, &request, &error) != DIFFUSION_OK) goto end;
    /* Setters may go unchecked: the request remembers the first bad one and diffusion_submit reports it. */
    diffusion_request_set_string(request, DIFFUSION_OPTION_PROMPT, "a red fish on a blue background");
    diffusion_request_set_float(request, DIFFUSION_OPTION_GUIDANCE_SCALE, 2.5);
    diffusion_request_set_int(request, DIFFUSION_OPTION_STEPS, 1000);

    puts("a job of 1000 steps, cancelled after a few:");
    if (run(session, request, 5, &error) != DIFFUSION_ERROR_CANCELLED) goto end;

    puts("\nthe session goes on; the same request with 5 steps, to its end:");
    diffusion_request_set_int(request, DIFFUSION_OPTION_STEPS, 5);
    if (run(session, request, 0, &error) != DIFFUSION_OK) goto end;
    exit_code = 0;

end:
    if (error != NULL) fprintf(stderr, "03_async_cancel: %s\n", diffusion_error_message(error));
    diffusion_error_free(error);
    diffusion_request_free(request);
    diffusion_session_free(session);
    diffusion_model_free(model);
    diffusion_engine_free(engine);
    return exit_code;
}
