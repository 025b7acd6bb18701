// The CPU execution model: runs kernels that were compiled as C++ against host/device.h, one block after the other,
// each thread of a block as a fiber. Nothing here is fast; everything is checked, and a mistake of a kernel ends the
// process with a line that names kernel, block and thread, and exit status 70.
//
//   emulator.cpp  fibers, schedules, barriers          memory.cpp  global and shared memory, asynchronous copies
//   warp.cpp      what the lanes of a warp do together  watch.cpp   races and stray accesses, for builds with WATCH
//
// There is one emulated GPU in a process, and nothing here locks: callers take turns.
//
// What it cannot see: timing, occupancy, bank conflicts other than ldmatrix's, how weakly a GPU orders memory, and a
// wrong PTX string in device.cuh. Sums inside an mma are in another order than a tensor core's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace emulator {

struct Dim3 {
    unsigned x = 1, y = 1, z = 1;
    size_t count() const { return size_t(x) * y * z; }
};

// In which order the threads of a block get to run. A barrier that is missing shows only where a thread runs ahead of
// another that it should have waited for, so a test runs a kernel under all of them.
enum class Schedule {
    Forward,     // every thread in turn, until it waits
    Backward,    //
    Shuffled,    // every thread in turn, in another order each time
    WarpByWarp,  // a warp runs as far as it can get without the others
    WarpByWarpBackward,
};
constexpr Schedule ALL_SCHEDULES[] = {Schedule::Forward, Schedule::Backward, Schedule::Shuffled, Schedule::WarpByWarp,
                                      Schedule::WarpByWarpBackward};

struct Options {
    Schedule schedule = Schedule::Forward;
    // An asynchronous copy happens when it is started (true) or when it is waited for (false). On a GPU it happens at
    // any time between, so a kernel has to work with both.
    bool eager_copies = false;
};

// A kernel's entry point, callable with pointers to its parameters as cuLaunchKernel is.
struct Kernel {
    std::string name;
    unsigned max_threads;
    void (*call)(void** parameters);
    std::vector<size_t> parameter_sizes;
};

// The most shared memory that a block may have on every GPU the kernels are built for (sm_86, sm_89, sm_120).
constexpr size_t MAX_SHARED_BYTES = 99 * 1024;

// All registered kernels by name.
std::map<std::string, Kernel>& kernels();

// Runs a grid to its end. `shared_bytes` is the size of DYNAMIC_SHARED.
void launch(const Kernel& kernel, Dim3 grid, Dim3 block, size_t shared_bytes, void** parameters,
            const Options& options);

// Global memory: 256-byte aligned, filled with 0xFF (NaN in every format), followed and preceded by memory that must
// not be touched.
void* allocate(size_t bytes);
void release(void* memory);

// Since the process started: passes that ldmatrix needed beyond the one that each matrix costs, because rows of a
// matrix lay in the same banks of shared memory.
uint64_t ldmatrix_conflicts();

[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// What REGISTER_KERNEL makes. Without instrumentation: a launch's parameters are no memory of the device.
void add_kernel(const char* name, unsigned max_threads, void (*call)(void**),
                std::initializer_list<size_t> parameter_sizes);
template <auto KERNEL> struct Registration;
template <class... P, void (*KERNEL)(P...)> struct Registration<KERNEL> {
    Registration(const char* name, unsigned max_threads) { add_kernel(name, max_threads, call, {sizeof(P)...}); }
    static void call(void** parameters) { call_with(parameters, std::index_sequence_for<P...>{}); }
    template <size_t... I>
    __attribute__((no_sanitize("thread"))) static void call_with(void** parameters, std::index_sequence<I...>) {
        KERNEL(*static_cast<std::remove_const_t<P>*>(parameters[I])...);
    }
};

}  // namespace emulator
