//! Finds CUDA's libraries and loads them, before anything of cudarc is used.
//!
//! cudarc knows libraries by their plain names only, and panics where one is missing. A library that is in the process
//! already is found by its name wherever it came from; so each is loaded here first, from the folder that the caller
//! names, the system's path, `CUDA_PATH`, or the folders in which Python packages bring them, and stays for ever.

use std::cmp::Reverse;
use std::env;
use std::ffi::c_int;
use std::fs;
use std::path::{Path, PathBuf};

use libloading::Library;

use crate::util::error::{Result, bail};
use crate::util::log::Log;

/// Where to look for CUDA's libraries first.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// A folder with libraries, beside the usual places.
    pub directory: Option<PathBuf>,
}

/// The oldest driver that will do, as `cuDriverGetVersion` has it. CUDA 12's cuBLASLt and machine code ask for it; every
/// function of the driver that is called is older, so that none is missing.
const MIN_DRIVER: i32 = 12_000;

/// Loads the driver, `libcuda`.
///
/// # Errors
/// `Unsupported` where there is none, or one that is too old, with what to do about it.
pub fn load(search: &Search, log: &Log) -> Result<()> {
    driver(search, log).map(drop)
}

/// Loads the driver and tells its version.
fn driver(search: &Search, log: &Log) -> Result<i32> {
    let name = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };
    // A driver is installed, never brought along: the other places have at the most a stub to link with.
    let loaded = load_first(&[name.to_owned()], &first_places(search), &[], log);
    // SAFETY: only looks for the library.
    if !loaded || !unsafe { cudarc::driver::sys::is_culib_present() } {
        bail!(Unsupported, "no CUDA driver: {name} was not found; install NVIDIA's driver for this GPU");
    }
    let mut version: c_int = 0;
    // SAFETY: the driver is loaded; every driver has this function, which needs no context.
    let status = unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut version) };
    if status != cudarc::driver::sys::CUresult::CUDA_SUCCESS {
        bail!(
            Unsupported,
            "{name} is no working CUDA driver: {status:?}; install NVIDIA's driver for this GPU"
        );
    }
    if version < MIN_DRIVER {
        bail!(
            Unsupported,
            "the CUDA driver is too old: it is for CUDA {}, at least {} is needed; install a newer NVIDIA driver",
            dotted(version),
            dotted(MIN_DRIVER)
        );
    }
    Ok(version)
}

/// Loads cuBLASLt.
///
/// # Errors
/// `Unsupported` where there is none that the driver serves, and without a driver.
pub fn load_blas(search: &Search, log: &Log) -> Result<()> {
    let driver = driver(search, log)?;
    let names = names(driver, "libcublasLt", |major| format!("cublasLt64_{major}.dll"));
    let loaded = load_first(&names, &first_places(search), &later_places(), log);
    // SAFETY: only looks for the library.
    if !loaded || !unsafe { cudarc::cublaslt::sys::is_culib_present() } {
        bail!(Unsupported, "cuBLASLt was not found; {}", get("nvidia-cublas", driver));
    }
    // SAFETY: the library is loaded; the function needs no context.
    let version = unsafe { cudarc::cublaslt::sys::cublasLtGetVersion() } as i32;
    let (major, minor) = (version / 10_000, version / 100 % 100);
    if !serves(driver, major) {
        bail!(
            Unsupported,
            "cuBLASLt {major}.{minor} does not go with a driver for CUDA {}; {}",
            dotted(driver),
            get("nvidia-cublas", driver)
        );
    }
    Ok(())
}

/// Loads NVRTC, CUDA's compiler, and tells its version, major and minor.
///
/// # Errors
/// `Unsupported` where there is none whose machine code the driver takes, and without a driver.
pub(super) fn load_nvrtc(search: &Search, log: &Log) -> Result<(i32, i32)> {
    let driver = driver(search, log)?;
    let mut names = names(driver, "libnvrtc", |major| format!("nvrtc64_{major}0_0.dll"));
    if cfg!(windows) {
        // cudarc finds no other by its name there.
        names.retain(|name| name.contains("_13"));
        if names.is_empty() {
            bail!(
                Unsupported,
                "NVRTC 13 is needed on Windows and does not go with a driver for CUDA {}; install a newer NVIDIA driver",
                dotted(driver)
            );
        }
    }
    let loaded = load_first(&names, &first_places(search), &later_places(), log);
    // SAFETY: only looks for the library.
    if !loaded || !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
        bail!(Unsupported, "NVRTC was not found; {}", get("nvidia-cuda-nvrtc", driver));
    }
    let (mut major, mut minor): (c_int, c_int) = (0, 0);
    // SAFETY: the library is loaded, both are there to be written.
    let status = unsafe { cudarc::nvrtc::sys::nvrtcVersion(&mut major, &mut minor) };
    if status != cudarc::nvrtc::sys::nvrtcResult::NVRTC_SUCCESS || !serves(driver, major) {
        bail!(
            Unsupported,
            "NVRTC {major}.{minor} does not go with a driver for CUDA {}; {}",
            dotted(driver),
            get("nvidia-cuda-nvrtc", driver)
        );
    }
    Ok((major, minor))
}

/// Whether a driver takes a library of CUDA's, or what it compiles: of any minor version, but of no later major one.
fn serves(driver: i32, major: i32) -> bool {
    (MIN_DRIVER / 1000..=driver / 1000).contains(&major)
}

/// The names of a library's versions that are known and go with the driver, the newest first.
fn names(driver: i32, stem: &str, on_windows: fn(i32) -> String) -> Vec<String> {
    let majors = [13, 12].into_iter().filter(|&major| serves(driver, major));
    if cfg!(windows) {
        return majors.map(on_windows).collect();
    }
    majors.map(|major| format!("{stem}.so.{major}")).chain([format!("{stem}.so")]).collect()
}

/// How to get a library: the end of a message.
fn get(package: &str, driver: i32) -> String {
    let (suffix, major) = if driver < 13_000 { ("-cu12", "12") } else { ("", "13") };
    format!(
        "install the CUDA toolkit {major} or `pip install {package}{suffix}`, or name its folder in \
         cuda_library_directory"
    )
}

/// 12040 as `12.4`.
fn dotted(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// Loads the first library that is there: in one of `first`, in the system's path, in one of `later`.
fn load_first(names: &[String], first: &[PathBuf], later: &[PathBuf], log: &Log) -> bool {
    let load = |path: &Path| {
        load_builtins(path);
        // SAFETY: a library of CUDA's, whose start has no conditions.
        let Ok(library) = (unsafe { Library::new(path) }) else { return false };
        // cudarc keeps pointers into it.
        std::mem::forget(library);
        log.debug(format_args!("cuda: loaded {}", path.display()));
        true
    };
    let in_folder = |folder: &PathBuf| names.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    first.iter().filter_map(in_folder).any(|path| load(&path))
        || names.iter().any(|name| load(Path::new(name)))
        || later.iter().filter_map(in_folder).any(|path| load(&path))
}

/// NVRTC asks for its built-in functions by name, which the system does not find in folders of its own.
fn load_builtins(path: &Path) {
    let is_nvrtc = path.file_name().is_some_and(|name| name.to_string_lossy().contains("nvrtc"));
    let Some(folder) = path.parent().filter(|folder| is_nvrtc && folder.is_absolute()) else { return };
    for builtins in matching(folder, |name| name.contains("nvrtc-builtins") && !name.contains(".alt.")) {
        // SAFETY: as NVRTC itself would load it.
        if let Ok(library) = unsafe { Library::new(builtins) } {
            std::mem::forget(library);
        }
    }
}

/// Where the caller says. From its full path: a library's neighbours are loaded by theirs.
fn first_places(search: &Search) -> Vec<PathBuf> {
    search.directory.iter().filter_map(|directory| std::path::absolute(directory).ok()).collect()
}

/// The toolkit and Python's packages.
fn later_places() -> Vec<PathBuf> {
    let folder = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let toolkit = if cfg!(windows) {
        ["bin/x64", "bin"].as_slice()
    } else if cfg!(target_arch = "aarch64") {
        &["lib64", "lib", "targets/sbsa-linux/lib"]
    } else {
        &["lib64", "lib", "targets/x86_64-linux/lib"]
    };
    let mut places: Vec<PathBuf> =
        folder("CUDA_PATH").iter().flat_map(|root| toolkit.iter().map(|name| root.join(name))).collect();
    let mut environments: Vec<PathBuf> =
        [folder("VIRTUAL_ENV"), folder("CONDA_PREFIX")].into_iter().flatten().collect();
    if cfg!(windows) {
        let installed = folder("LOCALAPPDATA").map(|root| root.join("Programs/Python"));
        environments
            .extend(installed.iter().flat_map(|root| matching(root, |name| name.starts_with("Python3"))));
    } else {
        environments.extend(folder("HOME").map(|home| home.join(".local")));
        environments.extend(["/usr/local", "/usr"].map(PathBuf::from));
    }
    places.extend(environments.iter().flat_map(|environment| python_folders(environment)));
    places
}

/// The folders in which NVIDIA's Python packages have libraries: `lib/python3.N/site-packages/nvidia/*/lib`, on Windows
/// `Lib/site-packages/nvidia/*/bin` and, from CUDA 13 on, a folder in that.
fn python_folders(environment: &Path) -> Vec<PathBuf> {
    let lib = environment.join("lib");
    let (pythons, inside) = if cfg!(windows) {
        (vec![lib], ["bin/x86_64", "bin"].as_slice())
    } else {
        (matching(&lib, |name| name.starts_with("python3")), ["lib"].as_slice())
    };
    let mut found = Vec::new();
    for python in pythons {
        for packages in ["site-packages", "dist-packages"] {
            for package in matching(&python.join(packages).join("nvidia"), |_| true) {
                found.extend(
                    inside.iter().map(|folder| package.join(folder)).filter(|folder| folder.is_dir()),
                );
            }
        }
    }
    found
}

/// What a folder holds under a name that `wanted` likes, the longest and then the last name first: newer versions before
/// older ones, `python3.12` before `python3.9`.
fn matching(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| wanted(&name.to_string_lossy())))
        .collect();
    found.sort_by_key(|path| Reverse((path.as_os_str().len(), path.clone())));
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    /// A folder of its own for a test.
    fn folder(name: &str) -> PathBuf {
        let folder = env::temp_dir().join(format!("libdiffusion-library-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// What NVIDIA's packages have, in the order in which it is searched, and then what is passed over.
    #[cfg(not(windows))]
    const PACKAGES: ([&str; 3], [&str; 1]) = (
        [
            "lib/python3.12/site-packages/nvidia/cu13/lib",
            "lib/python3.9/site-packages/nvidia/cublas/lib",
            "lib/python3/dist-packages/nvidia/cuda_nvrtc/lib",
        ],
        ["lib/perl5/site-packages/nvidia/cublas/lib"],
    );
    #[cfg(windows)]
    const PACKAGES: ([&str; 3], [&str; 1]) = (
        [
            "Lib/site-packages/nvidia/cublas/bin",
            "Lib/site-packages/nvidia/cu13/bin/x86_64",
            "Lib/site-packages/nvidia/cu13/bin",
        ],
        ["Lib/other/nvidia/cublas/bin"],
    );

    #[test]
    fn packages_of_python_are_searched_newest_first() {
        let root = folder("python");
        let (wanted, others) = PACKAGES;
        for path in wanted.iter().chain(&others) {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        let real = |path: PathBuf| path.canonicalize().unwrap();
        let found: Vec<PathBuf> = python_folders(&root).into_iter().map(real).collect();
        assert_eq!(found, wanted.map(|path| real(root.join(path))));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn the_named_folder_comes_first_and_what_is_no_library_is_passed_over() {
        let (named, later) = (folder("named"), folder("later"));
        let log = Log::off();
        fs::write(named.join("libdiffusion-test.so.1"), b"no library").unwrap();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let none = names(&["libdiffusion-test.so.1"]);
        assert!(!load_first(&none, from_ref(&named), from_ref(&later), &log));
        // Any library will do for one of CUDA's. It is found in the system's path, and in a folder only by its file.
        let system = match env::consts::OS {
            "windows" => "kernel32.dll",
            "linux" => "libc.so.6",
            _ => return,
        };
        assert!(load_first(&names(&["libdiffusion-none.so", system]), from_ref(&named), &[], &log));
        assert!(!load_first(&names(&["libdiffusion-none.so"]), from_ref(&named), from_ref(&later), &log));
        fs::remove_dir_all(named).unwrap();
        fs::remove_dir_all(later).unwrap();
    }

    /// NVIDIA's rule of minor version compatibility: a library of CUDA 13 does not start on a driver of CUDA 12.
    #[test]
    fn a_library_is_never_of_a_later_major_version_than_the_driver() {
        let names = |driver| names(driver, "libx", |major| format!("x{major}.dll"));
        if !cfg!(windows) {
            assert_eq!(names(12_040), ["libx.so.12", "libx.so"]);
            assert_eq!(names(13_000), ["libx.so.13", "libx.so.12", "libx.so"]);
        }
        assert_eq!([11, 12, 13].map(|major| serves(12_090, major)), [false, true, false]);
        assert_eq!([11, 12, 13, 14].map(|major| serves(13_010, major)), [false, true, true, false]);
    }

    #[test]
    fn versions_are_told_as_people_write_them() {
        assert_eq!((dotted(12_040), dotted(13_000)), ("12.4".to_owned(), "13.0".to_owned()));
    }
}
