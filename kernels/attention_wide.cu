// Attention for head sizes from 168 to 512: the one head of 512 values in a VAE's middle block.
//
// Tensors and AttentionShape as in attention.cu; head size and strides are multiples of 8.
//
//   attention_TYPE_512   grid (⌈queries / 32⌉, heads, n), 256 threads, 100864 bytes of dynamic shared memory
//
// The result of 16 queries is more than the registers of a warp hold, so four warps share it: each scores a quarter of
// a tile's keys, they exchange maxima and probabilities through shared memory, and each sums a quarter of the columns.
#include "attention.cuh"

constexpr int QUERIES = 32, KEYS = 32, HEAD = 512, THREADS = 256;
constexpr int SHARERS = 4;               // warps that share 16 queries
constexpr int COLUMNS = HEAD / SHARERS;  // that a warp sums
constexpr int CHUNKS = HEAD / 8;
static_assert(KEYS == SHARERS * 8);

using Layout = TileLayout<CHUNKS>;
using ProbabilityLayout = TileLayout<KEYS / 8>;

// Of each row of queries, one value for each warp that shares it.
using RowValues = float[SHARERS][QUERIES];

template <class T> DEVICE void attention_wide(const T* q, const T* k, const T* v, T* y, const AttentionShape& s) {
    DYNAMIC_SHARED(q_tile);
    unsigned char* const k_tile = q_tile + Layout::bytes(QUERIES);
    unsigned char* const v_tile = k_tile + Layout::bytes(KEYS);
    unsigned char* const probabilities = v_tile + Layout::bytes(KEYS);
    RowValues& of_rows = *reinterpret_cast<RowValues*>(probabilities + ProbabilityLayout::bytes(QUERIES));

    const u32 warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const u32 share = warp % SHARERS, first_row = warp / SHARERS * 16, row = first_row + lane / 4;
    const u32 first_query = blockIdx.x * QUERIES, head = blockIdx.y, image = blockIdx.z;
    q += u64(image) * s.queries * s.q_stride + head * s.head_size;
    k += u64(image) * s.keys * s.k_stride + head * s.head_size;
    v += u64(image) * s.keys * s.v_stride + head * s.head_size;
    const u32 last_query = first_query + QUERIES < s.queries ? first_query + QUERIES : s.queries;
    const u32 keys = s.causal ? last_query : s.keys;

    copy_tokens<T, Layout, CHUNKS, QUERIES, THREADS, true>(q_tile, q, first_query, s.queries, s.q_stride, s.head_size);
    copy_tokens<T, Layout, CHUNKS, KEYS, THREADS, true>(k_tile, k, 0, s.keys, s.k_stride, s.head_size);
    cp_async_commit();

    float sums[COLUMNS / 8][4] = {};
    float maximum[2] = {HIDDEN, HIDDEN}, total[2] = {0.0f, 0.0f};  // total: of this warp's keys
    const float scale = exponent_scale(s);
    for (u32 first = 0; first < keys; first += KEYS) {
        copy_tokens<T, Layout, CHUNKS, KEYS, THREADS, true>(v_tile, v, first, s.keys, s.v_stride, s.head_size);
        cp_async_commit();
        cp_async_wait<1>();
        sync_block();  // q and k are there

        // Eight keys; one ldmatrix brings them for two steps of the depth.
        float scores[4] = {};
        for (int d = 0; d < HEAD / 16; d += 2) {
            u32 a[4], b[4];
            ldmatrix_x4(b, k_tile + Layout::offset(share * 8 + lane % 8, 2 * d + lane / 8));
            load_left<Layout>(a, q_tile, first_row, d);
            mma_m16n8k16<T>(scores, a, b[0], b[1]);
            load_left<Layout>(a, q_tile, first_row, d + 1);
            mma_m16n8k16<T>(scores, a, b[2], b[3]);
        }
        UNROLL
        for (int i = 0; i < 4; i++) {
            const u32 key = first + share * 8 + lane % 4 * 2 + i % 2;
            scores[i] = visible(scores[i], first_query + row + i / 2 * 8, key, s);
        }
        UNROLL
        for (int r = 0; r < 2; r++) {
            const float of_share = warp_max<4>(fmaxf(scores[2 * r], scores[2 * r + 1]));
            if (lane % 4 == 0) of_rows[share][row + r * 8] = of_share;
        }
        sync_block();  // maxima are there, and nobody reads k any more
        if (first + KEYS < keys) {
            copy_tokens<T, Layout, CHUNKS, KEYS, THREADS, true>(k_tile, k, first + KEYS, s.keys, s.k_stride,
                                                                s.head_size);
        }
        cp_async_commit();

        float shrink[2];
        UNROLL
        for (int r = 0; r < 2; r++) {
            float of_tile = of_rows[0][row + r * 8];
            UNROLL
            for (int i = 1; i < SHARERS; i++) of_tile = fmaxf(of_tile, of_rows[i][row + r * 8]);
            shrink[r] = raise_maximum(maximum[r], of_tile, scale);
            const float offset = maximum[r] * scale;
            const float low = fast_exp2(scores[2 * r] * scale - offset);
            const float high = fast_exp2(scores[2 * r + 1] * scale - offset);
            total[r] = total[r] * shrink[r] + low + high;
            u32* to = reinterpret_cast<u32*>(probabilities + ProbabilityLayout::offset(row + r * 8, share));
            to[lane % 4] = pack2<T>(low, high);
        }
        UNROLL
        for (int j = 0; j < COLUMNS / 8; j++) {
            UNROLL
            for (int i = 0; i < 4; i++) sums[j][i] *= shrink[i / 2];
        }

        cp_async_wait<1>();
        sync_block();  // v and all probabilities are there
        UNROLL
        for (int key = 0; key < KEYS / 16; key++) {
            u32 a[4];
            load_left<ProbabilityLayout>(a, probabilities, first_row, key);
            UNROLL
            for (int j = 0; j < COLUMNS / 16; j++) {
                u32 b[4];
                load_right_transposed<Layout>(b, v_tile, key * 16, share * (COLUMNS / 8) + 2 * j);
                mma_m16n8k16<T>(sums[2 * j], a, b[0], b[1]);
                mma_m16n8k16<T>(sums[2 * j + 1], a, b[2], b[3]);
            }
        }
        sync_block();  // nobody reads v, probabilities or maxima any more
    }

    UNROLL
    for (int r = 0; r < 2; r++) {
        const float of_share = warp_sum<4>(total[r]);
        if (lane % 4 == 0) of_rows[share][row + r * 8] = of_share;
    }
    sync_block();
    UNROLL
    for (int r = 0; r < 2; r++) {
        const u32 query = first_query + row + r * 8;
        if (query >= s.queries) continue;
        float all = of_rows[0][row + r * 8];
        UNROLL
        for (int i = 1; i < SHARERS; i++) all += of_rows[i][row + r * 8];
        const float inverse = fast_divide(1.0f, all);
        T* to = y + ((u64(image) * s.queries + query) * s.heads + head) * s.head_size;
        UNROLL
        for (int j = 0; j < COLUMNS / 8; j++) {
            const u32 column = share * COLUMNS + j * 8 + lane % 4 * 2;
            if (column >= s.head_size) continue;
            *reinterpret_cast<u32*>(to + column) = pack2<T>(sums[j][2 * r] * inverse, sums[j][2 * r + 1] * inverse);
        }
    }
}

#define FOR_TYPE(name, T)                                                                                          \
    KERNEL(attention_##name##_512, THREADS, 1)(const T* q, const T* k, const T* v, T* y, const AttentionShape s) { \
        attention_wide(q, k, v, y, s);                                                                             \
    }                                                                                                              \
    REGISTER_KERNEL(attention_##name##_512, THREADS)
FOR_TYPE(f16, f16)
FOR_TYPE(bf16, bf16)
