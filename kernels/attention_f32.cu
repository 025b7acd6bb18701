// Attention in f32 throughout, without tensor cores: for who asks for f32.
//
// attention_f32 takes what attention.cu takes, all tensors f32, for any head size up to 512 and any strides. Grid
// (⌈queries / 8⌉, heads, n), 256 threads, 4·(32·(d | 1) + 8·d + 256) bytes of dynamic shared memory for a head size d.
//
// A warp has one query and all warps the same tile of 32 keys: for scores a lane takes a key, for sums it takes every
// 32nd column. An odd number of floats in a row lets lanes read a column of keys from different banks.
#include "attention.cuh"

constexpr int THREADS = 256, QUERIES = 8, KEYS = 32, MAX_HEAD = 512;
constexpr int COLUMNS = MAX_HEAD / int(LANES);  // of a lane, at most

// Copies keys [first, first + KEYS) of a head to the tile, zeros beyond the last.
DEVICE void copy_keys(float* tile, const float* from, u32 first, u32 stride, const AttentionShape& s) {
    for (u32 item = threadIdx.x; item < KEYS * s.head_size; item += THREADS) {
        const u32 row = item / s.head_size, column = item - row * s.head_size;
        const bool exists = first + row < s.keys;
        tile[row * (s.head_size | 1) + column] = exists ? from[u64(first + row) * stride + column] : 0.0f;
    }
}

KERNEL(attention_f32, THREADS, 1)
(const float* q, const float* k, const float* v, float* y, const AttentionShape s) {
    DYNAMIC_SHARED(shared);
    const u32 d = s.head_size, warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    float* const tile = reinterpret_cast<float*>(shared);
    float* const own_query = tile + KEYS * (d | 1) + warp * d;
    float* const probabilities = tile + KEYS * (d | 1) + QUERIES * d + warp * KEYS;

    const u32 query = blockIdx.x * QUERIES + warp, head = blockIdx.y, image = blockIdx.z;
    const bool exists = query < s.queries;
    q += (u64(image) * s.queries + query) * s.q_stride + head * d;
    k += u64(image) * s.keys * s.k_stride + head * d;
    v += u64(image) * s.keys * s.v_stride + head * d;
    for (u32 i = lane; i < d; i += LANES) own_query[i] = exists ? q[i] : 0.0f;

    float sums[COLUMNS] = {};
    float maximum = HIDDEN, total = 0.0f;
    const float scale = exponent_scale(s);
    // All warps walk the same tiles, for the barriers.
    const u32 last_query = (blockIdx.x + 1) * QUERIES < s.queries ? (blockIdx.x + 1) * QUERIES : s.queries;
    const u32 keys = s.causal ? last_query : s.keys;
    for (u32 first = 0; first < keys; first += KEYS) {
        copy_keys(tile, k, first, s.k_stride, s);
        sync_block();  // k is there, and the query
        float score = 0.0f;
        for (u32 i = 0; i < d; i++) score += own_query[i] * tile[lane * (d | 1) + i];
        score = visible(score, query, first + lane, s);
        sync_block();  // nobody reads k any more
        copy_keys(tile, v, first, s.v_stride, s);

        const float shrink = raise_maximum(maximum, warp_max(score), scale);
        const float probability = fast_exp2((score - maximum) * scale);
        total = total * shrink + probability;
        probabilities[lane] = probability;
        UNROLL
        for (int i = 0; i < COLUMNS; i++) sums[i] *= shrink;
        sync_block();  // v and the probabilities are there
        UNROLL
        for (int i = 0; i < COLUMNS; i++) {
            const u32 column = i * LANES + lane;
            if (column >= d) break;
            for (int key = 0; key < KEYS; key++) sums[i] += probabilities[key] * tile[key * (d | 1) + column];
        }
        sync_block();  // nobody reads v any more
    }
    const float inverse = 1.0f / warp_sum(total);
    if (!exists) return;
    float* to = y + ((u64(image) * s.queries + query) * s.heads + head) * d;
    UNROLL
    for (int i = 0; i < COLUMNS; i++) {
        const u32 column = i * LANES + lane;
        if (column < d) to[column] = sums[i] * inverse;
    }
}
REGISTER_KERNEL(attention_f32, THREADS)
