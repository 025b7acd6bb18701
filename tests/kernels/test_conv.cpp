// kernels/conv.cu against the definition in f64.
#include "conv.cuh"
#include "harness.h"
#include "reference.h"

struct Conv {
    u32 n, h, w, c_in, c_out, kernel, stride;
    u32 top, left, bottom, right;
    u32 enlarged_h, enlarged_w;  // 0: not enlarged
    u32 splits;
    bool channel_bias, residual;
    u32 activation;

    ConvShape shape() const {
        const u32 upsample = enlarged_h > 0, height = upsample ? enlarged_h : h, width = upsample ? enlarged_w : w;
        return {n,
                h,
                w,
                c_in,
                (height + top + bottom - kernel) / stride + 1,
                (width + left + right - kernel) / stride + 1,
                c_out,
                kernel,
                kernel,
                stride,
                top,
                left,
                upsample,
                height,
                width};
    }
};

template <class T>
static std::vector<double> conv64(const ConvShape& s, const Buffer<T>& x, const Buffer<T>& w,
                                  const Buffer<float>& bias) {
    std::vector<double> y;
    for (u32 i = 0; i < s.n * s.out_h * s.out_w; i++) {
        const u32 image = i / (s.out_h * s.out_w), out_y = i / s.out_w % s.out_h, out_x = i % s.out_w;
        for (u32 o = 0; o < s.c_out; o++) {
            double sum = bias[o];
            for (u32 tap = 0; tap < s.kernel_h * s.kernel_w; tap++) {
                const int at_y = int(out_y * s.stride + tap / s.kernel_w) - int(s.pad_top);
                const int at_x = int(out_x * s.stride + tap % s.kernel_w) - int(s.pad_left);
                if (at_y < 0 || at_x < 0 || at_y >= int(s.enlarged_h) || at_x >= int(s.enlarged_w)) continue;
                // Nearest neighbour, as PyTorch has it.
                const u32 from_y = u32(at_y) * s.h / s.enlarged_h, from_x = u32(at_x) * s.w / s.enlarged_w;
                const size_t pixel = (size_t(image) * s.h + from_y) * s.w + from_x;
                for (u32 c = 0; c < s.c_in; c++) {
                    sum += x[pixel * s.c_in + c] * w[(size_t(o) * s.kernel_h * s.kernel_w + tap) * s.c_in + c];
                }
            }
            y.push_back(sum);
        }
    }
    return y;
}

template <class T>
static void check_conv(const std::string& kernel, const emulator::Dim3& tile, u32 threads, u32 shared_bytes,
                       const Conv& c) {
    const ConvShape s = c.shape();
    const u32 pixels = s.out_h * s.out_w, rows = s.n * pixels;
    const auto x = random_buffer<T>(size_t(s.n) * s.h * s.w * s.c_in, 1);
    const auto w = random_buffer<T>(size_t(s.c_out) * s.kernel_h * s.kernel_w * s.c_in, 2, 0.3);
    const auto bias = random_buffer<float>(s.c_out, 3);
    const auto channel_bias = random_buffer<T>(s.n * s.c_out, 4), residual = random_buffer<T>(rows * s.c_out, 5);
    auto expected = conv64(s, x, w, bias);
    for (size_t i = 0; i < expected.size(); i++) {
        if (c.channel_bias) expected[i] += channel_bias[i / s.c_out / pixels * s.c_out + i % s.c_out];
        expected[i] = activate64(expected[i], c.activation);
        if (c.residual) expected[i] += residual[i];
    }
    const T* channel_bias_data = c.channel_bias ? channel_bias.data() : nullptr;
    const T* residual_data = c.residual ? residual.data() : nullptr;
    in_every_schedule([&] {
        Buffer<T> y(expected.size());
        Buffer<float> partial(c.splits > 1 ? c.splits * expected.size() : 0);
        const auto grid = blocks((rows + tile.x - 1) / tile.x, (s.c_out + tile.y - 1) / tile.y, c.splits);
        if constexpr (sizeof(T) == 4) {
            launch(kernel, grid, threads, shared_bytes, x.data(), w.data(), bias.data(), channel_bias_data,
                   residual_data, y.data(), s, c.activation);
        } else {
            launch(kernel, grid, threads, shared_bytes, x.data(), w.data(), bias.data(), channel_bias_data,
                   residual_data, y.data(), c.splits > 1 ? partial.data() : nullptr, s, c.activation);
        }
        if (c.splits > 1) {
            launch(std::string("sum_splits_") + Type<T>::name, blocks(2), 256, 0, partial.data(), bias.data(),
                   channel_bias_data, residual_data, y.data(), rows, s.c_out, c.splits, pixels, c.activation);
        }
        expect_close(y, expected, once_rounded<T>());
    });
}

template <class T> static void check_tiles(const Conv& c) {
    const std::string type = Type<T>::name;
    if (c.c_in % 8 == 0) {
        check_conv<T>("conv2d_" + type + "_128x160", {128, 160, 1}, 256, 73728, c);
        check_conv<T>("conv2d_" + type + "_128x128", {128, 128, 1}, 256, 65536, c);
        check_conv<T>("conv2d_" + type + "_64x160", {64, 160, 1}, 128, 57344, c);
        check_conv<T>("conv2d_" + type + "_64x64", {64, 64, 1}, 128, 32768, c);
    }
    if (c.c_in < 40) check_conv<T>("conv2d_gather_" + type, {64, 64, 1}, 128, 32768, c);
}

static const Conv CONVS[] = {
    {1, 1, 1, 8, 8, 3, 1, 1, 1, 1, 1, 0, 0, 1, false, false, IDENTITY},      // all but one tap in the padding
    {2, 9, 7, 40, 24, 3, 1, 1, 1, 1, 1, 0, 0, 1, true, true, SILU},          // channels that leave a step part empty
    {1, 11, 13, 16, 161, 3, 2, 1, 1, 1, 1, 0, 0, 1, false, true, IDENTITY},  // a downsampler of the U-Net
    {2, 8, 6, 8, 8, 3, 2, 0, 0, 1, 1, 0, 0, 1, false, false, IDENTITY},      // of the VAE: padded below and right only
    {1, 5, 6, 24, 16, 3, 1, 1, 1, 1, 1, 10, 12, 1, false, false, IDENTITY},  // an upsampler
    {2, 5, 6, 8, 3, 3, 1, 1, 1, 1, 1, 9, 11, 1, false, false,
     IDENTITY},                                                         // to an odd size, the output not in groups of 8
    {1, 12, 12, 72, 40, 1, 1, 0, 0, 0, 0, 0, 0, 1, true, false, GELU},  // a shortcut
    {2, 4, 4, 136, 48, 3, 1, 1, 1, 1, 1, 0, 0, 5, true, true, SILU},    // few pixels: the depth is split
    {1, 9, 5, 4, 20, 3, 1, 1, 1, 1, 1, 0, 0, 1, false, false, IDENTITY},  // a first convolution
    {2, 6, 7, 9, 5, 3, 2, 2, 0, 1, 3, 0, 0, 2, true, true, QUICK_GELU},   // nothing even
};
TEST(conv2d) {
    const uint64_t conflicts = emulator::ldmatrix_conflicts();
    for (const Conv& c : CONVS) {
        check_tiles<f16>(c);
        if (c.n == 2) check_tiles<bf16>(c);
    }
    if (emulator::ldmatrix_conflicts() != conflicts) fail_test("ldmatrix meets bank conflicts");
}

// An image's result is the same, bit for bit, alone and anywhere in a batch, and by every tile.
TEST(conv2d_rows_stand_alone) {
    constexpr u32 PIXELS = 7 * 9, IN = 24, OUT = 40;
    const auto image = random_buffer<f16>(PIXELS * IN, 1), w = random_buffer<f16>(OUT * 9 * IN, 2);
    const auto run = [&](u32 n, const char* kernel, u32 rows, u32 columns, u32 threads, u32 shared_bytes) {
        Buffer<f16> x(n * PIXELS * IN), y(n * PIXELS * OUT);
        for (size_t i = 0; i < x.size(); i++) x.data()[i] = image.data()[i % image.size()];
        const ConvShape s = Conv{n, 7, 9, IN, OUT, 3, 1, 1, 1, 1, 1, 0, 0, 1, false, false, SILU}.shape();
        const f16* const none = nullptr;
        const float* const no_bias = nullptr;
        float* const no_partial = nullptr;
        const auto grid = blocks((n * PIXELS + rows - 1) / rows, (OUT + columns - 1) / columns);
        launch(kernel, grid, threads, shared_bytes, static_cast<const f16*>(x.data()), w.data(), no_bias, none, none,
               y.data(), no_partial, s, u32(SILU));
        return y;
    };
    const auto alone = run(1, "conv2d_f16_128x160", 128, 160, 256, 73728);
    const auto three = run(3, "conv2d_f16_64x64", 64, 64, 128, 32768);
    const auto five = run(5, "conv2d_f16_64x160", 64, 160, 128, 57344);
    for (const auto* batch : {&three, &five}) {
        for (size_t i = 0; i < batch->size(); i++) {
            if (batch->data()[i].bits != alone.data()[i % alone.size()].bits) fail_test("other bits in a batch");
        }
    }
}

TEST(conv2d_f32) {
    for (Conv c : CONVS) {
        c.splits = 1;
        check_conv<float>("conv2d_f32", {64, 64, 1}, 128, 0, c);
    }
}

// A 1×1 convolution without padding is a linear layer: what gemm.cu leaves to conv2d_gather.
TEST(linear_of_any_depth) {
    check_conv<f16>("conv2d_gather_f16", {64, 64, 1}, 128, 32768,
                    {1, 67, 1, 6, 66, 1, 1, 0, 0, 0, 0, 0, 0, 1, false, true, GELU});
    check_conv<bf16>("conv2d_gather_bf16", {64, 64, 1}, 128, 32768,
                     {1, 3, 1, 77, 5, 1, 1, 0, 0, 0, 0, 0, 0, 1, false, false, IDENTITY});
}
