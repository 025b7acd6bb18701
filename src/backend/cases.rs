//! Operations with their sizes, for tests that hold a backend against another: the CPU's and CUDA's.
#![allow(clippy::unwrap_used)]

use std::ops::Range;

use super::*;

/// An operation with its sizes; `run` makes the data from fixed seeds, image by image.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Case {
    Linear { tokens: usize, inputs: usize, outputs: usize, dtype: DType, epilogue: bool },
    Residual { tokens: usize, inputs: usize, outputs: usize },
    Geglu { tokens: usize, inputs: usize, outputs: usize },
    Conv { h: usize, w: usize, inputs: usize, outputs: usize, kernel: usize, geometry: ConvGeometry },
    Upsample { h: usize, w: usize, height: usize, width: usize, channels: usize },
    GroupNorm { h: usize, w: usize, channels: usize, groups: usize, silu: bool, offset: f32 },
    LayerNorm { tokens: usize, channels: usize },
    Attention { queries: usize, keys: usize, heads: usize, d: usize, causal: bool },
    Activation(Activation),
    Add,
    Concat { a: usize, b: usize },
    Splice { h: usize, w: usize, c: usize },
    Embed,
    Select,
}

/// Values that look normal, from a seed (splitmix64, sums of four).
pub(crate) fn random(len: usize, seed: u64) -> Vec<f32> {
    // Not the generator's own step: seeds would give one sequence, a place further each.
    let mut state = seed.wrapping_mul(0xd134_2543_de82_ef95);
    let mut uniform = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 24) as f32 - 0.5
    };
    (0..len).map(|_| (uniform() + uniform() + uniform() + uniform()) * 1.7).collect()
}

/// The bytes of a random weight.
pub(crate) fn weight_bytes(shape: &[usize], dtype: DType, seed: u64) -> Vec<u8> {
    let values = random(shape.iter().product(), seed).into_iter().map(|x| x * 0.3);
    match dtype {
        DType::F32 => values.flat_map(f32::to_le_bytes).collect(),
        DType::F16 => values.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
        DType::Bf16 => values.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
    }
}

/// A random activation of the images `images`, with a mean of `offset`.
fn input_around<B: Backend>(
    b: &B,
    images: &Range<usize>,
    [h, w, c]: [usize; 3],
    seed: u64,
    offset: f32,
) -> B::Tensor {
    let image = |i| random(h * w * c, seed + 1000 * i as u64);
    let values: Vec<f32> = images.clone().flat_map(image).map(|x| x + offset).collect();
    b.upload(Shape::image(images.len(), h, w, c), &values).unwrap()
}

/// A random activation of the images `images`.
pub(crate) fn input<B: Backend>(
    b: &B,
    images: &Range<usize>,
    h: usize,
    w: usize,
    c: usize,
    seed: u64,
) -> B::Tensor {
    input_around(b, images, [h, w, c], seed, 0.0)
}

/// What `b` makes of the images `images` of a case.
pub(crate) fn run<B: Backend>(b: &B, case: Case, images: Range<usize>) -> Result<Vec<f32>> {
    let weight = |shape: &[usize], dtype, seed| weight_bytes(shape, dtype, seed);
    let input = |h, w, c, seed| input(b, &images, h, w, c, seed);
    let y = match case {
        Case::Linear { tokens, inputs, outputs, dtype, epilogue } => {
            let bytes = weight(&[outputs, inputs], dtype, 1);
            let bias = weight(&[outputs], dtype, 2);
            let shape = [outputs, inputs];
            let linear = b.prepare_linear(
                Weight { dtype, shape: &shape, bytes: &bytes },
                epilogue.then_some(Weight { dtype, shape: &shape[..1], bytes: &bias }),
            )?;
            let (residual, vector) = (input(tokens, 1, outputs, 4), input(1, 1, outputs, 5));
            let epilogue = match epilogue {
                false => Epilogue::default(),
                true => Epilogue {
                    activation: Some(Activation::Silu),
                    channel_bias: Some(&vector),
                    residual: Some(&residual),
                },
            };
            b.linear(&input(tokens, 1, inputs, 3), &linear, epilogue)?
        }
        // A linear layer with a bias and nothing but a residual after it.
        Case::Residual { tokens, inputs, outputs } => {
            let shape = [outputs, inputs];
            let (bytes, bias) = (weight(&shape, DType::F16, 1), weight(&shape[..1], DType::F32, 2));
            let linear = b.prepare_linear(
                Weight { dtype: DType::F16, shape: &shape, bytes: &bytes },
                Some(Weight { dtype: DType::F32, shape: &shape[..1], bytes: &bias }),
            )?;
            let residual = input(tokens, 1, outputs, 4);
            b.linear(&input(tokens, 1, inputs, 3), &linear, Epilogue::residual(&residual))?
        }
        Case::Geglu { tokens, inputs, outputs } => {
            let shape = [2 * outputs, inputs];
            let (bytes, bias) = (weight(&shape, DType::F16, 1), weight(&shape[..1], DType::F32, 2));
            let linear = b.prepare_geglu(
                Weight { dtype: DType::F16, shape: &shape, bytes: &bytes },
                Some(Weight { dtype: DType::F32, shape: &shape[..1], bytes: &bias }),
            )?;
            b.linear_geglu(&input(tokens, 1, inputs, 3), &linear)?
        }
        Case::Conv { h, w, inputs, outputs, kernel, geometry } => {
            let shape = [outputs, inputs, kernel, kernel];
            let (bytes, bias) = (weight(&shape, DType::F32, 1), weight(&shape[..1], DType::F32, 2));
            let conv = b.prepare_conv2d(
                Weight { dtype: DType::F32, shape: &shape, bytes: &bytes },
                Some(Weight { dtype: DType::F32, shape: &shape[..1], bytes: &bias }),
                geometry,
            )?;
            b.conv2d(&input(h, w, inputs, 3), &conv, Epilogue::channel_bias(&input(1, 1, outputs, 4)))?
        }
        Case::Upsample { h, w, height, width, channels } => {
            let shape = [channels, channels, 3, 3];
            let bytes = weight(&shape, DType::Bf16, 1);
            let geometry = ConvGeometry { upsample: true, ..ConvGeometry::same(3) };
            let conv = b.prepare_conv2d(
                Weight { dtype: DType::Bf16, shape: &shape, bytes: &bytes },
                None,
                geometry,
            )?;
            b.upsample_conv2d(&input(h, w, channels, 3), &conv, height, width)?
        }
        Case::GroupNorm { h, w, channels, groups, silu, offset } => {
            let (scale, shift) = (weight(&[channels], DType::F32, 1), weight(&[channels], DType::F32, 2));
            let shape = [channels];
            let part = |bytes| Weight { dtype: DType::F32, shape: &shape, bytes };
            let affine = b.prepare_affine(part(&scale), part(&shift))?;
            let x = input_around(b, &images, [h, w, channels], 3, offset);
            b.group_norm(&x, &affine, groups, 1e-5, silu)?
        }
        Case::LayerNorm { tokens, channels } => {
            let (scale, shift) = (weight(&[channels], DType::F16, 1), weight(&[channels], DType::F16, 2));
            let shape = [channels];
            let part = |bytes| Weight { dtype: DType::F16, shape: &shape, bytes };
            let affine = b.prepare_affine(part(&scale), part(&shift))?;
            b.layer_norm(&input(tokens, 1, channels, 3), &affine, 1e-5)?
        }
        Case::Attention { queries, keys, heads, d, causal } => {
            let (q, k) = (input(queries, 1, heads * d, 1), input(keys, 1, heads * d, 2));
            b.attention(&q, &k, &input(keys, 1, heads * d, 3), heads, causal)?
        }
        Case::Activation(activation) => {
            let x = input(50, 41, 33, 1);
            b.activation(&b.add(&x, &x)?, activation)?
        }
        Case::Add => b.add(&input(7, 13, 5, 1), &input(7, 13, 5, 2))?,
        Case::Concat { a, b: second } => {
            b.concat_channels(&input(60, 50, a, 1), &input(60, 50, second, 2))?
        }
        Case::Splice { h, w, c } => {
            // The first two images, wherever the batch starts.
            let at = images.clone().filter(|i| *i < 2).count();
            b.splice_images(&input(h, w, c, 1), &input(h, w, c, 2), at)?
        }
        Case::Embed => {
            let (entries, channels, length) = (100, 24, 7);
            let tokens = weight(&[entries, channels], DType::F16, 1);
            let positions = weight(&[9, channels], DType::Bf16, 2);
            let tokens = b.prepare_embedding(Weight {
                dtype: DType::F16,
                shape: &[entries, channels],
                bytes: &tokens,
            })?;
            let positions =
                b.prepare_embedding(Weight { dtype: DType::Bf16, shape: &[9, channels], bytes: &positions })?;
            let ids: Vec<u32> = images
                .clone()
                .flat_map(|i| (0..length).map(move |j| (i * 31 + j * 17) as u32 % 100))
                .collect();
            b.embed_tokens(&ids, images.len(), &tokens, &positions)?
        }
        Case::Select => {
            let index: Vec<usize> = images.clone().map(|i| (i * 5 + 2) % 7).collect();
            b.select_tokens(&input(7, 1, 33, 1), &index)?
        }
    };
    let mut values = vec![0.0; y.shape().len()];
    b.download(&y, &mut values)?;
    Ok(values)
}

/// Every operation, in sizes that fill vectors, tiles and tasks and others that do not.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let sizes = [(1, 1, 1), (1, 4, 3), (2, 320, 20), (5, 321, 40), (77, 640, 65), (13, 700, 320), (97, 3, 4)];
    for (i, (tokens, inputs, outputs)) in sizes.into_iter().enumerate() {
        let dtype = [DType::F32, DType::F16, DType::Bf16][i % 3];
        cases.push(Case::Linear { tokens, inputs, outputs, dtype, epilogue: i % 2 == 1 });
        let dtype = [DType::F16, DType::Bf16, DType::F32][i % 3];
        cases.push(Case::Linear { tokens, inputs, outputs, dtype, epilogue: i % 2 == 0 });
    }
    cases.push(Case::Linear { tokens: 250, inputs: 33, outputs: 600, dtype: DType::F32, epilogue: true });
    // Several panels of every instruction set in a task, and sums of several blocks.
    for (tokens, inputs, outputs) in [(3, 8, 16), (41, 70, 192), (29, 1300, 96), (7, 2700, 40)] {
        cases.push(Case::Residual { tokens, inputs, outputs });
    }
    for (tokens, inputs, outputs) in
        [(1, 5, 1), (30, 40, 20), (19, 64, 96), (130, 40, 168), (50, 20, 300), (3, 8, 17)]
    {
        cases.push(Case::Geglu { tokens, inputs, outputs });
    }
    let same = ConvGeometry::same(3);
    let down = ConvGeometry { stride: 2, padding: [0, 0, 1, 1], upsample: false };
    let down_same = ConvGeometry { stride: 2, ..same };
    for (h, w, inputs, outputs, kernel, geometry) in [
        (1, 1, 4, 4, 3, same),
        (1, 1, 320, 3, 3, same),
        (8, 8, 4, 320, 3, same),
        (9, 7, 40, 20, 3, same),
        (5, 6, 330, 33, 3, same),
        (16, 3, 20, 4, 1, ConvGeometry::same(1)),
        (8, 8, 20, 40, 3, down),
        (7, 9, 20, 40, 3, down),
        (7, 9, 3, 40, 3, down_same),
        (8, 6, 3, 8, 3, down_same),
        (5, 4, 1, 1, 5, ConvGeometry::same(5)),
        (6, 6, 10, 70, 3, ConvGeometry { stride: 1, padding: [0, 2, 1, 0], upsample: false }),
    ] {
        cases.push(Case::Conv { h, w, inputs, outputs, kernel, geometry });
    }
    for (h, w, height, width) in [(1, 1, 2, 2), (4, 3, 8, 6), (3, 5, 5, 9), (4, 4, 7, 8)] {
        cases.push(Case::Upsample { h, w, height, width, channels: 20 });
    }
    for (h, w, channels, groups) in
        [(1, 1, 32, 32), (1, 1, 64, 32), (9, 31, 40, 4), (40, 50, 32, 8), (3, 3, 1, 1)]
    {
        for silu in [false, true] {
            cases.push(Case::GroupNorm { h, w, channels, groups, silu, offset: 0.5 });
        }
    }
    for (tokens, channels) in [(1, 320), (77, 20), (3, 1), (200, 333)] {
        cases.push(Case::LayerNorm { tokens, channels });
    }
    for (queries, keys, heads, d) in [
        (1, 1, 1, 1),
        (1, 77, 2, 40),
        (70, 77, 2, 32),
        (49, 300, 3, 64),
        (100, 257, 1, 80),
        (17, 600, 2, 160),
        (20, 270, 1, 512),
        (13, 33, 3, 5),
    ] {
        cases.push(Case::Attention { queries, keys, heads, d, causal: false });
    }
    for (tokens, heads, d) in [(1, 2, 32), (77, 2, 64), (600, 1, 40)] {
        cases.push(Case::Attention { queries: tokens, keys: tokens, heads, d, causal: true });
    }
    cases.extend([Activation::Silu, Activation::Gelu, Activation::QuickGelu].map(Case::Activation));
    cases.extend([Case::Add, Case::Concat { a: 33, b: 7 }, Case::Concat { a: 1, b: 64 }]);
    cases.extend([Case::Splice { h: 1, w: 1, c: 1 }, Case::Splice { h: 7, w: 13, c: 5 }]);
    // More than one task's values an image, and no multiple of them.
    cases.push(Case::Splice { h: 60, w: 50, c: 33 });
    cases.extend([Case::Embed, Case::Select]);
    cases
}
