// What every kernel includes. The same source is compiled by NVRTC for GPUs and by the host's C++ compiler for tests
// (host/ runs it there), so kernels use no header but ours and write no PTX of their own: all of it is in device.cuh,
// with a twin in host/device.h for each wrapper.
#pragma once

#if defined(__CUDACC_RTC__) || defined(__CUDACC__)
#include "device.cuh"
#else
#include "host/device.h"
#endif

constexpr u32 LANES = 32;

// 16 bytes, the widest access of a thread, as PACK<T> values.
template <class T> constexpr int PACK = 16 / int(sizeof(T));

DEVICE float to_float(float x) { return x; }
template <class T> DEVICE T from_float(float x);
template <> DEVICE float from_float<float>(float x) { return x; }
template <> DEVICE f16 from_float<f16>(float x) { return to_f16(x); }
template <> DEVICE bf16 from_float<bf16>(float x) { return to_bf16(x); }

// Two values in one register, the first in the low half.
template <class T> DEVICE u32 pack2(float low, float high) {
    return from_float<T>(low).bits | u32(from_float<T>(high).bits) << 16;
}
template <> DEVICE u32 pack2<f16>(float low, float high) { return to_f16x2(low, high); }
template <> DEVICE u32 pack2<bf16>(float low, float high) { return to_bf16x2(low, high); }

// Reads V consecutive values, V being 1 or PACK<T>; a pack has to lie on a multiple of 16 bytes.
template <int V, class T> DEVICE void load(const T* from, float (&x)[V]) {
    if constexpr (V == 1) {
        x[0] = to_float(*from);
    } else if constexpr (sizeof(T) == 4) {
        const float4 v = *reinterpret_cast<const float4*>(from);
        x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
    } else {
        const uint4 v = *reinterpret_cast<const uint4*>(from);
        const u32 words[4] = {v.x, v.y, v.z, v.w};
        UNROLL
        for (int i = 0; i < 4; i++) {
            x[2 * i] = to_float(T{u16(words[i])});
            x[2 * i + 1] = to_float(T{u16(words[i] >> 16)});
        }
    }
}

// Writes V consecutive values, rounded to nearest even; the same rule of alignment.
template <int V, class T> DEVICE void store(T* to, const float (&x)[V]) {
    if constexpr (V == 1) {
        *to = from_float<T>(x[0]);
    } else if constexpr (sizeof(T) == 4) {
        *reinterpret_cast<float4*>(to) = float4{x[0], x[1], x[2], x[3]};
    } else {
        *reinterpret_cast<uint4*>(to) =
            uint4{pack2<T>(x[0], x[1]), pack2<T>(x[2], x[3]), pack2<T>(x[4], x[5]), pack2<T>(x[6], x[7])};
    }
}

DEVICE float fast_exp(float x) { return fast_exp2(x * 1.4426950408889634f); }

// x · sigmoid(x). fast_divide gives 0 where the exponential overflows, which is the limit.
DEVICE float silu(float x) { return fast_divide(x, 1.0f + fast_exp(-x)); }
// x · Φ(x), with the error function and not its tanh approximation: that is what the models were trained with.
DEVICE float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }
// x · sigmoid(1.702 x)
DEVICE float quick_gelu(float x) { return fast_divide(x, 1.0f + fast_exp(-1.702f * x)); }

// The activation of an epilogue, by number: a launch parameter.
enum Activation { IDENTITY = 0, SILU = 1, GELU = 2, QUICK_GELU = 3 };
DEVICE float activate(float x, int activation) {
    switch (activation) {
    case SILU: return silu(x);
    case GELU: return gelu(x);
    case QUICK_GELU: return quick_gelu(x);
    default: return x;
    }
}

// The sum (or maximum) over aligned groups of `width` lanes, in every lane, in an order that never changes.
template <int WIDTH = 32> DEVICE float warp_sum(float x) {
    UNROLL
    for (int distance = WIDTH / 2; distance > 0; distance /= 2) x += shuffle_xor(x, distance);
    return x;
}
template <int WIDTH = 32> DEVICE float warp_max(float x) {
    UNROLL
    for (int distance = WIDTH / 2; distance > 0; distance /= 2) x = fmaxf(x, shuffle_xor(x, distance));
    return x;
}
