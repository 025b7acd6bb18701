//! From prompts to what the U-Net attends to.

use std::path::Path;

use super::WeightSize;
use super::model_index::{Family, ModelIndex};
use super::request::TokenCount;
use crate::backend::{Backend, Tensor};
use crate::models::clip::{ClipTextConfig, ClipTextModel};
use crate::tokenizer::Tokenizer;
use crate::util::buffer;
use crate::util::error::{Result, bail};
use crate::weights::json::read_json;

/// What memory is missing for, in errors.
pub(super) const PROMPTS: &str = "encoded prompts";

/// A tokenizer and the CLIP model that reads its tokens.
struct Encoder<B: Backend> {
    tokenizer: Tokenizer,
    model: ClipTextModel<B>,
}

/// The text side of a model: one encoder, or SDXL's two.
pub(super) struct TextEncoders<B: Backend> {
    encoders: Vec<Encoder<B>>,
    family: Family,
}

/// What one prompt gives the U-Net, on the host.
#[derive(Clone)]
pub(super) struct Conditioning {
    /// `[max_tokens, cross_attention_dim]`
    pub(super) context: Vec<f32>,
    /// SDXL's pooled embedding, `[projection_dim]`; empty for other models.
    pub(super) pooled: Vec<f32>,
    pub(super) tokens: TokenCount,
}

impl Conditioning {
    /// The zeros that some SDXL models were trained to take for "no prompt".
    pub(super) fn zeros_like(other: &Self) -> Result<Self> {
        Ok(Self {
            context: buffer::zeros(other.context.len(), PROMPTS)?,
            pooled: buffer::zeros(other.pooled.len(), PROMPTS)?,
            tokens: TokenCount::default(),
        })
    }
}

impl<B: Backend> Encoder<B> {
    fn load(
        folder: &Path,
        suffix: &str,
        variant: Option<&str>,
        backend: &B,
        size: &mut WeightSize,
    ) -> Result<Self> {
        let tokenizer = Tokenizer::load(&folder.join(format!("tokenizer{suffix}")))?;
        let dir = folder.join(format!("text_encoder{suffix}"));
        let config: ClipTextConfig = read_json(&dir.join("config.json"))?;
        let model = size.load(&dir, "model", variant, |root| ClipTextModel::load(root, &config, backend))?;
        if tokenizer.max_length() > config.max_position_embeddings {
            bail!(
                Format,
                "{}: the tokenizer gives {} tokens, the text encoder takes {}",
                dir.display(),
                tokenizer.max_length(),
                config.max_position_embeddings
            );
        }
        if tokenizer.vocab_size() > config.vocab_size {
            bail!(
                Format,
                "{}: the tokenizer knows {} tokens, the text encoder {}",
                dir.display(),
                tokenizer.vocab_size(),
                config.vocab_size
            );
        }
        Ok(Self { tokenizer, model })
    }
}

impl<B: Backend> TextEncoders<B> {
    pub(super) fn load(
        folder: &Path,
        index: &ModelIndex,
        variant: Option<&str>,
        backend: &B,
        size: &mut WeightSize,
    ) -> Result<Self> {
        let mut encoders = vec![Encoder::load(folder, "", variant, backend, size)?];
        if index.family == Family::StableDiffusionXl {
            encoders.push(Encoder::load(folder, "_2", variant, backend, size)?);
        }
        // Their hidden states stand side by side, token by token.
        let mut lengths = encoders.iter().map(|e| e.tokenizer.max_length());
        if let (Some(first), Some(second)) = (lengths.next(), lengths.next())
            && first != second
        {
            bail!(Format, "{}: tokenizer gives {first} tokens, tokenizer_2 {second}", folder.display());
        }
        Ok(Self { encoders, family: index.family })
    }

    /// Tokens of one prompt, begin and end marks included.
    pub(super) fn max_tokens(&self) -> usize {
        self.encoders.first().map_or(0, |e| e.tokenizer.max_length())
    }

    /// Channels of the context: what the U-Net's `cross_attention_dim` must be.
    pub(super) fn context_dim(&self) -> usize {
        self.encoders.iter().map(|e| e.model.config().hidden_size).sum()
    }

    /// Encodes prompts, all at once, so that the weights are read once; none changes what becomes of another.
    pub(super) fn encode(&self, backend: &B, prompts: &[&str]) -> Result<Vec<Conditioning>> {
        let max_tokens = self.max_tokens();
        let mut hidden = Vec::with_capacity(self.encoders.len());
        let mut pooled = Vec::new();
        let mut counts = Vec::new();
        for encoder in &self.encoders {
            let tokens =
                prompts.iter().map(|prompt| encoder.tokenizer.encode(prompt)).collect::<Result<Vec<_>>>()?;
            let ids: Vec<u32> = tokens.iter().flat_map(|tokens| &tokens.ids).copied().collect();
            let output = encoder.model.forward(backend, &ids, prompts.len())?;
            counts = tokens.iter().map(|t| TokenCount { tokens: t.tokens, dropped: t.dropped }).collect();
            // SD 1.x and 2.x attend to the last layer behind the final LayerNorm, SDXL to the one before it.
            hidden.push(match self.family {
                Family::StableDiffusion => download(backend, &output.last_hidden_state)?,
                Family::StableDiffusionXl => download(backend, &output.penultimate_hidden_state)?,
            });
            if self.family == Family::StableDiffusionXl {
                pooled = download(backend, &output.pooled)?;
            }
        }
        let contexts = interleave(&hidden, prompts.len() * max_tokens)?;
        let part = |values: &[f32], i: usize| {
            let len = values.len() / prompts.len();
            buffer::copy(&values[i * len..(i + 1) * len], PROMPTS)
        };
        let prompt = |(i, tokens)| -> Result<Conditioning> {
            Ok(Conditioning { context: part(&contexts, i)?, pooled: part(&pooled, i)?, tokens })
        };
        counts.into_iter().enumerate().map(prompt).collect()
    }
}

/// Copies a tensor to the host.
pub(super) fn download<B: Backend>(backend: &B, x: &B::Tensor) -> Result<Vec<f32>> {
    let mut values = buffer::zeros(x.shape().len(), "a result")?;
    backend.download(x, &mut values)?;
    Ok(values)
}

/// Puts `[rows, a]`, `[rows, b]`, … side by side: `[rows, a + b + …]`.
fn interleave(parts: &[Vec<f32>], rows: usize) -> Result<Vec<f32>> {
    let mut out = buffer::reserve(parts.iter().map(Vec::len).sum(), PROMPTS)?;
    for row in 0..rows {
        for part in parts {
            let width = part.len() / rows;
            out.extend_from_slice(&part[row * width..(row + 1) * width]);
        }
    }
    Ok(out)
}
