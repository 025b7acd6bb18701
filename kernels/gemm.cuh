// The main loop of matrix products and convolutions, on tensor cores (sm_80 and up): y = epilogue(A · Wᵀ).
//
// W is [columns, depth], contiguous along the depth. The rows of A come from a source: plain rows of a matrix, or
// pixels under the taps of a convolution (conv.cuh), which are never written out. A block computes Tile::ROWS ×
// Tile::COLUMNS results, walking the depth in steps of 32 values through a ring of stages in shared memory that
// asynchronous copies fill ahead.
//
// Every result is summed in the order of its depth, so it does not depend on the tile, nor on other rows: an image
// alone and in a batch has the same bits. Splits (gemm.cu) do change the order; choose them without regard to the
// batch.
//
// A main loop for Hopper (wgmma on tiles that TMA brings) takes the place of gemm_block and no other: sources tell it
// where rows are, finish_block and the epilogue work on its sums once they have been brought to shared memory, and its
// entry points belong in files that end in _sm90a.cu, which tools/kernels.py compiles for sm_90a alone.
#pragma once

#include "epilogue.cuh"
#include "tile.cuh"

constexpr int STEP = 32;  // values of depth
using StageLayout = TileLayout<STEP / 8>;

template <int ROWS_, int COLUMNS_, int WARPS_DOWN_, int WARPS_ACROSS_, int STAGES_> struct Tile {
    static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, STAGES = STAGES_;
    static constexpr int WARPS_DOWN = WARPS_DOWN_, WARPS_ACROSS = WARPS_ACROSS_;
    static constexpr int THREADS = WARPS_DOWN * WARPS_ACROSS * 32;
    // What a warp computes.
    static constexpr int WARP_ROWS = ROWS / WARPS_DOWN, WARP_COLUMNS = COLUMNS / WARPS_ACROSS;
    static_assert(WARP_ROWS % 16 == 0 && WARP_COLUMNS % 16 == 0);
    // What a thread copies in a step: one chunk of 16 bytes of each of these rows of A and of W.
    static constexpr int ROWS_APART = THREADS / 4;
    static constexpr int COPIED_ROWS = ROWS / ROWS_APART;
    static constexpr int COPIED_COLUMNS = (COLUMNS + ROWS_APART - 1) / ROWS_APART;
    static_assert(ROWS % ROWS_APART == 0);

    static constexpr int STAGE_BYTES = StageLayout::bytes(ROWS + COLUMNS);
    static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES;
    // Sums of 16 rows of a warp on their way to the epilogue. Eight floats more than a row keep banks apart.
    static constexpr int SUM_STRIDE = WARP_COLUMNS + 8;
    static_assert(THREADS / 32 * 16 * SUM_STRIDE * 4 <= SHARED_BYTES);
};

// Channels of U-Nets are multiples of 160, whose tiles leave few multiprocessors of a wave idle; a VAE's are multiples
// of 128. The smaller tiles are for few rows, where the larger would not give every multiprocessor a block.
using Tile128x160 = Tile<128, 160, 4, 2, 4>;  // 256 threads, 73728 bytes of shared memory
using Tile128x128 = Tile<128, 128, 4, 2, 4>;  // 256 threads, 65536 bytes
using Tile64x160 = Tile<64, 160, 2, 2, 4>;    // 128 threads, 57344 bytes
using Tile64x64 = Tile<64, 64, 2, 2, 4>;      // 128 threads, 32768 bytes

// The first of the rows of A that the thread copies.
template <class Tile> DEVICE u32 first_copied_row() { return blockIdx.x * Tile::ROWS + threadIdx.x / 4; }

// Rows of a matrix [rows, depth], depth a multiple of 8.
template <class T, class Tile> struct MatrixRows {
    const T* row[Tile::COPIED_ROWS];  // null beyond the last
    u32 depth;
    u32 at;  // of the thread's chunk, in this step

    DEVICE MatrixRows(const T* x, u32 rows, u32 depth, u32 first_step)
        : depth(depth), at(first_step * STEP + threadIdx.x % 4 * 8) {
        UNROLL
        for (int i = 0; i < Tile::COPIED_ROWS; i++) {
            const u32 r = first_copied_row<Tile>() + i * Tile::ROWS_APART;
            row[i] = r < rows ? x + u64(r) * depth : nullptr;
        }
    }
    DEVICE u32 weight_depth() const { return depth; }
    DEVICE void copy_row(unsigned char* to, int i) const { cp_async(to, row[i] + at, row[i] && at < depth); }
    DEVICE void copy_weight(unsigned char* to, const T* w, bool valid) const {
        cp_async(to, w + at, valid && at < depth);
    }
    DEVICE void advance() { at += STEP; }
};

// Computes the sums of a block: lane's part of its warp's tile, as mma lays it out. Steps [0, steps) of the source.
template <class T, class Tile, class Source>
DEVICE void gemm_block(Source& source, const T* w, u32 columns, u32 steps, unsigned char* shared,
                       float (&sums)[Tile::WARP_ROWS / 16][Tile::WARP_COLUMNS / 8][4]) {
    const u32 thread = threadIdx.x, warp = thread / LANES;
    const u32 warp_row = warp / Tile::WARPS_ACROSS * Tile::WARP_ROWS;
    const u32 warp_column = warp % Tile::WARPS_ACROSS * Tile::WARP_COLUMNS;
    const u32 first_column = blockIdx.y * Tile::COLUMNS;

    const auto copy_step = [&](u32 step) {
        unsigned char* stage = shared + step % Tile::STAGES * Tile::STAGE_BYTES;
        if (step < steps) {
            UNROLL
            for (int i = 0; i < Tile::COPIED_ROWS; i++) {
                source.copy_row(stage + StageLayout::offset(thread / 4 + i * Tile::ROWS_APART, thread % 4), i);
            }
            UNROLL
            for (int i = 0; i < Tile::COPIED_COLUMNS; i++) {
                const u32 column = thread / 4 + i * Tile::ROWS_APART;
                if (Tile::COLUMNS % Tile::ROWS_APART && column >= u32(Tile::COLUMNS)) break;
                source.copy_weight(stage + StageLayout::offset(Tile::ROWS + column, thread % 4),
                                   w + u64(first_column + column) * source.weight_depth(),
                                   first_column + column < columns);
            }
            source.advance();
        }
        cp_async_commit();  // an empty group too, so that groups count steps
    };

    for (int step = 0; step < Tile::STAGES - 1; step++) copy_step(step);
    for (u32 step = 0; step < steps; step++) {
        cp_async_wait<Tile::STAGES - 2>();
        // Now this step's stage is full, and nobody reads the one before it any more, which is filled next.
        sync_block();
        copy_step(step + Tile::STAGES - 1);
        const unsigned char* stage = shared + step % Tile::STAGES * Tile::STAGE_BYTES;
        UNROLL
        for (int k = 0; k < STEP / 16; k++) {
            u32 a[Tile::WARP_ROWS / 16][4];
            UNROLL
            for (int i = 0; i < Tile::WARP_ROWS / 16; i++) load_left<StageLayout>(a[i], stage, warp_row + i * 16, k);
            UNROLL
            for (int j = 0; j < Tile::WARP_COLUMNS / 16; j++) {
                u32 b[4];
                load_right<StageLayout>(b, stage, Tile::ROWS + warp_column + j * 16, k);
                UNROLL
                for (int i = 0; i < Tile::WARP_ROWS / 16; i++) {
                    mma_m16n8k16<T>(sums[i][2 * j], a[i], b[0], b[1]);
                    mma_m16n8k16<T>(sums[i][2 * j + 1], a[i], b[2], b[3]);
                }
            }
        }
    }
    cp_async_wait<0>();
    sync_block();  // the stages are free for finish_block
}

// Takes the sums through shared memory, so that each thread has eight neighbouring columns of a row, and writes them:
// after the epilogue, or as they are to `partial` [splits, rows, columns] for sum_splits (gemm.cu) to finish.
template <class T, class Tile, bool GEGLU>
DEVICE void finish_block(const float (&sums)[Tile::WARP_ROWS / 16][Tile::WARP_COLUMNS / 8][4], unsigned char* shared,
                         u32 rows, u32 columns, const Epilogue<T>& epilogue, float* partial) {
    const u32 warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const u32 first_row = blockIdx.x * Tile::ROWS + warp / Tile::WARPS_ACROSS * Tile::WARP_ROWS;
    const u32 first_column = blockIdx.y * Tile::COLUMNS + warp % Tile::WARPS_ACROSS * Tile::WARP_COLUMNS;
    float* own = reinterpret_cast<float*>(shared) + warp * 16 * Tile::SUM_STRIDE;
    constexpr int WIDTH = GEGLU ? 16 : 8, ITEMS = 16 * Tile::WARP_COLUMNS / WIDTH;
    UNROLL
    for (int i = 0; i < Tile::WARP_ROWS / 16; i++) {
        UNROLL
        for (int j = 0; j < Tile::WARP_COLUMNS / 8; j++) {
            float* to = own + lane / 4 * Tile::SUM_STRIDE + j * 8 + lane % 4 * 2;
            *reinterpret_cast<float2*>(to) = float2{sums[i][j][0], sums[i][j][1]};
            *reinterpret_cast<float2*>(to + 8 * Tile::SUM_STRIDE) = float2{sums[i][j][2], sums[i][j][3]};
        }
        sync_warp();
        for (u32 item = lane; item < u32(ITEMS); item += LANES) {
            const u32 r = item / (Tile::WARP_COLUMNS / WIDTH), at = item % (Tile::WARP_COLUMNS / WIDTH) * WIDTH;
            const u32 row = first_row + i * 16 + r, column = first_column + at;
            if (row >= rows || column >= columns) continue;
            float v[8];
            load8(own + r * Tile::SUM_STRIDE + at, v);
            if constexpr (GEGLU) {
                float gate[8];
                load8(own + r * Tile::SUM_STRIDE + at + 8, gate);
                finish_geglu(epilogue, row, column, columns, v, gate);
            } else if (partial) {
                store_columns(partial + (u64(blockIdx.z) * rows + row) * columns + column, columns, columns - column,
                              v);
            } else {
                finish(epilogue, row, column, columns, v);
            }
        }
        sync_warp();  // before the next 16 rows
    }
}

// A block's share of the steps where the depth is split among gridDim.z blocks.
DEVICE u32 first_step_of_split(u32 steps) { return u32(u64(steps) * blockIdx.z / gridDim.z); }
DEVICE u32 steps_of_split(u32 steps) {
    return u32(u64(steps) * (blockIdx.z + 1) / gridDim.z) - first_step_of_split(steps);
}
