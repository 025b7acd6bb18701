// What happens to sums before they are stored: y = activation(sum + bias + channel_bias) + residual, all in f32,
// rounded once.
#pragma once

#include "gpu.cuh"

template <class T> struct Epilogue {
    const float* bias;      // [columns], or null
    const T* channel_bias;  // [images, columns], or null: added to every row of its image (the time embedding)
    const T* residual;      // of y's shape, or null
    T* y;                   // [rows, columns]
    u32 rows_per_image;
    u32 activation;
};

DEVICE void load8(const float* from, float (&v)[8]) {
    load<4>(from, reinterpret_cast<float(&)[4]>(v[0]));
    load<4>(from + 4, reinterpret_cast<float(&)[4]>(v[4]));
}

// Eight values from `from`, or the first `count` and zeros. Where `columns` is no multiple of 8 rows are not aligned,
// and values are taken one by one: only small models and a model's last convolution have that.
template <class T> DEVICE void load_columns(const T* from, u32 columns, u32 count, float (&v)[8]) {
    if (columns % 8 == 0) {
        UNROLL
        for (int i = 0; i < 8; i += PACK<T>) load<PACK<T>>(from + i, reinterpret_cast<float(&)[PACK<T>]>(v[i]));
    } else {
        UNROLL
        for (int i = 0; i < 8; i++) v[i] = u32(i) < count ? to_float(from[i]) : 0.0f;
    }
}
template <class T> DEVICE void store_columns(T* to, u32 columns, u32 count, const float (&v)[8]) {
    if (columns % 8 == 0) {
        UNROLL
        for (int i = 0; i < 8; i += PACK<T>) {
            store<PACK<T>>(to + i, reinterpret_cast<const float(&)[PACK<T>]>(v[i]));
        }
    } else {
        UNROLL
        for (int i = 0; i < 8; i++) {
            if (u32(i) < count) to[i] = from_float<T>(v[i]);
        }
    }
}

// Finishes the columns [column, column + 8) of a row, those that exist.
template <class T> DEVICE void finish(const Epilogue<T>& e, u32 row, u32 column, u32 columns, float (&v)[8]) {
    const u32 count = columns - column;
    float more[8];
    if (e.bias) {
        load_columns(e.bias + column, columns, count, more);
        UNROLL
        for (int i = 0; i < 8; i++) v[i] += more[i];
    }
    if (e.channel_bias) {
        load_columns(e.channel_bias + u64(row / e.rows_per_image) * columns + column, columns, count, more);
        UNROLL
        for (int i = 0; i < 8; i++) v[i] += more[i];
    }
    if (e.activation != IDENTITY) {
        UNROLL
        for (int i = 0; i < 8; i++) v[i] = activate(v[i], e.activation);
    }
    const u64 at = u64(row) * columns + column;
    if (e.residual) {
        load_columns(e.residual + at, columns, count, more);
        UNROLL
        for (int i = 0; i < 8; i++) v[i] += more[i];
    }
    store_columns(e.y + at, columns, count, v);
}

// GEGLU, (a + bias) · gelu(gate + bias). Columns of W and of the bias are in groups of 16: eight values, then their
// eight gates; `column` is the group's first. y is [rows, columns / 2].
template <class T>
DEVICE void finish_geglu(const Epilogue<T>& e, u32 row, u32 column, u32 columns, float (&a)[8],
                         const float (&gate)[8]) {
    float bias[8] = {}, gate_bias[8] = {};
    if (e.bias) {
        load8(e.bias + column, bias);
        load8(e.bias + column + 8, gate_bias);
    }
    UNROLL
    for (int i = 0; i < 8; i++) a[i] = (a[i] + bias[i]) * gelu(gate[i] + gate_bias[i]);
    store_columns(e.y + u64(row) * (columns / 2) + column / 2, 8, 8, a);
}
