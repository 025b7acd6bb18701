/* POSIX's dlfcn.h on Windows, as far as the C harness needs it. */
#ifndef DLFCN_H
#define DLFCN_H

__declspec(dllimport) void *__stdcall LoadLibraryA(const char *name);
__declspec(dllimport) int __stdcall FreeLibrary(void *module);
__declspec(dllimport) void *__stdcall GetProcAddress(void *module, const char *name);

enum { RTLD_LAZY, RTLD_NOW };
#define dlopen(name, flags) LoadLibraryA(name)
#define dlclose(module) FreeLibrary(module)
#define dlsym(module, name) GetProcAddress(module, name)

#endif
