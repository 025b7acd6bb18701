// kernels/embedding.cu against the definitions in f64.
#include "harness.h"

template <class T> static std::string kernel(const char* name) { return std::string(name) + "_" + Type<T>::name; }

// diffusers' get_timestep_embedding, rounded to f32 where it rounds (its tables are f32) and exact otherwise.
static std::vector<double> timestep_embedding64(const std::vector<float>& values, u32 channels, bool flip,
                                                float freq_shift) {
    std::vector<double> y;
    const u32 half = channels / 2;
    for (const float value : values) {
        std::vector<double> sines, cosines;
        for (u32 i = 0; i < half; i++) {
            const float exponent = float(-log(10000.0)) * float(i) / (float(half) - freq_shift);
            const float angle = value * float(exp(double(exponent)));
            sines.push_back(sin(double(angle)));
            cosines.push_back(cos(double(angle)));
        }
        const auto& first = flip ? cosines : sines;
        const auto& second = flip ? sines : cosines;
        y.insert(y.end(), first.begin(), first.end());
        y.insert(y.end(), second.begin(), second.end());
        if (channels % 2) y.push_back(0.0);
    }
    return y;
}

template <class T> static void check_timestep_embedding() {
    const std::vector<float> values = {0.0f, 1.0f, 999.0f, 501.5f, 4096.0f, -3.0f};
    const Buffer<float> x(values);
    for (const u32 channels : {2u, 7u, 32u, 320u}) {
        for (const bool flip : {false, true}) {
            const float freq_shift = channels > 2 && flip ? 1.0f : 0.0f;
            const auto expected = timestep_embedding64(values, channels, flip, freq_shift);
            in_every_schedule([&] {
                Buffer<T> y(expected.size());
                launch(kernel<T>("timestep_embedding"), blocks(2), 256, 0, x.data(), y.data(), u32(values.size()),
                       u32(channels), u32(flip), freq_shift);
                expect_close(y, expected, sizeof(T) == 4 ? 1e-7 : Type<T>::rounding);
            });
        }
    }
}
TEST(timestep_embedding) {
    check_timestep_embedding<float>();
    check_timestep_embedding<f16>();
    check_timestep_embedding<bf16>();
}

template <class T> static void check_tokens() {
    for (const u32 c : {1u, 24u, 77u}) {
        const u32 n = 3, length = 5, entries = 11;
        const auto tokens = random_buffer<T>(entries * c, 1), positions = random_buffer<T>(length * c, 2);
        Random random(3);
        std::vector<u32> ids, index;
        for (u32 i = 0; i < n * length; i++) ids.push_back(u32(random.below(entries)));
        for (u32 i = 0; i < n; i++) index.push_back(u32(random.below(length)));
        const Buffer<u32> ids_buffer(ids), index_buffer(index);
        std::vector<double> embedded, selected;
        for (u32 i = 0; i < n * length; i++) {
            for (u32 k = 0; k < c; k++) embedded.push_back(tokens[ids[i] * c + k] + positions[i % length * c + k]);
        }
        in_every_schedule([&] {
            Buffer<T> x(embedded.size()), y(n * c);
            launch(kernel<T>("embed_tokens"), blocks(2), 256, 0, ids_buffer.data(), tokens.data(), positions.data(),
                   x.data(), u32(n), u32(length), u32(c));
            expect_close(x, embedded, once_rounded<T>());
            launch(kernel<T>("select_tokens"), blocks(1), 256, 0, x.data(), index_buffer.data(), y.data(), u32(n),
                   u32(length), u32(c));
            selected.clear();
            for (u32 i = 0; i < n; i++) {
                for (u32 k = 0; k < c; k++) selected.push_back(x[(i * length + index[i]) * c + k]);
            }
            expect_close(y, selected, 0.0);
        });
    }
}
TEST(embed_and_select_tokens) {
    check_tokens<float>();
    check_tokens<f16>();
    check_tokens<bf16>();
}

template <class T> static void check_latents() {
    for (const u32 c : {1u, 3u, 4u, 9u}) {
        const u32 n = 2, pixels = 7 * 41;
        const auto latents = random_buffer<float>(n * c * pixels, c);
        std::vector<double> expected(latents.size()), rounded(latents.size());
        for (u32 i = 0; i < n; i++) {
            for (u32 k = 0; k < c; k++) {
                for (u32 p = 0; p < pixels; p++) expected[(i * pixels + p) * c + k] = latents[(i * c + k) * pixels + p];
            }
        }
        in_every_schedule([&] {
            Buffer<T> x(latents.size());
            Buffer<float> back(latents.size());
            launch(kernel<T>("latents_to_nhwc"), blocks(2), 256, 0, latents.data(), x.data(), u32(n), u32(c),
                   u32(pixels));
            expect_close(x, expected, Type<T>::rounding);
            launch(kernel<T>("nhwc_to_latents"), blocks(2), 256, 0, x.data(), back.data(), u32(n), u32(c), u32(pixels));
            for (size_t i = 0; i < rounded.size(); i++) rounded[i] = to_float(from_float<T>(float(latents[i])));
            expect_close(back, rounded, 0.0);
        });
    }
}
TEST(latents) {
    check_latents<float>();
    check_latents<f16>();
    check_latents<bf16>();
}
