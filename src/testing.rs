//! What the tests of several layers share: fixtures and how to compare with them.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;

use safetensors::{Dtype, SafeTensors};

fn golden_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// One `tests/golden/<name>.safetensors`, made by `tools/golden.py`.
pub(crate) struct Golden(Vec<u8>);

impl Golden {
    pub(crate) fn open(name: &str) -> Self {
        Self(std::fs::read(golden_path(&format!("{name}.safetensors"))).unwrap())
    }

    /// A tensor's shape and values, whatever its type.
    pub(crate) fn tensor(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        let view = tensors.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let data = view.data();
        let values = match view.dtype() {
            Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::I64 => {
                data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32).collect()
            }
            Dtype::U8 => data.iter().map(|b| f32::from(*b)).collect(),
            other => panic!("{name}: {other:?}"),
        };
        (view.shape().to_vec(), values)
    }

    /// A tensor's values.
    pub(crate) fn values(&self, name: &str) -> Vec<f32> {
        self.tensor(name).1
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
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = actual.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    (error / expected.iter().map(|x| square(*x)).sum::<f64>()).sqrt()
}
