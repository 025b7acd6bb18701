/* Callbacks: progress that may cancel, a log for each engine. */
#include "check.h"
#include "support.h"
#include <string.h>

typedef struct steps_seen {
    int calls;
    uint32_t last_step;
    diffusion_stage last_stage;
    uint32_t cancel_at; /* 0 = never */
    int backwards;
} steps_seen;

static int32_t see_step(const diffusion_progress *progress, void *user_data) {
    steps_seen *seen = user_data;
    seen->calls++;
    seen->backwards += progress->step < seen->last_step || progress->stage < seen->last_stage ||
                       progress->struct_size != sizeof *progress;
    seen->last_step = progress->step;
    seen->last_stage = progress->stage;
    return seen->cancel_at != 0 && progress->step >= seen->cancel_at;
}

static void progress_is_told_step_by_step(void) {
    diffusion_session *session = new_session(shared_model());
    diffusion_request *r = new_request(4, 0);
    steps_seen seen = {0, 0, 0, 0, 0};
    CHECK_STATUS(diffusion_request_set_progress_callback(r, see_step, &seen), DIFFUSION_OK);
    diffusion_job_free(run_job(session, r));
    CHECK(seen.calls >= 4 && seen.last_step == 4 && seen.backwards == 0);

    steps_seen none = seen;
    CHECK_STATUS(diffusion_request_set_progress_callback(r, NULL, NULL), DIFFUSION_OK);
    diffusion_job_free(run_job(session, r));
    CHECK(seen.calls == none.calls);
    diffusion_request_free(r);
    diffusion_session_free(session);
}

static void a_callback_may_cancel(void) {
    diffusion_session *session = new_session(shared_model());
    diffusion_request *r = new_request(1000, 0);
    steps_seen seen = {0, 0, 0, 2, 0};
    diffusion_image *image = (diffusion_image *)&seen;
    diffusion_error *error = NULL;
    CHECK_STATUS(diffusion_request_set_progress_callback(r, see_step, &seen), DIFFUSION_OK);
    CHECK_ERROR(diffusion_generate(session, r, &image, &error), error, DIFFUSION_ERROR_CANCELLED, "cancel");
    CHECK(image == NULL);
    CHECK(seen.last_step == 2); /* not one step further */
    diffusion_request_free(r);
    diffusion_session_free(session);
}

static void after_free_no_callback_runs(void) {
    diffusion_session *session = new_session(shared_model());
    diffusion_request *r = new_request(1000, 0);
    diffusion_job *job = NULL;
    steps_seen seen = {0, 0, 0, 0, 0};
    CHECK_STATUS(diffusion_request_set_progress_callback(r, see_step, &seen), DIFFUSION_OK);
    CHECK_STATUS(diffusion_submit(session, r, &job, NULL), DIFFUSION_OK);
    sleep_ms(30);
    diffusion_job_free(job);
    int calls = seen.calls; /* no lock: the free has waited for the last call */
    sleep_ms(30);
    CHECK(seen.calls == calls);
    diffusion_request_free(r);
    diffusion_session_free(session);
}

typedef struct log_seen {
    int lines, not_one_line, above_level;
    diffusion_log_level level;
    bool prompt;
} log_seen;

static void see_log(diffusion_log_level level, const char *message, void *user_data) {
    log_seen *seen = user_data;
    seen->lines++;
    seen->not_one_line += message[0] == '\0' || strchr(message, '\n') != NULL;
    seen->above_level += level > seen->level || level < DIFFUSION_LOG_ERROR;
    seen->prompt = seen->prompt || strstr(message, "a secret apple") != NULL;
}

static void log_at(diffusion_log_level level, log_seen *seen) {
    diffusion_engine_desc desc = DIFFUSION_ENGINE_DESC_INIT;
    diffusion_engine *engine = NULL;
    diffusion_model *model = NULL;
    memset(seen, 0, sizeof *seen);
    seen->level = level;
    desc.device = DIFFUSION_DEVICE_CPU;
    desc.threads = 1;
    desc.log_level = level;
    desc.log = see_log;
    desc.log_user_data = seen;
    CHECK_STATUS(diffusion_engine_new(&desc, &engine, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_model_load(engine, model_path(), NULL, &model, NULL), DIFFUSION_OK);
    diffusion_request *r = new_request_for(model, 1, 0);
    CHECK_STATUS(diffusion_request_set_string(r, DIFFUSION_OPTION_PROMPT, "a secret apple"), DIFFUSION_OK);
    picture p = generate_picture(model, r);
    picture_free(&p);
    diffusion_request_free(r);
    diffusion_model_free(model);
    diffusion_engine_free(engine);
    CHECK(seen->not_one_line == 0 && seen->above_level == 0);
}

static void each_engine_logs_to_its_own_callback(void) {
    log_seen info, off, debug;
    log_at(DIFFUSION_LOG_INFO, &info);
    CHECK(info.lines > 0);
    CHECK(!info.prompt); /* what a user typed is told at DEBUG only */
    int lines = info.lines;
    log_at(DIFFUSION_LOG_OFF, &off);
    CHECK(off.lines == 0);
    log_at(DIFFUSION_LOG_DEBUG, &debug);
    CHECK(debug.lines >= lines);
    CHECK(info.lines == lines);
}

typedef struct last_free {
    diffusion_job *job;
    log_seen log;
    int submitted, freed; /* set by the thread that submits, and by the callback */
    int lines;            /* when the last object was freed */
} last_free;

static int32_t free_the_last(const diffusion_progress *progress, void *user_data) {
    last_free *last = user_data;
    (void)progress;
    while (!__atomic_load_n(&last->submitted, __ATOMIC_ACQUIRE)) sleep_ms(1);
    diffusion_job_free(last->job);
    last->lines = last->log.lines;
    __atomic_store_n(&last->freed, 1, __ATOMIC_RELEASE);
    return 0;
}

/* The session's thread lives on for a moment, but its host may have freed what the log writes to. */
static void a_callback_that_frees_the_last_object_hears_no_more(void) {
    static last_free last; /* the thread may outlive this function */
    diffusion_engine_desc desc = DIFFUSION_ENGINE_DESC_INIT;
    diffusion_engine *engine = NULL;
    diffusion_model *model = NULL;
    last.log.level = desc.log_level = DIFFUSION_LOG_DEBUG;
    desc.device = DIFFUSION_DEVICE_CPU;
    desc.threads = 1;
    desc.log = see_log;
    desc.log_user_data = &last.log;
    CHECK_STATUS(diffusion_engine_new(&desc, &engine, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_model_load(engine, model_path(), NULL, &model, NULL), DIFFUSION_OK);
    diffusion_session *session = new_session(model);
    diffusion_request *r = new_request_for(model, 4, 0);
    CHECK_STATUS(diffusion_request_set_progress_callback(r, free_the_last, &last), DIFFUSION_OK);
    CHECK_STATUS(diffusion_submit(session, r, &last.job, NULL), DIFFUSION_OK);
    diffusion_request_free(r);
    diffusion_session_free(session);
    diffusion_model_free(model);
    diffusion_engine_free(engine);
    __atomic_store_n(&last.submitted, 1, __ATOMIC_RELEASE);
    while (!__atomic_load_n(&last.freed, __ATOMIC_ACQUIRE)) sleep_ms(1);
    sleep_ms(100);
    CHECK(last.log.lines == last.lines);
}

TOPIC(callbacks, TEST(progress_is_told_step_by_step), TEST(a_callback_may_cancel), TEST(after_free_no_callback_runs),
      TEST(each_engine_logs_to_its_own_callback), TEST(a_callback_that_frees_the_last_object_hears_no_more));
