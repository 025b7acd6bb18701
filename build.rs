//! Gives the shared library its soname, so that programs linked against it find the right ABI, and embeds the CUDA
//! kernels: their sources, and where `make kernels` was run the compiled images.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libdiffusion.so.0");
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

/// FNV-1a of names and texts, each with a zero behind it, as tools/kernels.py has it.
fn hash(sources: &[(String, PathBuf)]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for (name, path) in sources {
        let text = fs::read(path).expect("a source that was just found");
        for byte in name.bytes().chain([0]).chain(text).chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

/// The compiled images, or nothing where there are none of these sources.
fn pack(root: &Path, sources: u64) -> Vec<u8> {
    println!("cargo::rerun-if-env-changed=LIBDIFFUSION_KERNEL_PACK");
    let named = env::var_os("LIBDIFFUSION_KERNEL_PACK").map(PathBuf::from);
    let path = named.unwrap_or_else(|| root.join("build/kernels/kernels.pack"));
    let Ok(pack) = fs::read(&path) else { return Vec::new() };
    // Only where it is: cargo would build the library anew each time for want of it. tools/kernels.py touches this file
    // when it writes the first.
    println!("cargo::rerun-if-changed={}", path.display());
    if pack.get(8..16) != Some(&sources.to_le_bytes()) {
        println!(
            "cargo::warning={} is of other kernels and not embedded: run `make kernels`",
            path.display()
        );
        return Vec::new();
    }
    pack
}
