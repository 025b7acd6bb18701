// How a tile of 16-bit values lies in shared memory, so that ldmatrix reads it without bank conflicts.
#pragma once

#include "gpu.cuh"

// Rows of CHUNKS chunks of 16 bytes. ldmatrix reads eight rows at a time, one chunk of each, in one pass if the chunks
// lie in eight different columns of 16 bytes of the 128-byte wide memory. Rows that fill the width, or half of it,
// would put them all in one or two columns: there chunks change places by row. Other rows are made an odd number of
// chunks long.
template <int CHUNKS> struct TileLayout {
    static constexpr bool SWIZZLED = CHUNKS % 8 == 0 || CHUNKS == 4;
    static constexpr int STRIDE = SWIZZLED ? CHUNKS : CHUNKS | 1;

    static constexpr int bytes(int rows) { return rows * STRIDE * 16; }

    static DEVICE u32 offset(u32 row, u32 chunk) {
        if constexpr (CHUNKS == 4) {
            chunk ^= row >> 1 & 3;
        } else if constexpr (SWIZZLED) {
            chunk ^= row & 7;
        }
        return (row * STRIDE + chunk) * 16;
    }
};

// Loads the 16×16 values at (row, 16·k) as the left operand of mma.
template <class Layout> DEVICE void load_left(u32 (&a)[4], const unsigned char* tile, u32 row, u32 k) {
    const u32 lane = threadIdx.x % LANES;
    ldmatrix_x4(a, tile + Layout::offset(row + lane % 16, 2 * k + lane / 16));
}

// Loads the right operands of two mma: columns are the rows [row, row + 8) and [row + 8, row + 16) of the tile, depth
// is [16·k, 16·k + 16). b[0] and b[1] belong to the first.
template <class Layout> DEVICE void load_right(u32 (&b)[4], const unsigned char* tile, u32 row, u32 k) {
    const u32 lane = threadIdx.x % LANES;
    ldmatrix_x4(b, tile + Layout::offset(row + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
}

// The same from a tile whose rows are the depth: columns are the values [8·chunk, 8·chunk + 8) and the next eight,
// depth is rows [row, row + 16).
template <class Layout> DEVICE void load_right_transposed(u32 (&b)[4], const unsigned char* tile, u32 row, u32 chunk) {
    const u32 lane = threadIdx.x % LANES;
    ldmatrix_x4_transposed(b, tile + Layout::offset(row + lane % 16, chunk + lane / 16));
}
