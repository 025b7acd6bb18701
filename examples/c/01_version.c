/* Shows which libdiffusion a program runs with: no model, no engine, just the library.
 *
 * Build it against the source tree (after `make`):
 *   cc -std=c99 -Iinclude examples/c/01_version.c -Lbuild/lib -Wl,-rpath,$PWD/build/lib -ldiffusion -o 01_version
 * or against an installed library:
 *   cc -std=c99 examples/c/01_version.c $(pkg-config --cflags --libs diffusion) -o 01_version
 */
#include <diffusion.h>
#include <stdio.h>

int main(void) {
    printf("compiled against libdiffusion %s, running with %s\n\n", DIFFUSION_VERSION_STRING, diffusion_version_string());
    puts(diffusion_build_info());

    /* Within 0.1.x the library may be newer than the header, never older. */
    if (diffusion_version() < DIFFUSION_VERSION_NUMBER) {
        fprintf(stderr, "01_version: the library is older than the header\n");
        return 1;
    }
    return 0;
}
