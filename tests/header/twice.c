/* The header compiles alone, twice, and its macros hold. Compiled as C99, C11 and C++17 (and as C++98). */
#include <diffusion.h>
#include <diffusion.h>

/* Negative array sizes: the static assertion that every standard has. */
typedef char version_number[DIFFUSION_VERSION_NUMBER == DIFFUSION_VERSION_MAJOR * 1000000 +
                                                            DIFFUSION_VERSION_MINOR * 1000 + DIFFUSION_VERSION_PATCH
                                ? 1
                                : -1];
typedef char handles_are_plain_pointers[sizeof(diffusion_engine *) == sizeof(void *) ? 1 : -1];

int header_compiles(void);
int header_compiles(void) {
    diffusion_engine_desc desc = DIFFUSION_ENGINE_DESC_INIT;
    return desc.struct_size == sizeof(diffusion_engine_desc) && DIFFUSION_VERSION_STRING[0] == '0';
}
