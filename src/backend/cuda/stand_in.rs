//! What tests of this backend run on: the stand-in driver of `tests/driver`, or a real GPU.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::ffi::{CString, c_char, c_int};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libloading::Library;

/// The stand-in, reset, and nobody else's until it is dropped.
pub(crate) struct StandIn {
    library: Library,
    _turn: MutexGuard<'static, ()>,
}

static TURN: Mutex<()> = Mutex::new(());

/// Whether tests are to use the machine's own GPU, as tools/gpu_check.sh has it.
fn on_card() -> bool {
    std::env::var_os("LIBDIFFUSION_GPU").is_some()
}

/// What a test runs on that needs nothing of the stand-in, and nobody else's until it is dropped.
pub(crate) enum Gpu {
    StandIn(StandIn),
    Card { _turn: MutexGuard<'static, ()> },
}

impl Gpu {
    /// The machine's own GPU with LIBDIFFUSION_GPU in the environment, where a missing driver is the test's to find; else
    /// what [`StandIn::take`] gives.
    pub(crate) fn take() -> Option<Self> {
        if on_card() {
            return Some(Self::Card { _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner) });
        }
        StandIn::take().map(Self::StandIn)
    }

    pub(crate) fn is_card(&self) -> bool {
        matches!(self, Self::Card { .. })
    }

    /// [`StandIn::set`], and nothing on a real GPU.
    pub(crate) fn set(&self, name: &str, value: u64) {
        if let Self::StandIn(stand_in) = self {
            stand_in.set(name, value);
        }
    }

    /// [`StandIn::get`], and `None` on a real GPU, which counts nothing.
    pub(crate) fn get(&self, name: &str) -> Option<u64> {
        match self {
            Self::StandIn(stand_in) => Some(stand_in.get(name)),
            Self::Card { .. } => None,
        }
    }
}

impl StandIn {
    /// `None` on a machine whose libcuda is a real driver, or which has none: there the test has nothing to do. With
    /// LIBDIFFUSION_STAND_IN in the environment, as `make test` sets it, that is a failure.
    pub(crate) fn take() -> Option<Self> {
        if on_card() {
            return None;
        }
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let stand_in = Self::load(turn);
        if stand_in.is_none() && std::env::var_os("LIBDIFFUSION_STAND_IN").is_some() {
            panic!("libcuda.so.1 is not the stand-in driver: see `make test`");
        }
        stand_in
    }

    fn load(turn: MutexGuard<'static, ()>) -> Option<Self> {
        // SAFETY: a driver's library may be loaded at any time.
        let library = unsafe { Library::new("libcuda.so.1") }.ok()?;
        // SAFETY: the function has this type.
        unsafe { library.get::<unsafe extern "C" fn()>(b"standin_reset").ok()?() };
        Some(Self { library, _turn: turn })
    }

    /// Changes a setting of `tests/driver/driver.h`.
    pub(crate) fn set(&self, name: &str, value: u64) {
        type Set = unsafe extern "C" fn(*const c_char, u64) -> c_int;
        let text = CString::new(name).unwrap();
        // SAFETY: the function has this type.
        let known = unsafe { self.library.get::<Set>(b"standin_set").unwrap()(text.as_ptr(), value) };
        assert_eq!(known, 1, "no setting {name}");
    }

    /// A setting or a counter.
    pub(crate) fn get(&self, name: &str) -> u64 {
        type Get = unsafe extern "C" fn(*const c_char, *mut u64) -> c_int;
        let text = CString::new(name).unwrap();
        let mut value = 0;
        // SAFETY: the function has this type.
        let known = unsafe { self.library.get::<Get>(b"standin_get").unwrap()(text.as_ptr(), &mut value) };
        assert_eq!(known, 1, "no setting or counter {name}");
        value
    }
}

impl Drop for StandIn {
    /// Whoever comes next may not reset it.
    fn drop(&mut self) {
        // SAFETY: the function has this type.
        unsafe { self.library.get::<unsafe extern "C" fn()>(b"standin_reset").unwrap()() };
    }
}
