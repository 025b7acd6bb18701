//! What the models' configs have in common.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::util::error::{Result, bail};

/// A value for every block, or one a block. A list is tried first, so that in a list of lists the outer one counts
/// blocks.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum PerBlock<T> {
    Each(Vec<T>),
    Same(T),
}

impl<T: Clone> PerBlock<T> {
    /// One value a block.
    ///
    /// # Errors
    /// `Format`, naming `key`, for a list of another length.
    pub fn expand(&self, key: &str, blocks: usize) -> Result<Vec<T>> {
        match self {
            Self::Same(value) => Ok(vec![value.clone(); blocks]),
            Self::Each(values) if values.len() == blocks => Ok(values.clone()),
            Self::Each(values) => bail!(Format, "{key} has {} entries for {blocks} blocks", values.len()),
        }
    }
}

/// `sample_size`: the side of a square, or `[height, width]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum SampleSize {
    Square(u32),
    Sides([u32; 2]),
}

impl SampleSize {
    /// `(height, width)`
    pub fn sides(self) -> (u32, u32) {
        match self {
            Self::Square(side) => (side, side),
            Self::Sides([height, width]) => (height, width),
        }
    }
}

/// Checks that a size is there and not absurd, so that arithmetic on it cannot overflow.
///
/// # Errors
/// `Format`, naming `key`.
pub(super) fn bounded(key: &str, value: usize, limit: usize) -> Result<()> {
    if value == 0 || value > limit {
        bail!(Format, "{key} = {value} is not between 1 and {limit}");
    }
    Ok(())
}

/// Checks that each option is absent, null, or the one value that the code implements (or a list of it).
///
/// # Errors
/// `Unsupported`, naming the key and its value.
pub(super) fn require(config: &Map<String, Value>, options: &[(&str, Value)]) -> Result<()> {
    for (key, only) in options {
        let value = config.get(*key).unwrap_or(&Value::Null);
        let same = |value: &Value| value == only || (value.is_number() && value.as_f64() == only.as_f64());
        let fits =
            value.is_null() || same(value) || value.as_array().is_some_and(|list| list.iter().all(same));
        if !fits {
            bail!(Unsupported, "{key} = {value} is not supported");
        }
    }
    Ok(())
}
