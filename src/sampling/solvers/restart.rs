//! Restart: Heun's way down, and over again from noise added back.

use super::super::grid::{Grid, Node};
use super::super::plan::Settings;
use super::super::program::{Builder, Value};
use super::euler::raise;
use super::heun;

/// Between which noise-to-signal ratios steps are taken again.
const RESTART: [f64; 2] = [0.1, 2.0];

/// Xu et al. 2023 (arXiv:2306.14878), as A1111's `restart_sampler` chooses restarts: from 20 steps on it lays the way
/// out anew, Karras's, with fewer steps, and takes some of them again between the σ of 0.1 and of 2. The number of steps
/// stays the request's.
pub(super) fn write(b: &mut Builder, mut x: Value, settings: &Settings<'_>) {
    let mut at: Option<Node> = None;
    for (from, to) in steps(settings.grid) {
        if let Some(at) = at.filter(|at| at.sigma() < from.sigma()) {
            x = raise(b, x, [at, from], settings);
        }
        x = heun::step(b, x, from, to, settings.clip);
        b.end_step_at(x, to);
        at = Some(to);
    }
}

/// The two ends of each step, restarts included.
fn steps(grid: &Grid) -> Vec<(Node, Node)> {
    let count = grid.len();
    let (length, times) = match count {
        0..20 => return grid.steps().collect(),
        20..36 => (9, 1),
        _ => (count / 4, 2),
    };
    let nodes = &grid.nodes;
    let mut way = karras(grid, nodes[0], nodes[count - 1], count - length * times);
    way.push(nodes[count]);
    let nearest = |ratio: f64| {
        let sigma = grid.at_ratio(ratio).sigma();
        let off = |i: &usize| (way[*i].sigma() - sigma).abs();
        (0..way.len()).min_by(|a, b| off(a).total_cmp(&off(b))).unwrap_or(0)
    };
    let [low, high] = RESTART.map(nearest);
    let mut steps = Vec::new();
    for (i, ends) in (1..).zip(way.windows(2)) {
        steps.push((ends[0], ends[1]));
        if i == low && high < low {
            let again = karras(grid, way[high], way[low], length + 1);
            for _ in 0..times {
                steps.extend(again.windows(2).map(|ends| (ends[0], ends[1])));
            }
        }
    }
    steps
}

/// So many nodes from one to another, both included: Karras et al. 2022 (arXiv:2206.00364), equation 5 with ρ = 7.
fn karras(grid: &Grid, from: Node, to: Node, count: usize) -> Vec<Node> {
    let [max, min] = [from, to].map(|node| libm::pow(node.sigma(), 1.0 / 7.0));
    let between = |i: usize| libm::pow(max + i as f64 / (count - 1) as f64 * (min - max), 7.0);
    let mut nodes: Vec<Node> = (0..count).map(|i| grid.at_sigma(between(i))).collect();
    // To the bit, so that a way up ends where the way down begins.
    nodes[0] = from;
    nodes[count - 1] = to;
    nodes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::super::mixture::{config, equals_golden};
    use super::super::super::{Options, Plan, Sampler};

    #[test]
    fn trajectories_equal_the_algorithm() {
        equals_golden("restart");
    }

    /// What a mask or a preview needs to know: the noise in the latents after each step.
    #[test]
    fn levels_follow_the_way_up_and_down() {
        let case = serde_json::json!({});
        for (steps, restarts) in [(1, 0), (19, 0), (20, 1), (35, 1), (36, 2), (50, 2)] {
            let options = Options { sampler: Some(Sampler::Restart), ..Options::new(steps) };
            let plan = Plan::new(&config(&case, "epsilon"), &options).unwrap();
            assert_eq!((plan.len(), plan.evaluations()), (steps, 2 * steps - 1));
            let sigmas: Vec<f64> = (0..=steps).map(|i| plan.level(i).sigma).collect();
            assert_eq!(sigmas[steps], 0.0);
            // The step after a restart's noise ends above where it was.
            let up = sigmas.windows(2).filter(|pair| pair[1] > pair[0]).count();
            assert_eq!(up, restarts, "{sigmas:?}");
            // And each begins at the timestep of a level that was there before.
            let timesteps = plan.timesteps();
            assert_eq!(timesteps.windows(2).filter(|pair| pair[1] > pair[0]).count(), restarts);
        }
    }
}
