//! NVRTC compiles the kernels' sources, which the library holds, where it brings no image for a GPU. What it makes is
//! kept on disk for the next time.

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process, ptr};

use cudarc::nvrtc::sys;

use super::library::{self, Search};
use crate::util::error::{Result, bail, error};
use crate::util::log::Log;

/// Name and text of every file of `kernels/`.
static SOURCES: &[(&str, &str)] = &include!(concat!(env!("OUT_DIR"), "/sources.rs"));

/// As tools/kernels.py has them.
const OPTIONS: [&str; 2] = ["--std=c++17", "-default-device"];

/// Machine code of `kernels/<family>.cu` for an architecture such as 80: from the cache, or compiled and put there.
///
/// # Errors
/// `Unsupported` without NVRTC, or with one that does not know the architecture; `Internal` with the compiler's log for a
/// source that does not compile.
pub(super) fn image(search: &Search, family: &str, architecture: u32, log: &Log) -> Result<Vec<u8>> {
    library::load_nvrtc(search, log)?;
    let (mut major, mut minor): (c_int, c_int) = (0, 0);
    // SAFETY: NVRTC is loaded, both are there to be written.
    check("version", unsafe { sys::nvrtcVersion(&mut major, &mut minor) })?;
    let cache = Cache::find();
    let key = key(family, architecture, (major, minor));
    if let Some(image) = cache.as_ref().and_then(|cache| cache.read(key)) {
        return Ok(image);
    }
    log.info(format_args!("cuda: compiling {family} for sm_{architecture} with NVRTC {major}.{minor}"));
    let image = compile(family, architecture)?;
    if let Some(cache) = cache {
        cache.write(key, &image);
    }
    Ok(image)
}

/// What a compiled image depends on. 64 bits tell the few dozen images of a cache apart; who could forge one may change
/// the files themselves.
fn key(family: &str, architecture: u32, version: (c_int, c_int)) -> u64 {
    let mut hash = Fnv::default();
    hash.add(family.as_bytes());
    hash.add(format!("sm_{architecture} {version:?} {OPTIONS:?}").as_bytes());
    for (name, text) in SOURCES {
        if name.ends_with(".cuh") || name.strip_suffix(".cu") == Some(family) {
            hash.add(name.as_bytes());
            hash.add(text.as_bytes());
        }
    }
    hash.0
}

/// FNV-1a (Fowler, Noll and Vo), with a zero behind each part.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(&[0]) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// A program of NVRTC's.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once.
        unsafe { sys::nvrtcDestroyProgram(&mut self.0) };
    }
}

fn check(what: &str, status: sys::nvrtcResult) -> Result<()> {
    if status == sys::nvrtcResult::NVRTC_SUCCESS {
        return Ok(());
    }
    bail!(Device, "NVRTC: {what}: {status:?}")
}

fn compile(family: &str, architecture: u32) -> Result<Vec<u8>> {
    let text =
        |text: &str| CString::new(text).map_err(|_| error!(Internal, "a zero in the kernels of {family}"));
    let Some((name, source)) = SOURCES.iter().find(|(name, _)| name.strip_suffix(".cu") == Some(family))
    else {
        bail!(Internal, "there is no kernels/{family}.cu");
    };
    let headers: Vec<_> = SOURCES.iter().filter(|(name, _)| name.ends_with(".cuh")).collect();
    let names = headers.iter().map(|(name, _)| text(name)).collect::<Result<Vec<_>>>()?;
    let texts = headers.iter().map(|(_, header)| text(header)).collect::<Result<Vec<_>>>()?;
    let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<_>>();
    let (name, source) = (text(name)?, text(source)?);
    let mut program = Program(ptr::null_mut());
    // SAFETY: NVRTC copies the texts; each array has as many pointers as there are headers.
    check("a program", unsafe {
        sys::nvrtcCreateProgram(
            &mut program.0,
            source.as_ptr(),
            name.as_ptr(),
            headers.len() as c_int,
            pointers(&texts).as_ptr(),
            pointers(&names).as_ptr(),
        )
    })?;
    let mut options = OPTIONS.iter().map(|option| text(option)).collect::<Result<Vec<_>>>()?;
    options.push(text(&format!("--gpu-architecture=sm_{architecture}"))?);
    // SAFETY: the program is there, and as many options as are said.
    let status =
        unsafe { sys::nvrtcCompileProgram(program.0, options.len() as c_int, pointers(&options).as_ptr()) };
    match status {
        sys::nvrtcResult::NVRTC_SUCCESS => {}
        sys::nvrtcResult::NVRTC_ERROR_INVALID_OPTION => bail!(
            Unsupported,
            "this NVRTC does not know the architecture sm_{architecture}; install a newer one"
        ),
        failed => return Err(with_log(error!(Internal, "NVRTC: {family}.cu: {failed:?}"), &program)),
    }
    let mut size = 0;
    // SAFETY: the program is compiled.
    check("the size of an image", unsafe { sys::nvrtcGetCUBINSize(program.0, &mut size) })?;
    let mut image = vec![0u8; size];
    // SAFETY: there is room for as many bytes as it said.
    check("an image", unsafe { sys::nvrtcGetCUBIN(program.0, image.as_mut_ptr().cast::<c_char>()) })?;
    Ok(image)
}

/// The error with the compiler's log as its detail.
fn with_log(error: crate::util::error::Error, program: &Program) -> crate::util::error::Error {
    let mut size = 0;
    // SAFETY: the program is there.
    if unsafe { sys::nvrtcGetProgramLogSize(program.0, &mut size) } != sys::nvrtcResult::NVRTC_SUCCESS {
        return error;
    }
    let mut log = vec![0u8; size + 1];
    // SAFETY: there is room for as many bytes as it said, and for one more.
    unsafe { sys::nvrtcGetProgramLog(program.0, log.as_mut_ptr().cast::<c_char>()) };
    let text = CStr::from_bytes_until_nul(&log).map(CStr::to_string_lossy).unwrap_or_default();
    text.lines().fold(error, |error, line| error.detail(line))
}

/// A folder of compiled images. What cannot be read or written is as good as not there: the images are made again.
struct Cache(PathBuf);

const MAGIC: &[u8; 8] = b"LDIMAGE1";

impl Cache {
    /// The folder of this user.
    fn find() -> Option<Self> {
        let folder = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let parent = if cfg!(windows) { folder("LOCALAPPDATA") } else { folder("XDG_CACHE_HOME") };
        let parent = parent.or_else(|| Some(folder("HOME")?.join(".cache")));
        folder("LIBDIFFUSION_CACHE_DIR").or_else(|| Some(parent?.join("libdiffusion"))).map(Self)
    }

    fn path(&self, key: u64) -> PathBuf {
        self.0.join(format!("{key:016x}.image"))
    }

    /// The image, if its file is whole: the magic number, a checksum (FNV-1a) and the image.
    fn read(&self, key: u64) -> Option<Vec<u8>> {
        let file = fs::read(self.path(key)).ok()?;
        let (sum, image) = file.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
        (checksum(image) == u64::from_le_bytes(*sum)).then(|| image.to_vec())
    }

    /// Other processes see the whole file or none: it gets its name when it is written.
    fn write(&self, key: u64, image: &[u8]) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let temporary = self.0.join(format!("{key:016x}.{}.{number}.tmp", process::id()));
        let file = [&MAGIC[..], &checksum(image).to_le_bytes(), image].concat();
        let written = fs::create_dir_all(&self.0)
            .and_then(|()| fs::write(&temporary, file))
            .and_then(|()| fs::rename(&temporary, self.path(key)));
        if written.is_err() {
            remove(&temporary);
        }
    }
}

fn remove(path: &Path) {
    // It may never have been there.
    let _ = fs::remove_file(path);
}

fn checksum(image: &[u8]) -> u64 {
    let mut hash = Fnv::default();
    hash.add(image);
    hash.0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn cache(name: &str) -> Cache {
        let folder = env::temp_dir().join(format!("libdiffusion-cache-{name}-{}", process::id()));
        let _ = fs::remove_dir_all(&folder);
        Cache(folder)
    }

    #[test]
    fn an_image_that_was_kept_comes_back_and_a_damaged_one_does_not() {
        let cache = cache("whole");
        assert_eq!(cache.read(1), None);
        cache.write(1, b"machine code");
        assert_eq!(cache.read(1).unwrap(), b"machine code");
        assert_eq!(cache.read(2), None);
        let whole = fs::read(cache.path(1)).unwrap();
        for len in 0..whole.len() {
            fs::write(cache.path(1), &whole[..len]).unwrap();
            assert_eq!(cache.read(1), None, "{len} bytes");
        }
        for i in 0..whole.len() {
            let mut changed = whole.clone();
            changed[i] ^= 0x10;
            fs::write(cache.path(1), changed).unwrap();
            assert_eq!(cache.read(1), None, "byte {i}");
        }
        cache.write(1, b"machine code");
        assert_eq!(cache.read(1).unwrap(), b"machine code");
        assert_eq!(fs::read_dir(&cache.0).unwrap().count(), 1, "no temporary files stay");
        fs::remove_dir_all(&cache.0).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_error() {
        let cache = cache("file");
        fs::write(&cache.0, b"a file in place of the folder").unwrap();
        cache.write(1, b"machine code");
        assert_eq!(cache.read(1), None);
        fs::remove_file(&cache.0).unwrap();
    }

    #[test]
    fn keys_differ_where_images_may() {
        let keys = [
            key("gemm", 80, (12, 9)),
            key("norm", 80, (12, 9)),
            key("gemm", 86, (12, 9)),
            key("gemm", 80, (13, 0)),
            key("gemm", 80, (12, 8)),
        ];
        for (i, one) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|other| other != one));
        }
        assert_eq!(keys[0], key("gemm", 80, (12, 9)));
    }

    #[test]
    fn all_sources_are_there() {
        let names: Vec<&str> = SOURCES.iter().map(|(name, _)| *name).collect();
        for name in
            ["gpu.cuh", "device.cuh", "gemm.cu", "conv.cu", "norm.cu", "attention.cu", "elementwise.cu"]
        {
            assert!(names.contains(&name), "{name}");
        }
    }
}
