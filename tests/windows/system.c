/* What is Windows' own: system DIFFUSION.DLL
 * A library that had an engine stays loaded, and paths are UTF-8. Says what is wrong and ends with 1, or is silent. */
#include <diffusion.h>
#include <stdint.h>
#include <stdio.h>
#include <windows.h>

static int failures;
#define CHECK(condition) ((condition) ? (void)0 : (void)(failures++, printf("%s:%d: %s\n", __FILE__, __LINE__, #condition)))

/* Of the library that was loaded by its name: this program is not linked with it. */
#define FUNCTION(name) (*(__typeof__(&name))(void *)GetProcAddress(library, #name))

int main(int count, char **arguments) {
    HMODULE library = count == 2 ? LoadLibraryA(arguments[1]) : NULL;
    CHECK(library != NULL);
    if (library == NULL) return 1;

    diffusion_engine_desc desc = DIFFUSION_ENGINE_DESC_INIT;
    diffusion_engine *engine = NULL;
    desc.device = DIFFUSION_DEVICE_CPU;
    desc.threads = 1; /* the caller's: no other is started */
    CHECK(FUNCTION(diffusion_engine_new)(&desc, &engine, NULL) == DIFFUSION_OK);
    FUNCTION(diffusion_engine_free)(engine);

    static const uint8_t pixels[3] = {1, 2, 3};
    static const char name[] = "b\xc3\xa4ume \xe6\xa8\xb9.png"; /* two words for trees */
    static const wchar_t wide[] = L"b\x00e4ume \x6a39.png";
    diffusion_image *image = NULL;
    CHECK(FUNCTION(diffusion_image_new)(1, 1, DIFFUSION_FORMAT_RGB8, pixels, 0, &image, NULL) == DIFFUSION_OK);
    CHECK(FUNCTION(diffusion_image_save_png)(image, name, NULL) == DIFFUSION_OK);
    FUNCTION(diffusion_image_free)(image);
    image = NULL;
    CHECK(GetFileAttributesW(wide) != INVALID_FILE_ATTRIBUTES);
    CHECK(FUNCTION(diffusion_image_load_png)(name, &image, NULL) == DIFFUSION_OK);
    FUNCTION(diffusion_image_free)(image);
    CHECK(DeleteFileW(wide));

    CHECK(FreeLibrary(library));
    CHECK(GetModuleHandleA("diffusion.dll") == library);
    return failures != 0;
}
