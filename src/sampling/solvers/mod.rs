//! The samplers, one family a file. Each writes its steps down for [`Run`](super::Run) to carry out.

mod ddim;
mod ddpm;
mod euler;

use super::Sampler;
use super::plan::Settings;
use super::program::{Builder, Value};
use crate::util::error::{Result, bail};

/// Writes the steps of a request from its first `latents` to its last.
pub(super) fn write(b: &mut Builder, latents: Value, settings: &Settings<'_>) -> Result<()> {
    match settings.sampler {
        Sampler::Ddpm => ddpm::write(b, latents, settings),
        Sampler::Ddim => ddim::write(b, latents, settings),
        Sampler::Euler => euler::write(b, latents, settings),
        sampler => bail!(Unsupported, "sampler {} is not built in", sampler.name()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::mixture::equals_golden;

    #[test]
    fn euler_equals_k_diffusion() {
        equals_golden("euler");
    }
}
