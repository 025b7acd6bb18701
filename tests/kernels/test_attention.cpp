// kernels/attention.cu and attention_wide.cu against the definition in f64.
#include "attention.cuh"
#include "harness.h"

// The kernels by the largest head they take.
struct KernelInfo {
    u32 head_size, queries, threads, shared_bytes;
};
static const KernelInfo KERNELS[] = {{40, 64, 128, 21504},  {64, 64, 128, 24576},  {80, 64, 128, 33792},
                                     {128, 64, 128, 49152}, {160, 64, 128, 64512}, {512, 32, 256, 100864}};
static const KernelInfo ANY = {160, 64, 128, 64512};

struct Attention {
    u32 n, queries, keys, heads, head_size;
    bool causal;
    u32 gap;           // values between tokens of q, k and v that belong to others
    double sharpness;  // of the softmax: how large q is
};

template <class T> static void check(const std::string& kernel, const KernelInfo& info, const Attention& a) {
    const u32 width = a.heads * a.head_size, stride = width + a.gap;
    const auto q = random_buffer<T>(a.n * a.queries * stride, 1, a.sharpness);
    const auto k = random_buffer<T>(a.n * a.keys * stride, 2), v = random_buffer<T>(a.n * a.keys * stride, 3);
    std::vector<double> expected(a.n * a.queries * width), weights(a.keys);
    for (u32 item = 0; item < a.n * a.queries * a.heads; item++) {
        const u32 image = item / a.heads / a.queries, query = item / a.heads % a.queries, head = item % a.heads;
        const u32 visible = a.causal ? query + 1 : a.keys;
        const size_t first = head * a.head_size, at = (image * a.queries + query) * stride + first;
        double largest = -INFINITY, total = 0;
        for (u32 key = 0; key < visible; key++) {
            double dot = 0;
            for (u32 i = 0; i < a.head_size; i++) dot += q[at + i] * k[(image * a.keys + key) * stride + first + i];
            weights[key] = dot / sqrt(double(a.head_size));
            largest = fmax(largest, weights[key]);
        }
        for (u32 key = 0; key < visible; key++) total += weights[key] = exp(weights[key] - largest);
        for (u32 key = 0; key < visible; key++) {
            for (u32 i = 0; i < a.head_size; i++) {
                expected[item * a.head_size + i] +=
                    weights[key] / total * v[(image * a.keys + key) * stride + first + i];
            }
        }
    }
    const AttentionShape shape = {a.queries,   a.keys,   a.heads,
                                  a.head_size, stride,   stride,
                                  stride,      a.causal, float(1.0 / sqrt(double(a.head_size)))};
    in_every_schedule([&] {
        Buffer<T> y(expected.size());
        launch(kernel, blocks((a.queries + info.queries - 1) / info.queries, a.heads, a.n), info.threads,
               info.shared_bytes, q.data(), k.data(), v.data(), y.data(), shape);
        // Probabilities are rounded once, then the result. In f32 it is the rounding of scores, which are up to 40.
        expect_close(y, expected, sizeof(T) == 4 ? 1e-4 : 2 * Type<T>::rounding);
    });
}

// Self, cross with the 77 keys of a prompt, causal; one query or key, one more than a tile, several tiles; a softmax so
// sharp that each tile's maximum replaces the last.
static std::vector<Attention> cases(u32 head_size) {
    return {
        {1, 1, 1, 1, head_size, false, 0, 1.0},     {2, 65, 65, 2, head_size, false, 0, 1.0},
        {1, 30, 77, 2, head_size, false, 8, 1.0},   {1, 77, 77, 1, head_size, true, 16, 1.0},
        {1, 33, 193, 1, head_size, false, 0, 10.0}, {1, 130, 130, 1, head_size, true, 0, 8.0},
    };
}

template <class T> static void check_heads() {
    const std::string type = Type<T>::name;
    for (const KernelInfo& info : KERNELS) {
        for (const Attention& a : cases(info.head_size)) {
            check<T>("attention_" + type + "_" + std::to_string(info.head_size), info, a);
        }
    }
    // Smaller heads than a kernel is named for.
    check<T>("attention_" + type + "_40", KERNELS[0], {1, 70, 9, 3, 8, false, 0, 1.0});
    check<T>("attention_" + type + "_160", KERNELS[4], {1, 9, 70, 1, 136, true, 8, 1.0});
    check<T>("attention_" + type + "_512", KERNELS[5], {1, 40, 35, 2, 264, false, 0, 1.0});
    for (const u32 head_size : {1u, 3u, 66u, 159u}) {
        check<T>("attention_any_" + type, ANY, {2, 66, 5, 3, head_size, false, 1, 1.0});
        check<T>("attention_any_" + type, ANY, {1, 67, 67, 1, head_size, true, 0, 1.0});
    }
}
TEST(attention) {
    const uint64_t conflicts = emulator::ldmatrix_conflicts();
    check_heads<f16>();
    check_heads<bf16>();
    if (emulator::ldmatrix_conflicts() != conflicts) fail_test("ldmatrix meets bank conflicts");
}

TEST(attention_f32) {
    for (const u32 head_size : {1u, 6u, 40u, 77u, 512u}) {
        const KernelInfo info = {head_size, 8, 256, 4 * (32 * (head_size | 1) + 8 * head_size + 256)};
        for (const Attention& a : cases(head_size)) check<float>("attention_f32", info, a);
    }
}
