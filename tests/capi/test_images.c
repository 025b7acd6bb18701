/* Pixels in every format, rows and flips, and PNG files with their text. */
#include "check.h"
#include "files.h"
#include "support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { W = SIDE, H = SIDE };

/* An image of two steps; the caller frees it. */
static diffusion_image *any_image(void) {
    diffusion_request *r = new_request(2, 3);
    diffusion_session *session = new_session(shared_model());
    diffusion_image *image = NULL;
    CHECK_STATUS(diffusion_generate(session, r, &image, NULL), DIFFUSION_OK);
    diffusion_session_free(session);
    diffusion_request_free(r);
    return image; /* outlives everything it came from */
}

static void info_and_pixels(void) {
    diffusion_image *image = any_image();
    diffusion_image_info info = DIFFUSION_IMAGE_INFO_INIT;
    CHECK_STATUS(diffusion_image_get_info(image, &info, NULL), DIFFUSION_OK);
    CHECK(info.width == W && info.height == H && info.channels == 3);
    CHECK(info.format == DIFFUSION_FORMAT_RGB8 && info.row_stride == W * 3);
    const uint8_t *pixels = diffusion_image_pixels(image);
    REQUIRE(pixels != NULL);
    CHECK(pixels == diffusion_image_pixels(image));
    int differing = 0;
    for (int i = 3; i < W * H * 3; i++) differing += pixels[i] != pixels[0];
    CHECK(differing > 100); /* a picture, not a blank */
    diffusion_image_free(image);
}

static void copies_agree_in_every_format(void) {
    diffusion_image *image = any_image();
    const uint8_t *native = diffusion_image_pixels(image);
    static uint8_t rgb[W * H * 3], rgba[W * H * 4], bgra[W * H * 4];
    static float real[W * H * 3];
    REQUIRE(native != NULL);
    CHECK_STATUS(diffusion_image_copy(image, rgb, sizeof rgb, 0, DIFFUSION_FORMAT_RGB8, 0, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_image_copy(image, rgba, sizeof rgba, 0, DIFFUSION_FORMAT_RGBA8, 0, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_image_copy(image, bgra, sizeof bgra, 0, DIFFUSION_FORMAT_BGRA8, 0, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_image_copy(image, real, sizeof real, 0, DIFFUSION_FORMAT_RGBF32, 0, NULL), DIFFUSION_OK);
    CHECK(memcmp(native, rgb, sizeof rgb) == 0);
    int wrong = 0;
    for (int i = 0; i < W * H; i++) {
        for (int c = 0; c < 3; c++) {
            uint8_t value = native[i * 3 + c];
            wrong += rgba[i * 4 + c] != value;
            wrong += bgra[i * 4 + 2 - c] != value;
            wrong += !(real[i * 3 + c] >= 0 && real[i * 3 + c] <= 1);
            wrong += fabs((double)real[i * 3 + c] * 255.0 - value) > 0.5001; /* rounded to the nearest */
        }
        wrong += rgba[i * 4 + 3] != 255;
        wrong += bgra[i * 4 + 3] != 255;
    }
    CHECK(wrong == 0);
    diffusion_image_free(image);
}

static void rows_with_a_stride_and_upside_down(void) {
    enum { STRIDE = W * 4 + 20, SIZE = STRIDE * H };
    diffusion_image *image = any_image();
    const uint8_t *native = diffusion_image_pixels(image);
    static uint8_t out[SIZE];
    REQUIRE(native != NULL);
    for (int flip = 0; flip < 2; flip++) {
        memset(out, 0xab, sizeof out);
        /* The last row needs no padding behind it. */
        CHECK_STATUS(diffusion_image_copy(image, out, SIZE - 20, STRIDE, DIFFUSION_FORMAT_RGBA8,
                                          flip ? DIFFUSION_COPY_FLIP_Y : 0, NULL),
                     DIFFUSION_OK);
        int wrong = 0;
        for (int y = 0; y < H; y++) {
            const uint8_t *from = native + (flip ? H - 1 - y : y) * W * 3;
            for (int x = 0; x < W; x++) wrong += memcmp(out + y * STRIDE + x * 4, from + x * 3, 3) != 0;
            for (int pad = W * 4; pad < STRIDE; pad++) wrong += out[y * STRIDE + pad] != 0xab;
        }
        CHECK(wrong == 0);
    }
    diffusion_image_free(image);
}

static void bad_copies_are_refused(void) {
    diffusion_image *image = any_image();
    diffusion_error *error = NULL;
    static uint8_t out[W * H * 4];
    memset(out, 0xab, sizeof out);
    CHECK_ERROR(diffusion_image_copy(image, out, W * H * 3 - 1, 0, DIFFUSION_FORMAT_RGB8, 0, &error), error,
                DIFFUSION_ERROR_BUFFER_TOO_SMALL, "768"); /* how much it needs */
    CHECK_ERROR(diffusion_image_copy(image, out, 0, 0, DIFFUSION_FORMAT_RGBA8, 0, &error), error,
                DIFFUSION_ERROR_BUFFER_TOO_SMALL, "1024");
    CHECK_ERROR(diffusion_image_copy(image, out, sizeof out, SIZE_MAX, DIFFUSION_FORMAT_RGB8, 0, &error), error,
                DIFFUSION_ERROR_INVALID_ARGUMENT, "row_stride"); /* times the height it is past any address */
    CHECK_ERROR(diffusion_image_copy(image, out, sizeof out, W * 3 - 1, DIFFUSION_FORMAT_RGB8, 0, &error), error,
                DIFFUSION_ERROR_INVALID_ARGUMENT, "row_stride");
    CHECK_ERROR(diffusion_image_copy(image, out, sizeof out, 0, 0, 0, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT,
                "format");
    CHECK_ERROR(diffusion_image_copy(image, out, sizeof out, 0, 99, 0, &error), error,
                DIFFUSION_ERROR_INVALID_ARGUMENT, "99");
    CHECK_ERROR(diffusion_image_copy(image, out, sizeof out, 0, DIFFUSION_FORMAT_RGB8, 6, &error), error,
                DIFFUSION_ERROR_INVALID_ARGUMENT, "flags");
    for (size_t i = 0; i < sizeof out; i++) REQUIRE(out[i] == 0xab); /* a refused copy writes nothing */
    diffusion_image_free(image);
}

static void metadata_reads_as_other_tools_write_it(void) {
    diffusion_image *image = any_image();
    const char *text = diffusion_image_metadata(image);
    REQUIRE(text != NULL);
    CHECK(strncmp(text, "a red apple", 11) == 0);
    CHECK(strstr(text, "Steps: 2") != NULL);
    CHECK(strstr(text, "CFG scale: 2.5") != NULL);
    CHECK(strstr(text, "Seed: 3") != NULL);
    CHECK(strstr(text, "Size: 16x16") != NULL);
    CHECK(strstr(text, "Sampler: ") != NULL);
    diffusion_image_free(image);
}

/* The big-endian number at p. */
static uint32_t be32(const char *p) {
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) value = value << 8 | (unsigned char)p[i];
    return value;
}

static void png_has_the_size_and_the_text(void) {
    const char *path = "build/capi-test.png";
    diffusion_image *image = any_image();
    CHECK_STATUS(diffusion_image_save_png(image, path, NULL), DIFFUSION_OK);
    size_t size = 0;
    char *png = file_read(path, &size);
    REQUIRE(png != NULL && size > 8 && memcmp(png, "\x89PNG\r\n\x1a\n", 8) == 0);
    bool header = false, text = false, end = false;
    for (size_t at = 8; at + 12 <= size;) { /* length, type, data, checksum */
        uint32_t length = be32(png + at);
        const char *type = png + at + 4, *data = png + at + 8;
        if (length > size - at - 12) break;
        if (memcmp(type, "IHDR", 4) == 0)
            header = be32(data) == W && be32(data + 4) == H && data[8] == 8 && data[9] == 2; /* 8-bit RGB */
        if (memcmp(type, "tEXt", 4) == 0 && length > 11 && memcmp(data, "parameters", 11) == 0)
            text = strncmp(data + 11, diffusion_image_metadata(image), length - 11) == 0;
        if (memcmp(type, "IEND", 4) == 0) end = true;
        at += 12 + length;
    }
    CHECK(header);
    CHECK(text);
    CHECK(end);
    free(png);
    remove(path);
    diffusion_image_free(image);
}

static void png_in_a_folder_that_does_not_exist(void) {
    diffusion_image *image = any_image();
    diffusion_error *error = NULL;
    diffusion_status status = diffusion_image_save_png(image, "no/such/folder/x.png", &error);
    CHECK(status == DIFFUSION_ERROR_IO || status == DIFFUSION_ERROR_NOT_FOUND);
    CHECK_ERROR(status, error, status, "no/such/folder/x.png");
    CHECK_ERROR(diffusion_image_save_png(image, "\xff.png", &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "UTF-8");
    diffusion_image_free(image);
}

#if defined __linux__
static void a_full_disk_is_an_error(void) {
    diffusion_image *image = any_image();
    diffusion_error *error = NULL;
    CHECK_ERROR(diffusion_image_save_png(image, "/dev/full", &error), error, DIFFUSION_ERROR_IO, "/dev/full");
    diffusion_image_free(image);
}
#endif

TOPIC(images, TEST(info_and_pixels), TEST(copies_agree_in_every_format), TEST(rows_with_a_stride_and_upside_down),
      TEST(bad_copies_are_refused), TEST(metadata_reads_as_other_tools_write_it), TEST(png_has_the_size_and_the_text),
      TEST(png_in_a_folder_that_does_not_exist), LINUX_TEST(a_full_disk_is_an_error));
