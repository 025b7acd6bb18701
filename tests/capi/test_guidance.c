/* Guidance without a model, and a request's callback in its place. */
#include "check.h"
#include "support.h"
#include <math.h>
#include <string.h>

enum { VALUES = 4 };
static const float CONDITIONAL[VALUES] = {1, 2, -1, 0.5f}, UNCONDITIONAL[VALUES] = {0.5f, 1, 0, 0.5f};

static diffusion_guidance_desc desc_of(double scale) {
    diffusion_guidance_desc desc = DIFFUSION_GUIDANCE_DESC_INIT;
    desc.steps = 10;
    desc.values = VALUES;
    desc.guidance_scale = scale;
    return desc;
}

static diffusion_predictions predictions_at(uint32_t step) {
    diffusion_predictions p = DIFFUSION_PREDICTIONS_INIT;
    p.step = step;
    p.count = VALUES;
    p.conditional = CONDITIONAL;
    p.unconditional = UNCONDITIONAL;
    return p;
}

static diffusion_status try_desc(const diffusion_guidance_desc *desc, diffusion_error **error) {
    diffusion_guidance *guidance = (diffusion_guidance *)&quick;
    diffusion_status status = diffusion_guidance_new(desc, &guidance, error);
    CHECK((guidance != NULL) == (status == DIFFUSION_OK));
    diffusion_guidance_free(guidance);
    return status;
}

static void classifier_free_guidance_extrapolates(void) {
    diffusion_guidance_desc desc = desc_of(3);
    diffusion_guidance *guidance = NULL;
    float out[VALUES];
    uint32_t needs = 9;
    CHECK_STATUS(diffusion_guidance_new(&desc, &guidance, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_guidance_get_needs(guidance, 0, &needs, NULL), DIFFUSION_OK);
    CHECK(needs == DIFFUSION_NEEDS_UNCONDITIONAL);
    diffusion_predictions p = predictions_at(0);
    CHECK_STATUS(diffusion_guidance_combine(guidance, &p, out, NULL), DIFFUSION_OK);
    for (int i = 0; i < VALUES; i++)
        CHECK(fabsf(out[i] - (UNCONDITIONAL[i] + 3 * (CONDITIONAL[i] - UNCONDITIONAL[i]))) < 1e-6f);
    diffusion_guidance_free(guidance);
}

static void guidance_has_an_interval_and_a_schedule(void) {
    double scales[10];
    for (int i = 0; i < 10; i++) scales[i] = 1 + i;
    diffusion_guidance_desc desc = desc_of(0);
    diffusion_guidance *guidance = NULL;
    desc.guidance_start = 0.2;
    desc.guidance_stop = 0.5;
    desc.guidance_schedule = scales;
    desc.guidance_schedule_count = 10;
    CHECK_STATUS(diffusion_guidance_new(&desc, &guidance, NULL), DIFFUSION_OK);
    for (uint32_t step = 0; step < 10; step++) {
        diffusion_predictions p = predictions_at(step);
        uint32_t needs = 9;
        float out[VALUES];
        bool guided = step >= 2 && step < 5;
        CHECK_STATUS(diffusion_guidance_get_needs(guidance, step, &needs, NULL), DIFFUSION_OK);
        CHECK(needs == (guided ? DIFFUSION_NEEDS_UNCONDITIONAL : 0));
        if (!guided) p.unconditional = NULL;
        CHECK_STATUS(diffusion_guidance_combine(guidance, &p, out, NULL), DIFFUSION_OK);
        CHECK(fabsf(out[0] - (guided ? 0.5f + (float)scales[step] * 0.5f : 1.0f)) < 1e-6f);
    }
    diffusion_guidance_free(guidance);
}

/* APG without the part along x0, for predictions that are x0 = 2 * input - prediction: worked out by hand. */
static void adaptive_projected_guidance_is_of_x0(void) {
    const float input[VALUES] = {0, 0, 0, 0.25f};
    diffusion_guidance_desc desc = desc_of(3);
    diffusion_guidance *guidance = NULL;
    diffusion_error *error = NULL;
    float out[VALUES];
    desc.method = DIFFUSION_GUIDANCE_METHOD_APG;
    desc.flags = DIFFUSION_GUIDANCE_APG_ETA_ZERO | DIFFUSION_GUIDANCE_APG_NORM_ANY;
    CHECK_STATUS(diffusion_guidance_new(&desc, &guidance, NULL), DIFFUSION_OK);
    diffusion_predictions p = predictions_at(0);
    p.input = input;
    p.x0_from_input = 2;
    p.x0_from_prediction = -1;
    CHECK_STATUS(diffusion_guidance_combine(guidance, &p, out, NULL), DIFFUSION_OK);
    /* x0 = (-1, -2, 1, 0), of which the difference (-0.5, -1, 1, 0) has 3.5 / 6 along it. */
    const float expected[VALUES] = {1 - 2 * (-0.5f + 3.5f / 6), 2 - 2 * (-1 + 7.0f / 6), -1 - 2 * (1 - 3.5f / 6), 0.5f};
    for (int i = 0; i < VALUES; i++) CHECK(fabsf(out[i] - expected[i]) < 1e-6f);
    p.x0_from_prediction = 0;
    CHECK_STATUS(diffusion_guidance_combine(guidance, &p, out, &error), DIFFUSION_ERROR_INVALID_ARGUMENT);
    diffusion_error_free(error);
    diffusion_guidance_free(guidance);
}

static void zeros_are_said_by_flags(void) {
    diffusion_guidance_desc desc = desc_of(0);
    diffusion_guidance *guidance = NULL;
    diffusion_error *error = NULL;
    diffusion_predictions p = predictions_at(0);
    float out[VALUES];
    CHECK_STATUS(diffusion_guidance_new(&desc, &guidance, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_guidance_combine(guidance, &p, out, NULL), DIFFUSION_OK);
    CHECK(fabsf(out[0] - (0.5f + 7.5f * 0.5f)) < 1e-6f); /* the default */
    diffusion_guidance_free(guidance);

    desc.flags = DIFFUSION_GUIDANCE_SCALE_ZERO;
    desc.needs_unconditional = 1; /* as the CFG++ samplers do, for which scales below 1 mean something */
    CHECK_STATUS(diffusion_guidance_new(&desc, &guidance, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_guidance_combine(guidance, &p, out, NULL), DIFFUSION_OK);
    CHECK(memcmp(out, UNCONDITIONAL, sizeof out) == 0);
    diffusion_guidance_free(guidance);

    desc.guidance_scale = 2;
    CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "guidance_scale");
    desc.flags = 16;
    CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "flags");

    /* CFG-Zero* predicts zero in its first steps, unless told not to. */
    desc = desc_of(2);
    desc.method = DIFFUSION_GUIDANCE_METHOD_CFG_ZERO_STAR;
    CHECK_STATUS(diffusion_guidance_new(&desc, &guidance, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_guidance_combine(guidance, &p, out, NULL), DIFFUSION_OK);
    for (int i = 0; i < VALUES; i++) CHECK(fpclassify(out[i]) == FP_ZERO);
    diffusion_guidance_free(guidance);
    desc.flags = DIFFUSION_GUIDANCE_ZERO_INIT_NONE;
    CHECK_STATUS(diffusion_guidance_new(&desc, &guidance, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_guidance_combine(guidance, &p, out, NULL), DIFFUSION_OK);
    CHECK(fabsf(out[1]) > 1);
    diffusion_guidance_free(guidance);
}

static void bad_arguments_are_refused(void) {
    const struct {
        const char *culprit;
        size_t offset;
        double value;
    } numbers[] = {
        {"guidance_scale", offsetof(diffusion_guidance_desc, guidance_scale), NAN},
        {"guidance_rescale", offsetof(diffusion_guidance_desc, guidance_rescale), 1.5},
        {"guidance_start", offsetof(diffusion_guidance_desc, guidance_start), -0.1},
        {"guidance_stop", offsetof(diffusion_guidance_desc, guidance_stop), 2},
        {"apg_momentum", offsetof(diffusion_guidance_desc, apg_momentum), 1},
        {"apg_norm_threshold", offsetof(diffusion_guidance_desc, apg_norm_threshold), -1},
        {"pag_scale", offsetof(diffusion_guidance_desc, pag_scale), -1},
    };
    diffusion_error *error = NULL;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        diffusion_guidance_desc desc = desc_of(2);
        memcpy((char *)&desc + numbers[i].offset, &numbers[i].value, sizeof(double));
        CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, numbers[i].culprit);
    }
    diffusion_guidance_desc desc = desc_of(2);
    desc.steps = 0;
    CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "steps");
    desc = desc_of(2);
    desc.values = 0;
    CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "values");
    desc = desc_of(2);
    desc.method = 9;
    CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "method");
    desc = desc_of(2);
    desc.needs_unconditional = 2;
    CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "needs_unconditional");
    double scales[3] = {1, 2, 3};
    desc = desc_of(2);
    desc.guidance_schedule = scales;
    desc.guidance_schedule_count = 3;
    CHECK_ERROR(try_desc(&desc, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "guidance_schedule");

    desc = desc_of(2);
    diffusion_guidance *guidance = NULL;
    float out[VALUES] = {7, 7, 7, 7};
    uint32_t needs = 9;
    CHECK_STATUS(diffusion_guidance_new(&desc, &guidance, NULL), DIFFUSION_OK);
    CHECK_ERROR(diffusion_guidance_get_needs(guidance, 10, &needs, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT,
                "step 10");
    CHECK(needs == 0);
    diffusion_predictions p = predictions_at(10);
    CHECK_ERROR(diffusion_guidance_combine(guidance, &p, out, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "step 10");
    p = predictions_at(0);
    p.count = 3;
    CHECK_ERROR(diffusion_guidance_combine(guidance, &p, out, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "count");
    p = predictions_at(0);
    p.unconditional = NULL;
    CHECK_ERROR(diffusion_guidance_combine(guidance, &p, out, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT,
                "unconditional");
    p = predictions_at(0);
    p.conditional = NULL;
    CHECK_ERROR(diffusion_guidance_combine(guidance, &p, out, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT,
                "conditional");
    float both[2 * VALUES] = {0};
    p = predictions_at(0);
    p.unconditional = both;
    CHECK_ERROR(diffusion_guidance_combine(guidance, &p, both + 1, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT,
                "overlaps");
    p.struct_size = 2;
    CHECK_ERROR(diffusion_guidance_combine(guidance, &p, out, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT,
                "struct_size");
    CHECK(out[0] > 6);
    diffusion_guidance_free(guidance);
}

/* A host that guides a request's job by itself. */
typedef struct guide {
    int calls;
    double scale;
    int stop_at;
    int nan_at;
    int incomplete;
} guide;

static int32_t combine(const diffusion_predictions *p, float *out, void *user_data) {
    guide *g = user_data;
    g->calls++;
    g->incomplete += p->conditional == NULL || p->unconditional == NULL || p->perturbed != NULL ||
                     p->struct_size != sizeof *p || p->step + 1 != (uint32_t)g->calls;
    if (p->unconditional == NULL) return 1;
    float scale = (float)g->scale;
    for (size_t i = 0; i < p->count; i++)
        out[i] = p->unconditional[i] + scale * (p->conditional[i] - p->unconditional[i]);
    if (g->calls == g->nan_at) out[0] = NAN;
    return g->calls == g->stop_at;
}

static void a_request_takes_the_host_s_combination(void) {
    diffusion_request *r = new_request(3, 1);
    CHECK_STATUS(diffusion_request_set_string(r, DIFFUSION_OPTION_SAMPLER, "euler"), DIFFUSION_OK);
    picture own = generate_picture(shared_model(), r), host, reset;
    guide g = {0, 2.5, 0, 0, 0}; /* new_request's scale */
    CHECK_STATUS(diffusion_request_set_guidance_callback(r, combine, &g), DIFFUSION_OK);
    host = generate_picture(shared_model(), r);
    CHECK(g.calls == 3 && g.incomplete == 0);
    for (size_t i = 0; own.rgb != NULL && host.rgb != NULL && i < (size_t)own.width * own.height * 3; i++)
        CHECK(fabsf(own.rgb[i] - host.rgb[i]) < 1e-3f);
    picture_free(&host);
    g = (guide){0, 6, 0, 0, 0};
    host = generate_picture(shared_model(), r);
    CHECK(!same_picture(&own, &host));
    CHECK_STATUS(diffusion_request_set_guidance_callback(r, NULL, NULL), DIFFUSION_OK);
    reset = generate_picture(shared_model(), r);
    CHECK(same_picture(&own, &reset) && g.calls == 3);
    picture_free(&own);
    picture_free(&host);
    picture_free(&reset);
    diffusion_request_free(r);
}

static void the_host_s_combination_may_stop_or_fail(void) {
    diffusion_session *session = new_session(shared_model());
    diffusion_request *r = new_request(5, 1);
    diffusion_image *image = NULL;
    diffusion_error *error = NULL;
    guide g = {0, 2.5, 2, 0, 0};
    CHECK_STATUS(diffusion_request_set_guidance_callback(r, combine, &g), DIFFUSION_OK);
    CHECK_ERROR(diffusion_generate(session, r, &image, &error), error, DIFFUSION_ERROR_CANCELLED, "cancel");
    CHECK(image == NULL && g.calls == 2);
    g = (guide){0, 2.5, 0, 3, 0};
    CHECK_ERROR(diffusion_generate(session, r, &image, &error), error, DIFFUSION_ERROR_NUMERIC, "NaN");
    CHECK(image == NULL && g.calls == 3);
    diffusion_request_free(r);
    diffusion_session_free(session);
}

TOPIC(guidance, TEST(classifier_free_guidance_extrapolates), TEST(adaptive_projected_guidance_is_of_x0),
      TEST(guidance_has_an_interval_and_a_schedule),
      TEST(zeros_are_said_by_flags), TEST(bad_arguments_are_refused), TEST(a_request_takes_the_host_s_combination),
      TEST(the_host_s_combination_may_stop_or_fail));
