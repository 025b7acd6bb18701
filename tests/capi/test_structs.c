/* The struct_size rule: an older caller's shorter structure and a newer caller's longer one both work, as long as
 * what the library does not know is zero. */
#include "check.h"
#include "support.h"
#include <string.h>

/* A structure as a later version of the header might declare it. */
typedef struct newer_engine_desc {
    diffusion_engine_desc known;
    uint64_t added;
} newer_engine_desc;

static void newer_desc_with_zero_tail_is_accepted(void) {
    newer_engine_desc desc;
    diffusion_engine *engine = NULL;
    memset(&desc, 0, sizeof desc);
    desc.known.struct_size = sizeof desc;
    CHECK_STATUS(diffusion_engine_new(&desc.known, &engine, NULL), DIFFUSION_OK);
    diffusion_engine_free(engine);
}

static void newer_desc_with_a_set_tail_is_refused(void) {
    newer_engine_desc desc;
    diffusion_engine *engine = (diffusion_engine *)&desc;
    diffusion_error *error = NULL;
    memset(&desc, 0, sizeof desc);
    desc.known.struct_size = sizeof desc;
    desc.added = UINT64_C(1) << 63;
    CHECK_ERROR(diffusion_engine_new(&desc.known, &engine, &error), error, DIFFUSION_ERROR_VERSION_MISMATCH,
                "struct_size");
    CHECK(engine == NULL);

    struct {
        diffusion_session_desc known;
        uint8_t added[8];
    } session_desc;
    diffusion_session *session = (diffusion_session *)&desc;
    memset(&session_desc, 0, sizeof session_desc);
    session_desc.known.struct_size = sizeof session_desc;
    session_desc.added[7] = 1;
    CHECK_ERROR(diffusion_session_new(shared_model(), &session_desc.known, &session, &error), error,
                DIFFUSION_ERROR_VERSION_MISMATCH, "struct_size");
    CHECK(session == NULL);

    struct {
        diffusion_model_desc known;
        uint8_t added[8];
    } model_desc;
    diffusion_model *model = (diffusion_model *)&desc;
    memset(&model_desc, 0, sizeof model_desc);
    model_desc.known.struct_size = sizeof model_desc;
    model_desc.added[0] = 1;
    CHECK_ERROR(diffusion_model_load(shared_engine(), model_path(), &model_desc.known, &model, &error), error,
                DIFFUSION_ERROR_VERSION_MISMATCH, "struct_size");
    CHECK(model == NULL);
}

static void a_reserved_field_that_means_something_is_refused(void) {
    diffusion_engine_desc desc = DIFFUSION_ENGINE_DESC_INIT;
    diffusion_device_list_desc list_desc = DIFFUSION_DEVICE_LIST_DESC_INIT;
    diffusion_engine *engine = NULL;
    diffusion_device_list *list = NULL;
    diffusion_error *error = NULL;
    desc.device = DIFFUSION_DEVICE_CPU;
    desc.reserved = list_desc.reserved = 1;
    CHECK_ERROR(diffusion_engine_new(&desc, &engine, &error), error, DIFFUSION_ERROR_VERSION_MISMATCH, "reserved");
    CHECK_ERROR(diffusion_device_list_new(&list_desc, &list, &error), error, DIFFUSION_ERROR_VERSION_MISMATCH,
                "reserved");
}

static void older_desc_gives_defaults_for_the_rest(void) {
    /* Callers from before the log, from before there was a choice of GPU, and from before strict. */
    static const size_t sizes[] = {offsetof(diffusion_engine_desc, log_level),
                                   offsetof(diffusion_engine_desc, device_index),
                                   offsetof(diffusion_engine_desc, strict)};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        diffusion_engine_desc desc;
        diffusion_engine *engine = NULL;
        memset(&desc, 0, sizes[i]);
        memset((char *)&desc + sizes[i], 0xff, sizeof desc - sizes[i]); /* beyond struct_size nothing may be read */
        desc.struct_size = (uint32_t)sizes[i];
        desc.device = DIFFUSION_DEVICE_CPU;
        desc.threads = 1;
        CHECK_STATUS(diffusion_engine_new(&desc, &engine, NULL), DIFFUSION_OK);
        diffusion_engine_free(engine);
    }
}

static void absurd_sizes_are_refused(void) {
    diffusion_engine_desc desc = DIFFUSION_ENGINE_DESC_INIT;
    diffusion_engine *engine = NULL;
    diffusion_error *error = NULL;
    static const uint32_t sizes[] = {0, 1, 3};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        desc.struct_size = sizes[i];
        CHECK_ERROR(diffusion_engine_new(&desc, &engine, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT,
                    "struct_size");
    }
    diffusion_model_info info = {0};
    CHECK_ERROR(diffusion_model_get_info(shared_model(), &info, &error), error, DIFFUSION_ERROR_INVALID_ARGUMENT,
                "struct_size");
}

static void desc_init_matches_the_macro(void) {
    diffusion_engine_desc macro = DIFFUSION_ENGINE_DESC_INIT, function;
    memset(&function, 0xff, sizeof function);
    diffusion_engine_desc_init(&function, sizeof function);
    CHECK(macro.struct_size == sizeof macro);
    CHECK(function.struct_size == sizeof function && function.device == macro.device &&
          function.threads == macro.threads && function.log_level == macro.log_level &&
          function.memory_limit_host == macro.memory_limit_host && function.log == macro.log &&
          function.log_user_data == macro.log_user_data && function.device_index == macro.device_index &&
          function.precision == macro.precision && function.memory_limit_device == macro.memory_limit_device &&
          function.cuda_library_directory == macro.cuda_library_directory &&
          function.strict == macro.strict && function.reserved == macro.reserved);

    /* An older caller's memory ends earlier. */
    struct {
        uint8_t desc[16];
        uint8_t after[8];
    } older;
    memset(&older, 0xff, sizeof older);
    union {
        void *bytes;
        diffusion_engine_desc *desc;
    } view = {&older};
    diffusion_engine_desc_init(view.desc, sizeof older.desc);
    for (size_t i = 0; i < sizeof older.after; i++) CHECK(older.after[i] == 0xff);
}

static void infos_fill_no_more_than_they_were_given(void) {
    struct {
        diffusion_model_info info;
        uint8_t after[64];
    } space;
    memset(&space, 0xff, sizeof space);
    space.info.struct_size = (uint32_t)offsetof(diffusion_model_info, latent_channels);
    CHECK_STATUS(diffusion_model_get_info(shared_model(), &space.info, NULL), DIFFUSION_OK);
    CHECK(space.info.width == 64 && space.info.height == 64);
    CHECK(space.info.latent_channels == UINT32_MAX && space.info.max_tokens == UINT32_MAX);

    memset(&space, 0xff, sizeof space);
    space.info.struct_size = sizeof space.info;
    CHECK_STATUS(diffusion_model_get_info(shared_model(), &space.info, NULL), DIFFUSION_OK);
    CHECK(space.info.latent_channels == 4);
    for (size_t i = 0; i < sizeof space.after; i++) CHECK(space.after[i] == 0xff);
}

TOPIC(structs, TEST(newer_desc_with_zero_tail_is_accepted), TEST(newer_desc_with_a_set_tail_is_refused),
      TEST(a_reserved_field_that_means_something_is_refused),
      TEST(older_desc_gives_defaults_for_the_rest), TEST(absurd_sizes_are_refused), TEST(desc_init_matches_the_macro),
      TEST(infos_fill_no_more_than_they_were_given));
