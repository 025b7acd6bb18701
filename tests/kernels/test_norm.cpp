// kernels/norm.cu against the definitions in f64.
#include "harness.h"

template <class T> static std::string kernel(const char* name) { return std::string(name) + "_" + Type<T>::name; }

// Of values[i] for i in members: mean and 1 / √(variance + eps).
template <class T>
static std::pair<double, double> moments(const Buffer<T>& values, const std::vector<size_t>& members, double eps) {
    double mean = 0, variance = 0;
    for (const size_t i : members) mean += values[i] / double(members.size());
    for (const size_t i : members) variance += (values[i] - mean) * (values[i] - mean) / double(members.size());
    return {mean, 1.0 / sqrt(variance + eps)};
}

struct GroupNorm {
    u32 n, pixels, c, groups, chunks;
    double shift;
};

template <class T> static void check_group_norm(const GroupNorm& s, bool silu) {
    const float eps = 1e-5f;
    const auto x = random_buffer<T>(size_t(s.n) * s.pixels * s.c, s.c, 2.0, s.shift);
    const auto weight = random_buffer<float>(s.c, 1), bias = random_buffer<float>(s.c, 2);
    const u32 width = s.c / s.groups;
    std::vector<double> expected(x.size());
    for (size_t image = 0; image < s.n; image++) {
        for (size_t group = 0; group < s.groups; group++) {
            std::vector<size_t> members;
            for (size_t pixel = 0; pixel < s.pixels; pixel++) {
                for (size_t i = 0; i < width; i++)
                    members.push_back((image * s.pixels + pixel) * s.c + group * width + i);
            }
            const auto [mean, scale] = moments(x, members, eps);
            for (const size_t i : members) {
                const double v = (x[i] - mean) * scale * weight[i % s.c] + bias[i % s.c];
                expected[i] = silu ? v / (1.0 + exp(-v)) : v;
            }
        }
    }
    in_every_schedule([&] {
        Buffer<float> partial(size_t(s.n) * s.chunks * s.groups * 3);
        Buffer<T> y(x.size());
        launch(kernel<T>("group_norm_moments"), blocks(s.chunks, s.n), 256, 0, x.data(), partial.data(), u32(s.pixels),
               u32(s.c), u32(s.groups));
        launch(kernel<T>("group_norm_apply"), blocks(2, s.n), 256, 12 * s.c, x.data(), partial.data(), weight.data(),
               bias.data(), y.data(), u32(s.pixels), u32(s.c), u32(s.groups), u32(s.chunks), eps, u32(silu));
        // A mean that is large beside the deviation costs f32 digits in the mean itself.
        expect_close(y, expected, once_rounded<T>() + fabs(s.shift) * 1e-7);
    });
}

// Channels that fill packs and that do not, groups that straddle packs, more groups than warps, more chunks than a team
// merges at once, more columns than threads.
static const GroupNorm CASES[] = {
    {1, 1, 8, 1, 1, 0.0},     {2, 9, 6, 3, 2, 0.5},     {1, 35, 320, 32, 3, 0.0}, {2, 20, 80, 8, 20, 100.0},
    {1, 13, 64, 64, 13, 3.0}, {1, 2, 2560, 32, 2, 0.0}, {2, 11, 7, 7, 1, 1.0},
};
TEST(group_norm) {
    for (const GroupNorm& s : CASES) {
        check_group_norm<float>(s, false);
        check_group_norm<f16>(s, true);
        check_group_norm<bf16>(s, s.n == 1);
    }
}

template <class T> static void check_layer_norm() {
    const float eps = 1e-5f;
    for (const auto& [rows, c] : {std::pair<u32, u32>{1, 1}, {3, 6}, {9, 8}, {17, 320}, {8, 77}, {2, 1280}}) {
        const auto x = random_buffer<T>(size_t(rows) * c, c, 1.0, 5.0);
        const auto weight = random_buffer<float>(c, 1), bias = random_buffer<float>(c, 2);
        std::vector<double> expected;
        for (size_t row = 0; row < rows; row++) {
            std::vector<size_t> members;
            for (size_t i = 0; i < c; i++) members.push_back(row * c + i);
            const auto [mean, scale] = moments(x, members, eps);
            for (size_t i = 0; i < c; i++) expected.push_back((x[row * c + i] - mean) * scale * weight[i] + bias[i]);
        }
        in_every_schedule([&] {
            Buffer<T> y(expected.size());
            launch(kernel<T>("layer_norm"), blocks((rows + 7) / 8), 256, 0, x.data(), weight.data(), bias.data(),
                   y.data(), u32(rows), u32(c), eps);
            expect_close(y, expected, once_rounded<T>());
        });
    }
}
TEST(layer_norm) {
    check_layer_norm<float>();
    check_layer_norm<f16>();
    check_layer_norm<bf16>();
}
