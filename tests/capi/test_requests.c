/* Requests that a model cannot serve, and prompts of every kind. */
#include "check.h"
#include "support.h"
#include <stdlib.h>
#include <string.h>

/* Generating must fail with `want` and name `culprit`, at submit or in the job. */
static void generate_refuses(diffusion_model *model, const diffusion_request *request, diffusion_status want,
                             const char *culprit) {
    diffusion_session *session = new_session(model);
    diffusion_image *image = (diffusion_image *)&session;
    diffusion_error *error = NULL;
    CHECK_ERROR(diffusion_generate(session, request, &image, &error), error, want, culprit);
    CHECK(image == NULL);
    diffusion_session_free(session);
}

static void sizes_must_be_multiples(void) {
    diffusion_request *r = new_request(1, 0);
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_WIDTH, 65), DIFFUSION_OK);
    generate_refuses(shared_model(), r, DIFFUSION_ERROR_INVALID_ARGUMENT, "width");
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_WIDTH, 64), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_HEIGHT, 63), DIFFUSION_OK);
    generate_refuses(shared_model(), r, DIFFUSION_ERROR_INVALID_ARGUMENT, "63");
    diffusion_request_free(r);
}

static void sizes_are_those_asked_for(void) {
    /* The last is 17 x 9 latents, which the U-Net's levels do not halve evenly. */
    static const uint32_t sizes[][2] = {{96, 32}, {4, 4}, {68, 36}};
    diffusion_request *r = new_request(1, 0);
    diffusion_session *session = new_session(shared_model());
    for (size_t i = quick ? 1 : 0; i < (quick ? 2 : 3); i++) {
        CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_WIDTH, sizes[i][0]), DIFFUSION_OK);
        CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_HEIGHT, sizes[i][1]), DIFFUSION_OK);
        diffusion_job *job = run_job(session, r);
        diffusion_result result = job_result(job);
        CHECK(result.width == sizes[i][0] && result.height == sizes[i][1]);
        diffusion_job_free(job);
    }
    diffusion_session_free(session);
    diffusion_request_free(r);
}

/* The result of one step for a prompt. */
static diffusion_result result_of_prompt(const char *prompt) {
    diffusion_request *r = new_request(1, 0);
    diffusion_session *session = new_session(shared_model());
    CHECK_STATUS(diffusion_request_set_string(r, DIFFUSION_OPTION_PROMPT, prompt), DIFFUSION_OK);
    diffusion_job *job = run_job(session, r);
    diffusion_result result = job_result(job);
    diffusion_job_free(job);
    diffusion_session_free(session);
    diffusion_request_free(r);
    return result;
}

static void the_empty_prompt_is_a_prompt(void) {
    diffusion_result result = result_of_prompt("");
    CHECK(result.image_count == 1 && result.prompt_tokens == 0 && result.prompt_tokens_dropped == 0);
}

static void an_over_long_prompt_is_cut_and_says_so(void) {
    char prompt[1024] = "";
    for (int i = 0; i < 50; i++) strcat(prompt, "cat ");
    diffusion_result result = result_of_prompt(prompt);
    CHECK(result.prompt_tokens == 50);
    CHECK(result.prompt_tokens_dropped == 20); /* 32 positions, two of them the begin and end marks */
    result = result_of_prompt("cat");
    CHECK(result.prompt_tokens == 1 && result.prompt_tokens_dropped == 0);
}

static void prompts_in_any_script(void) {
    static const char *const prompts[] = {"un gâteau près du château", "一只蓝色的猫", "\xf0\x9f\x90\xb1 \xf0\x9f\x91\xa8\xe2\x80\x8d\xf0\x9f\x91\xa9",
                                          " \t a   red\n\napple ", "a<|endoftext|>b", "\x01\x02"};
    for (size_t i = 0; i < (quick ? 2 : sizeof prompts / sizeof prompts[0]); i++)
        CHECK(result_of_prompt(prompts[i]).image_count == 1);
}

static void invalid_utf8_is_refused(void) {
    static const char *const bad[] = {"a \xff cat", "\xc3", "\xed\xa0\x80", "\xf5\x80\x80\x80", "\xc0\xaf"};
    diffusion_request *r = new_request(1, 0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_STATUS(diffusion_request_set_string(r, DIFFUSION_OPTION_PROMPT, bad[i]),
                     DIFFUSION_ERROR_INVALID_ARGUMENT);
        generate_refuses(shared_model(), r, DIFFUSION_ERROR_INVALID_ARGUMENT, "prompt");
        CHECK_STATUS(diffusion_request_reset(r), DIFFUSION_OK);
    }
    CHECK_STATUS(diffusion_request_set_string(r, DIFFUSION_OPTION_NEGATIVE_PROMPT, bad[0]),
                 DIFFUSION_ERROR_INVALID_ARGUMENT);
    generate_refuses(shared_model(), r, DIFFUSION_ERROR_INVALID_ARGUMENT, "negative_prompt");
    diffusion_request_free(r);
}

static void a_prompt_of_megabytes_is_refused(void) {
    size_t size = (1 << 20) + 2;
    char *prompt = malloc(size);
    REQUIRE(prompt != NULL);
    memset(prompt, 'a', size - 1);
    prompt[size - 1] = '\0';
    diffusion_request *r = new_request(1, 0);
    CHECK_STATUS(diffusion_request_set_string(r, DIFFUSION_OPTION_PROMPT, prompt), DIFFUSION_ERROR_INVALID_ARGUMENT);
    generate_refuses(shared_model(), r, DIFFUSION_ERROR_INVALID_ARGUMENT, "prompt");
    diffusion_request_free(r);
    free(prompt);
}

static void the_negative_prompt_changes_the_picture(void) {
    diffusion_request *r = new_request(2, 0);
    picture without = generate_picture(shared_model(), r);
    CHECK_STATUS(diffusion_request_set_string(r, DIFFUSION_OPTION_NEGATIVE_PROMPT, "a blue fish"), DIFFUSION_OK);
    picture with = generate_picture(shared_model(), r);
    CHECK(with.rgb != NULL && without.rgb != NULL && !same_picture(&with, &without));
    picture_free(&with);
    picture_free(&without);
    diffusion_request_free(r);
}

static void memory_limit_below_the_activations(void) {
    diffusion_engine_desc desc = DIFFUSION_ENGINE_DESC_INIT;
    diffusion_engine *engine = NULL;
    diffusion_model *model = NULL;
    diffusion_engine_info info = DIFFUSION_ENGINE_INFO_INIT;

    /* What the weights take, measured; then an engine that has room for them and one more megabyte. */
    desc.device = DIFFUSION_DEVICE_CPU;
    desc.threads = 1;
    CHECK_STATUS(diffusion_engine_new(&desc, &engine, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_model_load(engine, model_path(), NULL, &model, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_engine_get_info(engine, &info, NULL), DIFFUSION_OK);
    CHECK(info.memory_used > 0 && info.memory_peak >= info.memory_used && info.memory_limit == 0);
    uint64_t weights = info.memory_used;
    diffusion_model_free(model);
    diffusion_engine_free(engine);

    desc.memory_limit_host = weights + (1 << 20);
    model = NULL;
    CHECK_STATUS(diffusion_engine_new(&desc, &engine, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_model_load(engine, model_path(), NULL, &model, NULL), DIFFUSION_OK);
    diffusion_request *r = new_request_for(model, 1, 0);
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_WIDTH, 256), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_HEIGHT, 256), DIFFUSION_OK);
    generate_refuses(model, r, DIFFUSION_ERROR_OUT_OF_MEMORY, "limit");
    CHECK_STATUS(diffusion_engine_get_info(engine, &info, NULL), DIFFUSION_OK);
    CHECK(info.memory_peak <= desc.memory_limit_host);
    diffusion_request_free(r);
    diffusion_model_free(model);
    diffusion_engine_free(engine);
}

static void engines_that_cannot_be(void) {
    diffusion_engine_desc desc = DIFFUSION_ENGINE_DESC_INIT;
    diffusion_engine *engine = (diffusion_engine *)&desc;
    diffusion_error *error = NULL;
    desc.device = 77;
    CHECK_ERROR(diffusion_engine_new(&desc, &engine, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "77");
    CHECK(engine == NULL);
    desc.device = DIFFUSION_DEVICE_CPU;
    desc.threads = 1u << 30;
    CHECK_ERROR(diffusion_engine_new(&desc, &engine, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "threads");
    desc.threads = 1;
    desc.log_level = 9;
    CHECK_ERROR(diffusion_engine_new(&desc, &engine, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "log_level");
}

static void engine_info_tells_the_device(void) {
    diffusion_engine *engine = engine_with_threads(2);
    diffusion_engine_info info = DIFFUSION_ENGINE_INFO_INIT;
    CHECK_STATUS(diffusion_engine_get_info(engine, &info, NULL), DIFFUSION_OK);
    CHECK(info.device == DIFFUSION_DEVICE_CPU && info.threads == 2);
    CHECK(info.device_name != NULL && strlen(info.device_name) > 0);
    diffusion_engine_free(engine);
}

TOPIC(requests, TEST(sizes_must_be_multiples), TEST(sizes_are_those_asked_for), TEST(the_empty_prompt_is_a_prompt),
      TEST(an_over_long_prompt_is_cut_and_says_so), TEST(prompts_in_any_script), TEST(invalid_utf8_is_refused),
      TEST(a_prompt_of_megabytes_is_refused), TEST(the_negative_prompt_changes_the_picture),
      TEST(memory_limit_below_the_activations), TEST(engines_that_cannot_be), TEST(engine_info_tells_the_device));
