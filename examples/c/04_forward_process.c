/* Shows the forward process: a strip of a picture that dissolves into noise, timestep by timestep. No model is needed:
 * a noise schedule is all that a network's training, too, takes from here.
 *
 * Build it against the source tree (after `make`):
 *   cc -std=c99 -Iinclude examples/c/04_forward_process.c -Lbuild/lib -Wl,-rpath,$PWD/build/lib -ldiffusion -lm -o 04_forward_process
 * Run it:
 *   ./04_forward_process strip.png
 *   ./04_forward_process strip.png photo.png
 */
#include <diffusion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { FRAMES = 8 };

/* The picture to dissolve: a file, or a sun over the sea. */
static diffusion_status open_picture(const char *path, diffusion_image **image, diffusion_error **error) {
    enum { SIDE = 96 };
    static uint8_t pixels[SIDE][SIDE][3];
    if (path != NULL) return diffusion_image_load_png(path, image, error);
    for (int y = 0; y < SIDE; y++) {
        for (int x = 0; x < SIDE; x++) {
            int dx = x - 60, dy = y - 34, sea = y > 62;
            uint8_t *p = pixels[y][x];
            if (!sea && dx * dx + dy * dy < 20 * 20) {
                p[0] = 255, p[1] = 224, p[2] = 96;
            } else {
                p[0] = (uint8_t)(sea ? 16 : 250 - 2 * y), p[1] = (uint8_t)(sea ? 96 - y / 2 + x / 4 : 120 + y);
                p[2] = (uint8_t)(sea ? 150 : 220 - y);
            }
        }
    }
    return diffusion_image_new(SIDE, SIDE, DIFFUSION_FORMAT_RGB8, pixels, 0, image, error);
}

/* Lays the frames, values in -1..1, side by side as one image. */
static diffusion_status save_strip(const float *frames, const diffusion_image_info *size, const char *path,
                                   diffusion_error **error) {
    size_t row = (size_t)size->width * 3, image = row * size->height;
    float *strip = malloc(FRAMES * image * sizeof *strip);
    if (strip == NULL) return DIFFUSION_ERROR_OUT_OF_MEMORY;
    for (size_t f = 0; f < FRAMES; f++)
        for (size_t y = 0; y < size->height; y++)
            for (size_t x = 0; x < row; x++)
                strip[(y * FRAMES + f) * row + x] = (frames[f * image + y * row + x] + 1) / 2; /* clamped by the library */

    diffusion_image *out = NULL;
    diffusion_status status =
        diffusion_image_new(FRAMES * size->width, size->height, DIFFUSION_FORMAT_RGBF32, strip, 0, &out, error);
    if (status == DIFFUSION_OK) status = diffusion_image_save_png(out, path, error);
    diffusion_image_free(out);
    free(strip);
    return status;
}

int main(int argc, char **argv) {
    const char *path = argc > 1 ? argv[1] : "strip.png";
    diffusion_image *picture = NULL;
    diffusion_schedule *schedule = NULL;
    diffusion_error *error = NULL;
    float *samples = NULL, *noise = NULL;
    int exit_code = 1;

    /* Stable Diffusion's schedule; diffusion_schedule_from_model() takes that of any model. */
    diffusion_schedule_desc desc = DIFFUSION_SCHEDULE_DESC_INIT;
    desc.beta_schedule = DIFFUSION_BETA_SCHEDULE_SCALED_LINEAR;
    desc.beta_start = 0.00085;
    desc.beta_end = 0.012;
    if (diffusion_schedule_new(&desc, &schedule, &error) != DIFFUSION_OK) goto end;

    diffusion_image_info size = DIFFUSION_IMAGE_INFO_INIT;
    if (open_picture(argc > 2 ? argv[2] : NULL, &picture, &error) != DIFFUSION_OK) goto end;
    if (diffusion_image_get_info(picture, &size, &error) != DIFFUSION_OK) goto end;

    if (size.width > 8192 / FRAMES) {
        fprintf(stderr, "the picture is %u pixels wide; of %d side by side each may have %d\n", size.width, FRAMES,
                8192 / FRAMES);
        goto end;
    }

    /* A batch: the picture FRAMES times, under the same noise. Models see pixels and latents around -1..1. */
    uint32_t values = size.width * size.height * 3;
    samples = malloc((size_t)FRAMES * values * sizeof *samples);
    noise = malloc((size_t)FRAMES * values * sizeof *noise);
    if (samples == NULL || noise == NULL) goto end;
    if (diffusion_image_copy(picture, samples, values * sizeof *samples, 0, DIFFUSION_FORMAT_RGBF32, 0, &error) !=
            DIFFUSION_OK ||
        diffusion_noise_fill(DIFFUSION_NOISE_PHILOX, 1, noise, values, &error) != DIFFUSION_OK)
        goto end;
    for (size_t i = 0; i < values; i++) samples[i] = 2 * samples[i] - 1;
    for (size_t i = values; i < (size_t)FRAMES * values; i++) {
        samples[i] = samples[i % values];
        noise[i] = noise[i % values];
    }

    /* Each frame at a timestep of its own, closer together at the start, where the eye sees more. */
    double timesteps[FRAMES];
    for (int f = 0; f < FRAMES; f++) timesteps[f] = 999 * f * f / ((FRAMES - 1) * (FRAMES - 1));
    if (diffusion_schedule_add_noise(schedule, samples, noise, FRAMES, values, timesteps, samples, &error) != DIFFUSION_OK)
        goto end;

    puts("timestep  signal   noise  signal-to-noise ratio");
    for (int f = 0; f < FRAMES; f++) {
        double alpha, sigma;
        if (diffusion_schedule_get_level(schedule, timesteps[f], &alpha, &sigma, &error) != DIFFUSION_OK) goto end;
        printf("%8.0f  %6.4f  %6.4f  %7.1f dB\n", timesteps[f], alpha, sigma, 20 * log10(alpha / sigma));
    }
    if (save_strip(samples, &size, path, &error) != DIFFUSION_OK) goto end;
    puts(path);
    exit_code = 0;

end:
    if (exit_code != 0)
        fprintf(stderr, "04_forward_process: %s\n", error != NULL ? diffusion_error_message(error) : "out of memory");
    diffusion_error_free(error);
    free(samples);
    free(noise);
    diffusion_image_free(picture);
    diffusion_schedule_free(schedule);
    return exit_code;
}
