// Devices and their primary contexts.
#include <cstdio>
#include <cstring>

#include "driver.h"

namespace driver {

Context contexts[MAX_DEVICES];
thread_local Context* current = nullptr;
static bool initialized = false;

static Result check_device(int device) {
    if (!initialized) return ERROR_NOT_INITIALIZED;
    return device >= 0 && uint64_t(device) < values.devices ? SUCCESS : ERROR_INVALID_DEVICE;
}

size_t most_shared_bytes() {
    switch (values.architecture) {
    case 80:
    case 87: return 163 << 10;
    case 90:
    case 100:
    case 103: return 227 << 10;
    default: return 99 << 10;
    }
}

static void destroy(Context& context) {
    run_all(context);
    destroy_streams(context);
    unload_modules(context);
    free_memory(context);
    context = Context{};
}

}  // namespace driver

using namespace driver;

API Result cuInit(unsigned flags) {
    ENTER;
    if (flags != 0) return ERROR_INVALID_VALUE;
    if (values.devices == 0) return ERROR_NO_DEVICE;
    if (values.devices > MAX_DEVICES) emulator::fail("at most %d devices", int(MAX_DEVICES));
    initialized = true;
    return SUCCESS;
}

API Result cuDriverGetVersion(int* version) {
    ENTER;
    *version = int(values.driver_version);
    return SUCCESS;
}

// A real NVRTC in the process asks for tables of functions that no header tells of. It does without them.
API Result cuGetExportTable(const void** table, const void*) {
    ENTER;
    if (!table) return ERROR_INVALID_VALUE;
    *table = nullptr;
    return ERROR_NOT_FOUND;
}

API Result cuDeviceGetCount(int* count) {
    ENTER;
    if (!initialized) return ERROR_NOT_INITIALIZED;
    *count = int(values.devices);
    return SUCCESS;
}

API Result cuDeviceGet(int* device, int ordinal) {
    ENTER;
    *device = ordinal;
    return check_device(ordinal);
}

API Result cuDeviceGetName(char* name, int bytes, int device) {
    ENTER;
    snprintf(name, size_t(bytes), "Stand-in GPU %d", device);
    return check_device(device);
}

API Result cuDeviceGetUuid_v2(void* uuid, int device) {
    ENTER;
    memset(uuid, device + 1, 16);
    return check_device(device);
}

API Result cuDeviceTotalMem_v2(size_t* bytes, int device) {
    ENTER;
    *bytes = values.memory;
    return check_device(device);
}

API Result cuDeviceGetAttribute(int* value, int attribute, int device) {
    ENTER;
    if (const Result result = check_device(device)) return result;
    switch (attribute) {
    case 1: *value = 1024; break;                              // MAX_THREADS_PER_BLOCK
    case 8: *value = 48 << 10; break;                          // MAX_SHARED_MEMORY_PER_BLOCK
    case 10: *value = 32; break;                               // WARP_SIZE
    case 16: *value = 4; break;                                // MULTIPROCESSOR_COUNT
    case 75: *value = int(values.architecture / 10); break;    // COMPUTE_CAPABILITY_MAJOR
    case 76: *value = int(values.architecture % 10); break;    // COMPUTE_CAPABILITY_MINOR
    case 81: *value = int(most_shared_bytes() + 1024); break;  // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
    case 97: *value = int(most_shared_bytes()); break;         // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    case 115: *value = values.pools != 0; break;               // MEMORY_POOLS_SUPPORTED
    default: return ERROR_NOT_SUPPORTED;
    }
    return SUCCESS;
}

API Result cuDevicePrimaryCtxRetain(Context** context, int device) {
    ENTER;
    if (const Result result = check_device(device)) return result;
    *context = &contexts[device];
    (*context)->device = device;
    (*context)->null_stream.context = *context;
    (*context)->retained++;
    return SUCCESS;
}

// The last release ends the context with all that is in it, and with it a sticky error.
API Result cuDevicePrimaryCtxRelease_v2(int device) {
    ENTER;
    if (const Result result = check_device(device)) return result;
    if (contexts[device].retained == 0) return ERROR_INVALID_CONTEXT;
    if (--contexts[device].retained == 0) destroy(contexts[device]);
    return SUCCESS;
}

API Result cuCtxGetCurrent(Context** context) {
    *context = current;
    return SUCCESS;
}

API Result cuCtxSetCurrent(Context* context) {
    ENTER;
    if (context && (context < contexts || context >= contexts + MAX_DEVICES)) return ERROR_INVALID_CONTEXT;
    if (context && !context->retained) return ERROR_CONTEXT_IS_DESTROYED;
    current = context;
    return SUCCESS;
}

// How a thread waits: nothing that shows.
API Result cuCtxSetFlags(unsigned) {
    ENTER_CONTEXT;
    return SUCCESS;
}

API Result cuCtxSynchronize() {
    ENTER_CONTEXT;
    for (Stream* stream : context->capturing) stream->invalidated = true;
    if (!context->capturing.empty()) return ERROR_STREAM_CAPTURE_UNSUPPORTED;
    values.synchronizations++;
    run_all(*context);
    return context->error;
}
