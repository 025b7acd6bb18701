// kernels/gemm.cu against the definition in f64.
#include "gemm.cuh"
#include "harness.h"
#include "reference.h"

struct TileInfo {
    const char* name;
    u32 rows, columns, threads, shared_bytes;
};
static const TileInfo TILES[] = {
    {"128x160", 128, 160, 256, 73728}, {"64x160", 64, 160, 128, 57344}, {"64x64", 64, 64, 128, 32768}};

struct Product {
    u32 rows, columns, depth, splits;
    bool bias, channel_bias, residual;
    u32 activation;
};

// Shapes that miss every tile's edges by one, fill them, or are smaller than a group of eight columns.
static const Product PRODUCTS[] = {
    {1, 1, 8, 1, false, false, false, IDENTITY}, {129, 161, 40, 1, true, false, false, GELU},
    {65, 3, 104, 1, true, true, true, SILU},     {128, 320, 64, 1, true, true, true, IDENTITY},
    {70, 168, 264, 3, true, false, true, SILU},  {33, 63, 72, 4, false, true, false, QUICK_GELU},
};

template <class T> static void check_gemm(const TileInfo& tile, const Product& p) {
    const u32 rows_per_image = p.channel_bias ? (p.rows + 1) / 2 : 1,
              images = (p.rows + rows_per_image - 1) / rows_per_image;
    const auto x = random_buffer<T>(p.rows * p.depth, 1), w = random_buffer<T>(p.columns * p.depth, 2, 0.3);
    const auto bias = random_buffer<float>(p.columns, 3);
    const auto channel_bias = random_buffer<T>(images * p.columns, 4),
               residual = random_buffer<T>(p.rows * p.columns, 5);
    std::vector<double> expected;
    for (size_t row = 0; row < p.rows; row++) {
        for (size_t column = 0; column < p.columns; column++) {
            double sum = p.bias ? bias[column] : 0.0;
            for (size_t k = 0; k < p.depth; k++) sum += x[row * p.depth + k] * w[column * p.depth + k];
            if (p.channel_bias) sum += channel_bias[row / rows_per_image * p.columns + column];
            sum = activate64(sum, p.activation);
            expected.push_back(sum + (p.residual ? residual[row * p.columns + column] : 0.0));
        }
    }
    const std::string type = Type<T>::name;
    in_every_schedule([&] {
        Buffer<T> y(expected.size());
        Buffer<float> partial(p.splits > 1 ? p.splits * expected.size() : 0);
        const float* bias_data = p.bias ? bias.data() : nullptr;
        const T* channel_bias_data = p.channel_bias ? channel_bias.data() : nullptr;
        const T* residual_data = p.residual ? residual.data() : nullptr;
        const auto grid =
            blocks((p.rows + tile.rows - 1) / tile.rows, (p.columns + tile.columns - 1) / tile.columns, p.splits);
        launch("gemm_" + type + "_" + tile.name, grid, tile.threads, tile.shared_bytes, x.data(), w.data(), bias_data,
               channel_bias_data, residual_data, y.data(), p.splits > 1 ? partial.data() : nullptr, p.rows, p.columns,
               p.depth, rows_per_image, p.activation);
        if (p.splits > 1) {
            launch("sum_splits_" + type, blocks(2), 256, 0, partial.data(), bias_data, channel_bias_data, residual_data,
                   y.data(), p.rows, p.columns, p.splits, rows_per_image, p.activation);
        }
        expect_close(y, expected, once_rounded<T>());
    });
}
TEST(gemm) {
    const uint64_t conflicts = emulator::ldmatrix_conflicts();
    for (const Product& p : PRODUCTS) {
        for (const TileInfo& tile : TILES) check_gemm<f16>(tile, p);
        check_gemm<bf16>(TILES[p.rows % 3], p);
    }
    if (emulator::ldmatrix_conflicts() != conflicts) fail_test("ldmatrix meets bank conflicts");
}

template <class T> static void check_gemm_geglu(const TileInfo& tile, u32 rows, u32 c, u32 depth) {
    const auto x = random_buffer<T>(rows * depth, 1), w = random_buffer<T>(2 * c * depth, 2, 0.3);
    const auto bias = random_buffer<float>(2 * c, 3);
    // The checkpoint's row that lies at a row of the packed weight: eight values, their eight gates.
    const auto packed = [&](u32 row) { return row / 16 * 8 + row % 8 + (row % 16 < 8 ? 0 : c); };
    Buffer<T> packed_w(w.size());
    Buffer<float> packed_bias(bias.size());
    for (u32 row = 0; row < 2 * c; row++) {
        packed_bias.data()[row] = bias.data()[packed(row)];
        for (u32 k = 0; k < depth; k++) packed_w.data()[row * depth + k] = w.data()[packed(row) * depth + k];
    }
    const auto product = [&](size_t row, size_t column) {
        double sum = bias[column];
        for (size_t k = 0; k < depth; k++) sum += x[row * depth + k] * w[column * depth + k];
        return sum;
    };
    std::vector<double> expected;
    for (u32 row = 0; row < rows; row++) {
        for (u32 i = 0; i < c; i++) expected.push_back(product(row, i) * activate64(product(row, c + i), GELU));
    }
    in_every_schedule([&] {
        Buffer<T> y(expected.size());
        const auto grid = blocks((rows + tile.rows - 1) / tile.rows, (2 * c + tile.columns - 1) / tile.columns);
        launch(std::string("gemm_geglu_") + Type<T>::name + "_" + tile.name, grid, tile.threads, tile.shared_bytes,
               x.data(), packed_w.data(), packed_bias.data(), y.data(), u32(rows), u32(2 * c), u32(depth));
        expect_close(y, expected, once_rounded<T>());
    });
}
TEST(gemm_geglu) {
    check_gemm_geglu<f16>(TILES[0], 130, 88, 40);
    check_gemm_geglu<f16>(TILES[2], 3, 8, 64);
    check_gemm_geglu<bf16>(TILES[0], 5, 80, 8);
    check_gemm_geglu<bf16>(TILES[2], 65, 40, 72);
}
