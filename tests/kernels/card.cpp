// The card's driver, found at run time. Images are those of the folder $KERNELS: of each family the .cubin for the
// card's architecture, or of the same generation before it, or else the .ptx.
#include "card.h"

#include <dirent.h>
#include <dlfcn.h>

#include <cstring>
#include <fstream>
#include <sstream>

namespace card {

using emulator::fail;

// Functions of libcuda.so.1, declared as its manual does.
static void* symbol(const char* name) {
    static void* const library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) fail("%s", dlerror());
    void* const found = dlsym(library, name);
    if (!found) fail("the driver has no %s", name);
    return found;
}
template <class... P> static void call(const char* name, P... parameters) {
    const int status = reinterpret_cast<int (*)(P...)>(symbol(name))(parameters...);
    if (status != 0) fail("%s: CUDA error %d", name, status);
}
using Pointer = uint64_t;

// Device 0, with the functions of all images by name.
struct Card {
    std::vector<void*> modules;

    Card() {
        int device = 0, major = 0, minor = 0;
        void* context = nullptr;
        call("cuInit", 0u);
        call("cuDeviceGet", &device, 0);
        call("cuDeviceGetAttribute", &major, 75, device);
        call("cuDeviceGetAttribute", &minor, 76, device);
        call("cuDevicePrimaryCtxRetain", &context, device);
        call("cuCtxSetCurrent", context);
        const char* const folder = getenv("KERNELS");
        DIR* const entries = folder ? opendir(folder) : nullptr;
        if (!entries) fail("KERNELS has to name the folder of images that `make kernels` writes");
        // The best image of each family: by how near its architecture is, PTX last.
        std::map<std::string, std::pair<int, std::string>> best;
        while (const dirent* entry = readdir(entries)) {
            const std::string file = entry->d_name;
            const size_t dot = file.find('.');
            if (dot == std::string::npos) continue;
            int architecture = 0, rank = 0;
            char kind[8] = "";
            if (sscanf(file.c_str() + dot, ".sm_%d.%7s", &architecture, kind) == 2 && !strcmp(kind, "cubin")) {
                if (architecture / 10 != major || architecture % 10 > minor) continue;
                rank = 1 + architecture % 10;
            } else if (file.size() < 4 || file.compare(file.size() - 4, 4, ".ptx") != 0) {
                continue;
            }
            auto& chosen = best[file.substr(0, dot)];
            if (chosen.second.empty() || rank > chosen.first) chosen = {rank, folder + ("/" + file)};
        }
        closedir(entries);
        for (const auto& family : best) {
            std::ostringstream image;
            image << std::ifstream(family.second.second, std::ios::binary).rdbuf();
            const std::string bytes = image.str();
            modules.push_back(nullptr);
            call("cuModuleLoadData", &modules.back(), static_cast<const void*>(bytes.c_str()));
        }
        printf("kernels of %zu families for sm_%d%d\n", best.size(), major, minor);
    }

    void* function(const std::string& name) const {
        for (void* module : modules) {
            using Get = int (*)(void**, void*, const char*);
            void* found = nullptr;
            if (reinterpret_cast<Get>(symbol("cuModuleGetFunction"))(&found, module, name.c_str()) == 0) return found;
        }
        fail("no image in KERNELS has the kernel '%s'", name.c_str());
    }
};
static const Card& the_card() {
    static const Card card;
    return card;
}

struct Mirror {
    size_t bytes;
    Pointer device;
};
static std::map<const char*, Mirror>& mirrors() {
    static std::map<const char*, Mirror> all;
    return all;
}

void* allocate(size_t bytes) {
    the_card();
    Mirror mirror = {bytes, 0};
    call("cuMemAlloc_v2", &mirror.device, bytes ? bytes : size_t(1));
    void* const host = emulator::allocate(bytes);
    mirrors()[static_cast<const char*>(host)] = mirror;
    return host;
}

void release(void* memory) {
    const auto found = mirrors().find(static_cast<const char*>(memory));
    if (found != mirrors().end()) {
        call("cuMemFree_v2", found->second.device);
        mirrors().erase(found);
    }
    emulator::release(memory);
}

// What a parameter of the size of a pointer is on the card: an address of the host's in a buffer or at its end, moved.
static Pointer translate(Pointer value) {
    const char* const address = reinterpret_cast<const char*>(value);
    auto after = mirrors().upper_bound(address);
    if (after == mirrors().begin()) return value;
    const auto& [host, mirror] = *--after;
    return size_t(address - host) <= mirror.bytes ? mirror.device + Pointer(address - host) : value;
}

void launch(const emulator::Kernel& kernel, emulator::Dim3 grid, emulator::Dim3 block, size_t shared_bytes,
            void** parameters, const emulator::Options&) {
    void* const function = the_card().function(kernel.name);
    for (const auto& [host, mirror] : mirrors()) {
        if (mirror.bytes) call("cuMemcpyHtoD_v2", mirror.device, static_cast<const void*>(host), mirror.bytes);
    }
    const size_t count = kernel.parameter_sizes.size();
    std::vector<Pointer> moved(count);
    std::vector<void*> addresses(parameters, parameters + count);
    for (size_t i = 0; i < count; i++) {
        if (kernel.parameter_sizes[i] != sizeof(Pointer)) continue;
        memcpy(&moved[i], parameters[i], sizeof(Pointer));
        moved[i] = translate(moved[i]);
        addresses[i] = &moved[i];
    }
    if (shared_bytes > 48 * 1024) call("cuFuncSetAttribute", function, 8, int(shared_bytes));
    call("cuLaunchKernel", function, grid.x, grid.y, grid.z, block.x, block.y, block.z, unsigned(shared_bytes),
         static_cast<void*>(nullptr), addresses.data(), static_cast<void**>(nullptr));
    call("cuCtxSynchronize");
    for (const auto& [host, mirror] : mirrors()) {
        if (mirror.bytes) call("cuMemcpyDtoH_v2", const_cast<char*>(host), mirror.device, mirror.bytes);
    }
}

}  // namespace card
