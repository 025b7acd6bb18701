// kernels/elementwise.cu against the definitions in f64.
#include "harness.h"

static double silu64(double x) { return x / (1.0 + exp(-x)); }
static double gelu64(double x) { return 0.5 * x * (1.0 + erf(x / sqrt(2.0))); }
static double quick_gelu64(double x) { return x / (1.0 + exp(-1.702 * x)); }

// One value, a pack less one, a pack, and numbers that leave blocks and threads with unequal work.
static const size_t SIZES[] = {1, 3, 7, 8, 9, 255, 2048, 2051, 4999};

template <class T> static std::string kernel(const char* name) { return std::string(name) + "_" + Type<T>::name; }

template <class T> static void check_map(const char* name, double (*f)(double)) {
    for (const size_t n : SIZES) {
        const auto x = random_buffer<T>(n, n, 4.0);
        // Far out the exponential overflows; the results are 0 and x.
        if (n > 3) x.data()[1] = from_float<T>(-200.0f), x.data()[2] = from_float<T>(200.0f);
        std::vector<double> expected;
        for (size_t i = 0; i < n; i++) expected.push_back(f(x[i]));
        in_every_schedule([&] {
            Buffer<T> y(n);
            launch(kernel<T>(name), blocks(2), 256, 0, x.data(), y.data(), u64(n));
            expect_close(y, expected, once_rounded<T>());
        });
    }
}

template <class T> static void check_activations() {
    check_map<T>("silu", silu64);
    check_map<T>("gelu", gelu64);
    check_map<T>("quick_gelu", quick_gelu64);
}
TEST(activations) {
    check_activations<float>();
    check_activations<f16>();
    check_activations<bf16>();
}

template <class From, class To> static void check_cast() {
    for (const size_t n : SIZES) {
        const auto x = random_buffer<From>(n, n);
        std::vector<double> expected;
        for (size_t i = 0; i < n; i++) expected.push_back(x[i]);
        in_every_schedule([&] {
            Buffer<To> y(n);
            launch(std::string("cast_") + Type<From>::name + "_" + Type<To>::name, blocks(2), 256, 0, x.data(),
                   y.data(), u64(n));
            expect_close(y, expected, Type<To>::rounding);
        });
    }
}
TEST(casts) {
    check_cast<float, f16>();
    check_cast<float, bf16>();
    check_cast<f16, float>();
    check_cast<bf16, float>();
}

template <class T> static void check_add() {
    for (const size_t n : SIZES) {
        const auto a = random_buffer<T>(n, n), b = random_buffer<T>(n, n + 1);
        std::vector<double> expected;
        for (size_t i = 0; i < n; i++) expected.push_back(a[i] + b[i]);
        in_every_schedule([&] {
            Buffer<T> y(n);
            launch(kernel<T>("add"), blocks(3), 256, 0, a.data(), b.data(), y.data(), u64(n));
            expect_close(y, expected, once_rounded<T>());
        });
    }
}
TEST(sums) {
    check_add<float>();
    check_add<f16>();
    check_add<bf16>();
}

template <class T> static void check_geglu() {
    for (const auto& [rows, c] : {std::pair<u32, u32>{1, 8}, {5, 3}, {7, 40}, {33, 64}, {2, 1}}) {
        const auto x = random_buffer<T>(size_t(rows) * 2 * c, c, 2.0);
        std::vector<double> expected;
        for (size_t row = 0; row < rows; row++) {
            for (size_t i = 0; i < c; i++) expected.push_back(x[row * 2 * c + i] * gelu64(x[row * 2 * c + c + i]));
        }
        in_every_schedule([&] {
            Buffer<T> y(expected.size());
            launch(kernel<T>("geglu"), blocks(2), 256, 0, x.data(), y.data(), u32(rows), u32(c));
            expect_close(y, expected, once_rounded<T>());
        });
    }
}
TEST(geglu) {
    check_geglu<float>();
    check_geglu<f16>();
    check_geglu<bf16>();
}

template <class T> static void check_concat() {
    struct {
        u32 rows, a, b;
    } const cases[] = {{1, 8, 8}, {5, 3, 4}, {9, 16, 40}, {70, 8, 5}, {3, 1, 24}};
    for (const auto& [rows, ca, cb] : cases) {
        const auto a = random_buffer<T>(size_t(rows) * ca, ca), b = random_buffer<T>(size_t(rows) * cb, cb + 100);
        std::vector<double> expected;
        for (size_t row = 0; row < rows; row++) {
            for (size_t i = 0; i < ca; i++) expected.push_back(a[row * ca + i]);
            for (size_t i = 0; i < cb; i++) expected.push_back(b[row * cb + i]);
        }
        in_every_schedule([&] {
            Buffer<T> y(expected.size());
            launch(kernel<T>("concat_channels"), blocks(2), 256, 0, a.data(), b.data(), y.data(), u32(rows), u32(ca),
                   u32(cb));
            expect_close(y, expected, 0.0);
        });
    }
}
TEST(concat_channels) {
    check_concat<float>();
    check_concat<f16>();
    check_concat<bf16>();
}

template <class T> static void check_upsample() {
    struct {
        u32 n, h, w, c, height, width;
    } const cases[] = {
        {1, 1, 1, 8, 2, 2}, {2, 3, 5, 3, 6, 10}, {1, 4, 3, 16, 7, 5}, {2, 5, 4, 8, 13, 4}, {1, 2, 2, 1, 1, 1}};
    for (const auto& s : cases) {
        const auto x = random_buffer<T>(size_t(s.n) * s.h * s.w * s.c, s.c);
        std::vector<double> expected;
        for (u32 n = 0; n < s.n; n++) {
            for (u32 i = 0; i < s.height; i++) {
                for (u32 j = 0; j < s.width; j++) {
                    const size_t from = (size_t(n) * s.h + i * s.h / s.height) * s.w + j * s.w / s.width;
                    for (u32 c = 0; c < s.c; c++) expected.push_back(x[from * s.c + c]);
                }
            }
        }
        in_every_schedule([&] {
            Buffer<T> y(expected.size());
            launch(kernel<T>("upsample_nearest"), blocks(2), 256, 0, x.data(), y.data(), u32(s.n), u32(s.h), u32(s.w),
                   u32(s.c), u32(s.height), u32(s.width));
            expect_close(y, expected, 0.0);
        });
    }
}
TEST(upsample_nearest) {
    check_upsample<float>();
    check_upsample<f16>();
    check_upsample<bf16>();
}
