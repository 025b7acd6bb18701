//! Layers that the models share, generic over the backend. Names and shapes are diffusers'.

pub mod attention;
pub mod embeddings;
pub mod layers;
pub mod resnet;
pub mod transformer;
