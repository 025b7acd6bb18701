/* Every exported function survives NULL for every pointer it takes, says so where it can, and leaves NULL in its
 * out-parameters. run.sh checks that each function of the header is called here. */
#include "check.h"
#include "support.h"
#include <string.h>

/* A pointer that must be overwritten by NULL. */
#define GARBAGE ((void *)&check_failures)

/* The call must fail with INVALID_ARGUMENT and say something, and do the same with no error pointer. */
#define REJECTS(with_error, without_error)                                                                           \
    do {                                                                                                             \
        diffusion_error *rejects_error = NULL;                                                                       \
        diffusion_error **e = &rejects_error;                                                                        \
        CHECK_ERROR(with_error, rejects_error, DIFFUSION_ERROR_INVALID_ARGUMENT, "");                                \
        CHECK_STATUS(without_error, DIFFUSION_ERROR_INVALID_ARGUMENT);                                               \
        (void)e;                                                                                                     \
    } while (0)

static void functions_without_pointers(void) {
    CHECK(diffusion_version() != 0);
    CHECK(diffusion_version_string() != NULL);
    CHECK(diffusion_build_info() != NULL);
    CHECK(diffusion_status_name(0) != NULL);
    CHECK(diffusion_option_count() > 0);
    CHECK(diffusion_option_choice(0, 0) == NULL);
}

static void frees_and_reads_of_null(void) {
    diffusion_error_free(NULL);
    diffusion_engine_free(NULL);
    diffusion_model_free(NULL);
    diffusion_request_free(NULL);
    diffusion_session_free(NULL);
    diffusion_job_free(NULL);
    diffusion_image_free(NULL);
    diffusion_job_cancel(NULL);
    diffusion_engine_desc_init(NULL, 0);
    diffusion_engine_desc_init(NULL, sizeof(diffusion_engine_desc));

    CHECK_STATUS(diffusion_error_status(NULL), DIFFUSION_OK);
    CHECK(strcmp(diffusion_error_message(NULL), "") == 0);
    CHECK(strcmp(diffusion_error_detail(NULL), "") == 0);
    CHECK(diffusion_error_is_usage(NULL) == 0);
    CHECK(diffusion_option_find(NULL) == 0);
    CHECK(diffusion_job_error(NULL) == NULL);
    CHECK(diffusion_image_pixels(NULL) == NULL);
    CHECK(diffusion_image_metadata(NULL) == NULL || strcmp(diffusion_image_metadata(NULL), "") == 0);
    CHECK_STATUS(diffusion_job_wait(NULL, 0), DIFFUSION_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(diffusion_job_wait(NULL, -1), DIFFUSION_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(diffusion_job_status(NULL), DIFFUSION_ERROR_INVALID_ARGUMENT);
}

static void constructors(void) {
    diffusion_model *model = GARBAGE;
    diffusion_request *request = GARBAGE;
    diffusion_session *session = GARBAGE;

    REJECTS(diffusion_engine_new(NULL, NULL, e), diffusion_engine_new(NULL, NULL, NULL));

    REJECTS(diffusion_model_load(NULL, model_path(), NULL, &model, e), diffusion_model_load(NULL, NULL, NULL, NULL, NULL));
    CHECK(model == NULL);
    model = GARBAGE;
    REJECTS(diffusion_model_load(shared_engine(), NULL, NULL, &model, e),
            diffusion_model_load(shared_engine(), NULL, NULL, NULL, NULL));
    CHECK(model == NULL);
    REJECTS(diffusion_model_load(shared_engine(), model_path(), NULL, NULL, e),
            diffusion_model_load(shared_engine(), model_path(), NULL, NULL, NULL));

    REJECTS(diffusion_request_new(NULL, &request, e), diffusion_request_new(NULL, NULL, NULL));
    CHECK(request == NULL);
    REJECTS(diffusion_request_new(shared_model(), NULL, e), diffusion_request_new(shared_model(), NULL, NULL));

    REJECTS(diffusion_session_new(NULL, NULL, &session, e), diffusion_session_new(NULL, NULL, NULL, NULL));
    CHECK(session == NULL);
    REJECTS(diffusion_session_new(shared_model(), NULL, NULL, e),
            diffusion_session_new(shared_model(), NULL, NULL, NULL));
}

static void infos(void) {
    diffusion_engine_info engine_info = DIFFUSION_ENGINE_INFO_INIT;
    diffusion_model_info model_info = DIFFUSION_MODEL_INFO_INIT;
    REJECTS(diffusion_engine_get_info(NULL, &engine_info, e), diffusion_engine_get_info(NULL, NULL, NULL));
    REJECTS(diffusion_engine_get_info(shared_engine(), NULL, e), diffusion_engine_get_info(shared_engine(), NULL, NULL));
    REJECTS(diffusion_model_get_info(NULL, &model_info, e), diffusion_model_get_info(NULL, NULL, NULL));
    REJECTS(diffusion_model_get_info(shared_model(), NULL, e), diffusion_model_get_info(shared_model(), NULL, NULL));
    REJECTS(diffusion_option_get_info(0, NULL, e), diffusion_option_get_info(0, NULL, NULL));
}

static void request_setters(void) {
    const float values[4] = {0};
    CHECK_STATUS(diffusion_request_set_string(NULL, DIFFUSION_OPTION_PROMPT, "x"), DIFFUSION_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(diffusion_request_set_int(NULL, DIFFUSION_OPTION_STEPS, 1), DIFFUSION_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(diffusion_request_set_float(NULL, DIFFUSION_OPTION_ETA, 0), DIFFUSION_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(diffusion_request_set_floats(NULL, DIFFUSION_OPTION_LATENTS, values, 4),
                 DIFFUSION_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(diffusion_request_reset(NULL), DIFFUSION_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(diffusion_request_set_progress_callback(NULL, NULL, NULL), DIFFUSION_ERROR_INVALID_ARGUMENT);

    diffusion_request *request = new_request(1, 0);
    CHECK_STATUS(diffusion_request_set_floats(request, DIFFUSION_OPTION_LATENTS, NULL, 4),
                 DIFFUSION_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(diffusion_request_reset(request), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_floats(request, DIFFUSION_OPTION_LATENTS, NULL, 0), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_progress_callback(request, NULL, NULL), DIFFUSION_OK);
    diffusion_request_free(request);
}

static void null_unsets_a_string(void) {
    diffusion_request *request = new_request(1, 0);
    diffusion_session *session = new_session(shared_model());
    CHECK_STATUS(diffusion_request_set_string(request, DIFFUSION_OPTION_PROMPT, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_string(request, DIFFUSION_OPTION_NEGATIVE_PROMPT, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_string(request, DIFFUSION_OPTION_SAMPLER, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_string(request, DIFFUSION_OPTION_STEPS, NULL), DIFFUSION_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(diffusion_request_reset(request), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_int(request, DIFFUSION_OPTION_STEPS, 1), DIFFUSION_OK);
    set_size(request, SIDE);
    diffusion_job *job = run_job(session, request);
    CHECK(job_result(job).prompt_tokens == 0);
    diffusion_job_free(job);
    diffusion_session_free(session);
    diffusion_request_free(request);
}

static void submit_and_generate(void) {
    diffusion_request *request = new_request(1, 0);
    diffusion_session *session = new_session(shared_model());
    diffusion_job *job = GARBAGE;
    diffusion_image *image = GARBAGE;

    REJECTS(diffusion_submit(NULL, request, &job, e), diffusion_submit(NULL, NULL, NULL, NULL));
    CHECK(job == NULL);
    job = GARBAGE;
    REJECTS(diffusion_submit(session, NULL, &job, e), diffusion_submit(session, NULL, NULL, NULL));
    CHECK(job == NULL);
    REJECTS(diffusion_submit(session, request, NULL, e), diffusion_submit(session, request, NULL, NULL));

    REJECTS(diffusion_generate(NULL, request, &image, e), diffusion_generate(NULL, NULL, NULL, NULL));
    CHECK(image == NULL);
    image = GARBAGE;
    REJECTS(diffusion_generate(session, NULL, &image, e), diffusion_generate(session, NULL, NULL, NULL));
    CHECK(image == NULL);
    REJECTS(diffusion_generate(session, request, NULL, e), diffusion_generate(session, request, NULL, NULL));

    diffusion_session_free(session);
    diffusion_request_free(request);
}

static void job_and_image(void) {
    diffusion_request *request = new_request(1, 0);
    diffusion_session *session = new_session(shared_model());
    diffusion_job *job = run_job(session, request);
    diffusion_image *image = GARBAGE;
    diffusion_progress progress = DIFFUSION_PROGRESS_INIT;
    diffusion_result result = DIFFUSION_RESULT_INIT;
    diffusion_image_info info = DIFFUSION_IMAGE_INFO_INIT;
    size_t count = 7;
    float floats[1];
    uint8_t bytes[1];

    REJECTS(diffusion_job_get_progress(NULL, &progress, e), diffusion_job_get_progress(NULL, NULL, NULL));
    REJECTS(diffusion_job_get_progress(job, NULL, e), diffusion_job_get_progress(job, NULL, NULL));
    REJECTS(diffusion_job_get_result(NULL, &result, e), diffusion_job_get_result(NULL, NULL, NULL));
    REJECTS(diffusion_job_get_result(job, NULL, e), diffusion_job_get_result(job, NULL, NULL));
    REJECTS(diffusion_job_take_image(NULL, 0, &image, e), diffusion_job_take_image(NULL, 0, NULL, NULL));
    CHECK(image == NULL);
    REJECTS(diffusion_job_take_image(job, 0, NULL, e), diffusion_job_take_image(job, 0, NULL, NULL));
    REJECTS(diffusion_job_latents_size(NULL, &count, e), diffusion_job_latents_size(NULL, NULL, NULL));
    REJECTS(diffusion_job_latents_size(job, NULL, e), diffusion_job_latents_size(job, NULL, NULL));
    REJECTS(diffusion_job_copy_latents(NULL, 0, floats, 1, e), diffusion_job_copy_latents(NULL, 0, NULL, 0, NULL));
    REJECTS(diffusion_job_copy_latents(job, 0, NULL, 4096, e), diffusion_job_copy_latents(job, 0, NULL, 4096, NULL));

    image = job_image(job, 0);
    REJECTS(diffusion_image_get_info(NULL, &info, e), diffusion_image_get_info(NULL, NULL, NULL));
    REJECTS(diffusion_image_get_info(image, NULL, e), diffusion_image_get_info(image, NULL, NULL));
    REJECTS(diffusion_image_copy(NULL, bytes, 1, 0, DIFFUSION_FORMAT_RGB8, 0, e),
            diffusion_image_copy(NULL, NULL, 0, 0, DIFFUSION_FORMAT_RGB8, 0, NULL));
    REJECTS(diffusion_image_copy(image, NULL, 1 << 20, 0, DIFFUSION_FORMAT_RGB8, 0, e),
            diffusion_image_copy(image, NULL, 1 << 20, 0, DIFFUSION_FORMAT_RGB8, 0, NULL));
    REJECTS(diffusion_image_save_png(NULL, "x.png", e), diffusion_image_save_png(NULL, NULL, NULL));
    REJECTS(diffusion_image_save_png(image, NULL, e), diffusion_image_save_png(image, NULL, NULL));

    diffusion_image_free(image);
    diffusion_job_free(job);
    diffusion_session_free(session);
    diffusion_request_free(request);
}

TOPIC(null, TEST(functions_without_pointers), TEST(frees_and_reads_of_null), TEST(constructors), TEST(infos),
      TEST(request_setters), TEST(null_unsets_a_string), TEST(submit_and_generate),
      TEST(job_and_image));
