// What the tests of kernels share: device memory, launches by name, comparison with f64, and the list of tests.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "gpu.cuh"

// What runs the kernels: the emulated GPU, or in the build CARD a real one.
#ifdef CARD
#include "card.h"
namespace device = card;
#else
namespace device = emulator;
#endif

// The builds of run.sh: PLAIN runs every schedule, the others one, at sizes that a hundredfold slower run can bear.
#if defined(WATCH) || defined(CARD) || defined(__SANITIZE_ADDRESS__)
constexpr bool THOROUGH = false;
#else
constexpr bool THOROUGH = true;
#endif

// The type of a tensor, its suffix in kernels' names, and half the distance between neighbouring values near 1.
template <class T> struct Type;
template <> struct Type<float> {
    static constexpr const char* name = "f32";
    static constexpr double rounding = 0x1p-24;
};
template <> struct Type<f16> {
    static constexpr const char* name = "f16";
    static constexpr double rounding = 0x1p-11;
};
template <> struct Type<bf16> {
    static constexpr const char* name = "bf16";
    static constexpr double rounding = 0x1p-8;
};

// Global memory of the device. Fresh memory is NaN, so that a value which no kernel wrote never passes.
template <class T> class Buffer {
public:
    explicit Buffer(size_t size) : data_(static_cast<T*>(device::allocate(size * sizeof(T)))), size_(size) {}
    explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) {
        if (size_) memcpy(data_, values.data(), size_ * sizeof(T));
    }
    Buffer(const Buffer&) = delete;
    Buffer(Buffer&& other) : data_(other.data_), size_(other.size_) { other.data_ = nullptr; }
    ~Buffer() { device::release(data_); }

    T* data() const { return data_; }
    size_t size() const { return size_; }
    double operator[](size_t i) const { return to_float(data_[i]); }

private:
    T* data_;
    size_t size_;
};

// Reproducible numbers.
class Random {
public:
    explicit Random(uint64_t seed) : state_(seed * 2 + 1) {}
    // Uniform in [0, 1).
    double uniform() {
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        return double(state_ >> 40) * 0x1p-24;
    }
    // Of mean 0 and variance 1.
    double normal() { return sqrt(-2.0 * log(1.0 - uniform())) * cos(6.283185307179586 * uniform()); }
    size_t below(size_t n) { return size_t(uniform() * double(n)); }

private:
    uint64_t state_;
};

template <class T> Buffer<T> random_buffer(size_t size, uint64_t seed, double scale = 1.0, double shift = 0.0) {
    Random random(seed);
    Buffer<T> buffer(size);
    for (size_t i = 0; i < size; i++) buffer.data()[i] = from_float<T>(float(random.normal() * scale + shift));
    return buffer;
}

// Options of the launches that follow; in_every_schedule sets them.
inline emulator::Options& launch_options() {
    static emulator::Options options;
    return options;
}

inline emulator::Dim3 blocks(size_t x, size_t y = 1, size_t z = 1) { return {unsigned(x), unsigned(y), unsigned(z)}; }

// Launches by name with parameters of the kernel's own sizes, as the driver does: a parameter of another size is
// refused.
template <class... P>
void launch(const std::string& name, emulator::Dim3 grid, unsigned threads, size_t shared_bytes, P... parameters) {
    const auto found = emulator::kernels().find(name);
    if (found == emulator::kernels().end()) emulator::fail("no kernel '%s'", name.c_str());
    if (found->second.parameter_sizes != std::vector<size_t>{sizeof(P)...})
        emulator::fail("%s: other parameters", name.c_str());
    void* addresses[] = {const_cast<void*>(static_cast<const void*>(&parameters))...};
    device::launch(found->second, grid, {threads, 1, 1}, shared_bytes, addresses, launch_options());
}

// Runs `test` under every schedule, with lazy and with eager copies. It is to make its outputs anew.
inline void in_every_schedule(const std::function<void()>& test) {
    for (const bool eager : {false, true}) {
        for (const emulator::Schedule schedule : emulator::ALL_SCHEDULES) {
            launch_options() = {schedule, eager};
            test();
            if (!THOROUGH) break;
        }
    }
    launch_options() = {};
}

inline std::string& test_name() {
    static std::string name;
    return name;
}

[[noreturn]] inline void fail_test(const std::string& why) {
    printf("FAILED %s (schedule %d, %s copies): %s\n", test_name().c_str(), int(launch_options().schedule),
           launch_options().eager_copies ? "eager" : "lazy", why.c_str());
    exit(1);
}

// Holds y against f64 values. `rounding` bounds the error of a value relative to itself and to the typical value, and
// half of it the error of all values together (relative L2). NaN never passes.
template <class T> void expect_close(const Buffer<T>& y, const std::vector<double>& expected, double rounding) {
    if (y.size() != expected.size()) fail_test("another size");
    double squares = 0, error_squares = 0;
    for (double e : expected) squares += e * e;
    const double typical = sqrt(squares / double(expected.size()));
    for (size_t i = 0; i < expected.size(); i++) {
        const double error = fabs(y[i] - expected[i]);
        if (!(error <= rounding * (fabs(expected[i]) + typical))) {
            fail_test("value " + std::to_string(i) + " is " + std::to_string(y[i]) + ", not " +
                      std::to_string(expected[i]));
        }
        error_squares += error * error;
    }
    if (!(sqrt(error_squares) <= rounding * sqrt(squares))) fail_test("relative L2 above " + std::to_string(rounding));
}

// The bound for results that are computed in f32 and rounded once to T. f32 itself has the error of the arithmetic.
template <class T> constexpr double once_rounded() { return sizeof(T) == 4 ? 4e-6 : Type<T>::rounding * 1.05; }

// Tests add themselves; main is in main.cpp.
struct Test {
    const char* name;
    void (*run)();
};
inline std::vector<Test>& tests() {
    static std::vector<Test> all;
    return all;
}
#define TEST(name)                                                             \
    static void name();                                                        \
    static const bool name##_added = (tests().push_back({#name, name}), true); \
    static void name()
