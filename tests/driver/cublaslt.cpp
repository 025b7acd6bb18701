// cuBLASLt: D = epilogue(α · op(A) · op(B) + β · C + bias) in f64, rounded once.
//
// f32, f16 and bf16, column and row order, strided batches; α and β are f32 on the host. The epilogues have a bias,
// which broadcasts along D's columns and has D's type, and ReLU or GELU: cuBLASLt's own, the approximation with tanh.
// An algorithm serves what it was found for and nothing else: product, types, orders, epilogue, workspace, alignment of
// pointers. A cache of algorithms with too small a key shows.
#include <cmath>
#include <cstring>

#include "driver.h"
#include "gpu.cuh"

namespace driver {

enum Status : int {
    BLAS_SUCCESS = 0,
    BLAS_NOT_INITIALIZED = 1,
    BLAS_INVALID_VALUE = 7,
    BLAS_ARCH_MISMATCH = 8,
    BLAS_EXECUTION_FAILED = 13,
    BLAS_NOT_SUPPORTED = 15,
};

enum Type : int { F32 = 0, F16 = 2, BF16 = 14 };
enum Order : int { COLUMN = 0, ROW = 1 };
struct Layout {
    int type, order;
    uint64_t rows, columns;
    int64_t stride;  // from a column to the next, or a row
    int batch;
    int64_t batch_stride;
};

enum Epilogue : int { DEFAULT = 1, RELU = 2, BIAS = 4, GELU_TANH = 32 };  // bits
struct Product {
    int transpose_a, transpose_b, epilogue;
    uint64_t bias;
    int64_t bias_batch_stride;
};

struct Preference {
    uint64_t workspace_bytes;
    uint32_t alignment[4];  // of A, B, C and D
};

// cublasLtMatmulAlgo_t: the caller keeps it and knows nothing of it.
struct Algorithm {
    uint64_t problem;  // that it was found for
    uint64_t workspace_bytes;
    uint32_t alignment[4];
    uint64_t unused[4];
};
static_assert(sizeof(Algorithm) == 64);

// cublasLtMatmulHeuristicResult_t
struct Heuristic {
    Algorithm algorithm;
    size_t workspace_bytes;
    int status;
    float waves;
    int reserved[4];
};

struct Handle {};
static Handles<Handle> handles;
static Handles<Layout> layouts;
static Handles<Product> products;
static Handles<Preference> preferences;

constexpr uint64_t WORKSPACE_BYTES = 4096;

static size_t bytes_of(int type) { return type == F32 ? 4 : 2; }

static float load_value(uint64_t matrix, size_t i, int type) {
    switch (type) {
    case F32: return reinterpret_cast<const float*>(matrix)[i];
    case F16: return to_float(reinterpret_cast<const f16*>(matrix)[i]);
    default: return to_float(reinterpret_cast<const bf16*>(matrix)[i]);
    }
}
static void store_value(uint64_t matrix, size_t i, int type, float value) {
    switch (type) {
    case F32: reinterpret_cast<float*>(matrix)[i] = value; break;
    case F16: reinterpret_cast<f16*>(matrix)[i] = to_f16(value); break;
    default: reinterpret_cast<bf16*>(matrix)[i] = to_bf16(value); break;
    }
}

static size_t offset(const Layout& m, int item, uint64_t row, uint64_t column) {
    const uint64_t in_item = m.order == ROW ? row * uint64_t(m.stride) + column : column * uint64_t(m.stride) + row;
    return size_t(int64_t(in_item) + item * m.batch_stride);
}

static bool is_valid(const Layout& m) {
    const bool type = m.type == F32 || m.type == F16 || m.type == BF16;
    const uint64_t least = m.order == ROW ? m.columns : m.rows;
    return type && m.rows > 0 && m.columns > 0 && m.stride >= int64_t(least) && m.batch > 0 && m.batch_stride >= 0;
}

static bool is_in_memory(const Context& context, uint64_t matrix, const Layout& m) {
    const size_t values = offset(m, m.batch - 1, m.rows - 1, m.columns - 1) + 1;
    return in_device_memory(context, matrix, values * bytes_of(m.type));
}

struct Problem {
    Product product;
    Layout a, b, c, d;

    uint64_t depth() const { return product.transpose_a ? a.rows : a.columns; }
    bool is_consistent() const {
        const uint64_t rows = product.transpose_a ? a.columns : a.rows;
        const uint64_t columns = product.transpose_b ? b.rows : b.columns;
        const uint64_t b_depth = product.transpose_b ? b.columns : b.rows;
        return is_valid(a) && is_valid(b) && is_valid(c) && is_valid(d) && rows == d.rows && columns == d.columns &&
               b_depth == depth() && c.rows == d.rows && c.columns == d.columns && a.batch == d.batch &&
               b.batch == d.batch && c.batch == d.batch;
    }
    bool is_supported() const {
        const int known = DEFAULT | RELU | BIAS | GELU_TANH;
        const bool one_activation = !((product.epilogue & RELU) && (product.epilogue & GELU_TANH));
        return a.type == b.type && c.type == d.type && (d.type == a.type || d.type == F32) &&
               !(product.epilogue & ~known) && one_activation;
    }
    // FNV-1a over all that an algorithm depends on. Batch strides and the bias itself may differ.
    uint64_t key() const {
        uint64_t hash = 0xcbf29ce484222325;
        const auto add = [&](uint64_t value) { hash = (hash ^ value) * 0x100000001b3; };
        for (const int value : {product.transpose_a, product.transpose_b, product.epilogue}) add(uint64_t(value));
        for (const Layout* m : {&a, &b, &c, &d}) {
            for (const int value : {m->type, m->order, m->batch}) add(uint64_t(value));
            for (const uint64_t value : {m->rows, m->columns, uint64_t(m->stride)}) add(value);
        }
        return hash;
    }
};

static bool find_problem(Problem& problem, const void* product, const void* a, const void* b, const void* c,
                         const void* d) {
    const Product* const found = products.find(product);
    if (found) problem.product = *found;
    bool all = found != nullptr;
    const auto find = [&](Layout& to, const void* handle) {
        const Layout* const layout = layouts.find(handle);
        if (layout) to = *layout;
        all = all && layout;
    };
    find(problem.a, a), find(problem.b, b), find(problem.c, c), find(problem.d, d);
    return all;
}

static double apply_epilogue(double x, int epilogue) {
    if (epilogue & RELU) return x > 0.0 ? x : 0.0;
    if (epilogue & GELU_TANH) return 0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    return x;
}

static void multiply(const Problem& p, float alpha, uint64_t a, uint64_t b, float beta, uint64_t c, uint64_t d) {
    const uint64_t rows = p.d.rows, columns = p.d.columns, depth = p.depth();
    std::vector<double> left(rows * depth), right(columns * depth);
    for (int item = 0; item < p.d.batch; item++) {
        for (uint64_t k = 0; k < depth; k++) {
            for (uint64_t row = 0; row < rows; row++) {
                const bool t = p.product.transpose_a;
                left[row * depth + k] = load_value(a, offset(p.a, item, t ? k : row, t ? row : k), p.a.type);
            }
            for (uint64_t column = 0; column < columns; column++) {
                const bool t = p.product.transpose_b;
                right[column * depth + k] = load_value(b, offset(p.b, item, t ? column : k, t ? k : column), p.b.type);
            }
        }
        for (uint64_t row = 0; row < rows; row++) {
            const size_t bias_at = size_t(int64_t(row) + item * p.product.bias_batch_stride);
            const double bias = p.product.epilogue & BIAS ? load_value(p.product.bias, bias_at, p.d.type) : 0.0;
            for (uint64_t column = 0; column < columns; column++) {
                double sum = 0.0;
                for (uint64_t k = 0; k < depth; k++) sum += left[row * depth + k] * right[column * depth + k];
                sum = alpha * sum + bias;
                if (beta != 0.0f) sum += double(beta) * load_value(c, offset(p.c, item, row, column), p.c.type);
                sum = apply_epilogue(sum, p.product.epilogue);
                store_value(d, offset(p.d, item, row, column), p.d.type, float(sum));
            }
        }
    }
}

// Sets a field to the value of an attribute, which has to have its size.
template <class T> static Status set(T& field, const void* value, size_t bytes) {
    if (bytes != sizeof field) return BLAS_INVALID_VALUE;
    memcpy(&field, value, bytes);
    return BLAS_SUCCESS;
}

}  // namespace driver

using namespace driver;

API size_t cublasLtGetVersion() {
    ENTER;
    return values.blas_version;
}

API Status cublasLtCreate(void** handle) {
    ENTER;
    if (!current || !current->retained) return BLAS_NOT_INITIALIZED;
    *handle = handles.add({});
    values.blas_handles++;
    return BLAS_SUCCESS;
}
API Status cublasLtDestroy(void* handle) {
    ENTER;
    // Without a context the real one may make that of the first GPU.
    if (!current || !handles.remove(handle)) return BLAS_NOT_INITIALIZED;
    values.blas_handles--;
    return BLAS_SUCCESS;
}

API Status cublasLtMatrixLayoutCreate(void** handle, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    ENTER;
    *handle = layouts.add({type, COLUMN, rows, columns, stride, 1, 0});
    return BLAS_SUCCESS;
}
API Status cublasLtMatrixLayoutSetAttribute(void* handle, int attribute, const void* value, size_t bytes) {
    ENTER;
    Layout* const layout = layouts.find(handle);
    if (!layout) return BLAS_INVALID_VALUE;
    switch (attribute) {
    case 0: return set(layout->type, value, bytes);          // TYPE
    case 1: return set(layout->order, value, bytes);         // ORDER
    case 2: return set(layout->rows, value, bytes);          // ROWS
    case 3: return set(layout->columns, value, bytes);       // COLS
    case 4: return set(layout->stride, value, bytes);        // LD
    case 5: return set(layout->batch, value, bytes);         // BATCH_COUNT
    case 6: return set(layout->batch_stride, value, bytes);  // STRIDED_BATCH_OFFSET
    default: return BLAS_NOT_SUPPORTED;
    }
}
API Status cublasLtMatrixLayoutDestroy(void* handle) {
    ENTER;
    return layouts.remove(handle) ? BLAS_SUCCESS : BLAS_INVALID_VALUE;
}

// 68, 69, 77: CUBLAS_COMPUTE_32F, _PEDANTIC, _FAST_TF32, which is not less precise here.
API Status cublasLtMatmulDescCreate(void** handle, int compute_type, int scale_type) {
    ENTER;
    if ((compute_type != 68 && compute_type != 69 && compute_type != 77) || scale_type != F32) {
        return BLAS_NOT_SUPPORTED;
    }
    *handle = products.add({0, 0, DEFAULT, 0, 0});
    return BLAS_SUCCESS;
}
API Status cublasLtMatmulDescSetAttribute(void* handle, int attribute, const void* value, size_t bytes) {
    ENTER;
    Product* const product = products.find(handle);
    if (!product) return BLAS_INVALID_VALUE;
    int must_be_zero = 0;
    switch (attribute) {
    case 2:  // POINTER_MODE: α and β are on the host
    case 5:  // TRANSC
        if (const Status status = set(must_be_zero, value, bytes)) return status;
        return must_be_zero == 0 ? BLAS_SUCCESS : BLAS_NOT_SUPPORTED;
    case 3: return set(product->transpose_a, value, bytes);         // TRANSA
    case 4: return set(product->transpose_b, value, bytes);         // TRANSB
    case 7: return set(product->epilogue, value, bytes);            // EPILOGUE
    case 8: return set(product->bias, value, bytes);                // BIAS_POINTER
    case 10: return set(product->bias_batch_stride, value, bytes);  // BIAS_BATCH_STRIDE
    default: return BLAS_NOT_SUPPORTED;
    }
}
API Status cublasLtMatmulDescDestroy(void* handle) {
    ENTER;
    return products.remove(handle) ? BLAS_SUCCESS : BLAS_INVALID_VALUE;
}

// Without preferences there is no workspace, and pointers are multiples of 256.
API Status cublasLtMatmulPreferenceCreate(void** handle) {
    ENTER;
    *handle = preferences.add({0, {256, 256, 256, 256}});
    return BLAS_SUCCESS;
}
API Status cublasLtMatmulPreferenceSetAttribute(void* handle, int attribute, const void* value, size_t bytes) {
    ENTER;
    Preference* const preference = preferences.find(handle);
    if (!preference) return BLAS_INVALID_VALUE;
    if (attribute == 1) return set(preference->workspace_bytes, value, bytes);  // MAX_WORKSPACE_BYTES
    if (attribute == 3) {  // REDUCTION_SCHEME_MASK: sums are f64 here, whatever it is
        uint32_t mask;
        return set(mask, value, bytes);
    }
    if (attribute >= 5 && attribute <= 8) {                                     // MIN_ALIGNMENT_A_BYTES and on
        return set(preference->alignment[attribute - 5], value, bytes);
    }
    return BLAS_NOT_SUPPORTED;
}
API Status cublasLtMatmulPreferenceDestroy(void* handle) {
    ENTER;
    return preferences.remove(handle) ? BLAS_SUCCESS : BLAS_INVALID_VALUE;
}

API Status cublasLtMatmulAlgoGetHeuristic(void* handle, void* product, void* a, void* b, void* c, void* d,
                                          void* preference_handle, int most, Heuristic* results, int* count) {
    ENTER;
    *count = 0;
    if (!handles.find(handle)) return BLAS_NOT_INITIALIZED;
    const Preference* const preference = preferences.find(preference_handle);
    Problem problem;
    if (!preference || most < 1 || !find_problem(problem, product, a, b, c, d)) return BLAS_INVALID_VALUE;
    if (!problem.is_consistent()) return BLAS_INVALID_VALUE;
    if (!problem.is_supported()) return BLAS_NOT_SUPPORTED;
    values.heuristics++;
    Heuristic& result = results[0] = Heuristic{};
    Algorithm& algorithm = result.algorithm;
    algorithm.problem = problem.key();
    algorithm.workspace_bytes = preference->workspace_bytes < WORKSPACE_BYTES ? 0 : WORKSPACE_BYTES;
    memcpy(algorithm.alignment, preference->alignment, sizeof algorithm.alignment);
    result.workspace_bytes = algorithm.workspace_bytes;
    *count = 1;
    return BLAS_SUCCESS;
}

API Status cublasLtMatmul(void* handle, void* product, const float* alpha, uint64_t a, void* a_layout, uint64_t b,
                          void* b_layout, const float* beta, uint64_t c, void* c_layout, uint64_t d, void* d_layout,
                          const Algorithm* algorithm, uint64_t workspace, size_t workspace_bytes, void* stream_handle) {
    ENTER;
    Context* const context = current;
    if (!context || !context->retained || !handles.find(handle)) return BLAS_NOT_INITIALIZED;
    if (context->error) return BLAS_EXECUTION_FAILED;
    Stream* const stream = find_stream(*context, stream_handle);
    Problem p;
    if (!stream || !find_problem(p, product, a_layout, b_layout, c_layout, d_layout)) return BLAS_INVALID_VALUE;
    if (!algorithm || algorithm->problem != p.key()) return BLAS_NOT_SUPPORTED;
    const uint64_t matrices[] = {a, b, c, d};
    for (int i = 0; i < 4; i++) {
        if (matrices[i] % algorithm->alignment[i]) return BLAS_INVALID_VALUE;
    }
    const uint64_t scratch = algorithm->workspace_bytes;
    if (scratch && (workspace_bytes < scratch || !in_device_memory(*context, workspace, scratch))) {
        return BLAS_INVALID_VALUE;
    }
    if (!is_in_memory(*context, a, p.a) || !is_in_memory(*context, b, p.b) || !is_in_memory(*context, d, p.d)) {
        return BLAS_INVALID_VALUE;
    }
    if (*beta != 0.0f && !is_in_memory(*context, c, p.c)) return BLAS_INVALID_VALUE;
    const size_t last_bias = p.d.rows + size_t((p.d.batch - 1) * p.product.bias_batch_stride);
    if ((p.product.epilogue & BIAS) && !in_device_memory(*context, p.product.bias, last_bias * bytes_of(p.d.type))) {
        return BLAS_INVALID_VALUE;
    }
    if (is_due(values.refuse_product)) return BLAS_ARCH_MISMATCH;
    if (is_due(values.fail_launch)) return BLAS_EXECUTION_FAILED;
    const auto operation = [=, alpha = *alpha, beta = *beta] {
        if (!start_kernel(*context)) return;
        values.matmuls++;
        // Whoever has something else there learns of it.
        memset(reinterpret_cast<void*>(workspace), 0xFF, scratch);
        multiply(p, alpha, a, b, beta, c, d);
    };
    return submit(*stream, operation) ? BLAS_EXECUTION_FAILED : BLAS_SUCCESS;
}
