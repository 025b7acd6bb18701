/* Model folders that are missing, damaged or contradict themselves: each is an error that names the culprit, never a
 * crash. Every test copies the small model and damages one file of the copy. */
#include "check.h"
#include "files.h"
#include "support.h"
#include <stdlib.h>
#include <string.h>

#define UNET "unet/diffusion_pytorch_model.safetensors"
#define VAE "vae/diffusion_pytorch_model.safetensors"
#define TEXT_ENCODER "text_encoder/model.safetensors"

/* The last entry of the U-Net file's header, whose bytes are the last of the file. */
#define LAST_TENSOR "up_blocks.2.resnets.1.time_emb_proj.weight"
#define LAST_ENTRY "\"" LAST_TENSOR "\":{\"dtype\":\"F16\",\"shape\":[64,256],\"data_offsets\":[11166536,11199304]}"

/* Loading `path` must fail with `want` and name `culprit`; the model comes back NULL. */
static void refused_at(const char *path, diffusion_status want, const char *culprit) {
    diffusion_model *model = (diffusion_model *)&check_failures;
    diffusion_error *error = NULL;
    CHECK_ERROR(diffusion_model_load(shared_engine(), path, NULL, &model, &error), error, want, culprit);
    CHECK(model == NULL);
}

/* Likewise for a damaged copy, which is then removed. */
static void refused(char *folder, diffusion_status want, const char *culprit) {
    if (folder != NULL) refused_at(folder, want, culprit);
    folder_remove(folder);
}

static void undamaged_copy_loads(void) {
    char *folder = folder_of_model();
    diffusion_model *model = NULL;
    REQUIRE(folder != NULL);
    CHECK_STATUS(diffusion_model_load(shared_engine(), folder, NULL, &model, NULL), DIFFUSION_OK);
    CHECK(model != NULL);
    folder_remove(folder); /* a loaded model outlives its folder */
    diffusion_model_free(model);
}

static void info_tells_what_the_configs_say(void) {
    diffusion_model_info info = DIFFUSION_MODEL_INFO_INIT;
    CHECK_STATUS(diffusion_model_get_info(shared_model(), &info, NULL), DIFFUSION_OK);
    CHECK(info.width == 64 && info.height == 64);
    CHECK(info.latent_channels == 4 && info.max_tokens == 30); /* 32 less the two marks */
    CHECK(info.size_multiple == 4); /* the VAE's reduction */
    CHECK(info.parameters > 7000000 && info.parameters < 8000000);
    CHECK(info.weight_bytes >= info.parameters * 2);
    REQUIRE(info.pipeline_class != NULL && info.prediction_type != NULL && info.default_sampler != NULL);
    CHECK(strcmp(info.pipeline_class, "StableDiffusionPipeline") == 0);
    CHECK(strcmp(info.prediction_type, "v_prediction") == 0);
    CHECK(strcmp(info.default_sampler, "ddim") == 0);
}

static void missing_folder_and_files(void) {
    refused_at("no/such/folder", DIFFUSION_ERROR_NOT_FOUND, "no/such/folder");
    refused_at("", DIFFUSION_ERROR_NOT_FOUND, "");
    refused_at("no\nsuch\rfolder", DIFFUSION_ERROR_NOT_FOUND, "no such folder"); /* messages are one line */
    static const char *const names[] = {"model_index.json", "unet/config.json", UNET, "vae/config.json", TEXT_ENCODER,
                                        "scheduler/scheduler_config.json"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char *folder = folder_of_model();
        REQUIRE(folder != NULL);
        file_remove(folder, names[i]);
        /* The weights have several accepted names, so the message may name their folder alone. */
        char part[32];
        snprintf(part, sizeof part, "%.*s", (int)strcspn(names[i], "/"), names[i]);
        refused(folder, DIFFUSION_ERROR_NOT_FOUND, strstr(names[i], "safetensors") != NULL ? part : names[i]);
    }
}

static void missing_tokenizer(void) {
    char *folder = folder_of_model();
    REQUIRE(folder != NULL);
    file_remove(folder, "tokenizer/tokenizer.json");
    file_remove(folder, "tokenizer/merges.txt");
    refused(folder, DIFFUSION_ERROR_NOT_FOUND, "tokenizer");
}

static void a_file_is_not_a_folder(void) {
    char path[1024];
    diffusion_model *model = NULL;
    diffusion_error *error = NULL;
    snprintf(path, sizeof path, "%s/model_index.json", model_path());
    diffusion_status status = diffusion_model_load(shared_engine(), path, NULL, &model, &error);
    CHECK(status == DIFFUSION_ERROR_NOT_FOUND || status == DIFFUSION_ERROR_UNSUPPORTED ||
          status == DIFFUSION_ERROR_FORMAT);
    CHECK_ERROR(status, error, status, "model_index.json");
    CHECK(model == NULL);
}

static void truncated_weights(void) {
    static const size_t sizes[] = {0, 5, 8, 100, 11236591, 5000000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char *folder = folder_of_model();
        REQUIRE(folder != NULL);
        file_truncate(folder, UNET, sizes[i]);
        refused(folder, DIFFUSION_ERROR_FORMAT, UNET);
    }
}

static void lying_header_length(void) {
    static const uint64_t lengths[] = {0, 1, 37279, 37281, 100u << 20, UINT64_C(1) << 40, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        char *folder = folder_of_model();
        uint8_t bytes[8];
        REQUIRE(folder != NULL);
        for (int b = 0; b < 8; b++) bytes[b] = (uint8_t)(lengths[i] >> (8 * b) & 0xff);
        file_patch(folder, UNET, 0, bytes, sizeof bytes);
        refused(folder, DIFFUSION_ERROR_FORMAT, UNET);
    }
}

static void lying_header_entries(void) {
    static const struct {
        const char *from, *to;
    } lies[] = {
        {"{\"dtype\":\"F16\",\"shape\":[64],\"data_offsets\":[0,128]}", "{\"dtype\":\"F16\",\"shape\":[64],\"data_offsets\":[128,0]}"},
        {"\"shape\":[64],\"data_offsets\":[0,128]", "\"shape\":[4611686018427387904,4],\"data_offsets\":[0,128]"},
        {"\"data_offsets\":[11166536,11199304]", "\"data_offsets\":[11166536,99999999]"},
        {"\"data_offsets\":[128,4736]", "\"data_offsets\":[0,4608]"},
        {"{\"dtype\":\"F16\"", "{\"dtype\":\"Q17\""},
        {"\"conv_in.bias\":{", "\"conv_in.bias\":[}"},
        {"\"conv_in.bias\":{", "\"conv_in.\xff\xfe\":{"},
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        char *folder = folder_of_model();
        REQUIRE(folder != NULL);
        tensors_edit(folder, UNET, lies[i].from, lies[i].to, 0, 0);
        refused(folder, DIFFUSION_ERROR_FORMAT, UNET);
    }
}

static void missing_tensor(void) {
    char *folder = folder_of_model();
    REQUIRE(folder != NULL);
    tensors_edit(folder, UNET, "," LAST_ENTRY, "", 64 * 256 * 2, 0);
    refused(folder, DIFFUSION_ERROR_FORMAT, LAST_TENSOR);
}

static void extra_tensor(void) {
    char *folder = folder_of_model();
    REQUIRE(folder != NULL);
    tensors_edit(folder, UNET, LAST_ENTRY,
                 LAST_ENTRY ",\"spare.weight\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[11199304,11199308]}", 0, 4);
    refused(folder, DIFFUSION_ERROR_FORMAT, "spare.weight");
}

static void wrongly_shaped_tensor(void) {
    char *folder = folder_of_model();
    REQUIRE(folder != NULL);
    tensors_edit(folder, UNET, "\"shape\":[64,256],\"data_offsets\":[11166536", "\"shape\":[256,64],\"data_offsets\":[11166536",
                 0, 0);
    refused(folder, DIFFUSION_ERROR_FORMAT, LAST_TENSOR);
}

static void nan_in_the_weights(void) {
    static const struct {
        const char *file, *tensor; /* the first tensor of each file */
    } parts[] = {
        {UNET, "conv_in.bias"},
        {VAE, "decoder.conv_in.bias"},
        {TEXT_ENCODER, "position_embedding"},
    };
    static const uint8_t bad[2][2] = {{0x00, 0x7e}, {0x00, 0xfc}}; /* f16 NaN and minus infinity */
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        for (int k = 0; k < 2; k++) {
            char *folder = folder_of_model();
            REQUIRE(folder != NULL);
            file_patch(folder, parts[i].file, tensors_data_offset(folder, parts[i].file), bad[k], 2);
            diffusion_model_desc desc = DIFFUSION_MODEL_DESC_INIT;
            diffusion_model *model = NULL;
            diffusion_error *error = NULL;
            desc.weights = DIFFUSION_WEIGHT_FORMAT_INT8;
            CHECK_ERROR(diffusion_model_load(shared_engine(), folder, &desc, &model, &error), error,
                        DIFFUSION_ERROR_NUMERIC, parts[i].tensor);
            refused(folder, DIFFUSION_ERROR_NUMERIC, parts[i].tensor);
        }
    }
}

static void config_that_contradicts_its_tensors(void) {
    static const struct {
        const char *file, *from, *to, *culprit;
    } edits[] = {
        {"unet/config.json", "\"cross_attention_dim\": 128", "\"cross_attention_dim\": 256", "unet"},
        {"unet/config.json", "\"layers_per_block\": 1", "\"layers_per_block\": 2", "unet"},
        {"unet/config.json", "    128\n  ],\n  \"center", "    160\n  ],\n  \"center", "unet"},
        {"vae/config.json", "\"latent_channels\": 4", "\"latent_channels\": 8", "vae"},
        {"text_encoder/config.json", "\"vocab_size\": 4096", "\"vocab_size\": 4097", "text_encoder"},
        {"text_encoder/config.json", "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4", "text_encoder"},
    };
    for (size_t i = 0; i < sizeof edits / sizeof edits[0]; i++) {
        char *folder = folder_of_model();
        REQUIRE(folder != NULL);
        file_replace(folder, edits[i].file, edits[i].from, edits[i].to);
        refused(folder, DIFFUSION_ERROR_FORMAT, edits[i].culprit);
    }
}

static void absurd_config_values(void) {
    static const struct {
        const char *file, *from, *to;
    } edits[] = {
        {"unet/config.json", "\"norm_num_groups\": 16", "\"norm_num_groups\": 0"},
        {"unet/config.json", "\"norm_num_groups\": 16", "\"norm_num_groups\": 7"},
        {"unet/config.json", "\"layers_per_block\": 1", "\"layers_per_block\": 4000000000"},
        {"unet/config.json", "\"cross_attention_dim\": 128", "\"cross_attention_dim\": -1"},
        {"unet/config.json", "\"in_channels\": 4", "\"in_channels\": \"four\""},
        {"unet/config.json", "    2,\n    3,\n    4\n", "    2,\n    0,\n    4\n"},
        {"vae/config.json", "\"norm_num_groups\": 8", "\"norm_num_groups\": 0"},
        {"text_encoder/config.json", "\"num_attention_heads\": 4", "\"num_attention_heads\": 0"},
        {"text_encoder/config.json", "\"hidden_size\": 128", "\"hidden_size\": 4611686018427387904"},
        {"scheduler/scheduler_config.json", "\"num_train_timesteps\": 1000", "\"num_train_timesteps\": 0"},
        {"model_index.json", "{", "["},
    };
    for (size_t i = 0; i < sizeof edits / sizeof edits[0]; i++) {
        char *folder = folder_of_model();
        diffusion_model *model = NULL;
        diffusion_error *error = NULL;
        REQUIRE(folder != NULL);
        file_replace(folder, edits[i].file, edits[i].from, edits[i].to);
        char part[32];
        snprintf(part, sizeof part, "%.*s", (int)strcspn(edits[i].file, "/"), edits[i].file);
        diffusion_status status = diffusion_model_load(shared_engine(), folder, NULL, &model, &error);
        if (status != DIFFUSION_ERROR_FORMAT && status != DIFFUSION_ERROR_UNSUPPORTED)
            check_failed(__FILE__, __LINE__, "%s: %s gave %s", edits[i].file, edits[i].to,
                         diffusion_status_name(status));
        CHECK_ERROR(status, error, status, part);
        CHECK(model == NULL);
        diffusion_model_free(model);
        folder_remove(folder);
    }
}

static void unknown_classes(void) {
    static const struct {
        const char *file, *from, *to, *culprit;
    } edits[] = {
        {"model_index.json", "StableDiffusionPipeline", "KarloPipeline", "KarloPipeline"},
        {"model_index.json", "UNet2DConditionModel", "SD3Transformer2DModel", "SD3Transformer2DModel"},
        {"unet/config.json", "CrossAttnDownBlock2D", "KDownBlock2D", "KDownBlock2D"},
        {"text_encoder/config.json", "quick_gelu", "softsign", "softsign"},
        {"scheduler/scheduler_config.json", "v_prediction", "w_prediction", "w_prediction"},
        {"scheduler/scheduler_config.json", "scaled_linear", "sigmoid_of_sorts", "sigmoid_of_sorts"},
    };
    for (size_t i = 0; i < sizeof edits / sizeof edits[0]; i++) {
        char *folder = folder_of_model();
        REQUIRE(folder != NULL);
        file_replace(folder, edits[i].file, edits[i].from, edits[i].to);
        refused(folder, DIFFUSION_ERROR_UNSUPPORTED, edits[i].culprit);
    }
}

static void broken_json(void) {
    static const char *const names[] = {"model_index.json", "unet/config.json", "vae/config.json",
                                        "text_encoder/config.json", "scheduler/scheduler_config.json"};
    static const char *const texts[] = {"", "{\"a\": ", "\xff\xfe", "[[[[[[[[[[", "null"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        for (size_t k = 0; k < sizeof texts / sizeof texts[0]; k++) {
            char *folder = folder_of_model();
            REQUIRE(folder != NULL);
            file_write_text(folder, names[i], texts[k]);
            refused(folder, DIFFUSION_ERROR_FORMAT, names[i]);
        }
    }
    char *folder = folder_of_model();
    REQUIRE(folder != NULL);
    file_write_text(folder, "tokenizer/tokenizer.json", "{}");
    refused(folder, DIFFUSION_ERROR_FORMAT, "tokenizer/tokenizer.json");
}

/* Replaces the U-Net's one file by an index that puts a tensor in `shard`. */
static char *folder_with_shard(const char *shard) {
    char *folder = folder_of_model();
    char index[512];
    if (folder == NULL) return NULL;
    snprintf(index, sizeof index, "{\"metadata\":{},\"weight_map\":{\"conv_in.bias\":\"%s\"}}", shard);
    file_remove(folder, UNET);
    file_write_text(folder, "unet/diffusion_pytorch_model.safetensors.index.json", index);
    return folder;
}

static void absent_shard(void) {
    refused(folder_with_shard("diffusion_pytorch_model-00001-of-00002.safetensors"), DIFFUSION_ERROR_NOT_FOUND,
            "diffusion_pytorch_model-00001-of-00002.safetensors");
}

static void shard_that_escapes_its_folder(void) {
    static const char *const names[] = {"../vae/diffusion_pytorch_model.safetensors",
                                        "/etc/hostname", "sub/../../vae/diffusion_pytorch_model.safetensors", "..", ""};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        refused(folder_with_shard(names[i]), DIFFUSION_ERROR_FORMAT, names[i]);
}

static void file_of_another_format(void) {
    char *folder = folder_of_model();
    REQUIRE(folder != NULL);
    file_write_text(folder, UNET, "PK\x03\x04 a pickle in a zip, as old checkpoints are, long enough to have a length");
    refused(folder, DIFFUSION_ERROR_FORMAT, UNET);
}

static void unknown_variant(void) {
    diffusion_model_desc desc = DIFFUSION_MODEL_DESC_INIT;
    diffusion_model *model = (diffusion_model *)&desc;
    diffusion_error *error = NULL;
    desc.variant = "fp8";
    CHECK_ERROR(diffusion_model_load(shared_engine(), model_path(), &desc, &model, &error), error,
                DIFFUSION_ERROR_NOT_FOUND, "fp8");
    CHECK(model == NULL);
}

static uint64_t memory_used(void) {
    diffusion_engine_info info = DIFFUSION_ENGINE_INFO_INIT;
    CHECK_STATUS(diffusion_engine_get_info(shared_engine(), &info, NULL), DIFFUSION_OK);
    return info.memory_used;
}

/* Weights in 8 bits: the picture stays much the same, in little more than half the memory, as predicted. */
static void int8_weights(void) {
    diffusion_model_desc desc = DIFFUSION_MODEL_DESC_INIT;
    diffusion_memory_prediction stored = DIFFUSION_MEMORY_PREDICTION_INIT, predicted = stored;
    diffusion_model *model = NULL;
    diffusion_request *request = new_request(4, 1);
    set_size(request, 64);
    picture expected = generate_picture(shared_model(), request);
    diffusion_request_free(request);

    CHECK_STATUS(diffusion_predict_memory(shared_engine(), model_path(), &desc, NULL, &stored, NULL), DIFFUSION_OK);
    desc.weights = DIFFUSION_WEIGHT_FORMAT_INT8;
    CHECK_STATUS(diffusion_predict_memory(shared_engine(), model_path(), &desc, NULL, &predicted, NULL), DIFFUSION_OK);
    CHECK(predicted.weights < stored.weights * 7 / 10 && predicted.activations == stored.activations);
    uint64_t before = memory_used();
    CHECK_STATUS(diffusion_model_load(shared_engine(), model_path(), &desc, &model, NULL), DIFFUSION_OK);
    REQUIRE(model != NULL);
    CHECK(memory_used() - before == predicted.weights);
    request = new_request_for(model, 4, 1);
    set_size(request, 64);
    picture rounded = generate_picture(model, request);
    diffusion_request_free(request);
    diffusion_model_free(model);
    double decibels = psnr(&rounded, &expected);
    if (decibels < 45) check_failed(__FILE__, __LINE__, "%.1f dB", decibels);
    CHECK(!same_picture(&rounded, &expected));
    picture_free(&rounded);
    picture_free(&expected);
}

static void weights_that_are_no_format(void) {
    static const diffusion_weight_format formats[] = {-1, 2, 8, INT32_MIN, INT32_MAX};
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        diffusion_model_desc desc = DIFFUSION_MODEL_DESC_INIT;
        diffusion_memory_prediction prediction = DIFFUSION_MEMORY_PREDICTION_INIT;
        diffusion_model *model = (diffusion_model *)&desc;
        diffusion_error *error = NULL;
        char want[64];
        desc.weights = formats[i];
        snprintf(want, sizeof want, "weights: there is no format %d", formats[i]);
        CHECK_ERROR(diffusion_model_load(shared_engine(), model_path(), &desc, &model, &error), error,
                    DIFFUSION_ERROR_INVALID_ARGUMENT, want);
        CHECK(model == NULL);
        CHECK_ERROR(diffusion_predict_memory(shared_engine(), model_path(), &desc, NULL, &prediction, &error), error,
                    DIFFUSION_ERROR_INVALID_ARGUMENT, want);
    }
}

static void path_that_is_not_utf8(void) { refused_at("models/\xff\xfe", DIFFUSION_ERROR_INVALID_ARGUMENT, "UTF-8"); }

static void memory_limit_below_the_weights(void) {
    diffusion_engine_desc desc = DIFFUSION_ENGINE_DESC_INIT;
    diffusion_engine *engine = NULL;
    diffusion_model *model = (diffusion_model *)&desc;
    diffusion_error *error = NULL;
    desc.device = DIFFUSION_DEVICE_CPU;
    desc.threads = 1;
    desc.memory_limit_host = 1 << 20;
    CHECK_STATUS(diffusion_engine_new(&desc, &engine, NULL), DIFFUSION_OK);
    CHECK_ERROR(diffusion_model_load(engine, model_path(), NULL, &model, &error), error, DIFFUSION_ERROR_OUT_OF_MEMORY,
                "limit");
    CHECK(model == NULL);
    diffusion_engine_info info = DIFFUSION_ENGINE_INFO_INIT;
    CHECK_STATUS(diffusion_engine_get_info(engine, &info, NULL), DIFFUSION_OK);
    CHECK(info.memory_used == 0); /* what the failed load took is given back */
    CHECK(info.memory_limit == 1 << 20);
    diffusion_engine_free(engine);
}

TOPIC(models, TEST(undamaged_copy_loads), TEST(info_tells_what_the_configs_say), TEST(missing_folder_and_files),
      TEST(missing_tokenizer), TEST(a_file_is_not_a_folder), TEST(truncated_weights), TEST(lying_header_length),
      TEST(lying_header_entries), TEST(missing_tensor), TEST(extra_tensor), TEST(wrongly_shaped_tensor),
      TEST(nan_in_the_weights), TEST(config_that_contradicts_its_tensors), TEST(absurd_config_values),
      TEST(unknown_classes), TEST(broken_json), TEST(absent_shard), TEST(shard_that_escapes_its_folder),
      TEST(file_of_another_format), TEST(unknown_variant), TEST(int8_weights),
      TEST(weights_that_are_no_format), TEST(path_that_is_not_utf8), TEST(memory_limit_below_the_weights));
