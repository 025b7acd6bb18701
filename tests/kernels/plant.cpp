// Runs one kernel of planted.cu, which run.sh expects to fail unless it is `none`.
#include "harness.h"

int main(int count, char** arguments) {
    if (count != 2) return 2;
    test_name() = arguments[1];
    const u32 tiles = 5;
    const auto x = random_buffer<float>(tiles * 256, 1);
    std::vector<double> expected(64, 0.0);
    for (u32 i = 0; i < tiles * 256; i++) expected[63 - i % 256 / 4] += x[i];
    in_every_schedule([&] {
        Buffer<float> y(64);
        launch(arguments[1], blocks(test_name() == "blocks_collide" ? 2 : 1), 64, 0, x.data(), y.data(), u32(tiles));
        expect_close(y, expected, 1e-6);
    });
    printf("ok     %s\n", arguments[1]);
    return 0;
}
