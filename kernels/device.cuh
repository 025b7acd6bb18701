// The GPU side of gpu.cuh: names for what CUDA gives, and a wrapper for each PTX instruction that kernels use. A
// wrapper does one instruction and nothing else; its meaning is written out in C++ in host/device.h and host/warp.cpp.
#pragma once

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};

#define DEVICE __device__ __forceinline__
#define UNROLL _Pragma("unroll")

// An entry point for blocks of `threads` threads, of which at least `blocks` should fit on a multiprocessor at once.
// REGISTER_KERNEL(name, threads) after it tells the host's emulator about it.
#define KERNEL(name, threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks) name
#define REGISTER_KERNEL(name, threads)

// A variable of the block in shared memory; `type` may be an array type. Not initialised.
#define SHARED(type, name)    \
    using name##_type = type; \
    __shared__ __align__(16) name##_type name
// The shared memory whose size the launch gives. Not initialised.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

DEVICE float to_float(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
DEVICE float to_float(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }
DEVICE f16 to_f16(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
DEVICE bf16 to_bf16(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
// PTX names the upper half first.
DEVICE u32 to_f16x2(float low, float high) {
    u32 y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
DEVICE u32 to_bf16x2(float low, float high) {
    u32 y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

// 2^x within 2 ulp; 0 for -infinity.
DEVICE float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// x / y within 2 ulp; 0 where |y| > 2^126.
DEVICE float fast_divide(float x, float y) { return __fdividef(x, y); }
// 1 / sqrt(x) within 2 ulp.
DEVICE float fast_rsqrt(float x) { return rsqrtf(x); }

// All threads of the block wait for each other and see each other's writes.
DEVICE void sync_block() { __syncthreads(); }
// The same for the lanes of a warp.
DEVICE void sync_warp() { __syncwarp(); }
// `x` of the lane whose number differs by the bits of `mask`. All 32 lanes take part.
DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }

DEVICE u32 shared_address(const void* p) { return u32(__cvta_generic_to_shared(p)); }

// Starts a copy of 16 bytes to shared memory, or of 16 zero bytes where not `valid`: then `from` is not read. Both
// addresses are multiples of 16. The copy is done, for this thread, when cp_async_wait has returned for its group, and
// for others after a barrier that follows.
DEVICE void cp_async(void* to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(valid ? 16 : 0)
                 : "memory");
}
// Ends a group: the copies that this thread has started since the last one.
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most N of this thread's latest groups are unfinished.
template <int N> DEVICE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// Loads four 8×8 matrices of 16-bit values from shared memory. Lane 8i + r gives the address of row r of matrix i (16
// bytes, aligned). Lane 4r + c receives the values (r, 2c) and (r, 2c + 1) of matrix i in x[i].
DEVICE void ldmatrix_x4(u32 (&x)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(shared_address(row))
                 : "memory");
}
// The same, each matrix transposed: lane 4r + c receives the values (2c, r) and (2c + 1, r).
DEVICE void ldmatrix_x4_transposed(u32 (&x)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// d += a·b on tensor cores: a is 16×16, b 16×8, d 16×8 in f32. With g = lane / 4 and t = lane % 4 a lane holds
//   a: (g, 2t..), (g + 8, 2t..), (g, 2t + 8..), (g + 8, 2t + 8..), two values each
//   b: (2t.., g), (2t + 8.., g), two values each
//   d: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
template <class T> DEVICE void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1);
template <> DEVICE void mma_m16n8k16<f16>(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <> DEVICE void mma_m16n8k16<bf16>(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
