//! CLIP's text encoder: transformers' `CLIPTextModel` and `CLIPTextModelWithProjection`.

use serde::Deserialize;

use super::config::bounded;
use crate::backend::{Activation, Backend, Epilogue};
use crate::nn::attention::{Attention, Projections};
use crate::nn::layers::{LayerNorm, linear, linear_no_bias};
use crate::util::error::{Result, bail};
use crate::util::limits::{MODEL_LAYERS, MODEL_WIDTH, VOCABULARY};
use crate::weights::Scope;

/// `config.json` of a text encoder, with transformers' defaults (`CLIPTextConfig`).
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct ClipTextConfig {
    pub architectures: Option<Vec<String>>,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    /// Needed by `CLIPTextModelWithProjection` only.
    pub projection_dim: Option<usize>,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Tokens of one sequence.
    pub max_position_embeddings: usize,
    pub hidden_act: String,
    pub layer_norm_eps: f32,
    pub eos_token_id: u32,
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        Self {
            architectures: None,
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            projection_dim: Some(512),
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
        }
    }
}

impl ClipTextConfig {
    fn check(&self) -> Result<Activation> {
        bounded("vocab_size", self.vocab_size, VOCABULARY)?;
        bounded("hidden_size", self.hidden_size, MODEL_WIDTH)?;
        bounded("intermediate_size", self.intermediate_size, MODEL_WIDTH)?;
        bounded("projection_dim", self.projection_dim.unwrap_or(1), MODEL_WIDTH)?;
        bounded("num_hidden_layers", self.num_hidden_layers, MODEL_LAYERS)?;
        bounded("max_position_embeddings", self.max_position_embeddings, MODEL_WIDTH)?;
        match self.hidden_act.as_str() {
            "quick_gelu" => Ok(Activation::QuickGelu),
            "gelu" => Ok(Activation::Gelu),
            other => bail!(Unsupported, "hidden_act = {other:?} is not supported"),
        }
    }

    fn has_projection(&self) -> bool {
        self.architectures.iter().flatten().any(|class| class == "CLIPTextModelWithProjection")
    }
}

/// What the encoder says about `n` sequences of `tokens` tokens.
pub struct ClipTextOutput<B: Backend> {
    /// After the last layer and the final LayerNorm, `[n, tokens, 1, hidden_size]`.
    pub last_hidden_state: B::Tensor,
    /// After the last layer but one, without LayerNorm (transformers' `hidden_states[-2]`).
    pub penultimate_hidden_state: B::Tensor,
    /// The last hidden state at the end token, `[n, 1, 1, hidden_size]`; through the projection where the model
    /// has one, `[n, 1, 1, projection_dim]`.
    pub pooled: B::Tensor,
}

/// A loaded text encoder.
pub struct ClipTextModel<B: Backend> {
    config: ClipTextConfig,
    token_embedding: B::Embedding,
    position_embedding: B::Embedding,
    layers: Vec<EncoderLayer<B>>,
    final_layer_norm: LayerNorm<B>,
    text_projection: Option<B::Linear>,
}

/// transformers' `CLIPEncoderLayer`.
struct EncoderLayer<B: Backend> {
    layer_norm1: LayerNorm<B>,
    self_attn: Attention<B>,
    layer_norm2: LayerNorm<B>,
    fc1: B::Linear,
    fc2: B::Linear,
    activation: Activation,
}

impl<B: Backend> ClipTextModel<B> {
    /// Loads the encoder, with the projection when the config or the file has one.
    ///
    /// # Errors
    /// `Unsupported` or `Format` for the config, naming the key; those of [`Scope::tensor`].
    pub fn load(scope: &Scope<'_>, config: &ClipTextConfig, b: &B) -> Result<Self> {
        let activation = config.check().map_err(|e| e.context(scope.config_path().display()))?;
        let width = config.hidden_size;
        // transformers 5.6 dropped the prefix; most files have it.
        let prefix = "text_model.embeddings.token_embedding.weight";
        let model = if scope.contains(prefix) { scope.at("text_model") } else { scope.clone() };
        let embeddings = model.at("embeddings");
        let tokens = embeddings.at("token_embedding").tensor("weight", &[config.vocab_size, width])?;
        let positions =
            embeddings.at("position_embedding").tensor("weight", &[config.max_position_embeddings, width])?;
        let layers = model.at("encoder.layers");
        let projection = config.has_projection() || scope.contains("text_projection.weight");
        let projection = match config.projection_dim {
            Some(outputs) if projection => {
                Some(linear_no_bias(&scope.at("text_projection"), width, outputs, b)?)
            }
            None if projection => bail!(Format, "{}: projection_dim is null", scope.config_path().display()),
            _ => None,
        };
        Ok(Self {
            token_embedding: b.prepare_embedding(tokens)?,
            position_embedding: b.prepare_embedding(positions)?,
            layers: (0..config.num_hidden_layers)
                .map(|i| EncoderLayer::load(&layers.at(i), config, activation, b))
                .collect::<Result<_>>()?,
            final_layer_norm: LayerNorm::load(
                &model.at("final_layer_norm"),
                width,
                config.layer_norm_eps,
                b,
            )?,
            text_projection: projection,
            config: config.clone(),
        })
    }

    /// The config the model was loaded with.
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// Encodes `n` sequences of `ids.len() / n` tokens each.
    ///
    /// # Errors
    /// `Format` for an id or a length that the model's tables do not have; `Cancelled`, `OutOfMemory`.
    pub fn forward(&self, b: &B, ids: &[u32], n: usize) -> Result<ClipTextOutput<B>> {
        let tokens = ids.len().checked_div(n).unwrap_or(0);
        if tokens == 0 || tokens * n != ids.len() || tokens > self.config.max_position_embeddings {
            bail!(
                Format,
                "{} tokens in {n} sequences; the text encoder takes 1 to {} each",
                ids.len(),
                self.config.max_position_embeddings
            );
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.config.vocab_size) {
            bail!(Format, "token id {id} is outside the text encoder's {} entries", self.config.vocab_size);
        }
        let mut x = b.embed_tokens(ids, n, &self.token_embedding, &self.position_embedding)?;
        let mut penultimate = None;
        for (i, layer) in self.layers.iter().enumerate() {
            let next = layer.forward(b, &x)?;
            let before = std::mem::replace(&mut x, next);
            if i + 1 == self.layers.len() {
                penultimate = Some(before);
            }
        }
        let Some(penultimate_hidden_state) = penultimate else {
            bail!(Internal, "a text encoder without layers");
        };
        let last_hidden_state = self.final_layer_norm.forward(b, &x)?;
        let ends: Vec<usize> = ids.chunks_exact(tokens).map(|ids| self.end_token(ids)).collect();
        let mut pooled = b.select_tokens(&last_hidden_state, &ends)?;
        if let Some(projection) = &self.text_projection {
            pooled = b.linear(&pooled, projection, Epilogue::default())?;
        }
        Ok(ClipTextOutput { last_hidden_state, penultimate_hidden_state, pooled })
    }

    /// Where the sequence ends: at the first end token. Configs written before transformers 4.31 say 2 whatever
    /// the vocabulary, and mean the first place of the highest id. Without an end token, 0 as transformers.
    fn end_token(&self, ids: &[u32]) -> usize {
        let end = match self.config.eos_token_id {
            2 => ids.iter().copied().max().unwrap_or(0),
            id => id,
        };
        ids.iter().position(|id| *id == end).unwrap_or(0)
    }
}

impl<B: Backend> EncoderLayer<B> {
    fn load(scope: &Scope<'_>, config: &ClipTextConfig, activation: Activation, b: &B) -> Result<Self> {
        let (width, inner, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let attention = scope.at("self_attn");
        let heads = config.num_attention_heads;
        Ok(Self {
            layer_norm1: LayerNorm::load(&scope.at("layer_norm1"), width, eps, b)?,
            self_attn: Attention::load(&attention, Projections::Clip, width, width, heads, b)?,
            layer_norm2: LayerNorm::load(&scope.at("layer_norm2"), width, eps, b)?,
            fc1: linear(&scope.at("mlp.fc1"), width, inner, b)?,
            fc2: linear(&scope.at("mlp.fc2"), inner, width, b)?,
            activation,
        })
    }

    fn forward(&self, b: &B, x: &B::Tensor) -> Result<B::Tensor> {
        let x = self.self_attn.self_attention(b, self.layer_norm1.forward(b, x)?, true, x)?;
        let mut h = self.layer_norm2.forward(b, &x)?;
        h = b.linear(&h, &self.fc1, Epilogue::activation(self.activation))?;
        b.linear(&h, &self.fc2, Epilogue::residual(&x))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::backend::reference::Reference;
    use crate::models::golden::{self, Golden, MODELS};
    use crate::util::error::Status;

    fn load<B: Backend>(b: &B, name: &str, component: &str) -> ClipTextModel<B> {
        golden::load(&golden::component(name, component), "model", |scope, config| {
            ClipTextModel::load(scope, config, b)
        })
    }

    fn check_model<B: Backend>(b: &B, name: &str, prefix: &str, component: &str) {
        let (golden, model) = (Golden::read(name), load(b, name, component));
        let (n, ids) = golden::token_ids(name, &format!("{prefix}.ids"));
        let output = model.forward(b, &ids, n).unwrap();
        golden.check(b, &format!("{prefix}.hidden"), Ok(output.last_hidden_state));
        golden.check(b, &format!("{prefix}.penultimate"), Ok(output.penultimate_hidden_state));
        golden.check(b, &format!("{prefix}.pooled"), Ok(output.pooled));
    }

    fn check_all<B: Backend>(b: &B) {
        for name in MODELS {
            check_model(b, name, "text", "text_encoder");
        }
        check_model(b, "sdxl", "text_2", "text_encoder_2");
    }

    #[test]
    fn matches_transformers_on_the_reference() {
        check_all(&Reference::default());
    }

    #[test]
    fn matches_transformers_on_the_cpu() {
        check_all(&Cpu::new(2, None).unwrap());
    }

    #[test]
    fn matches_transformers_on_cuda() {
        golden::on_cuda(check_all);
    }

    #[test]
    fn the_end_token_is_found_by_both_rules() {
        let mut model = load(&Reference::default(), "sd1", "text_encoder");
        assert_eq!(model.config.eos_token_id, 2);
        assert_eq!(model.end_token(&[7, 2, 9, 3, 9]), 2);
        model.config.eos_token_id = 3;
        assert_eq!(model.end_token(&[7, 9, 3, 9, 3]), 2);
        assert_eq!(model.end_token(&[7, 9]), 0);
    }

    #[test]
    fn ids_outside_the_tables_are_refused() {
        let b = Reference::default();
        let model = load(&b, "sd2", "text_encoder");
        for (ids, n) in [(vec![4096; 8], 1), (vec![1; 33], 1), (vec![], 1), (vec![1; 3], 2), (vec![1], 0)] {
            let error = model.forward(&b, &ids, n).map(|_| ()).unwrap_err();
            assert_eq!(error.status(), Status::Format, "{error}");
        }
    }

    #[test]
    fn bad_configs_are_refused_by_name() {
        let config = |change: fn(&mut ClipTextConfig)| {
            let mut config = ClipTextConfig::default();
            change(&mut config);
            config.check().map(|_| ()).unwrap_err()
        };
        let error = config(|c| c.hidden_act = "relu".to_owned());
        assert_eq!(error.status(), Status::Unsupported);
        assert!(error.message().contains("hidden_act"), "{error}");
        for (key, error) in [
            ("vocab_size", config(|c| c.vocab_size = usize::MAX)),
            ("hidden_size", config(|c| c.hidden_size = 0)),
            ("num_hidden_layers", config(|c| c.num_hidden_layers = 0)),
        ] {
            assert_eq!(error.status(), Status::Format);
            assert!(error.message().contains(key), "{error}");
        }
    }
}
