//! NVRTC compiles the kernels' sources, which the library holds, where it brings no image for a GPU. What it makes is
//! kept on disk for the next time.

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process, ptr};

use cudarc::nvrtc::sys;

use super::library::{self, Search};
use super::pack::Fnv;
use crate::util::error::{Error, Result, bail, error};
use crate::util::log::Log;

/// Name and text of every file of `kernels/`.
static SOURCES: &[(&str, &str)] = &include!(concat!(env!("OUT_DIR"), "/sources.rs"));

/// As tools/kernels.py has them.
const OPTIONS: [&str; 2] = ["--std=c++17", "-default-device"];

/// Machine code of `kernels/<family>.cu` for an architecture such as 80: from the cache, or compiled and put there.
///
/// # Errors
/// `Unsupported` without an NVRTC that serves the driver and the architecture; `Internal` with the compiler's log for a
/// source that does not compile.
pub(super) fn image(
    search: &Search,
    cache: Option<&Cache>,
    family: &str,
    architecture: u32,
    log: &Log,
) -> Result<Vec<u8>> {
    let (major, minor) = library::load_nvrtc(search, log)?;
    let key = key(family, architecture, (major, minor));
    if let Some(image) = cache.and_then(|cache| cache.read(key)) {
        return Ok(image);
    }
    log.info(format_args!("cuda: compiling {family} for sm_{architecture} with NVRTC {major}.{minor}"));
    let image = compile(family, architecture)?;
    if let Some(cache) = cache {
        cache.write(key, &image);
    }
    Ok(image)
}

/// What a compiled image depends on. 64 bits are enough to tell the few dozen images of a cache apart.
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
        sys::nvrtcResult::NVRTC_ERROR_BUILTIN_OPERATION_FAILURE => {
            let message = "NVRTC does not find its libnvrtc-builtins; install all of it, in one folder";
            return Err(with_log(error!(Unsupported, "{message}"), &program));
        }
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
fn with_log(error: Error, program: &Program) -> Error {
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
pub(super) struct Cache(PathBuf);

const MAGIC: &[u8; 8] = b"LDIMAGE1";

impl Cache {
    /// The folder of this user: `None` if nothing says where it is.
    pub(super) fn find() -> Option<Self> {
        let folder = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let parent = if cfg!(windows) { folder("LOCALAPPDATA") } else { folder("XDG_CACHE_HOME") };
        // The specification has programs ignore a relative one.
        let parent = parent.filter(|parent| parent.is_absolute());
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
    use crate::backend::cuda::stand_in::StandIn;
    use crate::util::error::Status;

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

    /// The stand-in for NVRTC, which [`library::load_nvrtc`] has loaded.
    struct StandInNvrtc(libloading::Library);

    impl StandInNvrtc {
        fn find() -> Self {
            // SAFETY: it is loaded.
            Self(unsafe { libloading::Library::new("libnvrtc.so.12") }.unwrap())
        }

        fn set(&self, name: &CStr, value: u64) {
            type Set = unsafe extern "C" fn(*const c_char, u64) -> c_int;
            // SAFETY: the function has this type.
            let known = unsafe { self.0.get::<Set>(b"standin_nvrtc_set").unwrap()(name.as_ptr(), value) };
            assert_eq!(known, 1);
        }

        fn compilations(&self) -> u64 {
            type Get = unsafe extern "C" fn(*const c_char, *mut u64) -> c_int;
            let mut value = 0;
            // SAFETY: the function has this type.
            let get = unsafe { self.0.get::<Get>(b"standin_nvrtc_get") }.unwrap();
            // SAFETY: as above.
            assert_eq!(unsafe { get(c"compilations".as_ptr(), &mut value) }, 1);
            value
        }
    }

    #[test]
    fn an_image_is_compiled_once_for_each_version_and_architecture_and_again_when_damaged() {
        let Some(_stand_in) = StandIn::take() else { return };
        let cache = cache("once");
        let image = |architecture| {
            image(&Search::default(), Some(&cache), "elementwise", architecture, &Log::off()).unwrap()
        };
        let files = || fs::read_dir(&cache.0).unwrap().count();
        let first = image(80);
        let nvrtc = StandInNvrtc::find();
        let before = nvrtc.compilations();
        let compiled = || nvrtc.compilations() - before;
        assert_eq!((image(80), compiled(), files()), (first.clone(), 0, 1));
        assert_ne!(image(86), first);
        assert_eq!((compiled(), files()), (1, 2));
        nvrtc.set(c"version", 12_080);
        assert_eq!((image(80), compiled(), files()), (first.clone(), 2, 3));
        nvrtc.set(c"version", 12_090);
        let path = cache.path(key("elementwise", 80, (12, 9)));
        let whole = fs::read(&path).unwrap();
        for damaged in [&whole[..whole.len() - 1], &whole[..3], b"", b"something else that is long enough"] {
            let before = compiled();
            fs::write(&path, damaged).unwrap();
            assert_eq!((image(80), compiled() - before), (first.clone(), 1));
            assert_eq!((image(80), compiled() - before, files()), (first.clone(), 1, 3));
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
        fs::remove_dir_all(&cache.0).unwrap();
    }

    #[test]
    fn what_does_not_compile_comes_with_the_log_and_is_not_kept() {
        let Some(_stand_in) = StandIn::take() else { return };
        let cache = cache("fails");
        let image =
            |family, architecture| image(&Search::default(), Some(&cache), family, architecture, &Log::off());
        library::load_nvrtc(&Search::default(), &Log::off()).unwrap();
        let nvrtc = StandInNvrtc::find();
        nvrtc.set(c"fail", 1);
        let error = image("norm", 80).unwrap_err();
        nvrtc.set(c"fail", 0);
        assert_eq!(error.status(), Status::Internal);
        assert!(error.message().contains("norm.cu"), "{error}");
        assert_eq!(error.detail_lines(), ["norm.cu(1): error: a planted one"]);
        let error = image("norm", 130).unwrap_err();
        assert_eq!(error.status(), Status::Unsupported);
        assert!(error.message().contains("sm_130"), "{error}");
        assert_eq!(image("nothing", 80).unwrap_err().status(), Status::Internal);
        assert!(!cache.0.exists());
    }

    #[test]
    fn machine_code_that_the_driver_would_not_take_is_not_made() {
        let Some(stand_in) = StandIn::take() else { return };
        library::load_nvrtc(&Search::default(), &Log::off()).unwrap();
        let nvrtc = StandInNvrtc::find();
        let load = |driver, version| {
            stand_in.set("driver_version", driver);
            nvrtc.set(c"version", version);
            let loaded = library::load_nvrtc(&Search::default(), &Log::off());
            nvrtc.set(c"version", 12_090);
            loaded
        };
        assert_eq!(load(12_040, 12_090).unwrap(), (12, 9));
        assert_eq!(load(13_000, 13_010).unwrap(), (13, 1));
        for (driver, version, words) in
            [(12_040, 13_010, "NVRTC 13.1"), (12_040, 13_010, "-cu12"), (13_000, 11_080, "NVRTC 11.8")]
        {
            let error = load(driver, version).unwrap_err();
            assert_eq!(error.status(), Status::Unsupported);
            assert!(error.message().contains(words), "{error}");
        }
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
