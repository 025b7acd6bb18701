//! The one error type: a status, one line that names the culprit, and the causes behind it.

use std::fmt;

/// What went wrong, as the C API reports it. The numbers are `diffusion_status` values and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Status {
    /// A bug in the library (a caught panic, a broken invariant).
    Internal = -1,
    /// An argument or option value outside its documented range.
    InvalidArgument = -2,
    /// The object cannot do this now (for example a session after an internal error).
    InvalidState = -3,
    /// The object is in use by another call.
    Busy = -4,
    /// A file, folder, option or device that does not exist.
    NotFound = -5,
    /// The operating system failed to read or write.
    Io = -6,
    /// A corrupt or unrecognised file.
    Format = -7,
    /// Valid, but not supported by this build, device or model.
    Unsupported = -8,
    /// Host memory ran out, or the engine's limit was reached.
    OutOfMemory = -9,
    /// Device memory ran out.
    DeviceOutOfMemory = -10,
    /// The device failed.
    Device = -11,
    /// The device is gone; CUDA asks that the process be started anew to use it again.
    DeviceLost = -12,
    /// The job was cancelled.
    Cancelled = -13,
    /// The caller's buffer is too small.
    BufferTooSmall = -14,
    /// The caller's structure is newer than the library.
    VersionMismatch = -15,
    /// NaN or infinity in weights or results.
    Numeric = -16,
}

impl Status {
    /// Whether the calling program is to blame rather than a file, the system or the library.
    pub fn is_usage(self) -> bool {
        matches!(
            self,
            Status::InvalidArgument
                | Status::InvalidState
                | Status::Busy
                | Status::BufferTooSmall
                | Status::VersionMismatch
        )
    }
}

/// An error with a status for programs and one line for people.
#[derive(Debug, Clone)]
pub struct Error {
    status: Status,
    message: String,
    detail: Vec<String>,
}

/// The result type of every fallible function in the library.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error whose `message` is one line, without a trailing dot, naming the file, tensor, option or value.
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), detail: Vec::new() }
    }

    /// Puts where the error happened in front of the message: `context: message`.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// Adds a line to the detail: a lower-level cause, a compiler log.
    pub fn detail(mut self, line: impl Into<String>) -> Self {
        self.detail.push(line.into());
        self
    }

    /// The error's class.
    pub fn status(&self) -> Status {
        self.status
    }

    /// One line for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Further lines, outermost cause first; empty when there is nothing to add.
    pub fn detail_lines(&self) -> &[String] {
        &self.detail
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Builds an [`Error`] from a [`Status`] variant's name and a format string:
/// `error!(Format, "{path}: header is truncated")`.
macro_rules! error {
    ($status:ident, $($message:tt)*) => {
        $crate::util::error::Error::new($crate::util::error::Status::$status, format!($($message)*))
    };
}

/// Returns early with [`error!`].
macro_rules! bail {
    ($status:ident, $($message:tt)*) => {
        return Err($crate::util::error::error!($status, $($message)*))
    };
}

pub(crate) use {bail, error};
