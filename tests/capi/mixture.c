#include "mixture.h"
#include "check.h"
#include <math.h>

float mixture_epsilon(float x, double alpha, double sigma) {
    static const double weights[3] = {0.3, 0.5, 0.2}, means[3] = {-1.2, 0.4, 1.5}, stds[3] = {0.3, 0.2, 0.4};
    double logs[3], expected[3], most = -HUGE_VAL, sum = 0, original = 0;
    for (int k = 0; k < 3; k++) {
        double off = x - alpha * means[k], variance = alpha * alpha * stds[k] * stds[k] + sigma * sigma;
        logs[k] = log(weights[k]) - 0.5 * off * off / variance - 0.5 * log(variance);
        expected[k] = means[k] + alpha * stds[k] * stds[k] * off / variance;
        if (logs[k] > most) most = logs[k];
    }
    for (int k = 0; k < 3; k++) {
        sum += exp(logs[k] - most);
        original += exp(logs[k] - most) * expected[k];
    }
    return (float)((x - alpha * original / sum) / sigma);
}

int32_t host_denoise(const diffusion_question *question, float *prediction, float *unconditional, void *user_data) {
    host *h = user_data;
    size_t count = (size_t)question->images * question->values;
    h->calls++;
    h->last_timestep = question->timestep;
    if ((unconditional != NULL) != (question->needs_unconditional != 0)) return 1;
    for (size_t i = 0; i < count; i++) {
        prediction[i] = mixture_epsilon(question->input[i], question->alpha, question->sigma);
        if (unconditional != NULL) unconditional[i] = prediction[i];
    }
    if (h->calls == h->nan_at) prediction[count - 1] = NAN;
    if (h->reenter != NULL) {
        diffusion_question other = DIFFUSION_QUESTION_INIT;
        h->reentered = diffusion_sampler_step(h->reenter, host_denoise, h, NULL);
        if (diffusion_sampler_ask(h->reenter, &other, NULL) != h->reentered ||
            diffusion_sampler_tell(h->reenter, prediction, count, NULL, 0, NULL) != h->reentered ||
            diffusion_sampler_start(h->reenter, NULL, 0, NULL) != h->reentered ||
            diffusion_sampler_copy_latents(h->reenter, prediction, count, NULL) != h->reentered ||
            diffusion_sampler_set_latents(h->reenter, prediction, count, NULL) != h->reentered)
            h->reentered = DIFFUSION_OK;
    }
    return h->calls == h->stop_at;
}

diffusion_schedule *sd_schedule(diffusion_prediction prediction) {
    diffusion_schedule_desc desc = DIFFUSION_SCHEDULE_DESC_INIT;
    diffusion_schedule *schedule = NULL;
    desc.beta_schedule = DIFFUSION_BETA_SCHEDULE_SCALED_LINEAR;
    desc.beta_start = 0.00085;
    desc.beta_end = 0.012;
    desc.prediction_type = prediction;
    CHECK_STATUS(diffusion_schedule_new(&desc, &schedule, NULL), DIFFUSION_OK);
    return schedule;
}
