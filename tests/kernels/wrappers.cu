// A kernel for each wrapper of device.cuh, so that its PTX on a real card and its twin in kernels/host can be held
// against the same expectations (test_wrappers.cpp). All are launched with one block of 32 threads.
#include "gpu.cuh"

KERNEL(wrapper_conversions, 32, 1)
(const float* x, u16* halves, u16* brains, u32* half_pairs, u32* brain_pairs, float* from_halves, float* from_brains,
 u32 n) {
    for (u32 i = threadIdx.x; i < n; i += LANES) {
        halves[i] = to_f16(x[i]).bits;
        brains[i] = to_bf16(x[i]).bits;
        half_pairs[i] = to_f16x2(x[i], x[n - 1 - i]);
        brain_pairs[i] = to_bf16x2(x[i], x[n - 1 - i]);
        from_halves[i] = to_float(to_f16(x[i]));
        from_brains[i] = to_float(to_bf16(x[i]));
    }
}
REGISTER_KERNEL(wrapper_conversions, 32)

KERNEL(wrapper_arithmetic, 32, 1)(const float* x, float* powers, float* quotients, float* roots, u32 n) {
    for (u32 i = threadIdx.x; i < n; i += LANES) {
        powers[i] = fast_exp2(x[i]);
        quotients[i] = fast_divide(x[i], x[n - 1 - i]);
        roots[i] = fast_rsqrt(fabsf(x[i]));
    }
}
REGISTER_KERNEL(wrapper_arithmetic, 32)

// y[32·m + lane] is x of the lane whose number differs by 2^m.
KERNEL(wrapper_shuffle, 32, 1)(const float* x, float* y) {
    for (u32 m = 0; m < 5; m++) y[32 * m + threadIdx.x] = shuffle_xor(x[threadIdx.x], 1 << m);
}
REGISTER_KERNEL(wrapper_shuffle, 32)

// x and y are [2, 32] packs of 16 bytes. The first half goes through shared memory in one group, the second in another
// with zeros in place of every odd pack.
KERNEL(wrapper_cp_async, 32, 1)(const uint4* x, uint4* y) {
    SHARED(uint4[64], packs);
    const u32 lane = threadIdx.x, other = 31 - lane;
    cp_async(packs + lane, x + lane, true);
    cp_async_commit();
    cp_async(packs + 32 + lane, x + 32 + lane, lane % 2 == 0);
    cp_async_commit();
    cp_async_wait<1>();
    sync_warp();
    y[lane] = packs[other];
    cp_async_wait<0>();
    sync_block();
    y[32 + lane] = packs[32 + other];
}
REGISTER_KERNEL(wrapper_cp_async, 32)

// x is four matrices of [8, 8] values; y and transposed are [32 lanes, 4] registers.
KERNEL(wrapper_ldmatrix, 32, 1)(const uint4* x, u32* y, u32* transposed) {
    SHARED(uint4[32], rows);
    rows[threadIdx.x] = x[threadIdx.x];
    sync_block();
    u32 registers[4];
    ldmatrix_x4(registers, rows + threadIdx.x);
    for (int i = 0; i < 4; i++) y[threadIdx.x * 4 + i] = registers[i];
    ldmatrix_x4_transposed(registers, rows + threadIdx.x);
    for (int i = 0; i < 4; i++) transposed[threadIdx.x * 4 + i] = registers[i];
}
REGISTER_KERNEL(wrapper_ldmatrix, 32)

// Registers of lanes: a [32, 4], b [32, 2], d [32, 4], y [32, 4].
template <class T> DEVICE void multiply(const u32* a, const u32* b, const float* d, float* y) {
    const u32 lane = threadIdx.x;
    float sums[4];
    u32 left[4];
    for (int i = 0; i < 4; i++) sums[i] = d[lane * 4 + i], left[i] = a[lane * 4 + i];
    mma_m16n8k16<T>(sums, left, b[lane * 2], b[lane * 2 + 1]);
    for (int i = 0; i < 4; i++) y[lane * 4 + i] = sums[i];
}
KERNEL(wrapper_mma_f16, 32, 1)(const u32* a, const u32* b, const float* d, float* y) { multiply<f16>(a, b, d, y); }
REGISTER_KERNEL(wrapper_mma_f16, 32)
KERNEL(wrapper_mma_bf16, 32, 1)(const u32* a, const u32* b, const float* d, float* y) { multiply<bf16>(a, b, d, y); }
REGISTER_KERNEL(wrapper_mma_bf16, 32)
