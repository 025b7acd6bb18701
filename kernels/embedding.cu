// What enters and leaves a model: timestep and token embeddings, latents as rows of pixels.
//
// Launch: blocks of 256 threads, any number of them. No shared memory. Suffixes are the type of the activations.
#include "gpu.cuh"

constexpr int THREADS = 256;

DEVICE u64 first_item() { return u64(blockIdx.x) * THREADS + threadIdx.x; }
DEVICE u64 item_stride() { return u64(gridDim.x) * THREADS; }

// Sine and cosine of an angle up to some thousand radians. The multiple of π/2 nearest to it is taken off in f64, which
// leaves 40 good bits; what remains is within ±π/4, where Taylor's polynomials to the 11th and 12th power are exact in
// f32. CUDA's own functions would do, but keep a stack for angles that never come.
DEVICE void sine_and_cosine(double angle, float& sine, float& cosine) {
    const double turns = rint(angle * 0.63661977236758134);
    const double x = angle - turns * 1.5707963267948966;
    const double s = x * x;
    const double small_sine =
        x * (1 + s * (-1.0 / 6 + s * (1.0 / 120 + s * (-1.0 / 5040 + s * (1.0 / 362880 + s * (-1.0 / 39916800))))));
    const double small_cosine =
        1 +
        s * (-1.0 / 2 + s * (1.0 / 24 + s * (-1.0 / 720 + s * (1.0 / 40320 + s * (-1.0 / 3628800 + s / 479001600.0)))));
    const i64 quarter = i64(turns) & 3;
    const double a = quarter & 1 ? small_cosine : small_sine, b = quarter & 1 ? small_sine : small_cosine;
    sine = float(quarter & 2 ? -a : a);
    cosine = float(quarter == 1 || quarter == 2 ? -b : b);
}

// diffusers' get_timestep_embedding with max_period 10000, as Sinusoid::embed of src/nn/embeddings.rs: values [n] to
// y [n, channels], sines then cosines (the other way round with flip_sin_to_cos), a last 0 where channels is odd.
// Frequencies and angles are rounded to f32 where diffusers rounds them: at timestep 999 an angle's last bit is worth
// 6e-5, so that exact ones would give other numbers than the model was trained with.
template <class T>
DEVICE void timestep_embedding(const float* values, T* y, u32 n, u32 channels, u32 flip_sin_to_cos, float freq_shift) {
    const u32 half = channels / 2, columns = channels - half;
    for (u64 item = first_item(); item < u64(n) * columns; item += item_stride()) {
        const u32 row = u32(item) / columns, i = u32(item) - row * columns;
        T* to = y + u64(row) * channels;
        if (i == half) {
            to[channels - 1] = from_float<T>(0.0f);
            continue;
        }
        const float exponent = -9.2103403719761836f * float(i);
        const float frequency = float(exp(double(exponent / (float(half) - freq_shift))));
        float sine, cosine;
        sine_and_cosine(double(values[row] * frequency), sine, cosine);
        to[i] = from_float<T>(flip_sin_to_cos ? cosine : sine);
        to[half + i] = from_float<T>(flip_sin_to_cos ? sine : cosine);
    }
}

// Token and position embeddings added up: ids [n, length] to y [n, length, c], positions counted from 0 in each
// sequence. An id below `entries` is the caller's promise.
template <class T>
DEVICE void embed_tokens(const u32* ids, const T* tokens, const T* positions, T* y, u32 n, u32 length, u32 c) {
    for (u64 item = first_item(); item < u64(n) * length * c; item += item_stride()) {
        const u32 row = u32(item) / c, channel = u32(item) - row * c;
        const float token = to_float(tokens[u64(ids[row]) * c + channel]);
        y[item] = from_float<T>(token + to_float(positions[u64(row % length) * c + channel]));
    }
}

// One token of each sequence: x [n, length, c] and index [n] to y [n, c].
template <class T> DEVICE void select_tokens(const T* x, const u32* index, T* y, u32 n, u32 length, u32 c) {
    for (u64 item = first_item(); item < u64(n) * c; item += item_stride()) {
        const u32 row = u32(item) / c, channel = u32(item) - row * c;
        y[item] = x[(u64(row) * length + index[row]) * c + channel];
    }
}

// f32 latents [n, c, h, w] to activations [n, h, w, c], and back. A pixel has few channels: one thread does it all.
template <class T> DEVICE void latents_to_nhwc(const float* x, T* y, u32 n, u32 c, u32 pixels) {
    for (u64 item = first_item(); item < u64(n) * pixels; item += item_stride()) {
        const u32 image = u32(item) / pixels, pixel = u32(item) - image * pixels;
        for (u32 i = 0; i < c; i++) y[item * c + i] = from_float<T>(x[(u64(image) * c + i) * pixels + pixel]);
    }
}
template <class T> DEVICE void nhwc_to_latents(const T* x, float* y, u32 n, u32 c, u32 pixels) {
    for (u64 item = first_item(); item < u64(n) * pixels; item += item_stride()) {
        const u32 image = u32(item) / pixels, pixel = u32(item) - image * pixels;
        for (u32 i = 0; i < c; i++) y[(u64(image) * c + i) * pixels + pixel] = to_float(x[item * c + i]);
    }
}

#define FOR_TYPE(name, T)                                                                                    \
    KERNEL(timestep_embedding_##name, THREADS, 2)                                                            \
    (const float* values, T* y, u32 n, u32 channels, u32 flip_sin_to_cos, float freq_shift) {                \
        timestep_embedding(values, y, n, channels, flip_sin_to_cos, freq_shift);                             \
    }                                                                                                        \
    REGISTER_KERNEL(timestep_embedding_##name, THREADS)                                                      \
    KERNEL(embed_tokens_##name, THREADS, 4)                                                                  \
    (const u32* ids, const T* tokens, const T* positions, T* y, u32 n, u32 length, u32 c) {                  \
        embed_tokens(ids, tokens, positions, y, n, length, c);                                               \
    }                                                                                                        \
    REGISTER_KERNEL(embed_tokens_##name, THREADS)                                                            \
    KERNEL(select_tokens_##name, THREADS, 4)(const T* x, const u32* index, T* y, u32 n, u32 length, u32 c) { \
        select_tokens(x, index, y, n, length, c);                                                            \
    }                                                                                                        \
    REGISTER_KERNEL(select_tokens_##name, THREADS)                                                           \
    KERNEL(latents_to_nhwc_##name, THREADS, 4)(const float* x, T* y, u32 n, u32 c, u32 pixels) {             \
        latents_to_nhwc(x, y, n, c, pixels);                                                                 \
    }                                                                                                        \
    REGISTER_KERNEL(latents_to_nhwc_##name, THREADS)                                                         \
    KERNEL(nhwc_to_latents_##name, THREADS, 4)(const T* x, float* y, u32 n, u32 c, u32 pixels) {             \
        nhwc_to_latents(x, y, n, c, pixels);                                                                 \
    }                                                                                                        \
    REGISTER_KERNEL(nhwc_to_latents_##name, THREADS)
FOR_TYPE(f16, f16)
FOR_TYPE(bf16, bf16)
FOR_TYPE(f32, float)
