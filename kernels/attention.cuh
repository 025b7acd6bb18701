// Attention without the matrix of scores: softmax(q · kᵀ / √d) · v, one tile of keys after the other, with the maximum
// and the sum of each row's exponentials kept up to date ("online softmax", Dao et al., FlashAttention-2, 2023).
// Scores, softmax and sums are f32; probabilities are rounded to the type of v for their product.
//
// Here are the pieces that both kernels share: attention.cu, in which a warp has whole rows of queries, and
// attention_wide.cu, for heads so wide that warps share them.
#pragma once

#include "tile.cuh"

// A launch parameter. A token's head is `head_size` values at token · stride + head · head_size; a batch's tokens
// follow each other. The strides let q, k and v be columns of one product.
struct AttentionShape {
    u32 queries, keys;  // tokens of an image
    u32 heads, head_size;
    u32 q_stride, k_stride, v_stride;  // values from a token to the next; y's is heads · head_size
    u32 causal;                        // 1: key j is hidden from queries before j; queries = keys
    float scale;                       // 1 / √head_size
};

// Copies tokens [first, first + ROWS) of one head to a tile of CHUNKS chunks a row; what lies beyond the head or the
// last token is zero, so that it adds nothing to a product. `from` is the head's first token. ALIGNED: head size and
// stride are multiples of 8, and copies are asynchronous; else values are taken one by one.
template <class T, class Layout, int CHUNKS, int ROWS, int THREADS, bool ALIGNED>
DEVICE void copy_tokens(unsigned char* tile, const T* from, u32 first, u32 tokens, u32 stride, u32 head_size) {
    for (u32 item = threadIdx.x; item < u32(ROWS * CHUNKS); item += THREADS) {
        const u32 row = item / CHUNKS, chunk = item % CHUNKS, token = first + row;
        unsigned char* to = tile + Layout::offset(row, chunk);
        const T* values = from + u64(token) * stride + chunk * 8;
        if constexpr (ALIGNED) {
            cp_async(to, values, token < tokens && chunk * 8 < head_size);
        } else {
            u32 v[8];
            UNROLL
            for (int i = 0; i < 8; i++) v[i] = token < tokens && chunk * 8 + i < head_size ? values[i].bits : 0;
            *reinterpret_cast<uint4*>(to) =
                uint4{v[0] | v[1] << 16, v[2] | v[3] << 16, v[4] | v[5] << 16, v[6] | v[7] << 16};
        }
    }
}

// In place of the score of a hidden key, and of a maximum before there is one: its exponential is 0 beside any other's.
constexpr float HIDDEN = -3.0e38f;

// Whether some of the keys from `first` on are hidden from some of the queries from `first_query` on: only there do
// scores have to be looked at one by one.
DEVICE bool has_hidden(u32 first_query, u32 first, u32 keys_of_tile, const AttentionShape& s) {
    return first + keys_of_tile > s.keys || (s.causal && first + keys_of_tile > first_query + 1);
}

// The score, unless the key is hidden or does not exist.
DEVICE float visible(float score, u32 query, u32 key, const AttentionShape& s) {
    return key >= s.keys || (s.causal && key > query) ? HIDDEN : score;
}

// Scores and maxima are kept as products of q and k; this factor makes an exponential of a difference one power of two.
DEVICE float exponent_scale(const AttentionShape& s) { return s.scale * 1.4426950408889634f; }

// The largest score of a row when those of a tile have come, and the factor for what was summed before.
DEVICE float raise_maximum(float& maximum, float of_tile, float scale) {
    const float before = maximum;
    maximum = fmaxf(before, of_tile);
    return fast_exp2((before - maximum) * scale);
}
