// Linear layers, where cuBLASLt is absent or an epilogue is not its: y = epilogue(x · wᵀ).
//
// x [rows, depth], w [columns, depth], y [rows, columns]; depth is a multiple of 8 (for others see conv2d_gather, which
// with a 1×1 kernel is a linear layer). The type of x, w, channel_bias, residual and y is the suffix; bias is f32. Null
// pointers for what there is not. `activation` is gpu.cuh's. rows_per_image: 1 unless channel_bias is given.
//
//   gemm_TYPE_RxC        grid (⌈rows / R⌉, ⌈columns / C⌉, splits); threads and dynamic shared memory of the tile in
//                        gemm.cuh. With splits > 1 the blocks of one result share its depth and write f32 sums to
//                        partial [splits, rows, columns] (null otherwise); y is then written by sum_splits.
//   gemm_geglu_TYPE_RxC  y [rows, columns / 2] = a · gelu(gate). Rows of w and values of the bias are in groups of 16:
//                        eight of a, then the eight of its gate; columns / 2 is a multiple of 8. No splits.
//   sum_splits_TYPE      adds the splits up, in their order, and applies the epilogue; any grid of 256 threads.
#include "gemm.cuh"

template <class T, class Tile, bool GEGLU>
DEVICE void gemm(const T* x, const T* w, const Epilogue<T>& epilogue, float* partial, u32 rows, u32 columns,
                 u32 depth) {
    DYNAMIC_SHARED(shared);
    const u32 steps = (depth + STEP - 1) / STEP;
    float sums[Tile::WARP_ROWS / 16][Tile::WARP_COLUMNS / 8][4] = {};
    MatrixRows<T, Tile> source(x, rows, depth, first_step_of_split(steps));
    gemm_block<T, Tile>(source, w, columns, steps_of_split(steps), shared, sums);
    finish_block<T, Tile, GEGLU>(sums, shared, rows, columns, epilogue, partial);
}

constexpr int SUM_THREADS = 256;

template <class T>
DEVICE void sum_splits(const float* partial, const Epilogue<T>& epilogue, u32 rows, u32 columns, u32 splits) {
    const u32 groups = (columns + 7) / 8;
    for (u64 item = u64(blockIdx.x) * SUM_THREADS + threadIdx.x; item < u64(rows) * groups;
         item += u64(gridDim.x) * SUM_THREADS) {
        const u32 row = u32(item / groups), column = (u32(item) - row * groups) * 8;
        float v[8] = {}, more[8];
        for (u32 i = 0; i < splits; i++) {
            load_columns(partial + (u64(i) * rows + row) * columns + column, columns, columns - column, more);
            UNROLL
            for (int j = 0; j < 8; j++) v[j] += more[j];
        }
        finish(epilogue, row, column, columns, v);
    }
}

#define GEMM(name, T, tile, blocks)                                                                             \
    KERNEL(gemm_##name##_##tile, Tile##tile::THREADS, blocks)                                                   \
    (const T* x, const T* w, const float* bias, const T* channel_bias, const T* residual, T* y, float* partial, \
     u32 rows, u32 columns, u32 depth, u32 rows_per_image, u32 activation) {                                    \
        const Epilogue<T> epilogue = {bias, channel_bias, residual, y, rows_per_image, activation};             \
        gemm<T, Tile##tile, false>(x, w, epilogue, partial, rows, columns, depth);                              \
    }                                                                                                           \
    REGISTER_KERNEL(gemm_##name##_##tile, Tile##tile::THREADS)
#define GEGLU(name, T, tile, blocks)                                                      \
    KERNEL(gemm_geglu_##name##_##tile, Tile##tile::THREADS, blocks)                       \
    (const T* x, const T* w, const float* bias, T* y, u32 rows, u32 columns, u32 depth) { \
        const Epilogue<T> epilogue = {bias, nullptr, nullptr, y, 1, IDENTITY};            \
        gemm<T, Tile##tile, true>(x, w, epilogue, nullptr, rows, columns, depth);         \
    }                                                                                     \
    REGISTER_KERNEL(gemm_geglu_##name##_##tile, Tile##tile::THREADS)
#define FOR_TYPE(name, T)                                                                                            \
    GEMM(name, T, 128x160, 2)                                                                                        \
    GEMM(name, T, 64x160, 3)                                                                                         \
    GEMM(name, T, 64x64, 4)                                                                                          \
    GEGLU(name, T, 128x160, 2)                                                                                       \
    GEGLU(name, T, 64x64, 4)                                                                                         \
    KERNEL(sum_splits_##name, SUM_THREADS, 2)                                                                        \
    (const float* partial, const float* bias, const T* channel_bias, const T* residual, T* y, u32 rows, u32 columns, \
     u32 splits, u32 rows_per_image, u32 activation) {                                                               \
        const Epilogue<T> epilogue = {bias, channel_bias, residual, y, rows_per_image, activation};                  \
        sum_splits<T>(partial, epilogue, rows, columns, splits);                                                     \
    }                                                                                                                \
    REGISTER_KERNEL(sum_splits_##name, SUM_THREADS)
FOR_TYPE(f16, f16)
FOR_TYPE(bf16, bf16)
