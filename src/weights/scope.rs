//! Names as paths: `scope.at("down_blocks").at(0).at("resnets")` reads like the checkpoint's keys.

use std::borrow::Cow;
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use half::{bf16, f16};
use safetensors::Dtype;

use super::checkpoint::{Checkpoint, Entry};
use crate::backend::{DType, Weight};
use crate::util::error::{Error, Result, bail, error};

/// Bytes of a tensor that a thread checks at a time: whole values of every type, and few enough for its cache.
const PART: usize = 512 << 10;

/// A place in a checkpoint from which tensors are taken.
#[derive(Clone)]
pub struct Scope<'a> {
    checkpoint: &'a Checkpoint,
    path: String,
    /// What the weights and the biases of layers below are multiplied by.
    scales: [f32; 2],
}

/// A tensor, multiplied where its [`Scope`] asks for that.
pub struct Scaled<'a> {
    dtype: DType,
    shape: &'a [usize],
    bytes: Cow<'a, [u8]>,
}

impl Scaled<'_> {
    /// What backends take.
    pub fn weight(&self) -> Weight<'_> {
        Weight { dtype: self.dtype, shape: self.shape, bytes: &self.bytes }
    }
}

impl<'a> Scope<'a> {
    pub(super) fn root(checkpoint: &'a Checkpoint) -> Self {
        Self { checkpoint, path: String::new(), scales: [1.0; 2] }
    }

    /// The place `name` below this one.
    pub fn at(&self, name: impl Display) -> Self {
        Self { checkpoint: self.checkpoint, path: self.join(name), scales: self.scales }
    }

    /// The same place, where linear layers and convolutions have their weights multiplied by `weight` and their biases
    /// by `bias`: powers of two, so that nothing is rounded.
    pub fn scaled(self, weight: f32, bias: f32) -> Self {
        Self { scales: [weight, bias], ..self }
    }

    /// A layer's weight, as [`Scope::tensor`] or [`Scope::matrix`] took it, multiplied.
    pub fn scale_weight(&self, tensor: Weight<'a>) -> Scaled<'a> {
        multiply(tensor, self.scales[0])
    }

    /// A layer's bias, multiplied.
    pub fn scale_bias(&self, tensor: Weight<'a>) -> Scaled<'a> {
        multiply(tensor, self.scales[1])
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.checkpoint.tensors.contains_key(&self.join(name))
    }

    /// Takes a tensor, which must have exactly this shape, an element type that backends read, and no value that
    /// is NaN or infinite.
    ///
    /// # Errors
    /// `Format` when it is missing or shaped otherwise, `Unsupported` for its element type, `Numeric`.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Weight<'a>> {
        let (name, entry) = self.entry(name, shape)?;
        if entry.shape != shape {
            return Err(self.wrong_shape(&name, entry, shape));
        }
        self.take(&name, entry, &entry.shape)
    }

    /// Takes a matrix `[rows, columns]`, which may be stored as the 1×1 convolution `[rows, columns, 1, 1]` or
    /// `[rows, columns, 1]`.
    ///
    /// # Errors
    /// As [`Scope::tensor`].
    pub fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Weight<'a>> {
        let (name, entry) = self.entry(name, &[rows, columns])?;
        match entry.shape.split_at_checked(2) {
            Some((head, [] | [1] | [1, 1])) if head == [rows, columns] => self.take(&name, entry, head),
            _ => Err(self.wrong_shape(&name, entry, &[rows, columns])),
        }
    }

    /// A `Format` error: the config asks for something that cannot be at this place.
    pub fn contradiction(&self, what: impl Display) -> Error {
        error!(Format, "{}: {what} in {}", self.config_path().display(), self.path)
    }

    /// The config that belongs to the checkpoint.
    pub fn config_path(&self) -> PathBuf {
        self.checkpoint.dir.join("config.json")
    }

    fn join(&self, name: impl Display) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) }
    }

    fn entry(&self, name: &str, shape: &[usize]) -> Result<(String, &'a Entry)> {
        let name = self.join(name);
        match self.checkpoint.tensors.get(&name) {
            Some(entry) => Ok((name, entry)),
            None => bail!(Format, "{}: tensor {name} {shape:?} is missing", self.checkpoint.path.display()),
        }
    }

    fn wrong_shape(&self, name: &str, entry: &Entry, wanted: &[usize]) -> Error {
        error!(
            Format,
            "{}: tensor {name} has shape {:?}, the config asks for {wanted:?}",
            self.file(entry),
            entry.shape
        )
    }

    fn file(&self, entry: &Entry) -> String {
        self.checkpoint.files.get(entry.file).map_or_else(String::new, |f| f.path.display().to_string())
    }

    fn take(&self, name: &str, entry: &'a Entry, shape: &'a [usize]) -> Result<Weight<'a>> {
        let dtype = match entry.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::Bf16,
            other => bail!(
                Unsupported,
                "{}: tensor {name} {shape:?} has type {other}; F32, F16 and BF16 are read",
                self.file(entry)
            ),
        };
        let bytes = self.checkpoint.files.get(entry.file).and_then(|file| file.bytes(entry.offsets));
        let Some(bytes) = bytes else {
            bail!(Internal, "{}: tensor {name} lies outside its file", self.file(entry));
        };
        if !self.checkpoint.headers_only && !self.all_finite(dtype, bytes)? {
            bail!(
                Numeric,
                "{}: tensor {name} {shape:?} has values that are NaN or infinite",
                self.file(entry)
            );
        }
        entry.used.store(true, Ordering::Relaxed);
        Ok(Weight { dtype, shape, bytes })
    }

    /// [`all_finite`], the parts of a large tensor on several threads. That brings the pages of its file in as well.
    fn all_finite(&self, dtype: DType, bytes: &[u8]) -> Result<bool> {
        match &self.checkpoint.spread {
            Some(spread) if bytes.len() > PART => {
                let finite = AtomicBool::new(true);
                spread(bytes.len().div_ceil(PART), &|part| {
                    let part = bytes.chunks(PART).nth(part).unwrap_or_default();
                    if !all_finite(dtype, part) {
                        finite.store(false, Ordering::Relaxed);
                    }
                })?;
                Ok(finite.into_inner())
            }
            _ => Ok(all_finite(dtype, bytes)),
        }
    }
}

/// `tensor` · `scale`, in f32 unless `scale` is 1.
fn multiply(tensor: Weight<'_>, scale: f32) -> Scaled<'_> {
    let Weight { dtype, shape, bytes } = tensor;
    if scale == 1.0 {
        return Scaled { dtype, shape, bytes: Cow::Borrowed(bytes) };
    }
    let times = |x: f32| (x * scale).to_le_bytes();
    let pair = |b: &[u8]| [b[0], b[1]];
    let bytes = match dtype {
        DType::F16 => {
            bytes.chunks_exact(2).flat_map(|b| times(f16::from_le_bytes(pair(b)).to_f32())).collect()
        }
        DType::Bf16 => {
            bytes.chunks_exact(2).flat_map(|b| times(bf16::from_le_bytes(pair(b)).to_f32())).collect()
        }
        DType::F32 => {
            bytes.chunks_exact(4).flat_map(|b| times(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
        }
    };
    Scaled { dtype: DType::F32, shape, bytes: Cow::Owned(bytes) }
}

/// NaN and infinity are the values whose exponent bits are all ones. No early exit, so that the loop is vectorised.
fn all_finite(dtype: DType, bytes: &[u8]) -> bool {
    let halves = |mask: u16| {
        let pairs = bytes.chunks_exact(2);
        !pairs.fold(false, |bad, b| bad | (u16::from_le_bytes([b[0], b[1]]) & mask == mask))
    };
    match dtype {
        DType::F16 => halves(0x7c00),
        DType::Bf16 => halves(0x7f80),
        DType::F32 => !bytes.chunks_exact(4).fold(false, |bad, b| {
            bad | (u32::from_le_bytes([b[0], b[1], b[2], b[3]]) & 0x7f80_0000 == 0x7f80_0000)
        }),
    }
}
