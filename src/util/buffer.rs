//! Memory whose size a request decides: where there is none, an error, for a failed `vec!` ends the process.

use super::error::{Result, error};

/// An empty vector with room for `len` values of `what`.
///
/// # Errors
/// `OutOfMemory`.
pub fn reserve<T>(len: usize, what: &str) -> Result<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|_| error!(OutOfMemory, "no memory for {len} values of {what}"))?;
    Ok(values)
}

/// `len` zeros.
///
/// # Errors
/// `OutOfMemory`.
pub fn zeros(len: usize, what: &str) -> Result<Vec<f32>> {
    let mut values = reserve(len, what)?;
    values.resize(len, 0.0);
    Ok(values)
}

/// A copy.
///
/// # Errors
/// `OutOfMemory`.
pub fn copy<T: Copy>(values: &[T], what: &str) -> Result<Vec<T>> {
    let mut copy = reserve(values.len(), what)?;
    copy.extend_from_slice(values);
    Ok(copy)
}
