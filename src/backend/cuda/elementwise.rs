//! Functions of single values, sums, and copies: launches of `kernels/elementwise.cu` and `kernels/embedding.cu`.

use super::launch::{Grid, Parameters, count};
use super::{Cuda, CudaEmbedding, CudaTensor};
use crate::backend::{Activation, Shape};
use crate::util::error::{Result, bail};

/// The grid for a tensor that is taken pack by pack.
fn packs(cuda: &Cuda, operation: &str, len: usize) -> Result<Grid> {
    let packs = len.div_ceil(cuda.device.precision.pack());
    count(operation, "packs of values", packs)?;
    Ok(Grid::of_items(packs))
}

pub(super) fn activation(cuda: &Cuda, x: &CudaTensor, activation: Activation) -> Result<CudaTensor> {
    let out = cuda.tensor(x.shape, "activation")?;
    if out.shape.is_empty() {
        return Ok(out);
    }
    let name = match activation {
        Activation::Silu => "silu",
        Activation::Gelu => "gelu",
        Activation::QuickGelu => "quick_gelu",
    };
    let len = out.shape.len();
    let grid = packs(cuda, "activation", len)?;
    let parameters: Parameters<'_> = &[&x.pointer(), &out.pointer(), &(len as u64)];
    // SAFETY: silu(x, y, n); both tensors have n values.
    unsafe { cuda.launch("elementwise", &cuda.typed(name), grid, parameters) }?;
    Ok(out)
}

pub(super) fn add(cuda: &Cuda, a: &CudaTensor, b: &CudaTensor) -> Result<CudaTensor> {
    if a.shape != b.shape {
        bail!(Internal, "add: {} and {} differ", a.shape, b.shape);
    }
    let out = cuda.tensor(a.shape, "add")?;
    if out.shape.is_empty() {
        return Ok(out);
    }
    let len = out.shape.len();
    let grid = packs(cuda, "add", len)?;
    let parameters: Parameters<'_> = &[&a.pointer(), &b.pointer(), &out.pointer(), &(len as u64)];
    // SAFETY: add(a, b, y, n); all tensors have n values.
    unsafe { cuda.launch("elementwise", &cuda.typed("add"), grid, parameters) }?;
    Ok(out)
}

pub(super) fn concat_channels(cuda: &Cuda, a: &CudaTensor, b: &CudaTensor) -> Result<CudaTensor> {
    if a.shape.with_channels(0) != b.shape.with_channels(0) {
        bail!(Internal, "concat_channels: {} and {} do not fit", a.shape, b.shape);
    }
    let (first, second) = (a.shape.c, b.shape.c);
    let out = cuda.tensor(a.shape.with_channels(first + second), "concat_channels")?;
    if out.shape.is_empty() {
        return Ok(out);
    }
    let pack = cuda.device.precision.pack();
    let fills_packs = first.is_multiple_of(pack) && second.is_multiple_of(pack);
    let items = if fills_packs { out.shape.len() / pack } else { out.shape.len() };
    count("concat_channels", "values", items)?;
    let counted = |what, size| count("concat_channels", what, size);
    let (rows, first, second) =
        (counted("rows", out.shape.rows())?, counted("channels", first)?, counted("channels", second)?);
    let parameters: Parameters<'_> = &[&a.pointer(), &b.pointer(), &out.pointer(), &rows, &first, &second];
    // SAFETY: concat_channels(a, b, y, rows, ca, cb), with as many values each.
    unsafe { cuda.launch("elementwise", &cuda.typed("concat_channels"), Grid::of_items(items), parameters) }?;
    Ok(out)
}

pub(super) fn splice_images(cuda: &Cuda, a: &CudaTensor, b: &CudaTensor, at: usize) -> Result<CudaTensor> {
    if a.shape != b.shape || at > a.shape.n {
        bail!(Internal, "splice_images: {} and {} at {at}", a.shape, b.shape);
    }
    let out = cuda.tensor(a.shape, "splice_images")?;
    let size = cuda.device.precision.size();
    let bytes = out.shape.len() * size;
    let first = bytes / out.shape.n.max(1) * at;
    let rest = first as u64;
    // SAFETY: all three tensors have `bytes` bytes, and `first` is at most that.
    unsafe { cuda.copy(a.pointer(), out.pointer(), first, "splice_images") }?;
    // SAFETY: as above.
    unsafe { cuda.copy(b.pointer() + rest, out.pointer() + rest, bytes - first, "splice_images") }?;
    Ok(out)
}

pub(super) fn embed_tokens(
    cuda: &Cuda,
    ids: &[u32],
    n: usize,
    tokens: &CudaEmbedding,
    positions: &CudaEmbedding,
) -> Result<CudaTensor> {
    let length = ids.len() / n.max(1);
    let channels = tokens.channels;
    if n * length != ids.len() || length > positions.entries || positions.channels != channels {
        bail!(
            Internal,
            "embed_tokens: {} ids for {n} sequences, {} positions, {channels} and {} channels",
            ids.len(),
            positions.entries,
            positions.channels
        );
    }
    if let Some(id) = ids.iter().find(|&&id| id as usize >= tokens.entries) {
        bail!(Internal, "embed_tokens: token {id} of {}", tokens.entries);
    }
    let out = cuda.tensor(Shape::tokens(n, length, channels), "embed_tokens")?;
    if out.shape.is_empty() {
        return Ok(out);
    }
    let len = out.shape.len();
    count("embed_tokens", "values", len)?;
    let indices = upload_indices(cuda, ids.iter().copied(), "embed_tokens")?;
    let (table, places) = (tokens.table.pointer(), positions.table.pointer());
    let sizes = (n as u32, length as u32, channels as u32);
    let parameters: Parameters<'_> =
        &[&indices.pointer(), &table, &places, &out.pointer(), &sizes.0, &sizes.1, &sizes.2];
    // SAFETY: embed_tokens(ids, tokens, positions, y, n, length, c); ids and positions are within the tables.
    unsafe { cuda.launch("embedding", &cuda.typed("embed_tokens"), Grid::of_items(len), parameters) }?;
    Ok(out)
}

pub(super) fn select_tokens(cuda: &Cuda, x: &CudaTensor, index: &[usize]) -> Result<CudaTensor> {
    let pixels = x.shape.pixels();
    if index.len() != x.shape.n || index.iter().any(|&i| i >= pixels) {
        bail!(Internal, "select_tokens: {index:?} of {}", x.shape);
    }
    let out = cuda.tensor(Shape::vector(x.shape.n, x.shape.c), "select_tokens")?;
    if out.shape.is_empty() {
        return Ok(out);
    }
    let len = out.shape.len();
    count("select_tokens", "values", len)?;
    let length = count("select_tokens", "tokens", pixels)?;
    let indices = upload_indices(cuda, index.iter().map(|&i| i as u32), "select_tokens")?;
    let (n, channels) = (x.shape.n as u32, x.shape.c as u32);
    let parameters: Parameters<'_> =
        &[&x.pointer(), &indices.pointer(), &out.pointer(), &n, &length, &channels];
    // SAFETY: select_tokens(x, index, y, n, length, c); indices are below the length.
    unsafe { cuda.launch("embedding", &cuda.typed("select_tokens"), Grid::of_items(len), parameters) }?;
    Ok(out)
}

/// Whole numbers on the device, for one launch. They are fewer than 2^32.
fn upload_indices(
    cuda: &Cuda,
    indices: impl ExactSizeIterator<Item = u32>,
    operation: &str,
) -> Result<super::Block> {
    let block = cuda.scratch(indices.len() * 4, operation)?;
    let indices: Vec<u32> = indices.collect();
    cuda.staging().upload(
        &cuda.pool.stream,
        &cuda.device,
        block.pointer(),
        indices.len(),
        4,
        |range, bytes| {
            for (to, index) in bytes.chunks_exact_mut(4).zip(&indices[range]) {
                to.copy_from_slice(&index.to_ne_bytes());
            }
        },
    )?;
    Ok(block)
}
