//! What the tests share: the stand-in's controls, a context and a stream, numbers, comparison.

use std::ffi::CString;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard};

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, DriverError, LaunchConfig};
use cudarc::nvrtc::Ptx;
use libloading::Library;

/// Stands for every kernel, on any GPU from sm_80 on.
pub const IMAGE: &str = ".version 8.8\n.target sm_80\n.address_size 64\n";

/// The stand-in, reset, and nobody else's until it is dropped.
pub struct StandIn {
    library: Library,
    _turn: MutexGuard<'static, ()>,
}

static TURN: Mutex<()> = Mutex::new(());

impl StandIn {
    pub fn new() -> StandIn {
        let turn = TURN.lock().unwrap_or_else(|failed| failed.into_inner());
        // SAFETY: a driver's library may be loaded at any time.
        let library =
            unsafe { Library::new("libcuda.so.1") }.expect("no libcuda.so.1: run `make test-driver`");
        let stand_in = StandIn { library, _turn: turn };
        // SAFETY: the function has this type.
        unsafe {
            let reset = stand_in.library.get::<unsafe extern "C" fn()>(b"standin_reset");
            reset.expect("libcuda.so.1 is a real driver: run `make test-driver`")();
        }
        stand_in
    }

    pub fn set(&self, name: &str, value: u64) {
        type Set = unsafe extern "C" fn(*const i8, u64) -> i32;
        let text = CString::new(name).unwrap();
        // SAFETY: the function has this type.
        let known = unsafe { self.library.get::<Set>(b"standin_set").unwrap()(text.as_ptr(), value) };
        assert_eq!(known, 1, "no setting {name}");
    }

    pub fn get(&self, name: &str) -> u64 {
        type Get = unsafe extern "C" fn(*const i8, *mut u64) -> i32;
        let text = CString::new(name).unwrap();
        let mut value = 0;
        // SAFETY: the function has this type.
        let known = unsafe { self.library.get::<Get>(b"standin_get").unwrap()(text.as_ptr(), &mut value) };
        assert_eq!(known, 1, "no setting or counter {name}");
        value
    }

    /// A stream on device 0, with its context and a module that has every kernel.
    pub fn gpu(&self) -> Gpu {
        self.gpu_at(0)
    }

    pub fn gpu_at(&self, ordinal: usize) -> Gpu {
        let context = CudaContext::new(ordinal).unwrap();
        // SAFETY: the tests order their streams themselves.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().unwrap();
        let module = context.load_module(Ptx::from_src(IMAGE)).unwrap();
        Gpu { module, stream, context }
    }
}

pub struct Gpu {
    pub module: Arc<CudaModule>,
    pub stream: Arc<CudaStream>,
    pub context: Arc<CudaContext>,
}

impl Gpu {
    pub fn kernel(&self, name: &str) -> CudaFunction {
        self.module.load_function(name).unwrap_or_else(|error| panic!("{name}: {error:?}"))
    }
}

pub fn config(grid: (u32, u32, u32), threads: u32, shared_mem_bytes: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: grid, block_dim: (threads, 1, 1), shared_mem_bytes }
}

/// Fails unless the call failed, and with that code.
#[track_caller]
pub fn expect_error<T: Debug>(result: Result<T, DriverError>, code: CUresult) {
    match result {
        Err(DriverError(got)) => assert_eq!(got, code),
        Ok(value) => panic!("{value:?} instead of {code:?}"),
    }
}

/// `count` reproducible numbers in (-1, 1).
pub fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed * 2 + 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Holds values against f64 ones. `rounding` is relative to each and to the typical one; NaN never passes.
#[track_caller]
pub fn expect_close(got: impl IntoIterator<Item = f32>, expected: &[f64], rounding: f64) {
    let got: Vec<f32> = got.into_iter().collect();
    assert_eq!(got.len(), expected.len());
    let typical = (expected.iter().map(|e| e * e).sum::<f64>() / expected.len() as f64).sqrt();
    for (i, (&g, &e)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(g) - e).abs();
        assert!(error <= rounding * (e.abs() + typical), "value {i} is {g}, not {e}");
    }
}
