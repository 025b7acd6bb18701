// The pixels of a convolution as rows of a matrix (implicit GEMM): row (n, y, x), depth (tap, channel).
#pragma once

#include "gemm.cuh"

// A launch parameter. Sides are in pixels.
struct ConvShape {
    u32 n, h, w, c_in;        // input [n, h, w, c_in]
    u32 out_h, out_w, c_out;  // output [n, out_h, out_w, c_out]
    u32 kernel_h, kernel_w;   // weight [c_out, kernel_h, kernel_w, c_in]
    u32 stride;
    u32 pad_top, pad_left;       // what lies beyond the input's other sides is zero too
    u32 upsample;                // 1: the input is first enlarged to twice its sides, by nearest neighbour
    u32 enlarged_h, enlarged_w;  // its sides then, 2h and 2w or one less; otherwise h and w
};

// Where some rows, `apart` from each other, meet the input.
template <class T, int ROWS> struct Pixels {
    const T* image[ROWS];
    int top[ROWS], left[ROWS];  // of the first tap, in the enlarged input

    DEVICE Pixels(const T* x, const ConvShape& s, u32 first_row, u32 apart) {
        UNROLL
        for (int i = 0; i < ROWS; i++) {
            const u32 row = first_row + i * apart, line = row / s.out_w, n = line / s.out_h;
            const bool exists = n < s.n;
            image[i] = x + u64(exists ? n : 0) * s.h * s.w * s.c_in;
            // A row that does not exist lies so far up that no tap meets the input.
            top[i] = exists ? int((line - n * s.out_h) * s.stride) - int(s.pad_top) : -(1 << 30);
            left[i] = int((row - line * s.out_w) * s.stride) - int(s.pad_left);
        }
    }
    // The first channel of the pixel under a tap, or null where that is padding.
    DEVICE const T* under(int i, u32 tap_y, u32 tap_x, const ConvShape& s) const {
        const u32 y = u32(top[i]) + tap_y, x = u32(left[i]) + tap_x;  // wraps to something large where negative
        if (y >= s.enlarged_h || x >= s.enlarged_w) return nullptr;
        return image[i] + ((y >> s.upsample) * s.w + (x >> s.upsample)) * s.c_in;
    }
};

// Channels a multiple of 8: a chunk of 16 bytes lies under one tap. A step takes up to 32 channels of one tap.
template <class T, class Tile> struct ConvRows {
    const ConvShape& s;
    Pixels<T, Tile::COPIED_ROWS> pixels;
    u32 tap_y, tap_x, channel;  // of the thread's chunk, in this step

    DEVICE ConvRows(const T* x, const ConvShape& s, u32 first_step)
        : s(s), pixels(x, s, first_copied_row<Tile>(), Tile::ROWS_APART) {
        const u32 steps_of_tap = (s.c_in + STEP - 1) / STEP, tap = first_step / steps_of_tap;
        tap_y = tap / s.kernel_w;
        tap_x = tap - tap_y * s.kernel_w;
        channel = (first_step - tap * steps_of_tap) * STEP + threadIdx.x % 4 * 8;
    }
    static DEVICE u32 steps(const ConvShape& s) { return s.kernel_h * s.kernel_w * ((s.c_in + STEP - 1) / STEP); }
    DEVICE u32 weight_depth() const { return s.kernel_h * s.kernel_w * s.c_in; }
    DEVICE void copy_row(unsigned char* to, int i) const {
        const T* pixel = pixels.under(i, tap_y, tap_x, s);
        cp_async(to, pixel + channel, pixel && channel < s.c_in);
    }
    DEVICE void copy_weight(unsigned char* to, const T* w, bool valid) const {
        cp_async(to, w + (tap_y * s.kernel_w + tap_x) * s.c_in + channel, valid && channel < s.c_in);
    }
    DEVICE void advance() {
        channel += STEP;
        if (channel - threadIdx.x % 4 * 8 < s.c_in) return;
        channel = threadIdx.x % 4 * 8;
        if (++tap_x < s.kernel_w) return;
        tap_x = 0;
        tap_y++;
    }
};

// Any number of channels, value by value: a model's first convolution has 3, 4 or 9 of them. A step takes the next 32
// values of depth, whatever their taps.
template <class T, class Tile> struct GatheredRows {
    const ConvShape& s;
    Pixels<T, Tile::COPIED_ROWS> pixels;
    u32 at;  // depth of the thread's chunk, in this step

    DEVICE GatheredRows(const T* x, const ConvShape& s, u32 first_step)
        : s(s), pixels(x, s, first_copied_row<Tile>(), Tile::ROWS_APART), at(first_step * STEP + threadIdx.x % 4 * 8) {}
    static DEVICE u32 steps(const ConvShape& s) { return (s.kernel_h * s.kernel_w * s.c_in + STEP - 1) / STEP; }
    DEVICE u32 weight_depth() const { return s.kernel_h * s.kernel_w * s.c_in; }
    DEVICE void copy_row(unsigned char* to, int i) const {
        u32 values[8];
        UNROLL
        for (int j = 0; j < 8; j++) {
            const u32 tap = (at + j) / s.c_in, channel = at + j - tap * s.c_in;
            const u32 tap_y = tap / s.kernel_w, tap_x = tap - tap_y * s.kernel_w;
            const T* pixel = pixels.under(i, tap_y, tap_x, s);
            values[j] = tap_y < s.kernel_h && pixel ? pixel[channel].bits : 0;
        }
        put(to, values);
    }
    DEVICE void copy_weight(unsigned char* to, const T* w, bool valid) const {
        u32 values[8];
        UNROLL
        for (int j = 0; j < 8; j++) values[j] = valid && at + j < weight_depth() ? w[at + j].bits : 0;
        put(to, values);
    }
    DEVICE void advance() { at += STEP; }

    static DEVICE void put(unsigned char* to, const u32 (&v)[8]) {
        *reinterpret_cast<uint4*>(to) =
            uint4{v[0] | v[1] << 16, v[2] | v[3] << 16, v[4] | v[5] << 16, v[6] | v[7] << 16};
    }
};
