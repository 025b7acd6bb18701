/* The CUDA backend from C, on the stand-in driver of tests/driver: run.sh runs this topic with it in the library path.
 * The model is a tiny one ($DIFFUSION_TEST_MODEL): an emulated GPU computes. */
#define _GNU_SOURCE
#include "check.h"
#include "support.h"
#include <dlfcn.h>
#include <string.h>

/* The stand-in's own functions; NULL with any other driver. */
static void *driver_function(const char *name) {
    static void *driver = NULL;
    if (driver == NULL) driver = dlopen("libcuda.so.1", RTLD_NOW);
    return driver != NULL ? dlsym(driver, name) : NULL;
}

static bool set(const char *name, uint64_t value) {
    int (*function)(const char *, uint64_t);
    *(void **)&function = driver_function("standin_set");
    return function != NULL && function(name, value) != 0;
}

static uint64_t get(const char *name) {
    int (*function)(const char *, uint64_t *);
    uint64_t value = 0;
    *(void **)&function = driver_function("standin_get");
    CHECK(function != NULL && function(name, &value) != 0);
    return value;
}

/* Settings as at the start, and two devices. False, and a failed check, without the stand-in. */
static bool reset(void) {
    void (*function)(void);
    *(void **)&function = driver_function("standin_reset");
    CHECK(function != NULL);
    if (function == NULL) return false;
    function();
    return set("devices", 2);
}

static diffusion_engine_desc on_device(uint32_t index) {
    diffusion_engine_desc desc = DIFFUSION_ENGINE_DESC_INIT;
    desc.device = DIFFUSION_DEVICE_CUDA;
    desc.device_index = index;
    return desc;
}

static diffusion_engine *new_engine(const diffusion_engine_desc *desc) {
    diffusion_engine *engine = NULL;
    diffusion_error *error = NULL;
    CHECK_STATUS(diffusion_engine_new(desc, &engine, &error), DIFFUSION_OK);
    if (error != NULL) fprintf(stderr, "  %s\n", diffusion_error_message(error));
    diffusion_error_free(error);
    return engine;
}

static diffusion_engine_info info_of(const diffusion_engine *engine) {
    diffusion_engine_info info = DIFFUSION_ENGINE_INFO_INIT;
    CHECK_STATUS(diffusion_engine_get_info(engine, &info, NULL), DIFFUSION_OK);
    return info;
}

/* A model on an engine of its own, which it keeps. */
static diffusion_model *load_on(const diffusion_engine_desc *desc) {
    diffusion_engine *engine = new_engine(desc);
    diffusion_model *model = NULL;
    diffusion_error *error = NULL;
    CHECK_STATUS(diffusion_model_load(engine, model_path(), NULL, &model, &error), DIFFUSION_OK);
    if (error != NULL) fprintf(stderr, "  %s\n", diffusion_error_message(error));
    diffusion_error_free(error);
    diffusion_engine_free(engine);
    return model;
}

/* Weights in 8 bits are the CPU's: neither a load nor a prediction takes them for something else. */
static void int8_weights_are_refused(void) {
    REQUIRE(reset());
    diffusion_engine_desc engine_desc = on_device(0);
    diffusion_model_desc desc = DIFFUSION_MODEL_DESC_INIT;
    diffusion_memory_prediction prediction = DIFFUSION_MEMORY_PREDICTION_INIT;
    diffusion_engine *engine = new_engine(&engine_desc);
    diffusion_model *model = (diffusion_model *)&desc;
    diffusion_error *error = NULL;
    desc.weights = DIFFUSION_WEIGHT_FORMAT_INT8;
    CHECK_ERROR(diffusion_model_load(engine, model_path(), &desc, &model, &error), error, DIFFUSION_ERROR_UNSUPPORTED,
                "int8");
    CHECK(model == NULL);
    CHECK_ERROR(diffusion_predict_memory(engine, model_path(), &desc, NULL, &prediction, &error), error,
                DIFFUSION_ERROR_UNSUPPORTED, "int8");
    desc.weights = 2;
    CHECK_ERROR(diffusion_model_load(engine, model_path(), &desc, &model, &error), error,
                DIFFUSION_ERROR_INVALID_ARGUMENT, "weights: there is no format 2");
    diffusion_engine_free(engine);
}

/* Runs a job to its end, which must be `want`. */
static void run_to(diffusion_session *session, const diffusion_request *request, diffusion_status want,
                   const char *culprit) {
    diffusion_job *job = NULL;
    CHECK_STATUS(diffusion_submit(session, request, &job, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_job_wait(job, -1), want);
    if (want < 0) check_message(__FILE__, __LINE__, diffusion_error_message(diffusion_job_error(job)), culprit);
    diffusion_job_free(job);
}

static picture session_picture(diffusion_session *session, const diffusion_request *request) {
    diffusion_job *job = run_job(session, request);
    diffusion_image *image = job_image(job, 0);
    picture p = picture_of(image);
    diffusion_image_free(image);
    diffusion_job_free(job);
    return p;
}

static void devices_are_listed(void) {
    REQUIRE(reset());
    CHECK(set("architecture", 90) && set("memory", UINT64_C(3) << 30));
    diffusion_device_list *list = NULL;
    CHECK_STATUS(diffusion_device_list_new(NULL, &list, NULL), DIFFUSION_OK);
    CHECK(diffusion_device_list_count(list) == 2);
    for (uint32_t i = 0; i < 2; i++) {
        char name[] = "Stand-in GPU 0";
        name[sizeof name - 2] = (char)('0' + i);
        diffusion_device_info info = DIFFUSION_DEVICE_INFO_INIT;
        CHECK_STATUS(diffusion_device_list_get_info(list, i, &info, NULL), DIFFUSION_OK);
        CHECK(info.device == DIFFUSION_DEVICE_CUDA && info.device_index == i && info.compute_capability == 90);
        CHECK(info.memory == UINT64_C(3) << 30 && info.name != NULL && strcmp(info.name, name) == 0);
    }
    CHECK(strcmp(diffusion_device_list_reason(list), "") == 0);
    diffusion_device_list_free(list);
}

static void a_device_that_does_not_exist(void) {
    REQUIRE(reset());
    static const uint32_t indices[] = {2, 77, UINT32_MAX};
    for (size_t i = 0; i < 3; i++) {
        char number[16];
        snprintf(number, sizeof number, "%u", indices[i]);
        diffusion_engine_desc desc = on_device(indices[i]);
        diffusion_engine *engine = (diffusion_engine *)&desc;
        diffusion_error *error = NULL;
        CHECK_ERROR(diffusion_engine_new(&desc, &engine, &error), error, DIFFUSION_ERROR_NOT_FOUND, number);
        CHECK(engine == NULL);
        desc.device = DIFFUSION_DEVICE_AUTO; /* the caller's mistake, not the machine's lack */
        CHECK_ERROR(diffusion_engine_new(&desc, &engine, &error), error, DIFFUSION_ERROR_NOT_FOUND, "2");
    }
}

static void a_device_that_is_too_old(void) {
    REQUIRE(reset());
    CHECK(set("architecture", 75));
    diffusion_engine_desc desc = on_device(0);
    diffusion_engine *engine = NULL;
    diffusion_error *error = NULL;
    CHECK_ERROR(diffusion_engine_new(&desc, &engine, &error), error, DIFFUSION_ERROR_UNSUPPORTED, "7.5");
    desc.device = DIFFUSION_DEVICE_AUTO;
    engine = new_engine(&desc);
    CHECK(info_of(engine).device == DIFFUSION_DEVICE_CPU);
    diffusion_engine_free(engine);
}

static void engine_info_tells_the_gpu(void) {
    REQUIRE(reset());
    diffusion_engine_desc desc = on_device(1);
    desc.threads = 3;
    desc.memory_limit_host = 1;
    desc.memory_limit_device = 1 << 30;
    diffusion_engine *engine = new_engine(&desc);
    diffusion_engine_info info = info_of(engine);
    CHECK(info.device == DIFFUSION_DEVICE_CUDA && info.device_index == 1 && info.threads == 0);
    CHECK(info.precision == DIFFUSION_PRECISION_F16 && info.memory_limit == 1 << 30);
    CHECK(info.device_name != NULL && strstr(info.device_name, "Stand-in GPU 1") != NULL);
    diffusion_engine_free(engine);

    desc = on_device(0);
    desc.device = DIFFUSION_DEVICE_AUTO;
    desc.precision = DIFFUSION_PRECISION_BF16;
    engine = new_engine(&desc);
    info = info_of(engine);
    CHECK(info.device == DIFFUSION_DEVICE_CUDA && info.device_index == 0);
    CHECK(info.precision == DIFFUSION_PRECISION_BF16 && info.memory_limit == 0);
    diffusion_engine_free(engine);
}

static void pictures_are_those_of_the_cpu(void) {
    REQUIRE(reset());
    static const struct {
        diffusion_precision precision;
        double decibels;
    } cases[] = {{DIFFUSION_PRECISION_F32, 60}, {DIFFUSION_PRECISION_F16, 30}, {DIFFUSION_PRECISION_BF16, 20}};
    diffusion_request *r = new_request(3, 7);
    picture cpu = generate_picture(shared_model(), r), last = {0, 0, NULL};
    diffusion_request_free(r);
    for (int i = 0; i < (quick ? 2 : 3); i++) {
        diffusion_engine_desc desc = on_device(0);
        desc.precision = cases[i].precision;
        diffusion_model *model = load_on(&desc);
        r = new_request_for(model, 3, 7);
        picture cuda = generate_picture(model, r);
        double decibels = psnr(&cuda, &cpu);
        if (!(decibels >= cases[i].decibels)) check_failed(__FILE__, __LINE__, "case %d: %.1f dB", i, decibels);
        CHECK(!same_picture(&cuda, &last)); /* or the precision would do nothing */
        picture_free(&last);
        last = cuda;
        diffusion_request_free(r);
        diffusion_model_free(model);
    }
    picture_free(&last);
    picture_free(&cpu);
}

/* In the sessions of one model, again in the same session (by then from its reserve, and replayed), in one of a batch. */
static void the_same_seed_gives_the_same_bits(void) {
    REQUIRE(reset());
    diffusion_engine_desc desc = on_device(0);
    diffusion_model *model = load_on(&desc);
    diffusion_request *r = new_request_for(model, 3, 7);
    diffusion_session *session = new_session(model);
    picture first = session_picture(session, r), again = session_picture(session, r), other = generate_picture(model, r);
    CHECK(same_picture(&first, &again) && same_picture(&first, &other));
    CHECK(get("graph_launches") > 0);
    picture_free(&again);
    picture_free(&other);

    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_SEED, 6), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_BATCH_SIZE, 2), DIFFUSION_OK);
    diffusion_job *job = run_job(session, r);
    diffusion_image *image = job_image(job, 1);
    again = picture_of(image);
    if (!same_picture(&first, &again)) check_failed(__FILE__, __LINE__, "%.1f dB", psnr(&first, &again));
    picture_free(&again);
    diffusion_image_free(image);
    diffusion_job_free(job);
    picture_free(&first);
    diffusion_session_free(session);
    diffusion_request_free(r);
    diffusion_model_free(model);
}

static void memory_is_told_and_comes_back(void) {
    REQUIRE(reset());
    diffusion_engine_desc desc = on_device(0);
    diffusion_engine *engine = new_engine(&desc);
    uint64_t idle = info_of(engine).memory_used;
    for (int i = 0; i < 2; i++) {
        diffusion_model *model = NULL;
        CHECK_STATUS(diffusion_model_load(engine, model_path(), NULL, &model, NULL), DIFFUSION_OK);
        uint64_t loaded = info_of(engine).memory_used;
        CHECK(loaded > idle);
        diffusion_request *r = new_request_for(model, 1, 0);
        diffusion_session *session = new_session(model);
        diffusion_job_free(run_job(session, r));
        diffusion_engine_info info = info_of(engine);
        CHECK(info.memory_used > loaded && info.memory_peak >= info.memory_used);
        CHECK(get("memory_in_use") >= info.memory_used);
        diffusion_session_free(session);
        CHECK(info_of(engine).memory_used == loaded);
        diffusion_request_free(r);
        diffusion_model_free(model);
        CHECK(info_of(engine).memory_used == idle);
    }
    diffusion_engine_free(engine);
    CHECK(get("memory_in_use") == 0);
}

static void a_job_is_cancelled_while_it_runs(void) {
    REQUIRE(reset());
    diffusion_engine_desc desc = on_device(0);
    diffusion_model *model = load_on(&desc);
    diffusion_session *session = new_session(model);
    diffusion_request *r = new_request_for(model, 500, 0);
    diffusion_job *job = NULL;
    diffusion_progress progress = DIFFUSION_PROGRESS_INIT;
    CHECK_STATUS(diffusion_submit(session, r, &job, NULL), DIFFUSION_OK);
    do {
        sleep_ms(5);
        CHECK_STATUS(diffusion_job_get_progress(job, &progress, NULL), DIFFUSION_OK);
    } while (progress.step < 4 && diffusion_job_status(job) == DIFFUSION_PENDING);
    diffusion_job_cancel(job);
    CHECK_STATUS(diffusion_job_wait(job, -1), DIFFUSION_ERROR_CANCELLED);
    diffusion_job_free(job);

    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_STEPS, 2), DIFFUSION_OK);
    picture after = session_picture(session, r), fresh = generate_picture(model, r);
    CHECK(same_picture(&after, &fresh));
    picture_free(&after);
    picture_free(&fresh);
    diffusion_request_free(r);
    diffusion_session_free(session);
    diffusion_model_free(model);
}

/* The device is full at the n-th allocation of a job, for every few n: the job fails, the session works again after. */
static void device_memory_ends_in_the_middle_of_a_job(void) {
    REQUIRE(reset());
    diffusion_engine_desc desc = on_device(0);
    diffusion_model *model = load_on(&desc);
    diffusion_request *r = new_request_for(model, 1, 7);
    picture expected = generate_picture(model, r);
    int failed = 0;
    for (uint64_t n = 1;; n += quick ? 9 : 3) {
        diffusion_session *session = new_session(model);
        diffusion_job *job = NULL;
        CHECK(set("fail_allocation", n));
        CHECK_STATUS(diffusion_submit(session, r, &job, NULL), DIFFUSION_OK);
        diffusion_status status = diffusion_job_wait(job, -1);
        bool reached = get("fail_allocation") == 0;
        CHECK(set("fail_allocation", 0));
        if (status != DIFFUSION_OK) {
            failed++;
            CHECK_STATUS(status, DIFFUSION_ERROR_DEVICE_OUT_OF_MEMORY);
            check_message(__FILE__, __LINE__, diffusion_error_message(diffusion_job_error(job)), "GPU 0");
        }
        diffusion_job_free(job);
        picture after = session_picture(session, r);
        CHECK(same_picture(&after, &expected));
        picture_free(&after);
        diffusion_session_free(session);
        if (!reached) break;
    }
    CHECK(failed > 0);
    picture_free(&expected);
    diffusion_request_free(r);
    diffusion_model_free(model);
}

static void a_device_too_small_for_the_model(void) {
    REQUIRE(reset());
    diffusion_engine_desc desc = on_device(0);
    diffusion_engine *engine = new_engine(&desc);
    diffusion_model *model = (diffusion_model *)&desc;
    diffusion_error *error = NULL;
    uint64_t idle = info_of(engine).memory_used;
    CHECK(set("memory", get("memory_in_use") + (64 << 10)));
    CHECK_ERROR(diffusion_model_load(engine, model_path(), NULL, &model, &error), error,
                DIFFUSION_ERROR_DEVICE_OUT_OF_MEMORY, "GPU 0");
    CHECK(model == NULL && info_of(engine).memory_used == idle);
    CHECK(set("memory", UINT64_C(1) << 30));
    CHECK_STATUS(diffusion_model_load(engine, model_path(), NULL, &model, NULL), DIFFUSION_OK);
    diffusion_model_free(model);
    diffusion_engine_free(engine);
}

static void the_device_limit_is_kept(void) {
    REQUIRE(reset());
    diffusion_engine_desc desc = on_device(0);
    diffusion_engine *engine = new_engine(&desc);
    diffusion_model *model = NULL;
    CHECK_STATUS(diffusion_model_load(engine, model_path(), NULL, &model, NULL), DIFFUSION_OK);
    uint64_t weights = info_of(engine).memory_used;
    diffusion_model_free(model);
    diffusion_engine_free(engine);

    desc.memory_limit_device = weights + (64 << 10);
    engine = new_engine(&desc);
    model = NULL;
    CHECK_STATUS(diffusion_model_load(engine, model_path(), NULL, &model, NULL), DIFFUSION_OK);
    diffusion_session *session = new_session(model);
    diffusion_request *r = new_request_for(model, 1, 0);
    set_size(r, 128);
    run_to(session, r, DIFFUSION_ERROR_DEVICE_OUT_OF_MEMORY, "limit");
    CHECK(info_of(engine).memory_peak <= desc.memory_limit_device);
    diffusion_request_free(r);
    diffusion_session_free(session);
    diffusion_model_free(model);
    diffusion_engine_free(engine);
}

/* A kernel breaks the context: all on this device is lost, all on another goes on. The stand-in, which forgives, lets a
 * new engine begin anew. */
static void a_lost_device_is_lost_alone(void) {
    REQUIRE(reset());
    diffusion_engine_desc desc = on_device(0), other_desc = on_device(1);
    diffusion_model *model = load_on(&desc), *other = load_on(&other_desc);
    diffusion_session *session = new_session(model), *beside = new_session(model);
    diffusion_request *r = new_request_for(model, 3, 7), *other_r = new_request_for(other, 3, 7);
    picture before = session_picture(session, r);

    CHECK(set("fault_kernel", 20));
    run_to(session, r, DIFFUSION_ERROR_DEVICE_LOST, "");
    run_to(session, r, DIFFUSION_ERROR_DEVICE_LOST, "");
    run_to(beside, r, DIFFUSION_ERROR_DEVICE_LOST, "");
    picture elsewhere = generate_picture(other, other_r);
    CHECK(same_picture(&before, &elsewhere));
    picture_free(&elsewhere);

    diffusion_request_free(r);
    diffusion_session_free(session);
    diffusion_session_free(beside);
    diffusion_model_free(model);
    model = load_on(&desc);
    r = new_request_for(model, 3, 7);
    picture after = generate_picture(model, r);
    CHECK(same_picture(&before, &after));
    picture_free(&before);
    picture_free(&after);
    diffusion_request_free(r);
    diffusion_request_free(other_r);
    diffusion_model_free(model);
    diffusion_model_free(other);
}

/* A host that uses CUDA itself finds its thread as it left it. */
static void the_callers_context_stays_current(void) {
    REQUIRE(reset());
    int (*get_current)(void **), (*set_current)(void *), (*retain)(void **, int), (*release)(int);
    *(void **)&get_current = driver_function("cuCtxGetCurrent");
    *(void **)&set_current = driver_function("cuCtxSetCurrent");
    *(void **)&retain = driver_function("cuDevicePrimaryCtxRetain");
    *(void **)&release = driver_function("cuDevicePrimaryCtxRelease_v2");
    REQUIRE(get_current != NULL && set_current != NULL && retain != NULL && release != NULL);
    void *contexts[2] = {NULL, NULL}, *current;
    CHECK(retain(&contexts[1], 1) == 0); /* of another device than the engine's; and then none at all */
    for (int i = 1; i >= 0; i--) {
        CHECK(set_current(contexts[i]) == 0);
#define STAYS(call)                                                                                                    \
    do {                                                                                                               \
        call;                                                                                                          \
        current = &current;                                                                                            \
        CHECK(get_current(&current) == 0 && current == contexts[i]);                                                   \
    } while (0)
        diffusion_engine_desc desc = on_device(0);
        diffusion_engine *engine = NULL;
        diffusion_model *model = NULL;
        diffusion_session *session = NULL;
        diffusion_request *r = NULL;
        picture p;
        STAYS(engine = new_engine(&desc));
        STAYS(CHECK_STATUS(diffusion_model_load(engine, model_path(), NULL, &model, NULL), DIFFUSION_OK));
        STAYS(session = new_session(model));
        STAYS(r = new_request_for(model, 1, 0));
        STAYS(p = session_picture(session, r));
        picture_free(&p);
        STAYS(diffusion_request_free(r));
        STAYS(diffusion_session_free(session));
        STAYS(diffusion_model_free(model));
        STAYS(diffusion_engine_free(engine));
#undef STAYS
    }
    CHECK(release(1) == 0);
}

/* A host may capture a stream of its own meanwhile: calls on its thread and the library's threads spoil nothing. */
static void the_hosts_capture_goes_on(void) {
    REQUIRE(reset());
    int (*set_current)(void *), (*retain)(void **, int), (*release)(int), (*exchange)(int *);
    int (*stream_new)(void **, unsigned), (*stream_free)(void *), (*begin)(void *, int), (*end)(void *, void **);
    int (*graph_free)(void *);
    *(void **)&set_current = driver_function("cuCtxSetCurrent");
    *(void **)&retain = driver_function("cuDevicePrimaryCtxRetain");
    *(void **)&release = driver_function("cuDevicePrimaryCtxRelease_v2");
    *(void **)&exchange = driver_function("cuThreadExchangeStreamCaptureMode");
    *(void **)&stream_new = driver_function("cuStreamCreate");
    *(void **)&stream_free = driver_function("cuStreamDestroy_v2");
    *(void **)&begin = driver_function("cuStreamBeginCapture_v2");
    *(void **)&end = driver_function("cuStreamEndCapture");
    *(void **)&graph_free = driver_function("cuGraphDestroy");
    REQUIRE(set_current && retain && release && exchange && stream_new && stream_free && begin && end && graph_free);
    enum { NON_BLOCKING = 1, GLOBAL = 0, THREAD_LOCAL = 1, STEPS = 3 };
    void *context = NULL, *stream = NULL, *graph = NULL;
    REQUIRE(retain(&context, 0) == 0 && set_current(context) == 0 && stream_new(&stream, NON_BLOCKING) == 0);
    int mode = THREAD_LOCAL;
    CHECK(exchange(&mode) == 0 && mode == GLOBAL);

    REQUIRE(begin(stream, GLOBAL) == 0);
    diffusion_engine_desc desc = on_device(0);
    diffusion_model *model = load_on(&desc);
    diffusion_session *session = new_session(model);
    diffusion_request *r = new_request_for(model, STEPS, 7);
    picture p = session_picture(session, r);
    picture_free(&p);
    diffusion_request_free(r);
    diffusion_session_free(session);
    diffusion_model_free(model);
    CHECK(end(stream, &graph) == 0 && graph != NULL);

    mode = GLOBAL;
    CHECK(exchange(&mode) == 0 && mode == THREAD_LOCAL); /* as the host had left it */
    CHECK(graph_free(graph) == 0 && stream_free(stream) == 0 && set_current(NULL) == 0 && release(0) == 0);
}

static void sessions_run_side_by_side(void) {
    REQUIRE(reset());
    enum { SESSIONS = 3 };
    diffusion_engine_desc desc = on_device(0);
    diffusion_model *model = load_on(&desc);
    diffusion_session *sessions[SESSIONS];
    diffusion_job *jobs[SESSIONS];
    diffusion_request *r = new_request_for(model, 2, 7);
    picture expected = generate_picture(model, r);
    for (int i = 0; i < SESSIONS; i++) {
        sessions[i] = new_session(model);
        CHECK_STATUS(diffusion_submit(sessions[i], r, &jobs[i], NULL), DIFFUSION_OK);
    }
    diffusion_request_free(r);
    diffusion_model_free(model);
    for (int i = 0; i < SESSIONS; i++) {
        diffusion_session_free(sessions[i]);
        CHECK_STATUS(diffusion_job_wait(jobs[i], -1), DIFFUSION_OK);
        diffusion_image *image = job_image(jobs[i], 0);
        picture p = picture_of(image);
        CHECK(same_picture(&p, &expected));
        picture_free(&p);
        diffusion_image_free(image);
        diffusion_job_free(jobs[i]);
    }
    picture_free(&expected);
    CHECK(get("memory_in_use") == 0);
}

TOPIC(cuda, TEST(devices_are_listed), TEST(a_device_that_does_not_exist), TEST(a_device_that_is_too_old),
      TEST(engine_info_tells_the_gpu), TEST(pictures_are_those_of_the_cpu), TEST(the_same_seed_gives_the_same_bits),
      TEST(memory_is_told_and_comes_back), TEST(a_job_is_cancelled_while_it_runs),
      TEST(device_memory_ends_in_the_middle_of_a_job), TEST(a_device_too_small_for_the_model),
      TEST(the_device_limit_is_kept), TEST(int8_weights_are_refused), TEST(a_lost_device_is_lost_alone), TEST(sessions_run_side_by_side),
      TEST(the_callers_context_stays_current), TEST(the_hosts_capture_goes_on));
