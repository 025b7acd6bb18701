//! Finds CUDA's libraries and loads them, before anything of cudarc is used.
//!
//! cudarc knows libraries by their plain names only, and panics where one is missing. A library that is in the process
//! already is found by its name wherever it came from; so each is loaded here first, from the folder that the caller
//! names, the system's path, `CUDA_PATH`, or the folders in which Python packages bring them, and stays for ever.

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

/// The oldest driver that runs the kernels and what cuBLASLt 12 asks of a driver, as `cuDriverGetVersion` has it.
const MIN_DRIVER: i32 = 12_000;

/// Loads the driver, `libcuda`.
///
/// # Errors
/// `Unsupported` where there is none, or one that is too old, with what to do about it.
pub fn load(search: &Search, log: &Log) -> Result<()> {
    let names = if cfg!(windows) { &["nvcuda.dll"][..] } else { &["libcuda.so.1"][..] };
    // A driver is installed, never brought along: the other places have at the most a stub to link with.
    let places: Vec<PathBuf> = search.directory.iter().cloned().collect();
    // SAFETY: only looks for the library.
    if !load_first(names, &places, &[], log) || !unsafe { cudarc::driver::sys::is_culib_present() } {
        bail!(
            Unsupported,
            "no CUDA driver: {} was not found; install NVIDIA's driver for this GPU",
            names.join(" or ")
        );
    }
    let mut version: c_int = 0;
    // SAFETY: the driver is loaded; every driver has this function, which needs no context.
    let status = unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut version) };
    if status != cudarc::driver::sys::CUresult::CUDA_SUCCESS || version < MIN_DRIVER {
        bail!(
            Unsupported,
            "the CUDA driver is too old: it is for CUDA {}, at least {} is needed; install a newer NVIDIA driver",
            dotted(version),
            dotted(MIN_DRIVER)
        );
    }
    Ok(())
}

/// Loads cuBLASLt.
///
/// # Errors
/// `Unsupported` where there is none.
pub fn load_blas(search: &Search, log: &Log) -> Result<()> {
    let names = if cfg!(windows) {
        &["cublasLt64_13.dll", "cublasLt64_12.dll"][..]
    } else {
        &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"][..]
    };
    let loaded = load_first(names, &first_places(search), &later_places(), log);
    // SAFETY: only looks for the library.
    if !loaded || !unsafe { cudarc::cublaslt::sys::is_culib_present() } {
        bail!(
            Unsupported,
            "cuBLASLt was not found ({}); install the CUDA toolkit or `pip install nvidia-cublas`, or name its folder in \
             cuda_library_directory",
            names.join(", ")
        );
    }
    Ok(())
}

/// Loads NVRTC, CUDA's compiler.
///
/// # Errors
/// `Unsupported` where there is none.
pub(super) fn load_nvrtc(search: &Search, log: &Log) -> Result<()> {
    let names = if cfg!(windows) {
        &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"][..]
    } else {
        &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"][..]
    };
    let loaded = load_first(names, &first_places(search), &later_places(), log);
    // SAFETY: only looks for the library.
    if !loaded || !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
        bail!(
            Unsupported,
            "NVRTC was not found ({}); install the CUDA toolkit or `pip install nvidia-cuda-nvrtc`, or name its folder in \
             cuda_library_directory",
            names.join(", ")
        );
    }
    Ok(())
}

/// 12040 as `12.4`.
fn dotted(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// Loads the first library that is there: in one of `first`, in the system's path, in one of `later`.
fn load_first(names: &[&str], first: &[PathBuf], later: &[PathBuf], log: &Log) -> bool {
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

/// Where the caller says.
fn first_places(search: &Search) -> Vec<PathBuf> {
    search.directory.iter().cloned().collect()
}

/// The toolkit and Python's packages.
fn later_places() -> Vec<PathBuf> {
    let folder = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut places = Vec::new();
    if let Some(toolkit) = folder("CUDA_PATH") {
        places.extend(["lib64", "lib", "targets/x86_64-linux/lib", "bin"].map(|name| toolkit.join(name)));
    }
    let environments: Vec<PathBuf> =
        [folder("VIRTUAL_ENV"), folder("CONDA_PREFIX"), folder("HOME").map(|home| home.join(".local"))]
            .into_iter()
            .flatten()
            .chain(["/usr/local", "/usr"].map(PathBuf::from))
            .collect();
    for environment in environments {
        places.extend(python_folders(&environment));
    }
    places
}

/// The folders in which NVIDIA's Python packages have libraries: `lib/python3.N/site-packages/nvidia/*/lib`.
fn python_folders(environment: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for python in matching(&environment.join("lib"), |name| name.starts_with("python3")) {
        for packages in ["site-packages", "dist-packages"] {
            let nvidia = python.join(packages).join("nvidia");
            found.extend(matching(&nvidia, |_| true).into_iter().map(|package| package.join("lib")));
        }
    }
    found
}

/// What a folder holds under a name that `wanted` likes, the last name first: newer versions before older ones.
fn matching(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| wanted(&name.to_string_lossy())))
        .collect();
    found.sort();
    found.reverse();
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

    #[test]
    fn packages_of_python_are_searched_newest_first() {
        let root = folder("python");
        for path in [
            "lib/python3.11/site-packages/nvidia/cublas/lib",
            "lib/python3.12/site-packages/nvidia/cu13/lib",
            "lib/python3/dist-packages/nvidia/cuda_nvrtc/lib",
            "lib/perl5/site-packages/nvidia/cublas/lib",
        ] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        let found: Vec<String> = python_folders(&root)
            .iter()
            .map(|path| path.strip_prefix(&root).unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(
            found,
            [
                "lib/python3.12/site-packages/nvidia/cu13/lib",
                "lib/python3.11/site-packages/nvidia/cublas/lib",
                "lib/python3/dist-packages/nvidia/cuda_nvrtc/lib",
            ]
        );
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn the_named_folder_comes_first_and_what_is_no_library_is_passed_over() {
        let (named, later) = (folder("named"), folder("later"));
        let log = Log::off();
        fs::write(named.join("libdiffusion-test.so.1"), b"no library").unwrap();
        assert!(!load_first(&["libdiffusion-test.so.1"], from_ref(&named), from_ref(&later), &log));
        // Any library will do for one of CUDA's. It is found in the system's path, and in a folder only by its file.
        let system = if cfg!(target_os = "linux") { "libc.so.6" } else { return };
        assert!(load_first(&["libdiffusion-none.so", system], from_ref(&named), &[], &log));
        assert!(!load_first(&["libdiffusion-none.so"], from_ref(&named), from_ref(&later), &log));
        fs::remove_dir_all(named).unwrap();
        fs::remove_dir_all(later).unwrap();
    }

    #[test]
    fn versions_are_told_as_people_write_them() {
        assert_eq!((dotted(12_040), dotted(13_000)), ("12.4".to_owned(), "13.0".to_owned()));
    }
}
