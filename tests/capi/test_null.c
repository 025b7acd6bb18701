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
    CHECK(diffusion_sampler_count() > 0);
    CHECK(diffusion_sigma_schedule_count() > 0);
}

static void frees_and_reads_of_null(void) {
    diffusion_error_free(NULL);
    diffusion_engine_free(NULL);
    diffusion_device_list_free(NULL);
    diffusion_model_free(NULL);
    diffusion_request_free(NULL);
    diffusion_session_free(NULL);
    diffusion_job_free(NULL);
    diffusion_image_free(NULL);
    diffusion_schedule_free(NULL);
    diffusion_sampler_free(NULL);
    diffusion_guidance_free(NULL);
    diffusion_job_cancel(NULL);
    diffusion_engine_desc_init(NULL, 0);
    diffusion_engine_desc_init(NULL, sizeof(diffusion_engine_desc));

    CHECK_STATUS(diffusion_error_status(NULL), DIFFUSION_OK);
    CHECK(strcmp(diffusion_error_message(NULL), "") == 0);
    CHECK(strcmp(diffusion_error_detail(NULL), "") == 0);
    CHECK(diffusion_error_is_usage(NULL) == 0);
    CHECK(diffusion_option_find(NULL) == 0);
    CHECK(diffusion_device_list_count(NULL) == 0);
    CHECK(strcmp(diffusion_device_list_reason(NULL), "") == 0);
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
    REJECTS(diffusion_device_list_new(NULL, NULL, e), diffusion_device_list_new(NULL, NULL, NULL));

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

    const uint8_t pixel[3] = {0};
    diffusion_image *image = GARBAGE;
    REJECTS(diffusion_image_new(1, 1, DIFFUSION_FORMAT_RGB8, NULL, 0, &image, e),
            diffusion_image_new(1, 1, DIFFUSION_FORMAT_RGB8, NULL, 0, NULL, NULL));
    CHECK(image == NULL);
    REJECTS(diffusion_image_new(1, 1, DIFFUSION_FORMAT_RGB8, pixel, 0, NULL, e),
            diffusion_image_new(1, 1, DIFFUSION_FORMAT_RGB8, pixel, 0, NULL, NULL));
    image = GARBAGE;
    REJECTS(diffusion_image_load_png(NULL, &image, e), diffusion_image_load_png(NULL, NULL, NULL));
    CHECK(image == NULL);
    REJECTS(diffusion_image_load_png("x.png", NULL, e), diffusion_image_load_png("x.png", NULL, NULL));

    REJECTS(diffusion_session_new(NULL, NULL, &session, e), diffusion_session_new(NULL, NULL, NULL, NULL));
    CHECK(session == NULL);
    REJECTS(diffusion_session_new(shared_model(), NULL, NULL, e),
            diffusion_session_new(shared_model(), NULL, NULL, NULL));
}

static void infos(void) {
    diffusion_engine_info engine_info = DIFFUSION_ENGINE_INFO_INIT;
    diffusion_model_info model_info = DIFFUSION_MODEL_INFO_INIT;
    diffusion_device_info device_info = DIFFUSION_DEVICE_INFO_INIT;
    REJECTS(diffusion_device_list_get_info(NULL, 0, &device_info, e), diffusion_device_list_get_info(NULL, 0, NULL, NULL));
    REJECTS(diffusion_engine_get_info(NULL, &engine_info, e), diffusion_engine_get_info(NULL, NULL, NULL));
    REJECTS(diffusion_engine_get_info(shared_engine(), NULL, e), diffusion_engine_get_info(shared_engine(), NULL, NULL));
    REJECTS(diffusion_model_get_info(NULL, &model_info, e), diffusion_model_get_info(NULL, NULL, NULL));
    REJECTS(diffusion_model_get_info(shared_model(), NULL, e), diffusion_model_get_info(shared_model(), NULL, NULL));
    REJECTS(diffusion_option_get_info(0, NULL, e), diffusion_option_get_info(0, NULL, NULL));
}

static void predictions(void) {
    diffusion_memory_prediction prediction = DIFFUSION_MEMORY_PREDICTION_INIT;
    REJECTS(diffusion_predict_memory(NULL, model_path(), NULL, NULL, &prediction, e),
            diffusion_predict_memory(NULL, NULL, NULL, NULL, NULL, NULL));
    REJECTS(diffusion_predict_memory(shared_engine(), NULL, NULL, NULL, &prediction, e),
            diffusion_predict_memory(shared_engine(), NULL, NULL, NULL, NULL, NULL));
    REJECTS(diffusion_predict_memory(shared_engine(), model_path(), NULL, NULL, NULL, e),
            diffusion_predict_memory(shared_engine(), model_path(), NULL, NULL, NULL, NULL));
}

static void request_setters(void) {
    const float values[4] = {0};
    CHECK_STATUS(diffusion_request_set_string(NULL, DIFFUSION_OPTION_PROMPT, "x"), DIFFUSION_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(diffusion_request_set_int(NULL, DIFFUSION_OPTION_STEPS, 1), DIFFUSION_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(diffusion_request_set_float(NULL, DIFFUSION_OPTION_ETA, 0), DIFFUSION_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(diffusion_request_set_floats(NULL, DIFFUSION_OPTION_LATENTS, values, 4),
                 DIFFUSION_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(diffusion_request_set_image(NULL, DIFFUSION_OPTION_IMAGE, NULL), DIFFUSION_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(diffusion_request_reset(NULL), DIFFUSION_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(diffusion_request_set_progress_callback(NULL, NULL, NULL), DIFFUSION_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(diffusion_request_set_guidance_callback(NULL, NULL, NULL), DIFFUSION_ERROR_INVALID_ARGUMENT);

    diffusion_request *request = new_request(1, 0);
    CHECK_STATUS(diffusion_request_set_floats(request, DIFFUSION_OPTION_LATENTS, NULL, 4),
                 DIFFUSION_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(diffusion_request_reset(request), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_floats(request, DIFFUSION_OPTION_LATENTS, NULL, 0), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_image(request, DIFFUSION_OPTION_IMAGE, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_image(request, DIFFUSION_OPTION_STEPS, NULL), DIFFUSION_ERROR_INVALID_ARGUMENT);
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

static void schedules(void) {
    diffusion_schedule *schedule = GARBAGE;
    diffusion_schedule_info info = DIFFUSION_SCHEDULE_INFO_INIT;
    const float values[1] = {1};
    const double times[1] = {1};
    double table[1000], alpha = 7, sigma = 7;
    float out[1];

    REJECTS(diffusion_schedule_new(NULL, NULL, e), diffusion_schedule_new(NULL, NULL, NULL));
    REJECTS(diffusion_schedule_from_config(NULL, &schedule, e), diffusion_schedule_from_config(NULL, NULL, NULL));
    CHECK(schedule == NULL);
    schedule = GARBAGE;
    REJECTS(diffusion_schedule_from_config("{}", NULL, e), diffusion_schedule_from_config("{}", NULL, NULL));
    REJECTS(diffusion_schedule_from_model(NULL, &schedule, e), diffusion_schedule_from_model(NULL, NULL, NULL));
    CHECK(schedule == NULL);
    REJECTS(diffusion_schedule_from_model(shared_model(), NULL, e),
            diffusion_schedule_from_model(shared_model(), NULL, NULL));

    CHECK_STATUS(diffusion_schedule_new(NULL, &schedule, NULL), DIFFUSION_OK);
    REJECTS(diffusion_schedule_get_info(NULL, &info, e), diffusion_schedule_get_info(NULL, NULL, NULL));
    REJECTS(diffusion_schedule_get_info(schedule, NULL, e), diffusion_schedule_get_info(schedule, NULL, NULL));
    REJECTS(diffusion_schedule_copy_table(NULL, 1, table, 1000, e), diffusion_schedule_copy_table(NULL, 1, NULL, 0, NULL));
    REJECTS(diffusion_schedule_copy_table(schedule, 1, NULL, 1000, e),
            diffusion_schedule_copy_table(schedule, 1, NULL, 1000, NULL));
    REJECTS(diffusion_schedule_get_level(NULL, 1, &alpha, &sigma, e),
            diffusion_schedule_get_level(NULL, 1, NULL, NULL, NULL));
    CHECK(alpha < 1 && sigma < 1);
    REJECTS(diffusion_schedule_get_level(schedule, 1, NULL, &sigma, e),
            diffusion_schedule_get_level(schedule, 1, &alpha, NULL, NULL));
    REJECTS(diffusion_schedule_add_noise(NULL, values, values, 1, 1, times, out, e),
            diffusion_schedule_add_noise(schedule, NULL, values, 1, 1, times, out, NULL));
    REJECTS(diffusion_schedule_add_noise(schedule, values, NULL, 1, 1, times, out, e),
            diffusion_schedule_add_noise(schedule, values, values, 1, 1, NULL, out, NULL));
    REJECTS(diffusion_schedule_add_noise(schedule, values, values, 1, 1, times, NULL, e),
            diffusion_schedule_add_noise(NULL, NULL, NULL, 0, 0, NULL, NULL, NULL));
    REJECTS(diffusion_schedule_target(NULL, 0, values, values, 1, 1, times, out, e),
            diffusion_schedule_target(schedule, 0, NULL, values, 1, 1, times, out, NULL));
    REJECTS(diffusion_schedule_target(schedule, 0, values, NULL, 1, 1, times, out, e),
            diffusion_schedule_target(schedule, 0, values, values, 1, 1, NULL, out, NULL));
    REJECTS(diffusion_schedule_target(schedule, 0, values, values, 1, 1, times, NULL, e),
            diffusion_schedule_target(NULL, 0, NULL, NULL, 0, 0, NULL, NULL, NULL));
    REJECTS(diffusion_schedule_convert(NULL, 0, 0, values, values, 1, 1, times, out, e),
            diffusion_schedule_convert(schedule, 0, 0, NULL, values, 1, 1, times, out, NULL));
    REJECTS(diffusion_schedule_convert(schedule, 0, 0, values, NULL, 1, 1, times, out, e),
            diffusion_schedule_convert(schedule, 0, 0, values, values, 1, 1, NULL, out, NULL));
    REJECTS(diffusion_schedule_convert(schedule, 0, 0, values, values, 1, 1, times, NULL, e),
            diffusion_schedule_convert(NULL, 0, 0, NULL, NULL, 0, 0, NULL, NULL, NULL));
    diffusion_schedule_free(schedule);
}

static int32_t no_answer(const diffusion_question *question, float *prediction, float *unconditional, void *user_data) {
    (void)question, (void)prediction, (void)unconditional, (void)user_data;
    return 1;
}

static void samplers_and_noise(void) {
    diffusion_schedule *schedule = NULL;
    diffusion_sampler *sampler = GARBAGE;
    diffusion_sampler_desc desc = DIFFUSION_SAMPLER_DESC_INIT;
    diffusion_sampler_plan plan = DIFFUSION_SAMPLER_PLAN_INIT;
    diffusion_question question = DIFFUSION_QUESTION_INIT;
    const float values[1] = {1};
    double numbers[2], alpha = 7, sigma = 7;
    float out[1];
    desc.steps = 2;
    desc.values = 1;
    CHECK_STATUS(diffusion_schedule_new(NULL, &schedule, NULL), DIFFUSION_OK);

    REJECTS(diffusion_sampler_get_info(0, NULL, e), diffusion_sampler_get_info(0, NULL, NULL));
    REJECTS(diffusion_sigma_schedule_get_info(0, NULL, e), diffusion_sigma_schedule_get_info(0, NULL, NULL));
    REJECTS(diffusion_sampler_new(NULL, &desc, &sampler, e), diffusion_sampler_new(NULL, NULL, NULL, NULL));
    CHECK(sampler == NULL);
    sampler = GARBAGE;
    REJECTS(diffusion_sampler_new(schedule, NULL, &sampler, e), diffusion_sampler_new(schedule, &desc, NULL, NULL));
    CHECK(sampler == NULL);

    CHECK_STATUS(diffusion_sampler_new(schedule, &desc, &sampler, NULL), DIFFUSION_OK);
    REJECTS(diffusion_sampler_get_plan(NULL, &plan, e), diffusion_sampler_get_plan(sampler, NULL, NULL));
    REJECTS(diffusion_sampler_copy_timesteps(NULL, numbers, 2, e), diffusion_sampler_copy_timesteps(sampler, NULL, 2, NULL));
    REJECTS(diffusion_sampler_get_level(NULL, 0, &alpha, &sigma, e),
            diffusion_sampler_get_level(sampler, 0, NULL, NULL, NULL));
    CHECK(alpha < 1 && sigma < 1);
    REJECTS(diffusion_sampler_get_level(sampler, 0, &alpha, NULL, e), diffusion_sampler_start(NULL, NULL, 0, NULL));
    REJECTS(diffusion_sampler_start(NULL, values, 1, e), diffusion_sampler_start(sampler, NULL, 1, NULL));
    REJECTS(diffusion_sampler_start_from(NULL, values, 1, e), diffusion_sampler_start_from(sampler, NULL, 1, NULL));
    CHECK_STATUS(diffusion_sampler_start(sampler, NULL, 0, NULL), DIFFUSION_OK);
    REJECTS(diffusion_sampler_step(NULL, no_answer, NULL, e), diffusion_sampler_step(sampler, NULL, NULL, NULL));
    CHECK_STATUS(diffusion_sampler_step(sampler, no_answer, NULL, NULL), DIFFUSION_ERROR_CANCELLED);
    REJECTS(diffusion_sampler_ask(NULL, &question, e), diffusion_sampler_ask(sampler, NULL, NULL));
    REJECTS(diffusion_sampler_tell(NULL, values, 1, NULL, 0, e), diffusion_sampler_tell(sampler, NULL, 1, NULL, 0, NULL));
    REJECTS(diffusion_sampler_copy_latents(NULL, out, 1, e), diffusion_sampler_copy_latents(sampler, NULL, 1, NULL));
    REJECTS(diffusion_sampler_set_latents(NULL, values, 1, e), diffusion_sampler_set_latents(sampler, NULL, 1, NULL));
    CHECK(diffusion_sampler_steps_done(NULL) == 0);
    REJECTS(diffusion_noise_fill(0, 0, NULL, 1, e), diffusion_noise_fill(0, 0, NULL, 0, NULL));
    diffusion_sampler_free(sampler);
    diffusion_schedule_free(schedule);
}

static void guidance_of_a_host(void) {
    diffusion_guidance *guidance = GARBAGE;
    diffusion_guidance_desc desc = DIFFUSION_GUIDANCE_DESC_INIT;
    diffusion_predictions predictions = DIFFUSION_PREDICTIONS_INIT;
    const float values[1] = {1};
    float out[1];
    uint32_t needs;
    desc.steps = 1;
    desc.values = 1;
    REJECTS(diffusion_guidance_new(NULL, &guidance, e), diffusion_guidance_new(&desc, NULL, NULL));
    CHECK(guidance == NULL);
    CHECK_STATUS(diffusion_guidance_new(&desc, &guidance, NULL), DIFFUSION_OK);
    REJECTS(diffusion_guidance_get_needs(NULL, 0, &needs, e), diffusion_guidance_get_needs(guidance, 0, NULL, NULL));
    REJECTS(diffusion_guidance_combine(guidance, NULL, out, e), diffusion_guidance_combine(NULL, NULL, NULL, NULL));
    predictions.count = 1;
    REJECTS(diffusion_guidance_combine(guidance, &predictions, out, e),
            diffusion_guidance_combine(NULL, &predictions, out, NULL));
    predictions.conditional = predictions.unconditional = values;
    REJECTS(diffusion_guidance_combine(guidance, &predictions, NULL, e),
            diffusion_guidance_combine(NULL, &predictions, NULL, NULL));
    diffusion_guidance_free(guidance);
}

TOPIC(null, TEST(functions_without_pointers), TEST(frees_and_reads_of_null), TEST(constructors), TEST(infos), TEST(predictions),
      TEST(request_setters), TEST(null_unsets_a_string), TEST(submit_and_generate),
      TEST(job_and_image), TEST(schedules), TEST(samplers_and_noise), TEST(guidance_of_a_host));
