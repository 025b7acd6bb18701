// Attention for head sizes up to 160: self, cross with any number of keys, causal.
//
// q [n, queries, .., heads · d], k and v [n, keys, .., heads · d], y [n, queries, heads · d] (shape and strides:
// AttentionShape of attention.cuh). The type of all is the suffix.
//
//   attention_TYPE_D      heads of up to D values, D in 40, 64, 80, 128, 160; head size and strides are multiples of 8.
//                         Grid (⌈queries / 64⌉, heads, n), 128 threads, dynamic shared memory in bytes:
//                         D   40: 21504   64: 24576   80: 33792   128: 49152   160: 64512
//   attention_any_TYPE    any head size up to 160, any strides; launched as D = 160.
#include "attention.cuh"

constexpr int QUERIES = 64, KEYS = 64, THREADS = 128;

// A warp has 16 rows of queries, a lane two of them, g and g + 8, in all products of its warp. While one of k and v is
// multiplied the other is on its way.
template <class T, int HEAD, bool ALIGNED>
DEVICE void attention(const T* q, const T* k, const T* v, T* y, const AttentionShape& s) {
    constexpr int DEPTH = (HEAD + 15) / 16;  // of q · kᵀ, in units of 16: 40 is filled up with zeros to 48
    constexpr int CHUNKS = 2 * DEPTH;
    constexpr int OUT = HEAD / 8;  // of the result, in units of 8
    using Layout = TileLayout<CHUNKS>;
    DYNAMIC_SHARED(q_tile);
    unsigned char* const k_tile = q_tile + Layout::bytes(QUERIES);
    unsigned char* const v_tile = k_tile + Layout::bytes(KEYS);

    const u32 warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const u32 first_query = blockIdx.x * QUERIES, head = blockIdx.y, image = blockIdx.z;
    q += u64(image) * s.queries * s.q_stride + head * s.head_size;
    k += u64(image) * s.keys * s.k_stride + head * s.head_size;
    v += u64(image) * s.keys * s.v_stride + head * s.head_size;
    // Causal: keys after the block's last query are hidden from all of it.
    const u32 last_query = first_query + QUERIES < s.queries ? first_query + QUERIES : s.queries;
    const u32 keys = s.causal ? last_query : s.keys;

    copy_tokens<T, Layout, CHUNKS, QUERIES, THREADS, ALIGNED>(q_tile, q, first_query, s.queries, s.q_stride,
                                                              s.head_size);
    copy_tokens<T, Layout, CHUNKS, KEYS, THREADS, ALIGNED>(k_tile, k, 0, s.keys, s.k_stride, s.head_size);
    cp_async_commit();

    float sums[OUT][4] = {};
    float maximum[2] = {HIDDEN, HIDDEN}, total[2] = {0.0f, 0.0f};
    const float scale = exponent_scale(s);
    const u32 query = first_query + warp * 16 + lane / 4;
    for (u32 first = 0; first < keys; first += KEYS) {
        copy_tokens<T, Layout, CHUNKS, KEYS, THREADS, ALIGNED>(v_tile, v, first, s.keys, s.v_stride, s.head_size);
        cp_async_commit();
        cp_async_wait<1>();
        sync_block();  // q and k are there

        float scores[KEYS / 8][4] = {};
        UNROLL
        for (int d = 0; d < DEPTH; d++) {
            u32 a[4];
            load_left<Layout>(a, q_tile, warp * 16, d);
            UNROLL
            for (int j = 0; j < KEYS / 16; j++) {
                u32 b[4];
                load_right<Layout>(b, k_tile, j * 16, d);
                mma_m16n8k16<T>(scores[2 * j], a, b[0], b[1]);
                mma_m16n8k16<T>(scores[2 * j + 1], a, b[2], b[3]);
            }
        }
        sync_block();  // nobody reads k any more
        if (first + KEYS < keys) {
            copy_tokens<T, Layout, CHUNKS, KEYS, THREADS, ALIGNED>(k_tile, k, first + KEYS, s.keys, s.k_stride,
                                                                   s.head_size);
        }
        cp_async_commit();

        if (has_hidden(first_query, first, KEYS, s)) {
            UNROLL
            for (int j = 0; j < KEYS / 8; j++) {
                UNROLL
                for (int i = 0; i < 4; i++) {
                    const u32 key = first + j * 8 + lane % 4 * 2 + i % 2;
                    scores[j][i] = visible(scores[j][i], query + i / 2 * 8, key, s);
                }
            }
        }
        float tile_maximum[2] = {HIDDEN, HIDDEN};
        UNROLL
        for (int j = 0; j < KEYS / 8; j++) {
            UNROLL
            for (int i = 0; i < 4; i++) tile_maximum[i / 2] = fmaxf(tile_maximum[i / 2], scores[j][i]);
        }
        float shrink[2], offset[2];
        UNROLL
        for (int r = 0; r < 2; r++) {
            shrink[r] = raise_maximum(maximum[r], warp_max<4>(tile_maximum[r]), scale);
            offset[r] = maximum[r] * scale;
            total[r] *= shrink[r];
        }
        UNROLL
        for (int j = 0; j < OUT; j++) {
            UNROLL
            for (int i = 0; i < 4; i++) sums[j][i] *= shrink[i / 2];
        }
        // Results of mma lie as its left operand is to lie: probabilities need not leave their registers.
        u32 probabilities[KEYS / 16][4];
        UNROLL
        for (int j = 0; j < KEYS / 8; j++) {
            UNROLL
            for (int i = 0; i < 4; i++) {
                scores[j][i] = fast_exp2(scores[j][i] * scale - offset[i / 2]);
                total[i / 2] += scores[j][i];
            }
            probabilities[j / 2][j % 2 * 2] = pack2<T>(scores[j][0], scores[j][1]);
            probabilities[j / 2][j % 2 * 2 + 1] = pack2<T>(scores[j][2], scores[j][3]);
        }

        cp_async_wait<1>();
        sync_block();  // v is there
        UNROLL
        for (int key = 0; key < KEYS / 16; key++) {
            UNROLL
            for (int j = 0; j < (OUT + 1) / 2; j++) {
                u32 b[4];
                load_right_transposed<Layout>(b, v_tile, key * 16, 2 * j);
                mma_m16n8k16<T>(sums[2 * j], probabilities[key], b[0], b[1]);
                if (2 * j + 1 < OUT) mma_m16n8k16<T>(sums[2 * j + 1], probabilities[key], b[2], b[3]);
            }
        }
        sync_block();  // nobody reads v any more
    }

    const float inverse[2] = {fast_divide(1.0f, warp_sum<4>(total[0])), fast_divide(1.0f, warp_sum<4>(total[1]))};
    UNROLL
    for (int r = 0; r < 2; r++) {
        if (query + r * 8 >= s.queries) continue;
        T* to = y + ((u64(image) * s.queries + query + r * 8) * s.heads + head) * s.head_size;
        UNROLL
        for (int j = 0; j < OUT; j++) {
            const u32 column = j * 8 + lane % 4 * 2;
            const float low = sums[j][2 * r] * inverse[r], high = sums[j][2 * r + 1] * inverse[r];
            if constexpr (ALIGNED) {
                if (column < s.head_size) *reinterpret_cast<u32*>(to + column) = pack2<T>(low, high);
            } else {
                if (column < s.head_size) to[column] = from_float<T>(low);
                if (column + 1 < s.head_size) to[column + 1] = from_float<T>(high);
            }
        }
    }
}

#define ATTENTION(kernel, T, HEAD, ALIGNED, blocks)                                                     \
    KERNEL(kernel, THREADS, blocks)(const T* q, const T* k, const T* v, T* y, const AttentionShape s) { \
        attention<T, HEAD, ALIGNED>(q, k, v, y, s);                                                     \
    }                                                                                                   \
    REGISTER_KERNEL(kernel, THREADS)
#define FOR_TYPE(name, T)                              \
    ATTENTION(attention_##name##_40, T, 40, true, 3)   \
    ATTENTION(attention_##name##_64, T, 64, true, 3)   \
    ATTENTION(attention_##name##_80, T, 80, true, 3)   \
    ATTENTION(attention_##name##_128, T, 128, true, 2) \
    ATTENTION(attention_##name##_160, T, 160, true, 2) \
    ATTENTION(attention_any_##name, T, 160, false, 2)
FOR_TYPE(f16, f16)
FOR_TYPE(bf16, bf16)
