//! Version and build.

use std::ffi::{CString, c_char};
use std::sync::OnceLock;

use super::ffi::{c_string, guard_or};

const fn number(text: &str) -> u32 {
    let bytes = text.as_bytes();
    let (mut value, mut i) = (0, 0);
    while i < bytes.len() {
        value = value * 10 + (bytes[i] - b'0') as u32;
        i += 1;
    }
    value
}

const VERSION: u32 = number(env!("CARGO_PKG_VERSION_MAJOR")) * 1_000_000
    + number(env!("CARGO_PKG_VERSION_MINOR")) * 1_000
    + number(env!("CARGO_PKG_VERSION_PATCH"));

/// The version of the library that is loaded, as one number.
///
/// Compare it with ::DIFFUSION_VERSION_NUMBER, the version of the header the program was compiled with.
/// A library fits if it has the same major number and is not older.
///
/// \returns major * 1000000 + minor * 1000 + patch.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \sa diffusion_version_string
/// \ingroup version
#[unsafe(no_mangle)]
pub extern "C" fn diffusion_version() -> u32 {
    VERSION
}

/// The version of the library that is loaded, as text.
///
/// \returns For example "0.1.0". Static: valid for ever.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup version
#[unsafe(no_mangle)]
pub extern "C" fn diffusion_version_string() -> *const c_char {
    const TEXT: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    TEXT.as_ptr().cast()
}

/// How the library was built, for bug reports.
///
/// One "key: value" a line: version, target, profile, cpu (the instruction sets it has code for; the one in use is
/// ::diffusion_engine_info::device_name) and features.
///
/// \returns Several lines, each ended by a line feed. Static: valid for ever.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup version
#[unsafe(no_mangle)]
pub extern "C" fn diffusion_build_info() -> *const c_char {
    static TEXT: OnceLock<CString> = OnceLock::new();
    guard_or(c"".as_ptr(), || TEXT.get_or_init(|| c_string(&crate::api::build_info())).as_ptr())
}
