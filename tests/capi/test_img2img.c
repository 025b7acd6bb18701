/* Pictures into the library: images from pixels and files, image-to-image, inpainting, variations. */
#include "check.h"
#include "files.h"
#include "support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { COUNT = SIDE * SIDE };

static const diffusion_status BAD = DIFFUSION_ERROR_INVALID_ARGUMENT;

/* Red from left to right, green from top to bottom. The caller frees it. */
static diffusion_image *new_gradient(uint32_t width, uint32_t height) {
    uint8_t *pixels = malloc((size_t)width * height * 3);
    diffusion_image *image = NULL;
    CHECK(pixels != NULL);
    if (pixels == NULL) return NULL;
    for (uint32_t i = 0; i < width * height; i++) {
        pixels[i * 3] = (uint8_t)(i % width * 255 / width);
        pixels[i * 3 + 1] = (uint8_t)(i / width * 255 / height);
        pixels[i * 3 + 2] = 128;
    }
    CHECK_STATUS(diffusion_image_new(width, height, DIFFUSION_FORMAT_RGB8, pixels, 0, &image, NULL), DIFFUSION_OK);
    free(pixels);
    return image;
}

/* White in the right half. */
static diffusion_image *new_half_mask(void) {
    static uint8_t gray[COUNT];
    diffusion_image *image = NULL;
    for (int i = 0; i < COUNT; i++) gray[i] = i % SIDE < SIDE / 2 ? 0 : 255;
    CHECK_STATUS(diffusion_image_new(SIDE, SIDE, DIFFUSION_FORMAT_GRAY8, gray, 0, &image, NULL), DIFFUSION_OK);
    return image;
}

/* Sets an image and frees it at once: the request keeps what it needs. */
static void set_and_free(diffusion_request *request, diffusion_option option, diffusion_image *image) {
    CHECK_STATUS(diffusion_request_set_image(request, option, image), DIFFUSION_OK);
    diffusion_image_free(image);
}

/* The largest difference of a value between a picture and the gradient. */
static float distance_from_gradient(const picture *p) {
    diffusion_image *image = new_gradient(SIDE, SIDE);
    picture gradient = picture_of(image);
    diffusion_image_free(image);
    float most = p->rgb != NULL && gradient.rgb != NULL ? 0 : INFINITY;
    for (int i = 0; most < INFINITY && i < COUNT * 3; i++) most = fmaxf(most, fabsf(p->rgb[i] - gradient.rgb[i]));
    picture_free(&gradient);
    return most;
}

static void images_are_made_from_pixels_of_every_format(void) {
    static const uint8_t rgb[] = {1, 2, 3, 40, 50, 60}, rgba[] = {1, 2, 3, 0, 40, 50, 60, 0},
                         bgra[] = {3, 2, 1, 0, 60, 50, 40, 0}, gray[] = {7, 9};
    static const float real[] = {-1, 0.5f, 2, 0, 1, 0.25f};
    static const struct {
        diffusion_format format;
        const void *pixels;
        uint8_t wanted[6];
    } cases[] = {
        {DIFFUSION_FORMAT_RGB8, rgb, {1, 2, 3, 40, 50, 60}},   {DIFFUSION_FORMAT_RGBA8, rgba, {1, 2, 3, 40, 50, 60}},
        {DIFFUSION_FORMAT_BGRA8, bgra, {1, 2, 3, 40, 50, 60}}, {DIFFUSION_FORMAT_GRAY8, gray, {7, 7, 7, 9, 9, 9}},
        {DIFFUSION_FORMAT_RGBF32, real, {0, 128, 255, 0, 255, 64}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        diffusion_image *image = NULL;
        CHECK_STATUS(diffusion_image_new(2, 1, cases[i].format, cases[i].pixels, 0, &image, NULL), DIFFUSION_OK);
        REQUIRE(image != NULL);
        CHECK(memcmp(diffusion_image_pixels(image), cases[i].wanted, 6) == 0);
        CHECK(strcmp(diffusion_image_metadata(image), "") == 0);
        uint8_t mean[2];
        CHECK_STATUS(diffusion_image_copy(image, mean, 2, 0, DIFFUSION_FORMAT_GRAY8, 0, NULL), DIFFUSION_OK);
        if (cases[i].format == DIFFUSION_FORMAT_GRAY8) CHECK(memcmp(mean, gray, 2) == 0);
        if (cases[i].format == DIFFUSION_FORMAT_RGB8) CHECK(mean[0] == 2 && mean[1] == 50);
        diffusion_image_free(image);
    }
    /* One pixel a row, four bytes from row to row; nothing is read behind the last pixel. */
    diffusion_image *image = NULL;
    CHECK_STATUS(diffusion_image_new(1, 2, DIFFUSION_FORMAT_RGB8, rgba, 4, &image, NULL), DIFFUSION_OK);
    REQUIRE(image != NULL);
    CHECK(memcmp(diffusion_image_pixels(image), rgb, 6) == 0);
    diffusion_image_free(image);
}

static void pixels_that_make_no_image_are_refused(void) {
    static const uint8_t bytes[12] = {0};
    const float nan_pixel[3] = {0, NAN, 0};
    static const struct {
        uint32_t width, height;
        diffusion_format format;
        size_t stride;
        const char *culprit;
    } cases[] = {
        {0, 1, DIFFUSION_FORMAT_RGB8, 0, "width"},      {1, 0, DIFFUSION_FORMAT_RGB8, 0, "height"},
        {8193, 1, DIFFUSION_FORMAT_RGB8, 0, "8193"},    {UINT32_MAX, UINT32_MAX, DIFFUSION_FORMAT_RGBF32, 0, "width"},
        {2, 2, DIFFUSION_FORMAT_RGB8, 5, "row_stride"}, {2, 2, DIFFUSION_FORMAT_RGB8, SIZE_MAX, "row_stride"},
        {2, 2, 0, 0, "format"},                         {2, 2, 6, 0, "6"},
    };
    diffusion_error *error = NULL;
    diffusion_image *image;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        image = (diffusion_image *)&error;
        CHECK_ERROR(diffusion_image_new(cases[i].width, cases[i].height, cases[i].format, bytes, cases[i].stride,
                                        &image, &error),
                    error, BAD, cases[i].culprit);
        CHECK(image == NULL);
    }
    CHECK_ERROR(diffusion_image_new(1, 1, DIFFUSION_FORMAT_RGBF32, nan_pixel, 0, &image, &error), error, BAD,
                "value 1");
}

static void png_files_come_back_as_they_were(void) {
    char *folder = folder_of_model();
    REQUIRE(folder != NULL);
    char path[512];
    snprintf(path, sizeof path, "%s/gradient.png", folder);
    diffusion_image *image = new_gradient(40, 24), *again = NULL;
    diffusion_error *error = NULL;
    CHECK_STATUS(diffusion_image_save_png(image, path, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_image_load_png(path, &again, NULL), DIFFUSION_OK);
    REQUIRE(again != NULL);
    CHECK(memcmp(diffusion_image_pixels(image), diffusion_image_pixels(again), 40 * 24 * 3) == 0);
    diffusion_image_free(again);
    diffusion_image_free(image);

    /* Damaged, no PNG, a folder, nothing. */
    static const uint8_t zeros[4] = {0};
    size_t size = 0;
    free(file_read(path, &size));
    REQUIRE(size > 64);
    file_patch(folder, "gradient.png", size - 32, zeros, sizeof zeros); /* among the compressed pixels */
    CHECK_ERROR(diffusion_image_load_png(path, &again, &error), error, DIFFUSION_ERROR_FORMAT, "gradient.png");
    CHECK(again == NULL);
    file_truncate(folder, "gradient.png", 30);
    CHECK_ERROR(diffusion_image_load_png(path, &again, &error), error, DIFFUSION_ERROR_FORMAT, "gradient.png");
    file_truncate(folder, "gradient.png", 0);
    CHECK_ERROR(diffusion_image_load_png(path, &again, &error), error, DIFFUSION_ERROR_FORMAT, "gradient.png");
    snprintf(path, sizeof path, "%s/model_index.json", folder);
    CHECK_ERROR(diffusion_image_load_png(path, &again, &error), error, DIFFUSION_ERROR_FORMAT, "model_index.json");
    CHECK_ERROR(diffusion_image_load_png(folder, &again, &error), error, DIFFUSION_ERROR_IO, folder);
    snprintf(path, sizeof path, "%s/none.png", folder);
    CHECK_ERROR(diffusion_image_load_png(path, &again, &error), error, DIFFUSION_ERROR_NOT_FOUND, "none.png");
    folder_remove(folder);
}

/* Submitting must fail and name `culprit`. */
static void submit_refuses(diffusion_request *request, const char *culprit) {
    diffusion_session *session = new_session(shared_model());
    diffusion_job *job = (diffusion_job *)&session;
    diffusion_error *error = NULL;
    CHECK_ERROR(diffusion_submit(session, request, &job, &error), error, BAD, culprit);
    CHECK(job == NULL);
    diffusion_session_free(session);
}

static void images_are_set_only_where_they_belong(void) {
    diffusion_request *r = new_request(1, 0);
    diffusion_image *image = new_gradient(SIDE, SIDE);
    static const diffusion_option others[] = {0, DIFFUSION_OPTION_PROMPT, DIFFUSION_OPTION_STEPS,
                                              DIFFUSION_OPTION_LATENTS, DIFFUSION_OPTION_SAMPLER};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        CHECK_STATUS(diffusion_request_set_image(r, others[i], image), BAD);
        submit_refuses(r, "option");
        CHECK_STATUS(diffusion_request_reset(r), DIFFUSION_OK);
    }
    const float values[1] = {0};
    CHECK_STATUS(diffusion_request_set_string(r, DIFFUSION_OPTION_IMAGE, "cat.png"), BAD);
    submit_refuses(r, "option image: it takes an image");
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_MASK, 1), BAD);
    CHECK_STATUS(diffusion_request_set_float(r, DIFFUSION_OPTION_MASK, 1), BAD);
    CHECK_STATUS(diffusion_request_set_floats(r, DIFFUSION_OPTION_MASK, values, 1), BAD);
    diffusion_image_free(image);
    diffusion_request_free(r);
}

static void sizes_of_pictures_must_fit(void) {
    diffusion_request *r = new_request(1, 0);
    set_and_free(r, DIFFUSION_OPTION_IMAGE, new_gradient(SIDE, SIDE + 4));
    submit_refuses(r, "image is 16x20, but the images to make are 16x16");
    set_size(r, 0);
    set_and_free(r, DIFFUSION_OPTION_MASK, new_half_mask());
    submit_refuses(r, "mask is 16x16, but the images to make are 16x20");
    CHECK_STATUS(diffusion_request_set_image(r, DIFFUSION_OPTION_IMAGE, NULL), DIFFUSION_OK);
    submit_refuses(r, "mask");
    CHECK_STATUS(diffusion_request_set_image(r, DIFFUSION_OPTION_MASK, NULL), DIFFUSION_OK);
    set_and_free(r, DIFFUSION_OPTION_IMAGE, new_gradient(SIDE + 2, SIDE));
    submit_refuses(r, "width is 18");
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_STEPS, 0), DIFFUSION_OK);
    set_and_free(r, DIFFUSION_OPTION_IMAGE, new_gradient(SIDE, SIDE));
    submit_refuses(r, "steps is 0");
    /* No step is left. */
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_STEPS, 3), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_float(r, DIFFUSION_OPTION_STRENGTH, 0.3), DIFFUSION_OK);
    submit_refuses(r, "strength 0.3 of 3 steps");
    CHECK_STATUS(diffusion_request_set_float(r, DIFFUSION_OPTION_STRENGTH, 0), DIFFUSION_OK);
    submit_refuses(r, "strength 0");
    diffusion_request_free(r);
}

static void the_size_is_that_of_the_picture(void) {
    diffusion_request *r = new_request(1, 0);
    diffusion_session *session = new_session(shared_model());
    set_size(r, 0);
    set_and_free(r, DIFFUSION_OPTION_IMAGE, new_gradient(SIDE + 4, SIDE));
    CHECK_STATUS(diffusion_request_set_float(r, DIFFUSION_OPTION_STRENGTH, 1), DIFFUSION_OK);
    diffusion_job *job = run_job(session, r);
    CHECK(job_result(job).width == SIDE + 4 && job_result(job).height == SIDE);
    diffusion_job_free(job);
    diffusion_session_free(session);
    diffusion_request_free(r);
}

typedef struct stages {
    int count;
    diffusion_stage seen[16];
    uint32_t steps;
} stages;

static int32_t record(const diffusion_progress *progress, void *user_data) {
    stages *s = user_data;
    if (s->count < 16) s->seen[s->count++] = progress->stage;
    s->steps = progress->steps;
    return 0;
}

static void strength_says_how_far_to_go_from_the_picture(void) {
    diffusion_session *session = new_session(shared_model());
    float distances[2];
    for (int i = 0; i < 2; i++) {
        diffusion_request *r = new_request(i == 0 ? 20 : 2, 1);
        CHECK_STATUS(diffusion_request_set_float(r, DIFFUSION_OPTION_STRENGTH, i == 0 ? 0.05 : 1), DIFFUSION_OK);
        set_and_free(r, DIFFUSION_OPTION_IMAGE, new_gradient(SIDE, SIDE));
        stages s = {0, {0}, 0};
        CHECK_STATUS(diffusion_request_set_progress_callback(r, record, &s), DIFFUSION_OK);
        diffusion_job *job = run_job(session, r);
        CHECK(job_result(job).steps == (i == 0 ? 1 : 2)); /* steps taken, of those asked for */
        CHECK(s.steps == (i == 0 ? 1 : 2));
        REQUIRE(s.count >= 4);
        CHECK(s.seen[0] == DIFFUSION_STAGE_TEXT && s.seen[1] == DIFFUSION_STAGE_ENCODE);
        CHECK(s.seen[2] == DIFFUSION_STAGE_DENOISE && s.seen[s.count - 1] == DIFFUSION_STAGE_DECODE);
        diffusion_image *image = job_image(job, 0);
        CHECK(strstr(diffusion_image_metadata(image), "Denoising strength: ") != NULL);
        picture p = picture_of(image);
        distances[i] = distance_from_gradient(&p);
        picture_free(&p);
        diffusion_image_free(image);
        diffusion_job_free(job);
        diffusion_request_free(r);
    }
    CHECK(distances[0] < distances[1]);
    diffusion_session_free(session);
}

static void a_mask_keeps_what_is_black_to_the_bit(void) {
    static const double strengths[] = {1, 0.5};
    diffusion_image *gradient = new_gradient(SIDE, SIDE);
    picture original = picture_of(gradient);
    for (size_t s = 0; s < 2; s++) {
        diffusion_request *r = new_request(2, 1);
        CHECK_STATUS(diffusion_request_set_float(r, DIFFUSION_OPTION_STRENGTH, strengths[s]), DIFFUSION_OK);
        CHECK_STATUS(diffusion_request_set_image(r, DIFFUSION_OPTION_IMAGE, gradient), DIFFUSION_OK);
        set_and_free(r, DIFFUSION_OPTION_MASK, new_half_mask());
        picture p = generate_picture(shared_model(), r);
        REQUIRE(p.rgb != NULL && original.rgb != NULL);
        int changed = 0, painted = 0;
        for (int i = 0; i < COUNT * 3; i++) {
            bool differs = memcmp(p.rgb + i, original.rgb + i, sizeof(float)) != 0;
            if (i / 3 % SIDE < SIDE / 2) changed += differs;
            else painted += differs;
        }
        CHECK(changed == 0);
        CHECK(painted > COUNT);
        picture_free(&p);
        diffusion_request_free(r);
    }
    picture_free(&original);
    diffusion_image_free(gradient);
}

static void variations_move_from_one_seed_to_another(void) {
    diffusion_request *r = new_request(1, 5);
    picture at_seed = generate_picture(shared_model(), r);
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_SEED, 6), DIFFUSION_OK);
    picture at_other = generate_picture(shared_model(), r);
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_SEED, 5), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_int(r, DIFFUSION_OPTION_VARIATION_SEED, 6), DIFFUSION_OK);
    picture none = generate_picture(shared_model(), r);
    CHECK_STATUS(diffusion_request_set_float(r, DIFFUSION_OPTION_VARIATION_STRENGTH, 0.3), DIFFUSION_OK);
    picture some = generate_picture(shared_model(), r);
    CHECK_STATUS(diffusion_request_set_float(r, DIFFUSION_OPTION_VARIATION_STRENGTH, 1), DIFFUSION_OK);
    picture all = generate_picture(shared_model(), r);
    CHECK(same_picture(&at_seed, &none));
    CHECK(!same_picture(&at_seed, &some) && !same_picture(&at_other, &some));
    float most = 0;
    for (int i = 0; i < COUNT * 3; i++) most = fmaxf(most, fabsf(all.rgb[i] - at_other.rgb[i]));
    CHECK(most < 1e-3f); /* sin(omega)/sin(omega) may round */
    picture *const pictures[] = {&at_seed, &at_other, &none, &some, &all};
    for (size_t i = 0; i < 5; i++) picture_free(pictures[i]);
    diffusion_request_free(r);
}

/* A request large enough for the middle of the U-Net to have more than one token: attention to one is nothing but it. */
static diffusion_request *new_request_with_eta(void) {
    diffusion_request *r = new_request(2, 1);
    set_size(r, 2 * SIDE);
    CHECK_STATUS(diffusion_request_set_float(r, DIFFUSION_OPTION_ETA, 0.5), DIFFUSION_OK);
    return r;
}

/* Every number that changes how a picture comes about does change it. */
static void options_change_the_picture(void) {
    static const struct {
        diffusion_option option;
        double value;
    } cases[] = {
        {DIFFUSION_OPTION_ETA, 1},
        {DIFFUSION_OPTION_S_NOISE, 0.5},
        {DIFFUSION_OPTION_ETA_NOISE_SEED_DELTA, 31337},
        {DIFFUSION_OPTION_NOISE, DIFFUSION_NOISE_MT19937},
        {DIFFUSION_OPTION_PROFILE, DIFFUSION_PROFILE_COMFYUI},
        {DIFFUSION_OPTION_DYNAMIC_THRESHOLDING_RATIO, 0.5},
        {DIFFUSION_OPTION_GUIDANCE_RESCALE, 0.7},
        {DIFFUSION_OPTION_GUIDANCE_START, 0.5},
        {DIFFUSION_OPTION_GUIDANCE_STOP, 0.5},
        {DIFFUSION_OPTION_GUIDANCE_METHOD, DIFFUSION_GUIDANCE_METHOD_CFG_ZERO_STAR},
        {DIFFUSION_OPTION_GUIDANCE_METHOD, DIFFUSION_GUIDANCE_METHOD_APG},
        {DIFFUSION_OPTION_PAG_SCALE, 2},
    };
    diffusion_request *r = new_request_with_eta();
    picture base = generate_picture(shared_model(), r);
    diffusion_request_free(r);
    for (size_t i = 0; i < (quick ? 4 : sizeof cases / sizeof cases[0]); i++) {
        r = new_request_with_eta();
        if (diffusion_request_set_float(r, cases[i].option, cases[i].value) != DIFFUSION_OK) {
            diffusion_request_free(r);
            r = new_request_with_eta();
            CHECK_STATUS(diffusion_request_set_int(r, cases[i].option, (int64_t)cases[i].value), DIFFUSION_OK);
        }
        picture p = generate_picture(shared_model(), r);
        if (p.rgb == NULL || same_picture(&base, &p))
            check_failed(__FILE__, __LINE__, "option %d changes nothing", (int)cases[i].option);
        picture_free(&p);
        diffusion_request_free(r);
    }
    picture_free(&base);
}

static void lists_of_steps_are_taken_or_refused(void) {
    static const float sigmas[] = {10, 2, 0}, rising[] = {2, 10, 0}, timesteps[] = {900, 400, 100}, beyond[] = {1e6f},
                       scales[] = {2.5f, 1, 3};
    diffusion_request *r = new_request(20, 1);
    diffusion_session *session = new_session(shared_model());
    CHECK_STATUS(diffusion_request_set_string(r, DIFFUSION_OPTION_SAMPLER, "euler"), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_floats(r, DIFFUSION_OPTION_SIGMAS, sigmas, 3), DIFFUSION_OK);
    diffusion_job *job = run_job(session, r);
    CHECK(job_result(job).steps == 2);
    diffusion_job_free(job);
    CHECK_STATUS(diffusion_request_set_floats(r, DIFFUSION_OPTION_SIGMAS, rising, 3), DIFFUSION_OK);
    submit_refuses(r, "sigmas[1]");
    CHECK_STATUS(diffusion_request_set_floats(r, DIFFUSION_OPTION_SIGMAS, sigmas, 0), DIFFUSION_OK);
    submit_refuses(r, "sigmas has 0 values");
    CHECK_STATUS(diffusion_request_set_floats(r, DIFFUSION_OPTION_SIGMAS, sigmas, 3), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_floats(r, DIFFUSION_OPTION_TIMESTEPS, timesteps, 3), DIFFUSION_OK);
    submit_refuses(r, "both");
    CHECK_STATUS(diffusion_request_set_floats(r, DIFFUSION_OPTION_SIGMAS, NULL, 0), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_floats(r, DIFFUSION_OPTION_GUIDANCE_SCHEDULE, scales, 3), DIFFUSION_OK);
    job = run_job(session, r);
    CHECK(job_result(job).steps == 3);
    diffusion_job_free(job);
    CHECK_STATUS(diffusion_request_set_floats(r, DIFFUSION_OPTION_GUIDANCE_SCHEDULE, scales, 2), DIFFUSION_OK);
    submit_refuses(r, "guidance_schedule");
    CHECK_STATUS(diffusion_request_set_floats(r, DIFFUSION_OPTION_GUIDANCE_SCHEDULE, NULL, 0), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_floats(r, DIFFUSION_OPTION_TIMESTEPS, beyond, 1), DIFFUSION_OK);
    submit_refuses(r, "timesteps[0]");
    CHECK_STATUS(diffusion_request_set_floats(r, DIFFUSION_OPTION_TIMESTEPS, NULL, 0), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_float(r, DIFFUSION_OPTION_PAG_SCALE, 1), DIFFUSION_OK);
    CHECK_STATUS(diffusion_request_set_string(r, DIFFUSION_OPTION_PAG_APPLIED_LAYERS, "mid_block, attic"), DIFFUSION_OK);
    submit_refuses(r, "attic");
    diffusion_session_free(session);
    diffusion_request_free(r);
}

TOPIC(img2img, TEST(images_are_made_from_pixels_of_every_format), TEST(pixels_that_make_no_image_are_refused),
      TEST(png_files_come_back_as_they_were), TEST(images_are_set_only_where_they_belong),
      TEST(sizes_of_pictures_must_fit), TEST(the_size_is_that_of_the_picture),
      TEST(strength_says_how_far_to_go_from_the_picture), TEST(a_mask_keeps_what_is_black_to_the_bit),
      TEST(variations_move_from_one_seed_to_another), TEST(options_change_the_picture),
      TEST(lists_of_steps_are_taken_or_refused));
