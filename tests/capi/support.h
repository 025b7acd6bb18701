/* What most tests need: one engine and model for the whole run, and requests and images in one call. */
#ifndef SUPPORT_H
#define SUPPORT_H

#include "check.h"

/* The folder of the model under test: $DIFFUSION_TEST_MODEL, or models/emoji-64 under the current folder. */
const char *model_path(void);

/* One engine of one thread of the CPU and one model, made at the first call and freed by support_shutdown. */
diffusion_engine *shared_engine(void);
diffusion_model *shared_model(void);
void support_shutdown(void);

/* A new engine on the CPU with so many threads; NULL and a failed check when that does not work. */
diffusion_engine *engine_with_threads(uint32_t threads);

/* Width and height of what new_request asks for: small, since valgrind takes about a second for a step of it. Tests
 * for which size matters set their own; 0 is the model's. */
enum { SIDE = 16 };

/* A request for "a red apple" at guidance 2.5 with a seed and so many steps; new_request is for the shared model. */
diffusion_request *new_request_for(diffusion_model *model, uint32_t steps, uint64_t seed);
diffusion_request *new_request(uint32_t steps, uint64_t seed);
void set_size(diffusion_request *request, uint32_t side);
diffusion_session *new_session(diffusion_model *model);

/* Submits, waits, and checks that all went well; NULL when not. */
diffusion_job *run_job(diffusion_session *session, const diffusion_request *request);
diffusion_image *job_image(diffusion_job *job, uint32_t index);
diffusion_result job_result(const diffusion_job *job);

/* An image as floats, before rounding to bytes: where a difference in the last bit shows. */
typedef struct picture {
    uint32_t width, height;
    float *rgb; /* width * height * 3; NULL when something failed */
} picture;
picture picture_of(diffusion_image *image);
picture generate_picture(diffusion_model *model, const diffusion_request *request);
bool same_picture(const picture *a, const picture *b); /* to the last bit; false when either is empty */
/* Decibels of a picture in [0, 1] against another; NaN and pictures that are not there are 0. */
double psnr(const picture *a, const picture *b);
void picture_free(picture *p);

/* Milliseconds of a clock that only goes forward. */
double now_ms(void);
void sleep_ms(long ms);

#endif
