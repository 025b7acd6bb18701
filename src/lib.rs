//! Latent diffusion behind a C ABI.
//!
//! The layers, from the outside in: `capi` (the C boundary), `api` (engine, model, session, request, job,
//! image), `pipeline` (what happens to one request), then `sampling` (host maths), `models` and `nn`
//! (architectures, generic over a backend), `tokenizer`, `weights` (checkpoints), `backend` (tensors and
//! their arithmetic) and `util`. Dependencies point down only; `ARCHITECTURE.md` draws the picture.

#[cfg(target_endian = "big")]
compile_error!("weights are read as they lie in their files, lowest byte first");

pub mod api;
pub mod backend;
pub mod capi;
pub mod models;
pub mod nn;
pub mod pipeline;
pub mod sampling;
pub mod tokenizer;
pub mod util;
pub mod weights;

#[cfg(test)]
mod testing;
