//! The tensors of one component, over one or several files, each accounted for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use safetensors::Dtype;
use serde::Deserialize;

use super::files::{self, Source};
use super::json::read_json;
use super::mapped::MappedFile;
use super::scope::Scope;
use crate::util::error::{Result, bail};
use crate::util::limits;

/// A tensor's place.
pub(super) struct Entry {
    pub(super) file: usize,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) offsets: (usize, usize),
    pub(super) used: AtomicBool,
}

/// The open checkpoint of a component (a U-Net, a VAE, a text encoder). Its files stay mapped while it lives;
/// drop it once the model is loaded.
pub struct Checkpoint {
    pub(super) dir: PathBuf,
    /// The file or index that was opened, for messages.
    pub(super) path: PathBuf,
    pub(super) files: Vec<MappedFile>,
    pub(super) tensors: BTreeMap<String, Entry>,
    /// Set by a caller who leaves the tensors' bytes alone: nor does then the check that they are finite touch them.
    pub headers_only: bool,
    /// Who checks the parts of a large tensor; without it they are checked on the caller's thread.
    pub spread: Option<Spread>,
}

/// Calls a function once for each number below the first argument, from any threads.
pub type Spread = Arc<dyn Fn(usize, &(dyn Fn(usize) + Sync)) -> Result<()>>;

/// `*.safetensors.index.json`
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens `dir/<stem>.safetensors`, `dir/<stem>.<variant>.safetensors`, or the shards that an index of either
    /// name lists. Without a variant the plain file is taken, else the only variant there is. diffusers' stem is
    /// `diffusion_pytorch_model`, transformers' `model`.
    ///
    /// # Errors
    /// `NotFound` names the folder and what was looked for; `Format` a corrupt file, an index that contradicts its
    /// shards, or a shard outside the folder.
    pub fn open(dir: &Path, stem: &str, variant: Option<&str>) -> Result<Self> {
        let source = files::find(dir, stem, variant)?;
        let (Source::Single(path) | Source::Index(path)) = &source;
        let mut checkpoint = Self {
            dir: dir.to_owned(),
            path: path.clone(),
            files: Vec::new(),
            tensors: BTreeMap::new(),
            headers_only: false,
            spread: None,
        };
        match &source {
            Source::Single(path) => checkpoint.add_file(path, None)?,
            Source::Index(path) => checkpoint.add_shards(path)?,
        }
        Ok(checkpoint)
    }

    /// Where the names begin.
    pub fn root(&self) -> Scope<'_> {
        Scope::root(self)
    }

    /// Number of weights in the tensors that were used.
    pub fn parameters(&self) -> u64 {
        self.used().map(|t| t.shape.iter().product::<usize>() as u64).sum()
    }

    /// Bytes of the tensors that were used, as the files store them.
    pub fn weight_bytes(&self) -> u64 {
        self.used().map(|t| (t.offsets.1 - t.offsets.0) as u64).sum()
    }

    /// Call when the model is loaded.
    ///
    /// # Errors
    /// `Format` when the file has tensors that the model has no place for.
    pub fn finish(&self) -> Result<()> {
        let unused: Vec<&str> = self
            .tensors
            .iter()
            .filter(|(name, entry)| !entry.used.load(Ordering::Relaxed) && !is_buffer(name))
            .map(|(name, _)| name.as_str())
            .collect();
        if unused.is_empty() {
            return Ok(());
        }
        let first = unused.iter().take(3).copied().collect::<Vec<_>>().join(", ");
        let more = if unused.len() > 3 { format!(" and {} more", unused.len() - 3) } else { String::new() };
        bail!(Format, "{}: the config leaves no place for the tensors {first}{more}", self.path.display())
    }

    fn used(&self) -> impl Iterator<Item = &Entry> {
        self.tensors.values().filter(|t| t.used.load(Ordering::Relaxed))
    }

    /// Takes in one file; `listed` is what the index says it holds.
    fn add_file(&mut self, path: &Path, listed: Option<&BTreeSet<&str>>) -> Result<()> {
        let (file, metadata) = MappedFile::open(path)?;
        let tensors = metadata.tensors();
        if let Some(name) = listed.into_iter().flatten().find(|name| !tensors.contains_key(**name)) {
            bail!(
                Format,
                "{}: tensor {name} is missing, though {} lists it",
                path.display(),
                self.path.display()
            );
        }
        for (name, info) in tensors {
            if listed.is_some_and(|listed| !listed.contains(name.as_str())) {
                bail!(Format, "{}: {} does not list tensor {name} here", path.display(), self.path.display());
            }
            let entry = Entry {
                file: self.files.len(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                offsets: info.data_offsets,
                used: AtomicBool::new(false),
            };
            self.tensors.insert(name, entry);
        }
        self.files.push(file);
        Ok(())
    }

    fn add_shards(&mut self, index_path: &Path) -> Result<()> {
        let index: Index = read_json(index_path)?;
        let mut shards: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (tensor, shard) in &index.weight_map {
            let inside = Path::new(shard).components().all(|c| matches!(c, Component::Normal(_)));
            if !inside || shard.is_empty() {
                bail!(Format, "{}: shard {shard:?} is not inside the folder", index_path.display());
            }
            shards.entry(shard).or_default().insert(tensor);
        }
        if shards.is_empty() || shards.len() > limits::SHARDS {
            bail!(Format, "{}: weight_map names {} shards", index_path.display(), shards.len());
        }
        for (shard, tensors) in &shards {
            self.add_file(&self.dir.join(shard), Some(tensors))?;
        }
        Ok(())
    }
}

/// Tensors that files carry though they are no weights: CLIP's 0, 1, 2, ….
fn is_buffer(name: &str) -> bool {
    name == "position_ids" || name.ends_with(".position_ids")
}
