/* What computes on the CPU: threads, instruction sets, strict arithmetic. */
#define _POSIX_C_SOURCE 200809L /* setenv */

#include "support.h"
#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The register that says how this thread's arithmetic rounds, and the bits of it that record what happened. */
#if defined __x86_64__
#include <xmmintrin.h>
enum { ROUNDING_STANDARD = 0x1F80, ROUNDING_RECORDS = 0x3F };
/* Traps for invalid operations, divisions by zero and overflow; round up; flush to zero both ways. */
enum { ROUNDING_STRANGE = 0x1900 | 0x4000 | 0x8040 };
static unsigned long long rounding(void) { return _mm_getcsr(); }
static void set_rounding(unsigned long long value) { _mm_setcsr((unsigned int)value); }
#elif defined __aarch64__
enum { ROUNDING_STANDARD = 0, ROUNDING_RECORDS = 0 };
/* Round up; flush to zero; one NaN for all; f16 without infinity. Traps are not to be had everywhere. */
enum { ROUNDING_STRANGE = 1 << 22 | 1 << 24 | 1 << 25 | 1 << 26 };
static unsigned long long rounding(void) {
    unsigned long long value;
    __asm__ volatile("mrs %0, fpcr" : "=r"(value));
    return value;
}
static void set_rounding(unsigned long long value) { __asm__ volatile("msr fpcr, %0" : : "r"(value)); }
#else
#include <fenv.h>
enum { ROUNDING_STANDARD = FE_TONEAREST, ROUNDING_RECORDS = 0, ROUNDING_STRANGE = FE_UPWARD };
static unsigned long long rounding(void) { return (unsigned long long)fegetround(); }
static void set_rounding(unsigned long long value) { fesetround((int)value); }
#endif

/* The picture that an engine of `desc` makes: two steps at the model's size, in its fast convolutions' reach. */
static picture picture_by(const diffusion_engine_desc *desc, const char *sampler) {
    picture p = {0};
    diffusion_engine *engine = NULL;
    diffusion_model *model = NULL;
    CHECK_STATUS(diffusion_engine_new(desc, &engine, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_model_load(engine, model_path(), NULL, &model, NULL), DIFFUSION_OK);
    if (model != NULL) {
        diffusion_request *request = new_request_for(model, 2, 7);
        if (!quick) set_size(request, 0);
        CHECK_STATUS(diffusion_request_set_string(request, DIFFUSION_OPTION_SAMPLER, sampler), DIFFUSION_OK);
        p = generate_picture(model, request);
        diffusion_request_free(request);
    }
    diffusion_model_free(model);
    diffusion_engine_free(engine);
    return p;
}

static picture picture_on(const diffusion_engine_desc *desc) { return picture_by(desc, "auto"); }

static diffusion_engine_desc one_thread(void) {
    diffusion_engine_desc desc = DIFFUSION_ENGINE_DESC_INIT;
    desc.device = DIFFUSION_DEVICE_CPU;
    desc.threads = 1;
    return desc;
}

static void any_number_of_threads_gives_the_same_bits(void) {
    static const uint32_t counts[] = {0, 2, 3, 64, 1000};
    diffusion_engine_desc desc = one_thread();
    picture one = picture_on(&desc);
    CHECK(one.rgb != NULL);
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        /* Tools that watch threads cannot watch so many. */
        if (quick && counts[i] > 3) continue;
        desc.threads = counts[i];
        picture p = picture_on(&desc);
        if (!same_picture(&one, &p)) check_failed(__FILE__, __LINE__, "%u threads: another picture", counts[i]);
        picture_free(&p);
    }
    picture_free(&one);

    diffusion_engine *engine = NULL;
    diffusion_error *error = NULL;
    desc.threads = 4096;
    CHECK_ERROR(diffusion_engine_new(&desc, &engine, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "threads");
}

static void strict_is_closer_to_the_definition_and_another_way(void) {
    diffusion_engine_desc desc = one_thread();
    diffusion_engine *engine = NULL;
    diffusion_error *error = NULL;
    picture fast = picture_on(&desc);
    desc.strict = 1;
    picture strict = picture_on(&desc);
    CHECK(psnr(&fast, &strict) > 80);
    if (!quick) CHECK(!same_picture(&fast, &strict));
    picture_free(&fast);
    picture_free(&strict);
    desc.strict = 2;
    CHECK_ERROR(diffusion_engine_new(&desc, &engine, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "strict");
}

static void every_instruction_set_gives_the_same_image(void) {
    static const struct {
        const char *variable, *name;
#if defined __x86_64__
    } sets[] = {{"portable", "portable"}, {"sse2", "SSE2"}, {"avx2", "AVX2"}, {"avx512", "AVX-512"}, {"zen4", "AVX-512 Zen 4"}};
#elif defined __aarch64__
    } sets[] = {{"portable", "portable"}, {"neon", "NEON"}};
#else
    } sets[] = {{"portable", "portable"}};
#endif
    diffusion_engine_desc desc = one_thread();
    diffusion_engine *engine = NULL;
    diffusion_engine_info info = DIFFUSION_ENGINE_INFO_INIT;
    picture best = picture_on(&desc);
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        REQUIRE(setenv("LIBDIFFUSION_CPU", sets[i].variable, 1) == 0);
        CHECK_STATUS(diffusion_engine_new(&desc, &engine, NULL), DIFFUSION_OK);
        CHECK_STATUS(diffusion_engine_get_info(engine, &info, NULL), DIFFUSION_OK);
        /* No processor lacks the first two; the others are limits. */
        if (i < 2) CHECK(info.device_name != NULL && strstr(info.device_name, sets[i].name) != NULL);
        diffusion_engine_free(engine);
        picture p = picture_on(&desc);
        double decibels = psnr(&best, &p);
        if (decibels < 80) check_failed(__FILE__, __LINE__, "%s: %.1f dB", sets[i].name, decibels);
        picture_free(&p);
    }
    CHECK(unsetenv("LIBDIFFUSION_CPU") == 0);
    picture_free(&best);
}

/* How often a warning named the variable and its value. */
static void hear_of_altivec(diffusion_log_level level, const char *message, void *user_data) {
    int *count = user_data;
    if (level == DIFFUSION_LOG_WARN && strstr(message, "LIBDIFFUSION_CPU") != NULL && strstr(message, "altivec") != NULL)
        ++*count;
}

static void an_unknown_instruction_set_is_ignored_and_told(void) {
    diffusion_engine_desc desc = one_thread();
    diffusion_engine_info best = DIFFUSION_ENGINE_INFO_INIT, info = DIFFUSION_ENGINE_INFO_INIT;
    diffusion_engine *first = NULL, *engine = NULL;
    int warnings = 0;
    desc.log = hear_of_altivec;
    desc.log_user_data = &warnings;
    desc.log_level = DIFFUSION_LOG_WARN;
    CHECK_STATUS(diffusion_engine_new(&desc, &first, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_engine_get_info(first, &best, NULL), DIFFUSION_OK);
    CHECK(warnings == 0);
    REQUIRE(setenv("LIBDIFFUSION_CPU", "altivec", 1) == 0);
    CHECK_STATUS(diffusion_engine_new(&desc, &engine, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_engine_get_info(engine, &info, NULL), DIFFUSION_OK);
    CHECK(unsetenv("LIBDIFFUSION_CPU") == 0);
    CHECK(warnings == 1);
    CHECK(best.device_name != NULL && info.device_name != NULL && strcmp(best.device_name, info.device_name) == 0);
    diffusion_engine_free(engine);
    diffusion_engine_free(first);
}

/* Hosts may have exceptions trap, subnormal numbers be zero, and rounding go up. */
static void the_hosts_arithmetic_is_its_own(void) {
    diffusion_engine_desc desc = one_thread();
    desc.threads = 2;
    picture expected = picture_by(&desc, "dpmpp_2m"); /* whose last step divides by zero */
    unsigned long long before = rounding();
    CHECK((before | ROUNDING_RECORDS) == (ROUNDING_STANDARD | ROUNDING_RECORDS));
    set_rounding(ROUNDING_STRANGE);
    picture p = picture_by(&desc, "dpmpp_2m");
    unsigned long long after = rounding();
    set_rounding(before);
    CHECK(after == ROUNDING_STRANGE);
    CHECK(same_picture(&expected, &p));
    picture_free(&expected);
    picture_free(&p);
}

#if defined __linux__
/* How many threads of this process take signals that they should not, or do not where they should; `ours` are the
 * library's. Of the others the first is the host's; an emulator or a sanitizer has some of its own. */
static int wrong_threads(int *ours) {
    int wrong = 0;
    *ours = 0;
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *task; tasks != NULL && (task = readdir(tasks)) != NULL;) {
        char path[300], line[300], name[32] = "";
        unsigned long long blocked = 0;
        snprintf(path, sizeof path, "/proc/self/task/%s/status", task->d_name);
        FILE *status = fopen(path, "r");
        if (status == NULL) continue;
        while (fgets(line, sizeof line, status) != NULL) {
            sscanf(line, "Name: %31s", name);
            sscanf(line, "SigBlk: %llx", &blocked);
        }
        fclose(status);
        bool is_ours = strncmp(name, "diffusion-", 10) == 0;
        *ours += is_ours;
        if (is_ours || atoi(task->d_name) == (int)getpid()) {
            wrong += is_ours != ((blocked >> (SIGTERM - 1) & 1) != 0) || (blocked >> (SIGSEGV - 1) & 1) != 0;
        }
    }
    if (tasks != NULL) closedir(tasks);
    return wrong;
}

/* A host that waits for a signal in one thread must not find it taken by another; its crash handler is still called. */
static void threads_take_no_signals(void) {
    diffusion_engine *engine = engine_with_threads(3);
    diffusion_model *model = NULL;
    CHECK_STATUS(diffusion_model_load(engine, model_path(), NULL, &model, NULL), DIFFUSION_OK);
    diffusion_session *session = new_session(model);
    int wrong, ours;
    /* A thread that has only just begun has no name yet, and all signals blocked. */
    for (int tries = 0; (wrong = wrong_threads(&ours)) != 0 || ours < 3; tries++) {
        if (tries == 200) break;
        sleep_ms(10);
    }
    CHECK(wrong == 0 && ours >= 3); /* two workers and the session's; the shared session's may be there too */
    diffusion_session_free(session);
    diffusion_model_free(model);
    diffusion_engine_free(engine);
}
#endif

TOPIC(cpu, TEST(any_number_of_threads_gives_the_same_bits), TEST(strict_is_closer_to_the_definition_and_another_way),
      TEST(every_instruction_set_gives_the_same_image), TEST(an_unknown_instruction_set_is_ignored_and_told),
      TEST(the_hosts_arithmetic_is_its_own), LINUX_TEST(threads_take_no_signals));
