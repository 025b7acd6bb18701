//! Every limit on what callers and files may ask for, in one place.

/// Longest accepted safetensors header in bytes (the format's own limit).
pub const SAFETENSORS_HEADER_BYTES: u64 = 100 << 20;
/// Longest accepted JSON file (config, index) in bytes.
pub const CONFIG_BYTES: u64 = 16 << 20;
/// Longest accepted tokenizer file in bytes.
pub const TOKENIZER_BYTES: u64 = 64 << 20;
/// Longest accepted prompt in bytes. Tokens past the model's length are dropped long before this.
pub const PROMPT_BYTES: usize = 1 << 20;
/// Largest image side in pixels.
pub const IMAGE_SIDE: u32 = 8192;
/// Most images in one request.
pub const BATCH_SIZE: u32 = 64;
/// Most denoising steps in one request.
pub const STEPS: u32 = 1000;
/// Most steps of a sampler that a host runs itself.
pub const SAMPLER_STEPS: usize = 1 << 16;
/// Most images of a batch that a host samples itself.
pub const SAMPLER_IMAGES: usize = 1 << 20;
/// Most threads in an engine.
pub const THREADS: u32 = 1024;
/// Most training timesteps in a noise schedule.
pub const TRAIN_TIMESTEPS: usize = 1 << 20;
/// Most shards of one checkpoint.
pub const SHARDS: usize = 1024;
/// Widest layer a config may ask for (channels, features).
pub const MODEL_WIDTH: usize = 1 << 16;
/// Most blocks of a model, layers of a block, or layers of a transformer.
pub const MODEL_LAYERS: usize = 256;
/// Most entries of a token table.
pub const VOCABULARY: usize = 1 << 20;
