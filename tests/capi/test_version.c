/* Version, build information, status names, empty errors. */
#include "check.h"
#include <string.h>

static void version_of_library_is_that_of_header(void) {
    CHECK(diffusion_version() == DIFFUSION_VERSION_NUMBER);
    CHECK(DIFFUSION_VERSION_NUMBER ==
          DIFFUSION_VERSION_MAJOR * 1000000 + DIFFUSION_VERSION_MINOR * 1000 + DIFFUSION_VERSION_PATCH);
    CHECK(strcmp(diffusion_version_string(), DIFFUSION_VERSION_STRING) == 0);
    char text[32];
    snprintf(text, sizeof text, "%d.%d.%d", DIFFUSION_VERSION_MAJOR, DIFFUSION_VERSION_MINOR, DIFFUSION_VERSION_PATCH);
    CHECK(strcmp(text, DIFFUSION_VERSION_STRING) == 0);
}

static void build_info_is_lines_of_key_and_value(void) {
    const char *line = diffusion_build_info();
    CHECK(strstr(line, DIFFUSION_VERSION_STRING) != NULL);
    while (*line != '\0') {
        size_t length = strcspn(line, "\n");
        const char *colon = memchr(line, ':', length);
        CHECK(colon != NULL && colon > line);
        line += length + (line[length] == '\n');
    }
}

static void every_status_has_its_name(void) {
    static const struct {
        diffusion_status status;
        const char *name;
    } names[] = {
        {DIFFUSION_OK, "OK"},
        {DIFFUSION_PENDING, "PENDING"},
        {DIFFUSION_TIMEOUT, "TIMEOUT"},
        {DIFFUSION_DONE, "DONE"},
        {DIFFUSION_ERROR_INTERNAL, "INTERNAL"},
        {DIFFUSION_ERROR_INVALID_ARGUMENT, "INVALID_ARGUMENT"},
        {DIFFUSION_ERROR_INVALID_STATE, "INVALID_STATE"},
        {DIFFUSION_ERROR_BUSY, "BUSY"},
        {DIFFUSION_ERROR_NOT_FOUND, "NOT_FOUND"},
        {DIFFUSION_ERROR_IO, "IO"},
        {DIFFUSION_ERROR_FORMAT, "FORMAT"},
        {DIFFUSION_ERROR_UNSUPPORTED, "UNSUPPORTED"},
        {DIFFUSION_ERROR_OUT_OF_MEMORY, "OUT_OF_MEMORY"},
        {DIFFUSION_ERROR_DEVICE_OUT_OF_MEMORY, "DEVICE_OUT_OF_MEMORY"},
        {DIFFUSION_ERROR_DEVICE, "DEVICE"},
        {DIFFUSION_ERROR_DEVICE_LOST, "DEVICE_LOST"},
        {DIFFUSION_ERROR_CANCELLED, "CANCELLED"},
        {DIFFUSION_ERROR_BUFFER_TOO_SMALL, "BUFFER_TOO_SMALL"},
        {DIFFUSION_ERROR_VERSION_MISMATCH, "VERSION_MISMATCH"},
        {DIFFUSION_ERROR_NUMERIC, "NUMERIC"},
        {-17, "UNKNOWN"},
        {4, "UNKNOWN"},
        {INT32_MIN, "UNKNOWN"},
        {INT32_MAX, "UNKNOWN"},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *name = diffusion_status_name(names[i].status);
        if (strcmp(name, names[i].name) != 0)
            check_failed(__FILE__, __LINE__, "status %d is '%s', not '%s'", (int)names[i].status, name, names[i].name);
    }
}

static void usage_errors_are_told_from_the_rest(void) {
    diffusion_error *error = NULL;
    CHECK_STATUS(diffusion_engine_new(NULL, NULL, &error), DIFFUSION_ERROR_INVALID_ARGUMENT);
    CHECK(diffusion_error_is_usage(error) == 1);
    CHECK(diffusion_error_detail(error) != NULL);
    diffusion_error_free(error);

    diffusion_engine *engine = NULL;
    diffusion_model *model = NULL;
    error = NULL;
    CHECK_STATUS(diffusion_engine_new(NULL, &engine, &error), DIFFUSION_OK);
    CHECK(error == NULL); /* untouched, or NULL, when all went well */
    CHECK_STATUS(diffusion_model_load(engine, "no/such/folder", NULL, &model, &error), DIFFUSION_ERROR_NOT_FOUND);
    CHECK(diffusion_error_is_usage(error) == 0);
    diffusion_error_free(error);
    diffusion_engine_free(engine);
}

TOPIC(version, TEST(version_of_library_is_that_of_header), TEST(build_info_is_lines_of_key_and_value),
      TEST(every_status_has_its_name), TEST(usage_errors_are_told_from_the_rest));
