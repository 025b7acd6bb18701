// The host side of gpu.cuh: the names of device.cuh, meaning the same, on top of the emulator. The functions that touch
// memory or wait for other threads live in the emulator's own files, which are compiled without WATCH's
// instrumentation.
#pragma once

#include <cmath>
#include <cstring>

#include "emulator.h"

typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef long long i64;

struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) uint4 {
    u32 x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

// Always inlined, as on a GPU: a copy that another file compiled without WATCH's instrumentation must not stand in.
#define DEVICE inline __attribute__((always_inline))
#define UNROLL
#define __restrict__ __restrict

// noinline: a kernel that were inlined into its caller would lose WATCH's instrumentation.
#define KERNEL(name, threads, blocks) extern "C" __attribute__((noinline)) void name
#define REGISTER_KERNEL(name, threads) static const emulator::Registration<&name> name##_registration(#name, threads);

// A place in the block's shared memory for each declaration that a thread passes, found again by its address.
#define SHARED(type, name)              \
    using name##_type = type;           \
    static const char name##_place = 0; \
    name##_type& name = *static_cast<name##_type*>(emulator::shared_variable(&name##_place, sizeof(name##_type)))
#define DYNAMIC_SHARED(name) unsigned char* const name = emulator::dynamic_shared()

namespace emulator {
// Constant for the thread that asks, which is all that a kernel can tell.
[[gnu::const]] Dim3 thread_index();
[[gnu::const]] Dim3 block_index();
[[gnu::const]] Dim3 block_size();
[[gnu::const]] Dim3 grid_size();
void* shared_variable(const void* place, size_t bytes);
unsigned char* dynamic_shared();
void wait_for_copies(int unfinished_groups);
void load_matrices(u32* x, const void* row, bool transposed);
void multiply_add(float* d, const u32* a, u32 b0, u32 b1, float (*widen)(u16));
}  // namespace emulator
#define threadIdx (emulator::thread_index())
#define blockIdx (emulator::block_index())
#define blockDim (emulator::block_size())
#define gridDim (emulator::grid_size())

inline float to_float(f16 x) {
    _Float16 y;
    memcpy(&y, &x, 2);
    return float(y);
}
inline float to_float(bf16 x) {
    const u32 bits = u32(x.bits) << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}
inline f16 to_f16(float x) {
    const _Float16 y = _Float16(x);
    f16 bits;
    memcpy(&bits, &y, 2);
    return bits;
}
inline bf16 to_bf16(float x) {
    u32 bits;
    memcpy(&bits, &x, 4);
    if (x != x) return {0x7fff};
    return {u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline u32 to_f16x2(float low, float high) { return to_f16(low).bits | u32(to_f16(high).bits) << 16; }
inline u32 to_bf16x2(float low, float high) { return to_bf16(low).bits | u32(to_bf16(high).bits) << 16; }

inline float fast_exp2(float x) { return exp2f(x); }
inline float fast_divide(float x, float y) { return fabsf(y) > 0x1p126f ? 0.0f * x : x / y; }
inline float fast_rsqrt(float x) { return 1.0f / sqrtf(x); }

void sync_block();
void sync_warp();
float shuffle_xor(float x, int mask);

void cp_async(void* to, const void* from, bool valid);
void cp_async_commit();
template <int N> void cp_async_wait() { emulator::wait_for_copies(N); }

inline void ldmatrix_x4(u32 (&x)[4], const void* row) { emulator::load_matrices(x, row, false); }
inline void ldmatrix_x4_transposed(u32 (&x)[4], const void* row) { emulator::load_matrices(x, row, true); }

template <class T> float widen(u16 bits) { return to_float(T{bits}); }
template <class T> void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    emulator::multiply_add(d, a, b0, b1, widen<T>);
}
