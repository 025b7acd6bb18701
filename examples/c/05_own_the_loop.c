/* Shows a sampler in a loop of the host's own, with a network of the host's own: here the exact denoiser of a mixture of
 * three Gaussians in the plane, which a few lines of C can stand for. What comes out must look like the mixture.
 *
 * Build it against the source tree (after `make`):
 *   cc -std=c99 -Iinclude examples/c/05_own_the_loop.c -Lbuild/lib -Wl,-rpath,$PWD/build/lib -ldiffusion -lm -o 05_own_the_loop
 * Run it:
 *   ./05_own_the_loop
 *   ./05_own_the_loop ddim 20 points.png
 */
#include <diffusion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POINTS = 4000, VALUES = 2 * POINTS };

/* Gaussian k has the weight WEIGHT[k] and, around MEAN[k], the standard deviation STD[k] in every direction. */
enum { GAUSSIANS = 3 };
static const double WEIGHT[GAUSSIANS] = {0.3, 0.5, 0.2};
static const double MEAN[GAUSSIANS][2] = {{-1.2, -0.6}, {0.4, 0.9}, {1.1, -0.8}};
static const double STD[GAUSSIANS] = {0.25, 0.35, 0.15};

/* The "network": the noise that a point x = alpha * x0 + sigma * epsilon is expected to hold. x0 is expected at the mean
 * of what each Gaussian expects, weighed by how well it explains x. */
static void predict_noise(const float *x, double alpha, double sigma, float *epsilon) {
    double logs[GAUSSIANS], expected[GAUSSIANS][2], most = -HUGE_VAL, sum = 0, x0[2] = {0, 0};
    for (int k = 0; k < GAUSSIANS; k++) {
        double variance = alpha * alpha * STD[k] * STD[k] + sigma * sigma, distance = 0;
        for (int d = 0; d < 2; d++) {
            double off = x[d] - alpha * MEAN[k][d];
            distance += off * off;
            expected[k][d] = MEAN[k][d] + alpha * STD[k] * STD[k] * off / variance;
        }
        logs[k] = log(WEIGHT[k] / variance) - distance / (2 * variance);
        if (logs[k] > most) most = logs[k];
    }
    for (int k = 0; k < GAUSSIANS; k++) {
        double share = exp(logs[k] - most);
        sum += share;
        for (int d = 0; d < 2; d++) x0[d] += share * expected[k][d];
    }
    for (int d = 0; d < 2; d++) epsilon[d] = (float)((x[d] - alpha * x0[d] / sum) / sigma);
}

/* The loop: the sampler asks, the network answers, until there is nothing left to do. */
static diffusion_status run(diffusion_sampler *sampler, diffusion_error **error) {
    static float prediction[VALUES];
    diffusion_question question = DIFFUSION_QUESTION_INIT;
    diffusion_status status = diffusion_sampler_start(sampler, NULL, 0, error);
    if (status != DIFFUSION_OK) return status;
    while ((status = diffusion_sampler_ask(sampler, &question, error)) == DIFFUSION_OK) {
        for (int i = 0; i < VALUES; i += 2)
            predict_noise(question.input + i, question.alpha, question.sigma, prediction + i);
        status = diffusion_sampler_tell(sampler, prediction, VALUES, NULL, 0, error);
        if (status != DIFFUSION_OK) return status;
        /* Between two steps the host may look, stop, or change the latents. */
    }
    return status == DIFFUSION_DONE ? DIFFUSION_OK : status;
}

/* The number of a sampler, from the library's own table; 0 for a name it does not know. */
static diffusion_sampler_id find_sampler(const char *name) {
    for (size_t i = 0; i < diffusion_sampler_count(); i++) {
        diffusion_sampler_info info = DIFFUSION_SAMPLER_INFO_INIT;
        if (diffusion_sampler_get_info(i, &info, NULL) == DIFFUSION_OK && strcmp(info.name, name) == 0)
            return info.sampler;
    }
    return 0;
}

/* Mean and covariance of the points, beside those that the mixture has. */
static void compare(const float *points) {
    double mean[2] = {0, 0}, covariance[3] = {0, 0, 0}, true_mean[2] = {0, 0}, true_covariance[3] = {0, 0, 0};
    for (int i = 0; i < VALUES; i++) mean[i % 2] += points[i] / (double)POINTS;
    for (int i = 0; i < VALUES; i += 2) {
        double x = points[i] - mean[0], y = points[i + 1] - mean[1];
        covariance[0] += x * x / POINTS;
        covariance[1] += x * y / POINTS;
        covariance[2] += y * y / POINTS;
    }
    for (int k = 0; k < GAUSSIANS; k++)
        for (int d = 0; d < 2; d++) true_mean[d] += WEIGHT[k] * MEAN[k][d];
    for (int k = 0; k < GAUSSIANS; k++) {
        double x = MEAN[k][0] - true_mean[0], y = MEAN[k][1] - true_mean[1];
        true_covariance[0] += WEIGHT[k] * (x * x + STD[k] * STD[k]);
        true_covariance[1] += WEIGHT[k] * x * y;
        true_covariance[2] += WEIGHT[k] * (y * y + STD[k] * STD[k]);
    }
    printf("             samples  mixture\n");
    printf("mean x       %7.3f  %7.3f\n", mean[0], true_mean[0]);
    printf("mean y       %7.3f  %7.3f\n", mean[1], true_mean[1]);
    printf("variance x   %7.3f  %7.3f\n", covariance[0], true_covariance[0]);
    printf("covariance   %7.3f  %7.3f\n", covariance[1], true_covariance[1]);
    printf("variance y   %7.3f  %7.3f\n", covariance[2], true_covariance[2]);
}

/* Where a coordinate lies in a plot of so many cells of -2.2..2.2; -1 outside. */
static int cell(float at, int cells) {
    double place = (at / 2.2 + 1) / 2 * cells;
    return place >= 0 && place < cells ? (int)place : -1;
}

static void print_plot(const float *points) {
    enum { WIDTH = 64, HEIGHT = 28 };
    static const char shades[] = " .:-=+*#%@";
    static int counts[HEIGHT][WIDTH];
    for (int i = 0; i < VALUES; i += 2) {
        int x = cell(points[i], WIDTH), y = cell(-points[i + 1], HEIGHT);
        if (x >= 0 && y >= 0) counts[y][x]++;
    }
    for (int y = 0; y < HEIGHT; y++) {
        for (int x = 0; x < WIDTH; x++) {
            int shade = (counts[y][x] + 2) / 3;
            putchar(shades[shade < 9 ? shade : 9]);
        }
        putchar('\n');
    }
}

static diffusion_status save_plot(const float *points, const char *path, diffusion_error **error) {
    enum { SIDE = 384 };
    static uint8_t pixels[SIDE][SIDE];
    memset(pixels, 255, sizeof pixels);
    for (int i = 0; i < VALUES; i += 2) {
        int x = cell(points[i], SIDE), y = cell(-points[i + 1], SIDE);
        if (x >= 0 && y >= 0) pixels[y][x] = (uint8_t)(pixels[y][x] / 3);
    }
    diffusion_image *image = NULL;
    diffusion_status status = diffusion_image_new(SIDE, SIDE, DIFFUSION_FORMAT_GRAY8, pixels, 0, &image, error);
    if (status == DIFFUSION_OK) status = diffusion_image_save_png(image, path, error);
    if (status == DIFFUSION_OK) puts(path);
    diffusion_image_free(image);
    return status;
}

int main(int argc, char **argv) {
    static float points[VALUES];
    const char *name = argc > 1 ? argv[1] : "euler";
    diffusion_schedule *schedule = NULL;
    diffusion_sampler *sampler = NULL;
    diffusion_error *error = NULL;
    int exit_code = 1;

    diffusion_schedule_desc training = DIFFUSION_SCHEDULE_DESC_INIT;
    training.beta_schedule = DIFFUSION_BETA_SCHEDULE_SCALED_LINEAR;
    training.beta_start = 0.00085;
    training.beta_end = 0.012;
    training.prediction_type = DIFFUSION_PREDICTION_EPSILON;

    diffusion_sampler_desc desc = DIFFUSION_SAMPLER_DESC_INIT;
    desc.sampler = find_sampler(name);
    desc.steps = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 50;
    desc.values = VALUES;
    desc.seed = 1;
    if (desc.sampler == 0) {
        fprintf(stderr, "05_own_the_loop: there is no sampler '%s'\n", name);
        return 1;
    }

    diffusion_sampler_plan plan = DIFFUSION_SAMPLER_PLAN_INIT;
    if (diffusion_schedule_new(&training, &schedule, &error) != DIFFUSION_OK) goto end;
    if (diffusion_sampler_new(schedule, &desc, &sampler, &error) != DIFFUSION_OK) goto end;
    if (diffusion_sampler_get_plan(sampler, &plan, &error) != DIFFUSION_OK) goto end;
    if (run(sampler, &error) != DIFFUSION_OK) goto end;
    if (diffusion_sampler_copy_latents(sampler, points, VALUES, &error) != DIFFUSION_OK) goto end;

    print_plot(points);
    printf("%d points, %s, %u steps, %u evaluations\n", POINTS, name, plan.steps, plan.evaluations);
    compare(points);
    if (argc > 3 && save_plot(points, argv[3], &error) != DIFFUSION_OK) goto end;
    exit_code = 0;

end:
    if (error != NULL) fprintf(stderr, "05_own_the_loop: %s\n", diffusion_error_message(error));
    diffusion_error_free(error);
    diffusion_sampler_free(sampler);
    diffusion_schedule_free(schedule);
    return exit_code;
}
