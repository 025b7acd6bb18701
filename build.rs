//! Gives the shared library its soname, so that programs linked against it find the right ABI, and embeds the CUDA
//! kernels: their sources, and where `make kernels` was run the compiled images.

// A build that cannot read its own source or write its folder ends here.
#![allow(clippy::expect_used)]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

#[allow(dead_code)] // The library reads more of it.
#[path = "src/backend/cuda/pack.rs"]
mod pack;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!(
            "cargo::rustc-cdylib-link-arg=-Wl,-soname,libdiffusion.so.{}",
            env!("CARGO_PKG_VERSION_MAJOR")
        );
        // Once loaded it stays: threads of the host that called it run code of it when they end.
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let sources = sources(&root.join("kernels"));
    fs::write(out.join("sources.rs"), list(&sources)).expect("OUT_DIR is writable");
    fs::write(out.join("kernels.pack"), pack(&root, hash(&sources))).expect("OUT_DIR is writable");
}

/// Name and path of each kernel source and header, by name.
fn sources(folder: &Path) -> Vec<(String, PathBuf)> {
    println!("cargo::rerun-if-changed={}", folder.display());
    let entries = fs::read_dir(folder).expect("the folder kernels is part of the source");
    let mut sources: Vec<_> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_name()?.to_str()?.to_owned();
            (name.ends_with(".cu") || name.ends_with(".cuh")).then_some((name, path))
        })
        .collect();
    sources.sort();
    sources
}

/// An array of names and texts, in Rust.
fn list(sources: &[(String, PathBuf)]) -> String {
    let mut text = String::from("[\n");
    for (name, path) in sources {
        println!("cargo::rerun-if-changed={}", path.display());
        let _ = writeln!(text, "    ({name:?}, include_str!({:?})),", path.display().to_string());
    }
    text + "]"
}

/// Of names and texts, as tools/kernels.py has it.
fn hash(sources: &[(String, PathBuf)]) -> u64 {
    let mut hash = pack::Fnv::default();
    for (name, path) in sources {
        hash.add(name.as_bytes());
        hash.add(&fs::read(path).expect("a source that was just found"));
    }
    hash.0
}

/// The compiled images, or nothing where there are none of these sources.
fn pack(root: &Path, sources: u64) -> Vec<u8> {
    println!("cargo::rerun-if-env-changed=LIBDIFFUSION_KERNEL_PACK");
    let named = env::var_os("LIBDIFFUSION_KERNEL_PACK").map(PathBuf::from);
    let is_named = named.is_some();
    let path = named.unwrap_or_else(|| root.join("build/kernels/kernels.pack"));
    let pack = fs::read(&path);
    // A file that is not there would have cargo build the library anew each time, which only who names it wants.
    // tools/kernels.py touches this file when it writes the first.
    if is_named || pack.is_ok() {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    let fault = match &pack {
        Err(error) if is_named => error.to_string(),
        Err(_) => return Vec::new(),
        Ok(pack) => match pack::parse(pack) {
            None => "not a whole pack".to_owned(),
            Some((of, _)) if of != sources => "of other kernels".to_owned(),
            Some(_) => return pack.clone(),
        },
    };
    println!("cargo::warning=no kernels are embedded: {}: {fault}; run `make kernels`", path.display());
    Vec::new()
}
