//! Noise from one Brownian path an image, for the samplers of stochastic differential equations.
//!
//! Fresh noise for every step would be another path for every number of steps. Here the noise of a step is what the
//! path gains over it: a long step's is the sum of those of the short ones in its place, so that a picture settles as
//! steps grow.

use super::noise::{NoiseSource, PHILOX_BLOCK, philox_4x32_10};
use super::normal::box_muller_pairs;
use crate::util::buffer;
use crate::util::error::Result;

/// The path is known at multiples of 2^-14 of its way, eight of which make the shortest of a thousand Karras steps; what
/// lies between is moved to the nearest.
const DEPTH: u32 = 14;
const END: u32 = 1 << DEPTH;

/// Values of an image that are worked on together: each Philox counter gives four.
const LANES: usize = PHILOX_BLOCK;
const CHUNK: usize = 4 * LANES;

/// Tells the counters of a path's nodes from those of a stream's draws, which have 0 there.
const COUNTER_TAG: u32 = 1;

/// A Brownian path W an image over u = r/(1 + r), where r⁴ is the noise-to-signal ratio, so that steps of usual schedules
/// are alike in length: from W(0) = 0 without noise to all noise
/// at u = 1, whatever part of the way a plan goes. `draw` gives (W(to) − W(from))/√|to − from|.
///
/// It stands in for k-diffusion's `BrownianTreeNoiseSampler`: the same idea, not torchsde's numbers. The values are
/// Philox's for the image's seed, whichever generator draws the first noise. They do not depend on what was drawn
/// before, nor on the other images of a batch.
#[derive(Debug)]
pub(super) struct BrownianPaths {
    seeds: Vec<u64>,
    /// W of the batch at the two times used last: steps follow one another, and the second evaluation of a step looks
    /// back to its beginning.
    known: [Known; 2],
}

#[derive(Debug)]
struct Known {
    time: Option<u32>,
    values: Vec<f32>,
}

impl BrownianPaths {
    /// The paths of a batch of `len` values, one for each image's seed.
    pub(super) fn new(seeds: &[u64], len: usize) -> Result<Self> {
        let known = || -> Result<Known> {
            Ok(Known { time: None, values: buffer::reserve(len, "a sampler's noise")? })
        };
        Ok(Self { seeds: buffer::copy(seeds, "a sampler's seeds")?, known: [known()?, known()?] })
    }

    /// Makes W at `time` the second of those known, and what was the second the first.
    fn look_up(&mut self, time: u32, image: usize, len: usize) {
        let [first, second] = &mut self.known;
        if second.time == Some(time) && second.values.len() == len {
            return;
        }
        std::mem::swap(first, second);
        if second.time == Some(time) && second.values.len() == len {
            return;
        }
        second.time = Some(time);
        second.values.resize(len, 0.0);
        for (values, seed) in second.values.chunks_mut(image).zip(&self.seeds) {
            path(*seed, time, values);
        }
    }
}

impl NoiseSource for BrownianPaths {
    fn draw(&mut self, from: f64, to: f64, images: usize, out: &mut [f32]) {
        // `chunks_mut` refuses a size of 0, which only an empty batch has.
        let image = (out.len() / images.max(1)).max(1);
        let [from, to] = ends(from, to);
        self.look_up(from, image, out.len());
        self.look_up(to, image, out.len());
        let [start, end] = &self.known;
        let scale = (f64::from(END) / f64::from(from.abs_diff(to))).sqrt() as f32;
        for (out, (start, end)) in out.iter_mut().zip(start.values.iter().zip(&end.values)) {
            *out = scale * (end - start);
        }
    }
}

/// The times of two noise-to-signal ratios, never the same one.
fn ends(from: f64, to: f64) -> [u32; 2] {
    let time = |ratio: f64| ((1.0 - 1.0 / (1.0 + ratio.sqrt().sqrt())) * f64::from(END)).round() as u32;
    let (from, to) = (time(from), time(to));
    match (from == to, to) {
        (false, _) => [from, to],
        // Steps too short to tell apart share their noise.
        (true, 0) => [1, 0],
        (true, _) => [to, to - 1],
    }
}

/// W of one image at `time`, by bisection: W in the middle of an interval is the mean of its ends and noise of its own
/// (Lévy's construction).
fn path(seed: u64, time: u32, values: &mut [f32]) {
    for (chunk, values) in values.chunks_mut(CHUNK).enumerate() {
        let first = (chunk * LANES) as u32;
        let (mut left, mut right) = ([[0.0; LANES]; 4], normals(seed, 0, first));
        let (mut start, mut end) = (0, END);
        // Numbered as in a heap: the halves of node n are 2·n and 2·n + 1.
        let mut node = 1;
        while time != start && time != end {
            let middle = start + (end - start) / 2;
            let std_dev = 0.5 * (f64::from(end - start) / f64::from(END)).sqrt() as f32;
            let mut at_middle = normals(seed, node, first);
            for ((middle, left), right) in at_middle.iter_mut().zip(&left).zip(&right) {
                for ((middle, left), right) in middle.iter_mut().zip(left).zip(right) {
                    *middle = 0.5 * (left + right) + std_dev * *middle;
                }
            }
            node *= 2;
            if time < middle {
                (right, end) = (at_middle, middle);
            } else {
                (left, start) = (at_middle, middle);
                node += 1;
            }
        }
        let found = if time == start { left } else { right };
        values.copy_from_slice(&found.as_flattened()[..values.len()]);
    }
}

/// The standard normal values of a node for the values of an image that a chunk of counters gives.
fn normals(seed: u64, node: u32, first: u32) -> [[f32; LANES]; 4] {
    let counters = std::array::from_fn(|i| first + i as u32);
    let [a, b, c, d] = philox_4x32_10([[node; LANES], [0; LANES], counters, [COUNTER_TAG; LANES]], seed);
    let ([first, second], [third, fourth]) = (box_muller_pairs(&a, &b), box_muller_pairs(&c, &d));
    [first, second, third, fourth]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::sync::Arc;

    use super::super::mixture::{config, perfect};
    use super::super::{Noise, NoiseStream, Options, Plan, Profile, Run, Sampler};
    use super::*;
    use crate::testing::relative_l2;

    const LEN: usize = 4 * 64 * 64;

    fn new(seeds: &[u64]) -> BrownianPaths {
        BrownianPaths::new(seeds, seeds.len() * LEN).unwrap()
    }

    fn draw(paths: &mut BrownianPaths, from: f64, to: f64, images: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; images * LEN];
        paths.draw(from, to, images, &mut out);
        out
    }

    fn mean(values: impl Iterator<Item = f64>) -> f64 {
        values.sum::<f64>() / LEN as f64
    }

    fn correlation(a: &[f32], b: &[f32]) -> f64 {
        mean(a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)))
    }

    /// Falls like a schedule from all noise to none.
    const RATIOS: [f64; 9] = [f64::INFINITY, 157.0, 14.6, 6.1, 1.7, 0.9, 0.2, 0.03, 0.0];

    #[test]
    fn a_long_steps_noise_is_the_sum_of_short_ones() {
        let length = |from: f64, to: f64| {
            let [from, to] = ends(from, to);
            f64::from(from.abs_diff(to)).sqrt()
        };
        let mut paths = new(&[7]);
        let (from, to) = (RATIOS[1], RATIOS[7]);
        let whole = draw(&mut paths, from, to, 1);
        let mut sum = vec![0.0; LEN];
        for pair in RATIOS[1..8].windows(2) {
            let part = draw(&mut paths, pair[0], pair[1], 1);
            for (sum, x) in sum.iter_mut().zip(part) {
                *sum += length(pair[0], pair[1]) * f64::from(x);
            }
        }
        let sum: Vec<f32> = sum.iter().map(|sum| (sum / length(from, to)) as f32).collect();
        // The path is kept in `f32`.
        assert!(relative_l2(&sum, &whole) < 1e-5);
    }

    #[test]
    fn steps_are_independent_and_standard_normal() {
        let mut paths = new(&[1]);
        // The bounds are four deviations of such means and more.
        let mut steps: Vec<Vec<f32>> =
            RATIOS.windows(2).map(|pair| draw(&mut paths, pair[0], pair[1], 1)).collect();
        for step in &steps {
            let moments = [1, 2, 3, 4].map(|power| mean(step.iter().map(|x| f64::from(*x).powi(power))));
            for (moment, (expected, bound)) in
                moments.into_iter().zip([(0.0, 0.04), (1.0, 0.05), (0.0, 0.12), (3.0, 0.35)])
            {
                assert!((moment - expected).abs() < bound, "{moments:?}");
            }
        }
        // Nor do they know of the noise that the run starts from, or of another seed's.
        let mut stream = vec![0.0; LEN];
        NoiseStream::new(Noise::Philox, 1).normal(&mut stream);
        steps.push(stream);
        steps.push(draw(&mut new(&[2]), RATIOS[2], RATIOS[3], 1));
        for (i, a) in steps.iter().enumerate() {
            for b in &steps[..i] {
                assert!(correlation(a, b).abs() < 0.04, "{i}");
            }
            let shifted = [&a[1..], &a[..1]].concat();
            assert!(correlation(a, &shifted).abs() < 0.04, "{i}");
        }
    }

    #[test]
    fn an_image_is_the_same_in_any_batch_and_order() {
        let mut batch = new(&[5, 6, 5]);
        let mut alone = new(&[6]);
        let forward: Vec<Vec<f32>> =
            RATIOS.windows(2).map(|pair| draw(&mut batch, pair[0], pair[1], 3)).collect();
        for (pair, three) in RATIOS.windows(2).zip(&forward).rev() {
            assert_eq!(draw(&mut alone, pair[0], pair[1], 1), three[LEN..2 * LEN]);
            assert_eq!(three[..LEN], three[2 * LEN..]);
            // There and back again.
            let back: Vec<f32> = draw(&mut alone, pair[1], pair[0], 1).iter().map(|x| -x).collect();
            assert_eq!(back, three[LEN..2 * LEN]);
        }
        assert_ne!(forward[1][..LEN], forward[1][LEN..2 * LEN]);
        // Lengths that are no multiple of a block, and none at all.
        let mut short = [0.0; 5];
        alone.draw(14.6, 6.1, 1, &mut short);
        assert_eq!(short, forward[2][LEN..LEN + 5]);
        alone.draw(14.6, 6.1, 1, &mut []);
    }

    #[test]
    fn steps_too_short_to_tell_apart_have_noise_too() {
        let mut paths = new(&[3]);
        for (from, to) in [(1.0, 1.0 - 1e-9), (1e-9, 0.0), (f64::INFINITY, 1e12), (0.0, 0.0)] {
            let noise = draw(&mut paths, from, to, 1);
            assert!((correlation(&noise, &noise) - 1.0).abs() < 0.05, "{from} {to}");
        }
    }

    /// What the paths are for. Streams, which give each number of steps noise of its own, do not pass.
    #[test]
    fn a_picture_settles_as_steps_grow() {
        let config = config(&serde_json::json!({}), "v_prediction");
        let picture = |sampler, steps: usize, streams: bool| {
            let karras = |i: usize| {
                (14.6f64.powf(1.0 / 7.0) * (1.0 - i as f64 / steps as f64)
                    + 0.03f64.powf(1.0 / 7.0) * (i as f64 / steps as f64))
                    .powi(7)
            };
            let options = Options {
                sampler: Some(sampler),
                sigmas: Some((0..=steps).map(karras).collect()),
                profile: Profile::ComfyUi,
                ..Options::new(steps)
            };
            let plan = Arc::new(Plan::new(&config, &options).unwrap());
            let mut first = vec![NoiseStream::new(Noise::Mt19937, 4)];
            let mut latents = vec![0.0; 256];
            first[0].normal(&mut latents);
            let scale = plan.init_noise_sigma();
            latents.iter_mut().for_each(|x| *x *= scale);
            let noise: Box<dyn NoiseSource + Send> =
                if streams { Box::new(first) } else { plan.noise_source(first, &[4], 256).unwrap() };
            let mut run = Run::new(plan, latents, 1, noise).unwrap();
            let mut asked = Vec::new();
            let mut denoise = perfect(&config, &mut asked);
            while !run.is_done() {
                run.step(&mut denoise).unwrap();
            }
            run.into_latents()
        };
        use Sampler::*;
        for sampler in [DpmppSde, Dpmpp2mSde, Dpmpp2mSdeHeun, Dpmpp3mSde] {
            let change = |steps, streams| {
                relative_l2(&picture(sampler, steps, streams), &picture(sampler, 2 * steps, streams))
            };
            let (few, many) = (change(25, false), change(200, false));
            assert!(few < 0.3 && many < 0.09, "{sampler:?} {few} {many}");
            assert!(change(200, true) > 0.7, "{sampler:?}");
        }
    }
}
