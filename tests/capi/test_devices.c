/* Devices, on whatever machine this is: most have no GPU. What CUDA does is tested in test_cuda.c. */
#define _GNU_SOURCE
#include "check.h"
#include "support.h"
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

static diffusion_device_list *new_list(void) {
    diffusion_device_list *list = NULL;
    CHECK_STATUS(diffusion_device_list_new(NULL, &list, NULL), DIFFUSION_OK);
    return list;
}

static bool there_is_a_driver(void) {
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY);
    if (driver != NULL) dlclose(driver);
    return driver != NULL;
}

static void a_list_has_devices_or_says_why_not(void) {
    diffusion_device_list *list = new_list();
    diffusion_device_info info = DIFFUSION_DEVICE_INFO_INIT;
    diffusion_error *error = NULL;
    size_t count = diffusion_device_list_count(list);
    for (size_t i = 0; i < count; i++) {
        CHECK_STATUS(diffusion_device_list_get_info(list, i, &info, NULL), DIFFUSION_OK);
        CHECK(info.device == DIFFUSION_DEVICE_CUDA && info.device_index == i);
        CHECK(info.name != NULL && strlen(info.name) > 0);
        CHECK(info.memory > 0 && info.compute_capability >= 20);
    }
    if (count > 0) {
        CHECK(strcmp(diffusion_device_list_reason(list), "") == 0);
    } else {
        check_message(__FILE__, __LINE__, diffusion_device_list_reason(list), there_is_a_driver() ? "" : "driver");
    }
    CHECK_ERROR(diffusion_device_list_get_info(list, count, &info, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT,
                "index");
    CHECK_ERROR(diffusion_device_list_get_info(list, SIZE_MAX, &info, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT,
                "index");
    diffusion_device_list_free(list);
}

/* Keeps the line that tells of CUDA. */
typedef struct heard {
    diffusion_log_level level;
    int count;
    char line[1024];
} heard;

static void hear(diffusion_log_level level, const char *message, void *user_data) {
    heard *h = user_data;
    if (strstr(message, "CUDA") == NULL) return;
    h->level = level;
    h->count++;
    strncpy(h->line, message, sizeof h->line - 1);
}

/* The word that must be in the reason why there is no CUDA, where run.sh knows it. */
static const char *what_is_missing(void) {
    const char *word = getenv("DIFFUSION_TEST_MISSING");
    return word != NULL ? word : there_is_a_driver() ? "" : "driver";
}

static void auto_is_cuda_or_says_why_not(void) {
    diffusion_engine_desc desc = DIFFUSION_ENGINE_DESC_INIT;
    diffusion_engine_info info = DIFFUSION_ENGINE_INFO_INIT;
    diffusion_engine *engine = (diffusion_engine *)&desc;
    diffusion_error *error = NULL;
    char reason[1024] = "";
    desc.device = DIFFUSION_DEVICE_CUDA;
    if (diffusion_engine_new(&desc, &engine, &error) != DIFFUSION_OK) {
        CHECK(engine == NULL);
        strncpy(reason, diffusion_error_message(error), sizeof reason - 1);
        CHECK_ERROR(diffusion_error_status(error), error, DIFFUSION_ERROR_UNSUPPORTED, what_is_missing());
        /* The same again, though now the library has looked. */
        CHECK_ERROR(diffusion_engine_new(&desc, &engine, &error), error, DIFFUSION_ERROR_UNSUPPORTED, reason);
    }
    CHECK(engine == NULL || what_is_missing()[0] == '\0');
    diffusion_engine_free(engine);

    heard h = {0, 0, ""};
    desc.device = DIFFUSION_DEVICE_AUTO;
    desc.threads = 1;
    desc.log_level = DIFFUSION_LOG_INFO;
    desc.log = hear;
    desc.log_user_data = &h;
    CHECK_STATUS(diffusion_engine_new(&desc, &engine, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_engine_get_info(engine, &info, NULL), DIFFUSION_OK);
    diffusion_engine_free(engine);
    if (reason[0] == '\0') {
        CHECK(info.device == DIFFUSION_DEVICE_CUDA);
        return;
    }
    CHECK(info.device == DIFFUSION_DEVICE_CPU && info.threads == 1);
    CHECK(h.count == 1 && h.level == DIFFUSION_LOG_INFO && strstr(h.line, reason) != NULL);

    /* Who asks for what the CPU does not have hears why it is not CUDA that computes. */
    desc.precision = DIFFUSION_PRECISION_F16;
    CHECK_ERROR(diffusion_engine_new(&desc, &engine, &error), error, DIFFUSION_ERROR_UNSUPPORTED, reason);
}

static void who_wants_the_cpu_hears_nothing_of_cuda(void) {
    diffusion_engine_desc desc = DIFFUSION_ENGINE_DESC_INIT;
    diffusion_engine *engine = NULL;
    heard h = {0, 0, ""};
    desc.device = DIFFUSION_DEVICE_CPU;
    desc.log_level = DIFFUSION_LOG_DEBUG;
    desc.log = hear;
    desc.log_user_data = &h;
    CHECK_STATUS(diffusion_engine_new(&desc, &engine, NULL), DIFFUSION_OK);
    CHECK(h.count == 0);
    diffusion_engine_free(engine);
}

static void the_cpu_computes_in_f32_or_bf16(void) {
    diffusion_engine_desc desc = DIFFUSION_ENGINE_DESC_INIT;
    diffusion_engine_info info = DIFFUSION_ENGINE_INFO_INIT;
    diffusion_engine *engine = NULL;
    diffusion_error *error = NULL;
    desc.device = DIFFUSION_DEVICE_CPU;
    desc.threads = 1;
    static const diffusion_precision good[] = {DIFFUSION_PRECISION_DEFAULT, DIFFUSION_PRECISION_F32};
    for (int i = 0; i < 2; i++) {
        desc.precision = good[i];
        CHECK_STATUS(diffusion_engine_new(&desc, &engine, NULL), DIFFUSION_OK);
        CHECK_STATUS(diffusion_engine_get_info(engine, &info, NULL), DIFFUSION_OK);
        CHECK(info.precision == DIFFUSION_PRECISION_F32);
        diffusion_engine_free(engine);
    }
    desc.precision = DIFFUSION_PRECISION_F16;
    CHECK_ERROR(diffusion_engine_new(&desc, &engine, &error), error, DIFFUSION_ERROR_UNSUPPORTED, "f16");
    /* Only some processors multiply bf16, and not all of them faster. */
    desc.precision = DIFFUSION_PRECISION_BF16;
    if (diffusion_engine_new(&desc, &engine, &error) == DIFFUSION_OK) {
        CHECK_STATUS(diffusion_engine_get_info(engine, &info, NULL), DIFFUSION_OK);
        CHECK(info.precision == DIFFUSION_PRECISION_BF16);
        CHECK(strstr(info.device_name, "BF16") != NULL);
        diffusion_engine_free(engine);
    } else {
        CHECK(diffusion_error_status(error) == DIFFUSION_ERROR_UNSUPPORTED);
        CHECK(strstr(diffusion_error_message(error), "AVX512-BF16") != NULL);
        diffusion_error_free(error);
        error = NULL;
    }
    for (int i = 0; i < 3; i++) {
        desc.device = i; /* auto, cpu, cuda */
        desc.precision = 4;
        CHECK_ERROR(diffusion_engine_new(&desc, &engine, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "precision");
        desc.precision = -1;
        CHECK_ERROR(diffusion_engine_new(&desc, &engine, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT, "precision");
    }
}

static void the_cpu_takes_no_notice_of_what_is_for_cuda(void) {
    diffusion_engine_desc desc = DIFFUSION_ENGINE_DESC_INIT;
    diffusion_engine_info info = DIFFUSION_ENGINE_INFO_INIT;
    diffusion_engine *engine = NULL;
    desc.device = DIFFUSION_DEVICE_CPU;
    desc.threads = 1;
    desc.device_index = UINT32_MAX;
    desc.memory_limit_host = 1 << 30;
    desc.memory_limit_device = 1;
    desc.cuda_library_directory = "no/such/folder";
    CHECK_STATUS(diffusion_engine_new(&desc, &engine, NULL), DIFFUSION_OK);
    CHECK_STATUS(diffusion_engine_get_info(engine, &info, NULL), DIFFUSION_OK);
    CHECK(info.device_index == 0 && info.memory_limit == 1 << 30);
    diffusion_engine_free(engine);
}

static void a_directory_that_is_not_utf8(void) {
    diffusion_engine_desc desc = DIFFUSION_ENGINE_DESC_INIT;
    diffusion_device_list_desc list_desc = DIFFUSION_DEVICE_LIST_DESC_INIT;
    diffusion_engine *engine = NULL;
    diffusion_device_list *list = (diffusion_device_list *)&desc;
    diffusion_error *error = NULL;
    desc.cuda_library_directory = list_desc.cuda_library_directory = "cuda\xff";
    CHECK_ERROR(diffusion_engine_new(&desc, &engine, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT,
                "cuda_library_directory");
    CHECK_ERROR(diffusion_device_list_new(&list_desc, &list, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT,
                "cuda_library_directory");
    CHECK(list == NULL);
}

static void an_engine_desc_of_the_first_release(void) {
    diffusion_engine_desc desc;
    diffusion_engine_info info;
    diffusion_engine *engine = NULL;
    memset(&desc, 0xff, sizeof desc); /* beyond struct_size nothing may be read */
    memset(&desc, 0, offsetof(diffusion_engine_desc, device_index));
    desc.struct_size = (uint32_t)offsetof(diffusion_engine_desc, device_index);
    desc.device = DIFFUSION_DEVICE_CPU;
    desc.threads = 1;
    CHECK_STATUS(diffusion_engine_new(&desc, &engine, NULL), DIFFUSION_OK);
    memset(&info, 0xff, sizeof info);
    info.struct_size = (uint32_t)offsetof(diffusion_engine_info, device_index);
    CHECK_STATUS(diffusion_engine_get_info(engine, &info, NULL), DIFFUSION_OK);
    CHECK(info.device == DIFFUSION_DEVICE_CPU && info.device_name != NULL);
    CHECK(info.device_index == UINT32_MAX && info.precision == -1);
    diffusion_engine_free(engine);
}

TOPIC(devices, TEST(a_list_has_devices_or_says_why_not), TEST(auto_is_cuda_or_says_why_not),
      TEST(who_wants_the_cpu_hears_nothing_of_cuda), TEST(the_cpu_computes_in_f32_or_bf16),
      TEST(the_cpu_takes_no_notice_of_what_is_for_cuda), TEST(a_directory_that_is_not_utf8),
      TEST(an_engine_desc_of_the_first_release));
