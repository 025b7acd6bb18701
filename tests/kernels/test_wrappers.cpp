// wrappers.cu against what the PTX manual says of each instruction. The emulator passes these on any machine; a card
// that passes them too behaves as the emulator does.
#include "harness.h"

template <class T> static void expect_equal(const Buffer<T>& y, const std::vector<T>& expected, const char* what) {
    if (y.size() != expected.size() || memcmp(y.data(), expected.data(), y.size() * sizeof(T)) != 0) fail_test(what);
}

// x to the nearest multiple of its precision: `digits` binary digits, down to 2^lowest; the even one of two.
static double rounded(double x, int digits, int lowest) {
    if (x == 0 || !std::isfinite(x)) return x;
    const double unit = exp2(std::max(ilogb(x) - digits + 1, lowest));
    return nearbyint(x / unit) * unit;
}
static double rounded_to_f16(double x) {
    const double y = rounded(x, 11, -24);
    return fabs(y) > 65504 ? copysign(INFINITY, x) : y;
}
static double rounded_to_bf16(double x) {
    const double y = rounded(x, 8, -133);
    return fabs(y) > 0x1.fep127 ? copysign(INFINITY, x) : y;
}

// Ordinary numbers, ties, the least and the largest of each type, and what is beyond them.
static std::vector<float> interesting_numbers() {
    std::vector<float> x = {0.0f,       -0.0f,     1.0f,      -1.0f,       65504.0f,    65519.9f,  65520.0f,
                            -65536.0f,  0x1p-14f,  0x1p-24f,  0x1.8p-25f,  0x1p-25f,    0x1p-26f,  0x1.002p0f,
                            0x1.006p0f, 0x1.01p0f, 0x1.03p0f, 0x1.fep127f, 0x1.ffp127f, -0x1p-120f};
    Random random(1);
    while (x.size() < 200) x.push_back(float(random.normal() * exp2(random.uniform() * 40 - 25)));
    return x;
}

TEST(wrapper_conversions) {
    const Buffer<float> x(interesting_numbers());
    const u32 n = u32(x.size());
    Buffer<u16> halves(n), brains(n);
    Buffer<u32> half_pairs(n), brain_pairs(n);
    Buffer<float> from_halves(n), from_brains(n);
    launch("wrapper_conversions", blocks(1), 32, 0, x.data(), halves.data(), brains.data(), half_pairs.data(),
           brain_pairs.data(), from_halves.data(), from_brains.data(), n);
    for (u32 i = 0; i < n; i++) {
        if (from_halves[i] != rounded_to_f16(x[i])) fail_test("f16 of " + std::to_string(x[i]));
        if (from_brains[i] != rounded_to_bf16(x[i])) fail_test("bf16 of " + std::to_string(x[i]));
        const u32 other = n - 1 - i;
        if (half_pairs.data()[i] != (halves.data()[i] | u32(halves.data()[other]) << 16)) fail_test("pair of f16");
        if (brain_pairs.data()[i] != (brains.data()[i] | u32(brains.data()[other]) << 16)) fail_test("pair of bf16");
        // The upper half of an f32 that needs no more.
        if (u32(brains.data()[i]) << 16 != [](float y) {
                u32 bits;
                memcpy(&bits, &y, 4);
                return bits;
            }(float(from_brains[i]))) {
            fail_test("bits of bf16");
        }
    }
}

TEST(wrapper_arithmetic) {
    std::vector<float> numbers = {-3.0e38f, -200.0f, 0.0f, 1.0f, 127.0f, -126.0f};
    Random random(2);
    while (numbers.size() < 100) numbers.push_back(float(random.normal() * 8));
    const Buffer<float> x(numbers);
    const u32 n = u32(x.size());
    Buffer<float> powers(n), quotients(n), roots(n);
    launch("wrapper_arithmetic", blocks(1), 32, 0, x.data(), powers.data(), quotients.data(), roots.data(), n);
    const auto close = [](double y, double expected) { return fabs(y - expected) <= 4e-7 * fabs(expected) + 0x1p-126; };
    for (u32 i = 0; i < n; i++) {
        if (!close(powers[i], exp2(x[i]))) fail_test("2 to " + std::to_string(x[i]));
        const double divisor = x[n - 1 - i], quotient = x[i] / divisor;
        const bool in_range = fabs(divisor) < 0x1p126 && fabs(quotient) < 0x1p127;
        if (in_range && !close(quotients[i], quotient)) fail_test("a quotient");
        if (fabs(divisor) > 0x1p126 && quotients[i] != 0) fail_test("a quotient by something large");
        if (x[i] != 0 && !close(roots[i], 1 / sqrt(fabs(x[i])))) fail_test("a root of " + std::to_string(x[i]));
    }
}

TEST(wrapper_shuffle) {
    const auto x = random_buffer<float>(32, 1);
    in_every_schedule([&] {
        Buffer<float> y(5 * 32);
        launch("wrapper_shuffle", blocks(1), 32, 0, x.data(), y.data());
        for (u32 i = 0; i < 5 * 32; i++) {
            if (y[i] != x[(i % 32) ^ (1u << i / 32)]) fail_test("shuffle");
        }
    });
}

TEST(wrapper_cp_async) {
    Buffer<uint4> x(64);
    for (u32 i = 0; i < 64; i++) x.data()[i] = {i, 100 + i, 200 + i, 300 + i};
    std::vector<uint4> expected;
    for (u32 i = 0; i < 32; i++) expected.push_back(x.data()[31 - i]);
    for (u32 i = 0; i < 32; i++) expected.push_back(i % 2 ? x.data()[32 + 31 - i] : uint4{0, 0, 0, 0});
    in_every_schedule([&] {
        Buffer<uint4> y(64);
        launch("wrapper_cp_async", blocks(1), 32, 0, const_cast<const uint4*>(x.data()), y.data());
        expect_equal(y, expected, "cp.async");
    });
}

TEST(wrapper_ldmatrix) {
    Buffer<u16> x(4 * 64);
    for (u32 i = 0; i < x.size(); i++) x.data()[i] = u16(i);
    const auto at = [](u32 matrix, u32 row, u32 column) { return matrix * 64 + row * 8 + column; };
    std::vector<u32> straight, transposed;
    for (u32 lane = 0; lane < 32; lane++) {
        for (u32 matrix = 0; matrix < 4; matrix++) {
            const u32 r = lane / 4, c = lane % 4 * 2;
            straight.push_back(at(matrix, r, c) | at(matrix, r, c + 1) << 16);
            transposed.push_back(at(matrix, c, r) | at(matrix, c + 1, r) << 16);
        }
    }
    in_every_schedule([&] {
        Buffer<u32> y(128), y_transposed(128);
        launch("wrapper_ldmatrix", blocks(1), 32, 0, x.data(), y.data(), y_transposed.data());
        expect_equal(y, straight, "ldmatrix");
        expect_equal(y_transposed, transposed, "ldmatrix.trans");
    });
}

template <class T> static void check_mma(const char* kernel) {
    const auto a = random_buffer<T>(16 * 16, 1), b = random_buffer<T>(16 * 8, 2);
    const auto d = random_buffer<float>(16 * 8, 3);
    Buffer<u32> a_registers(128), b_registers(64);
    Buffer<float> d_registers(128);
    std::vector<double> expected;
    const auto pair = [](T low, T high) { return low.bits | u32(high.bits) << 16; };
    for (u32 lane = 0; lane < 32; lane++) {
        const u32 g = lane / 4, t = lane % 4;
        for (u32 i = 0; i < 4; i++) {
            const u32 row = g + (i == 1 || i == 3 ? 8 : 0), k = 2 * t + (i >= 2 ? 8 : 0);
            a_registers.data()[lane * 4 + i] = pair(a.data()[row * 16 + k], a.data()[row * 16 + k + 1]);
            const u32 d_row = g + (i >= 2 ? 8 : 0), column = 2 * t + i % 2;
            d_registers.data()[lane * 4 + i] = d.data()[d_row * 8 + column];
            double sum = d[d_row * 8 + column];
            for (u32 j = 0; j < 16; j++) sum += a[d_row * 16 + j] * b[j * 8 + column];
            expected.push_back(sum);
        }
        for (u32 i = 0; i < 2; i++) {
            const u32 k = 2 * t + 8 * i;
            b_registers.data()[lane * 2 + i] = pair(b.data()[k * 8 + g], b.data()[(k + 1) * 8 + g]);
        }
    }
    in_every_schedule([&] {
        Buffer<float> y(128);
        launch(kernel, blocks(1), 32, 0, a_registers.data(), b_registers.data(), d_registers.data(), y.data());
        expect_close(y, expected, 2e-6);
    });
}
TEST(wrapper_mma) {
    check_mma<f16>("wrapper_mma_f16");
    check_mma<bf16>("wrapper_mma_bf16");
}
