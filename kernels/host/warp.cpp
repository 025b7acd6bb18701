// What the lanes of a warp do together: shuffles, ldmatrix and mma, as the PTX manual defines them.
#include "internal.h"

namespace emulator {

void together(Collective collective, void* operands) {
    Warp& warp = block->warps[thread->warp()];
    if (warp.arrived && warp.collective != collective) fail("lanes of a warp are at different operations");
    const uint64_t before = warp.done;
    warp.collective = collective;
    warp.operands[thread->lane()] = operands;
    warp.arrived |= 1u << thread->lane();
    if (warp.arrived != 0xffffffffu) {
        while (warp.done == before) yield();
        return;
    }
    collective(warp.operands);
    warp.arrived = 0;
    warp.done++;
    block->progress++;
}

struct Shuffle {
    float in, out;
    int mask;
};

static void shuffle(void* const (&operands)[32]) {
    for (int lane = 0; lane < 32; lane++) {
        auto* own = static_cast<Shuffle*>(operands[lane]);
        own->out = static_cast<const Shuffle*>(operands[(lane ^ own->mask) & 31])->in;
    }
}

struct MatrixLoad {
    u32* x;
    const void* row;
};

static uint64_t conflicts = 0;

// A matrix is read in one pass if its eight rows, 16 bytes each, lie in eight different groups of four banks.
static void count_conflicts(void* const (&operands)[32]) {
    for (int matrix = 0; matrix < 4; matrix++) {
        int rows_in_group[8] = {}, passes = 1;
        for (int i = 0; i < 8; i++) {
            const auto row = uintptr_t(static_cast<const MatrixLoad*>(operands[matrix * 8 + i])->row);
            passes = std::max(passes, ++rows_in_group[row / 16 % 8]);
        }
        conflicts += uint64_t(passes - 1);
    }
}

template <bool TRANSPOSED> static void load(void* const (&operands)[32]) {
    count_conflicts(operands);
    for (int matrix = 0; matrix < 4; matrix++) {
        const u16* rows[8];
        for (int i = 0; i < 8; i++)
            rows[i] = static_cast<const u16*>(static_cast<MatrixLoad*>(operands[matrix * 8 + i])->row);
        for (int lane = 0; lane < 32; lane++) {
            const int r = lane / 4, c = lane % 4 * 2;
            const u16 first = TRANSPOSED ? rows[c][r] : rows[r][c];
            const u16 second = TRANSPOSED ? rows[c + 1][r] : rows[r][c + 1];
            static_cast<MatrixLoad*>(operands[lane])->x[matrix] = first | u32(second) << 16;
        }
    }
}

void load_matrices(u32* x, const void* row, bool transposed) {
    require_shared("ldmatrix", row, 16);
    watch_read(row, 16);
    MatrixLoad own{x, row};
    together(transposed ? load<true> : load<false>, &own);
}

uint64_t ldmatrix_conflicts() { return conflicts; }

struct MultiplyAdd {
    float* d;
    const u32* a;
    u32 b[2];
    float (*widen)(u16);
};

static void multiply_add_together(void* const (&operands)[32]) {
    float a[16][16], b[16][8], d[16][8];
    const auto lane_at = [&](int lane) { return static_cast<MultiplyAdd*>(operands[lane]); };
    float (*const widen)(u16) = lane_at(0)->widen;
    for (int lane = 0; lane < 32; lane++) {
        const MultiplyAdd& own = *lane_at(lane);
        const int g = lane / 4, t = lane % 4 * 2;
        for (int half = 0; half < 2; half++) {
            for (int i = 0; i < 4; i++) a[g + i % 2 * 8][t + i / 2 * 8 + half] = widen(u16(own.a[i] >> 16 * half));
            for (int i = 0; i < 2; i++) b[t + i * 8 + half][g] = widen(u16(own.b[i] >> 16 * half));
            for (int i = 0; i < 2; i++) d[g + i * 8][t + half] = own.d[i * 2 + half];
        }
    }
    for (int k = 0; k < 16; k++) {
        for (int m = 0; m < 16; m++) {
            for (int n = 0; n < 8; n++) d[m][n] += a[m][k] * b[k][n];
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < 4; i++) lane_at(lane)->d[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    }
}

void multiply_add(float* d, const u32* a, u32 b0, u32 b1, float (*widen)(u16)) {
    MultiplyAdd own{d, a, {b0, b1}, widen};
    together(multiply_add_together, &own);
}

}  // namespace emulator

void sync_warp() {
    emulator::together([](void* const(&)[32]) { emulator::watch_sync_warp(); }, nullptr);
}

float shuffle_xor(float x, int mask) {
    emulator::Shuffle own{x, 0.0f, mask};
    emulator::together(emulator::shuffle, &own);
    return own.out;
}
