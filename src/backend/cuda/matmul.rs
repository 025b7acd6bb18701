//! Products by cuBLASLt. Descriptors and the algorithm are chosen once for each shape.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_void;
use std::sync::Mutex;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtEpilogue_t, cublasLtMatmulDescAttributes_t as Attribute,
    cublasLtMatmulPreferenceAttributes_t as Preferred, cublasStatus_t, cudaDataType_t,
};
use cudarc::driver::sys::CUdeviceptr;

use super::device::{Device, lock};
use super::library::{self, Search};
use super::pool::Buffer;
use super::{Cuda, Precision};
use crate::util::error::{Error, Result, bail, error};
use crate::util::log::Log;

/// cuBLAS's CUBLAS_OP_T.
const TRANSPOSED: i32 = 1;

/// cuBLASLt on a device, and what was chosen so far. The device's context has to be bound for all its calls.
pub(super) struct Library(Mutex<Choices>);

struct Choices {
    /// Those of which cuBLASLt knows none are `None`.
    plans: HashMap<Key, Option<Plan>>,
    handle: sys::cublasLtHandle_t,
}

// SAFETY: handles of cuBLASLt, which may be used from any thread, one at a time.
unsafe impl Send for Choices {}

impl Drop for Choices {
    fn drop(&mut self) {
        self.plans.clear();
        // SAFETY: created in `Library::new`, and its plans are gone.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Library {
    /// The device's context is bound.
    pub(super) fn new(search: &Search, log: &Log) -> Result<Self> {
        library::load_blas(search, log)?;
        match result::create_handle() {
            Ok(handle) => Ok(Self(Mutex::new(Choices { plans: HashMap::new(), handle }))),
            Err(CublasError(status)) => bail!(Device, "cuBLASLt does not start: {status:?}"),
        }
    }
}

/// A session's working memory for cuBLASLt, allocated at its first product.
#[derive(Default)]
pub(super) struct Workspace(Mutex<Option<Buffer>>);

impl Workspace {
    fn pointer(&self, cuda: &Cuda) -> Result<CUdeviceptr> {
        let mut buffer = lock(&self.0);
        if let Some(buffer) = &*buffer {
            return Ok(buffer.pointer());
        }
        let new = Buffer::new(&cuda.device, workspace_bytes(&cuda.device), "cuBLASLt's workspace")?;
        let pointer = new.pointer();
        *buffer = Some(new);
        Ok(pointer)
    }
}

/// What NVIDIA recommends for each architecture.
pub(super) fn workspace_bytes(device: &Device) -> usize {
    if device.architecture >= 90 { 32 << 20 } else { 8 << 20 }
}

/// `y = x · wᵀ + bias + residual`: x `[rows, depth]`, w `[columns, depth]`, bias `[columns]`, residual and y
/// `[rows, columns]`, all in the precision of the activations, none of their sizes 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) depth: usize,
    pub(super) x: CUdeviceptr,
    pub(super) w: CUdeviceptr,
    pub(super) bias: Option<CUdeviceptr>,
    pub(super) residual: Option<CUdeviceptr>,
    pub(super) y: CUdeviceptr,
}

/// What an algorithm is chosen for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    rows: usize,
    columns: usize,
    depth: usize,
    bias: bool,
    /// Bytes of which the pointers to w, x, residual and y are multiples.
    alignment: [u32; 4],
}

impl Product {
    /// What y is added to; y itself where that is nothing.
    fn added(&self) -> CUdeviceptr {
        self.residual.unwrap_or(self.y)
    }

    fn key(&self) -> Key {
        // 256 is what cuBLASLt supposes when nobody tells it.
        let alignment = [self.w, self.x, self.added(), self.y].map(|p| 1 << p.trailing_zeros().min(8));
        let Self { rows, columns, depth, .. } = *self;
        Key { rows, columns, depth, bias: self.bias.is_some(), alignment }
    }
}

impl Cuda {
    /// Puts a product in the stream. `false`: cuBLASLt has no algorithm for it, and nothing was done.
    ///
    /// # Safety
    /// The pointers have the room that [`Product`] says, and their memory belongs to tensors of this session or to
    /// weights.
    pub(super) unsafe fn blas(&self, operation: &str, product: &Product) -> Result<bool> {
        let workspace = self.workspace.pointer(self)?;
        let mut choices = lock(&self.device.library.0);
        let handle = choices.handle;
        let fail = |e| failure(&self.device, operation, e);
        let slot = match choices.plans.entry(product.key()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let found = Plan::new(handle, entry.key(), &self.device).map_err(fail)?;
                entry.insert(found)
            }
        };
        let Some(plan) = slot else { return Ok(false) };
        if let Some(bias) = product.bias {
            plan.descriptor.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias).map_err(fail)?;
        }
        let (alpha, beta) = (1.0f32, if product.residual.is_some() { 1.0f32 } else { 0.0 });
        // SAFETY: the plan is for these sizes, types and alignments, and for a workspace of this size; α and β are read
        // before the call returns. The matrices are the caller's.
        let multiplied = unsafe {
            result::matmul(
                handle,
                plan.descriptor.0,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                product.w as *const c_void,
                plan.w.0,
                product.x as *const c_void,
                plan.x.0,
                product.added() as *const c_void,
                plan.y.0,
                product.y as *mut c_void,
                plan.y.0,
                &plan.algorithm,
                workspace as *mut c_void,
                workspace_bytes(&self.device),
                self.pool.stream.handle().cast(),
            )
        };
        match multiplied {
            Ok(()) => Ok(true),
            Err(CublasError(status)) if is_refusal(status) => {
                // What the heuristic offered is not for this GPU: a cuBLASLt that is older than it.
                self.device.warn_once(format_args!("cuBLASLt: {status:?} on {}", self.device.name()));
                *slot = None;
                Ok(false)
            }
            Err(error) => Err(fail(error)),
        }
    }
}

/// Whether cuBLASLt has nothing for a product, or not for this GPU.
fn is_refusal(status: cublasStatus_t) -> bool {
    matches!(
        status,
        cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED | cublasStatus_t::CUBLAS_STATUS_ARCH_MISMATCH
    )
}

/// An error of cuBLASLt, or of the driver if that is behind it.
fn failure(device: &Device, operation: &str, CublasError(status): CublasError) -> Error {
    if status == cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED {
        return error!(DeviceOutOfMemory, "{operation}: cuBLASLt is out of memory on {}", device.name());
    }
    match device.check(operation, cudarc::driver::result::mem_get_info()) {
        Err(error) => error,
        Ok(_) => error!(Device, "{operation}: {status:?} on {}", device.name()),
    }
}

/// A product's descriptors and algorithm.
struct Plan {
    descriptor: Descriptor,
    w: Layout,
    x: Layout,
    /// Of the residual and the result.
    y: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Plan {
    /// Searches for the best algorithm; `None` if there is none at all.
    fn new(
        handle: sys::cublasLtHandle_t,
        key: &Key,
        device: &Device,
    ) -> std::result::Result<Option<Self>, CublasError> {
        let &Key { rows, columns, depth, bias, alignment } = key;
        let data = match device.precision {
            Precision::F16 => cudaDataType_t::CUDA_R_16F,
            Precision::Bf16 => cudaDataType_t::CUDA_R_16BF,
            Precision::F32 => cudaDataType_t::CUDA_R_32F,
        };
        // Matrices are column by column to cuBLASLt: yᵀ = w · xᵀ, where w comes transposed.
        let (w, x) = (Layout::new(data, depth, columns)?, Layout::new(data, depth, rows)?);
        let y = Layout::new(data, columns, rows)?;
        let descriptor = Descriptor::new()?;
        descriptor.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &TRANSPOSED)?;
        if bias {
            let epilogue = cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            descriptor.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
        }
        let preference = Preference::new()?;
        preference
            .set(Preferred::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &(workspace_bytes(device) as u64))?;
        // Where the depth is split, partial sums stay f32.
        let reduction = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        preference.set(Preferred::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction)?;
        let attributes = [
            Preferred::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Preferred::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Preferred::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Preferred::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ];
        for (attribute, bytes) in attributes.into_iter().zip(alignment) {
            preference.set(attribute, &bytes)?;
        }
        // SAFETY: all of them exist.
        let found = unsafe {
            result::get_matmul_algo_heuristic(handle, descriptor.0, w.0, x.0, y.0, y.0, preference.0)
        };
        match found {
            Ok(found) => Ok(Some(Self { descriptor, w, x, y, algorithm: found.algo })),
            Err(CublasError(status)) if is_refusal(status) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A matrix, column by column without gaps.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(data: cudaDataType_t, rows: usize, columns: usize) -> std::result::Result<Self, CublasError> {
        let stride =
            i64::try_from(rows).map_err(|_| CublasError(cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE))?;
        result::create_matrix_layout(data, rows as u64, columns as u64, stride).map(Self)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: created in `new`, destroyed once.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

struct Descriptor(sys::cublasLtMatmulDesc_t);

impl Descriptor {
    /// Sums in f32, and no TF32 on the way.
    fn new() -> std::result::Result<Self, CublasError> {
        let compute = cublasComputeType_t::CUBLAS_COMPUTE_32F;
        result::create_matmul_desc(compute, cudaDataType_t::CUDA_R_32F).map(Self)
    }

    /// `value` has the attribute's type.
    fn set<T>(&self, attribute: Attribute, value: &T) -> std::result::Result<(), CublasError> {
        // SAFETY: the descriptor exists; the value is copied.
        unsafe {
            result::set_matmul_desc_attribute(self.0, attribute, (&raw const *value).cast(), size_of::<T>())
        }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: created in `new`, destroyed once.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new() -> std::result::Result<Self, CublasError> {
        result::create_matmul_pref().map(Self)
    }

    /// `value` has the attribute's type.
    fn set<T>(&self, attribute: Preferred, value: &T) -> std::result::Result<(), CublasError> {
        // SAFETY: the preference exists; the value is copied.
        unsafe {
            result::set_matmul_pref_attribute(self.0, attribute, (&raw const *value).cast(), size_of::<T>())
        }
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: created in `new`, destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}
