/* Latents in and out as floats: results that can be compared, stages that can be split. */
#include "check.h"
#include "support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { COUNT = 4 * (SIDE / 4) * (SIDE / 4) }; /* channels, height / 4, width / 4 of the small model */

static bool same_floats(const float *a, const float *b, size_t count) {
    return memcmp(a, b, count * sizeof(float)) == 0;
}

static void copy_of_latents(diffusion_job *job, uint32_t index, float *latents) {
    size_t count = 0;
    CHECK_STATUS(diffusion_job_latents_size(job, &count, NULL), DIFFUSION_OK);
    CHECK(count == COUNT);
    CHECK_STATUS(diffusion_job_copy_latents(job, index, latents, COUNT, NULL), DIFFUSION_OK);
}

static void final_latents_decode_to_the_same_image(void) {
    static float latents[COUNT], again[COUNT];
    diffusion_session *session = new_session(shared_model());
    diffusion_request *r = new_request(3, 5);
    diffusion_job *job = run_job(session, r);
    diffusion_image *image = job_image(job, 0);
    picture whole = picture_of(image);
    diffusion_image_free(image);
    copy_of_latents(job, 0, latents);
    diffusion_job_free(job);
    for (int i = 0; i < COUNT; i++) REQUIRE(isfinite(latents[i]));

    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_STEPS, 0), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_floats(r, DIFFUSION_OPTION_LATENTS, latents, COUNT), DIFFUSION_OK);
    job = run_job(session, r);
    image = job_image(job, 0);
    picture decoded = picture_of(image);
    diffusion_image_free(image);
    copy_of_latents(job, 0, again);
    diffusion_job_free(job);
    CHECK(same_picture(&whole, &decoded));
    CHECK(same_floats(latents, again, COUNT));

    picture_free(&whole);
    picture_free(&decoded);
    diffusion_request_free(r);
    diffusion_session_free(session);
}

static void given_noise_takes_the_place_of_the_seed(void) {
    static float noise[COUNT], first[COUNT], second[COUNT], seeded[COUNT];
    uint32_t state = 1;
    for (int i = 0; i < COUNT; i++) { /* the sum of 12 uniform numbers is close to normal */
        float sum = -6;
        for (int k = 0; k < 12; k++) {
            state = state * 1664525u + 1013904223u;
            sum += (float)(state >> 8) / 16777216.0f;
        }
        noise[i] = sum;
    }
    diffusion_session *session = new_session(shared_model());
    float *const out[2] = {first, second};
    for (int i = 0; i < 2; i++) {
        diffusion_request *r = new_request(2, (uint64_t)i); /* another seed, which must not matter */
        CHECK_STATUS(diffusion_request_set_floats(r, DIFFUSION_OPTION_LATENTS, noise, COUNT), DIFFUSION_OK);
        diffusion_job *job = run_job(session, r);
        copy_of_latents(job, 0, out[i]);
        diffusion_job_free(job);
        if (i == 1) { /* taken back: the seed counts again */
            CHECK_STATUS(diffusion_request_set_floats(r, DIFFUSION_OPTION_LATENTS, NULL, 0), DIFFUSION_OK);
            job = run_job(session, r);
            copy_of_latents(job, 0, seeded);
            diffusion_job_free(job);
        }
        diffusion_request_free(r);
    }
    CHECK(same_floats(first, second, COUNT));
    CHECK(!same_floats(first, seeded, COUNT));
    diffusion_session_free(session);
}

static void latents_only_skips_the_decoder(void) {
    static float only[COUNT], full[COUNT];
    diffusion_session *session = new_session(shared_model());
    diffusion_request *r = new_request(2, 9);
    diffusion_job *job = run_job(session, r);
    copy_of_latents(job, 0, full);
    diffusion_job_free(job);
    CHECK_STATUS(diffusion_request_set_string(r, DIFFUSION_OPTION_OUTPUT, "latents"), DIFFUSION_OK);
    job = run_job(session, r);
    copy_of_latents(job, 0, only);
    CHECK(same_floats(full, only, COUNT));
    diffusion_image *image = (diffusion_image *)&session;
    diffusion_error *error = NULL;
    CHECK_ERROR(diffusion_job_take_image(job, 0, &image, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "0 images");
    CHECK(image == NULL);
    diffusion_job_free(job);

    /* Nothing to hand back as an image. */
    image = (diffusion_image *)&session;
    CHECK_ERROR(diffusion_generate(session, r, &image, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "latents");
    CHECK(image == NULL);
    diffusion_request_free(r);
    diffusion_session_free(session);
}

static void latents_of_the_wrong_size_are_refused(void) {
    static float latents[2 * COUNT];
    static const size_t counts[] = {1, COUNT - 1, COUNT + 1, 2 * COUNT};
    diffusion_session *session = new_session(shared_model());
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        diffusion_request *r = new_request(1, 0);
        diffusion_job *job = NULL;
        diffusion_error *error = NULL;
        CHECK_STATUS(diffusion_request_set_floats(r, DIFFUSION_OPTION_LATENTS, latents, counts[i]), DIFFUSION_OK);
        diffusion_status status = diffusion_submit(session, r, &job, &error);
        CHECK_ERROR(status, error, DIFFUSION_ERROR_INVALID_ARGUMENT, "latents");
        CHECK(job == NULL);
        diffusion_request_free(r);
    }
    diffusion_session_free(session);
}

static void latents_that_are_not_numbers_are_refused(void) {
    static float latents[COUNT];
    latents[COUNT - 1] = NAN;
    diffusion_session *session = new_session(shared_model());
    diffusion_request *r = new_request(0, 0);
    diffusion_image *image = (diffusion_image *)&session;
    diffusion_error *error = NULL;
    CHECK_STATUS(diffusion_request_set_floats(r, DIFFUSION_OPTION_LATENTS, latents, COUNT),
                 DIFFUSION_ERROR_INVALID_ARGUMENT);
    CHECK_ERROR(diffusion_generate(session, r, &image, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "latents");
    CHECK(image == NULL);
    diffusion_request_free(r);
    diffusion_session_free(session);
}

static void no_steps_without_latents_is_refused(void) {
    diffusion_session *session = new_session(shared_model());
    diffusion_request *r = new_request(0, 0);
    diffusion_image *image = (diffusion_image *)&session;
    diffusion_error *error = NULL;
    CHECK_ERROR(diffusion_generate(session, r, &image, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "latents");
    CHECK(image == NULL);
    diffusion_request_free(r);
    diffusion_session_free(session);
}

static void copies_of_latents_check_their_arguments(void) {
    static float latents[COUNT];
    diffusion_session *session = new_session(shared_model());
    diffusion_request *r = new_request(1, 0);
    diffusion_job *job = run_job(session, r);
    diffusion_error *error = NULL;
    CHECK_ERROR(diffusion_job_copy_latents(job, 0, latents, COUNT - 1, &error), error,
                DIFFUSION_ERROR_BUFFER_TOO_SMALL, "64");
    CHECK_ERROR(diffusion_job_copy_latents(job, 1, latents, COUNT, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT,
                "1");
    diffusion_job_free(job);
    diffusion_request_free(r);
    diffusion_session_free(session);
}

TOPIC(latents, TEST(final_latents_decode_to_the_same_image), TEST(given_noise_takes_the_place_of_the_seed),
      TEST(latents_only_skips_the_decoder), TEST(latents_of_the_wrong_size_are_refused),
      TEST(latents_that_are_not_numbers_are_refused), TEST(no_steps_without_latents_is_refused),
      TEST(copies_of_latents_check_their_arguments));
