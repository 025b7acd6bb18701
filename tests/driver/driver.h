// A stand-in for the CUDA driver and cuBLASLt, for machines without a GPU: the calls that cudarc and the CUDA backend
// make, on top of the emulated GPU of kernels/host. One shared library, libcuda.so.1, has both; libcublasLt.so only leads
// to it.
//
//   control.cpp  settings, counters, names of errors     stream.cpp    streams, events, capture, graphs
//   device.cpp   devices and their primary contexts      module.cpp    modules, functions, launches
//   memory.cpp   device and pinned memory, copies        cublaslt.cpp  matrix products
//
// It is as unforgiving as a driver may be. Work happens at the latest moment that the caller's synchronisation allows
// (setting `eager`: at once), each stream on its own, so that a missing wait shows; fresh memory is NaN; what a driver
// refuses is refused. A call or an option that is not modelled is a missing symbol or CUDA_ERROR_NOT_SUPPORTED, never
// a silent success. A kernel that touches what it must not ends the process with status 70, as in tests of kernels.
//
// What it cannot see: timing, and two streams that use one piece of memory in an order that happens to be right.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "emulator.h"

namespace driver {

// cuda.h's CUresult, as far as it is used here.
#define RESULTS(X)                                                                                                     \
    X(SUCCESS, 0)                                                                                                      \
    X(ERROR_INVALID_VALUE, 1)                                                                                          \
    X(ERROR_OUT_OF_MEMORY, 2) X(ERROR_NOT_INITIALIZED, 3) X(ERROR_NO_DEVICE, 100) X(ERROR_INVALID_DEVICE, 101)         \
        X(ERROR_INVALID_IMAGE, 200) X(ERROR_INVALID_CONTEXT, 201) X(ERROR_NO_BINARY_FOR_GPU, 209)                      \
            X(ERROR_INVALID_PTX, 218) X(ERROR_INVALID_HANDLE, 400) X(ERROR_ILLEGAL_STATE, 401) X(ERROR_NOT_FOUND, 500) \
                X(ERROR_NOT_READY, 600) X(ERROR_ILLEGAL_ADDRESS, 700) X(ERROR_LAUNCH_OUT_OF_RESOURCES, 701)            \
                    X(ERROR_CONTEXT_IS_DESTROYED, 709) X(ERROR_NOT_SUPPORTED, 801)                                     \
                        X(ERROR_STREAM_CAPTURE_UNSUPPORTED, 900) X(ERROR_STREAM_CAPTURE_INVALIDATED, 901)              \
                            X(ERROR_STREAM_CAPTURE_ISOLATION, 905) X(ERROR_CAPTURED_EVENT, 907)                        \
                                X(ERROR_STREAM_CAPTURE_WRONG_THREAD, 908)
#define RESULT(name, value) name = value,
enum Result : int { RESULTS(RESULT) };
#undef RESULT

// What a test may set, with the value unless STANDIN_NAME in the environment or standin_set says otherwise.
#define SETTINGS(X)                                                                                                  \
    X(devices, 1)                                                                                                    \
    X(driver_version, 13000)                                                                                         \
    X(blas_version, 120900)                                                                                          \
    X(architecture, 80)          /* compute capability times ten */                                                  \
    X(memory, uint64_t(8) << 30) /* bytes of each device */                                                          \
    X(pools, 1)                  /* whether there is stream-ordered allocation */                                    \
    X(eager, 0)                  /* work happens at once */                                                          \
    X(schedule, 3)               /* emulator::Schedule */                                                            \
    X(eager_copies, 0)           /* emulator::Options */                                                             \
    X(fail_allocation, 0)        /* the n-th allocation of device memory from now fails: CUDA_ERROR_OUT_OF_MEMORY */ \
    X(fail_launch, 0)            /* the n-th launch of a kernel or product from now: ..._LAUNCH_OUT_OF_RESOURCES */  \
    X(refuse_product, 0)         /* the n-th product from now is refused: CUBLAS_STATUS_ARCH_MISMATCH */             \
    X(fault_kernel, 0)           /* the n-th kernel or product that runs from now, in a graph or not, breaks its */  \
                                 /* context: from there on all is CUDA_ERROR_ILLEGAL_ADDRESS */

// What a test may read: how often since the start or the last standin_reset.
#define COUNTERS(X)                                                         \
    X(allocations) /* of device memory, that succeeded */                   \
    X(frees)                                                                \
    X(pinned_allocations)                                                   \
    X(launches)   /* calls of cuLaunchKernel that succeeded */              \
    X(kernels)    /* kernels that ran, launched one by one or in a graph */ \
    X(matmuls)    /* products that ran */                                   \
    X(heuristics) /* searches for an algorithm */                           \
    X(graph_launches)                                                       \
    X(copies) /* host to device, device to host, device to device */        \
    X(synchronizations)                                                     \
    X(blas_handles)  /* of cuBLASLt, that exist; standin_reset leaves it */ \
    X(memory_in_use) /* bytes, of all devices; standin_reset leaves it */   \
    X(peak_memory)   /* the most there ever was in use */

struct Values {
#define FIELD(name, ...) uint64_t name;
    SETTINGS(FIELD) COUNTERS(FIELD)
#undef FIELD
};
extern Values values;

// Counts down to the n-th event: true when it is that one.
bool is_due(uint64_t& countdown);

// Objects behind the handles that callers hold. A handle that is no longer, or never was, is found out.
template <class T> class Handles {
public:
    T* add(T object) {
        auto owned = std::make_unique<T>(std::move(object));
        T* const handle = owned.get();
        all_[handle] = std::move(owned);
        return handle;
    }
    T* find(const void* handle) const {
        const auto found = all_.find(static_cast<const T*>(handle));
        return found == all_.end() ? nullptr : found->second.get();
    }
    bool remove(const void* handle) { return all_.erase(static_cast<const T*>(handle)) == 1; }
    template <class F> void remove_if(F f) {
        for (auto at = all_.begin(); at != all_.end();) at = f(*at->second) ? all_.erase(at) : std::next(at);
    }

private:
    std::map<const T*, std::unique_ptr<T>> all_;
};

using Operation = std::function<void()>;

// Captured work. What it launches had its parameters copied at capture, as a driver does.
struct Graph {
    std::vector<Operation> operations;
};

struct Context;
struct Stream {
    Context* context = nullptr;
    std::deque<Operation> queue;  // submitted, not yet run
    // While it is captured:
    std::shared_ptr<Graph> graph;
    bool invalidated = false;
    int mode = 0;
    std::thread::id thread;
};

// The primary context of a device. It is there as long as somebody retains it.
struct Context {
    int device = 0;
    int retained = 0;
    Result error = SUCCESS;  // of a kernel that broke it: sticky
    uint64_t memory_in_use = 0;
    Stream null_stream;
    std::set<Stream*> capturing;
};
constexpr uint64_t MAX_DEVICES = 8;
extern Context contexts[MAX_DEVICES];
extern thread_local Context* current;

// One call at a time: neither this library nor the emulator is made for more.
extern std::mutex turn;
#define ENTER const std::lock_guard<std::mutex> in_turn(driver::turn)
// For calls that need a context that works.
#define ENTER_CONTEXT                                          \
    ENTER;                                                     \
    Context* const context = current;                          \
    if (!context) return ERROR_INVALID_CONTEXT;                \
    if (!context->retained) return ERROR_CONTEXT_IS_DESTROYED; \
    if (context->error) return context->error
#define API extern "C" __attribute__((visibility("default")))

// Null unless it is a stream of the context. 0 and CU_STREAM_LEGACY are its null stream.
Stream* find_stream(Context& context, void* handle);
// Puts work on the stream, or in the graph that is being captured from it.
Result submit(Stream& stream, Operation operation);
void run(Stream& stream);
void run_all(Context& context);
// A kernel starts to run: false, and the context is broken, if it is the one that a test wants to fail.
bool start_kernel(Context& context);
// Not SUCCESS if the calling thread must not allocate, free or wait now, because a stream is being captured: such a
// call also spoils the capture.
Result refuse_while_capturing(Context& context);
// And events.
void destroy_streams(Context& context);
// The most shared memory that a block may ask for.
size_t most_shared_bytes();

// Whether all bytes are in one piece of the context's memory that was not freed.
bool in_device_memory(const Context& context, uint64_t pointer, size_t bytes);
void free_memory(Context& context);
void unload_modules(Context& context);

}  // namespace driver
