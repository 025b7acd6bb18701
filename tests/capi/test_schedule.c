/* Schedules: tables, the forward process and conversions, against numbers of diffusers 0.42.1. */
#include "check.h"
#include "mixture.h"
#include "support.h"
#include <math.h>
#include <pthread.h>
#include <string.h>

enum { STEPS = 1000 };

static bool close_to(double a, double b, double relative) { return fabs(a - b) <= relative * fabs(b); }

static double table_at(const diffusion_schedule *schedule, diffusion_schedule_table table, size_t index) {
    double values[STEPS];
    CHECK_STATUS(diffusion_schedule_copy_table(schedule, table, values, STEPS, NULL), DIFFUSION_OK);
    return values[index];
}

static diffusion_status try_desc(const diffusion_schedule_desc *desc, diffusion_error **error) {
    diffusion_schedule *schedule = (diffusion_schedule *)&quick;
    diffusion_status status = diffusion_schedule_new(desc, &schedule, error);
    CHECK((schedule != NULL) == (status == DIFFUSION_OK));
    diffusion_schedule_free(schedule);
    return status;
}

static void tables_are_those_of_diffusers(void) {
    static const size_t at[3] = {0, 500, 999};
    static const struct {
        diffusion_schedule_table table;
        double values[3];
    } sd[] = {
        {DIFFUSION_SCHEDULE_TABLE_BETAS, {0.0008499999530613422, 0.004814953543245792, 0.011999999172985554}},
        {DIFFUSION_SCHEDULE_TABLE_ALPHAS_CUMPROD, {0.9991499781608582, 0.27633246779441833, 0.00466009508818388}},
        {DIFFUSION_SCHEDULE_TABLE_SIGMAS, {0.02916753316555422, 1.6182797001234628, 14.614646624923662}},
        {DIFFUSION_SCHEDULE_TABLE_SNR, {1175.440361825959, 0.3818500284961202, 0.004681913249119404}},
    };
    diffusion_schedule *schedule = sd_schedule(0);
    for (size_t t = 0; t < sizeof sd / sizeof sd[0]; t++)
        for (size_t i = 0; i < 3; i++)
            CHECK(close_to(table_at(schedule, sd[t].table, at[i]), sd[t].values[i], 1e-6));
    diffusion_schedule_free(schedule);

    static const struct {
        diffusion_beta_schedule beta_schedule;
        double betas[3];
    } others[] = {
        {DIFFUSION_BETA_SCHEDULE_AUTO, {9.999999747378752e-05, 0.010059959255158901, 0.019999999552965164}},
        {DIFFUSION_BETA_SCHEDULE_LINEAR, {9.999999747378752e-05, 0.010059959255158901, 0.019999999552965164}},
        {DIFFUSION_BETA_SCHEDULE_SQUAREDCOS_CAP_V2, {4.128422369831242e-05, 0.003155691549181938, 0.9990000128746033}},
        {DIFFUSION_BETA_SCHEDULE_SIGMOID, {0.00014920519606675953, 0.010079878382384777, 0.01995079591870308}},
    };
    for (size_t o = 0; o < sizeof others / sizeof others[0]; o++) {
        diffusion_schedule_desc desc = DIFFUSION_SCHEDULE_DESC_INIT;
        desc.beta_schedule = others[o].beta_schedule;
        CHECK_STATUS(diffusion_schedule_new(&desc, &schedule, NULL), DIFFUSION_OK);
        for (size_t i = 0; i < 3; i++)
            CHECK(close_to(table_at(schedule, DIFFUSION_SCHEDULE_TABLE_BETAS, at[i]), others[o].betas[i], 1e-6));
        diffusion_schedule_free(schedule);
    }

    diffusion_schedule_desc zero = DIFFUSION_SCHEDULE_DESC_INIT;
    zero.beta_schedule = DIFFUSION_BETA_SCHEDULE_SCALED_LINEAR;
    zero.beta_start = 0.00085;
    zero.beta_end = 0.012;
    zero.rescale_betas_zero_snr = 1;
    zero.prediction_type = DIFFUSION_PREDICTION_V;
    CHECK_STATUS(diffusion_schedule_new(&zero, &schedule, NULL), DIFFUSION_OK);
    CHECK(close_to(table_at(schedule, DIFFUSION_SCHEDULE_TABLE_ALPHAS_CUMPROD, 500), 0.2410186380147934, 1e-6));
    CHECK(fpclassify(table_at(schedule, DIFFUSION_SCHEDULE_TABLE_ALPHAS_CUMPROD, 999)) == FP_ZERO);
    CHECK(fpclassify(table_at(schedule, DIFFUSION_SCHEDULE_TABLE_SNR, 999)) == FP_ZERO);
    diffusion_schedule_free(schedule);
}

static void a_table_needs_room(void) {
    diffusion_schedule *schedule = sd_schedule(0);
    diffusion_error *error = NULL;
    double values[STEPS + 1];
    values[STEPS] = 7;
    CHECK_ERROR(diffusion_schedule_copy_table(schedule, DIFFUSION_SCHEDULE_TABLE_BETAS, values, STEPS - 1, &error),
                error, DIFFUSION_ERROR_BUFFER_TOO_SMALL, "1000");
    CHECK_STATUS(diffusion_schedule_copy_table(schedule, DIFFUSION_SCHEDULE_TABLE_BETAS, values, STEPS + 1, NULL),
                 DIFFUSION_OK);
    CHECK(close_to(values[STEPS], 7, 0));
    static const diffusion_schedule_table none[] = {0, 5, -1};
    for (size_t i = 0; i < 3; i++)
        CHECK_ERROR(diffusion_schedule_copy_table(schedule, none[i], values, STEPS, &error), error,
                    DIFFUSION_ERROR_INVALID_ARGUMENT, "table");
    diffusion_schedule_free(schedule);
}

static void facts_and_defaults(void) {
    diffusion_schedule *schedule = NULL;
    diffusion_schedule_info info = DIFFUSION_SCHEDULE_INFO_INIT;
    CHECK_STATUS(diffusion_schedule_new(NULL, &schedule, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_schedule_get_info(schedule, &info, NULL), DIFFUSION_OK);
    CHECK(info.num_train_timesteps == 1000 && info.prediction_type == DIFFUSION_PREDICTION_EPSILON);
    CHECK(info.default_sampler == DIFFUSION_SAMPLER_DDIM);
    diffusion_schedule_free(schedule);

    static const double betas[3] = {0.1, 0.2, 0.4};
    diffusion_schedule_desc desc = DIFFUSION_SCHEDULE_DESC_INIT;
    double table[3], alpha, sigma;
    desc.trained_betas = betas;
    desc.trained_beta_count = 3;
    desc.prediction_type = DIFFUSION_PREDICTION_SAMPLE;
    CHECK_STATUS(diffusion_schedule_new(&desc, &schedule, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_schedule_get_info(schedule, &info, NULL), DIFFUSION_OK);
    CHECK(info.num_train_timesteps == 3 && info.prediction_type == DIFFUSION_PREDICTION_SAMPLE);
    CHECK_STATUS(diffusion_schedule_copy_table(schedule, DIFFUSION_SCHEDULE_TABLE_ALPHAS_CUMPROD, table, 3, NULL),
                 DIFFUSION_OK);
    CHECK(close_to(table[2], 0.9 * 0.8 * 0.6, 1e-6));
    CHECK_STATUS(diffusion_schedule_get_level(schedule, 2, &alpha, &sigma, NULL), DIFFUSION_OK);
    CHECK(close_to(alpha * alpha, 0.432, 1e-6) && close_to(sigma * sigma, 0.568, 1e-6));
    diffusion_schedule_free(schedule);
}

static void flow_and_edm_are_formulas(void) {
    diffusion_schedule *flow = sd_schedule(DIFFUSION_PREDICTION_FLOW), *edm = sd_schedule(DIFFUSION_PREDICTION_EDM_V);
    diffusion_error *error = NULL;
    double alpha = 9, sigma = 9, table[STEPS];
    CHECK_STATUS(diffusion_schedule_get_level(flow, 250.5, &alpha, &sigma, NULL), DIFFUSION_OK);
    CHECK(close_to(alpha, 0.7495, 1e-12) && close_to(sigma, 0.2505, 1e-12));
    CHECK_STATUS(diffusion_schedule_get_level(edm, 0.25 * log(3), &alpha, &sigma, NULL), DIFFUSION_OK);
    CHECK(close_to(alpha, 1, 0) && close_to(sigma, 3, 1e-12));
    CHECK_ERROR(diffusion_schedule_get_level(flow, 1000.5, &alpha, &sigma, &error), error,
                DIFFUSION_ERROR_INVALID_ARGUMENT, "1000.5");
    CHECK(fpclassify(alpha) == FP_ZERO && fpclassify(sigma) == FP_ZERO);
    CHECK_ERROR(diffusion_schedule_get_level(edm, INFINITY, &alpha, &sigma, &error), error,
                DIFFUSION_ERROR_INVALID_ARGUMENT, "inf");
    CHECK_ERROR(diffusion_schedule_copy_table(flow, DIFFUSION_SCHEDULE_TABLE_SIGMAS, table, STEPS, &error), error,
                DIFFUSION_ERROR_UNSUPPORTED, "flow_prediction");
    diffusion_schedule_free(flow);
    diffusion_schedule_free(edm);
}

static void edm_has_a_target_where_no_signal_is_left(void) {
    /* There v is -x0 / sigma_data. */
    static const float x0[2] = {0.25f, -3.0f}, noise[2] = {7.0f, 8.0f};
    const double end = 1000;
    diffusion_schedule_desc desc = DIFFUSION_SCHEDULE_DESC_INIT;
    diffusion_schedule *schedule = NULL;
    float target[2];
    desc.prediction_type = DIFFUSION_PREDICTION_FLOW;
    desc.sigma_data = 0.5;
    CHECK_STATUS(diffusion_schedule_new(&desc, &schedule, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_schedule_target(schedule, DIFFUSION_PREDICTION_EDM_V, x0, noise, 1, 2, &end, target, NULL),
                 DIFFUSION_OK);
    CHECK(close_to(target[0], -0.5, 1e-6) && close_to(target[1], 6, 1e-6));
    diffusion_schedule_free(schedule);
}

static const float X0[4] = {0.5f, -1.0f, 0.25f, 2.0f}, NOISE[4] = {1.5f, 0.5f, -0.75f, -2.0f};
static const double T[2] = {100, 900};

static void the_forward_process_is_that_of_diffusers(void) {
    static const float noisy[4] = {0.9606671333312988f, -0.7830170392990112f, -0.7149348258972168f, -1.7478814125061035f},
                       velocity[4] = {1.2558338642120361f, 0.7980504035949707f, -0.3374437093734741f,
                                      -2.2237155437469482f};
    diffusion_schedule *schedule = sd_schedule(DIFFUSION_PREDICTION_V);
    float out[4], in_place[4];
    memcpy(in_place, X0, sizeof X0);
    CHECK_STATUS(diffusion_schedule_add_noise(schedule, X0, NOISE, 2, 2, T, out, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_schedule_add_noise(schedule, in_place, NOISE, 2, 2, T, in_place, NULL), DIFFUSION_OK);
    CHECK(memcmp(out, in_place, sizeof out) == 0);
    for (int i = 0; i < 4; i++) CHECK(close_to(out[i], noisy[i], 1e-6));
    for (diffusion_prediction type = DIFFUSION_PREDICTION_AUTO; type <= DIFFUSION_PREDICTION_V; type += 2) {
        CHECK_STATUS(diffusion_schedule_target(schedule, type, X0, NOISE, 2, 2, T, out, NULL), DIFFUSION_OK);
        for (int i = 0; i < 4; i++) CHECK(close_to(out[i], velocity[i], 1e-6));
    }
    CHECK_STATUS(diffusion_schedule_target(schedule, DIFFUSION_PREDICTION_EPSILON, X0, NOISE, 2, 2, T, out, NULL),
                 DIFFUSION_OK);
    CHECK(memcmp(out, NOISE, sizeof out) == 0);
    CHECK_STATUS(diffusion_schedule_target(schedule, DIFFUSION_PREDICTION_SAMPLE, X0, NOISE, 2, 2, T, out, NULL),
                 DIFFUSION_OK);
    CHECK(memcmp(out, X0, sizeof out) == 0);
    diffusion_schedule_free(schedule);
}

/* Each type of prediction, made from x0 and epsilon, gives every other back. */
static void predictions_convert_both_ways(void) {
    static const double edm_times[2] = {-0.3, 0.4};
    static const diffusion_prediction own[] = {DIFFUSION_PREDICTION_EPSILON, DIFFUSION_PREDICTION_FLOW,
                                               DIFFUSION_PREDICTION_EDM_V};
    for (size_t o = 0; o < sizeof own / sizeof own[0]; o++) {
        diffusion_schedule *schedule = sd_schedule(own[o]);
        const double *times = own[o] == DIFFUSION_PREDICTION_EDM_V ? edm_times : T;
        float noisy[4], from_values[4], want[4], got[4];
        CHECK_STATUS(diffusion_schedule_add_noise(schedule, X0, NOISE, 2, 2, times, noisy, NULL), DIFFUSION_OK);
        for (diffusion_prediction from = 1; from <= DIFFUSION_PREDICTION_EDM_V; from++) {
            for (diffusion_prediction to = 1; to <= DIFFUSION_PREDICTION_EDM_V; to++) {
                CHECK_STATUS(diffusion_schedule_target(schedule, from, X0, NOISE, 2, 2, times, from_values, NULL),
                             DIFFUSION_OK);
                CHECK_STATUS(diffusion_schedule_target(schedule, to, X0, NOISE, 2, 2, times, want, NULL), DIFFUSION_OK);
                CHECK_STATUS(diffusion_schedule_convert(schedule, from, to, from_values, noisy, 2, 2, times, got, NULL),
                             DIFFUSION_OK);
                for (int i = 0; i < 4; i++) CHECK(fabsf(got[i] - want[i]) < 2e-5f);
                CHECK_STATUS(diffusion_schedule_convert(schedule, from, to, from_values, noisy, 2, 2, times, from_values,
                                                        NULL),
                             DIFFUSION_OK);
                CHECK(memcmp(from_values, got, sizeof got) == 0);
            }
        }
        diffusion_schedule_free(schedule);
    }
}

static void what_a_prediction_does_not_tell_is_an_error(void) {
    diffusion_schedule_desc desc = DIFFUSION_SCHEDULE_DESC_INIT;
    diffusion_schedule *schedule = NULL;
    diffusion_error *error = NULL;
    static const double last[2] = {10, 999};
    float out[4] = {7, 7, 7, 7};
    desc.rescale_betas_zero_snr = 1;
    desc.prediction_type = DIFFUSION_PREDICTION_V;
    CHECK_STATUS(diffusion_schedule_new(&desc, &schedule, NULL), DIFFUSION_OK);
    CHECK_ERROR(diffusion_schedule_convert(schedule, DIFFUSION_PREDICTION_EPSILON, DIFFUSION_PREDICTION_SAMPLE, NOISE, X0,
                                           2, 2, last, out, &error),
                error, DIFFUSION_ERROR_INVALID_ARGUMENT, "999");
    CHECK(close_to(out[0], 7, 0) && close_to(out[3], 7, 0));
    CHECK_STATUS(diffusion_schedule_convert(schedule, DIFFUSION_PREDICTION_V, DIFFUSION_PREDICTION_SAMPLE, NOISE, X0, 2,
                                            2, last, out, NULL),
                 DIFFUSION_OK);
    CHECK(isfinite(out[3]));
    diffusion_schedule_free(schedule);
}

static void bad_batches_are_refused(void) {
    diffusion_schedule *schedule = sd_schedule(0);
    diffusion_error *error = NULL;
    float out[4] = {7, 7, 7, 7}, both[8] = {0};
    static const double bad[] = {1000, -1, 0.5, NAN, INFINITY, 1e300};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const double timesteps[2] = {5, bad[i]};
        CHECK_ERROR(diffusion_schedule_add_noise(schedule, X0, NOISE, 2, 2, timesteps, out, &error), error,
                    DIFFUSION_ERROR_INVALID_ARGUMENT, "timestep");
        CHECK_ERROR(diffusion_schedule_target(schedule, 0, X0, NOISE, 2, 2, timesteps, out, &error), error,
                    DIFFUSION_ERROR_INVALID_ARGUMENT, "timestep");
        CHECK_ERROR(diffusion_schedule_convert(schedule, 0, DIFFUSION_PREDICTION_V, X0, NOISE, 2, 2, timesteps, out,
                                               &error),
                    error, DIFFUSION_ERROR_INVALID_ARGUMENT, "timestep");
    }
    CHECK_ERROR(diffusion_schedule_add_noise(schedule, X0, NOISE, 0, 2, T, out, &error), error,
                DIFFUSION_ERROR_INVALID_ARGUMENT, "images");
    CHECK_ERROR(diffusion_schedule_add_noise(schedule, X0, both, 2, 2, T, both + 3, &error), error,
                DIFFUSION_ERROR_INVALID_ARGUMENT, "overlaps noise");
    CHECK_ERROR(diffusion_schedule_add_noise(schedule, both, NOISE, 2, 2, T, both + 1, &error), error,
                DIFFUSION_ERROR_INVALID_ARGUMENT, "overlaps samples");
    CHECK_ERROR(diffusion_schedule_target(schedule, 6, X0, NOISE, 2, 2, T, out, &error), error,
                DIFFUSION_ERROR_INVALID_ARGUMENT, "prediction");
    CHECK_ERROR(diffusion_schedule_convert(schedule, -1, 0, X0, NOISE, 2, 2, T, out, &error), error,
                DIFFUSION_ERROR_INVALID_ARGUMENT, "from");
    CHECK_ERROR(diffusion_schedule_convert(schedule, 0, 9, X0, NOISE, 2, 2, T, out, &error), error,
                DIFFUSION_ERROR_INVALID_ARGUMENT, "to");
    for (int i = 0; i < 4; i++) CHECK(close_to(out[i], 7, 0));
    CHECK_STATUS(diffusion_schedule_add_noise(schedule, X0, NOISE, 2, 0, T, out, NULL), DIFFUSION_OK); /* nothing to do */
    diffusion_schedule_free(schedule);
}

static void bad_parameters_are_refused(void) {
    static const double ones[2] = {0.5, 1.0}, nan_beta[1] = {NAN};
    const struct {
        const char *culprit;
        size_t offset;
        double value;
    } numbers[] = {
        {"beta_start", offsetof(diffusion_schedule_desc, beta_start), 1.0},
        {"beta_start", offsetof(diffusion_schedule_desc, beta_start), -0.1},
        {"beta_end", offsetof(diffusion_schedule_desc, beta_end), NAN},
        {"beta_end", offsetof(diffusion_schedule_desc, beta_end), 2.0},
        {"shift", offsetof(diffusion_schedule_desc, shift), -1.0},
        {"sigma_max", offsetof(diffusion_schedule_desc, sigma_max), 0.001},
        {"sigma_min", offsetof(diffusion_schedule_desc, sigma_min), INFINITY},
        {"sigma_data", offsetof(diffusion_schedule_desc, sigma_data), -0.5},
    };
    diffusion_error *error = NULL;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        diffusion_schedule_desc desc = DIFFUSION_SCHEDULE_DESC_INIT;
        memcpy((char *)&desc + numbers[i].offset, &numbers[i].value, sizeof(double));
        CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, numbers[i].culprit);
    }
    const struct {
        const char *culprit;
        size_t offset;
        int32_t value;
    } words[] = {
        {"beta_schedule", offsetof(diffusion_schedule_desc, beta_schedule), 5},
        {"prediction_type", offsetof(diffusion_schedule_desc, prediction_type), 6},
        {"prediction_type", offsetof(diffusion_schedule_desc, prediction_type), -1},
        {"timestep_spacing", offsetof(diffusion_schedule_desc, timestep_spacing), 4},
        {"num_train_timesteps", offsetof(diffusion_schedule_desc, num_train_timesteps), -1},
        {"steps_offset", offsetof(diffusion_schedule_desc, steps_offset), 1000},
        {"rescale_betas_zero_snr", offsetof(diffusion_schedule_desc, rescale_betas_zero_snr), 2},
        {"set_alpha_to_first", offsetof(diffusion_schedule_desc, set_alpha_to_first), -1},
    };
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        diffusion_schedule_desc desc = DIFFUSION_SCHEDULE_DESC_INIT;
        memcpy((char *)&desc + words[i].offset, &words[i].value, sizeof(int32_t));
        CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, words[i].culprit);
    }
    diffusion_schedule_desc desc = DIFFUSION_SCHEDULE_DESC_INIT;
    desc.trained_betas = ones;
    desc.trained_beta_count = 2;
    CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "trained_betas[1]");
    desc.num_train_timesteps = 3;
    CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "trained_betas");
    desc.num_train_timesteps = 0;
    desc.trained_betas = nan_beta;
    desc.trained_beta_count = 1;
    CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "trained_betas[0]");
    desc.trained_beta_count = 0;
    CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "num_train_timesteps 0");
    desc.trained_betas = NULL;
    desc.trained_beta_count = 4;
    CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "trained_betas is NULL");
}

static void configs_and_models_give_schedules(void) {
    diffusion_schedule *schedule = NULL;
    diffusion_schedule_info info = DIFFUSION_SCHEDULE_INFO_INIT;
    diffusion_error *error = NULL;
    CHECK_STATUS(diffusion_schedule_from_config("{\"_class_name\": \"EulerDiscreteScheduler\", \"beta_schedule\": "
                                                "\"scaled_linear\", \"prediction_type\": \"v_prediction\"}",
                                                &schedule, NULL),
                 DIFFUSION_OK);
    CHECK_STATUS(diffusion_schedule_get_info(schedule, &info, NULL), DIFFUSION_OK);
    CHECK(info.prediction_type == DIFFUSION_PREDICTION_V && info.default_sampler == DIFFUSION_SAMPLER_EULER);
    diffusion_schedule_free(schedule);

    static const struct {
        const char *json;
        diffusion_status status;
        const char *culprit;
    } bad[] = {
        {"", DIFFUSION_ERROR_FORMAT, "JSON"},
        {"[]", DIFFUSION_ERROR_FORMAT, "JSON"},
        {"{}", DIFFUSION_ERROR_FORMAT, "_class_name"},
        {"{\"_class_name\": \"NoSuchScheduler\"}", DIFFUSION_ERROR_UNSUPPORTED, "NoSuchScheduler"},
        {"{\"_class_name\": \"DDIMScheduler\", \"beta_start\": 2}", DIFFUSION_ERROR_FORMAT, "beta_start"},
        {"{\"_class_name\": \"\xff\"}", DIFFUSION_ERROR_INVALID_ARGUMENT, "UTF-8"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        schedule = (diffusion_schedule *)&quick;
        CHECK_ERROR(diffusion_schedule_from_config(bad[i].json, &schedule, &error), error, bad[i].status,
                    bad[i].culprit);
        CHECK(schedule == NULL);
    }

    CHECK_STATUS(diffusion_schedule_from_model(shared_model(), &schedule, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_schedule_get_info(schedule, &info, NULL), DIFFUSION_OK);
    CHECK(info.num_train_timesteps == 1000 && info.default_sampler != DIFFUSION_SAMPLER_AUTO);
    CHECK(table_at(schedule, DIFFUSION_SCHEDULE_TABLE_ALPHAS_CUMPROD, 0) < 1);
    diffusion_schedule_free(schedule);
}

static void sizes_of_structures_are_looked_at(void) {
    struct {
        diffusion_schedule_desc known;
        uint64_t added;
    } newer;
    diffusion_error *error = NULL;
    memset(&newer, 0, sizeof newer);
    newer.known.struct_size = sizeof newer;
    CHECK_STATUS(try_desc(&newer.known, NULL), DIFFUSION_OK);
    newer.added = 1;
    CHECK_ERROR(try_desc(&newer.known, &error), error, DIFFUSION_ERROR_VERSION_MISMATCH, "struct_size");

    diffusion_schedule_desc older;
    memset(&older, 0xff, sizeof older);
    older.struct_size = (uint32_t)offsetof(diffusion_schedule_desc, prediction_type);
    older.beta_schedule = DIFFUSION_BETA_SCHEDULE_LINEAR;
    CHECK_STATUS(try_desc(&older, NULL), DIFFUSION_OK);
    older.struct_size = 3;
    CHECK_ERROR(try_desc(&older, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "struct_size");

    diffusion_schedule *schedule = sd_schedule(0);
    diffusion_schedule_info info;
    memset(&info, 0xff, sizeof info);
    info.struct_size = (uint32_t)offsetof(diffusion_schedule_info, prediction_type);
    CHECK_STATUS(diffusion_schedule_get_info(schedule, &info, NULL), DIFFUSION_OK);
    CHECK(info.num_train_timesteps == 1000 && info.prediction_type == -1);
    diffusion_schedule_free(schedule);
}

static void *read_schedule(void *argument) {
    const diffusion_schedule *schedule = argument;
    float out[4];
    for (int i = 0; i < 200; i++) {
        if (diffusion_schedule_add_noise(schedule, X0, NOISE, 2, 2, T, out, NULL) != DIFFUSION_OK) return argument;
        if (fabsf(out[0] - 0.96066713f) > 1e-6f) return argument;
    }
    return NULL;
}

static void any_number_of_threads_may_read(void) {
    diffusion_schedule *schedule = sd_schedule(0);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) REQUIRE(pthread_create(&threads[i], NULL, read_schedule, schedule) == 0);
    for (int i = 0; i < 4; i++) {
        void *failed = schedule;
        pthread_join(threads[i], &failed);
        CHECK(failed == NULL);
    }
    diffusion_schedule_free(schedule);
}

TOPIC(schedule, TEST(tables_are_those_of_diffusers), TEST(a_table_needs_room), TEST(facts_and_defaults),
      TEST(flow_and_edm_are_formulas), TEST(edm_has_a_target_where_no_signal_is_left),
      TEST(the_forward_process_is_that_of_diffusers), TEST(predictions_convert_both_ways),
      TEST(what_a_prediction_does_not_tell_is_an_error), TEST(bad_batches_are_refused), TEST(bad_parameters_are_refused),
      TEST(configs_and_models_give_schedules), TEST(sizes_of_structures_are_looked_at),
      TEST(any_number_of_threads_may_read));
