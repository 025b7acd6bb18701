/* The analytic denoiser of tools/mixture.py: the exact answer to a mixture of three Gaussians, value by value. */
#ifndef MIXTURE_H
#define MIXTURE_H

#include <diffusion.h>
#include <stdint.h>

/* The noise expected in x = alpha * x0 + sigma * epsilon. */
float mixture_epsilon(float x, double alpha, double sigma);

/* A host's network of the mixture and what it has seen; the fields below `calls` make it misbehave. */
typedef struct host {
    int calls;
    int stop_at;              /* stops at this call, counted from 1; 0 = never */
    int nan_at;               /* answers NaN at this call */
    diffusion_sampler *reenter; /* uses this sampler in the midst of its step */
    diffusion_status reentered;
    double last_timestep;
} host;

/* A diffusion_denoise_callback whose user_data is a host. */
int32_t host_denoise(const diffusion_question *question, float *prediction, float *unconditional, void *user_data);

/* Stable Diffusion's schedule for a type of prediction. */
diffusion_schedule *sd_schedule(diffusion_prediction prediction);

#endif
