// One value at a time: casts, activations, GEGLU, sums, concatenation, enlargement.
//
// Suffixes f16, bf16 and f32 are the type of the tensors. Tensors are contiguous and their memory starts on a multiple
// of 16 bytes. Launch: blocks of 256 threads, any number of them (threads stride over the grid); enough that each
// thread does one pack of 16 bytes is best. No shared memory. A tensor has fewer than 2^32 packs, or 2^32 values where
// its channels do not fill packs.
#include "gpu.cuh"

constexpr int THREADS = 256;

// The first item of the calling thread, and the distance to its next.
DEVICE u64 first_item() { return u64(blockIdx.x) * THREADS + threadIdx.x; }
DEVICE u64 item_stride() { return u64(gridDim.x) * THREADS; }

// y[i] = f(x[i]) for n values: packs, then what is left.
template <class T, class F> DEVICE void map(const T* x, T* y, u64 n, F f) {
    constexpr int V = PACK<T>;
    for (u64 pack = first_item(); pack < n / V; pack += item_stride()) {
        float v[V];
        load<V>(x + pack * V, v);
        UNROLL
        for (int i = 0; i < V; i++) v[i] = f(v[i]);
        store<V>(y + pack * V, v);
    }
    for (u64 i = n / V * V + first_item(); i < n; i += item_stride()) y[i] = from_float<T>(f(to_float(x[i])));
}

template <class T> DEVICE void add(const T* a, const T* b, T* y, u64 n) {
    constexpr int V = PACK<T>;
    for (u64 pack = first_item(); pack < n / V; pack += item_stride()) {
        float v[V], w[V];
        load<V>(a + pack * V, v);
        load<V>(b + pack * V, w);
        UNROLL
        for (int i = 0; i < V; i++) v[i] += w[i];
        store<V>(y + pack * V, v);
    }
    for (u64 i = n / V * V + first_item(); i < n; i += item_stride())
        y[i] = from_float<T>(to_float(a[i]) + to_float(b[i]));
}

// Eight values at a time whatever the widths of the types.
template <class From, class To> DEVICE void cast(const From* x, To* y, u64 n) {
    for (u64 at = first_item() * 8; at < n; at += item_stride() * 8) {
        if (at + 8 > n) {
            for (u64 i = at; i < n; i++) y[i] = from_float<To>(to_float(x[i]));
            return;
        }
        float v[8];
        UNROLL
        for (int i = 0; i < 8; i += PACK<From>)
            load<PACK<From>>(x + at + i, reinterpret_cast<float(&)[PACK<From>]>(v[i]));
        UNROLL
        for (int i = 0; i < 8; i += PACK<To>) store<PACK<To>>(y + at + i, reinterpret_cast<float(&)[PACK<To>]>(v[i]));
    }
}

// x is [rows, 2c]: y = a · gelu(g) with a the first and g the second half of a row.
template <int V, class T> DEVICE void geglu(const T* x, T* y, u32 rows, u32 c) {
    const u32 packs = c / V;
    for (u64 item = first_item(); item < u64(rows) * packs; item += item_stride()) {
        const u32 row = u32(item) / packs, at = (u32(item) - row * packs) * V;
        const T* from = x + u64(row) * 2 * c + at;
        float a[V], g[V];
        load<V>(from, a);
        load<V>(from + c, g);
        UNROLL
        for (int i = 0; i < V; i++) a[i] *= gelu(g[i]);
        store<V>(y + u64(row) * c + at, a);
    }
}

// [rows, ca] and [rows, cb] side by side: [rows, ca + cb].
template <int V, class T> DEVICE void concat_channels(const T* a, const T* b, T* y, u32 rows, u32 ca, u32 cb) {
    const u32 packs = (ca + cb) / V;
    for (u64 item = first_item(); item < u64(rows) * packs; item += item_stride()) {
        const u32 row = u32(item) / packs, at = (u32(item) - row * packs) * V;
        const T* from = at < ca ? a + u64(row) * ca + at : b + u64(row) * cb + (at - ca);
        float v[V];
        load<V>(from, v);
        store<V>(y + item * V, v);
    }
}

// [n, h, w, c] to [n, height, width, c]: the pixel (y, x) is that of (⌊y·h/height⌋, ⌊x·w/width⌋).
template <int V, class T>
DEVICE void upsample_nearest(const T* x, T* y, u32 n, u32 h, u32 w, u32 c, u32 height, u32 width) {
    const u32 packs = c / V;
    for (u64 item = first_item(); item < u64(n) * height * width * packs; item += item_stride()) {
        const u32 pixel = u32(item) / packs, at = (u32(item) - pixel * packs) * V;
        const u32 row = pixel / width, column = pixel - row * width;
        const u32 image = row / height, line = row - image * height;
        const u32 from = (image * h + u32(u64(line) * h / height)) * w + u32(u64(column) * w / width);
        float v[V];
        load<V>(x + u64(from) * c + at, v);
        store<V>(y + item * V, v);
    }
}

#define CAST(from, From, to, To)                                                           \
    KERNEL(cast_##from##_##to, THREADS, 4)(const From* x, To* y, u64 n) { cast(x, y, n); } \
    REGISTER_KERNEL(cast_##from##_##to, THREADS)
CAST(f32, float, f16, f16)
CAST(f32, float, bf16, bf16)
CAST(f16, f16, f32, float)
CAST(bf16, bf16, f32, float)

// Channels that do not fill packs are taken one by one: only small models have them.
#define FOR_TYPE(name, T)                                                                                \
    KERNEL(silu_##name, THREADS, 4)(const T* x, T* y, u64 n) { map(x, y, n, silu); }                     \
    REGISTER_KERNEL(silu_##name, THREADS)                                                                \
    KERNEL(gelu_##name, THREADS, 4)(const T* x, T* y, u64 n) { map(x, y, n, gelu); }                     \
    REGISTER_KERNEL(gelu_##name, THREADS)                                                                \
    KERNEL(quick_gelu_##name, THREADS, 4)(const T* x, T* y, u64 n) { map(x, y, n, quick_gelu); }         \
    REGISTER_KERNEL(quick_gelu_##name, THREADS)                                                          \
    KERNEL(add_##name, THREADS, 4)(const T* a, const T* b, T* y, u64 n) { add(a, b, y, n); }             \
    REGISTER_KERNEL(add_##name, THREADS)                                                                 \
    KERNEL(geglu_##name, THREADS, 4)(const T* x, T* y, u32 rows, u32 c) {                                \
        c % PACK<T> ? geglu<1>(x, y, rows, c) : geglu<PACK<T>>(x, y, rows, c);                           \
    }                                                                                                    \
    REGISTER_KERNEL(geglu_##name, THREADS)                                                               \
    KERNEL(concat_channels_##name, THREADS, 4)(const T* a, const T* b, T* y, u32 rows, u32 ca, u32 cb) { \
        ca % PACK<T> || cb % PACK<T> ? concat_channels<1>(a, b, y, rows, ca, cb)                         \
                                     : concat_channels<PACK<T>>(a, b, y, rows, ca, cb);                  \
    }                                                                                                    \
    REGISTER_KERNEL(concat_channels_##name, THREADS)                                                     \
    KERNEL(upsample_nearest_##name, THREADS, 4)                                                          \
    (const T* x, T* y, u32 n, u32 h, u32 w, u32 c, u32 height, u32 width) {                              \
        c % PACK<T> ? upsample_nearest<1>(x, y, n, h, w, c, height, width)                               \
                    : upsample_nearest<PACK<T>>(x, y, n, h, w, c, height, width);                        \
    }                                                                                                    \
    REGISTER_KERNEL(upsample_nearest_##name, THREADS)
FOR_TYPE(f16, f16)
FOR_TYPE(bf16, bf16)
FOR_TYPE(f32, float)
