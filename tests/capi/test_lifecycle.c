/* Handles freed in every order, with work finished and under way. */
#include "check.h"
#include "support.h"

enum { ENGINE, MODEL, SESSION, REQUEST, JOB, HANDLES };

typedef struct chain {
    diffusion_engine *engine;
    diffusion_model *model;
    diffusion_session *session;
    diffusion_request *request;
    diffusion_job *job;
} chain;

static chain chain_new(uint32_t steps) {
    chain c = {engine_with_threads(1), NULL, NULL, NULL, NULL};
    CHECK_STATUS(diffusion_model_load(c.engine, model_path(), NULL, &c.model, NULL), DIFFUSION_OK);
    c.session = new_session(c.model);
    c.request = new_request_for(c.model, steps, 0);
    CHECK_STATUS(diffusion_submit(c.session, c.request, &c.job, NULL), DIFFUSION_OK);
    return c;
}

static void chain_free_one(chain *c, int which) {
    switch (which) {
    case ENGINE: diffusion_engine_free(c->engine); break;
    case MODEL: diffusion_model_free(c->model); break;
    case SESSION: diffusion_session_free(c->session); break;
    case REQUEST: diffusion_request_free(c->request); break;
    default: diffusion_job_free(c->job); break;
    }
}

/* The `number`-th of the 120 orders of five things. */
static void order_of(int number, int *order) {
    int left[HANDLES] = {ENGINE, MODEL, SESSION, REQUEST, JOB};
    for (int i = HANDLES; i > 0; i--) {
        int pick = number % i;
        number /= i;
        order[HANDLES - i] = left[pick];
        left[pick] = left[i - 1];
    }
}

static void every_order(uint32_t steps, bool wait) {
    /* All 120 take seconds; under valgrind a few that begin and end differently. */
    for (int number = 0; number < 120; number += quick ? 41 : 1) {
        int order[HANDLES];
        chain c = chain_new(steps);
        order_of(number, order);
        if (wait) CHECK_STATUS(diffusion_job_wait(c.job, -1), DIFFUSION_OK);
        for (int i = 0; i < HANDLES; i++) chain_free_one(&c, order[i]);
    }
}

static void handles_of_a_finished_job_in_every_order(void) { every_order(1, true); }

static void handles_of_a_running_job_in_every_order(void) { every_order(1000, false); }

static void a_job_works_when_all_else_is_freed(void) {
    chain c = chain_new(2);
    for (int i = ENGINE; i < JOB; i++) chain_free_one(&c, i);
    CHECK_STATUS(diffusion_job_wait(c.job, -1), DIFFUSION_OK);
    diffusion_image *image = job_image(c.job, 0);
    chain_free_one(&c, JOB);
    CHECK(diffusion_image_pixels(image) != NULL);
    CHECK(diffusion_image_metadata(image) != NULL);
    diffusion_image_free(image);
}

static void a_request_for_another_model_is_refused(void) {
    diffusion_engine *engine = engine_with_threads(1);
    diffusion_model *model = NULL;
    CHECK_STATUS(diffusion_model_load(engine, model_path(), NULL, &model, NULL), DIFFUSION_OK);
    diffusion_request *request = new_request_for(model, 1, 0);
    diffusion_model_free(model); /* the request keeps it */
    diffusion_engine_free(engine);
    diffusion_session *session = new_session(shared_model());
    diffusion_job *job = (diffusion_job *)&session;
    diffusion_error *error = NULL;
    CHECK_ERROR(diffusion_submit(session, request, &job, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT,
                "another model");
    CHECK(job == NULL);
    diffusion_session_free(session);
    diffusion_request_free(request);
}

static void memory_comes_back(void) {
    diffusion_engine *engine = engine_with_threads(1);
    diffusion_engine_info info = DIFFUSION_ENGINE_INFO_INIT;
    uint64_t loaded = 0;
    for (int i = 0; i < 3; i++) {
        diffusion_model *model = NULL;
        CHECK_STATUS(diffusion_model_load(engine, model_path(), NULL, &model, NULL), DIFFUSION_OK);
        CHECK_STATUS(diffusion_engine_get_info(engine, &info, NULL), DIFFUSION_OK);
        CHECK(i == 0 || info.memory_used == loaded);
        loaded = info.memory_used;
        diffusion_request *r = new_request_for(model, 1, 0);
        picture p = generate_picture(model, r);
        picture_free(&p);
        diffusion_request_free(r);
        diffusion_model_free(model);
        CHECK_STATUS(diffusion_engine_get_info(engine, &info, NULL), DIFFUSION_OK);
        CHECK(info.memory_used == 0);
    }
    diffusion_engine_free(engine);
}

TOPIC(lifecycle, TEST(handles_of_a_finished_job_in_every_order), TEST(handles_of_a_running_job_in_every_order),
      TEST(a_job_works_when_all_else_is_freed), TEST(a_request_for_another_model_is_refused),
      TEST(memory_comes_back));
