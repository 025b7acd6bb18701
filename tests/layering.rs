//! The layers of ARCHITECTURE.md: a module of `src/` may name only the modules below it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

/// Each module and what it may use besides itself.
const LAYERS: &[(&str, &[&str])] = &[
    ("util", &[]),
    ("backend", &["util"]),
    ("weights", &["backend", "util"]),
    ("nn", &["weights", "backend", "util"]),
    ("tokenizer", &["util"]),
    // Host maths over slices of numbers: no tensors, no checkpoints.
    ("sampling", &["util"]),
    // A model never knows how it is sampled.
    ("models", &["nn", "weights", "backend", "util"]),
    ("pipeline", &["sampling", "models", "tokenizer", "nn", "weights", "backend", "util"]),
    ("api", &["pipeline", "sampling", "models", "tokenizer", "nn", "weights", "backend", "util"]),
    ("capi", &["api", "util"]),
];

/// Where `unsafe` may appear: the C boundary, the kernels, the memory map, what threads ask of the system.
const UNSAFE: &[&str] = &["src/capi/", "src/backend/", "src/weights/mapped.rs", "src/util/thread.rs"];

/// `source` without comments and without what stands in string literals, so that neither counts as code.
fn code_of(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    for line in source.lines() {
        let mut in_string = false;
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' if in_string => drop(chars.next()),
                '"' => in_string = !in_string,
                '/' if !in_string && chars.peek() == Some(&'/') => break,
                c if !in_string => code.push(c),
                _ => {}
            }
        }
        code.push('\n');
    }
    code
}

/// The first name of each path in a `{a::b, c}` group, or the name a plain path begins with.
fn first_names(path: &str) -> Vec<String> {
    let path = path.trim_start();
    let name = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut depth, mut names, mut start) = (0, Vec::new(), 0);
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.push(name(&group[start..i]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(name(&group[start..i]));
                start = i + 1;
            }
            _ => {}
        }
    }
    names
}

/// The modules that `source`, a file of module `module`, names against the table.
fn violations(module: &str, source: &str) -> Vec<String> {
    let allowed = LAYERS.iter().find(|(name, _)| *name == module).map(|(_, allowed)| *allowed);
    let allowed = allowed.unwrap_or_else(|| panic!("module {module} has no line in LAYERS"));
    let code = code_of(source);
    let is_module = |name: &str| LAYERS.iter().any(|(module, _)| *module == name);
    // A chain of `super` that leaves the module arrives at the crate's root just the same.
    let paths = ["crate::", "super::super::"].into_iter().flat_map(|root| code.split(root).skip(1));
    paths
        .flat_map(first_names)
        .filter(|name| is_module(name) && name != module && !allowed.contains(&name.as_str()))
        .collect()
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn dependencies_point_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    rust_files(&root.join("src"), &mut files);
    assert!(files.len() > 5);
    let mut wrong = Vec::new();
    for file in files {
        let path = file.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
        let module = path["src/".len()..].split(['/', '.']).next().unwrap().to_owned();
        let source = fs::read_to_string(&file).unwrap();
        let code = code_of(&source);
        if code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe")
            && !UNSAFE.iter().any(|place| path.starts_with(place))
        {
            wrong.push(format!("{path} is no place for unsafe code"));
        }
        // `lib` lists the modules; `testing` is compiled into the unit tests alone.
        if module != "lib" && module != "testing" {
            wrong.extend(violations(&module, &source).iter().map(|name| format!("{path} uses {name}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn planted_violations_are_seen() {
    assert_eq!(violations("models", "use crate::sampling::Schedule;"), ["sampling"]);
    assert_eq!(violations("util", "fn f() { crate::api::Engine::new() }"), ["api"]);
    assert_eq!(
        violations("nn", "use crate::{\n    backend::{Backend, Tensor},\n    models::UNet,\n};"),
        ["models"]
    );
    assert_eq!(violations("sampling", "use super::super::backend::Backend;"), ["backend"]);
    assert_eq!(violations("capi", "use crate::pipeline::Request;"), ["pipeline"]);
    assert_eq!(violations("util", "pub(in crate::api) fn f() {}"), ["api"]);
    let harmless = "// crate::api is above\nlet s = \"crate::api\"; use crate::util::error::Result;";
    assert!(violations("backend", harmless).is_empty());
}
