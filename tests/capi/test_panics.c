/* A panic inside the library, planted through diffusion_x_inject_panic: an INTERNAL error, one session lost, the rest
 * unharmed. Needs a library built with the feature fault-injection. */
#define DIFFUSION_EXPERIMENTAL
#include "check.h"
#include "support.h"
#include <pthread.h>

#ifdef DIFFUSION_FAULT_INJECTION

static void a_panic_is_an_internal_error_of_one_session(int32_t compute) {
    diffusion_session *struck = new_session(shared_model()), *other = new_session(shared_model());
    diffusion_request *r = new_request(2, 1);
    picture before = generate_picture(shared_model(), r);
    diffusion_job *job = NULL;
    diffusion_image *image = (diffusion_image *)&job;
    diffusion_error *error = NULL;

    CHECK_STATUS(diffusion_x_inject_panic(struck, compute), DIFFUSION_OK);
    CHECK_STATUS(diffusion_submit(struck, r, &job, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_job_wait(job, -1), DIFFUSION_ERROR_INTERNAL);
    CHECK(diffusion_error_status(diffusion_job_error(job)) == DIFFUSION_ERROR_INTERNAL);
    /* Where in the source, for the bug report. */
    check_message(__FILE__, __LINE__, diffusion_error_message(diffusion_job_error(job)), ".rs:");
    CHECK_ERROR(diffusion_job_take_image(job, 0, &image, &error), error, DIFFUSION_ERROR_INTERNAL, "");
    CHECK(image == NULL);
    diffusion_job_free(job);

    job = (diffusion_job *)&job;
    CHECK_ERROR(diffusion_submit(struck, r, &job, &error), error, DIFFUSION_ERROR_INVALID_STATE, "");
    CHECK(job == NULL);

    /* The other session, the model and the engine go on, with the same bits. */
    job = run_job(other, r);
    image = job_image(job, 0);
    picture after = picture_of(image);
    CHECK(same_picture(&before, &after));
    picture_free(&before);
    picture_free(&after);
    diffusion_image_free(image);
    diffusion_job_free(job);
    diffusion_request_free(r);
    diffusion_session_free(struck);
    diffusion_session_free(other);
}

static void a_panic_in_the_sessions_thread_is_an_error_of_one_session(void) {
    a_panic_is_an_internal_error_of_one_session(0);
}

static void a_panic_in_a_computing_thread_is_an_error_of_one_session(void) {
    a_panic_is_an_internal_error_of_one_session(1);
}

/* Where a job's first progress waits, so that what is submitted meanwhile waits behind it. */
typedef struct gate {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int reached, open;
} gate;

static int32_t wait_at(const diffusion_progress *progress, void *user_data) {
    gate *g = user_data;
    (void)progress;
    pthread_mutex_lock(&g->mutex);
    g->reached = 1;
    pthread_cond_broadcast(&g->changed);
    while (!g->open) pthread_cond_wait(&g->changed, &g->mutex);
    pthread_mutex_unlock(&g->mutex);
    return 1; /* cancels the job */
}

static void a_panic_does_not_leave_waiting_jobs_behind(void) {
    gate g = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0};
    diffusion_session *session = new_session(shared_model());
    diffusion_request *r = new_request(2, 1), *held = new_request(2, 0);
    diffusion_job *jobs[3] = {NULL, NULL, NULL}, *first = NULL;
    CHECK_STATUS(diffusion_request_set_progress_callback(held, wait_at, &g), DIFFUSION_OK);
    CHECK_STATUS(diffusion_submit(session, held, &first, NULL), DIFFUSION_OK);
    pthread_mutex_lock(&g.mutex);
    while (!g.reached) pthread_cond_wait(&g.changed, &g.mutex);
    pthread_mutex_unlock(&g.mutex);
    CHECK_STATUS(diffusion_x_inject_panic(session, 0), DIFFUSION_OK);
    for (int i = 0; i < 3; i++) CHECK_STATUS(diffusion_submit(session, r, &jobs[i], NULL), DIFFUSION_OK);
    pthread_mutex_lock(&g.mutex);
    g.open = 1;
    pthread_cond_broadcast(&g.changed);
    pthread_mutex_unlock(&g.mutex);
    CHECK_STATUS(diffusion_job_wait(first, -1), DIFFUSION_ERROR_CANCELLED);
    CHECK_STATUS(diffusion_job_wait(jobs[0], -1), DIFFUSION_ERROR_INTERNAL);
    for (int i = 1; i < 3; i++) CHECK_STATUS(diffusion_job_wait(jobs[i], -1), DIFFUSION_ERROR_INVALID_STATE);
    for (int i = 0; i < 3; i++) diffusion_job_free(jobs[i]);
    diffusion_job_free(first);
    diffusion_request_free(held);
    diffusion_request_free(r);
    diffusion_session_free(session);
}

static void injecting_into_null_is_refused(void) {
    CHECK_STATUS(diffusion_x_inject_panic(NULL, 0), DIFFUSION_ERROR_INVALID_ARGUMENT);
}

TOPIC(panics, TEST(a_panic_in_the_sessions_thread_is_an_error_of_one_session),
      TEST(a_panic_in_a_computing_thread_is_an_error_of_one_session),
      TEST(a_panic_does_not_leave_waiting_jobs_behind), TEST(injecting_into_null_is_refused));

#else

static void the_library_was_built_with_fault_injection(void) { CHECK(!"run.sh panics builds this topic"); }

TOPIC(panics, TEST(the_library_was_built_with_fault_injection));

#endif
