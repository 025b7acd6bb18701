// A stand-in for NVRTC: "compiles" any source to an image with which the stand-in driver has every kernel, so that tests
// take the way of a machine whose library was built without kernels.
//
// Settings, $NVRTC_STANDIN_NAME at the start (STANDIN_ is the driver's) and standin_nvrtc_set later:
//   fail     sources do not compile
//   version  12090 for 12.9
// standin_nvrtc_get tells `compilations`, those that were asked for since the start. Each is a line in the file
// $NVRTC_STANDIN_LOG, for tests that count them over several processes.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#define API extern "C" __attribute__((visibility("default")))

enum Result { SUCCESS = 0, INVALID_INPUT = 3, INVALID_PROGRAM = 4, INVALID_OPTION = 5, COMPILATION = 6 };

struct Program {
    std::string name, image, log;
};

static uint64_t environment(const char* name, uint64_t otherwise) {
    const char* const value = getenv(name);
    return value ? strtoull(value, nullptr, 10) : otherwise;
}
static std::atomic<uint64_t> fail{environment("NVRTC_STANDIN_FAIL", 0)};
static std::atomic<uint64_t> version{environment("NVRTC_STANDIN_VERSION", 12090)};
static std::atomic<uint64_t> compilations{0};

// 0 if there is no such setting.
API int standin_nvrtc_set(const char* name, uint64_t value) {
    if (strcmp(name, "fail") == 0) return fail = value, 1;
    if (strcmp(name, "version") == 0) return version = value, 1;
    return 0;
}

// 0 if there is no such counter.
API int standin_nvrtc_get(const char* name, uint64_t* value) {
    if (strcmp(name, "compilations") == 0) return *value = compilations, 1;
    return 0;
}

API int nvrtcVersion(int* major, int* minor) {
    *major = int(version / 1000), *minor = int(version % 1000 / 10);
    return SUCCESS;
}

API int nvrtcCreateProgram(Program** program, const char* source, const char* name, int headers,
                           const char* const* texts, const char* const* names) {
    if (!source || !name) return INVALID_INPUT;
    // Every header has to be there.
    for (int i = 0; i < headers; i++) {
        if (!texts[i] || !names[i]) return INVALID_INPUT;
    }
    for (const char* at = source; (at = strstr(at, "#include \"")); at++) {
        bool found = false;
        const std::string wanted = at + strlen("#include \"");
        for (int i = 0; i < headers; i++) found |= wanted.rfind(std::string(names[i]) + '"', 0) == 0;
        if (!found) return INVALID_INPUT;
    }
    *program = new Program{name, "", ""};
    return SUCCESS;
}

API int nvrtcDestroyProgram(Program** program) {
    delete *program;
    *program = nullptr;
    return SUCCESS;
}

API int nvrtcCompileProgram(Program* program, int count, const char* const* options) {
    std::string architecture;
    for (int i = 0; i < count; i++) {
        const std::string option = options[i], wanted = "--gpu-architecture=sm_";
        if (option.rfind(wanted, 0) == 0) architecture = option.substr(wanted.size());
        else if (option != "--std=c++17" && option != "-default-device") return INVALID_OPTION;
    }
    if (architecture.empty() || atoi(architecture.c_str()) > 121) return INVALID_OPTION;
    compilations++;
    if (const char* log = getenv("NVRTC_STANDIN_LOG")) {
        if (FILE* file = fopen(log, "a")) {
            fprintf(file, "%s sm_%s\n", program->name.c_str(), architecture.c_str());
            fclose(file);
        }
    }
    if (fail) {
        program->log = program->name + "(1): error: a planted one\n";
        return COMPILATION;
    }
    program->image = ".version 8.8\n.target sm_" + architecture + "\n.address_size 64\n";
    return SUCCESS;
}

API int nvrtcGetCUBINSize(Program* program, size_t* size) {
    if (program->image.empty()) return INVALID_PROGRAM;
    *size = program->image.size() + 1;
    return SUCCESS;
}
API int nvrtcGetCUBIN(Program* program, char* image) {
    memcpy(image, program->image.c_str(), program->image.size() + 1);
    return SUCCESS;
}
API int nvrtcGetProgramLogSize(Program* program, size_t* size) {
    *size = program->log.size() + 1;
    return SUCCESS;
}
API int nvrtcGetProgramLog(Program* program, char* log) {
    memcpy(log, program->log.c_str(), program->log.size() + 1);
    return SUCCESS;
}
