// Modules, functions, launches.
//
// An image tells which GPUs it is for and which kernels it holds; what runs is the kernel of that name that was
// compiled for the emulator. Two kinds are taken:
//
//   cubin  ELF for CUDA. The GPU has to have the same major and at least the same minor version, or for images with
//          architecture-specific features (sm_90a) the very same. A kernel is there if its name is.
//   PTX    text with a line `.target sm_NN`; the GPU has to be at least that. A kernel is there if the text has
//          `.entry NAME`. Text without any `.entry` stands for all kernels: tests that have no NVRTC load that.
#include <cstdlib>
#include <cstring>
#include <string>

#include "driver.h"

namespace driver {

struct Module {
    Context* context;
    std::string image;
    bool is_text;
};
struct Function {
    const emulator::Kernel* kernel;
    const Module* module;
    size_t dynamic_shared_limit;
};
static Handles<Module> modules;
static Handles<Function> functions;

constexpr size_t DEFAULT_SHARED_LIMIT = 48 << 10;

template <class T> static T read(const char* from) {
    T value;
    memcpy(&value, from, sizeof value);
    return value;
}

static Result load_cubin(const char* image, Module& module) {
    constexpr uint16_t EM_CUDA = 190;
    if (read<uint16_t>(image + 18) != EM_CUDA) return ERROR_INVALID_IMAGE;
    // The section headers are the file's end.
    const auto sections = read<uint64_t>(image + 40);
    const auto section_bytes = read<uint16_t>(image + 58), section_count = read<uint16_t>(image + 60);
    const auto programs = read<uint64_t>(image + 32);
    const auto program_bytes = read<uint16_t>(image + 54), program_count = read<uint16_t>(image + 56);
    const uint64_t bytes = std::max(sections + uint64_t(section_bytes) * section_count,
                                    programs + uint64_t(program_bytes) * program_count);
    // The version of the ABI says where the flags have the architecture.
    const auto flags = read<uint32_t>(image + 48);
    const bool old_abi = image[8] < 8;
    const uint64_t architecture = (old_abi ? flags : flags >> 8) & 0xFF;
    const bool specific = old_abi && (flags & 0x800);
    const bool runs = specific ? architecture == values.architecture
                               : architecture / 10 == values.architecture / 10 && architecture <= values.architecture;
    if (!runs) return ERROR_NO_BINARY_FOR_GPU;
    module.image.assign(image, bytes);
    return SUCCESS;
}

static Result load_ptx(const char* image, Module& module) {
    constexpr const char* TARGET = ".target sm_";
    const char* const target = strstr(image, TARGET);
    if (!target) return ERROR_INVALID_IMAGE;
    char* end;
    const uint64_t architecture = strtoull(target + strlen(TARGET), &end, 10);
    if (architecture > values.architecture || (*end == 'a' && architecture != values.architecture)) {
        return ERROR_INVALID_PTX;
    }
    module.image = image;
    module.is_text = true;
    return SUCCESS;
}

static bool has_kernel(const Module& module, const std::string& name) {
    // Each kernel has a section of its own, and so its name among the names of sections.
    if (!module.is_text) return module.image.find(".text." + name + '\0') != std::string::npos;
    if (module.image.find(".entry") == std::string::npos) return true;
    return module.image.find(".entry " + name + "(") != std::string::npos;
}

void unload_modules(Context& context) {
    functions.remove_if([&](const Function& function) { return function.module->context == &context; });
    modules.remove_if([&](const Module& module) { return module.context == &context; });
}

// A launch's parameters, copied: callers' are gone when it runs.
using Parameters = std::vector<std::vector<unsigned char>>;

static void run_kernel(const emulator::Kernel& kernel, emulator::Dim3 grid, emulator::Dim3 block, size_t shared_bytes,
                       const Parameters& parameters) {
    std::vector<void*> addresses;
    for (const auto& parameter : parameters) addresses.push_back(const_cast<unsigned char*>(parameter.data()));
    emulator::Options options;
    options.schedule = emulator::Schedule(values.schedule);
    options.eager_copies = values.eager_copies != 0;
    values.kernels++;
    emulator::launch(kernel, grid, block, shared_bytes, addresses.data(), options);
}

}  // namespace driver

using namespace driver;

API Result cuModuleLoadData(void** handle, const void* data) {
    ENTER_CONTEXT;
    if (const Result result = refuse_while_capturing(*context)) return result;
    const auto* const image = static_cast<const char*>(data);
    Module module{context, {}, false};
    const Result result = memcmp(image, "\177ELF", 4) == 0 ? load_cubin(image, module) : load_ptx(image, module);
    if (!result) *handle = modules.add(std::move(module));
    return result;
}

API Result cuModuleLoadDataEx(void** handle, const void* data, unsigned options, int*, void**) {
    return options == 0 ? cuModuleLoadData(handle, data) : ERROR_NOT_SUPPORTED;
}

API Result cuModuleUnload(void* handle) {
    ENTER_CONTEXT;
    const Module* const module = modules.find(handle);
    if (!module) return ERROR_INVALID_HANDLE;
    run_all(*context);
    functions.remove_if([&](const Function& function) { return function.module == module; });
    modules.remove(module);
    return context->error;
}

API Result cuModuleGetFunction(void** handle, void* module_handle, const char* name) {
    ENTER_CONTEXT;
    const Module* const module = modules.find(module_handle);
    if (!module) return ERROR_INVALID_HANDLE;
    const auto kernel = emulator::kernels().find(name);
    if (kernel == emulator::kernels().end() || !has_kernel(*module, name)) return ERROR_NOT_FOUND;
    *handle = functions.add({&kernel->second, module, DEFAULT_SHARED_LIMIT});
    return SUCCESS;
}

enum FunctionAttribute { MAX_THREADS_PER_BLOCK = 0, MAX_DYNAMIC_SHARED_SIZE_BYTES = 8 };

API Result cuFuncGetAttribute(int* value, int attribute, void* handle) {
    ENTER_CONTEXT;
    const Function* const function = functions.find(handle);
    if (!function) return ERROR_INVALID_HANDLE;
    switch (attribute) {
    case MAX_THREADS_PER_BLOCK: *value = int(function->kernel->max_threads); return SUCCESS;
    case MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = int(function->dynamic_shared_limit); return SUCCESS;
    default: return ERROR_NOT_SUPPORTED;
    }
}

API Result cuFuncSetAttribute(void* handle, int attribute, int value) {
    ENTER_CONTEXT;
    Function* const function = functions.find(handle);
    if (!function) return ERROR_INVALID_HANDLE;
    if (attribute != MAX_DYNAMIC_SHARED_SIZE_BYTES) return ERROR_NOT_SUPPORTED;
    if (value < 0 || size_t(value) > most_shared_bytes()) return ERROR_INVALID_VALUE;
    function->dynamic_shared_limit = size_t(value);
    return SUCCESS;
}

API Result cuLaunchKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                          unsigned block_y, unsigned block_z, unsigned shared_bytes, void* stream_handle,
                          void** parameters, void** extra) {
    ENTER_CONTEXT;
    const Function* const function = functions.find(handle);
    Stream* const stream = find_stream(*context, stream_handle);
    if (!function || !stream || function->module->context != context) return ERROR_INVALID_HANDLE;
    if (extra) return ERROR_NOT_SUPPORTED;
    const emulator::Kernel& kernel = *function->kernel;
    const emulator::Dim3 grid{grid_x, grid_y, grid_z}, block{block_x, block_y, block_z};
    if (grid.count() == 0 || grid_x > 0x7fffffff || grid_y > 65535 || grid_z > 65535) return ERROR_INVALID_VALUE;
    if (block.count() == 0 || block.count() > kernel.max_threads) return ERROR_INVALID_VALUE;
    if (shared_bytes > function->dynamic_shared_limit) return ERROR_INVALID_VALUE;
    if (!parameters && !kernel.parameter_sizes.empty()) return ERROR_INVALID_VALUE;
    if (is_due(values.fail_launch)) return ERROR_LAUNCH_OUT_OF_RESOURCES;
    Parameters copied;
    for (size_t i = 0; i < kernel.parameter_sizes.size(); i++) {
        const auto* const first = static_cast<const unsigned char*>(parameters[i]);
        copied.emplace_back(first, first + kernel.parameter_sizes[i]);
    }
    values.launches++;
    return submit(*stream, [=, &kernel] {
        if (start_kernel(*context)) run_kernel(kernel, grid, block, shared_bytes, copied);
    });
}
