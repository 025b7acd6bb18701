/* Runs the topics named on the command line, or all of them: capi_tests [--quick] [topic...] */
#include "check.h"
#include "support.h"
#include <stdarg.h>
#include <string.h>

bool quick = false;
int check_failures = 0;

extern const test version_tests[], null_tests[], structs_tests[], options_tests[], models_tests[], requests_tests[],
    images_tests[], img2img_tests[], latents_tests[], jobs_tests[], threads_tests[], callbacks_tests[], lifecycle_tests[],
    schedule_tests[], sampler_tests[], noise_tests[], guidance_tests[], devices_tests[],
    memory_tests[], cpu_tests[], cuda_tests[], panics_tests[];

static const struct {
    const char *name;
    const test *tests;
} TOPICS[] = {
    {"version", version_tests},     {"null", null_tests},         {"structs", structs_tests},
    {"options", options_tests},     {"models", models_tests},     {"requests", requests_tests},
    {"images", images_tests},       {"img2img", img2img_tests},   {"latents", latents_tests},
    {"jobs", jobs_tests},
    {"threads", threads_tests},     {"callbacks", callbacks_tests}, {"lifecycle", lifecycle_tests},
    {"schedule", schedule_tests},   {"sampler", sampler_tests},   {"noise", noise_tests},
    {"guidance", guidance_tests},   {"devices", devices_tests},
    {"memory", memory_tests},       {"cpu", cpu_tests},
    /* Only by name: */
    {"cuda", cuda_tests},     /* needs the stand-in driver of tests/driver */
    {"panics", panics_tests}, /* needs a library built with fault-injection */
};
enum { TOPIC_COUNT = sizeof TOPICS / sizeof TOPICS[0] };

void check_failed(const char *file, int line, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "  FAILED %s:%d: ", file, line);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    check_failures++;
}

void check_status(const char *file, int line, const char *call, diffusion_status got, diffusion_status want) {
    if (got != want)
        check_failed(file, line, "%s gave %s, not %s", call, diffusion_status_name(got), diffusion_status_name(want));
}

/* Whether `message` has `culprit`, whose paths are written with '/' on any system. */
static bool names(const char *message, const char *culprit) {
#if defined _WIN32
    for (;; message++) {
        size_t i = 0;
        while (culprit[i] != '\0' && (message[i] == culprit[i] || (culprit[i] == '/' && message[i] == '\\'))) i++;
        if (culprit[i] == '\0') return true;
        if (*message == '\0') return false;
    }
#else
    return strstr(message, culprit) != NULL;
#endif
}

void check_message(const char *file, int line, const char *message, const char *culprit) {
    size_t length = strlen(message);
    if (length == 0) check_failed(file, line, "the message is empty");
    if (strchr(message, '\n') != NULL) check_failed(file, line, "more than one line: \"%s\"", message);
    if (length > 0 && message[length - 1] == '.') check_failed(file, line, "ends with a dot: \"%s\"", message);
    if (!names(message, culprit)) check_failed(file, line, "\"%s\" does not name '%s'", message, culprit);
}

void check_error(const char *file, int line, const char *call, diffusion_status got, diffusion_error **error,
                 diffusion_status want, const char *culprit) {
    check_status(file, line, call, got, want);
    if (*error == NULL) {
        check_failed(file, line, "%s gave no error object", call);
        return;
    }
    if (diffusion_error_status(*error) != got)
        check_failed(file, line, "%s returned %s, its error says %s", call, diffusion_status_name(got),
                     diffusion_status_name(diffusion_error_status(*error)));
    check_message(file, line, diffusion_error_message(*error), culprit);
    diffusion_error_free(*error);
    *error = NULL;
}

static int run_topic(const char *name, const test *tests) {
    int count = 0;
    for (const test *t = tests; t->name != NULL; t++) {
        int before = check_failures;
        if (t->run == NULL) {
            printf("left out %s: %s\n", name, t->name);
            continue;
        }
        count++;
        t->run();
        printf("%s %s: %s\n", check_failures == before ? "ok    " : "FAILED", name, t->name);
        fflush(stdout);
    }
    return count;
}

static bool is_known(const char *topic) {
    for (int i = 0; i < TOPIC_COUNT; i++)
        if (strcmp(topic, TOPICS[i].name) == 0) return true;
    return false;
}

int main(int argc, char **argv) {
    int named = 0;
    for (int a = 1; a < argc; a++) {
        if (strcmp(argv[a], "--quick") == 0) {
            quick = true;
        } else if (is_known(argv[a])) {
            named++;
        } else {
            fprintf(stderr, "capi_tests: no topic '%s'\n", argv[a]);
            return 2;
        }
    }
    int count = 0;
    for (int i = 0; i < TOPIC_COUNT; i++) {
        bool chosen = named == 0 && TOPICS[i].tests != cuda_tests && TOPICS[i].tests != panics_tests;
        for (int a = 1; a < argc; a++) chosen = chosen || strcmp(argv[a], TOPICS[i].name) == 0;
        if (chosen) count += run_topic(TOPICS[i].name, TOPICS[i].tests);
    }
    support_shutdown();
    printf("%d tests, %d failed checks\n", count, check_failures);
    return check_failures == 0 ? 0 : 1;
}
