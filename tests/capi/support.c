#define _POSIX_C_SOURCE 200809L /* clock_gettime, nanosleep */

#include "support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static diffusion_engine *engine = NULL;
static diffusion_model *model = NULL;

const char *model_path(void) {
    const char *path = getenv("DIFFUSION_TEST_MODEL");
    return path != NULL ? path : "models/emoji-64";
}

diffusion_engine *engine_with_threads(uint32_t threads) {
    diffusion_engine_desc desc = DIFFUSION_ENGINE_DESC_INIT;
    diffusion_engine *made = NULL;
    desc.device = DIFFUSION_DEVICE_CPU;
    desc.threads = threads;
    CHECK_STATUS(diffusion_engine_new(&desc, &made, NULL), DIFFUSION_OK);
    return made;
}

diffusion_engine *shared_engine(void) {
    if (engine == NULL) engine = engine_with_threads(1);
    return engine;
}

diffusion_model *shared_model(void) {
    if (model == NULL) {
        diffusion_error *error = NULL;
        CHECK_STATUS(diffusion_model_load(shared_engine(), model_path(), NULL, &model, &error), DIFFUSION_OK);
        if (error != NULL) fprintf(stderr, "  %s\n", diffusion_error_message(error));
        diffusion_error_free(error);
    }
    return model;
}

void support_shutdown(void) {
    diffusion_model_free(model);
    diffusion_engine_free(engine);
    model = NULL;
    engine = NULL;
}

diffusion_request *new_request_for(diffusion_model *of, uint32_t steps, uint64_t seed) {
    diffusion_request *request = NULL;
    CHECK_STATUS(diffusion_request_new(of, &request, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_string(request, DIFFUSION_OPTION_PROMPT, "a red apple"), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_float(request, DIFFUSION_OPTION_GUIDANCE_SCALE, 2.5), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_int(request, DIFFUSION_OPTION_STEPS, steps), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_int(request, DIFFUSION_OPTION_SEED, (int64_t)seed), DIFFUSION_OK);
    set_size(request, SIDE);
    return request;
}

void set_size(diffusion_request *request, uint32_t side) {
    CHECK_STATUS(diffusion_request_set_int(request, DIFFUSION_OPTION_WIDTH, side), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_int(request, DIFFUSION_OPTION_HEIGHT, side), DIFFUSION_OK);
}

diffusion_request *new_request(uint32_t steps, uint64_t seed) { return new_request_for(shared_model(), steps, seed); }

diffusion_session *new_session(diffusion_model *of) {
    diffusion_session *session = NULL;
    CHECK_STATUS(diffusion_session_new(of, NULL, &session, NULL), DIFFUSION_OK);
    return session;
}

diffusion_job *run_job(diffusion_session *session, const diffusion_request *request) {
    diffusion_job *job = NULL;
    diffusion_error *error = NULL;
    CHECK_STATUS(diffusion_submit(session, request, &job, &error), DIFFUSION_OK);
    if (error != NULL) fprintf(stderr, "  %s\n", diffusion_error_message(error));
    diffusion_error_free(error);
    diffusion_status status = diffusion_job_wait(job, -1);
    CHECK_STATUS(status, DIFFUSION_OK);
    if (status == DIFFUSION_OK) return job;
    fprintf(stderr, "  %s\n", diffusion_error_message(diffusion_job_error(job)));
    diffusion_job_free(job);
    return NULL;
}

diffusion_image *job_image(diffusion_job *job, uint32_t index) {
    diffusion_image *image = NULL;
    CHECK_STATUS(diffusion_job_take_image(job, index, &image, NULL), DIFFUSION_OK);
    return image;
}

diffusion_result job_result(const diffusion_job *job) {
    diffusion_result result = DIFFUSION_RESULT_INIT;
    CHECK_STATUS(diffusion_job_get_result(job, &result, NULL), DIFFUSION_OK);
    return result;
}

picture picture_of(diffusion_image *image) {
    picture p = {0, 0, NULL};
    diffusion_image_info info = DIFFUSION_IMAGE_INFO_INIT;
    diffusion_status status = diffusion_image_get_info(image, &info, NULL);
    CHECK_STATUS(status, DIFFUSION_OK);
    if (status != DIFFUSION_OK) return p;
    size_t bytes = (size_t)info.width * info.height * 3 * sizeof(float);
    p.width = info.width;
    p.height = info.height;
    p.rgb = malloc(bytes);
    CHECK(p.rgb != NULL);
    CHECK_STATUS(diffusion_image_copy(image, p.rgb, bytes, 0, DIFFUSION_FORMAT_RGBF32, 0, NULL), DIFFUSION_OK);
    return p;
}

picture generate_picture(diffusion_model *of, const diffusion_request *request) {
    diffusion_session *session = new_session(of);
    diffusion_image *image = NULL;
    CHECK_STATUS(diffusion_generate(session, request, &image, NULL), DIFFUSION_OK);
    picture p = picture_of(image);
    diffusion_image_free(image);
    diffusion_session_free(session);
    return p;
}

bool same_picture(const picture *a, const picture *b) {
    return a->rgb != NULL && b->rgb != NULL && a->width == b->width && a->height == b->height &&
           memcmp(a->rgb, b->rgb, (size_t)a->width * a->height * 3 * sizeof(float)) == 0;
}

double psnr(const picture *a, const picture *b) {
    if (a->rgb == NULL || b->rgb == NULL || a->width != b->width || a->height != b->height) return 0;
    size_t count = (size_t)a->width * a->height * 3;
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        double difference = (double)a->rgb[i] - (double)b->rgb[i];
        sum += difference * difference;
    }
    double decibels = -10 * log10(sum / (double)count);
    return decibels > 0 ? decibels : 0;
}

void picture_free(picture *p) {
    free(p->rgb);
    p->rgb = NULL;
}

double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

void sleep_ms(long ms) {
    struct timespec t = {ms / 1000, (ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}
