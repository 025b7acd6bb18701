/* The same bits whatever runs beside: threads of an engine, places in a batch, two sessions at once. */
#include "check.h"
#include "support.h"
#include <pthread.h>
#include <string.h>

static void one_thread_and_two_give_the_same_bits(void) {
    picture pictures[2];
    for (uint32_t i = 0; i < 2; i++) {
        diffusion_engine *engine = engine_with_threads(i + 1);
        diffusion_model *model = NULL;
        CHECK_STATUS(diffusion_model_load(engine, model_path(), NULL, &model, NULL), DIFFUSION_OK);
        diffusion_request *r = new_request_for(model, 3, 1);
        set_size(r, 0);
        pictures[i] = generate_picture(model, r);
        diffusion_request_free(r);
        diffusion_model_free(model);
        diffusion_engine_free(engine);
    }
    CHECK(same_picture(&pictures[0], &pictures[1]));
    picture_free(&pictures[0]);
    picture_free(&pictures[1]);
}

static void the_seed_decides(void) {
    diffusion_request *r = new_request(2, 1);
    picture first = generate_picture(shared_model(), r), again = generate_picture(shared_model(), r);
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_SEED, 2), DIFFUSION_OK);
    picture other = generate_picture(shared_model(), r);
    CHECK(same_picture(&first, &again));
    CHECK(other.rgb != NULL && !same_picture(&first, &other));
    picture_free(&first);
    picture_free(&again);
    picture_free(&other);
    diffusion_request_free(r);
}

static void a_batch_gives_the_images_of_single_requests(void) {
    enum { BATCH = 3 };
    const uint64_t seed = UINT64_MAX - 1; /* seed + i wraps around */
    diffusion_session *session = new_session(shared_model());
    diffusion_request *r = new_request(2, seed);
    set_size(r, 0);
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_BATCH_SIZE, BATCH), DIFFUSION_OK);
    diffusion_job *job = run_job(session, r);
    CHECK(job_result(job).image_count == BATCH);
    for (uint32_t i = 0; i < BATCH; i++) {
        diffusion_image *image = job_image(job, i);
        picture batched = picture_of(image);
        diffusion_request *single = new_request(2, seed + i);
        set_size(single, 0);
        picture alone = generate_picture(shared_model(), single);
        CHECK(same_picture(&batched, &alone));
        picture_free(&batched);
        picture_free(&alone);
        diffusion_request_free(single);
        diffusion_image_free(image);
    }
    diffusion_job_free(job);
    diffusion_request_free(r);
    diffusion_session_free(session);
}

enum { PER_THREAD = 3 };

typedef struct worker {
    pthread_t thread;
    diffusion_session *session;
    uint64_t seed;
    picture pictures[PER_THREAD];
    int failures;
} worker;

/* Runs on a thread of its own: counts failures itself, since check_failures is not for two threads. */
static void *work(void *argument) {
    worker *w = argument;
    for (int i = 0; i < PER_THREAD; i++) {
        diffusion_request *r = NULL;
        diffusion_image *image = NULL;
        w->failures += diffusion_request_new(shared_model(), &r, NULL) != DIFFUSION_OK;
        diffusion_request_set_string(r, DIFFUSION_OPTION_PROMPT, "a red apple");
        diffusion_request_set_float(r, DIFFUSION_OPTION_GUIDANCE_SCALE, 2.5);
        diffusion_request_set_int(r, DIFFUSION_OPTION_STEPS, 2);
        diffusion_request_set_int(r, DIFFUSION_OPTION_SEED, (int64_t)(w->seed + (uint64_t)i));
        w->failures += diffusion_generate(w->session, r, &image, NULL) != DIFFUSION_OK;
        w->pictures[i] = picture_of(image);
        diffusion_image_free(image);
        diffusion_request_free(r);
    }
    return NULL;
}

/* Two threads, each with the session it is given (which may be the same one), against the pictures made alone. */
static void two_threads_with(diffusion_session *first, diffusion_session *second) {
    worker workers[2];
    memset(workers, 0, sizeof workers);
    for (int i = 0; i < 2; i++) {
        workers[i].session = i == 0 ? first : second;
        workers[i].seed = (uint64_t)(100 * i);
        REQUIRE(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
    }
    for (int i = 0; i < 2; i++) CHECK(pthread_join(workers[i].thread, NULL) == 0);
    for (int i = 0; i < 2; i++) {
        CHECK(workers[i].failures == 0);
        for (int k = 0; k < PER_THREAD; k++) {
            diffusion_request *r = new_request(2, workers[i].seed + (uint64_t)k);
            set_size(r, 0);
            picture alone = generate_picture(shared_model(), r);
            CHECK(same_picture(&alone, &workers[i].pictures[k]));
            picture_free(&alone);
            picture_free(&workers[i].pictures[k]);
            diffusion_request_free(r);
        }
    }
}

static void two_sessions_at_once_give_what_each_gives_alone(void) {
    diffusion_session *first = new_session(shared_model()), *second = new_session(shared_model());
    two_threads_with(first, second);
    diffusion_session_free(first);
    diffusion_session_free(second);
}

static void two_threads_may_share_a_session(void) {
    diffusion_session *session = new_session(shared_model());
    two_threads_with(session, session);
    diffusion_session_free(session);
}

static void *cancel_soon(void *job) {
    sleep_ms(5);
    diffusion_job_cancel(job);
    return NULL;
}

static void another_thread_may_cancel_while_one_waits(void) {
    diffusion_session *session = new_session(shared_model());
    diffusion_request *r = new_request(1000, 0);
    diffusion_job *job = NULL;
    pthread_t thread;
    CHECK_STATUS(diffusion_submit(session, r, &job, NULL), DIFFUSION_OK);
    REQUIRE(pthread_create(&thread, NULL, cancel_soon, job) == 0);
    CHECK_STATUS(diffusion_job_wait(job, -1), DIFFUSION_ERROR_CANCELLED);
    CHECK(pthread_join(thread, NULL) == 0);
    diffusion_job_free(job);
    diffusion_request_free(r);
    diffusion_session_free(session);
}

TOPIC(threads, TEST(one_thread_and_two_give_the_same_bits), TEST(the_seed_decides),
      TEST(a_batch_gives_the_images_of_single_requests), TEST(two_sessions_at_once_give_what_each_gives_alone),
      TEST(two_threads_may_share_a_session), TEST(another_thread_may_cancel_while_one_waits));
