/* Submitting, polling, waiting, cancelling. */
#include "check.h"
#include "support.h"
#include <stdlib.h>

static diffusion_progress progress_of(const diffusion_job *job) {
    diffusion_progress p = DIFFUSION_PROGRESS_INIT;
    CHECK_STATUS(diffusion_job_get_progress(job, &p, NULL), DIFFUSION_OK);
    return p;
}

/* Submits a job that takes far longer than any test. */
static diffusion_job *submit_long(diffusion_session *session) {
    diffusion_request *r = new_request(1000, 0);
    diffusion_job *job = NULL;
    if (!quick) set_size(r, 0);
    CHECK_STATUS(diffusion_submit(session, r, &job, NULL), DIFFUSION_OK);
    diffusion_request_free(r); /* the job has taken its own copy */
    return job;
}

static void wait_until_step(diffusion_job *job, uint32_t step) {
    while (diffusion_job_status(job) == DIFFUSION_PENDING && progress_of(job).step < step) sleep_ms(1);
    CHECK_STATUS(diffusion_job_status(job), DIFFUSION_PENDING);
}

static void progress_only_goes_forward(void) {
    diffusion_session *session = new_session(shared_model());
    diffusion_request *r = new_request(5, 0);
    diffusion_job *job = NULL;
    CHECK_STATUS(diffusion_submit(session, r, &job, NULL), DIFFUSION_OK);
    diffusion_progress last = progress_of(job);
    diffusion_status status;
    while ((status = diffusion_job_wait(job, 1)) == DIFFUSION_PENDING) {
        diffusion_progress now = progress_of(job);
        CHECK(now.stage >= last.stage && now.step >= last.step && now.elapsed_ns >= last.elapsed_ns);
        CHECK(now.step <= now.steps && now.steps <= 5);
        last = now;
    }
    CHECK_STATUS(status, DIFFUSION_OK);
    last = progress_of(job);
    CHECK(last.stage == DIFFUSION_STAGE_FINISHED && last.step == 5 && last.steps == 5);
    uint64_t elapsed = last.elapsed_ns;
    sleep_ms(2);
    CHECK(progress_of(job).elapsed_ns == elapsed); /* the clock stops with the job */
    diffusion_job_free(job);
    diffusion_request_free(r);
    diffusion_session_free(session);
}

static void the_result_adds_up(void) {
    diffusion_session *session = new_session(shared_model());
    diffusion_request *r = new_request(3, 42);
    diffusion_request_set_string(r, DIFFUSION_OPTION_NEGATIVE_PROMPT, "a blue fish");
    diffusion_job *job = run_job(session, r);
    diffusion_result result = job_result(job);
    CHECK(result.image_count == 1 && result.width == SIDE && result.height == SIDE);
    CHECK(result.steps == 3 && result.seed == 42 && result.sampler == DIFFUSION_SAMPLER_DDIM);
    CHECK(result.prompt_tokens == 3 && result.negative_tokens == 3);
    CHECK(result.text_ns > 0 && result.denoise_ns > 0 && result.decode_ns > 0);
    CHECK(result.total_ns >= result.text_ns + result.denoise_ns + result.decode_ns);
    CHECK_STATUS(diffusion_job_status(job), DIFFUSION_OK);
    CHECK_STATUS(diffusion_job_wait(job, 0), DIFFUSION_OK);
    CHECK_STATUS(diffusion_job_wait(job, -1), DIFFUSION_OK);
    CHECK(diffusion_job_error(job) == NULL);
    diffusion_job_cancel(job); /* too late: nothing changes */
    CHECK_STATUS(diffusion_job_status(job), DIFFUSION_OK);

    diffusion_image *image = job_image(job, 0), *again = job_image(job, 0);
    CHECK(image != NULL && again != NULL);
    diffusion_image_free(image);
    CHECK(diffusion_image_pixels(again) != NULL); /* two handles, one picture */
    diffusion_image_free(again);
    diffusion_error *error = NULL;
    image = (diffusion_image *)&job;
    CHECK_ERROR(diffusion_job_take_image(job, 1, &image, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "1");
    CHECK(image == NULL);
    diffusion_job_free(job);
    diffusion_request_free(r);
    diffusion_session_free(session);
}

static void an_unfinished_job_has_no_result(void) {
    diffusion_session *session = new_session(shared_model());
    diffusion_job *job = submit_long(session);
    diffusion_error *error = NULL;
    diffusion_result result = DIFFUSION_RESULT_INIT;
    diffusion_image *image = (diffusion_image *)&job;
    float value;
    CHECK_STATUS(diffusion_job_wait(job, 0), DIFFUSION_PENDING);
    CHECK_STATUS(diffusion_job_wait(job, 5), DIFFUSION_PENDING);
    CHECK_STATUS(diffusion_job_status(job), DIFFUSION_PENDING);
    CHECK(diffusion_job_error(job) == NULL);
    CHECK_ERROR(diffusion_job_get_result(job, &result, &error), error, DIFFUSION_ERROR_INVALID_STATE, "");
    CHECK_ERROR(diffusion_job_take_image(job, 0, &image, &error), error, DIFFUSION_ERROR_INVALID_STATE, "");
    CHECK(image == NULL);
    CHECK_ERROR(diffusion_job_copy_latents(job, 0, &value, 1, &error), error, DIFFUSION_ERROR_INVALID_STATE, "");
    diffusion_job_free(job);
    diffusion_session_free(session);
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void a_cancelled_job_says_so_and_soon(void) {
    enum { ROUNDS = 9 };
    double latency[ROUNDS];
    int rounds = quick ? 1 : ROUNDS;
    diffusion_session *session = new_session(shared_model());
    for (int i = 0; i < rounds; i++) {
        diffusion_job *job = submit_long(session);
        wait_until_step(job, 1);
        double start = now_ms();
        diffusion_job_cancel(job);
        CHECK_STATUS(diffusion_job_wait(job, -1), DIFFUSION_ERROR_CANCELLED);
        latency[i] = now_ms() - start;
        CHECK_STATUS(diffusion_job_status(job), DIFFUSION_ERROR_CANCELLED);
        const diffusion_error *error = diffusion_job_error(job);
        CHECK(diffusion_error_status(error) == DIFFUSION_ERROR_CANCELLED);
        check_message(__FILE__, __LINE__, diffusion_error_message(error), "cancel");
        diffusion_image *image = (diffusion_image *)&job;
        diffusion_error *taken = NULL;
        CHECK_ERROR(diffusion_job_take_image(job, 0, &image, &taken), taken, DIFFUSION_ERROR_CANCELLED, "");
        CHECK(image == NULL); /* never a partial image */
        diffusion_job_free(job);
    }
    qsort(latency, (size_t)rounds, sizeof latency[0], compare_doubles);
    printf("       cancel returned after %.1f ms (median of %d), %.1f ms at worst\n", latency[rounds / 2], rounds,
           latency[rounds - 1]);

    /* The session is as good as new. */
    diffusion_request *r = new_request(1, 0);
    diffusion_job_free(run_job(session, r));
    diffusion_request_free(r);
    diffusion_session_free(session);
}

static void a_job_cancelled_while_it_waits_never_runs(void) {
    diffusion_session *session = new_session(shared_model());
    diffusion_job *running = submit_long(session), *waiting = submit_long(session);
    wait_until_step(running, 1);
    CHECK(progress_of(waiting).stage == DIFFUSION_STAGE_QUEUED);
    diffusion_job_cancel(waiting);
    CHECK_STATUS(diffusion_job_wait(waiting, -1), DIFFUSION_ERROR_CANCELLED);
    CHECK_STATUS(diffusion_job_status(running), DIFFUSION_PENDING); /* did not have to end first */
    diffusion_job_free(waiting);
    diffusion_job_free(running);
    diffusion_session_free(session);
}

static void jobs_of_a_session_run_in_order(void) {
    diffusion_session *session = new_session(shared_model());
    diffusion_request *r = new_request(2, 0);
    diffusion_job *jobs[3] = {NULL, NULL, NULL};
    for (int i = 0; i < 3; i++) CHECK_STATUS(diffusion_submit(session, r, &jobs[i], NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_job_wait(jobs[2], -1), DIFFUSION_OK);
    CHECK_STATUS(diffusion_job_status(jobs[0]), DIFFUSION_OK);
    CHECK_STATUS(diffusion_job_status(jobs[1]), DIFFUSION_OK);
    for (int i = 0; i < 3; i++) diffusion_job_free(jobs[i]);
    diffusion_request_free(r);
    diffusion_session_free(session);
}

static void a_full_queue_is_busy(void) {
    diffusion_session_desc desc = DIFFUSION_SESSION_DESC_INIT;
    diffusion_session *session = NULL;
    diffusion_error *error = NULL;
    desc.queue_limit = 2;
    CHECK_STATUS(diffusion_session_new(shared_model(), &desc, &session, NULL), DIFFUSION_OK);
    diffusion_job *running = submit_long(session);
    wait_until_step(running, 1);
    diffusion_job *first = submit_long(session), *second = submit_long(session);
    diffusion_job *third = (diffusion_job *)&desc;
    diffusion_request *r = new_request(1, 0);
    CHECK_ERROR(diffusion_submit(session, r, &third, &error), error, DIFFUSION_ERROR_BUSY, "2");
    CHECK(third == NULL);
    diffusion_job_free(first); /* makes room */
    CHECK_STATUS(diffusion_submit(session, r, &third, NULL), DIFFUSION_OK);
    diffusion_job_free(running);
    diffusion_job_free(second);
    CHECK_STATUS(diffusion_job_wait(third, -1), DIFFUSION_OK);
    diffusion_job_free(third);
    diffusion_request_free(r);
    diffusion_session_free(session);
}

static void changing_the_request_does_not_change_the_job(void) {
    diffusion_session *session = new_session(shared_model());
    diffusion_request *r = new_request(3, 1);
    diffusion_job *job = NULL;
    CHECK_STATUS(diffusion_submit(session, r, &job, NULL), DIFFUSION_OK);
    diffusion_request_set_int(r, DIFFUSION_OPTION_SEED, 2);
    diffusion_request_set_int(r, DIFFUSION_OPTION_STEPS, 1);
    CHECK_STATUS(diffusion_job_wait(job, -1), DIFFUSION_OK);
    diffusion_result result = job_result(job);
    CHECK(result.seed == 1 && result.steps == 3);
    diffusion_job_free(job);
    diffusion_request_free(r);
    diffusion_session_free(session);
}

static void generate_gives_what_submit_gives(void) {
    diffusion_session *session = new_session(shared_model());
    diffusion_request *r = new_request(2, 11);
    picture generated = generate_picture(shared_model(), r);
    diffusion_job *job = run_job(session, r);
    diffusion_image *image = job_image(job, 0);
    picture submitted = picture_of(image);
    CHECK(same_picture(&generated, &submitted));
    picture_free(&generated);
    picture_free(&submitted);
    diffusion_image_free(image);
    diffusion_job_free(job);
    diffusion_request_free(r);
    diffusion_session_free(session);
}

TOPIC(jobs, TEST(progress_only_goes_forward), TEST(the_result_adds_up), TEST(an_unfinished_job_has_no_result),
      TEST(a_cancelled_job_says_so_and_soon), TEST(a_job_cancelled_while_it_waits_never_runs),
      TEST(jobs_of_a_session_run_in_order), TEST(a_full_queue_is_busy),
      TEST(changing_the_request_does_not_change_the_job), TEST(generate_gives_what_submit_gives));
