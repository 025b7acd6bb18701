/* Samplers that the host runs: by callback and by question and answer. */
#include "check.h"
#include "mixture.h"
#include "support.h"
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 64 };

static diffusion_sampler_desc desc_of(diffusion_sampler_id sampler, uint32_t steps, uint32_t images, uint32_t values) {
    diffusion_sampler_desc desc = DIFFUSION_SAMPLER_DESC_INIT;
    desc.sampler = sampler;
    desc.steps = steps;
    desc.images = images;
    desc.values = values;
    desc.seed = 5;
    return desc;
}

/* A sampler of Stable Diffusion's schedule for an epsilon model, which outlives the schedule. */
static diffusion_sampler *make(const diffusion_sampler_desc *desc) {
    diffusion_schedule *schedule = sd_schedule(DIFFUSION_PREDICTION_EPSILON);
    diffusion_sampler *sampler = NULL;
    diffusion_error *error = NULL;
    CHECK_STATUS(diffusion_sampler_new(schedule, desc, &sampler, &error), DIFFUSION_OK);
    if (error != NULL) fprintf(stderr, "  sampler %d: %s\n", desc->sampler, diffusion_error_message(error));
    diffusion_error_free(error);
    diffusion_schedule_free(schedule);
    return sampler;
}

static diffusion_status try_desc(const diffusion_sampler_desc *desc, diffusion_error **error) {
    diffusion_schedule *schedule = sd_schedule(DIFFUSION_PREDICTION_EPSILON);
    diffusion_sampler *sampler = (diffusion_sampler *)&quick;
    diffusion_status status = diffusion_sampler_new(schedule, desc, &sampler, error);
    CHECK((sampler != NULL) == (status == DIFFUSION_OK));
    diffusion_sampler_free(sampler);
    diffusion_schedule_free(schedule);
    return status;
}

static diffusion_sampler_plan plan_of(const diffusion_sampler *sampler) {
    diffusion_sampler_plan plan = DIFFUSION_SAMPLER_PLAN_INIT;
    CHECK_STATUS(diffusion_sampler_get_plan(sampler, &plan, NULL), DIFFUSION_OK);
    return plan;
}

/* Steps to the end by callback. */
static void step_through(diffusion_sampler *sampler, host *h) {
    uint32_t steps = 0;
    diffusion_status status;
    while ((status = diffusion_sampler_step(sampler, host_denoise, h, NULL)) == DIFFUSION_OK)
        CHECK(diffusion_sampler_steps_done(sampler) == ++steps);
    CHECK_STATUS(status, DIFFUSION_DONE);
    CHECK(steps == plan_of(sampler).steps);
}

static void run_by_callback(diffusion_sampler *sampler, const float *latents, size_t count, float *out) {
    host h = {0};
    CHECK_STATUS(diffusion_sampler_start(sampler, latents, latents != NULL ? count : 0, NULL), DIFFUSION_OK);
    step_through(sampler, &h);
    CHECK(h.calls == (int)plan_of(sampler).evaluations);
    CHECK_STATUS(diffusion_sampler_copy_latents(sampler, out, count, NULL), DIFFUSION_OK);
}

static void run_by_question(diffusion_sampler *sampler, const float *latents, size_t count, float *out) {
    host h = {0};
    diffusion_status status;
    diffusion_question question = DIFFUSION_QUESTION_INIT;
    float prediction[MOST], unconditional[MOST];
    CHECK_STATUS(diffusion_sampler_start(sampler, latents, latents != NULL ? count : 0, NULL), DIFFUSION_OK);
    while ((status = diffusion_sampler_ask(sampler, &question, NULL)) == DIFFUSION_OK) {
        float *second = question.needs_unconditional ? unconditional : NULL;
        CHECK(question.step == diffusion_sampler_steps_done(sampler) && question.prediction_values == 1);
        CHECK(host_denoise(&question, prediction, second, &h) == 0);
        CHECK_STATUS(diffusion_sampler_tell(sampler, prediction, count, second, second != NULL ? count : 0, NULL),
                     DIFFUSION_OK);
    }
    CHECK_STATUS(status, DIFFUSION_DONE);
    CHECK_STATUS(diffusion_sampler_copy_latents(sampler, out, count, NULL), DIFFUSION_OK);
}

static void the_tables_list_everything_once(void) {
    diffusion_error *error = NULL;
    CHECK(diffusion_sampler_count() >= 29);
    for (size_t i = 0; i < diffusion_sampler_count(); i++) {
        diffusion_sampler_info info = DIFFUSION_SAMPLER_INFO_INIT;
        CHECK_STATUS(diffusion_sampler_get_info(i, &info, NULL), DIFFUSION_OK);
        CHECK(info.sampler == (diffusion_sampler_id)i + 1 && info.order >= 1 && info.evaluations >= 1);
        CHECK(info.stochastic == 0 || info.stochastic == 1);
        CHECK(strlen(info.name) > 0 && strlen(info.source) > 0 && strlen(info.summary) > 0);
        /* The request's option knows it by the same name and number. */
        const char *choice = diffusion_option_choice(DIFFUSION_OPTION_SAMPLER, info.sampler);
        CHECK(choice != NULL && strcmp(choice, info.name) == 0);
    }
    diffusion_sampler_info info = DIFFUSION_SAMPLER_INFO_INIT;
    CHECK_STATUS(diffusion_sampler_get_info(DIFFUSION_SAMPLER_HEUN - 1, &info, NULL), DIFFUSION_OK);
    CHECK(strcmp(info.name, "heun") == 0 && info.order == 2 && info.evaluations == 2 && info.stochastic == 0);
    CHECK_ERROR(diffusion_sampler_get_info(diffusion_sampler_count(), &info, &error), error,
                DIFFUSION_ERROR_INVALID_ARGUMENT, "index");

    for (size_t i = 0; i < diffusion_sigma_schedule_count(); i++) {
        diffusion_sigma_schedule_info row = DIFFUSION_SIGMA_SCHEDULE_INFO_INIT;
        CHECK_STATUS(diffusion_sigma_schedule_get_info(i, &row, NULL), DIFFUSION_OK);
        CHECK(row.sigma_schedule == (diffusion_sigma_schedule)i + 1);
        CHECK(strlen(row.source) > 0 && strlen(row.summary) > 0);
        const char *choice = diffusion_option_choice(DIFFUSION_OPTION_SIGMA_SCHEDULE, row.sigma_schedule);
        CHECK(choice != NULL && strcmp(choice, row.name) == 0);
    }
    diffusion_sigma_schedule_info row = DIFFUSION_SIGMA_SCHEDULE_INFO_INIT;
    CHECK_STATUS(diffusion_sigma_schedule_get_info(DIFFUSION_SIGMA_SCHEDULE_KARRAS - 1, &row, NULL), DIFFUSION_OK);
    CHECK(strcmp(row.name, "karras") == 0);
    CHECK_STATUS(diffusion_sigma_schedule_get_info(DIFFUSION_SIGMA_SCHEDULE_TURBO - 1, &row, NULL), DIFFUSION_OK);
    CHECK(strcmp(row.name, "turbo") == 0);
    CHECK_ERROR(diffusion_sigma_schedule_get_info(SIZE_MAX, &row, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT,
                "index");
}

static void the_plan_tells_what_will_happen(void) {
    diffusion_sampler_desc desc = desc_of(DIFFUSION_SAMPLER_HEUN, 5, 2, 3);
    diffusion_sampler *sampler = make(&desc);
    diffusion_sampler_plan plan = plan_of(sampler);
    diffusion_error *error = NULL;
    double timesteps[6] = {0, 0, 0, 0, 0, 7}, alpha, sigma, before = 1e9;
    CHECK(plan.sampler == DIFFUSION_SAMPLER_HEUN && plan.steps == 5 && plan.evaluations == 9);
    CHECK(plan.images == 2 && plan.values == 3 && plan.prediction_values == 1 && plan.needs_unconditional == 0);
    CHECK(fabs(plan.init_noise_sigma - 14.6146) < 1e-3);
    CHECK_STATUS(diffusion_sampler_copy_timesteps(sampler, timesteps, 6, NULL), DIFFUSION_OK);
    CHECK(fabs(timesteps[0] - 999) < 1e-9 && timesteps[1] < timesteps[0] && timesteps[5] > 6);
    CHECK_ERROR(diffusion_sampler_copy_timesteps(sampler, timesteps, 4, &error), error, DIFFUSION_ERROR_BUFFER_TOO_SMALL,
                "5");
    for (uint32_t i = 0; i <= 5; i++) {
        CHECK_STATUS(diffusion_sampler_get_level(sampler, i, &alpha, &sigma, NULL), DIFFUSION_OK);
        CHECK(sigma < before && fabs(alpha - 1) < 1e-12);
        before = sigma;
    }
    CHECK(fpclassify(sigma) == FP_ZERO);
    CHECK_ERROR(diffusion_sampler_get_level(sampler, 6, &alpha, &sigma, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT,
                "steps_done 6");
    diffusion_sampler_free(sampler);
}

/* k-diffusion's sample_euler and sample_heun in double precision on the mixture of tools/mixture.py. */
static void trajectories_are_those_of_k_diffusion(void) {
    static const double sigmas[6] = {14.0, 5.0, 1.5, 0.4, 0.05, 0.0};
    static const float start[4] = {-14.0f, -3.5f, 0.5f, 21.0f};
    static const struct {
        diffusion_sampler_id sampler;
        double latents[4];
    } wanted[] = {
        {DIFFUSION_SAMPLER_EULER, {-0.8823441285635654, 0.22086590011610382, 0.34085856609295545, 1.2250685378965154}},
        {DIFFUSION_SAMPLER_HEUN, {-1.5031622638741922, 0.2880515521957841, 0.42394028427566455, 2.0379158203400216}},
    };
    for (size_t w = 0; w < sizeof wanted / sizeof wanted[0]; w++) {
        diffusion_sampler_desc desc = desc_of(wanted[w].sampler, 0, 2, 2);
        desc.sigmas = sigmas;
        desc.sigma_count = 6;
        diffusion_sampler *sampler = make(&desc);
        float called[4], asked[4];
        run_by_callback(sampler, start, 4, called);
        run_by_question(sampler, start, 4, asked);
        for (int i = 0; i < 4; i++) CHECK(fabs(called[i] - wanted[w].latents[i]) < 2e-6);
        CHECK(memcmp(called, asked, sizeof called) == 0);
        diffusion_sampler_free(sampler);
    }
}

/* Every sampler: both ways give the same bits, again and again, and each image those it has alone. */
static void every_sampler_gives_the_same_bits_both_ways(void) {
    enum { IMAGES = 3, VALUES = 4, COUNT = IMAGES * VALUES };
    for (size_t s = 0; s < diffusion_sampler_count(); s++) {
        diffusion_sampler_desc desc = desc_of((diffusion_sampler_id)s + 1, 6, IMAGES, VALUES);
        diffusion_sampler *sampler = make(&desc);
        float called[COUNT], asked[COUNT], alone[VALUES];
        if (sampler == NULL) continue;
        run_by_callback(sampler, NULL, COUNT, called);
        run_by_question(sampler, NULL, COUNT, asked);
        CHECK(memcmp(called, asked, sizeof called) == 0);
        run_by_callback(sampler, NULL, COUNT, asked);
        CHECK(memcmp(called, asked, sizeof called) == 0);
        for (int i = 0; i < COUNT; i++) CHECK(isfinite(called[i]) && fabsf(called[i]) < 4);
        diffusion_sampler_free(sampler);

        static const uint64_t seeds[1] = {7};
        desc = desc_of((diffusion_sampler_id)s + 1, 6, 1, VALUES);
        desc.seeds = seeds;
        sampler = make(&desc);
        run_by_callback(sampler, NULL, VALUES, alone);
        CHECK(memcmp(alone, called + 2 * VALUES, sizeof alone) == 0); /* 5 + 2 */
        diffusion_sampler_free(sampler);
    }
}

static void one_step_is_finite(void) {
    for (size_t s = 0; s < diffusion_sampler_count(); s++) {
        diffusion_sampler_desc desc = desc_of((diffusion_sampler_id)s + 1, 1, 1, 4);
        diffusion_sampler *sampler = make(&desc);
        float out[4];
        if (sampler == NULL) continue;
        run_by_callback(sampler, NULL, 4, out);
        for (int i = 0; i < 4; i++) CHECK(isfinite(out[i]));
        diffusion_sampler_free(sampler);
    }
}

static void a_callback_may_stop_or_fail_and_the_step_goes_on(void) {
    diffusion_sampler_desc desc = desc_of(DIFFUSION_SAMPLER_HEUN, 5, 1, 4);
    diffusion_sampler *sampler = make(&desc);
    diffusion_error *error = NULL;
    float undisturbed[4], out[4];
    run_by_callback(sampler, NULL, 4, undisturbed);

    host h = {0};
    h.nan_at = 4; /* the second evaluation of the second step */
    h.stop_at = 6;
    CHECK_STATUS(diffusion_sampler_start(sampler, NULL, 0, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_sampler_step(sampler, host_denoise, &h, NULL), DIFFUSION_OK);
    CHECK_ERROR(diffusion_sampler_step(sampler, host_denoise, &h, &error), error, DIFFUSION_ERROR_NUMERIC,
                "prediction of step 1 is NaN at value 3");
    CHECK(diffusion_sampler_steps_done(sampler) == 1);
    CHECK_STATUS(diffusion_sampler_step(sampler, host_denoise, &h, NULL), DIFFUSION_OK);
    CHECK(h.calls == 5 && diffusion_sampler_steps_done(sampler) == 2);
    CHECK_ERROR(diffusion_sampler_step(sampler, host_denoise, &h, &error), error, DIFFUSION_ERROR_CANCELLED, "step 2");
    while (diffusion_sampler_step(sampler, host_denoise, &h, NULL) == DIFFUSION_OK) {}
    CHECK_STATUS(diffusion_sampler_copy_latents(sampler, out, 4, NULL), DIFFUSION_OK);
    CHECK(memcmp(out, undisturbed, sizeof out) == 0);
    CHECK(h.calls == 9 + 2);
    diffusion_sampler_free(sampler);
}

static void questions_stand_until_they_are_answered(void) {
    diffusion_sampler_desc desc = desc_of(DIFFUSION_SAMPLER_EULER, 3, 2, 2);
    diffusion_sampler *sampler = make(&desc);
    diffusion_question first = DIFFUSION_QUESTION_INIT, again = DIFFUSION_QUESTION_INIT;
    diffusion_error *error = NULL;
    float prediction[4] = {0, 0, 0, 0}, latents[4];
    CHECK_STATUS(diffusion_sampler_start(sampler, NULL, 0, NULL), DIFFUSION_OK);
    CHECK_ERROR(diffusion_sampler_tell(sampler, prediction, 4, NULL, 0, &error), error, DIFFUSION_ERROR_INVALID_STATE,
                "asked");
    CHECK_STATUS(diffusion_sampler_ask(sampler, &first, NULL), DIFFUSION_OK);
    CHECK(first.step == 0 && first.images == 2 && first.values == 2 && fabs(first.timestep - 999) < 1e-6);
    CHECK(fabs(first.alpha * first.alpha + first.sigma * first.sigma - 1) < 1e-9);
    CHECK_ERROR(diffusion_sampler_tell(sampler, prediction, 3, NULL, 0, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT,
                "4");
    prediction[2] = NAN;
    CHECK_ERROR(diffusion_sampler_tell(sampler, prediction, 4, NULL, 0, &error), error, DIFFUSION_ERROR_NUMERIC, "NaN");
    prediction[2] = -INFINITY;
    CHECK_ERROR(diffusion_sampler_tell(sampler, prediction, 4, NULL, 0, &error), error, DIFFUSION_ERROR_NUMERIC, "inf");
    prediction[2] = 0;
    CHECK_STATUS(diffusion_sampler_ask(sampler, &again, NULL), DIFFUSION_OK);
    CHECK(memcmp(&first, &again, sizeof first) == 0);
    CHECK_STATUS(diffusion_sampler_tell(sampler, prediction, 4, NULL, 0, NULL), DIFFUSION_OK);
    CHECK_ERROR(diffusion_sampler_tell(sampler, prediction, 4, NULL, 0, &error), error, DIFFUSION_ERROR_INVALID_STATE,
                "asked");
    /* A question may be followed by a step, which answers it. */
    host h = {0};
    CHECK_STATUS(diffusion_sampler_ask(sampler, &first, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_sampler_step(sampler, host_denoise, &h, NULL), DIFFUSION_OK);
    CHECK(h.calls == 1 && diffusion_sampler_steps_done(sampler) == 2);

    /* An older caller's question is shorter. */
    memset(&again, 0xff, sizeof again);
    again.struct_size = (uint32_t)offsetof(diffusion_question, timestep);
    CHECK_STATUS(diffusion_sampler_ask(sampler, &again, NULL), DIFFUSION_OK);
    CHECK(again.step == 2 && isnan(again.timestep));
    CHECK_STATUS(diffusion_sampler_tell(sampler, prediction, 4, NULL, 0, NULL), DIFFUSION_OK);
    again.step = 9;
    CHECK_STATUS(diffusion_sampler_ask(sampler, &again, NULL), DIFFUSION_DONE);
    CHECK(again.step == 9);
    CHECK_STATUS(diffusion_sampler_step(sampler, host_denoise, &h, NULL), DIFFUSION_DONE);
    CHECK_STATUS(diffusion_sampler_copy_latents(sampler, latents, 4, NULL), DIFFUSION_OK);
    diffusion_sampler_free(sampler);
}

static void the_start_decides(void) {
    diffusion_sampler_desc desc = desc_of(DIFFUSION_SAMPLER_EULER, 3, 1, 4);
    diffusion_sampler *sampler = make(&desc);
    diffusion_question question = DIFFUSION_QUESTION_INIT;
    diffusion_error *error = NULL;
    host h = {0};
    float latents[4] = {1, 2, 3, 4}, noise[4], out[5];
    /* Nothing works before the start. */
    CHECK_ERROR(diffusion_sampler_step(sampler, host_denoise, &h, &error), error, DIFFUSION_ERROR_INVALID_STATE,
                "not started");
    CHECK_ERROR(diffusion_sampler_ask(sampler, &question, &error), error, DIFFUSION_ERROR_INVALID_STATE, "not started");
    CHECK_ERROR(diffusion_sampler_tell(sampler, latents, 4, NULL, 0, &error), error, DIFFUSION_ERROR_INVALID_STATE,
                "not started");
    CHECK_ERROR(diffusion_sampler_copy_latents(sampler, out, 4, &error), error, DIFFUSION_ERROR_INVALID_STATE,
                "not started");
    CHECK_ERROR(diffusion_sampler_set_latents(sampler, latents, 4, &error), error, DIFFUSION_ERROR_INVALID_STATE,
                "not started");
    CHECK_ERROR(diffusion_sampler_start(sampler, latents, 3, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "latents");
    CHECK_ERROR(diffusion_sampler_start(sampler, NULL, 4, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "latents");
    latents[3] = NAN;
    CHECK_ERROR(diffusion_sampler_start(sampler, latents, 4, &error), error, DIFFUSION_ERROR_NUMERIC, "latents[3]");
    CHECK_ERROR(diffusion_sampler_start_from(sampler, latents, 4, &error), error, DIFFUSION_ERROR_NUMERIC, "originals[3]");
    CHECK(diffusion_sampler_steps_done(sampler) == 0);

    /* From the seeds: noise times init_noise_sigma. */
    CHECK_STATUS(diffusion_sampler_start(sampler, NULL, 0, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_noise_fill(DIFFUSION_NOISE_PHILOX, 5, noise, 4, NULL), DIFFUSION_OK);
    CHECK_ERROR(diffusion_sampler_copy_latents(sampler, out, 3, &error), error, DIFFUSION_ERROR_BUFFER_TOO_SMALL, "4");
    out[4] = 7;
    CHECK_STATUS(diffusion_sampler_copy_latents(sampler, out, 5, NULL), DIFFUSION_OK);
    float scale = (float)plan_of(sampler).init_noise_sigma;
    for (int i = 0; i < 4; i++) CHECK(fabsf(out[i] - noise[i] * scale) < 1e-5f);
    CHECK(out[4] > 6);

    /* A new start forgets the old one. */
    CHECK_STATUS(diffusion_sampler_step(sampler, host_denoise, &h, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_sampler_ask(sampler, &question, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_sampler_start(sampler, noise, 4, NULL), DIFFUSION_OK);
    CHECK(diffusion_sampler_steps_done(sampler) == 0);
    CHECK_STATUS(diffusion_sampler_copy_latents(sampler, out, 4, NULL), DIFFUSION_OK);
    CHECK(memcmp(out, noise, sizeof noise) == 0);
    diffusion_sampler_free(sampler);
}

static void a_strength_starts_from_pictures(void) {
    diffusion_sampler_desc desc = desc_of(DIFFUSION_SAMPLER_EULER, 10, 1, 4);
    diffusion_error *error = NULL;
    static const float originals[4] = {0.5f, -1, 2, 0};
    float noise[4], out[4];
    double alpha, sigma;
    desc.strength = 0.4;
    diffusion_sampler *sampler = make(&desc);
    CHECK(plan_of(sampler).steps == 4);
    CHECK_ERROR(diffusion_sampler_start(sampler, NULL, 0, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "strength");
    CHECK_STATUS(diffusion_sampler_start_from(sampler, originals, 4, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_sampler_get_level(sampler, 0, &alpha, &sigma, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_noise_fill(DIFFUSION_NOISE_PHILOX, 5, noise, 4, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_sampler_copy_latents(sampler, out, 4, NULL), DIFFUSION_OK);
    for (int i = 0; i < 4; i++) CHECK(fabs(out[i] - (alpha * originals[i] + sigma * noise[i])) < 1e-6);
    host h = {0};
    step_through(sampler, &h);
    CHECK(h.calls == 4);
    CHECK_ERROR(diffusion_sampler_start_from(sampler, originals, 5, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT,
                "originals");
    diffusion_sampler_free(sampler);
}

static void latents_change_between_steps_only(void) {
    diffusion_sampler_desc desc = desc_of(DIFFUSION_SAMPLER_HEUN, 4, 1, 4);
    diffusion_sampler *sampler = make(&desc);
    diffusion_question question = DIFFUSION_QUESTION_INIT;
    diffusion_error *error = NULL;
    host h = {0};
    float prediction[4], blended[4] = {0.25f, -0.25f, 1, 0}, out[4];
    CHECK_STATUS(diffusion_sampler_start(sampler, NULL, 0, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_sampler_step(sampler, host_denoise, &h, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_sampler_set_latents(sampler, blended, 4, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_sampler_ask(sampler, &question, NULL), DIFFUSION_OK);
    for (int i = 0; i < 4; i++) CHECK(fabs(question.input[i] - question.alpha * blended[i]) < 1e-6);
    CHECK_ERROR(diffusion_sampler_set_latents(sampler, blended, 4, &error), error, DIFFUSION_ERROR_INVALID_STATE, "step 1");
    CHECK(host_denoise(&question, prediction, NULL, &h) == 0);
    CHECK_STATUS(diffusion_sampler_tell(sampler, prediction, 4, NULL, 0, NULL), DIFFUSION_OK);
    /* Heun asks twice a step: still in it. */
    CHECK(diffusion_sampler_steps_done(sampler) == 1);
    CHECK_ERROR(diffusion_sampler_set_latents(sampler, blended, 4, &error), error, DIFFUSION_ERROR_INVALID_STATE, "step 1");
    CHECK_STATUS(diffusion_sampler_copy_latents(sampler, out, 4, NULL), DIFFUSION_OK);
    CHECK(memcmp(out, blended, sizeof out) == 0);
    CHECK_STATUS(diffusion_sampler_step(sampler, host_denoise, &h, NULL), DIFFUSION_OK);
    CHECK(diffusion_sampler_steps_done(sampler) == 2);
    CHECK_ERROR(diffusion_sampler_set_latents(sampler, blended, 3, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT,
                "latents");
    blended[0] = INFINITY;
    CHECK_ERROR(diffusion_sampler_set_latents(sampler, blended, 4, &error), error, DIFFUSION_ERROR_NUMERIC, "latents[0]");
    while (diffusion_sampler_step(sampler, host_denoise, &h, NULL) == DIFFUSION_OK) {}
    blended[0] = 0;
    CHECK_STATUS(diffusion_sampler_set_latents(sampler, blended, 4, NULL), DIFFUSION_OK); /* of no use, but no harm */
    diffusion_sampler_free(sampler);
}

static void a_sampler_is_busy_in_its_own_callback(void) {
    diffusion_sampler_desc desc = desc_of(DIFFUSION_SAMPLER_EULER, 2, 1, 4);
    diffusion_sampler *sampler = make(&desc);
    host h = {0};
    h.reenter = sampler;
    CHECK_STATUS(diffusion_sampler_start(sampler, NULL, 0, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_sampler_step(sampler, host_denoise, &h, NULL), DIFFUSION_OK);
    CHECK_STATUS(h.reentered, DIFFUSION_ERROR_BUSY);
    CHECK(h.calls == 1);
    diffusion_sampler_free(sampler);
}

/* A noise callback that writes down its ways and fills in a constant. */
typedef struct own_noise {
    int calls;
    int backwards; /* ways that do not lead down */
    float value;
    int stop_at;
    uint32_t images, values;
} own_noise;

static int32_t fill_own(double from, double to, uint32_t images, uint32_t values, float *out, void *user_data) {
    own_noise *own = user_data;
    own->calls++;
    own->backwards += !(from > to);
    own->images = images;
    own->values = values;
    for (uint32_t i = 0; i < images * values; i++) out[i] = own->value;
    return own->calls == own->stop_at;
}

static void hosts_may_bring_noise(void) {
    own_noise own = {0, 0, 0.0f, 0, 0, 0};
    diffusion_sampler_desc desc = desc_of(DIFFUSION_SAMPLER_EULER_ANCESTRAL, 5, 2, 2), quiet = desc;
    diffusion_error *error = NULL;
    host h = {0};
    float out[4], without[4], drawn[4];
    desc.noise_callback = fill_own;
    desc.noise_user_data = &own;
    quiet.flags = DIFFUSION_SAMPLER_S_NOISE_ZERO;
    diffusion_sampler *sampler = make(&desc), *silent = make(&quiet);
    run_by_callback(sampler, NULL, 4, out);
    CHECK(own.calls >= 4 && own.backwards == 0 && own.images == 2 && own.values == 2);
    run_by_callback(silent, NULL, 4, without); /* zeros are as good as no noise */
    CHECK(memcmp(out, without, sizeof out) == 0);
    quiet.flags = 0;
    diffusion_sampler_free(silent);
    silent = make(&quiet);
    run_by_callback(silent, NULL, 4, drawn);
    CHECK(memcmp(out, drawn, sizeof out) != 0);

    /* Noise that is not finite, or none at all, ends the run. */
    own.value = NAN;
    CHECK_STATUS(diffusion_sampler_start(sampler, NULL, 0, NULL), DIFFUSION_OK);
    CHECK_ERROR(diffusion_sampler_step(sampler, host_denoise, &h, &error), error, DIFFUSION_ERROR_NUMERIC, "out[0]");
    CHECK_ERROR(diffusion_sampler_step(sampler, host_denoise, &h, &error), error, DIFFUSION_ERROR_INVALID_STATE,
                "not started");
    own.value = 0;
    own.calls = 0;
    own.stop_at = 2;
    CHECK_STATUS(diffusion_sampler_start(sampler, NULL, 0, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_sampler_step(sampler, host_denoise, &h, NULL), DIFFUSION_OK);
    CHECK_ERROR(diffusion_sampler_step(sampler, host_denoise, &h, &error), error, DIFFUSION_ERROR_CANCELLED, "noise");
    CHECK(diffusion_sampler_steps_done(sampler) == 0);
    own.stop_at = 0;
    run_by_callback(sampler, NULL, 4, without);
    CHECK(memcmp(out, without, sizeof out) == 0);
    diffusion_sampler_free(sampler);
    diffusion_sampler_free(silent);
}

static void cfg_pp_needs_the_unconditional_prediction(void) {
    diffusion_sampler_desc desc = desc_of(DIFFUSION_SAMPLER_EULER_CFG_PP, 3, 1, 4);
    diffusion_sampler *sampler = make(&desc);
    diffusion_question question = DIFFUSION_QUESTION_INIT;
    diffusion_error *error = NULL;
    float prediction[4] = {0, 0, 0, 0};
    CHECK(plan_of(sampler).needs_unconditional == 1);
    CHECK_STATUS(diffusion_sampler_start(sampler, NULL, 0, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_sampler_ask(sampler, &question, NULL), DIFFUSION_OK);
    CHECK(question.needs_unconditional == 1);
    CHECK_ERROR(diffusion_sampler_tell(sampler, prediction, 4, NULL, 0, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT,
                "unconditional");
    CHECK_ERROR(diffusion_sampler_tell(sampler, prediction, 4, NULL, 4, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT,
                "unconditional");
    CHECK_STATUS(diffusion_sampler_tell(sampler, prediction, 4, prediction, 4, NULL), DIFFUSION_OK);
    diffusion_sampler_free(sampler);
}

/* A model of learned variance answers with each image's prediction, then its variance. */
static void a_predicted_variance_comes_behind_the_prediction(void) {
    diffusion_schedule *schedule = NULL;
    diffusion_sampler *sampler = NULL;
    diffusion_sampler_desc desc = desc_of(DIFFUSION_SAMPLER_DDPM, 3, 2, 2);
    diffusion_question question = DIFFUSION_QUESTION_INIT;
    diffusion_error *error = NULL;
    float prediction[8] = {0, 0, -1, -1, 0, 0, 1, 1}, start[4] = {0, 0, 0, 0}, out[4];
    own_noise own = {0, 0, 1.0f, 0, 0, 0};
    desc.noise_callback = fill_own;
    desc.noise_user_data = &own;
    CHECK_STATUS(diffusion_schedule_from_config("{\"_class_name\": \"DDPMScheduler\", \"clip_sample\": false, "
                                                "\"variance_type\": \"learned_range\"}",
                                                &schedule, NULL),
                 DIFFUSION_OK);
    CHECK_STATUS(diffusion_sampler_new(schedule, &desc, &sampler, NULL), DIFFUSION_OK);
    CHECK(plan_of(sampler).prediction_values == 2);
    CHECK_STATUS(diffusion_sampler_start(sampler, start, 4, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_sampler_ask(sampler, &question, NULL), DIFFUSION_OK);
    CHECK(question.prediction_values == 2);
    CHECK_ERROR(diffusion_sampler_tell(sampler, prediction, 4, NULL, 0, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT,
                "8");
    CHECK_STATUS(diffusion_sampler_tell(sampler, prediction, 8, NULL, 0, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_sampler_copy_latents(sampler, out, 4, NULL), DIFFUSION_OK);
    /* x and the prediction are 0, the noise is 1: what is left is the standard deviation, the greater in image 1. */
    CHECK(out[0] > 0 && fabsf(out[0] - out[1]) < 1e-6f && out[2] > out[0] && fabsf(out[2] - out[3]) < 1e-6f);
    diffusion_sampler_free(sampler);
    diffusion_schedule_free(schedule);
}

static void bad_settings_are_refused(void) {
    diffusion_error *error = NULL;
    const struct {
        const char *culprit;
        size_t offset;
        double value;
    } numbers[] = {
        {"eta", offsetof(diffusion_sampler_desc, eta), 1.5},
        {"eta", offsetof(diffusion_sampler_desc, eta), -0.5},
        {"eta", offsetof(diffusion_sampler_desc, eta), NAN},
        {"s_churn", offsetof(diffusion_sampler_desc, s_churn), -1},
        {"s_churn", offsetof(diffusion_sampler_desc, s_churn), INFINITY},
        {"s_tmin", offsetof(diffusion_sampler_desc, s_tmin), -1},
        {"s_tmax", offsetof(diffusion_sampler_desc, s_tmax), -1},
        {"s_noise", offsetof(diffusion_sampler_desc, s_noise), -0.1},
        {"strength", offsetof(diffusion_sampler_desc, strength), 1.01},
        {"strength", offsetof(diffusion_sampler_desc, strength), -0.5},
        {"strength", offsetof(diffusion_sampler_desc, strength), NAN},
        {"strength", offsetof(diffusion_sampler_desc, strength), 0.01},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        diffusion_sampler_desc desc = desc_of(DIFFUSION_SAMPLER_EULER, 4, 1, 4);
        memcpy((char *)&desc + numbers[i].offset, &numbers[i].value, sizeof(double));
        CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, numbers[i].culprit);
    }
    const struct {
        const char *culprit;
        size_t offset;
        uint32_t value;
    } words[] = {
        {"sampler", offsetof(diffusion_sampler_desc, sampler), 1000},
        {"sampler", offsetof(diffusion_sampler_desc, sampler), UINT32_MAX},
        {"steps 0", offsetof(diffusion_sampler_desc, steps), 0},
        {"steps 1001", offsetof(diffusion_sampler_desc, steps), 1001},
        {"steps", offsetof(diffusion_sampler_desc, steps), UINT32_MAX},
        {"sigma_schedule", offsetof(diffusion_sampler_desc, sigma_schedule), 99},
        {"timestep_spacing", offsetof(diffusion_sampler_desc, timestep_spacing), 4},
        {"profile", offsetof(diffusion_sampler_desc, profile), 4},
        {"noise", offsetof(diffusion_sampler_desc, noise), 3},
        {"clip", offsetof(diffusion_sampler_desc, clip), 4},
        {"flags", offsetof(diffusion_sampler_desc, flags), 4},
        {"solver_order", offsetof(diffusion_sampler_desc, solver_order), 4},
        {"images", offsetof(diffusion_sampler_desc, images), UINT32_MAX},
        {"values", offsetof(diffusion_sampler_desc, values), 0},
    };
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        diffusion_sampler_desc desc = desc_of(DIFFUSION_SAMPLER_EULER, 4, 1, 4);
        memcpy((char *)&desc + words[i].offset, &words[i].value, sizeof(uint32_t));
        CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, words[i].culprit);
    }
    diffusion_sampler_desc desc = desc_of(DIFFUSION_SAMPLER_EULER, 4, 1, 4);
    desc.flags = DIFFUSION_SAMPLER_ETA_ZERO;
    CHECK_STATUS(try_desc(&desc, NULL), DIFFUSION_OK);
    desc.eta = 0.5;
    CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "eta");
    desc = desc_of(DIFFUSION_SAMPLER_EULER, 4, 1, 4);
    desc.clip = DIFFUSION_CLIP_RANGE;
    desc.clip_range = -1;
    CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "clip_range");
    desc.clip = DIFFUSION_CLIP_DYNAMIC;
    desc.clip_range = 0.5;
    CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "clip_range");
    desc.clip_range = 2;
    desc.clip_ratio = 1.5;
    CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "clip_ratio");
    desc.clip_ratio = 0;
    CHECK_STATUS(try_desc(&desc, NULL), DIFFUSION_OK);
}

static void bad_levels_are_refused(void) {
    diffusion_error *error = NULL;
    static const double rising[3] = {1, 2, 0}, equal[3] = {1, 1, 0}, negative[3] = {2, 1, -1}, nan_level[3] = {2, NAN, 0},
                        good[3] = {2, 1, 0};
    static const double *const bad[] = {rising, equal, negative, nan_level};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        diffusion_sampler_desc desc = desc_of(DIFFUSION_SAMPLER_EULER, 0, 1, 4);
        desc.sigmas = bad[i];
        desc.sigma_count = 3;
        CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "sigmas[");
        desc.sigmas = NULL;
        desc.sigma_count = 0;
        desc.timesteps = bad[i];
        desc.timestep_count = 3;
        CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "timesteps[");
    }
    diffusion_sampler_desc desc = desc_of(DIFFUSION_SAMPLER_EULER, 0, 1, 4);
    desc.sigmas = good;
    desc.sigma_count = 0;
    CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "steps 0");
    desc.sigma_count = 1;
    CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "steps 0");
    desc.sigma_count = 3;
    desc.steps = 3;
    CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "sigmas");
    desc.steps = 2;
    CHECK_STATUS(try_desc(&desc, NULL), DIFFUSION_OK);
    desc.timesteps = good;
    desc.timestep_count = 3;
    CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "timesteps");
    desc.timesteps = NULL;
    CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "timesteps is NULL");
    desc.timestep_count = 0;
    desc.sigmas = NULL;
    CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "sigmas is NULL");
}

static void sizes_of_structures_are_looked_at(void) {
    struct {
        diffusion_sampler_desc known;
        uint64_t added;
    } newer;
    diffusion_error *error = NULL;
    memset(&newer, 0, sizeof newer);
    newer.known = desc_of(DIFFUSION_SAMPLER_EULER, 4, 1, 4);
    newer.known.struct_size = sizeof newer;
    CHECK_STATUS(try_desc(&newer.known, NULL), DIFFUSION_OK);
    newer.added = 1;
    CHECK_ERROR(try_desc(&newer.known, &error), error, DIFFUSION_ERROR_VERSION_MISMATCH, "struct_size");

    diffusion_sampler_desc older;
    memset(&older, 0xff, sizeof older);
    diffusion_sampler_desc set = desc_of(DIFFUSION_SAMPLER_EULER, 4, 1, 4);
    memcpy(&older, &set, offsetof(diffusion_sampler_desc, eta));
    older.struct_size = (uint32_t)offsetof(diffusion_sampler_desc, eta);
    CHECK_STATUS(try_desc(&older, NULL), DIFFUSION_OK);
    older.struct_size = 0;
    CHECK_ERROR(try_desc(&older, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "struct_size");

    diffusion_sampler *sampler = make(&set);
    diffusion_sampler_plan plan;
    memset(&plan, 0xff, sizeof plan);
    plan.struct_size = (uint32_t)offsetof(diffusion_sampler_plan, evaluations);
    CHECK_STATUS(diffusion_sampler_get_plan(sampler, &plan, NULL), DIFFUSION_OK);
    CHECK(plan.steps == 4 && plan.evaluations == UINT32_MAX);
    diffusion_sampler_free(sampler);
}

/* One schedule, a sampler in each thread; and a sampler that two threads want. */
typedef struct worker {
    const diffusion_schedule *schedule;
    diffusion_sampler *shared;
    float out[4];
    diffusion_status met;
} worker;

static void *sample_alone(void *argument) {
    worker *w = argument;
    diffusion_sampler_desc desc = desc_of(DIFFUSION_SAMPLER_EULER_ANCESTRAL, 20, 1, 4);
    diffusion_sampler *sampler = NULL;
    host h = {0};
    if (diffusion_sampler_new(w->schedule, &desc, &sampler, NULL) != DIFFUSION_OK) return NULL;
    if (diffusion_sampler_start(sampler, NULL, 0, NULL) != DIFFUSION_OK) return NULL;
    while (diffusion_sampler_step(sampler, host_denoise, &h, NULL) == DIFFUSION_OK) {}
    w->met = diffusion_sampler_copy_latents(sampler, w->out, 4, NULL);
    diffusion_sampler_free(sampler);
    return NULL;
}

static void *meet(void *argument) {
    worker *w = argument;
    host h = {0};
    w->met = diffusion_sampler_step(w->shared, host_denoise, &h, NULL);
    return NULL;
}

static int32_t denoise_and_meet(const diffusion_question *question, float *prediction, float *unconditional,
                                void *user_data) {
    pthread_t thread;
    host h = {0};
    if (pthread_create(&thread, NULL, meet, user_data) != 0) return 1;
    pthread_join(thread, NULL);
    return host_denoise(question, prediction, unconditional, &h);
}

static void threads_meet(void) {
    diffusion_schedule *schedule = sd_schedule(DIFFUSION_PREDICTION_EPSILON);
    worker workers[3];
    pthread_t threads[3];
    memset(workers, 0, sizeof workers);
    for (int i = 0; i < 3; i++) {
        workers[i].schedule = schedule;
        REQUIRE(pthread_create(&threads[i], NULL, sample_alone, &workers[i]) == 0);
    }
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    for (int i = 1; i < 3; i++) CHECK(memcmp(workers[0].out, workers[i].out, sizeof workers[i].out) == 0);
    CHECK(fabsf(workers[0].out[0]) > 0);

    diffusion_sampler_desc desc = desc_of(DIFFUSION_SAMPLER_EULER, 4, 1, 4);
    workers[0].shared = make(&desc);
    CHECK_STATUS(diffusion_sampler_start(workers[0].shared, NULL, 0, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_sampler_step(workers[0].shared, denoise_and_meet, &workers[0], NULL), DIFFUSION_OK);
    CHECK_STATUS(workers[0].met, DIFFUSION_ERROR_BUSY);
    CHECK(diffusion_sampler_steps_done(workers[0].shared) == 1);
    diffusion_schedule_free(schedule);
    diffusion_sampler_free(workers[0].shared);
}

static void a_model_gives_a_sampler(void) {
    diffusion_schedule *schedule = NULL;
    diffusion_sampler *sampler = NULL;
    diffusion_sampler_desc desc = desc_of(DIFFUSION_SAMPLER_AUTO, 3, 1, 4);
    CHECK_STATUS(diffusion_schedule_from_model(shared_model(), &schedule, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_sampler_new(schedule, &desc, &sampler, NULL), DIFFUSION_OK);
    diffusion_schedule_free(schedule);
    diffusion_model_info info = DIFFUSION_MODEL_INFO_INIT;
    diffusion_sampler_info row = DIFFUSION_SAMPLER_INFO_INIT;
    CHECK_STATUS(diffusion_model_get_info(shared_model(), &info, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_sampler_get_info((size_t)plan_of(sampler).sampler - 1, &row, NULL), DIFFUSION_OK);
    CHECK(strcmp(info.default_sampler, row.name) == 0);
    diffusion_sampler_free(sampler);
}

TOPIC(sampler, TEST(the_tables_list_everything_once), TEST(the_plan_tells_what_will_happen),
      TEST(trajectories_are_those_of_k_diffusion), TEST(every_sampler_gives_the_same_bits_both_ways),
      TEST(one_step_is_finite), TEST(a_callback_may_stop_or_fail_and_the_step_goes_on),
      TEST(questions_stand_until_they_are_answered), TEST(the_start_decides), TEST(a_strength_starts_from_pictures),
      TEST(latents_change_between_steps_only), TEST(a_sampler_is_busy_in_its_own_callback), TEST(hosts_may_bring_noise),
      TEST(cfg_pp_needs_the_unconditional_prediction),
      TEST(a_predicted_variance_comes_behind_the_prediction), TEST(bad_settings_are_refused), TEST(bad_levels_are_refused),
      TEST(sizes_of_structures_are_looked_at), TEST(threads_meet), TEST(a_model_gives_a_sampler));
