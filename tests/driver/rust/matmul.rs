//! cuBLASLt.

use std::ffi::c_void;

use cudarc::cublaslt::{Activation, CudaBlasLT, Matmul, MatmulConfig, result, sys};
use cudarc::driver::{CudaSlice, DevicePtr};
use half::{bf16, f16};

use crate::support::*;

fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + (0.7978845608028654 * (x + 0.044715 * x * x * x)).tanh())
}

/// y = x · wᵀ + bias in f64: x [rows, depth], w [columns, depth].
fn linear(x: &[f32], w: &[f32], bias: &[f32], depth: usize) -> Vec<f64> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let row = |x| w.chunks(depth).zip(bias).map(move |(w, &b)| dot(x, w) + f64::from(b));
    x.chunks(depth).flat_map(row).collect()
}

/// Row-major y is column-major yᵀ = w · xᵀ, and w, row-major, is column-major wᵀ.
#[test]
fn a_linear_layer_with_bias_and_gelu() {
    let stand_in = StandIn::new();
    let gpu = stand_in.gpu();
    let (rows, columns, depth) = (5, 24, 16);
    let round = |values: Vec<f32>| -> Vec<f16> { values.into_iter().map(f16::from_f32).collect() };
    let [x, w, bias] =
        [(rows * depth, 1), (columns * depth, 2), (columns, 3)].map(|(n, s)| round(numbers(n, s)));
    let [x_device, w_device, bias_device] = [&x, &w, &bias].map(|v| gpu.stream.clone_htod(v).unwrap());
    let mut y = gpu.stream.alloc_zeros::<f16>(rows * columns).unwrap();
    let blas = CudaBlasLT::new(gpu.stream.clone()).unwrap();
    let config = MatmulConfig {
        transa: true,
        transb: false,
        transc: false,
        m: columns as u64,
        n: rows as u64,
        k: depth as u64,
        alpha: 1.0,
        lda: depth as i64,
        ldb: depth as i64,
        beta: 0.0,
        ldc: columns as i64,
        stride_a: None,
        stride_b: None,
        stride_c: None,
        stride_bias: None,
        batch_size: None,
    };
    // SAFETY: the matrices are as large as the configuration says.
    let product = unsafe {
        blas.matmul(config, &w_device, &x_device, &mut y, Some(&bias_device), Some(&Activation::Gelu))
    };
    product.unwrap();
    let [x, w, bias] = [x, w, bias].map(|v| v.into_iter().map(f16::to_f32).collect::<Vec<_>>());
    let expected: Vec<f64> = linear(&x, &w, &bias, depth).into_iter().map(gelu_tanh).collect();
    let got = gpu.stream.clone_dtoh(&y).unwrap();
    expect_close(got.into_iter().map(f16::to_f32), &expected, 1.05 / 2048.0);
    assert_eq!((stand_in.get("matmuls"), stand_in.get("heuristics")), (1, 1));
}

/// Two products of column-major matrices, c += a · bᵀ in bf16, then ReLU.
#[test]
fn a_batch_that_adds_to_what_is_there() {
    let stand_in = StandIn::new();
    let gpu = stand_in.gpu();
    let (m, n, k) = (3usize, 5, 4);
    let round = |values: Vec<f32>| -> Vec<bf16> { values.into_iter().map(bf16::from_f32).collect() };
    let [a, b, c] = [(2 * m * k, 1), (2 * n * k, 2), (2 * m * n, 3)].map(|(n, s)| round(numbers(n, s)));
    let [a_device, b_device, mut c_device] = [&a, &b, &c].map(|v| gpu.stream.clone_htod(v).unwrap());
    let blas = CudaBlasLT::new(gpu.stream.clone()).unwrap();
    let config = MatmulConfig {
        transa: false,
        transb: true,
        transc: false,
        m: m as u64,
        n: n as u64,
        k: k as u64,
        alpha: 1.0,
        lda: m as i64,
        ldb: n as i64,
        beta: 1.0,
        ldc: m as i64,
        stride_a: Some((m * k) as i64),
        stride_b: Some((n * k) as i64),
        stride_c: Some((m * n) as i64),
        stride_bias: None,
        batch_size: Some(2),
    };
    // SAFETY: the matrices are as large as the configuration says.
    unsafe { blas.matmul(config, &a_device, &b_device, &mut c_device, None, Some(&Activation::Relu)) }
        .unwrap();
    let expected: Vec<f64> = (0..2 * m * n)
        .map(|i| {
            let (item, row, column) = (i / (m * n), i % m, i % (m * n) / m);
            let term =
                |d: usize| a[item * m * k + d * m + row].to_f64() * b[item * n * k + d * n + column].to_f64();
            (c[i].to_f64() + (0..k).map(term).sum::<f64>()).max(0.0)
        })
        .collect();
    let got = gpu.stream.clone_dtoh(&c_device).unwrap();
    expect_close(got.into_iter().map(bf16::to_f32), &expected, 1.05 / 256.0);
}

/// What a backend keeps for a shape: y = x · wᵀ + bias in f32, with the row order of its tensors.
struct Plan {
    handle: sys::cublasLtHandle_t,
    product: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    found: sys::cublasLtMatmulHeuristicResult_t,
}

fn attribute<T>(value: &T) -> (*const c_void, usize) {
    ((&raw const *value).cast(), size_of::<T>())
}

impl Plan {
    /// Computes yᵀ = w · xᵀ, as the bias goes along columns of cuBLASLt's result.
    fn new(rows: u64, columns: u64, depth: u64, bias: &CudaSlice<f32>, gpu: &Gpu) -> Plan {
        use sys::cublasLtMatmulDescAttributes_t as D;
        let float = sys::cudaDataType_t::CUDA_R_32F;
        let layout = |order: sys::cublasLtOrder_t, rows, columns, stride| {
            let layout = result::create_matrix_layout(float, rows, columns, stride as i64).unwrap();
            let (value, bytes) = attribute(&order);
            let name = sys::cublasLtMatrixLayoutAttribute_t::CUBLASLT_MATRIX_LAYOUT_ORDER;
            // SAFETY: the layout is alive, the value of the attribute's size.
            unsafe { result::set_matrix_layout_attribute(layout, name, value, bytes) }.unwrap();
            layout
        };
        let (row, column) =
            (sys::cublasLtOrder_t::CUBLASLT_ORDER_ROW, sys::cublasLtOrder_t::CUBLASLT_ORDER_COL);
        let layouts = [
            layout(row, columns, depth, depth),
            layout(column, depth, rows, depth),
            layout(column, columns, rows, columns),
        ];
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let product = result::create_matmul_desc(compute, float).unwrap();
        let (pointer, _) = bias.device_ptr(&gpu.stream);
        let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
        let preference = result::create_matmul_pref().unwrap();
        let handle = result::create_handle().unwrap();
        // SAFETY: all are alive, the values of the attributes' sizes.
        let found = unsafe {
            let (value, bytes) = attribute(&epilogue);
            result::set_matmul_desc_attribute(product, D::CUBLASLT_MATMUL_DESC_EPILOGUE, value, bytes)
                .unwrap();
            let (value, bytes) = attribute(&pointer);
            result::set_matmul_desc_attribute(product, D::CUBLASLT_MATMUL_DESC_BIAS_POINTER, value, bytes)
                .unwrap();
            let (value, bytes) = attribute(&(1usize << 20));
            let most = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            result::set_matmul_pref_attribute(preference, most, value, bytes).unwrap();
            let [a, b, d] = layouts;
            let found = result::get_matmul_algo_heuristic(handle, product, a, b, d, d, preference);
            result::destroy_matmul_pref(preference).unwrap();
            found.unwrap()
        };
        Plan { handle, product, layouts, found }
    }

    fn run(
        &self,
        algorithm: &sys::cublasLtMatmulAlgo_t,
        [w, x, y, workspace]: [u64; 4],
        workspace_bytes: usize,
        gpu: &Gpu,
    ) -> Result<(), result::CublasError> {
        let (alpha, beta) = (1.0f32, 0.0f32);
        let [a, b, d] = self.layouts;
        // SAFETY: the call finds out what is too small.
        unsafe {
            result::matmul(
                self.handle,
                self.product,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                w as *const c_void,
                a,
                x as *const c_void,
                b,
                y as *const c_void,
                d,
                y as *mut c_void,
                d,
                algorithm,
                workspace as *mut c_void,
                workspace_bytes,
                gpu.stream.cu_stream().cast(),
            )
        }
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: made by `new`, not used any more.
        unsafe {
            for layout in self.layouts {
                result::destroy_matrix_layout(layout).unwrap();
            }
            result::destroy_matmul_desc(self.product).unwrap();
            result::destroy_handle(self.handle).unwrap();
        }
    }
}

#[test]
fn a_kept_algorithm_serves_what_it_was_found_for() {
    let stand_in = StandIn::new();
    let gpu = stand_in.gpu();
    let (rows, columns, depth) = (7, 24, 16);
    let [x, w, bias] = [(rows * depth, 1), (columns * depth, 2), (columns, 3)].map(|(n, s)| numbers(n, s));
    // One value more than the product reads, so that shifting x does not leave the memory.
    let x_and_more = [&x[..], &[0.0]].concat();
    let [x_device, w_device, bias_device] =
        [&x_and_more, &w, &bias].map(|v| gpu.stream.clone_htod(v).unwrap());
    let y = gpu.stream.alloc_zeros::<f32>(rows * columns).unwrap();
    let plan = Plan::new(rows as u64, columns as u64, depth as u64, &bias_device, &gpu);
    let other = Plan::new(rows as u64 - 1, columns as u64, depth as u64, &bias_device, &gpu);
    let bytes = plan.found.workspaceSize;
    assert!(bytes > 0);
    let workspace = gpu.stream.alloc_zeros::<u8>(bytes).unwrap();
    let pointers = [&w_device, &x_device, &y].map(|m| m.device_ptr(&gpu.stream).0);
    let [w_at, x_at, y_at] = pointers;
    let workspace_at = workspace.device_ptr(&gpu.stream).0;
    let all = [w_at, x_at, y_at, workspace_at];

    let invalid = Err(result::CublasError(sys::cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE));
    let unsupported = Err(result::CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED));
    assert_eq!(plan.run(&other.found.algo, all, bytes, &gpu), unsupported);
    assert_eq!(plan.run(&plan.found.algo, all, bytes - 1, &gpu), invalid);
    assert_eq!(plan.run(&plan.found.algo, [w_at, x_at, y_at, 0], bytes, &gpu), invalid);
    assert_eq!(plan.run(&plan.found.algo, [w_at, x_at + 4, y_at, workspace_at], bytes, &gpu), invalid);
    assert_eq!(plan.run(&plan.found.algo, [x_at, w_at, y_at, workspace_at], bytes, &gpu), invalid);
    stand_in.set("fail_launch", 1);
    let failed = Err(result::CublasError(sys::cublasStatus_t::CUBLAS_STATUS_EXECUTION_FAILED));
    assert_eq!(plan.run(&plan.found.algo, all, bytes, &gpu), failed);
    assert_eq!(stand_in.get("matmuls"), 0);

    plan.run(&plan.found.algo, all, bytes, &gpu).unwrap();
    expect_close(gpu.stream.clone_dtoh(&y).unwrap(), &linear(&x, &w, &bias, depth), 4e-6);
    // The workspace is written to.
    assert!(gpu.stream.clone_dtoh(&workspace).unwrap().contains(&0xFF));
    assert_eq!((stand_in.get("matmuls"), stand_in.get("heuristics")), (1, 2));
}
