//! What the tests of several layers share: fixtures and how to compare with them.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;

use safetensors::{Dtype, SafeTensors};

/// The repository: where it was when this was compiled, or what CARGO_MANIFEST_DIR says now, as tools/gpu_check.sh does on
/// another machine.
pub(crate) fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// A file of `tests/golden`.
pub(crate) fn golden_path(name: &str) -> PathBuf {
    root().join("tests/golden").join(name)
}

/// One `tests/golden/<name>.safetensors`, made by `tools/golden.py`.
pub(crate) struct Golden(Vec<u8>);

impl Golden {
    pub(crate) fn open(name: &str) -> Self {
        Self(std::fs::read(golden_path(&format!("{name}.safetensors"))).unwrap())
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }

    /// The names of the tensors that hold `f32`.
    pub(crate) fn names(&self) -> Vec<String> {
        let file = self.file();
        let floats = file.iter().filter(|(_, view)| view.dtype() == Dtype::F32);
        floats.map(|(name, _)| name.to_owned()).collect()
    }

    pub(crate) fn shape(&self, name: &str) -> Vec<usize> {
        self.file().tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).shape().to_vec()
    }

    /// A tensor's elements of `N` bytes.
    pub(crate) fn bytes<const N: usize>(&self, name: &str) -> Vec<[u8; N]> {
        let file = self.file();
        let data = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).data();
        data.chunks_exact(N).map(|bytes| bytes.try_into().unwrap()).collect()
    }

    /// A tensor of `f32`.
    pub(crate) fn values(&self, name: &str) -> Vec<f32> {
        self.bytes(name).into_iter().map(f32::from_le_bytes).collect()
    }
}

/// One `tests/golden/<name>.json`.
pub(crate) fn golden_json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(golden_path(&format!("{name}.json"))).unwrap()).unwrap()
}

/// ‖a − b‖ / ‖b‖; infinite when a value is not finite, so that NaN never passes.
pub(crate) fn relative_l2(actual: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    if !actual.iter().all(|x| x.is_finite()) {
        return f64::INFINITY;
    }
    let square = |x: f64| x * x;
    let pairs = actual.iter().zip(expected);
    let error: f64 = pairs.map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let norm: f64 = expected.iter().map(|x| square(f64::from(*x))).sum();
    // Equal zeros are equal.
    (error / norm.max(1e-60)).sqrt()
}

#[test]
fn nan_does_not_pass() {
    assert_eq!(relative_l2(&[f32::NAN, 1.0], &[1.0, 1.0]), f64::INFINITY);
    assert!(relative_l2(&[1.001, 1.0], &[1.0, 1.0]) > 5e-4);
    assert_eq!(relative_l2(&[1.0, 0.0], &[1.0, 0.0]), 0.0);
}
