/* How much memory a request needs, before its model is loaded. */
#define _POSIX_C_SOURCE 200809L /* setrlimit */
#include "check.h"
#include "support.h"
#include <string.h>
#if defined __linux__
#include <sys/resource.h>
#include <unistd.h>
#endif

static diffusion_engine *new_engine(uint32_t threads, uint64_t limit) {
    diffusion_engine_desc desc = DIFFUSION_ENGINE_DESC_INIT;
    diffusion_engine *engine = NULL;
    desc.device = DIFFUSION_DEVICE_CPU;
    desc.threads = threads;
    desc.memory_limit_host = limit;
    CHECK_STATUS(diffusion_engine_new(&desc, &engine, NULL), DIFFUSION_OK);
    return engine;
}

static diffusion_memory_prediction predict(diffusion_engine *engine, const diffusion_memory_query *query) {
    diffusion_memory_prediction prediction = DIFFUSION_MEMORY_PREDICTION_INIT;
    CHECK_STATUS(diffusion_predict_memory(engine, model_path(), NULL, query, &prediction, NULL), DIFFUSION_OK);
    CHECK(prediction.weights > 0 && prediction.activations > 0);
    CHECK(prediction.total == prediction.weights + prediction.activations);
    return prediction;
}

/* Loads the model and makes one image. */
static diffusion_status run(diffusion_engine *engine, int steps) {
    diffusion_model *model = NULL;
    diffusion_session *session = NULL;
    diffusion_request *request = NULL;
    diffusion_image *image = NULL;
    diffusion_status status = diffusion_model_load(engine, model_path(), NULL, &model, NULL);
    if (status == DIFFUSION_OK) {
        CHECK_STATUS(diffusion_session_new(model, NULL, &session, NULL), DIFFUSION_OK);
        CHECK_STATUS(diffusion_request_new(model, &request, NULL), DIFFUSION_OK);
        CHECK_STATUS(diffusion_request_set_int(request, DIFFUSION_OPTION_STEPS, steps), DIFFUSION_OK);
        status = diffusion_generate(session, request, &image, NULL);
    }
    diffusion_image_free(image);
    diffusion_request_free(request);
    diffusion_session_free(session);
    diffusion_model_free(model);
    return status;
}

static void a_prediction_comes_true(void) {
    diffusion_memory_query query = DIFFUSION_MEMORY_QUERY_INIT;
    diffusion_engine_info info = DIFFUSION_ENGINE_INFO_INIT;
    diffusion_engine *engine = new_engine(2, 0);
    query.guided = 1;
    query.steps = 2;
    diffusion_memory_prediction prediction = predict(engine, &query);
    CHECK_STATUS(diffusion_engine_get_info(engine, &info, NULL), DIFFUSION_OK);
    CHECK(info.memory_peak == 0);
    CHECK(prediction.limit == 0 && prediction.fits == 1);
    CHECK_STATUS(run(engine, 2), DIFFUSION_OK);
    CHECK_STATUS(diffusion_engine_get_info(engine, &info, NULL), DIFFUSION_OK);
    CHECK(prediction.total >= info.memory_peak);
    CHECK(prediction.total <= info.memory_peak + info.memory_peak / 10);
    diffusion_engine_free(engine);
}

static void what_does_not_fit_fails(void) {
    diffusion_memory_query query = DIFFUSION_MEMORY_QUERY_INIT;
    diffusion_engine *engine = new_engine(1, 8 << 20);
    query.guided = 1;
    diffusion_memory_prediction prediction = predict(engine, &query);
    CHECK(prediction.limit == 8 << 20 && prediction.fits == 0);
    CHECK_STATUS(run(engine, 1), DIFFUSION_ERROR_OUT_OF_MEMORY);
    diffusion_engine_free(engine);
}

/* Decodes latents to 512 x 512 pixels; `loaded` is what the weights take, `peak` the most that was in use. */
static picture decode(uint64_t limit, uint64_t *loaded, uint64_t *peak) {
    enum { LATENTS = 128 * 128 * 4 };
    static float latents[LATENTS];
    diffusion_engine_info info = DIFFUSION_ENGINE_INFO_INIT;
    diffusion_engine *engine = new_engine(2, limit);
    diffusion_model *model = NULL;
    for (size_t i = 0; i < LATENTS; i++)
        latents[i] = (float)(i * 7919 % 4001) / 1000 - 2;
    CHECK_STATUS(diffusion_model_load(engine, model_path(), NULL, &model, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_engine_get_info(engine, &info, NULL), DIFFUSION_OK);
    *loaded = info.memory_used;
    diffusion_request *request = new_request_for(model, 0, 0);
    set_size(request, 512);
    CHECK_STATUS(diffusion_request_set_floats(request, DIFFUSION_OPTION_LATENTS, latents, LATENTS), DIFFUSION_OK);
    picture result = generate_picture(model, request);
    CHECK_STATUS(diffusion_engine_get_info(engine, &info, NULL), DIFFUSION_OK);
    *peak = info.memory_peak;
    diffusion_request_free(request);
    diffusion_model_free(model);
    diffusion_engine_free(engine);
    return result;
}

static void a_limit_does_not_change_the_picture(void) {
    if (quick) /* valgrind takes the better part of an hour for it */
        return;
    uint64_t loaded = 0, most = 0, peak = 0;
    picture whole = decode(0, &loaded, &most);
    /* Less than operation by operation takes, which already reuses all that is free. */
    uint64_t limit = loaded + (most - loaded) * 9 / 20;
    picture strips = decode(limit, &loaded, &peak);
    CHECK(peak <= limit);
    CHECK(same_picture(&whole, &strips));
    picture_free(&whole);
    picture_free(&strips);
}

static void larger_requests_take_more(void) {
    diffusion_memory_query query = DIFFUSION_MEMORY_QUERY_INIT;
    diffusion_memory_prediction small = predict(shared_engine(), NULL);
    query.width = query.height = 256;
    diffusion_memory_prediction large = predict(shared_engine(), &query);
    CHECK(large.weights == small.weights && large.activations > small.activations);
    query.batch_size = 8;
    query.guided = 1;
    CHECK(predict(shared_engine(), &query).activations > large.activations);
}

static void what_cannot_be_predicted(void) {
    diffusion_memory_query query = DIFFUSION_MEMORY_QUERY_INIT;
    diffusion_memory_prediction prediction = DIFFUSION_MEMORY_PREDICTION_INIT;
    diffusion_model_desc desc = DIFFUSION_MODEL_DESC_INIT;
    diffusion_error *error = NULL;
    CHECK_ERROR(diffusion_predict_memory(shared_engine(), "no/such/model", NULL, NULL, &prediction, &error), error,
                DIFFUSION_ERROR_NOT_FOUND, "no/such/model");
    desc.variant = "fp99";
    CHECK_ERROR(diffusion_predict_memory(shared_engine(), model_path(), &desc, NULL, &prediction, &error), error,
                DIFFUSION_ERROR_NOT_FOUND, "fp99");
    query.width = 65;
    CHECK_ERROR(diffusion_predict_memory(shared_engine(), model_path(), NULL, &query, &prediction, &error), error,
                DIFFUSION_ERROR_INVALID_ARGUMENT, "width");
    query.width = 64;
    query.batch_size = UINT32_MAX;
    CHECK_ERROR(diffusion_predict_memory(shared_engine(), model_path(), NULL, &query, &prediction, &error), error,
                DIFFUSION_ERROR_INVALID_ARGUMENT, "batch_size");
    query.struct_size = 2;
    CHECK_ERROR(diffusion_predict_memory(shared_engine(), model_path(), NULL, &query, &prediction, &error), error,
                DIFFUSION_ERROR_INVALID_ARGUMENT, "query");
}

#if defined __linux__
/* Where the system gives no more, requests fail: what lies on the host is asked for with care, too. */
static void exhausted_memory_is_an_error(void) {
    if (quick) /* valgrind and AddressSanitizer need address space of their own */
        return;
    diffusion_memory_query query = DIFFUSION_MEMORY_QUERY_INIT;
    diffusion_memory_prediction prediction = DIFFUSION_MEMORY_PREDICTION_INIT;
    diffusion_session *session = new_session(shared_model());
    diffusion_request *request = new_request(1, 0);
    diffusion_image *image = NULL;
    struct rlimit before, less;
    long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    REQUIRE(statm != NULL && fscanf(statm, "%ld", &pages) == 1 && getrlimit(RLIMIT_AS, &before) == 0);
    fclose(statm);
    less = before;
    less.rlim_cur = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + ((rlim_t)1 << 30);
    query.width = query.height = 8192;
    query.batch_size = 64; /* the latents alone take 4.3 GB */
    set_size(request, 8192);
    CHECK_STATUS(diffusion_request_set_int(request, DIFFUSION_OPTION_BATCH_SIZE, 64), DIFFUSION_OK);
    REQUIRE(setrlimit(RLIMIT_AS, &less) == 0);
    diffusion_status generated = diffusion_generate(session, request, &image, NULL);
    diffusion_status predicted =
        diffusion_predict_memory(shared_engine(), model_path(), NULL, &query, &prediction, NULL);
    REQUIRE(setrlimit(RLIMIT_AS, &before) == 0);
    CHECK_STATUS(generated, DIFFUSION_ERROR_OUT_OF_MEMORY);
    CHECK_STATUS(predicted, DIFFUSION_ERROR_OUT_OF_MEMORY);
    set_size(request, 64);
    CHECK_STATUS(diffusion_request_set_int(request, DIFFUSION_OPTION_BATCH_SIZE, 1), DIFFUSION_OK);
    CHECK_STATUS(diffusion_generate(session, request, &image, NULL), DIFFUSION_OK);
    diffusion_image_free(image);
    diffusion_request_free(request);
    diffusion_session_free(session);
}
#endif

TOPIC(memory, TEST(a_prediction_comes_true), TEST(what_does_not_fit_fails),
      TEST(a_limit_does_not_change_the_picture), TEST(larger_requests_take_more), TEST(what_cannot_be_predicted),
      LINUX_TEST(exhausted_memory_is_an_error));
