//! Products by our own kernels: which tile of the result a block computes, and among how many blocks its depth is split.

use cudarc::driver::sys::CUdeviceptr;

use super::launch::{Grid, Parameter, Parameters, count};
use super::weights::CudaLinear;
use super::{Cuda, CudaTensor};
use crate::backend::{Activation, Epilogue, Shape};
use crate::util::error::{Result, bail};

/// Values of depth in a step, `STEP` of kernels/gemm.cuh.
pub(super) const STEP: usize = 32;

/// A tile of kernels/gemm.cuh.
#[derive(Debug, PartialEq)]
pub(super) struct Tile {
    /// What kernels for it are named after.
    pub(super) name: &'static str,
    rows: usize,
    columns: usize,
    /// Of a block.
    threads: u32,
    /// Of a block, in bytes.
    shared: u32,
    /// Time for a result, compared to the tile that takes least.
    effort: f64,
}

const fn tile(name: &'static str, rows: usize, columns: usize, threads: u32, effort: f64) -> Tile {
    let stages = 4;
    let shared = (stages * (rows + columns) * STEP * 2) as u32;
    Tile { name, rows, columns, threads, shared, effort }
}

const TILE_128X160: Tile = tile("128x160", 128, 160, 256, 1.0);
const TILE_128X128: Tile = tile("128x128", 128, 128, 256, 1.05);
const TILE_64X160: Tile = tile("64x160", 64, 160, 128, 1.15);
const TILE_64X64: Tile = tile("64x64", 64, 64, 128, 1.4);

/// What there is of gemm, gemm_geglu, conv2d and conv2d_gather.
pub(super) const GEMM: &[Tile] = &[TILE_128X160, TILE_64X160, TILE_64X64];
pub(super) const GEGLU: &[Tile] = &[TILE_128X160, TILE_64X64];
pub(super) const CONV: &[Tile] = &[TILE_128X160, TILE_128X128, TILE_64X160, TILE_64X64];
pub(super) const GATHER: &[Tile] = &[TILE_64X64];

const SPLITS: [usize; 8] = [1, 2, 3, 4, 6, 8, 12, 16];
/// The fewest steps that are worth a block.
const LEAST_STEPS: usize = 4;

/// Costs are counted in what a multiprocessor needs for a multiple of 32 of depth of one result at its best. These are
/// estimates: a step takes this much however small the tile is, because it waits for memory and for its warps;
const STEP_COST: f64 = 12_800.0;
/// another kernel to add splits up;
const LAUNCH_COST: f64 = 96_000.0;
/// a sum that goes to memory and comes back.
const SUM_COST: f64 = 16.0;

/// The product that a choice is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) images: usize,
    /// Of an image.
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Of depth.
    pub(super) steps: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Choice {
    pub(super) tile: &'static Tile,
    pub(super) splits: usize,
}

impl Choice {
    /// Results are summed in the order of their depth whatever the tile is, but splits change that order. So splits are
    /// what suits one image, for the same bits in every batch, and the tile what then suits the batch.
    pub(super) fn new(tiles: &'static [Tile], size: Size, may_split: bool, multiprocessors: u32) -> Self {
        let Size { images, rows, columns, steps } = size;
        let cost = |rows, tile: &Tile, splits| cost(tile, splits, rows, columns, steps, multiprocessors);
        let allowed = |&splits: &usize| splits == 1 || may_split && steps / splits >= LEAST_STEPS;
        let best = |splits, rows| {
            let costs = tiles.iter().map(|tile| (cost(rows, tile, splits), tile));
            costs.min_by(|a, b| a.0.total_cmp(&b.0))
        };
        let of_image = |splits: &usize| best(*splits, rows).map_or(f64::INFINITY, |(cost, _)| cost);
        let splits = SPLITS
            .into_iter()
            .filter(allowed)
            .min_by(|a, b| of_image(a).total_cmp(&of_image(b)))
            .unwrap_or(1);
        let tile = best(splits, images * rows).map_or(&TILE_64X64, |(_, tile)| tile);
        Self { tile, splits }
    }

    pub(super) fn grid(&self, rows: usize, columns: usize) -> Grid {
        let tile = self.tile;
        Grid {
            blocks: [rows.div_ceil(tile.rows), columns.div_ceil(tile.columns), self.splits],
            threads: tile.threads,
            shared: tile.shared,
        }
    }
}

fn cost(tile: &Tile, splits: usize, rows: usize, columns: usize, steps: usize, multiprocessors: u32) -> f64 {
    let multiprocessors = multiprocessors.max(1) as usize;
    let blocks = rows.div_ceil(tile.rows) * columns.div_ceil(tile.columns) * splits;
    // Blocks of a multiprocessor share it, so what they compute adds up and what they wait for does not.
    let work = (blocks.div_ceil(multiprocessors) * tile.rows * tile.columns) as f64 * tile.effort;
    let product = work.max(STEP_COST) * steps.div_ceil(splits) as f64;
    if splits == 1 {
        return product;
    }
    product + LAUNCH_COST + SUM_COST * (rows * columns * splits) as f64 / multiprocessors as f64
}

/// What kernels do to sums, and where they put them: `Epilogue` of kernels/epilogue.cuh. 0 for what there is not.
pub(super) struct Finish {
    pub(super) bias: CUdeviceptr,
    pub(super) channel_bias: CUdeviceptr,
    pub(super) residual: CUdeviceptr,
    pub(super) y: CUdeviceptr,
    /// gpu.cuh's.
    pub(super) activation: u32,
}

impl Finish {
    pub(super) fn new(weight: &CudaLinear, epilogue: &Epilogue<'_, CudaTensor>, out: &CudaTensor) -> Self {
        let pointer = |tensor: Option<&CudaTensor>| tensor.map_or(0, CudaTensor::pointer);
        Self {
            bias: weight.bias.as_ref().map_or(0, |bias| bias.f32()),
            channel_bias: pointer(epilogue.channel_bias),
            residual: pointer(epilogue.residual),
            y: out.pointer(),
            activation: match epilogue.activation {
                None => 0,
                Some(Activation::Silu) => 1,
                Some(Activation::Gelu) => 2,
                Some(Activation::QuickGelu) => 3,
            },
        }
    }
}

/// Fails with `Internal` if a tensor of the epilogue does not fit the output.
pub(super) fn check_epilogue(operation: &str, out: Shape, epilogue: &Epilogue<'_, CudaTensor>) -> Result<()> {
    if let Some(bias) = epilogue.channel_bias
        && bias.shape != Shape::vector(out.n, out.c)
    {
        bail!(Internal, "{operation}: channel bias {} for output {out}", bias.shape);
    }
    if let Some(residual) = epilogue.residual
        && residual.shape != out
    {
        bail!(Internal, "{operation}: residual {} for output {out}", residual.shape);
    }
    Ok(())
}

/// A kernel of ours that multiplies.
pub(super) struct Kernel<'a> {
    pub(super) operation: &'a str,
    pub(super) family: &'static str,
    pub(super) name: &'a str,
    /// The parameters between `partial` and `activation`.
    pub(super) sizes: Parameters<'a>,
}

/// Rows of an image, of all images, and columns of a result: those that kernels count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub(super) rows: u32,
    pub(super) columns: u32,
    pub(super) rows_per_image: u32,
}

impl Counts {
    /// Fails with `Unsupported` where kernels would lose count.
    pub(super) fn new(operation: &str, out: Shape) -> Result<Self> {
        // Tiles may reach beyond the last row.
        if out.rows() >= 1 << 31 {
            bail!(Unsupported, "{operation}: {} rows, more than its kernel counts", out.rows());
        }
        let rows = count(operation, "rows", out.rows())?;
        let columns = count(operation, "columns", out.c)?;
        Ok(Self { rows, columns, rows_per_image: count(operation, "rows", out.pixels().max(1))? })
    }
}

/// Launches a kernel on the tiles of a choice, and what adds its splits up.
///
/// # Safety
/// As [`Cuda::launch`]; the kernel's parameters are x, w, those of the epilogue, partial, its sizes, activation.
pub(super) unsafe fn multiply(
    cuda: &Cuda,
    kernel: &Kernel<'_>,
    choice: Choice,
    [x, w]: [CUdeviceptr; 2],
    counts: Counts,
    finish: &Finish,
) -> Result<()> {
    let (rows, columns) = (counts.rows as usize, counts.columns as usize);
    let partial = match choice.splits {
        1 => None,
        splits => Some(cuda.scratch(splits * rows * columns * size_of::<f32>(), kernel.operation)?),
    };
    let sums = partial.as_ref().map_or(0, |partial| partial.pointer());
    let Finish { bias, channel_bias, residual, y, activation } = finish;
    let mut parameters: Vec<&dyn Parameter> = vec![&x, &w, bias, channel_bias, residual, y, &sums];
    parameters.extend_from_slice(kernel.sizes);
    parameters.push(activation);
    // SAFETY: the caller's; `partial` has a sum for every result and split.
    unsafe { cuda.launch(kernel.family, kernel.name, choice.grid(rows, columns), &parameters) }?;
    if partial.is_none() {
        return Ok(());
    }
    let splits = count(kernel.operation, "splits", choice.splits)?;
    let grid = Grid::of_items(rows * columns.div_ceil(8));
    let Counts { rows, columns, rows_per_image } = &counts;
    let parameters: Parameters<'_> =
        &[&sums, bias, channel_bias, residual, y, rows, columns, &splits, rows_per_image, activation];
    // SAFETY: sum_splits's, with what the kernel before it had.
    unsafe { cuda.launch("gemm", &cuda.typed("sum_splits"), grid, parameters) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H200: u32 = 132;

    fn choice(tiles: &'static [Tile], images: usize, rows: usize, columns: usize, steps: usize) -> Choice {
        Choice::new(tiles, Size { images, rows, columns, steps }, true, H200)
    }

    /// The 3×3 convolutions of SD 1.5 and its VAE.
    #[test]
    fn large_products_get_large_tiles_and_small_ones_are_split() {
        let conv = |side: usize, c: usize| choice(CONV, 1, side * side, c, 9 * c / 32);
        let names = |c: Choice| (c.tile.name, c.splits);
        assert_eq!(names(conv(512, 128)), ("128x128", 1));
        assert_eq!(names(conv(512, 320)), ("128x160", 1));
        let lowest = conv(8, 1280);
        assert_eq!(lowest.tile.rows, 64);
        assert!(lowest.splits >= 4, "{lowest:?}");
        assert_eq!(names(choice(CONV, 1, 1, 1, 1)).1, 1);
        // A block for every multiprocessor, if only just.
        let middle = conv(32, 640);
        let blocks: usize = middle.grid(32 * 32, 640).blocks.iter().product();
        assert!(blocks * 10 >= H200 as usize * 7, "{middle:?}");
    }

    #[test]
    fn splits_do_not_depend_on_the_batch_and_every_block_has_work() {
        for rows in [1, 64, 77, 256, 1024, 4096, 16384] {
            for columns in [4, 64, 320, 1280, 10240] {
                for steps in [0, 1, 10, 90, 360] {
                    let alone = choice(GEMM, 1, rows, columns, steps);
                    assert!(alone.splits == 1 || steps / alone.splits >= LEAST_STEPS);
                    for images in [2, 3, 16, 1000] {
                        assert_eq!(choice(GEMM, images, rows, columns, steps).splits, alone.splits);
                    }
                    let size = Size { images: 1, rows, columns, steps };
                    assert_eq!(Choice::new(GEGLU, size, false, H200).splits, 1);
                }
            }
        }
    }

    #[test]
    fn every_tile_is_for_something() {
        for tiles in [GEMM, GEGLU, CONV, GATHER] {
            for tile in tiles {
                let chosen = [64, 256, 1024, 2048, 4096, 16384, 1 << 18].into_iter().any(|rows| {
                    [64, 128, 320, 640, 1280, 5120]
                        .into_iter()
                        .any(|columns| choice(tiles, 1, rows, columns, 90).tile == tile)
                });
                assert!(chosen, "{}", tile.name);
            }
        }
    }
}
