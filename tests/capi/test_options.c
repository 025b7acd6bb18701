/* The option table, and what happens to values outside it. */
#include "check.h"
#include "support.h"
#include <math.h>
#include <string.h>

static diffusion_option_info info_at(size_t index) {
    diffusion_option_info info = DIFFUSION_OPTION_INFO_INIT;
    CHECK_STATUS(diffusion_option_get_info(index, &info, NULL), DIFFUSION_OK);
    return info;
}

static diffusion_option_info info_of(diffusion_option option) {
    for (size_t i = 0; i < diffusion_option_count(); i++) {
        diffusion_option_info info = info_at(i);
        if (info.option == option) return info;
    }
    CHECK(!"the option is in the table");
    diffusion_option_info none = DIFFUSION_OPTION_INFO_INIT;
    return none;
}

static void the_table_lists_every_option_once(void) {
    uint64_t seen = 0;
    for (size_t i = 0; i < diffusion_option_count(); i++) {
        diffusion_option_info info = info_at(i);
        REQUIRE(info.option >= 1 && info.option < 64);
        CHECK((seen >> info.option & 1) == 0);
        seen |= UINT64_C(1) << info.option;
        CHECK(info.type >= DIFFUSION_OPTION_TYPE_STRING && info.type <= DIFFUSION_OPTION_TYPE_IMAGE);
        CHECK(diffusion_option_find(info.name) == info.option);
        CHECK(strlen(info.summary) > 0 && strchr(info.summary, '\n') == NULL);
    }
    /* 1 (prompt) to 42 (perturbation), as the header numbers them */
    CHECK(seen == (UINT64_C(1) << 43) - 2);
    diffusion_option_info info = DIFFUSION_OPTION_INFO_INIT;
    diffusion_error *error = NULL;
    CHECK_ERROR(diffusion_option_get_info(diffusion_option_count(), &info, &error), error,
                DIFFUSION_ERROR_INVALID_ARGUMENT, "42");
    CHECK_ERROR(diffusion_option_get_info(SIZE_MAX, &info, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "");
}

static void names_types_and_defaults_are_those_of_the_header(void) {
    static const struct {
        diffusion_option option;
        const char *name;
        diffusion_option_type type;
        double min, max, default_value;
    } wanted[] = {
        {DIFFUSION_OPTION_STEPS, "steps", DIFFUSION_OPTION_TYPE_INT, 0, 1000, 20},
        {DIFFUSION_OPTION_GUIDANCE_SCALE, "guidance_scale", DIFFUSION_OPTION_TYPE_FLOAT, 0, 100, 7.5},
        {DIFFUSION_OPTION_BATCH_SIZE, "batch_size", DIFFUSION_OPTION_TYPE_INT, 1, 64, 1},
        {DIFFUSION_OPTION_ETA, "eta", DIFFUSION_OPTION_TYPE_FLOAT, -1, 1, -1},
        {DIFFUSION_OPTION_SIGMAS, "sigmas", DIFFUSION_OPTION_TYPE_FLOATS, 0, 0, 0},
        {DIFFUSION_OPTION_TIMESTEPS, "timesteps", DIFFUSION_OPTION_TYPE_FLOATS, 0, 0, 0},
        {DIFFUSION_OPTION_S_CHURN, "s_churn", DIFFUSION_OPTION_TYPE_FLOAT, 0, 1000, 0},
        {DIFFUSION_OPTION_S_TMIN, "s_tmin", DIFFUSION_OPTION_TYPE_FLOAT, 0, 1e6, 0},
        {DIFFUSION_OPTION_S_TMAX, "s_tmax", DIFFUSION_OPTION_TYPE_FLOAT, 0, 1e6, 0},
        {DIFFUSION_OPTION_S_NOISE, "s_noise", DIFFUSION_OPTION_TYPE_FLOAT, 0, 10, 1},
        {DIFFUSION_OPTION_IMAGE, "image", DIFFUSION_OPTION_TYPE_IMAGE, 0, 0, 0},
        {DIFFUSION_OPTION_MASK, "mask", DIFFUSION_OPTION_TYPE_IMAGE, 0, 0, 0},
        {DIFFUSION_OPTION_STRENGTH, "strength", DIFFUSION_OPTION_TYPE_FLOAT, 0, 1, 0.8},
        {DIFFUSION_OPTION_VARIATION_STRENGTH, "variation_strength", DIFFUSION_OPTION_TYPE_FLOAT, 0, 1, 0},
        {DIFFUSION_OPTION_DYNAMIC_THRESHOLDING_RATIO, "dynamic_thresholding_ratio", DIFFUSION_OPTION_TYPE_FLOAT, 0, 1,
         0},
        {DIFFUSION_OPTION_DYNAMIC_THRESHOLDING_MAX, "dynamic_thresholding_max", DIFFUSION_OPTION_TYPE_FLOAT, 1, 1e6,
         1},
        {DIFFUSION_OPTION_GUIDANCE_SCHEDULE, "guidance_schedule", DIFFUSION_OPTION_TYPE_FLOATS, 0, 0, 0},
        {DIFFUSION_OPTION_GUIDANCE_RESCALE, "guidance_rescale", DIFFUSION_OPTION_TYPE_FLOAT, 0, 1, 0},
        {DIFFUSION_OPTION_GUIDANCE_START, "guidance_start", DIFFUSION_OPTION_TYPE_FLOAT, 0, 1, 0},
        {DIFFUSION_OPTION_GUIDANCE_STOP, "guidance_stop", DIFFUSION_OPTION_TYPE_FLOAT, 0, 1, 1},
        {DIFFUSION_OPTION_ZERO_INIT_STEPS, "zero_init_steps", DIFFUSION_OPTION_TYPE_INT, 0, 1000, 1},
        {DIFFUSION_OPTION_APG_ETA, "apg_eta", DIFFUSION_OPTION_TYPE_FLOAT, 0, 10, 1},
        {DIFFUSION_OPTION_APG_NORM_THRESHOLD, "apg_norm_threshold", DIFFUSION_OPTION_TYPE_FLOAT, 0, 1e6, 15},
        {DIFFUSION_OPTION_APG_MOMENTUM, "apg_momentum", DIFFUSION_OPTION_TYPE_FLOAT, -0.99, 0.99, 0},
        {DIFFUSION_OPTION_PAG_SCALE, "pag_scale", DIFFUSION_OPTION_TYPE_FLOAT, 0, 100, 0},
        {DIFFUSION_OPTION_PAG_APPLIED_LAYERS, "pag_applied_layers", DIFFUSION_OPTION_TYPE_STRING, 0, 0, 0},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        diffusion_option_info info = info_of(wanted[i].option);
        CHECK(info.name != NULL && strcmp(info.name, wanted[i].name) == 0);
        CHECK(info.type == wanted[i].type);
        CHECK(fabs(info.min - wanted[i].min) < 1e-12 && fabs(info.max - wanted[i].max) < 1e-12);
        CHECK(fabs(info.default_value - wanted[i].default_value) < 1e-12);
    }
    CHECK(diffusion_option_find("prompt") == DIFFUSION_OPTION_PROMPT);
    CHECK(diffusion_option_find("negative_prompt") == DIFFUSION_OPTION_NEGATIVE_PROMPT);
    CHECK(diffusion_option_find("no_such_option") == 0);
    CHECK(diffusion_option_find("") == 0);
}

static void enums_name_their_choices(void) {
    CHECK(info_of(DIFFUSION_OPTION_SAMPLER).choice_count == 30);
    CHECK(info_of(DIFFUSION_OPTION_STEPS).choice_count == 0);
    static const struct {
        diffusion_option option;
        int32_t value;
        const char *name;
    } wanted[] = {
        {DIFFUSION_OPTION_SAMPLER, 0, "auto"},          {DIFFUSION_OPTION_SAMPLER, 1, "ddpm"},
        {DIFFUSION_OPTION_SAMPLER, 2, "ddim"},          {DIFFUSION_OPTION_SAMPLER, 3, "euler"},
        {DIFFUSION_OPTION_TIMESTEP_SPACING, 1, "leading"}, {DIFFUSION_OPTION_TIMESTEP_SPACING, 2, "trailing"},
        {DIFFUSION_OPTION_TIMESTEP_SPACING, 3, "linspace"}, {DIFFUSION_OPTION_NOISE, 1, "philox"},
        {DIFFUSION_OPTION_NOISE, 2, "mt19937"},         {DIFFUSION_OPTION_OUTPUT, 1, "image"},
        {DIFFUSION_OPTION_OUTPUT, 2, "latents"},        {DIFFUSION_OPTION_SAMPLER, DIFFUSION_SAMPLER_DPMPP_2M, "dpmpp_2m"},
        {DIFFUSION_OPTION_SAMPLER, DIFFUSION_SAMPLER_GRADIENT_ESTIMATION, "gradient_estimation"},
        {DIFFUSION_OPTION_SIGMA_SCHEDULE, DIFFUSION_SIGMA_SCHEDULE_KARRAS, "karras"},
        {DIFFUSION_OPTION_SIGMA_SCHEDULE, DIFFUSION_SIGMA_SCHEDULE_TURBO, "turbo"},
        {DIFFUSION_OPTION_PROFILE, DIFFUSION_PROFILE_A1111, "a1111"},
        {DIFFUSION_OPTION_PROFILE, DIFFUSION_PROFILE_COMFYUI, "comfyui"},
        {DIFFUSION_OPTION_GUIDANCE_METHOD, DIFFUSION_GUIDANCE_METHOD_APG, "apg"},
        {DIFFUSION_OPTION_PERTURBATION, DIFFUSION_PERTURBATION_SKIP_LAYER, "skip_layer"},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        const char *name = diffusion_option_choice(wanted[i].option, wanted[i].value);
        if (name == NULL || strcmp(name, wanted[i].name) != 0)
            check_failed(__FILE__, __LINE__, "choice %d of option %d is not %s", (int)wanted[i].value,
                         (int)wanted[i].option, wanted[i].name);
    }
    CHECK(diffusion_option_choice(DIFFUSION_OPTION_SAMPLER, 30) == NULL);
    CHECK(diffusion_option_choice(DIFFUSION_OPTION_SAMPLER, -1) == NULL);
    CHECK(diffusion_option_choice(DIFFUSION_OPTION_STEPS, 0) == NULL);
}

/* Submits a request with one bad setting: refused with `culprit` in the message, the out-parameter NULL. */
static void submit_refuses(diffusion_request *request, diffusion_status want, const char *culprit) {
    diffusion_session *session = new_session(shared_model());
    diffusion_job *job = (diffusion_job *)&session;
    diffusion_error *error = NULL;
    CHECK_ERROR(diffusion_submit(session, request, &job, &error), error, want, culprit);
    CHECK(job == NULL);
    diffusion_session_free(session);
    CHECK_STATUS(diffusion_request_reset(request), DIFFUSION_OK);
}

static void values_out_of_range_are_refused_when_set_and_when_submitted(void) {
    diffusion_request *r = new_request(1, 0);
    const diffusion_status bad = DIFFUSION_ERROR_INVALID_ARGUMENT;
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_STEPS, -1), bad);
    submit_refuses(r, bad, "steps");
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_STEPS, 1001), bad);
    submit_refuses(r, bad, "1001");
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_STEPS, INT64_MAX), bad);
    submit_refuses(r, bad, "steps");
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_BATCH_SIZE, 0), bad);
    submit_refuses(r, bad, "batch_size");
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_BATCH_SIZE, 65), bad);
    submit_refuses(r, bad, "batch_size");
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_WIDTH, -8), bad);
    submit_refuses(r, bad, "width");
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_HEIGHT, INT64_C(1) << 40), bad);
    submit_refuses(r, bad, "height");
    CHECK_STATUS(diffusion_request_set_float(r, DIFFUSION_OPTION_GUIDANCE_SCALE, -0.5), bad);
    submit_refuses(r, bad, "guidance_scale");
    CHECK_STATUS(diffusion_request_set_float(r, DIFFUSION_OPTION_GUIDANCE_SCALE, NAN), bad);
    submit_refuses(r, bad, "guidance_scale");
    CHECK_STATUS(diffusion_request_set_float(r, DIFFUSION_OPTION_GUIDANCE_SCALE, INFINITY), bad);
    submit_refuses(r, bad, "guidance_scale");
    CHECK_STATUS(diffusion_request_set_float(r, DIFFUSION_OPTION_ETA, 1.5), bad);
    submit_refuses(r, bad, "eta");
    /* Ranges of floats: a little past either end. */
    for (size_t i = 0; i < diffusion_option_count(); i++) {
        diffusion_option_info info = info_at(i);
        if (info.type != DIFFUSION_OPTION_TYPE_FLOAT) continue;
        CHECK_STATUS(diffusion_request_set_float(r, info.option, info.min - 1e-6), bad);
        submit_refuses(r, bad, info.name);
        CHECK_STATUS(diffusion_request_set_float(r, info.option, info.max + 1e-6), bad);
        submit_refuses(r, bad, info.name);
        CHECK_STATUS(diffusion_request_set_float(r, info.option, NAN), bad);
        submit_refuses(r, bad, info.name);
    }
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_SAMPLER, 30), bad);
    submit_refuses(r, bad, "sampler");
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_SAMPLER, -1), bad);
    submit_refuses(r, bad, "sampler");
    CHECK_STATUS(diffusion_request_set_string(r, DIFFUSION_OPTION_SAMPLER, "dpm++"), bad);
    submit_refuses(r, bad, "dpm++");
    diffusion_request_free(r);
}

static void the_wrong_type_is_refused(void) {
    diffusion_request *r = new_request(1, 0);
    const diffusion_status bad = DIFFUSION_ERROR_INVALID_ARGUMENT;
    const float values[1] = {0};
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_PROMPT, 1), bad);
    submit_refuses(r, bad, "prompt");
    CHECK_STATUS(diffusion_request_set_string(r, DIFFUSION_OPTION_STEPS, "20"), bad);
    submit_refuses(r, bad, "steps");
    CHECK_STATUS(diffusion_request_set_float(r, DIFFUSION_OPTION_STEPS, 20), bad);
    submit_refuses(r, bad, "steps");
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_GUIDANCE_SCALE, 7), bad);
    submit_refuses(r, bad, "guidance_scale");
    CHECK_STATUS(diffusion_request_set_floats(r, DIFFUSION_OPTION_SEED, values, 1), bad);
    submit_refuses(r, bad, "seed");
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_LATENTS, 1), bad);
    submit_refuses(r, bad, "latents");
    diffusion_request_free(r);
}

static void unknown_options_are_refused(void) {
    diffusion_request *r = new_request(1, 0);
    static const diffusion_option unknown[] = {0, -1, 43, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        char number[16];
        snprintf(number, sizeof number, "%d", (int)unknown[i]);
        CHECK_STATUS(diffusion_request_set_int(r, unknown[i], 1), DIFFUSION_ERROR_INVALID_ARGUMENT);
        submit_refuses(r, DIFFUSION_ERROR_INVALID_ARGUMENT, number);
    }
    diffusion_request_free(r);
}

static void the_first_bad_setting_is_the_one_reported(void) {
    diffusion_request *r = new_request(1, 0);
    diffusion_request_set_int(r, DIFFUSION_OPTION_STEPS, 5000);
    diffusion_request_set_float(r, DIFFUSION_OPTION_ETA, 3);
    diffusion_request_set_int(r, DIFFUSION_OPTION_STEPS, 1); /* setting it well later does not hide the mistake */
    submit_refuses(r, DIFFUSION_ERROR_INVALID_ARGUMENT, "5000");
    diffusion_request_free(r);
}

static void reset_forgets_settings_and_errors(void) {
    diffusion_request *r = new_request(1, 7);
    diffusion_session *session = new_session(shared_model());
    diffusion_request_set_int(r, DIFFUSION_OPTION_STEPS, 5000);
    CHECK_STATUS(diffusion_request_reset(r), DIFFUSION_OK);
    diffusion_request_set_string(r, DIFFUSION_OPTION_PROMPT, "a red apple");
    diffusion_request_set_int(r, DIFFUSION_OPTION_STEPS, 1);
    set_size(r, SIDE);
    diffusion_job *job = run_job(session, r);
    diffusion_result result = job_result(job);
    CHECK(result.seed == 0 && result.steps == 1 && result.image_count == 1);
    diffusion_job_free(job);
    diffusion_session_free(session);
    diffusion_request_free(r);
}

static void enums_may_be_set_by_name_or_number(void) {
    diffusion_session *session = new_session(shared_model());
    for (int by_name = 0; by_name < 2; by_name++) {
        diffusion_request *r = new_request(2, 0);
        if (by_name) {
            CHECK_STATUS(diffusion_request_set_string(r, DIFFUSION_OPTION_SAMPLER, "euler"), DIFFUSION_OK);
        } else {
            CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_SAMPLER, DIFFUSION_SAMPLER_EULER), DIFFUSION_OK);
        }
        diffusion_job *job = run_job(session, r);
        CHECK(job_result(job).sampler == DIFFUSION_SAMPLER_EULER);
        diffusion_job_free(job);
        diffusion_request_free(r);
    }
    diffusion_session_free(session);
}

TOPIC(options, TEST(the_table_lists_every_option_once), TEST(names_types_and_defaults_are_those_of_the_header),
      TEST(enums_name_their_choices), TEST(values_out_of_range_are_refused_when_set_and_when_submitted),
      TEST(the_wrong_type_is_refused), TEST(unknown_options_are_refused),
      TEST(the_first_bad_setting_is_the_one_reported), TEST(reset_forgets_settings_and_errors),
      TEST(enums_may_be_set_by_name_or_number));
