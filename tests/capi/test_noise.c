/* Noise equal to torch's. */
#include "check.h"
#include <math.h>
#include <string.h>

static void noise_is_that_of_torch(void) {
    /* torch.manual_seed(42); torch.randn(5), and the ends of torch.randn(20) */
    static const float five[5] = {0.33669036626815796f, 0.12880940735340118f, 0.23446236550807953f, 0.23033303022384644f,
                                  -1.1228563785552979f};
    float out[20];
    CHECK_STATUS(diffusion_noise_fill(DIFFUSION_NOISE_MT19937, 42, out, 5, NULL), DIFFUSION_OK);
    CHECK(memcmp(out, five, sizeof five) == 0);
    CHECK_STATUS(diffusion_noise_fill(DIFFUSION_NOISE_MT19937, 42, out, 20, NULL), DIFFUSION_OK);
    static const float head[2] = {1.9269152879714966f, 1.4872840642929077f},
                       tail[2] = {0.8034093379974365f, -0.6215953826904297f};
    CHECK(memcmp(out, head, sizeof head) == 0 && memcmp(out + 18, tail, sizeof tail) == 0);

    /* torch.manual_seed(0); torch.randn(3, device="cuda") */
    static const float cuda[3] = {-0.92466259f, -0.42534415f, -2.6438457f};
    float automatic[3];
    CHECK_STATUS(diffusion_noise_fill(DIFFUSION_NOISE_PHILOX, 0, out, 3, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_noise_fill(DIFFUSION_NOISE_AUTO, 0, automatic, 3, NULL), DIFFUSION_OK);
    for (int i = 0; i < 3; i++) CHECK(fabsf(out[i] - cuda[i]) < 5e-7f);
    CHECK(memcmp(out, automatic, sizeof automatic) == 0);
}

static void any_seed_and_count_will_do(void) {
    float out[4] = {7, 7, 7, 7}, other[4];
    CHECK_STATUS(diffusion_noise_fill(DIFFUSION_NOISE_PHILOX, 1, out, 0, NULL), DIFFUSION_OK);
    CHECK(out[0] > 6);
    CHECK_STATUS(diffusion_noise_fill(DIFFUSION_NOISE_PHILOX, UINT64_MAX, out, 4, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_noise_fill(DIFFUSION_NOISE_PHILOX, UINT64_MAX - 1, other, 4, NULL), DIFFUSION_OK);
    CHECK(memcmp(out, other, sizeof out) != 0);
    /* the Mersenne Twister takes 32 bits of the seed */
    CHECK_STATUS(diffusion_noise_fill(DIFFUSION_NOISE_MT19937, 5, out, 4, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_noise_fill(DIFFUSION_NOISE_MT19937, (UINT64_C(1) << 32) + 5, other, 4, NULL), DIFFUSION_OK);
    CHECK(memcmp(out, other, sizeof out) == 0);
}

static void bad_arguments_are_refused(void) {
    diffusion_error *error = NULL;
    float out[1];
    CHECK_ERROR(diffusion_noise_fill(3, 0, out, 1, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "noise");
    CHECK_ERROR(diffusion_noise_fill(-1, 0, out, 1, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "noise");
    CHECK_ERROR(diffusion_noise_fill(0, 0, out, SIZE_MAX, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "out");
}

TOPIC(noise, TEST(noise_is_that_of_torch), TEST(any_seed_and_count_will_do), TEST(bad_arguments_are_refused));
