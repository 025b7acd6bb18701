/* Mistakes made on purpose, one a run: proof that the tools the harness runs under would catch them. */
#include <diffusion.h>
#include <stdlib.h>
#include <string.h>

/* An engine that is never freed, in memory that goes with the function's frame. */
static int leak(void) {
    diffusion_engine_desc desc = DIFFUSION_ENGINE_DESC_INIT;
    diffusion_engine *engine = NULL;
    desc.threads = 1;
    return diffusion_engine_new(&desc, &engine, NULL) != DIFFUSION_OK;
}

/* A structure copied into one byte too few. */
static int overflow(void) {
    diffusion_engine_desc desc = DIFFUSION_ENGINE_DESC_INIT;
    volatile size_t size = sizeof desc; /* so that the compiler cannot see it */
    unsigned char *copy = malloc(size - 1);
    if (copy == NULL) return 2;
    memcpy(copy, &desc, size);
    int first = copy[0] == 0;
    free(copy);
    return first;
}

/* A shift that C does not define. */
static int undefined(void) {
    volatile int bits = 40;
    volatile int value = 1;
    return (value << bits) == 7;
}

int main(int argc, char **argv) {
    const char *mistake = argc > 1 ? argv[1] : "";
    if (strcmp(mistake, "leak") == 0) return leak();
    if (strcmp(mistake, "overflow") == 0) return overflow();
    if (strcmp(mistake, "undefined") == 0) return undefined();
    return strcmp(mistake, "none") == 0 ? 0 : 2;
}
