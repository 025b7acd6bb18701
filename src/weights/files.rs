//! Which files of a folder hold a component's tensors.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::util::error::{Result, bail};
use crate::util::file::io_error;

/// A checkpoint on disk.
#[derive(Debug, PartialEq)]
pub(super) enum Source {
    /// One safetensors file.
    Single(PathBuf),
    /// The index of several.
    Index(PathBuf),
}

/// Finds the file or index for `stem` in `dir`. Without a variant the plain file is taken, else the only variant
/// there is.
pub(super) fn find(dir: &Path, stem: &str, variant: Option<&str>) -> Result<Source> {
    if !dir.is_dir() {
        bail!(NotFound, "{}: the folder does not exist", dir.display());
    }
    if let Some(source) = exact(dir, stem, variant) {
        return Ok(source);
    }
    let names = file_names(dir)?;
    let variants: BTreeSet<&str> = names.iter().filter_map(|name| variant_of(name, stem)).collect();
    let found = variants.iter().copied().collect::<Vec<_>>().join(", ");
    if let Some(variant) = variant {
        let others = if variants.is_empty() { String::new() } else { format!("; variants there: {found}") };
        let pickles = pickle_note(&names);
        bail!(NotFound, "{}: no {stem}.{variant}.safetensors or its index{others}{pickles}", dir.display());
    }
    match variants.len() {
        0 => {
            let pickles = pickle_note(&names);
            bail!(NotFound, "{}: no {stem}.safetensors, index or variant of it{pickles}", dir.display())
        }
        1 => match variants.first().and_then(|only| exact(dir, stem, Some(only))) {
            Some(source) => Ok(source),
            None => bail!(NotFound, "{}: no {stem}.safetensors", dir.display()),
        },
        _ => bail!(NotFound, "{}: no {stem}.safetensors; name one of the variants: {found}", dir.display()),
    }
}

/// The single file, else the index, of exactly this variant. The index has been spelled two ways.
fn exact(dir: &Path, stem: &str, variant: Option<&str>) -> Option<Source> {
    let (single, indices) = match variant {
        None => (format!("{stem}.safetensors"), vec![format!("{stem}.safetensors.index.json")]),
        Some(v) => (
            format!("{stem}.{v}.safetensors"),
            vec![format!("{stem}.safetensors.index.{v}.json"), format!("{stem}.{v}.safetensors.index.json")],
        ),
    };
    let single = dir.join(single);
    if single.is_file() {
        return Some(Source::Single(single));
    }
    indices.iter().map(|name| dir.join(name)).find(|path| path.is_file()).map(Source::Index)
}

/// `fp16` of `stem.fp16.safetensors` and of both spellings of its index.
fn variant_of<'a>(name: &'a str, stem: &str) -> Option<&'a str> {
    let rest = name.strip_prefix(stem)?.strip_prefix('.')?;
    let variant = rest
        .strip_suffix(".safetensors")
        .or_else(|| rest.strip_suffix(".safetensors.index.json"))
        .or_else(|| rest.strip_prefix("safetensors.index.")?.strip_suffix(".json"))?;
    // Shards may be called `stem.fp16-00001-of-00002.safetensors`.
    (!variant.contains("-of-")).then_some(variant)
}

fn file_names(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| io_error(dir, &e))? {
        let entry = entry.map_err(|e| io_error(dir, &e))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

fn pickle_note(names: &[String]) -> &'static str {
    let pickle = |name: &String| name.ends_with(".bin") || name.ends_with(".ckpt") || name.ends_with(".pt");
    if names.iter().any(pickle) { " (pickle files such as .bin are not read)" } else { "" }
}
