// GroupNorm (with SiLU) and LayerNorm over channels-last activations, statistics in f32.
//
// Channels that fill packs of 16 bytes are read as packs, others one by one: only small models have those. Suffixes
// f16, bf16 and f32 are the type of x and y; weight and bias are f32.
#include "gpu.cuh"

constexpr int THREADS = 256;
constexpr int MAX_GROUPS = 256;

// What is known of some of a group's values: their number, mean, and sum of squares around the mean.
struct Moments {
    float count, mean, squares;
};

// Of both parts together (Chan, Golub and LeVeque 1979). Unlike E[x²] - E[x]² it keeps its digits where the mean is
// large beside the deviation, as it is in the last layers of a decoder.
DEVICE Moments merge(Moments a, Moments b) {
    if (b.count == 0.0f) return a;
    const float count = a.count + b.count, distance = b.mean - a.mean, share = b.count / count;
    return {count, a.mean + distance * share, a.squares + b.squares + distance * distance * a.count * share};
}

// First half of GroupNorm: x [n, pixels, c] to partial [n, chunks, groups] of Moments (12 bytes each).
// Launch: grid (chunks, n), 256 threads, chunks ≤ pixels. Chunks of some 64 thousand values keep a GPU busy without
// making the second half read much.
//
// Threads stand in rows and columns: a column takes V channels, a row every rows-th pixel. Sums are taken around a
// pivot, a value of the group, so that they do not cancel; being around the same pivot, they add up.
template <int V, class T> DEVICE void group_norm_moments(const T* x, Moments* partial, u32 pixels, u32 c, u32 groups) {
    SHARED(float[THREADS * V], sums);
    SHARED(float[THREADS * V], squares);
    SHARED(float[MAX_GROUPS], group_sum);
    SHARED(float[MAX_GROUPS], group_squares);
    const u32 thread = threadIdx.x, width = c / groups;
    const u32 begin = u32(u64(pixels) * blockIdx.x / gridDim.x), end = u32(u64(pixels) * (blockIdx.x + 1) / gridDim.x);
    const T* image = x + u64(blockIdx.y) * pixels * c;
    const T* pivots = image + u64(begin) * c;
    if (thread < groups) group_sum[thread] = group_squares[thread] = 0.0f;

    // As many columns at a time as there are threads.
    for (u32 first = 0; first < c; first += THREADS * V) {
        const u32 columns = (c - first) / V < u32(THREADS) ? (c - first) / V : u32(THREADS);
        const u32 rows = THREADS / columns, row = thread / columns, column = thread - row * columns;
        const u32 channel = first + column * V;
        float sum[V] = {}, square[V] = {}, pivot[V];
        if (row < rows) {
            UNROLL
            for (int i = 0; i < V; i++) pivot[i] = to_float(pivots[(channel + i) / width * width]);
            for (u32 pixel = begin + row; pixel < end; pixel += rows) {
                float v[V];
                load<V>(image + u64(pixel) * c + channel, v);
                UNROLL
                for (int i = 0; i < V; i++) {
                    const float d = v[i] - pivot[i];
                    sum[i] += d;
                    square[i] += d * d;
                }
            }
            UNROLL
            for (int i = 0; i < V; i++) {
                sums[(row * columns + column) * V + i] = sum[i];
                squares[(row * columns + column) * V + i] = square[i];
            }
        }
        sync_block();
        // Rows to one, then channels to groups.
        const u32 channels = columns * V;
        for (u32 i = thread; i < channels; i += THREADS) {
            for (u32 r = 1; r < rows; r++) {
                sums[i] += sums[r * channels + i];
                squares[i] += squares[r * channels + i];
            }
        }
        sync_block();
        if (thread < groups) {
            const u32 low = thread * width > first ? thread * width : first;
            const u32 high = (thread + 1) * width < first + channels ? (thread + 1) * width : first + channels;
            for (u32 i = low; i < high; i++) {
                group_sum[thread] += sums[i - first];
                group_squares[thread] += squares[i - first];
            }
        }
        sync_block();
    }
    if (thread < groups) {
        const float count = float(end - begin) * float(width), shift = group_sum[thread] / count;
        const float around_mean = group_squares[thread] - group_sum[thread] * shift;
        partial[(u64(blockIdx.y) * gridDim.x + blockIdx.x) * groups + thread] =
            Moments{count, to_float(pivots[thread * width]) + shift, fmaxf(around_mean, 0.0f)};
    }
}

// Second half: y = (x - mean) / √(variance + eps) · weight + bias, then SiLU if asked. Launch: grid (blocks, n), 256
// threads, 12·c bytes of dynamic shared memory. Blocks share the pixels of an image. Each merges the chunks' moments in
// the same order, so that every block and every run gets the same statistics.
template <int V, class T>
DEVICE void group_norm_apply(const T* x, const Moments* partial, const float* weight, const float* bias, T* y,
                             u32 pixels, u32 c, u32 groups, u32 chunks, float eps, u32 with_silu) {
    constexpr u32 TEAM = 8;  // lanes that merge the chunks of a group
    SHARED(float[MAX_GROUPS], group_mean);
    SHARED(float[MAX_GROUPS], group_scale);
    DYNAMIC_SHARED(channels);
    float* means = reinterpret_cast<float*>(channels);
    float* scales = means + c;
    float* shifts = scales + c;
    const u32 thread = threadIdx.x, width = c / groups, image = blockIdx.y;

    // Every thread comes to every shuffle, whether or not it has a group.
    for (u32 first = 0; first < groups; first += THREADS / TEAM) {
        const u32 group = first + thread / TEAM;
        Moments all = {0.0f, 0.0f, 0.0f};
        for (u32 i = thread % TEAM; i < chunks && group < groups; i += TEAM) {
            all = merge(all, partial[(u64(image) * chunks + i) * groups + group]);
        }
        for (int distance = 1; distance < int(TEAM); distance *= 2) {
            all = merge(all, Moments{shuffle_xor(all.count, distance), shuffle_xor(all.mean, distance),
                                     shuffle_xor(all.squares, distance)});
        }
        if (group < groups && thread % TEAM == 0) {
            group_mean[group] = all.mean;
            group_scale[group] = fast_rsqrt(all.squares / all.count + eps);
        }
    }
    sync_block();
    for (u32 i = thread; i < c; i += THREADS) {
        means[i] = group_mean[i / width];
        scales[i] = group_scale[i / width] * weight[i];
        shifts[i] = bias[i];
    }
    sync_block();

    constexpr int STEP = V < 4 ? V : 4;
    const u32 packs = c / V;
    const u64 begin = u64(image) * pixels * c;
    for (u64 item = u64(blockIdx.x) * THREADS + thread; item < u64(pixels) * packs; item += u64(gridDim.x) * THREADS) {
        const u32 channel = u32(item) % packs * V;
        float v[V];
        load<V>(x + begin + item * V, v);
        UNROLL
        for (int i = 0; i < V; i += STEP) {
            float mean[STEP], scale[STEP], shift[STEP];
            load<STEP>(means + channel + i, mean);
            load<STEP>(scales + channel + i, scale);
            load<STEP>(shifts + channel + i, shift);
            UNROLL
            for (int j = 0; j < STEP; j++) {
                v[i + j] = (v[i + j] - mean[j]) * scale[j] + shift[j];
                if (with_silu) v[i + j] = silu(v[i + j]);
            }
        }
        store<V>(y + begin + item * V, v);
    }
}

// LayerNorm of rows: x [rows, c] to y [rows, c]. Launch: grid ⌈rows / 8⌉, 256 threads; a warp takes a row and reads it
// three times, which the cache makes cheap. Mean first, then deviations from it: nothing cancels.
template <int V, class T>
DEVICE void layer_norm(const T* x, const float* weight, const float* bias, T* y, u32 rows, u32 c, float eps) {
    const u32 row = blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES, lane = threadIdx.x % LANES;
    if (row >= rows) return;
    const T* from = x + u64(row) * c;
    float v[V], sum = 0.0f, squares = 0.0f;
    for (u32 at = lane * V; at < c; at += LANES * V) {
        load<V>(from + at, v);
        UNROLL
        for (int i = 0; i < V; i++) sum += v[i];
    }
    const float mean = warp_sum(sum) / float(c);
    for (u32 at = lane * V; at < c; at += LANES * V) {
        load<V>(from + at, v);
        UNROLL
        for (int i = 0; i < V; i++) squares += (v[i] - mean) * (v[i] - mean);
    }
    const float scale = fast_rsqrt(warp_sum(squares) / float(c) + eps);
    for (u32 at = lane * V; at < c; at += LANES * V) {
        load<V>(from + at, v);
        UNROLL
        for (int i = 0; i < V; i++) v[i] = (v[i] - mean) * scale * weight[at + i] + bias[at + i];
        store<V>(y + u64(row) * c + at, v);
    }
}

#define FOR_TYPE(name, T)                                                                                             \
    KERNEL(group_norm_moments_##name, THREADS, 2)(const T* x, Moments* partial, u32 pixels, u32 c, u32 groups) {      \
        if (c % PACK<T>) {                                                                                            \
            group_norm_moments<1>(x, partial, pixels, c, groups);                                                     \
        } else {                                                                                                      \
            group_norm_moments<PACK<T>>(x, partial, pixels, c, groups);                                               \
        }                                                                                                             \
    }                                                                                                                 \
    REGISTER_KERNEL(group_norm_moments_##name, THREADS)                                                               \
    KERNEL(group_norm_apply_##name, THREADS, 2)                                                                       \
    (const T* x, const Moments* partial, const float* weight, const float* bias, T* y, u32 pixels, u32 c, u32 groups, \
     u32 chunks, float eps, u32 with_silu) {                                                                          \
        if (c % PACK<T>) {                                                                                            \
            group_norm_apply<1>(x, partial, weight, bias, y, pixels, c, groups, chunks, eps, with_silu);              \
        } else {                                                                                                      \
            group_norm_apply<PACK<T>>(x, partial, weight, bias, y, pixels, c, groups, chunks, eps, with_silu);        \
        }                                                                                                             \
    }                                                                                                                 \
    REGISTER_KERNEL(group_norm_apply_##name, THREADS)                                                                 \
    KERNEL(layer_norm_##name, THREADS, 2)                                                                             \
    (const T* x, const float* weight, const float* bias, T* y, u32 rows, u32 c, float eps) {                          \
        if (c % PACK<T>) {                                                                                            \
            layer_norm<1>(x, weight, bias, y, rows, c, eps);                                                          \
        } else {                                                                                                      \
            layer_norm<PACK<T>>(x, weight, bias, y, rows, c, eps);                                                    \
        }                                                                                                             \
    }                                                                                                                 \
    REGISTER_KERNEL(layer_norm_##name, THREADS)
FOR_TYPE(f16, f16)
FOR_TYPE(bf16, bf16)
FOR_TYPE(f32, float)
