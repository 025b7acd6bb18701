// What the emulator's files share: the state of the block that is running, and the hooks of WATCH.
#pragma once

#include <deque>

#include "device.h"

namespace emulator {

struct Copy {
    void* to;
    const void* from;  // null: zeros
};

struct Thread {
    void* stack_pointer;
    unsigned id;  // within the block
    Dim3 index;
    bool finished;
    std::vector<Copy> open_copies;              // started, not yet in a group
    std::deque<std::vector<Copy>> copy_groups;  // unfinished, oldest first

    unsigned lane() const { return id % 32; }
    unsigned warp() const { return id / 32; }
};

// An operation that the lanes of a warp do together. Each lane leaves its operands and waits; the last does it for all.
using Collective = void (*)(void* const (&operands)[32]);

struct Warp {
    void* operands[32];
    uint32_t arrived;
    uint64_t done;  // number of collectives so far
    Collective collective;
};

struct Block {
    const Kernel* kernel;
    Options options;
    Dim3 index, size, grid;
    void** parameters;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    unsigned running;     // threads that have not returned
    unsigned at_barrier;  // of these, threads that wait in sync_block
    uint64_t barriers;    // number of barriers passed
    uint64_t progress;    // changes whenever a thread could go on that could not before
    void* scheduler_stack_pointer;
};

// The block and the thread that run now; null outside a launch.
extern Block* block;
extern Thread* thread;

// What WATCH knows about two neighbouring bytes: who touched them last, and when.
struct Cell {
    uint32_t write_epoch, read_epoch;
    uint16_t writer, reader;
    uint16_t write_sync, read_sync;
    bool copying;
};

// Lets other threads run.
void yield();
// Runs `collective` once all 32 lanes of the thread's warp have come to it.
void together(Collective collective, void* operands);

// Fails unless all bytes lie in the block's shared memory and `address` is a multiple of 16.
void require_shared(const char* operation, const void* address, size_t bytes);
// Shared memory lasts as long as a launch; each block finds it filled with 0xFF.
void allocate_shared(size_t dynamic_bytes);
void poison_shared();
void release_shared();

// A piece of memory that kernels may touch.
enum class Space { global, shared };
struct Allocation {
    unsigned char* begin;
    size_t bytes;
    Space space;
    void* mapping;  // with the pages around it; null under AddressSanitizer
    size_t mapping_bytes;
    std::vector<Cell> cells;
};
// The allocation that holds `address`, or null.
Allocation* find(const void* address);
// Whether `address` is in the stack of a thread of the block.
bool on_a_stack(const void* address);

// watch.cpp. All do nothing in a build without WATCH.
#ifdef WATCH
void watch_launch();
void watch_block();
void watch_barrier();
void watch_sync_warp();
void watch_read(const void* address, size_t bytes);
void watch_write(const void* address, size_t bytes);
void watch_copy_started(const void* address);
void watch_copy_finished(const void* address);
#else
inline void watch_launch() {}
inline void watch_block() {}
inline void watch_barrier() {}
inline void watch_sync_warp() {}
inline void watch_read(const void*, size_t) {}
inline void watch_write(const void*, size_t) {}
inline void watch_copy_started(const void*) {}
inline void watch_copy_finished(const void*) {}
#endif

}  // namespace emulator
