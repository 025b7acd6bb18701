// Convolutions and linear layers in f32 throughout, without tensor cores: for who asks for f32.
//
// conv2d_f32 takes what conv.cu's conv2d takes, all tensors f32, for any c_in; there are no splits. A linear layer is a
// 1×1 convolution of `rows` pixels: n = 1, h = rows, w = 1. Grid (⌈n·out_h·out_w / 64⌉, ⌈c_out / 64⌉), 128 threads, no
// dynamic shared memory.
#include "conv.cuh"

constexpr int THREADS = 128, SIDE = 64, DEPTH = 16;
// A thread copies one value of depth for each of these rows of A, and as many of W.
constexpr int APART = THREADS / DEPTH, COPIED = SIDE / APART;
// And computes this many rows and columns.
constexpr int ROWS = 4, COLUMNS = 8;
static_assert(THREADS * ROWS * COLUMNS == SIDE * SIDE);

DEVICE void conv2d_f32_block(const float* x, const float* w, const Epilogue<float>& epilogue, const ConvShape& s) {
    // By depth, then row or column. Four floats more than a row keep the copies of 16 depths in different banks, and
    // rows aligned.
    using Side = float[DEPTH][SIDE + 4];
    SHARED(Side, a_tile);
    SHARED(Side, w_tile);
    const u32 thread = threadIdx.x, depth = thread % DEPTH, rows = s.n * s.out_h * s.out_w;
    const u32 first_row = blockIdx.x * SIDE, first_column = blockIdx.y * SIDE;
    const u32 row = thread / 8 * ROWS, column = thread % 8 * COLUMNS;
    const u32 whole_depth = s.kernel_h * s.kernel_w * s.c_in;
    const Pixels<float, COPIED> pixels(x, s, first_row + thread / DEPTH, APART);
    float sums[ROWS][COLUMNS] = {};
    for (u32 first = 0; first < whole_depth; first += DEPTH) {
        const u32 at = first + depth, tap = at / s.c_in, channel = at - tap * s.c_in;
        const u32 tap_y = tap / s.kernel_w, tap_x = tap - tap_y * s.kernel_w;
        sync_block();  // nobody reads the tiles any more
        UNROLL
        for (int i = 0; i < COPIED; i++) {
            const u32 r = thread / DEPTH + i * APART;
            const float* pixel = pixels.under(i, tap_y, tap_x, s);
            a_tile[depth][r] = at < whole_depth && pixel ? pixel[channel] : 0.0f;
            const bool exists = at < whole_depth && first_column + r < s.c_out;
            w_tile[depth][r] = exists ? w[u64(first_column + r) * whole_depth + at] : 0.0f;
        }
        sync_block();  // they are there
        UNROLL
        for (int k = 0; k < DEPTH; k++) {
            float a[ROWS], b[COLUMNS];
            load<4>(&a_tile[k][row], a);
            load8(&w_tile[k][column], b);
            UNROLL
            for (int i = 0; i < ROWS; i++) {
                UNROLL
                for (int j = 0; j < COLUMNS; j++) sums[i][j] += a[i] * b[j];
            }
        }
    }
    UNROLL
    for (int i = 0; i < ROWS; i++) {
        if (first_row + row + i >= rows || first_column + column >= s.c_out) continue;
        finish(epilogue, first_row + row + i, first_column + column, s.c_out, sums[i]);
    }
}

KERNEL(conv2d_f32, THREADS, 4)
(const float* x, const float* w, const float* bias, const float* channel_bias, const float* residual, float* y,
 const ConvShape s, u32 activation) {
    const Epilogue<float> epilogue = {bias, channel_bias, residual, y, s.out_h * s.out_w, activation};
    conv2d_f32_block(x, w, epilogue, s);
}
REGISTER_KERNEL(conv2d_f32, THREADS)
