//! The networks: text encoder, U-Net and autoencoder, each written once for every backend.

pub mod autoencoder_kl;
pub mod clip;
pub mod config;
#[cfg(test)]
pub(crate) mod golden;
pub mod unet_2d_condition;
