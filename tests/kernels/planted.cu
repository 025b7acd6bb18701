// Mistakes on purpose, each of which the emulator has to catch; and the same kernel without one. See plant.cpp.
//
// x is [tiles, 256] floats and y [64]: y[t] = Σ over tiles of values 4t' to 4t' + 3, where t' = 63 - t: each thread
// sums what another one copied, and leaves writing to its neighbour. Launch: one block of 64 threads; blocks_collide:
// two.
#include "gpu.cuh"

enum Mistake {
    NONE,
    NO_WAIT,
    NO_BARRIER_BEFORE_READING,
    NO_BARRIER_AFTER_READING,
    NO_WARP_BARRIER,
    BLOCKS_COLLIDE,
    DIVERGENT_BARRIER,
    READ_PAST_THE_END,
    WRITE_PAST_THE_END,
    SHARED_PAST_THE_END,
    MISALIGNED_COPY,
    TOO_MUCH_SHARED
};

constexpr u32 THREADS = 64, TILE = THREADS * 4;

template <Mistake MISTAKE> DEVICE void sum_tiles(const float* x, float* y, u32 tiles) {
    SHARED(float[2 * TILE], stages);
    if (MISTAKE == TOO_MUCH_SHARED) {
        SHARED(float[25 << 10], more);
        more[threadIdx.x] = 0.0f;
    }
    const u32 thread = threadIdx.x, other = THREADS - 1 - thread;
    const auto start_copy = [&](u32 tile) {
        if (tile < tiles) {
            const u32 shift = MISTAKE == MISALIGNED_COPY ? 2 : 0;
            cp_async(stages + tile % 2 * TILE + thread * 4 + shift, x + tile * TILE + thread * 4, true);
        }
        cp_async_commit();
    };
    float sum = 0.0f;
    start_copy(0);
    for (u32 tile = 0; tile < tiles; tile++) {
        start_copy(tile + 1);
        cp_async_wait<MISTAKE == NO_WAIT ? 2 : 1>();
        if (MISTAKE != NO_BARRIER_BEFORE_READING) sync_block();
        for (u32 i = 0; i < 4; i++) sum += stages[tile % 2 * TILE + other * 4 + i];
        if (MISTAKE != NO_BARRIER_AFTER_READING) sync_block();
    }
    if (MISTAKE == READ_PAST_THE_END) sum += 0.0f * x[tiles * TILE + thread];
    if (MISTAKE == SHARED_PAST_THE_END && thread == 63) sum += 0.0f * stages[2 * TILE + 1];
    stages[thread] = sum;
    if (MISTAKE == DIVERGENT_BARRIER && thread == 5) {
        sync_block();
    } else if (MISTAKE != NO_WARP_BARRIER) {
        sync_warp();
    }
    y[thread ^ 1] = stages[thread ^ 1];
    if (MISTAKE == WRITE_PAST_THE_END && thread == 63) y[THREADS] = sum;
}

#define MAKE(name, mistake)                                                                            \
    KERNEL(name, THREADS, 1)(const float* x, float* y, u32 tiles) { sum_tiles<mistake>(x, y, tiles); } \
    REGISTER_KERNEL(name, THREADS)
MAKE(none, NONE)
MAKE(no_wait, NO_WAIT)
MAKE(no_barrier_before_reading, NO_BARRIER_BEFORE_READING)
MAKE(no_barrier_after_reading, NO_BARRIER_AFTER_READING)
MAKE(no_warp_barrier, NO_WARP_BARRIER)
MAKE(blocks_collide, BLOCKS_COLLIDE)
MAKE(divergent_barrier, DIVERGENT_BARRIER)
MAKE(read_past_the_end, READ_PAST_THE_END)
MAKE(write_past_the_end, WRITE_PAST_THE_END)
MAKE(shared_past_the_end, SHARED_PAST_THE_END)
MAKE(misaligned_copy, MISALIGNED_COPY)
MAKE(too_much_shared, TOO_MUCH_SHARED)
