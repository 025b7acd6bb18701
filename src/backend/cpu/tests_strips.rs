//! Norms and convolutions in strips, and residual blocks in little memory: on every instruction set against the naive
//! `f64` backend, to the same bits as in one piece, and to the byte as predicted.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::ops::Range;

use super::*;
use crate::backend::cases::{input, weight_bytes};
use crate::backend::reference::Reference;
use crate::testing::relative_l2;
use crate::util::error::Status;

/// A residual block, and a norm with a convolution on its own: those of its first half.
#[derive(Debug, Clone, Copy)]
struct Case {
    h: usize,
    w: usize,
    inputs: usize,
    outputs: usize,
    groups: usize,
    upsample: bool,
    bias: bool,
}

/// Sides that are no multiple of a tile or a strip, next to them and below; groups of one channel; and what the decoder
/// has. A strip of the least size has 16 rows, and images of less than four of them are no strips.
fn cases() -> Vec<Case> {
    let case = |h, w, inputs, outputs, groups, upsample, bias| Case {
        h,
        w,
        inputs,
        outputs,
        groups,
        upsample,
        bias,
    };
    vec![
        case(1, 1, 4, 4, 4, false, true),
        case(1, 9, 8, 4, 2, false, false),
        case(64, 1, 6, 6, 3, false, true),
        case(67, 5, 20, 20, 4, false, true),
        case(65, 8, 24, 12, 4, false, true),
        case(80, 13, 3, 3, 3, false, false),
        case(97, 3, 7, 9, 1, false, true),
        case(1, 1, 4, 6, 4, true, false),
        case(1, 1, 4, 4, 2, true, false),
        case(32, 1, 6, 3, 3, true, true),
        case(34, 17, 16, 9, 4, true, false),
        case(41, 3, 12, 12, 12, true, true),
    ]
}

/// The prepared weights.
struct Parts<B: Backend> {
    norms: [B::Affine; 2],
    convs: [B::Conv2d; 2],
    upsample: Option<B::Conv2d>,
    shortcut: Option<B::Linear>,
    x: B::Tensor,
    bias: Option<B::Tensor>,
    residual: B::Tensor,
    groups: usize,
}

impl<B: Backend> Parts<B> {
    fn new(b: &B, case: &Case, images: Range<usize>) -> Self {
        let Case { h, w, inputs, outputs, groups, upsample, bias } = *case;
        let norm = |c: usize, seed| {
            let shape = [c];
            let (weight, shift) =
                (weight_bytes(&shape, DType::F32, seed), weight_bytes(&shape, DType::F16, seed + 1));
            let weight = Weight { dtype: DType::F32, shape: &shape, bytes: &weight };
            b.prepare_affine(weight, Weight { dtype: DType::F16, shape: &shape, bytes: &shift }).unwrap()
        };
        let conv = |shape: [usize; 4], upsample, seed| {
            let (weight, bias) =
                (weight_bytes(&shape, DType::F16, seed), weight_bytes(&shape[..1], DType::F32, seed + 1));
            let weight = Weight { dtype: DType::F16, shape: &shape, bytes: &weight };
            let bias = Weight { dtype: DType::F32, shape: &shape[..1], bytes: &bias };
            b.prepare_conv2d(weight, Some(bias), ConvGeometry { upsample, ..ConvGeometry::same(3) }).unwrap()
        };
        let side = |seed| {
            let shape = [outputs, inputs];
            let weight = weight_bytes(&shape, DType::F32, seed);
            b.prepare_linear(Weight { dtype: DType::F32, shape: &shape, bytes: &weight }, None).unwrap()
        };
        Self {
            norms: [norm(inputs, 1), norm(outputs, 3)],
            convs: [conv([outputs, inputs, 3, 3], false, 5), conv([outputs, outputs, 3, 3], false, 7)],
            upsample: upsample.then(|| conv([inputs, inputs, 3, 3], true, 9)),
            shortcut: (inputs != outputs).then(|| side(11)),
            x: input(b, &images, h, w, inputs, 13),
            bias: bias.then(|| input(b, &images, 1, 1, outputs, 14)),
            residual: input(b, &images, h, w, outputs, 15),
            groups,
        }
    }

    fn norm(&self, i: usize, silu: bool) -> Norm<'_, B::Affine> {
        // Those of the second half divide the outputs of every case.
        Norm { affine: &self.norms[i], groups: if i == 0 { self.groups } else { 1 }, eps: 1e-5, silu }
    }

    fn block(&self) -> ResidualBlock<'_, B> {
        ResidualBlock {
            norm1: self.norm(0, true),
            conv1: &self.convs[0],
            channel_bias: self.bias.as_ref(),
            norm2: self.norm(1, true),
            conv2: &self.convs[1],
            shortcut: self.shortcut.as_ref(),
        }
    }

    /// A norm and a convolution of the input as it comes, with all that an epilogue can have.
    fn norm_conv(&self, b: &B, onto: bool) -> B::Tensor {
        let residual = &self.residual;
        if onto {
            let shape = residual.shape();
            let mut values = vec![0.0; shape.len()];
            b.download(residual, &mut values).unwrap();
            let sum = b.upload(shape, &values).unwrap();
            return b.norm_conv2d_onto(&self.x, self.norm(0, true), &self.convs[0], sum).unwrap();
        }
        let epilogue = Epilogue {
            activation: Some(Activation::Gelu),
            channel_bias: self.bias.as_ref(),
            residual: Some(residual),
        };
        b.norm_conv2d(&self.x, self.norm(0, false), &self.convs[0], epilogue).unwrap()
    }

    /// `shared` leaves a second owner of the input's memory.
    fn residual(&self, b: &B, shared: bool) -> B::Tensor {
        let mut x = b.view(&self.x, 0, self.x.shape()).unwrap();
        if !shared {
            let mut values = vec![0.0; x.shape().len()];
            b.download(&x, &mut values).unwrap();
            x = b.upload(x.shape(), &values).unwrap();
        }
        b.residual_block(x, self.upsample.as_ref(), &self.block()).unwrap()
    }
}

impl Parts<Cpu> {
    /// [`Parts::residual`] in little memory, whatever there is; `lazily` does not make the enlarged input first.
    fn small(&self, cpu: &Cpu, shared: bool, lazily: bool) -> CpuTensor {
        let mut x = cpu.view(&self.x, 0, self.x.shape).unwrap();
        if !shared {
            x = cpu.upload(x.shape, x.values()).unwrap();
        }
        match &self.upsample {
            Some(conv) if !lazily => {
                let Shape { h, w, .. } = x.shape;
                let x = cpu.upsample_conv2d(&x, conv, 2 * h, 2 * w).unwrap();
                residual::small(cpu, x, None, &self.block()).unwrap()
            }
            conv => residual::small(cpu, x, conv.as_ref(), &self.block()).unwrap(),
        }
    }
}

/// With strips of 16 rows at least, or in one piece.
fn cpu(simd: Simd, threads: usize, strip: usize) -> Cpu {
    Cpu { strip, ..Cpu::with_simd(threads, None, simd).unwrap() }
}

const ONE_PIECE: usize = usize::MAX;

#[test]
fn strips_are_close_to_f64_and_equal_to_one_piece() {
    for case in cases() {
        let reference = Reference::default();
        let parts = Parts::new(&reference, &case, 0..2);
        let expected = [false, true].map(|onto| parts.norm_conv(&reference, onto).values);
        for simd in Simd::available() {
            let whole = cpu(simd, 1, ONE_PIECE);
            let parts = Parts::new(&whole, &case, 0..2);
            let whole = [false, true].map(|onto| parts.norm_conv(&whole, onto).values().to_vec());
            for (threads, strip) in [(1, 1), (3, 1), (2, 16 * 4 * 2 * case.w * case.inputs)] {
                let cpu = cpu(simd, threads, strip);
                let parts = Parts::new(&cpu, &case, 0..2);
                for onto in [false, true] {
                    let values = parts.norm_conv(&cpu, onto);
                    let i = usize::from(onto);
                    let error = relative_l2(values.values(), &expected[i]);
                    assert!(error < 3e-6, "{case:?} with {simd:?}: relative error {error:e}");
                    assert!(values.values() == whole[i], "{case:?}, {simd:?}, {threads} threads, {strip}");
                }
            }
        }
    }
}

#[test]
fn little_memory_gives_the_same_block() {
    for case in cases() {
        let reference = Reference::default();
        let expected = Parts::new(&reference, &case, 0..2).residual(&reference, false).values;
        for simd in Simd::available() {
            let whole = cpu(simd, 2, ONE_PIECE);
            let whole = Parts::new(&whole, &case, 0..2).residual(&whole, true).values().to_vec();
            let error = relative_l2(&whole, &expected);
            assert!(error < 5e-6, "{case:?} with {simd:?}: relative error {error:e}");
            for (threads, strip) in [(1, 1), (3, 16 * 4 * 2 * case.w * case.inputs)] {
                let cpu = cpu(simd, threads, strip);
                let parts = Parts::new(&cpu, &case, 0..2);
                let before = parts.x.values().to_vec();
                assert!(parts.residual(&cpu, false).values() == whole, "{case:?} with {simd:?}: fast");
                for (shared, lazily) in [(false, false), (true, false), (true, true)] {
                    let lazily = lazily && case.inputs != case.outputs;
                    let values = parts.small(&cpu, shared, lazily);
                    assert!(values.values() == whole, "{case:?} with {simd:?}: {shared} {lazily}");
                    assert!(parts.x.values() == before, "{case:?}: a shared input was written over");
                }
            }
        }
    }
}

#[test]
fn an_image_does_not_depend_on_its_batch() {
    for case in cases() {
        let cpu = cpu(Simd::detect(), 2, 1);
        let run = |images: Range<usize>| {
            let parts = Parts::new(&cpu, &case, images);
            let small = parts.small(&cpu, true, false).values().to_vec();
            (parts.norm_conv(&cpu, false).values().to_vec(), small)
        };
        let (strips, small) = run(0..3);
        for i in 0..3 {
            let alone = run(i..i + 1);
            assert!(alone.0 == strips[i * alone.0.len()..][..alone.0.len()], "{case:?}, image {i}");
            assert!(alone.1 == small[i * alone.1.len()..][..alone.1.len()], "{case:?}, image {i}");
        }
    }
}

/// However short memory is, what does not fit together goes operation by operation, which refuses it.
#[test]
fn blocks_that_do_not_fit_are_not_computed_in_little_memory() {
    let cpu = Cpu::with_simd(1, None, Simd::detect()).unwrap();
    for case in cases() {
        let parts = Parts::new(&cpu, &case, 0..1);
        let block = parts.block();
        let fits = || BlockSizes {
            x: parts.x.shape,
            own: true,
            upsample: parts.upsample.as_ref().map(CpuConv2d::size),
            conv1: block.conv1.size(),
            conv2: block.conv2.size(),
            shortcut: block.shortcut.map(|shortcut| ConvSize::linear(&shortcut.0)),
        };
        let way = |change: &dyn Fn(&mut BlockSizes)| {
            let mut sizes = fits();
            change(&mut sizes);
            cpu.sizes().way(&sizes, Some(0))
        };
        assert!(way(&|_| ()).is_some(), "{case:?}");
        assert_eq!(way(&|sizes| sizes.conv1.inputs += 8), None, "{case:?}");
        assert_eq!(way(&|sizes| sizes.conv2.inputs += 8), None, "{case:?}");
        let shortcut = |sizes: &mut BlockSizes| match &mut sizes.shortcut {
            Some(shortcut) => shortcut.outputs += 8,
            None => {
                sizes.conv1.outputs += 8;
                sizes.conv2.inputs += 8;
                sizes.conv2.outputs += 8;
            }
        };
        assert_eq!(way(&shortcut), None, "{case:?}");
    }
}

/// Two blocks, one after the other; the second uses again what the first leaves over. Returns the bytes before.
fn two_blocks<B: Backend>(b: &B, case: &Case, used: impl Fn() -> u64) -> Result<u64> {
    let parts = Parts::new(b, case, 0..2);
    let more = Parts::new(b, &Case { inputs: case.outputs, groups: 1, upsample: false, ..*case }, 0..2);
    let x = b.upload(parts.x.shape(), &vec![0.5; parts.x.shape().len()])?;
    let before = used();
    let y = b.residual_block(x, parts.upsample.as_ref(), &parts.block())?;
    b.residual_block(y, None, &more.block())?;
    Ok(before)
}

#[test]
fn predictions_are_right_to_the_byte_for_any_limit() {
    for case in cases() {
        let run = |limit: Option<u64>| {
            let cpu = Cpu { strip: 1, ..Cpu::with_simd(2, limit, Simd::detect()).unwrap() };
            let shapes = cpu.shapes(limit);
            let predicted = two_blocks(&shapes, &case, || shapes.memory_used());
            let real = two_blocks(&cpu, &case, || cpu.memory_used());
            assert_eq!(predicted.is_ok(), real.is_ok(), "{case:?} within {limit:?}");
            assert_eq!(shapes.memory_peak(), cpu.memory_peak(), "{case:?} within {limit:?}");
            real.map(|before| (before, cpu.memory_peak()))
        };
        let (before, most) = run(None).unwrap();
        let mut least = most;
        for part in 0..40 {
            let limit = before + (most - before) * part / 40 / 4096 * 4096;
            match run(Some(limit)) {
                Ok((_, peak)) => {
                    assert!(peak <= limit);
                    least = least.min(limit);
                }
                Err(error) => assert_eq!(error.status(), Status::OutOfMemory),
            }
        }
        // Images of a page or two are less than what any way works in.
        assert!(
            case.h * case.w * case.outputs < 1024 || least < most,
            "{case:?}: it never takes less than {most}"
        );
    }
}
