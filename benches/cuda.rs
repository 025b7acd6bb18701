//! Device times of operations in f16, at the sizes of a guided step of Stable Diffusion 1.5 at 512 × 512 and of SDXL at
//! 1024 × 1024, and of decoding a picture of 512 × 512.
//!
//!     cargo bench --bench cuda -- [OUTPUT.md] [--tflops PEAK] [--gbps PEAK] [--smoke]
//!
//! An operation is recorded several times in a row and replayed, as in a denoising step, so that a time is the GPU's and
//! not that of the calls that start the work; inputs and weights that fit its cache are there. Rates are those of the
//! definition: two operations for each multiplication and addition, and for norms each value read and written once.
//! `--tflops` and `--gbps` state the peaks to set them against. `--smoke` runs everything once, with small shapes.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use diffusion::backend::cuda::{Cuda, CudaTensor, Options, Precision};
use diffusion::backend::{Backend, ConvGeometry, DType, Epilogue, Shape, Weight};
use diffusion::util::error::{Result, Status};
use diffusion::util::log::{Level, Log};

const ROUNDS: usize = 7;
/// What a round should take at least, in seconds.
const ROUND: f64 = 5e-3;
/// The most times that an operation is in one recording.
const MOST: usize = 200;

/// An operation and its sizes; images are square, convolutions 3 × 3.
#[derive(Clone, Copy)]
enum Op {
    Conv {
        side: usize,
        inputs: usize,
        outputs: usize,
    },
    /// From `side` to twice that.
    Upsample {
        side: usize,
        channels: usize,
    },
    Linear {
        tokens: usize,
        inputs: usize,
        outputs: usize,
    },
    Geglu {
        tokens: usize,
        inputs: usize,
        outputs: usize,
    },
    Attention {
        queries: usize,
        keys: usize,
        heads: usize,
        d: usize,
    },
    GroupNorm {
        side: usize,
        channels: usize,
    },
    LayerNorm {
        tokens: usize,
        channels: usize,
    },
}
use Op::{Attention, Conv, Geglu, GroupNorm, LayerNorm, Linear, Upsample};

/// What is timed: the model, its batch, and the operation.
const ROWS: [(&str, usize, Op); 36] = [
    ("SD 1.5", 2, Conv { side: 64, inputs: 320, outputs: 320 }),
    ("SD 1.5", 2, Conv { side: 64, inputs: 640, outputs: 320 }),
    ("SD 1.5", 2, Conv { side: 32, inputs: 640, outputs: 640 }),
    ("SD 1.5", 2, Conv { side: 16, inputs: 1280, outputs: 1280 }),
    ("SD 1.5", 2, Conv { side: 8, inputs: 1280, outputs: 1280 }),
    ("SD 1.5", 2, Linear { tokens: 4096, inputs: 320, outputs: 320 }),
    ("SD 1.5", 2, Linear { tokens: 4096, inputs: 1280, outputs: 320 }),
    ("SD 1.5", 2, Linear { tokens: 1024, inputs: 640, outputs: 640 }),
    ("SD 1.5", 2, Geglu { tokens: 4096, inputs: 320, outputs: 1280 }),
    ("SD 1.5", 2, Geglu { tokens: 1024, inputs: 640, outputs: 2560 }),
    ("SD 1.5", 2, Attention { queries: 4096, keys: 4096, heads: 8, d: 40 }),
    ("SD 1.5", 2, Attention { queries: 1024, keys: 1024, heads: 8, d: 80 }),
    ("SD 1.5", 2, Attention { queries: 4096, keys: 77, heads: 8, d: 40 }),
    ("SD 1.5", 2, Attention { queries: 1024, keys: 77, heads: 8, d: 80 }),
    ("SD 1.5", 2, GroupNorm { side: 64, channels: 320 }),
    ("SD 1.5", 2, GroupNorm { side: 32, channels: 640 }),
    ("SD 1.5", 2, LayerNorm { tokens: 4096, channels: 320 }),
    ("SDXL", 2, Conv { side: 128, inputs: 320, outputs: 320 }),
    ("SDXL", 2, Conv { side: 64, inputs: 640, outputs: 640 }),
    ("SDXL", 2, Conv { side: 32, inputs: 1280, outputs: 1280 }),
    ("SDXL", 2, Linear { tokens: 4096, inputs: 640, outputs: 640 }),
    ("SDXL", 2, Linear { tokens: 1024, inputs: 1280, outputs: 1280 }),
    ("SDXL", 2, Geglu { tokens: 4096, inputs: 640, outputs: 2560 }),
    ("SDXL", 2, Geglu { tokens: 1024, inputs: 1280, outputs: 5120 }),
    ("SDXL", 2, Attention { queries: 4096, keys: 4096, heads: 10, d: 64 }),
    ("SDXL", 2, Attention { queries: 1024, keys: 1024, heads: 20, d: 64 }),
    ("SDXL", 2, Attention { queries: 4096, keys: 77, heads: 10, d: 64 }),
    ("SDXL", 2, Attention { queries: 1024, keys: 77, heads: 20, d: 64 }),
    ("SDXL", 2, GroupNorm { side: 128, channels: 320 }),
    ("SDXL", 2, LayerNorm { tokens: 1024, channels: 1280 }),
    ("VAE", 1, Conv { side: 64, inputs: 512, outputs: 512 }),
    ("VAE", 1, Conv { side: 256, inputs: 256, outputs: 256 }),
    ("VAE", 1, Conv { side: 512, inputs: 128, outputs: 128 }),
    ("VAE", 1, Upsample { side: 128, channels: 512 }),
    ("VAE", 1, Attention { queries: 4096, keys: 4096, heads: 1, d: 512 }),
    ("VAE", 1, GroupNorm { side: 512, channels: 128 }),
];

impl Op {
    /// The same operation with sizes that an emulated GPU has the time for.
    fn small(self) -> Self {
        let (length, width) = (|x: usize| x.min(12), |x: usize| x.min(32));
        match self {
            Conv { side, inputs, outputs } => {
                Conv { side: length(side), inputs: width(inputs), outputs: width(outputs) }
            }
            Upsample { side, channels } => Upsample { side: length(side), channels: width(channels) },
            Linear { tokens, inputs, outputs } => {
                Linear { tokens: length(tokens), inputs: width(inputs), outputs: width(outputs) }
            }
            Geglu { tokens, inputs, outputs } => {
                Geglu { tokens: length(tokens), inputs: width(inputs), outputs: width(outputs) }
            }
            Attention { queries, keys, heads, d } => {
                Attention { queries: length(queries), keys: length(keys), heads: heads.min(2), d }
            }
            GroupNorm { side, channels } => GroupNorm { side: length(side), channels: width(channels) },
            LayerNorm { tokens, channels } => LayerNorm { tokens: length(tokens), channels: width(channels) },
        }
    }

    /// Floating-point operations, or bytes for norms, for `n` images.
    fn amount(self, n: usize) -> f64 {
        let one = match self {
            Conv { side, inputs, outputs } => 2 * side * side * 9 * inputs * outputs,
            Upsample { side, channels } => 2 * 4 * side * side * 9 * channels * channels,
            Linear { tokens, inputs, outputs } => 2 * tokens * inputs * outputs,
            Geglu { tokens, inputs, outputs } => 4 * tokens * inputs * outputs,
            Attention { queries, keys, heads, d } => 4 * queries * keys * heads * d,
            GroupNorm { side, channels } => 4 * side * side * channels,
            LayerNorm { tokens, channels } => 4 * tokens * channels,
        };
        (n * one) as f64
    }

    fn is_norm(self) -> bool {
        matches!(self, GroupNorm { .. } | LayerNorm { .. })
    }

    fn name(self) -> String {
        match self {
            Conv { side, inputs, outputs } => format!("convolution {side}², {inputs} → {outputs}"),
            Upsample { side, channels } => format!("upsample {side}² → {}², {channels}", 2 * side),
            Linear { tokens, inputs, outputs } => format!("linear {tokens} × {inputs} → {outputs}"),
            Geglu { tokens, inputs, outputs } => format!("GEGLU {tokens} × {inputs} → {outputs}"),
            Attention { queries, keys, heads, d } => {
                format!("attention {queries} × {keys}, {heads} heads of {d}")
            }
            GroupNorm { side, channels } => format!("group norm, SiLU {side}², {channels}"),
            LayerNorm { tokens, channels } => format!("layer norm {tokens} × {channels}"),
        }
    }

    /// Seconds of the operation on `n` images, in each round.
    fn times(self, cuda: &Cuda, n: usize, smoke: bool) -> Result<Vec<f64>> {
        let input = |shape: Shape| cuda.upload(shape, &values(shape.len()));
        let conv = |inputs, outputs, upsample| {
            let shape = [outputs, inputs, 3, 3];
            let geometry = ConvGeometry { upsample, ..ConvGeometry::same(3) };
            let (weight, bias) = (f16_bytes(&shape), f16_bytes(&shape[..1]));
            cuda.prepare_conv2d(part(&weight, &shape), Some(part(&bias, &shape[..1])), geometry)
        };
        let affine = |channels| {
            let weight = f16_bytes(&[channels]);
            cuda.prepare_affine(part(&weight, &[channels]), part(&weight, &[channels]))
        };
        let time = |body: &dyn Fn() -> Result<CudaTensor>| time(cuda, smoke, body);
        match self {
            Conv { side, inputs, outputs } => {
                let (x, weight) =
                    (input(Shape::image(n, side, side, inputs))?, conv(inputs, outputs, false)?);
                time(&|| cuda.conv2d(&x, &weight, Epilogue::default()))
            }
            Upsample { side, channels } => {
                let x = input(Shape::image(n, side, side, channels))?;
                let weight = conv(channels, channels, true)?;
                time(&|| cuda.upsample_conv2d(&x, &weight, 2 * side, 2 * side))
            }
            Linear { tokens, inputs, outputs } => {
                let x = input(Shape::tokens(n, tokens, inputs))?;
                let (weight, bias) = (f16_bytes(&[outputs, inputs]), f16_bytes(&[outputs]));
                let weight =
                    cuda.prepare_linear(part(&weight, &[outputs, inputs]), Some(part(&bias, &[outputs])))?;
                time(&|| cuda.linear(&x, &weight, Epilogue::default()))
            }
            Geglu { tokens, inputs, outputs } => {
                let x = input(Shape::tokens(n, tokens, inputs))?;
                let shape = [2 * outputs, inputs];
                let (weight, bias) = (f16_bytes(&shape), f16_bytes(&shape[..1]));
                let weight = cuda.prepare_geglu(part(&weight, &shape), Some(part(&bias, &shape[..1])))?;
                time(&|| cuda.linear_geglu(&x, &weight))
            }
            Attention { queries, keys, heads, d } => {
                let q = input(Shape::tokens(n, queries, heads * d))?;
                let k = input(Shape::tokens(n, keys, heads * d))?;
                let v = input(Shape::tokens(n, keys, heads * d))?;
                time(&|| cuda.attention(&q, &k, &v, heads, false))
            }
            GroupNorm { side, channels } => {
                let (x, affine) = (input(Shape::image(n, side, side, channels))?, affine(channels)?);
                time(&|| cuda.group_norm(&x, &affine, 32, 1e-5, true))
            }
            LayerNorm { tokens, channels } => {
                let (x, affine) = (input(Shape::tokens(n, tokens, channels))?, affine(channels)?);
                time(&|| cuda.layer_norm(&x, &affine, 1e-5))
            }
        }
    }
}

/// Small values of both signs.
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 1013) as f32 / 1013.0 - 0.5).collect()
}

fn f16_bytes(shape: &[usize]) -> Vec<u8> {
    let len = shape.iter().product();
    values(len).into_iter().flat_map(|x| half::f16::from_f32(x / 8.0).to_le_bytes()).collect()
}

fn part<'a>(bytes: &'a [u8], shape: &'a [usize]) -> Weight<'a> {
    Weight { dtype: DType::F16, shape, bytes }
}

/// Seconds of one `body`, in each round.
fn time(cuda: &Cuda, smoke: bool, body: &dyn Fn() -> Result<CudaTensor>) -> Result<Vec<f64>> {
    let (few, rounds) = if smoke { (1, 1) } else { (4, ROUNDS) };
    let first = replays(cuda, few, rounds, body)?;
    if smoke {
        return Ok(first);
    }
    let count = (ROUND / median(first)).clamp(1.0, MOST as f64);
    replays(cuda, count as usize, rounds, body)
}

/// Seconds of one of `count` runs of `body` that were recorded as one, in each round.
fn replays(
    cuda: &Cuda,
    count: usize,
    rounds: usize,
    body: &dyn Fn() -> Result<CudaTensor>,
) -> Result<Vec<f64>> {
    // What the host waits for at the end is 16 bytes.
    let all = |_: &[CudaTensor]| {
        for _ in 1..count {
            body()?;
        }
        let y = body()?;
        cuda.view(&y, 0, Shape::vector(1, 8))
    };
    let mut state = Default::default();
    let mut out = [0.0; 8];
    // Run, recorded, and once more to warm up.
    for _ in 0..3 {
        cuda.repeat(&mut state, &[], &all, &mut out)?;
    }
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        cuda.repeat(&mut state, &[], &all, &mut out)?;
        times.push(start.elapsed().as_secs_f64() / count as f64);
    }
    Ok(times)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// What the command line says.
#[derive(Default)]
struct Arguments {
    output: Option<String>,
    /// Floating-point operations and bytes a second.
    peaks: [Option<f64>; 2],
    smoke: bool,
}

impl Arguments {
    fn parse() -> std::result::Result<Self, String> {
        let mut parsed = Self::default();
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut peak = |unit: f64| {
                let value = arguments.next().and_then(|value| value.parse::<f64>().ok());
                value.map(|value| Some(value * unit)).ok_or(format!("{argument} wants a number"))
            };
            match argument.as_str() {
                "--tflops" => parsed.peaks[0] = peak(1e12)?,
                "--gbps" => parsed.peaks[1] = peak(1e9)?,
                "--smoke" => parsed.smoke = true,
                // What cargo adds.
                "--bench" => {}
                option if option.starts_with('-') => return Err(format!("no option {option}")),
                _ => parsed.output = Some(argument),
            }
        }
        Ok(parsed)
    }
}

/// The table.
fn table(cuda: &Cuda, arguments: &Arguments) -> Result<String> {
    let mut text = format!("Operations on {}, medians of {ROUNDS} rounds:\n\n", cuda.description());
    text += "| model | operation | n | µs (min-max) | rate | of the peak |\n|---|---|---|---|---|---|\n";
    for (model, n, op) in ROWS {
        let op = if arguments.smoke { op.small() } else { op };
        let times = op.times(cuda, n, arguments.smoke)?;
        let (least, most) = times.iter().fold((f64::MAX, 0.0f64), |(a, b), &t| (a.min(t), b.max(t)));
        let seconds = median(times);
        let rate = op.amount(n) / seconds;
        let (peak, shown) = if op.is_norm() {
            (arguments.peaks[1], format!("{:.0} GB/s", rate / 1e9))
        } else {
            (arguments.peaks[0], format!("{:.1} TFLOP/s", rate / 1e12))
        };
        let share = peak.map_or(String::new(), |peak| format!("{:.0} %", 100.0 * rate / peak));
        let [seconds, least, most] = [seconds, least, most].map(|t| t * 1e6);
        text += &format!(
            "| {model} | {} | {n} | {seconds:.1} ({least:.1}-{most:.1}) | {shown} | {share} |\n",
            op.name()
        );
    }
    Ok(text)
}

fn main() -> ExitCode {
    let arguments = match Arguments::parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("cuda: {error}");
            return ExitCode::FAILURE;
        }
    };
    // A step that is not recorded, for one, whose time would be something else.
    let log = Log::new(Level::Warn, Arc::new(|_: Level, message: &str| eprintln!("cuda: {message}")));
    let cuda = match Cuda::new(&Options { precision: Precision::F16, log, ..Options::default() }) {
        Ok(cuda) => cuda,
        Err(error) if matches!(error.status(), Status::Unsupported | Status::NotFound) => {
            println!("nothing to time: {error}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("cuda: {error}");
            return ExitCode::FAILURE;
        }
    };
    let text = match table(&cuda, &arguments) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("cuda: {error}");
            return ExitCode::FAILURE;
        }
    };
    print!("{text}");
    if let Some(path) = &arguments.output
        && let Err(error) = std::fs::write(path, text)
    {
        eprintln!("cuda: {path}: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
