// Definitions in f64 that several tests need.
#pragma once

#include "harness.h"

// gpu.cuh's activations by number.
inline double activate64(double x, u32 activation) {
    switch (activation) {
    case SILU: return x / (1.0 + exp(-x));
    case GELU: return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
    case QUICK_GELU: return x / (1.0 + exp(-1.702 * x));
    default: return x;
    }
}
