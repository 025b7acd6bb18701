//! The flag that stops a job.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::{Result, bail};

/// A flag shared between a job and whoever may cancel it. Clones share the flag; any thread may set it.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the work to stop. It cannot be taken back.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Fails with `Cancelled` once [`Cancel::cancel`] was called.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            bail!(Cancelled, "the job was cancelled");
        }
        Ok(())
    }
}
