//! What becomes of CUDA on machines that lack a library, or have it in an odd place. Each machine is a process of its own:
//! this program, run again with another environment on the stand-in driver.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::{env, fs, process};

use diffusion::backend::cuda::library::Search;
use diffusion::backend::cuda::{Cuda, Options};
use diffusion::backend::{Activation, Backend, Shape};
use diffusion::util::error::Result;
use diffusion::util::log::{Level, Log};

/// Compute capability 11.0: no pack has machine code for it, so that NVRTC is needed, or PTX.
const UNKNOWN: (&str, &str) = ("STANDIN_ARCHITECTURE", "110");

/// Not a test of its own: what the others run, and read the output of.
#[test]
fn machine() {
    if env::var_os("DIFFUSION_TEST_MACHINE").is_none() {
        return;
    }
    let lines = Arc::new(Mutex::new(Vec::new()));
    let heard = lines.clone();
    let options = Options {
        search: Search { directory: env::var_os("DIFFUSION_TEST_DIRECTORY").map(PathBuf::from) },
        log: Log::new(Level::Debug, Arc::new(move |_, line| heard.lock().unwrap().push(line.to_owned()))),
        ..Options::default()
    };
    let computed = compute(&options);
    for line in lines.lock().unwrap().iter() {
        println!("\nlog: {line}");
    }
    match computed {
        Ok(value) => println!("\nresult: {value:.3}"),
        Err(error) => {
            println!("\nerror: {:?}: {error}", error.status());
            for line in error.detail_lines() {
                println!("detail: {line}");
            }
        }
    }
}

/// SiLU of 1.
fn compute(options: &Options) -> Result<f32> {
    let cuda = Cuda::new(options)?;
    let x = cuda.upload(Shape::vector(1, 8), &[1.0; 8])?;
    let mut out = [0.0; 8];
    cuda.download(&cuda.activation(&x, Activation::Silu)?, &mut out)?;
    Ok(out[7])
}

/// What a machine said.
struct Said(String);

impl Said {
    #[track_caller]
    fn has(&self, words: &str) -> &Self {
        assert!(self.0.contains(words), "no {words:?} in:{}", self.0);
        self
    }

    #[track_caller]
    fn works(&self) -> &Self {
        self.has("\nresult: 0.731")
    }

    #[track_caller]
    fn lacks(&self, words: &str) -> &Self {
        self.has("\nerror: Unsupported: ").has(words)
    }

    /// Without the tested library's images there is an error; with a pack in it the driver takes PTX instead.
    #[track_caller]
    fn lacks_or_takes_ptx(&self, words: &str) -> &Self {
        match self.0.contains("\nresult: ") {
            true => self.works().has(&format!("the driver compiles PTX, since {words}")),
            false => self.lacks(words).has("no kernels for compute capability 11.0"),
        }
    }
}

/// Folders for the machines of a test, gone with it; `None` without the stand-in.
struct Place {
    root: PathBuf,
    stand_in: PathBuf,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

impl Place {
    fn new(name: &str) -> Option<Self> {
        let stand_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("build/tests/driver");
        if !stand_in.join("nvrtc/libnvrtc.so").exists() {
            let wanted = env::var_os("LIBDIFFUSION_STAND_IN").is_some();
            assert!(!wanted, "no stand-in driver in {}: see `make test`", stand_in.display());
            return None;
        }
        let root = env::temp_dir().join(format!("libdiffusion-loading-{name}-{}", process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).unwrap();
        Some(Self { root, stand_in })
    }

    /// A folder with what `from`, a folder of the stand-in's, has.
    fn folder(&self, path: &str, from: &str) -> String {
        let folder = self.root.join(path);
        fs::create_dir_all(&folder).unwrap();
        for entry in fs::read_dir(self.stand_in.join(from)).unwrap() {
            let entry = entry.unwrap();
            // With its version: without, only who compiles would ask for it.
            if entry.file_name().to_string_lossy().contains(".so.12") {
                symlink(entry.path(), folder.join(entry.file_name())).unwrap();
            }
        }
        self.path(path)
    }

    fn path(&self, path: &str) -> String {
        self.root.join(path).display().to_string()
    }

    /// A machine that has `folders` of the stand-in in the system's path, and these variables.
    fn start(&self, folders: &[&str], variables: &[(&str, &str)]) -> Child {
        let path: Vec<String> =
            folders.iter().map(|folder| self.stand_in.join(folder).display().to_string()).collect();
        let mut all: HashMap<&str, String> =
            HashMap::from([("LIBDIFFUSION_CACHE_DIR", self.path("cache")), ("HOME", self.path("home"))]);
        all.extend(variables.iter().map(|(name, value)| (*name, (*value).to_owned())));
        Command::new(env::current_exe().unwrap())
            .args(["--exact", "machine", "--nocapture", "--test-threads=1"])
            .env_clear()
            .env("LD_LIBRARY_PATH", path.join(":"))
            .env("DIFFUSION_TEST_MACHINE", "1")
            .envs(all)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn run(&self, folders: &[&str], variables: &[(&str, &str)]) -> Said {
        said(self.start(folders, variables))
    }
}

fn said(machine: Child) -> Said {
    let output = machine.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    Said(text)
}

const ALL: [&str; 3] = ["cuda", "cublaslt", "nvrtc"];

#[test]
fn each_missing_library_is_named_with_what_to_do() {
    let Some(place) = Place::new("missing") else { return };
    place.run(&ALL, &[UNKNOWN]).works().has("compiling elementwise for sm_110 with NVRTC 12.9");
    place.run(&ALL, &[("STANDIN_DEVICES", "0")]).lacks("no NVIDIA GPU");
    place
        .run(&ALL, &[("STANDIN_DRIVER_VERSION", "11040")])
        .lacks("too old: it is for CUDA 11.4, at least 12.0 is needed; install a newer NVIDIA driver");
    place.run(&ALL, &[("STANDIN_ARCHITECTURE", "75")]).lacks("compute capability 7.5, at least 8.0");
    // A machine with the real libraries in the system's path cannot lack them.
    let real = |name: &str| {
        // SAFETY: only looks for the library.
        unsafe { libloading::Library::new(name) }.is_ok() && env::var_os("LIBDIFFUSION_STAND_IN").is_none()
    };
    if !real("libcuda.so.1") {
        place.run(&[], &[]).lacks("no CUDA driver: libcuda.so.1 was not found; install NVIDIA's driver");
    }
    if !real("libcublasLt.so.12") && !real("libcublasLt.so.13") {
        place.run(&["cuda", "nvrtc"], &[]).lacks("cuBLASLt was not found").has("pip install nvidia-cublas`");
        place
            .run(&["cuda", "nvrtc"], &[("STANDIN_DRIVER_VERSION", "12040")])
            .lacks("cuBLASLt was not found")
            .has("pip install nvidia-cublas-cu12`");
    }
    if !real("libnvrtc.so.12") && !real("libnvrtc.so.13") {
        place.run(&["cuda", "cublaslt"], &[UNKNOWN]).lacks_or_takes_ptx("NVRTC was not found");
    }
}

#[test]
fn a_library_that_the_driver_does_not_serve_is_refused() {
    let Some(place) = Place::new("versions") else { return };
    let old = ("STANDIN_DRIVER_VERSION", "12040");
    place.run(&ALL, &[old]).works();
    place
        .run(&ALL, &[old, ("STANDIN_BLAS_VERSION", "130101")])
        .lacks("cuBLASLt 13.1 does not go with a driver for CUDA 12.4");
    place.run(&ALL, &[("STANDIN_BLAS_VERSION", "111103")]).lacks("cuBLASLt 11.11 does not go");
    place
        .run(&ALL, &[UNKNOWN, old, ("NVRTC_STANDIN_VERSION", "13000")])
        .lacks_or_takes_ptx("NVRTC 13.0 does not go with a driver for CUDA 12.4");
    place.run(&ALL, &[UNKNOWN, ("NVRTC_STANDIN_VERSION", "13000")]).works().has("with NVRTC 13.0");
}

#[test]
fn libraries_are_found_where_the_caller_says_in_the_toolkit_and_in_python_packages() {
    let Some(place) = Place::new("places") else { return };
    let packages = "lib/python3.12/site-packages/nvidia";
    let target = if cfg!(target_arch = "aarch64") { "sbsa" } else { "x86_64" };
    for (name, folder, variable, value) in [
        ("the caller's", "named".to_owned(), "DIFFUSION_TEST_DIRECTORY", "named"),
        ("toolkit's lib64", "toolkit/lib64".to_owned(), "CUDA_PATH", "toolkit"),
        ("toolkit's targets", format!("other/targets/{target}-linux/lib"), "CUDA_PATH", "other"),
        ("environment's", format!("venv/{packages}/cublas/lib"), "VIRTUAL_ENV", "venv"),
        ("conda's", format!("conda/{packages}/cu13/lib"), "CONDA_PREFIX", "conda"),
        ("user's", format!("user/.local/{packages}/cublas/lib"), "HOME", "user"),
    ] {
        place.folder(&folder, "cublaslt");
        let folder = place.folder(&folder.replace("cublas/", "cuda_nvrtc/"), "nvrtc");
        let said = place.run(&["cuda"], &[UNKNOWN, (variable, &place.path(value))]);
        said.works().has(&format!("loaded {folder}/libnvrtc.so.12"));
        assert!(said.0.contains("/libcublasLt.so.12"), "{name}: {}", said.0);
    }
}

#[test]
fn the_callers_folder_comes_before_the_systems_and_the_toolkit_after() {
    let Some(place) = Place::new("order") else { return };
    let named = place.folder("named", "nvrtc");
    let said = place.run(&ALL, &[UNKNOWN, ("DIFFUSION_TEST_DIRECTORY", &named)]);
    said.works().has(&format!("loaded {named}/libnvrtc.so.12"));
    let said = place.run(&ALL, &[UNKNOWN, ("CUDA_PATH", &place.path("named"))]);
    said.works().has("\nlog: cuda: loaded libnvrtc.so.1");
    place.folder("toolkit/lib64", "nvrtc");
    place.folder("venv/lib/python3.9/site-packages/nvidia/cuda_nvrtc/lib", "nvrtc");
    let both = [("CUDA_PATH", place.path("toolkit")), ("VIRTUAL_ENV", place.path("venv"))];
    let [toolkit, venv] = both.each_ref().map(|(name, value)| (*name, value.as_str()));
    let said = place.run(&["cuda", "cublaslt"], &[UNKNOWN, toolkit, venv]);
    said.works().has("/toolkit/lib64/libnvrtc.so.12");
}

#[test]
fn a_source_that_does_not_compile_is_told_with_its_log() {
    let Some(place) = Place::new("compile") else { return };
    let said = place.run(&ALL, &[UNKNOWN, ("NVRTC_STANDIN_FAIL", "1")]);
    match said.0.contains("\nresult: ") {
        true => said.works().has("since NVRTC: elementwise.cu"),
        false => said
            .has("\nerror: Internal: ")
            .has("NVRTC: elementwise.cu")
            .has("\ndetail: elementwise.cu(1): error: a planted one"),
    };
    assert!(!place.root.join("cache").exists());
}

#[test]
fn processes_share_what_one_compiled() {
    let Some(place) = Place::new("share") else { return };
    let log = place.path("compilations");
    let variables = [UNKNOWN, ("NVRTC_STANDIN_LOG", &log)];
    let compilations = || fs::read_to_string(&log).map_or(0, |text| text.lines().count());
    place.run(&ALL, &variables).works();
    let first = compilations();
    assert!(first > 0);
    place.run(&ALL, &variables).works();
    assert_eq!(compilations(), first);
    place.run(&ALL, &[UNKNOWN, variables[1], ("NVRTC_STANDIN_VERSION", "12080")]).works();
    assert_eq!(compilations(), 2 * first);

    // Four at a time on an empty cache: each works, and what they leave is whole.
    fs::remove_dir_all(place.root.join("cache")).unwrap();
    let machines: Vec<Child> = (0..4).map(|_| place.start(&ALL, &variables)).collect();
    for machine in machines {
        said(machine).works();
    }
    let files = fs::read_dir(place.root.join("cache")).unwrap().count();
    assert_eq!(files, first, "an image each, and no temporary files");
    let before = compilations();
    place.run(&ALL, &variables).works();
    assert_eq!(compilations(), before);
}

#[test]
fn the_cache_is_where_the_variables_say_and_not_needed() {
    let Some(place) = Place::new("cache") else { return };
    let run = |variables: &[(&str, &str)]| place.run(&ALL, &[&[UNKNOWN], variables].concat());
    let unset = ("LIBDIFFUSION_CACHE_DIR", "");
    let (home, xdg) = (place.path("a-home"), place.path("xdg"));
    run(&[unset, ("HOME", &home)]).works();
    assert!(place.root.join("a-home/.cache/libdiffusion").is_dir());
    run(&[unset, ("HOME", &home), ("XDG_CACHE_HOME", &xdg)]).works();
    assert!(place.root.join("xdg/libdiffusion").is_dir());
    run(&[unset, ("HOME", &place.path("b-home")), ("XDG_CACHE_HOME", "relative")]).works();
    assert!(place.root.join("b-home/.cache/libdiffusion").is_dir());
    run(&[unset, ("HOME", "")]).works();
    // No folder can be made where a file is, whoever asks.
    fs::write(place.root.join("file"), "").unwrap();
    let file = place.path("file/cache");
    run(&[("LIBDIFFUSION_CACHE_DIR", &file)]).works();
}
