//! A request in short, for a backend that only counts memory.

use super::Pipeline;
use super::request::{Observer, Request, Stage};
use crate::backend::{Backend, Shape};
use crate::util::error::Result;

/// Enough for the device to come into its stride: the first step allocates, the second is recorded, and a recording that
/// misses memory is tried again.
const STEPS: u32 = 5;
/// Images, one by one, after which decoding takes no new memory.
const DECODED: usize = 3;

/// Hears nothing.
struct Deaf;

impl Observer for Deaf {
    fn progress(&mut self, _: Stage, _: u32, _: u32) -> Result<()> {
        Ok(())
    }
}

impl<B: Backend> Pipeline<B> {
    /// Does on `backend` all that makes `request` take memory there: text, a few steps, decoding. The images, which
    /// nobody would see, do not come back to the host.
    ///
    /// # Errors
    /// As [`Pipeline::generate`].
    pub fn rehearse(&self, backend: &B, request: &Request) -> Result<()> {
        let request = Request { steps: STEPS, decode: false, ..request.clone() };
        let size = self.latent_size(&request)?;
        self.generate(backend, &request, &mut Deaf)?;
        let latents = vec![0.0; size.image()];
        for _ in 0..size.batch.min(DECODED) {
            let shape = Shape::image(1, size.height, size.width, size.channels);
            let latents = backend.upload(shape, &latents)?;
            self.vae.decode(backend, &latents)?;
        }
        Ok(())
    }
}
