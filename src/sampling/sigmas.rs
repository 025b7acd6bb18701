//! Sigma schedules: other ways to lay out the noise levels than spaced timesteps.

use super::grid::{Grid, Node};
use super::{Options, Sampler, SchedulerConfig, SigmaSchedule};
use crate::util::error::{Result, bail};

/// The sigma schedule that a request or the model's config asks for; `None` = spaced timesteps.
pub(super) fn requested(
    config: &SchedulerConfig,
    options: &Options,
    _sampler: Sampler,
) -> Option<SigmaSchedule> {
    options.sigma_schedule.or(config.sigma_schedule)
}

/// The nodes of a sigma schedule, the end included.
pub(super) fn nodes(
    _grid: &Grid,
    schedule: SigmaSchedule,
    _config: &SchedulerConfig,
    _options: &Options,
    _sampler: Sampler,
) -> Result<Vec<Node>> {
    bail!(Unsupported, "sigma schedule {} is not built in", schedule.name())
}
