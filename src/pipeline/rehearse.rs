//! A request in short, for a backend that only counts memory.

use super::Pipeline;
use super::request::{Observer, Request, Stage};
use super::start::LATENTS;
use crate::backend::{Backend, Shape};
use crate::util::buffer;
use crate::util::error::{Result, Status, bail};

/// Enough for the device to come into its stride: the first step allocates, the second is recorded, and a recording that
/// misses memory is tried again.
const STEPS: u32 = 5;
/// Images, one by one, after which decoding takes no new memory.
const DECODED: usize = 3;

/// Stops a request when it has run for long enough.
struct Stop;

impl Observer for Stop {
    fn progress(&mut self, stage: Stage, step: u32, _: u32) -> Result<()> {
        if stage == Stage::Denoise && step >= STEPS {
            bail!(Cancelled, "the rest of the steps is like these");
        }
        Ok(())
    }
}

impl<B: Backend> Pipeline<B> {
    /// Does on `backend` all that makes `request` take memory there: text, the first of its steps, decoding. The images, which
    /// nobody would see, do not come back to the host.
    ///
    /// # Errors
    /// As [`Pipeline::generate`].
    pub fn rehearse(&self, backend: &B, request: &Request) -> Result<()> {
        let request = Request { decode: false, ..request.clone() };
        let size = self.latent_size(&request)?;
        match self.generate(backend, &request, &mut Stop) {
            Err(error) if error.status() != Status::Cancelled => return Err(error),
            _ => {}
        }
        let latents = buffer::zeros(size.image(), LATENTS)?;
        for _ in 0..size.batch.min(DECODED) {
            let shape = Shape::image(1, size.height, size.width, size.channels);
            let latents = backend.upload(shape, &latents)?;
            self.vae.decode(backend, &latents)?;
        }
        Ok(())
    }
}
