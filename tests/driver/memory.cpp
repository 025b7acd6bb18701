// Device and pinned memory, copies.
//
// Stream-ordered allocation takes memory at once and gives it back when the stream comes to the release; there is one
// pool, the device's own, and it keeps nothing.
#include <cstdlib>
#include <cstring>

#include "driver.h"

namespace driver {

struct DeviceMemory {
    size_t bytes;
    Context* context;
    bool freed;  // by a call whose stream has not come to it: no longer to be used
};
// By the address of the first byte.
static std::map<uint64_t, DeviceMemory> device_memory;
struct PinnedMemory {
    size_t bytes;
    const Context* context;
};
static std::map<const char*, PinnedMemory> pinned_memory;

template <class Map, class Key> static auto piece_at(Map& map, Key address) {
    const auto after = map.upper_bound(address);
    return after == map.begin() ? map.end() : std::prev(after);
}

bool in_device_memory(const Context& context, uint64_t pointer, size_t bytes) {
    const auto piece = piece_at(device_memory, pointer);
    return piece != device_memory.end() && piece->second.context == &context && !piece->second.freed &&
           pointer + bytes <= piece->first + piece->second.bytes;
}

static bool is_pinned(const void* address, size_t bytes) {
    const char* const first = static_cast<const char*>(address);
    const auto piece = piece_at(pinned_memory, first);
    return piece != pinned_memory.end() && first + bytes <= piece->first + piece->second.bytes;
}

static Result allocate(Context& context, uint64_t* pointer, size_t bytes) {
    if (is_due(values.fail_allocation)) return ERROR_OUT_OF_MEMORY;
    // Releases that streams have not come to are a reason to wait for them, as in a driver.
    if (context.memory_in_use + bytes > values.memory) run_all(context);
    if (context.memory_in_use + bytes > values.memory) return ERROR_OUT_OF_MEMORY;
    *pointer = uint64_t(emulator::allocate(bytes));
    device_memory[*pointer] = {bytes, &context, false};
    context.memory_in_use += bytes;
    values.memory_in_use += bytes;
    values.peak_memory = std::max(values.peak_memory, values.memory_in_use);
    values.allocations++;
    return context.error;
}

static void release(uint64_t pointer) {
    const auto piece = device_memory.find(pointer);
    piece->second.context->memory_in_use -= piece->second.bytes;
    values.memory_in_use -= piece->second.bytes;
    values.frees++;
    device_memory.erase(piece);
    emulator::release(reinterpret_cast<void*>(pointer));
}

void free_memory(Context& context) {
    for (auto at = device_memory.begin(); at != device_memory.end();) {
        const auto piece = at++;
        if (piece->second.context == &context) release(piece->first);
    }
    for (auto at = pinned_memory.begin(); at != pinned_memory.end();) {
        const auto piece = at++;
        if (piece->second.context != &context) continue;
        free(const_cast<char*>(piece->first));
        pinned_memory.erase(piece);
    }
}

// A copy or fill of a piece of device memory that somebody freed in the meantime.
static void require(const Context& context, uint64_t pointer, size_t bytes) {
    const auto piece = piece_at(device_memory, pointer);
    if (piece == device_memory.end() || piece->second.context != &context) {
        emulator::fail("a copy or fill of %zu bytes runs after its memory was freed", bytes);
    }
}

static void* at(uint64_t pointer) { return reinterpret_cast<void*>(pointer); }

}  // namespace driver

using namespace driver;

API Result cuMemAlloc_v2(uint64_t* pointer, size_t bytes) {
    ENTER_CONTEXT;
    if (bytes == 0) return ERROR_INVALID_VALUE;
    if (const Result result = refuse_while_capturing(*context)) return result;
    return allocate(*context, pointer, bytes);
}

// Waits for the device, as a driver does.
API Result cuMemFree_v2(uint64_t pointer) {
    ENTER_CONTEXT;
    if (pointer == 0) return SUCCESS;
    if (const Result result = refuse_while_capturing(*context)) return result;
    const auto piece = device_memory.find(pointer);
    if (piece == device_memory.end() || !in_device_memory(*context, pointer, 1)) return ERROR_INVALID_VALUE;
    run_all(*context);
    if (context->error) return context->error;
    release(pointer);
    return SUCCESS;
}

// In a capture a driver would put allocation and release into the graph. That is not modelled: no graph of ours
// allocates.
static Result refuse_in_graph(Stream& stream) {
    if (!stream.graph) return SUCCESS;
    stream.invalidated = true;
    return ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

API Result cuMemAllocAsync(uint64_t* pointer, size_t bytes, void* handle) {
    ENTER_CONTEXT;
    Stream* const stream = find_stream(*context, handle);
    if (!stream) return ERROR_INVALID_HANDLE;
    if (!values.pools) return ERROR_NOT_SUPPORTED;
    if (const Result result = refuse_in_graph(*stream)) return result;
    *pointer = 0;
    return bytes == 0 ? SUCCESS : allocate(*context, pointer, bytes);
}

API Result cuMemFreeAsync(uint64_t pointer, void* handle) {
    ENTER_CONTEXT;
    Stream* const stream = find_stream(*context, handle);
    if (!stream) return ERROR_INVALID_HANDLE;
    if (pointer == 0) return SUCCESS;
    if (const Result result = refuse_in_graph(*stream)) return result;
    const auto piece = device_memory.find(pointer);
    if (piece == device_memory.end() || !in_device_memory(*context, pointer, 1)) return ERROR_INVALID_VALUE;
    piece->second.freed = true;
    return submit(*stream, [pointer] { release(pointer); });
}

API Result cuDeviceGetDefaultMemPool(void** pool, int device) {
    ENTER;
    if (device < 0 || uint64_t(device) >= values.devices) return ERROR_INVALID_DEVICE;
    *pool = &contexts[device];
    return values.pools ? SUCCESS : ERROR_NOT_SUPPORTED;
}

// 4: CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, how much a pool keeps of what was given back. This one keeps nothing.
API Result cuMemPoolSetAttribute(void*, int attribute, void*) { return attribute == 4 ? SUCCESS : ERROR_NOT_SUPPORTED; }
API Result cuMemPoolTrimTo(void*, size_t) { return SUCCESS; }

API Result cuMemGetInfo_v2(size_t* free, size_t* total) {
    ENTER_CONTEXT;
    *total = values.memory;
    *free = values.memory - std::min(values.memory, context->memory_in_use);
    return SUCCESS;
}

API Result cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
    ENTER_CONTEXT;
    if (bytes == 0) return ERROR_INVALID_VALUE;
    if (const Result result = refuse_while_capturing(*context)) return result;
    if (posix_memalign(pointer, 4096, bytes) != 0) return ERROR_OUT_OF_MEMORY;
    memset(*pointer, 0xFF, bytes);
    pinned_memory[static_cast<char*>(*pointer)] = {bytes, context};
    values.pinned_allocations++;
    return SUCCESS;
}

API Result cuMemFreeHost(void* pointer) {
    ENTER_CONTEXT;
    if (const Result result = refuse_while_capturing(*context)) return result;
    run_all(*context);
    if (pinned_memory.erase(static_cast<char*>(pointer)) != 1) return ERROR_INVALID_VALUE;
    free(pointer);
    return SUCCESS;
}

// From pinned memory the bytes are read when the stream comes to the copy; others are read at once.
API Result cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* handle) {
    ENTER_CONTEXT;
    Stream* const stream = find_stream(*context, handle);
    if (!stream) return ERROR_INVALID_HANDLE;
    if (!in_device_memory(*context, to, bytes)) return ERROR_INVALID_VALUE;
    values.copies++;
    if (is_pinned(from, bytes)) {
        return submit(*stream, [=] {
            require(*context, to, bytes);
            memcpy(at(to), from, bytes);
        });
    }
    if (const Result result = refuse_in_graph(*stream)) return result;
    const char* const first = static_cast<const char*>(from);
    const auto staged = std::make_shared<std::vector<char>>(first, first + bytes);
    return submit(*stream, [=] {
        require(*context, to, bytes);
        memcpy(at(to), staged->data(), bytes);
    });
}

// To memory that is not pinned the call waits for the copy, as a driver does.
API Result cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* handle) {
    ENTER_CONTEXT;
    Stream* const stream = find_stream(*context, handle);
    if (!stream) return ERROR_INVALID_HANDLE;
    if (!in_device_memory(*context, from, bytes)) return ERROR_INVALID_VALUE;
    const bool pinned = is_pinned(to, bytes);
    if (!pinned) {
        if (const Result result = refuse_in_graph(*stream)) return result;
    }
    values.copies++;
    const Result result = submit(*stream, [=] {
        require(*context, from, bytes);
        memcpy(to, at(from), bytes);
    });
    if (result || pinned) return result;
    run(*stream);
    return context->error;
}

API Result cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* handle) {
    ENTER_CONTEXT;
    Stream* const stream = find_stream(*context, handle);
    if (!stream) return ERROR_INVALID_HANDLE;
    if (!in_device_memory(*context, to, bytes) || !in_device_memory(*context, from, bytes)) return ERROR_INVALID_VALUE;
    values.copies++;
    return submit(*stream, [=] {
        require(*context, to, bytes);
        require(*context, from, bytes);
        memmove(at(to), at(from), bytes);
    });
}

// The copies that wait: after the null stream's work, and not after that of other streams, which do not block it.
API Result cuMemcpyHtoD_v2(uint64_t to, const void* from, size_t bytes) {
    ENTER_CONTEXT;
    if (const Result result = refuse_while_capturing(*context)) return result;
    if (!in_device_memory(*context, to, bytes)) return ERROR_INVALID_VALUE;
    values.copies++;
    run(context->null_stream);
    memcpy(at(to), from, bytes);
    return context->error;
}

API Result cuMemcpyDtoH_v2(void* to, uint64_t from, size_t bytes) {
    ENTER_CONTEXT;
    if (const Result result = refuse_while_capturing(*context)) return result;
    if (!in_device_memory(*context, from, bytes)) return ERROR_INVALID_VALUE;
    values.copies++;
    run(context->null_stream);
    if (!context->error) memcpy(to, at(from), bytes);
    return context->error;
}

API Result cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void* handle) {
    ENTER_CONTEXT;
    Stream* const stream = find_stream(*context, handle);
    if (!stream) return ERROR_INVALID_HANDLE;
    if (!in_device_memory(*context, to, bytes)) return ERROR_INVALID_VALUE;
    return submit(*stream, [=] {
        require(*context, to, bytes);
        memset(at(to), value, bytes);
    });
}
