//! cuBLASLt: to follow.

use super::library::Search;
use crate::util::error::Result;
use crate::util::log::Log;

/// cuBLASLt on a device, and the algorithms chosen so far.
pub(super) struct Library;

impl Library {
    /// The device's context is bound.
    pub(super) fn new(_: &Search, _: &Log) -> Result<Self> {
        Ok(Self)
    }
}

/// A session's working memory.
#[derive(Default)]
pub(super) struct Workspace;
