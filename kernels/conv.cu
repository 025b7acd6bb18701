// Convolutions of channels-last images as implicit matrix products: y = epilogue(conv(x, w)).
//
// x [n, h, w, c_in], y [n, out_h, out_w, c_out], w [c_out, kernel_h, kernel_w, c_in]: a checkpoint's [out, in, kh, kw]
// with channels moved last. Kernels of any size, strides, paddings, and the enlargement of the input are ConvShape's
// (conv.cuh). The type of x, w, channel_bias [n, c_out], residual and y is the suffix; bias [c_out] is f32. Null
// pointers for what there is not. `activation` is gpu.cuh's. An image has fewer than 2^32 values, a batch fewer pixels.
//
//   conv2d_TYPE_RxC       c_in a multiple of 8. Grid (⌈n·out_h·out_w / R⌉, ⌈c_out / C⌉, splits); threads and dynamic
//                         shared memory of the tile in gemm.cuh. Splits as for gemm.cu: sum_splits finishes them, with
//                         rows = n·out_h·out_w and rows_per_image = out_h·out_w.
//   conv2d_gather_TYPE    the same for any c_in, on tile 64x64.
#include "conv.cuh"

template <class T, class Tile, class Source>
DEVICE void conv2d(const T* x, const T* w, const Epilogue<T>& epilogue, float* partial, const ConvShape& s) {
    DYNAMIC_SHARED(shared);
    const u32 steps = Source::steps(s);
    float sums[Tile::WARP_ROWS / 16][Tile::WARP_COLUMNS / 8][4] = {};
    Source source(x, s, first_step_of_split(steps));
    gemm_block<T, Tile>(source, w, s.c_out, steps_of_split(steps), shared, sums);
    finish_block<T, Tile, false>(sums, shared, s.n * s.out_h * s.out_w, s.c_out, epilogue, partial);
}

#define CONV2D(kernel, T, tile, rows, blocks)                                                                   \
    KERNEL(kernel, tile::THREADS, blocks)                                                                       \
    (const T* x, const T* w, const float* bias, const T* channel_bias, const T* residual, T* y, float* partial, \
     const ConvShape s, u32 activation) {                                                                       \
        const Epilogue<T> epilogue = {bias, channel_bias, residual, y, s.out_h * s.out_w, activation};          \
        conv2d<T, tile, rows<T, tile>>(x, w, epilogue, partial, s);                                             \
    }                                                                                                           \
    REGISTER_KERNEL(kernel, tile::THREADS)
#define FOR_TYPE(name, T)                                        \
    CONV2D(conv2d_##name##_128x160, T, Tile128x160, ConvRows, 2) \
    CONV2D(conv2d_##name##_128x128, T, Tile128x128, ConvRows, 2) \
    CONV2D(conv2d_##name##_64x160, T, Tile64x160, ConvRows, 3)   \
    CONV2D(conv2d_##name##_64x64, T, Tile64x64, ConvRows, 4)     \
    CONV2D(conv2d_gather_##name, T, Tile64x64, GatheredRows, 2)
FOR_TYPE(f16, f16)
FOR_TYPE(bf16, bf16)
