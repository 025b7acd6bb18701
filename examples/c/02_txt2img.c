/* A command-line tool that turns a prompt into PNG files, or paints a picture anew; shows the whole way from a model
 * folder to a picture.
 *
 * Build it against the source tree (after `make`):
 *   cc -std=c99 -Iinclude examples/c/02_txt2img.c -Lbuild/lib -Wl,-rpath,$PWD/build/lib -ldiffusion -o txt2img
 * Run it:
 *   ./txt2img --model models/emoji --prompt "a blue cat on a yellow background" --guidance 2.5 -o cat.png
 *   ./txt2img --model models/emoji --prompt "a red cat" --guidance 2.5 --image cat.png --strength 0.6 -o red.png
 *   ./txt2img --help
 */
#define _POSIX_C_SOURCE 200112L /* isatty, fileno */

#include <diffusion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const PROGRAM = "txt2img";

static const char *const USAGE =
    "usage: txt2img --model FOLDER --prompt TEXT [options]\n"
    "\n"
    "  --model FOLDER     a model in diffusers layout\n"
    "  --prompt TEXT      what the picture shows\n"
    "  --negative TEXT    what it should not show\n"
    "  --steps N          denoising steps\n"
    "  --sampler NAME     `--sampler help` lists them; the model's own when not given\n"
    "  --sigma-schedule NAME  how noise falls from step to step; `help` lists them\n"
    "  --guidance X       how strongly the prompt pulls; 1 turns guidance off\n"
    "  --seed N           the same seed gives the same picture; image i of a batch uses seed + i\n"
    "  --variation-seed N --variation-strength X\n"
    "                     vary the picture of --seed a little (0.1) or much (0.9)\n"
    "  --image FILE       start from this PNG file\n"
    "  --strength X       how far to go from it, above 0 up to 1\n"
    "  --mask FILE        paint only what is white in this PNG file; what is black stays\n"
    "  --width N          pixels; that of the image or the model's own when not given\n"
    "  --height N         pixels\n"
    "  --profile NAME     whose numbers to give where programs differ: diffusers, a1111 or comfyui\n"
    "  --set NAME=VALUE   any other option of the library, as often as you like; `--set help` lists them\n"
    "  --batch N          pictures at once, written to OUT-0.png, OUT-1.png, ...\n"
    "  --threads N        CPU threads; 0 = all\n"
    "  --device NAME      auto, cpu or cuda; `help` lists the GPUs\n"
    "  --device-index N   which GPU, from 0\n"
    "  --precision NAME   what it computes in: default, f16, bf16 or f32\n"
    "  --weights NAME     what weights are in memory: stored or int8 (CPU only)\n"
    "  -o, --output FILE  where the picture goes (out.png)\n"
    "  --help             this text\n";

enum { SETS_MAX = 32, LIST_MAX = 1024 };

/* What the command line says that is not a request option of its own flag. */
typedef struct settings {
    const char *model;
    const char *output;
    diffusion_engine_desc engine;
    diffusion_model_desc load;
    const char *sets[SETS_MAX]; /* the NAME=VALUE of each --set */
    int set_count;
} settings;

/* A command-line flag that sets a request option as it is. */
static const struct {
    const char *flag;
    diffusion_option option;
} REQUEST_FLAGS[] = {
    {"--prompt", DIFFUSION_OPTION_PROMPT},        {"--negative", DIFFUSION_OPTION_NEGATIVE_PROMPT},
    {"--steps", DIFFUSION_OPTION_STEPS},          {"--sampler", DIFFUSION_OPTION_SAMPLER},
    {"--guidance", DIFFUSION_OPTION_GUIDANCE_SCALE}, {"--seed", DIFFUSION_OPTION_SEED},
    {"--width", DIFFUSION_OPTION_WIDTH},          {"--height", DIFFUSION_OPTION_HEIGHT},
    {"--batch", DIFFUSION_OPTION_BATCH_SIZE},     {"--sigma-schedule", DIFFUSION_OPTION_SIGMA_SCHEDULE},
    {"--image", DIFFUSION_OPTION_IMAGE},          {"--strength", DIFFUSION_OPTION_STRENGTH},
    {"--mask", DIFFUSION_OPTION_MASK},            {"--profile", DIFFUSION_OPTION_PROFILE},
    {"--variation-seed", DIFFUSION_OPTION_VARIATION_SEED},
    {"--variation-strength", DIFFUSION_OPTION_VARIATION_STRENGTH},
};
enum { REQUEST_FLAG_COUNT = sizeof REQUEST_FLAGS / sizeof REQUEST_FLAGS[0] };

static int fail(const char *message) {
    fprintf(stderr, "%s: %s\n", PROGRAM, message);
    return 1;
}

static int fail_value(const char *flag, const char *value, const char *wanted) {
    fprintf(stderr, "%s: %s '%s': not %s\n", PROGRAM, flag, value, wanted);
    return 1;
}

static int parse_int(const char *text, int64_t *value) {
    char *end;
    errno = 0;
    if (text[0] == '-') {
        *value = strtoll(text, &end, 10);
    } else {
        *value = (int64_t)strtoull(text, &end, 10); /* a seed may use all 64 bits */
    }
    return errno == 0 && end != text && *end == '\0';
}

static int parse_float(const char *text, double *value) {
    char *end;
    errno = 0;
    *value = strtod(text, &end);
    return errno == 0 && end != text && *end == '\0';
}

/* The type of an option, from the library's own table; 0 for an option it does not know. */
static diffusion_option_type option_type(diffusion_option option) {
    for (size_t i = 0; i < diffusion_option_count(); i++) {
        diffusion_option_info info = DIFFUSION_OPTION_INFO_INIT;
        if (diffusion_option_get_info(i, &info, NULL) == DIFFUSION_OK && info.option == option) return info.type;
    }
    return 0;
}

static int print_choices(diffusion_option option) {
    const char *name;
    for (int32_t value = 0; (name = diffusion_option_choice(option, value)) != NULL; value++) puts(name);
    return 0;
}

/* The samplers and the sigma schedules, each with what the library's table says of it. */
static int print_samplers(void) {
    printf("%-20s %s\n", "auto", "The model's own");
    for (size_t i = 0; i < diffusion_sampler_count(); i++) {
        diffusion_sampler_info info = DIFFUSION_SAMPLER_INFO_INIT;
        if (diffusion_sampler_get_info(i, &info, NULL) != DIFFUSION_OK) return 1;
        printf("%-20s %s (%s; order %u, %u a step%s)\n", info.name, info.summary, info.source, info.order,
               info.evaluations, info.stochastic ? ", stochastic" : "");
    }
    return 0;
}

static int print_sigma_schedules(void) {
    printf("%-20s %s\n", "auto", "The model's own");
    for (size_t i = 0; i < diffusion_sigma_schedule_count(); i++) {
        diffusion_sigma_schedule_info info = DIFFUSION_SIGMA_SCHEDULE_INFO_INIT;
        if (diffusion_sigma_schedule_get_info(i, &info, NULL) != DIFFUSION_OK) return 1;
        printf("%-20s %s (%s)\n", info.name, info.summary, info.source);
    }
    return 0;
}

static int print_devices(void) {
    diffusion_device_list *list = NULL;
    diffusion_error *error = NULL;
    if (diffusion_device_list_new(NULL, &list, &error) != DIFFUSION_OK) {
        fail(diffusion_error_message(error));
        diffusion_error_free(error);
        return 1;
    }
    for (size_t i = 0; i < diffusion_device_list_count(list); i++) {
        diffusion_device_info info = DIFFUSION_DEVICE_INFO_INIT;
        if (diffusion_device_list_get_info(list, i, &info, NULL) == DIFFUSION_OK)
            printf("cuda %u  %s, %.1f GiB, compute capability %u.%u\n", info.device_index, info.name,
                   (double)info.memory / (1 << 30), info.compute_capability / 10, info.compute_capability % 10);
    }
    if (diffusion_device_list_count(list) == 0) printf("no GPU: %s\n", diffusion_device_list_reason(list));
    diffusion_device_list_free(list);
    return 0;
}

static int print_options(void) {
    for (size_t i = 0; i < diffusion_option_count(); i++) {
        diffusion_option_info info = DIFFUSION_OPTION_INFO_INIT;
        if (diffusion_option_get_info(i, &info, NULL) == DIFFUSION_OK) printf("%-27s %s\n", info.name, info.summary);
    }
    return 0;
}

/* Sets a list of numbers from text such as "14.6,2.5,0". */
static int set_list(diffusion_request *request, const char *flag, diffusion_option option, const char *value) {
    float numbers[LIST_MAX];
    size_t count = 0;
    for (const char *text = value; *text != '\0';) {
        char *end;
        float number = strtof(text, &end);
        if (end == text || (*end != '\0' && *end != ',') || count == LIST_MAX)
            return fail_value(flag, value, "a list of numbers with commas between them");
        numbers[count++] = number;
        text = *end == ',' ? end + 1 : end;
    }
    diffusion_request_set_floats(request, option, numbers, count);
    return 0;
}

/* Sets an image from a PNG file. The request keeps the pixels: the image can go at once. */
static int set_image(diffusion_request *request, diffusion_option option, const char *path) {
    diffusion_image *image = NULL;
    diffusion_error *error = NULL;
    int exit_code = 0;
    if (diffusion_image_load_png(path, &image, &error) == DIFFUSION_OK) {
        diffusion_request_set_image(request, option, image);
    } else {
        exit_code = fail(diffusion_error_message(error));
    }
    diffusion_error_free(error);
    diffusion_image_free(image);
    return exit_code;
}

/* Sets one request option from text. Range errors are left to diffusion_submit, whose message names the option. */
static int set_option(diffusion_request *request, const char *flag, diffusion_option option, const char *value) {
    int64_t integer;
    double real;
    switch (option_type(option)) {
    case DIFFUSION_OPTION_TYPE_FLOATS: return set_list(request, flag, option, value);
    case DIFFUSION_OPTION_TYPE_IMAGE: return set_image(request, option, value);
    case DIFFUSION_OPTION_TYPE_INT:
        if (!parse_int(value, &integer)) return fail_value(flag, value, "a whole number");
        diffusion_request_set_int(request, option, integer);
        return 0;
    case DIFFUSION_OPTION_TYPE_FLOAT:
        if (!parse_float(value, &real)) return fail_value(flag, value, "a number");
        diffusion_request_set_float(request, option, real);
        return 0;
    default: /* a string, or an enum by name */
        diffusion_request_set_string(request, option, value);
        return 0;
    }
}

/* Sets any option from NAME=VALUE. */
static int set_by_name(diffusion_request *request, const char *text) {
    char name[64];
    size_t length = strcspn(text, "=");
    if (text[length] != '=' || length >= sizeof name) return fail_value("--set", text, "NAME=VALUE");
    memcpy(name, text, length);
    name[length] = '\0';
    diffusion_option option = diffusion_option_find(name);
    if (option == 0) return fail_value("--set", name, "an option; `--set help` lists them");
    return set_option(request, name, option, text + length + 1);
}

/* Finds `name` among `count` names in the order of an enum. */
static int parse_name(const char *name, const char *const *names, int count, int32_t *value) {
    for (int i = 0; i < count; i++) {
        if (strcmp(name, names[i]) == 0) {
            *value = i;
            return 1;
        }
    }
    return 0;
}

/* Sets what belongs to the engine; -1, or the exit code. */
static int set_engine(diffusion_engine_desc *engine, const char *flag, const char *value) {
    static const char *const devices[] = {"auto", "cpu", "cuda"};
    static const char *const precisions[] = {"default", "f16", "bf16", "f32"};
    int64_t number;
    if (strcmp(flag, "--device") == 0) {
        if (strcmp(value, "help") == 0) return print_devices();
        if (!parse_name(value, devices, 3, &engine->device)) return fail_value(flag, value, "auto, cpu or cuda");
    } else if (strcmp(flag, "--precision") == 0) {
        if (!parse_name(value, precisions, 4, &engine->precision))
            return fail_value(flag, value, "default, f16, bf16 or f32");
    } else {
        if (!parse_int(value, &number) || number < 0 || number > UINT32_MAX)
            return fail_value(flag, value, "a number from 0 on");
        if (strcmp(flag, "--threads") == 0) engine->threads = (uint32_t)number;
        else engine->device_index = (uint32_t)number;
    }
    return -1;
}

/* Reads argv into `values` (one a request flag) and `settings`. Returns -1 to go on, or the exit code. */
static int parse_arguments(int argc, char **argv, const char **values, settings *s) {
    for (int i = 1; i < argc; i++) {
        const char *flag = argv[i];
        if (strcmp(flag, "--help") == 0 || strcmp(flag, "-h") == 0) {
            fputs(USAGE, stdout);
            return 0;
        }
        int known = -1;
        for (int k = 0; k < REQUEST_FLAG_COUNT; k++)
            if (strcmp(flag, REQUEST_FLAGS[k].flag) == 0) known = k;
        int of_engine = strcmp(flag, "--threads") == 0 || strcmp(flag, "--device") == 0 ||
                        strcmp(flag, "--device-index") == 0 || strcmp(flag, "--precision") == 0;
        int other = strcmp(flag, "--set") == 0 || strcmp(flag, "--model") == 0 || strcmp(flag, "--weights") == 0 ||
                    strcmp(flag, "--output") == 0 || strcmp(flag, "-o") == 0;
        if (known < 0 && !of_engine && !other) {
            fprintf(stderr, "%s: unknown option '%s'; see --help\n", PROGRAM, flag);
            return 1;
        }
        if (i + 1 == argc) {
            fprintf(stderr, "%s: %s needs a value\n", PROGRAM, flag);
            return 1;
        }
        const char *value = argv[++i];
        if (known >= 0) {
            diffusion_option option = REQUEST_FLAGS[known].option;
            if (option == DIFFUSION_OPTION_SAMPLER && strcmp(value, "help") == 0) return print_samplers();
            if (option == DIFFUSION_OPTION_SIGMA_SCHEDULE && strcmp(value, "help") == 0) return print_sigma_schedules();
            if (option_type(option) == DIFFUSION_OPTION_TYPE_ENUM && strcmp(value, "help") == 0)
                return print_choices(option);
            values[known] = value;
        } else if (strcmp(flag, "--set") == 0) {
            if (strcmp(value, "help") == 0) return print_options();
            if (s->set_count == SETS_MAX) return fail("too many --set");
            s->sets[s->set_count++] = value;
        } else if (strcmp(flag, "--model") == 0) {
            s->model = value;
        } else if (strcmp(flag, "--weights") == 0) {
            static const char *const formats[] = {"stored", "int8"};
            if (!parse_name(value, formats, 2, &s->load.weights)) return fail_value(flag, value, "stored or int8");
        } else if (of_engine) {
            int code = set_engine(&s->engine, flag, value);
            if (code >= 0) return code;
        } else {
            s->output = value;
        }
    }
    if (s->model == NULL) return fail("--model is missing; see --help");
    if (values[0] == NULL) return fail("--prompt is missing; see --help");
    return -1;
}

static void draw_progress(const diffusion_job *job) {
    enum { WIDTH = 30 };
    diffusion_progress p = DIFFUSION_PROGRESS_INIT;
    if (diffusion_job_get_progress(job, &p, NULL) != DIFFUSION_OK) return;
    uint32_t filled = p.steps > 0 ? p.step * WIDTH / p.steps : 0;
    fprintf(stderr, "\r[");
    for (uint32_t i = 0; i < WIDTH; i++) fputc(i < filled ? '#' : '.', stderr);
    fprintf(stderr, "] %u/%u steps  %.1f s ", p.step, p.steps, (double)p.elapsed_ns * 1e-9);
    fflush(stderr);
}

/* Waits for the job, with a progress bar where a person is looking. */
static diffusion_status wait_for(diffusion_job *job) {
    if (!isatty(fileno(stderr))) return diffusion_job_wait(job, -1);
    diffusion_status status;
    while ((status = diffusion_job_wait(job, 50)) == DIFFUSION_PENDING) draw_progress(job);
    fprintf(stderr, "\r%60s\r", "");
    return status;
}

/* "out.png" -> "out-3.png" for image 3 of a batch. The caller frees it. */
static char *batch_path(const char *path, uint32_t index) {
    const char *slash = strrchr(path, '/');
    const char *dot = strrchr(path, '.');
    if (dot == NULL || dot == path || (slash != NULL && dot <= slash + 1)) dot = path + strlen(path);
    size_t size = strlen(path) + 16;
    char *text = malloc(size);
    if (text != NULL) snprintf(text, size, "%.*s-%u%s", (int)(dot - path), path, index, dot);
    return text;
}

static diffusion_status save(diffusion_job *job, uint32_t index, const char *path, diffusion_error **error) {
    diffusion_image *image = NULL;
    diffusion_status status = diffusion_job_take_image(job, index, &image, error);
    if (status == DIFFUSION_OK) status = diffusion_image_save_png(image, path, error);
    if (status == DIFFUSION_OK) printf("%s\n", path);
    diffusion_image_free(image);
    return status;
}

static diffusion_status save_all(diffusion_job *job, const char *path, diffusion_error **error) {
    diffusion_result result = DIFFUSION_RESULT_INIT;
    diffusion_status status = diffusion_job_get_result(job, &result, error);
    if (status != DIFFUSION_OK) return status;

    if (result.image_count == 1) status = save(job, 0, path, error);
    for (uint32_t i = 0; result.image_count > 1 && i < result.image_count && status == DIFFUSION_OK; i++) {
        char *name = batch_path(path, i);
        if (name == NULL) return DIFFUSION_ERROR_OUT_OF_MEMORY;
        status = save(job, i, name, error);
        free(name);
    }
    if (status != DIFFUSION_OK) return status;

    printf("%u x %u pixels, %s, %u steps, seed %llu\n", result.width, result.height,
           diffusion_option_choice(DIFFUSION_OPTION_SAMPLER, result.sampler), result.steps,
           (unsigned long long)result.seed);
    printf("text %.0f ms, denoise %.0f ms, decode %.0f ms, total %.0f ms\n", (double)result.text_ns * 1e-6,
           (double)result.denoise_ns * 1e-6, (double)result.decode_ns * 1e-6, (double)result.total_ns * 1e-6);
    if (result.prompt_tokens_dropped > 0)
        fprintf(stderr, "%s: the prompt is too long for this model: its last %u of %u tokens were dropped\n", PROGRAM,
                result.prompt_tokens_dropped, result.prompt_tokens);
    return DIFFUSION_OK;
}

/* Everything between the parsed arguments and the files; the caller frees what it made. */
typedef struct handles {
    diffusion_engine *engine;
    diffusion_model *model;
    diffusion_session *session;
    diffusion_request *request;
    diffusion_job *job;
    diffusion_error *error;
} handles;

static int generate(const settings *s, const char **values, handles *h) {
    if (diffusion_engine_new(&s->engine, &h->engine, &h->error) != DIFFUSION_OK) return 1;
    if (diffusion_model_load(h->engine, s->model, &s->load, &h->model, &h->error) != DIFFUSION_OK) return 1;
    if (diffusion_session_new(h->model, NULL, &h->session, &h->error) != DIFFUSION_OK) return 1;
    if (diffusion_request_new(h->model, &h->request, &h->error) != DIFFUSION_OK) return 1;
    for (int k = 0; k < REQUEST_FLAG_COUNT; k++) {
        if (values[k] == NULL) continue;
        if (set_option(h->request, REQUEST_FLAGS[k].flag, REQUEST_FLAGS[k].option, values[k]) != 0) return 1;
    }
    for (int k = 0; k < s->set_count; k++)
        if (set_by_name(h->request, s->sets[k]) != 0) return 1;
    if (diffusion_submit(h->session, h->request, &h->job, &h->error) != DIFFUSION_OK) return 1;
    if (wait_for(h->job) != DIFFUSION_OK) return fail(diffusion_error_message(diffusion_job_error(h->job)));
    return save_all(h->job, s->output, &h->error) == DIFFUSION_OK ? 0 : 1;
}

int main(int argc, char **argv) {
    settings s = {NULL, "out.png", DIFFUSION_ENGINE_DESC_INIT, DIFFUSION_MODEL_DESC_INIT, {NULL}, 0};
    const char *values[REQUEST_FLAG_COUNT] = {NULL};
    int exit_code = parse_arguments(argc, argv, values, &s);
    if (exit_code >= 0) return exit_code;

    handles h = {NULL, NULL, NULL, NULL, NULL, NULL};
    exit_code = generate(&s, values, &h);
    if (h.error != NULL) fail(diffusion_error_message(h.error));

    /* Any order would do: a job keeps its session alive, a session its model, a model its engine. */
    diffusion_error_free(h.error);
    diffusion_job_free(h.job);
    diffusion_request_free(h.request);
    diffusion_session_free(h.session);
    diffusion_model_free(h.model);
    diffusion_engine_free(h.engine);
    return exit_code;
}
