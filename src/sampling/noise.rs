//! Where random numbers come from: two generators that give torch's `randn` in `f32`, one stream an image.
//!
//! The bits are the same on any machine: what is not plain arithmetic goes through the `libm` crate in `f64`, or
//! through `cephes` where torch's own approximation is known to the bit.

use std::f32::consts::TAU as TAU_F32;
use std::f64::consts::TAU;

use super::normal::box_muller_curand;
use super::{Noise, cephes};

/// An endless stream of standard normal values. Draws continue where the last one ended, like a `torch.Generator`.
#[derive(Debug, Clone)]
pub struct NoiseStream(Generator);

// Not boxed: the streams of a batch are then one allocation, whose failure is an error.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone)]
enum Generator {
    Philox(Philox),
    Mt19937(Mt19937),
}

impl NoiseStream {
    /// A stream at its beginning, as after `torch.Generator.manual_seed(seed)`. MT19937 uses the low 32 bits.
    pub fn new(noise: Noise, seed: u64) -> Self {
        Self(match noise {
            Noise::Philox => Generator::Philox(Philox { seed, calls: 0 }),
            Noise::Mt19937 => Generator::Mt19937(Mt19937::new(seed)),
        })
    }

    /// Fills `out`, as one call of `torch.randn` does: how values are cut into calls matters in both generators.
    pub fn normal(&mut self, out: &mut [f32]) {
        match &mut self.0 {
            Generator::Philox(philox) => philox.normal(out),
            Generator::Mt19937(mt19937) => mt19937.normal(out),
        }
    }
}

/// Gives samplers their fresh noise.
pub trait NoiseSource {
    /// Fills a batch `[images, values of one image]` with standard normal noise for the way between two noise-to-signal
    /// ratios. Sources that know no ratios draw the next values of their streams.
    fn draw(&mut self, from: f64, to: f64, images: usize, out: &mut [f32]);
}

/// One stream an image, so that an image is the same whatever else is in its batch.
impl NoiseSource for Vec<NoiseStream> {
    fn draw(&mut self, _from: f64, _to: f64, images: usize, out: &mut [f32]) {
        let image = out.len() / images.max(1);
        // `chunks_mut` refuses a size of 0, which only an empty batch has.
        for (out, stream) in out.chunks_mut(image.max(1)).zip(self) {
            stream.normal(out);
        }
    }
}

/// Philox 4×32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), counted as torch's CUDA
/// `randn` does: value i of call n has the counter [n, 0, i, 0], the seed is the key. This is torch's order as long
/// as a draw has no more values than the GPU can run threads at once: its multiprocessors times the threads of each.
#[derive(Debug, Clone)]
struct Philox {
    seed: u64,
    calls: u32,
}

impl Philox {
    fn normal(&mut self, out: &mut [f32]) {
        for (block, out) in out.chunks_mut(PHILOX_BLOCK).enumerate() {
            let index: [u32; PHILOX_BLOCK] = std::array::from_fn(|i| (block * PHILOX_BLOCK + i) as u32);
            let [first, second, ..] = philox_4x32_10(
                [[self.calls; PHILOX_BLOCK], [0; PHILOX_BLOCK], index, [0; PHILOX_BLOCK]],
                self.seed,
            );
            box_muller_curand(&first, &second, out);
        }
        self.calls = self.calls.wrapping_add(1);
    }
}

/// Counters that are worked on together; compilers make vectors of them.
pub(super) const PHILOX_BLOCK: usize = 64;

/// The four words of each of `N` counters, word by word.
pub(super) fn philox_4x32_10<const N: usize>(mut counter: [[u32; N]; 4], seed: u64) -> [[u32; N]; 4] {
    let mut key = [seed as u32, (seed >> 32) as u32];
    for _ in 0..10 {
        let [c0, c1, c2, c3] = &mut counter;
        for (((c0, c1), c2), c3) in c0.iter_mut().zip(c1).zip(c2).zip(c3) {
            let product_0 = u64::from(*c0) * 0xD251_1F53;
            let product_2 = u64::from(*c2) * 0xCD9E_8D57;
            *c0 = (product_2 >> 32) as u32 ^ *c1 ^ key[0];
            *c1 = product_2 as u32;
            *c2 = (product_0 >> 32) as u32 ^ *c3 ^ key[1];
            *c3 = product_0 as u32;
        }
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// How many words MT19937 keeps, and how far apart those are that it mixes.
const MT_WORDS: usize = 624;
const MT_SHIFT: usize = 397;

/// The Mersenne Twister (Matsumoto & Nishimura 1998) and what torch's CPU `randn` makes of it: `normal_fill_AVX2` for
/// 16 values and more, `normal_distribution<double>` for fewer.
#[derive(Debug, Clone)]
struct Mt19937 {
    state: [u32; MT_WORDS],
    next: usize,
    /// The second value of a pair drawn by the short path, kept for the next short draw.
    cached: Option<f64>,
}

impl Mt19937 {
    fn new(seed: u64) -> Self {
        let mut state = [seed as u32; MT_WORDS];
        for i in 1..MT_WORDS {
            let previous = state[i - 1] ^ (state[i - 1] >> 30);
            state[i] = previous.wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { state, next: MT_WORDS, cached: None }
    }

    fn word(&mut self) -> u32 {
        if self.next == MT_WORDS {
            for i in 0..MT_WORDS {
                let joined = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % MT_WORDS] & 0x7FFF_FFFF);
                let twist = if joined & 1 == 0 { 0 } else { 0x9908_B0DF };
                self.state[i] = self.state[(i + MT_SHIFT) % MT_WORDS] ^ (joined >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9D2C_5680;
        word ^= (word << 15) & 0xEFC6_0000;
        word ^ (word >> 18)
    }

    fn uniform_f32(&mut self) -> f32 {
        (self.word() & 0x00FF_FFFF) as f32 * (1.0 / 16_777_216.0)
    }

    fn uniform_f64(&mut self) -> f64 {
        let (high, low) = (u64::from(self.word()), u64::from(self.word()));
        (((high << 32) | low) & ((1 << 53) - 1)) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    fn normal(&mut self, out: &mut [f32]) {
        if out.len() < 16 {
            out.fill_with(|| self.normal_f64() as f32);
            return;
        }
        out.fill_with(|| self.uniform_f32());
        out.chunks_exact_mut(16).for_each(box_muller_16);
        if !out.len().is_multiple_of(16) {
            // torch draws the last 16 again, over what was already there.
            let tail = out.len() - 16;
            out[tail..].fill_with(|| self.uniform_f32());
            box_muller_16(&mut out[tail..]);
        }
    }

    fn normal_f64(&mut self) -> f64 {
        if let Some(value) = self.cached.take() {
            return value;
        }
        let (u1, u2) = (self.uniform_f64(), self.uniform_f64());
        let radius = (-2.0 * libm::log1p(-u2)).sqrt();
        self.cached = Some(radius * libm::sin(TAU * u1));
        radius * libm::cos(TAU * u1)
    }
}

/// torch's `normal_fill_16`: uniform value j is the radius and j + 8 the angle of the normal values j and j + 8.
fn box_muller_16(values: &mut [f32]) {
    let (radii, angles) = values.split_at_mut(8);
    for (first, second) in radii.iter_mut().zip(angles) {
        let radius = (-2.0 * cephes::ln(1.0 - *first)).sqrt();
        let (sin, cos) = cephes::sin_cos(TAU_F32 * *second);
        *first = radius * cos;
        *second = radius * sin;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::super::tests::Golden;
    use super::*;

    /// Runs `check(seed, values)` on each seed's stream, cut into draws as the fixture's.
    fn for_each_seed(noise: Noise, mut check: impl FnMut(&Golden, &str, &[f32])) {
        let golden = Golden::load();
        let case = &golden.cases["noise"];
        for seed in case["seeds"].as_array().unwrap() {
            let seed = seed.as_str().unwrap();
            let mut stream = NoiseStream::new(noise, seed.parse().unwrap());
            let mut values = Vec::new();
            for draw in case["draws"].as_array().unwrap() {
                let start = values.len();
                values.resize(start + draw.as_u64().unwrap() as usize, 0.0);
                stream.normal(&mut values[start..]);
            }
            check(&golden, seed, &values);
        }
    }

    #[track_caller]
    fn assert_same_bits(actual: &[f32], expected: &[f32], seed: &str) {
        assert_eq!(actual.len(), expected.len());
        for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
            assert_eq!(a.to_bits(), e.to_bits(), "seed {seed}, value {i}: {a} but expected {e}");
        }
    }

    #[test]
    fn mt19937_equals_torch_on_the_cpu() {
        for_each_seed(Noise::Mt19937, |golden, seed, values| {
            assert_same_bits(values, &golden.f32s(&format!("noise.torch.{seed}")), seed);
        });
    }

    /// An independent calculation with numpy.
    #[test]
    fn philox_bits_are_the_same_on_every_machine() {
        for_each_seed(Noise::Philox, |golden, seed, values| {
            assert_same_bits(values, &golden.f32s(&format!("noise.philox.{seed}")), seed);
        });
    }

    /// The first outputs of the reference implementation for its default seed, in its `mt19937ar.out`.
    #[test]
    fn mt19937_words_equal_the_reference() {
        let mut mt19937 = Mt19937::new(5489);
        let words: Vec<u32> = (0..10_000).map(|_| mt19937.word()).collect();
        assert_eq!(words[..3], [3_499_211_612, 581_869_302, 3_890_346_734]);
        // The value C++ demands of `std::mt19937` ([rand.predef]).
        assert_eq!(words[9_999], 4_123_659_995);
    }

    /// The known answers of Random123 (`kat_vectors`).
    #[test]
    fn philox_words_equal_the_reference() {
        let philox_4x32_10 =
            |counter: [u32; 4], seed| philox_4x32_10(counter.map(|word| [word]), seed).map(|[word]| word);
        assert_eq!(philox_4x32_10([0; 4], 0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox_4x32_10([!0; 4], !0), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let answer = [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1];
        assert_eq!(philox_4x32_10(pi, 0x299f_31d0_a409_3822), answer);
    }

    /// `torch.manual_seed(0); torch.randn((3, 4), device="cuda")`.
    #[test]
    fn philox_equals_torch_on_cuda() {
        #[allow(clippy::excessive_precision)]
        let expected: [f32; 12] = [
            -0.92466259,
            -0.42534415,
            -2.6438457,
            0.14518388,
            -0.12086647,
            -0.57972564,
            -0.62285122,
            -0.32838709,
            -1.07454231,
            -0.36314407,
            -1.67105067,
            2.26550497,
        ];
        let mut values = [0.0; 12];
        NoiseStream::new(Noise::Philox, 0).normal(&mut values);
        for (actual, expected) in values.into_iter().zip(expected) {
            let ulps = actual.to_bits().abs_diff(expected.to_bits());
            assert!(ulps <= 1, "{actual} but torch has {expected}");
        }
    }

    #[test]
    fn moments_are_those_of_a_standard_normal() {
        for noise in [Noise::Philox, Noise::Mt19937] {
            let mut values = vec![0.0; 1 << 18];
            NoiseStream::new(noise, 3).normal(&mut values);
            let moment = |power: i32| {
                values.iter().map(|v| f64::from(*v).powi(power)).sum::<f64>() / values.len() as f64
            };
            for (power, expected) in [(1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)] {
                assert!(
                    (moment(power) - expected).abs() < 0.05,
                    "{noise:?} moment {power}: {}",
                    moment(power)
                );
            }
        }
    }
}
