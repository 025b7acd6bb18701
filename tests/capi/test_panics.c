/* A panic inside the library, planted through diffusion_x_inject_panic: an INTERNAL error, one session lost, the rest
 * unharmed. Needs a library built with the feature fault-injection. */
#define DIFFUSION_EXPERIMENTAL
#include "check.h"
#include "support.h"

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

static void a_panic_does_not_leave_waiting_jobs_behind(void) {
    diffusion_session *session = new_session(shared_model());
    diffusion_request *r = new_request(2, 1);
    diffusion_job *jobs[3] = {NULL, NULL, NULL};
    diffusion_request *slow = new_request(200, 0);
    diffusion_job *first = NULL;
    CHECK_STATUS(diffusion_submit(session, slow, &first, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_x_inject_panic(session, 0), DIFFUSION_OK);
    for (int i = 0; i < 3; i++) CHECK_STATUS(diffusion_submit(session, r, &jobs[i], NULL), DIFFUSION_OK);
    diffusion_job_cancel(first);
    int internal = 0;
    for (int i = 0; i < 3; i++) {
        diffusion_status status = diffusion_job_wait(jobs[i], -1); /* returns: that is the test */
        internal += status == DIFFUSION_ERROR_INTERNAL;
        CHECK(status == DIFFUSION_ERROR_INTERNAL || status == DIFFUSION_ERROR_INVALID_STATE ||
              status == DIFFUSION_OK);
    }
    if (diffusion_job_wait(first, -1) == DIFFUSION_ERROR_INTERNAL) internal++;
    CHECK(internal == 1);
    for (int i = 0; i < 3; i++) diffusion_job_free(jobs[i]);
    diffusion_job_free(first);
    diffusion_request_free(slow);
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
