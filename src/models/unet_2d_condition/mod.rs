//! The denoiser: diffusers' `UNet2DConditionModel` (SD 1.x, 2.x, SDXL and their kin).

mod blocks;
mod config;
#[cfg(test)]
mod tests;

use blocks::{Conditions, DownBlock2D, MidBlock2D, UpBlock2D, last};
pub use config::UNet2DConditionConfig;

use crate::backend::{Activation, Backend, ConvGeometry, Epilogue, Shape, Tensor};
use crate::nn::attention::KeysValues;
use crate::nn::embeddings::{Sinusoid, TimestepEmbedding};
use crate::nn::layers::{GroupNorm, conv2d, repeat};
use crate::nn::resnet::ResnetBlock2D;
use crate::nn::transformer::Transformer2DModel;
pub use crate::nn::transformer::{Perturbation, Perturbed};
use crate::util::error::{Result, bail};
use crate::weights::Scope;

/// What SDXL is told besides the prompt.
pub struct AddedConditions<B: Backend> {
    /// The pooled embedding, `[n, 1, 1, projection_dim]`.
    pub text_embeds: B::Tensor,
    /// Per image, as many numbers as the model was trained with: SDXL base takes six, original height and width,
    /// crop top and left, target height and width, in pixels. `[n, ids]`, row-major.
    pub time_ids: Vec<f32>,
}

/// A block of the network, by the name that checkpoints give it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// `down_blocks.N`
    Down(usize),
    /// `mid_block`
    Mid,
    /// `up_blocks.N`
    Up(usize),
}

/// Blocks whose transformers some images of a batch lose something of.
#[derive(Debug, Clone, Copy)]
pub struct PerturbedBlocks<'a> {
    pub blocks: &'a [Block],
    pub perturbed: Perturbed,
}

/// What the network makes of `encoder_hidden_states` for good: for each of its transformers, in the order in which they
/// run, the keys and values of its blocks.
pub struct Context<B: Backend>(Vec<Vec<KeysValues<B>>>);

/// A loaded U-Net.
pub struct UNet2DConditionModel<B: Backend> {
    config: UNet2DConditionConfig,
    time_proj: Sinusoid,
    time_embedding: TimestepEmbedding<B>,
    addition: Option<Addition<B>>,
    conv_in: B::Conv2d,
    down_blocks: Vec<DownBlock2D<B>>,
    mid_block: Option<MidBlock2D<B>>,
    up_blocks: Vec<UpBlock2D<B>>,
    conv_norm_out: GroupNorm<B>,
    conv_out: B::Conv2d,
}

/// `addition_embed_type` = `text_time`.
struct Addition<B: Backend> {
    add_time_proj: Sinusoid,
    add_embedding: TimestepEmbedding<B>,
    /// Channels of `add_embedding`'s input.
    inputs: usize,
}

impl<B: Backend> UNet2DConditionModel<B> {
    /// Loads the network that `config` describes.
    ///
    /// # Errors
    /// `Unsupported` for a config value that is not built in, `Format` for one that makes no sense or contradicts
    /// the tensors, `Numeric` for weights that are not finite.
    pub fn load(scope: &Scope<'_>, config: &UNet2DConditionConfig, b: &B) -> Result<Self> {
        let plan = config.plan().map_err(|e| e.context(scope.config_path().display()))?;
        let (down, up) = (scope.at("down_blocks"), scope.at("up_blocks"));
        let first = config.block_out_channels.first().copied().unwrap_or(0);
        let (kernel_in, kernel_out) = (config.conv_in_kernel, config.conv_out_kernel);
        // Few weights, whose rounding every pixel would see: a tenth of all that int8 costs.
        let ends = b.as_stored();
        let conv_in = scope.at("conv_in");
        let conv_in =
            conv2d(&conv_in, config.in_channels, first, kernel_in, ConvGeometry::same(kernel_in), &ends)?;
        let conv_out = scope.at("conv_out");
        let conv_out =
            conv2d(&conv_out, first, config.out_channels, kernel_out, ConvGeometry::same(kernel_out), &ends)?;
        let addition = plan.addition.map(|(add_time_proj, inputs)| {
            let add_embedding =
                TimestepEmbedding::load(&scope.at("add_embedding"), inputs, plan.time_embed_dim, b)?;
            Ok(Addition { add_time_proj, add_embedding, inputs })
        });
        let mid_block = (!plan.mid.resnets.is_empty())
            .then(|| MidBlock2D::load(&scope.at("mid_block"), &plan.mid, b))
            .transpose()?;
        let time_embedding = scope.at("time_embedding");
        let norm_out = scope.at("conv_norm_out");
        Ok(Self {
            time_proj: plan.time_proj,
            time_embedding: TimestepEmbedding::load(&time_embedding, first, plan.time_embed_dim, b)?,
            addition: addition.transpose()?,
            conv_in,
            down_blocks: (plan.down.iter().enumerate())
                .map(|(i, plan)| DownBlock2D::load(&down.at(i), plan, b))
                .collect::<Result<_>>()?,
            mid_block,
            up_blocks: (plan.up.iter().enumerate())
                .map(|(i, plan)| UpBlock2D::load(&up.at(i), plan, b))
                .collect::<Result<_>>()?,
            conv_norm_out: GroupNorm::load(&norm_out, first, config.norm_num_groups, config.norm_eps, b)?,
            conv_out,
            config: config.clone(),
        })
    }

    /// The config the model was loaded with.
    pub fn config(&self) -> &UNet2DConditionConfig {
        &self.config
    }

    /// Whether [`AddedConditions`] are needed (SDXL).
    pub fn takes_added_conditions(&self) -> bool {
        self.addition.is_some()
    }

    /// The block called `name`: `mid_block` (or diffusers' short form `mid`), `down_blocks.N` or `up_blocks.N`. `None` if
    /// there is none, or it has no transformer.
    pub fn attention_block(&self, name: &str) -> Option<Block> {
        let number = |prefix| name.strip_prefix(prefix).and_then(|number: &str| number.parse().ok());
        let (block, attentions) = if let "mid" | "mid_block" = name {
            (Block::Mid, &self.mid_block.as_ref()?.attentions)
        } else if let Some(i) = number("down_blocks.") {
            (Block::Down(i), &self.down_blocks.get(i)?.attentions)
        } else {
            let i = number("up_blocks.")?;
            (Block::Up(i), &self.up_blocks.get(i)?.attentions)
        };
        (!attentions.is_empty()).then_some(block)
    }

    /// One evaluation: `sample [n, h, w, in_channels]` at `timestep` (of the training schedule, 0 to 999) with
    /// `encoder_hidden_states [n, tokens, 1, cross_attention_dim]` gives `[n, h, w, out_channels]`. Any `h`, `w`.
    /// Without `perturbed` all images are treated alike.
    ///
    /// # Errors
    /// `Format` when the added conditions are absent or do not fit; `Cancelled`, `OutOfMemory`.
    pub fn forward(
        &self,
        b: &B,
        sample: &B::Tensor,
        timestep: f32,
        encoder_hidden_states: &B::Tensor,
        added: Option<&AddedConditions<B>>,
        perturbed: Option<PerturbedBlocks<'_>>,
    ) -> Result<B::Tensor> {
        let time_biases = self.time_biases(b, &[timestep], sample.shape().n, added)?;
        let context = self.prepare_context(b, encoder_hidden_states)?;
        self.forward_prepared(b, sample, &time_biases, &context, perturbed)
    }

    /// What [`UNet2DConditionModel::forward_prepared`] needs of `encoder_hidden_states`, the same at every step.
    ///
    /// # Errors
    /// `Cancelled`, `OutOfMemory`.
    pub fn prepare_context(&self, b: &B, encoder_hidden_states: &B::Tensor) -> Result<Context<B>> {
        let keys_values =
            |transformer: &Transformer2DModel<B>| transformer.keys_values(b, encoder_hidden_states);
        Ok(Context(self.transformers().map(keys_values).collect::<Result<_>>()?))
    }

    /// What each of `timesteps` adds to the channels of the network, for `n` images: `[timesteps, 1, 1, Σ n·c_out]`, for
    /// each resnet in the order in which they run `[n, c_out]` values. One of these vectors is what
    /// [`UNet2DConditionModel::forward_prepared`] takes; together they cost few large products.
    ///
    /// # Errors
    /// As [`UNet2DConditionModel::forward`].
    pub fn time_biases(
        &self,
        b: &B,
        timesteps: &[f32],
        n: usize,
        added: Option<&AddedConditions<B>>,
    ) -> Result<B::Tensor> {
        let time = self.embed_times(b, timesteps, n, added)?;
        let bias = |resnet: &ResnetBlock2D<B>| {
            let rows = resnet.time_bias(b, &time)?;
            b.view(&rows, 0, Shape::vector(timesteps.len(), n * resnet.outputs()))
        };
        let mut parts = self.resnets().map(bias).collect::<Result<Vec<_>>>()?;
        // In pairs, so that nothing is copied more often than the logarithm of their number.
        while parts.len() > 1 {
            let mut halves = parts.into_iter();
            let mut pairs = Vec::new();
            while let Some(first) = halves.next() {
                pairs.push(match halves.next() {
                    Some(second) => b.concat_channels(&first, &second)?,
                    None => first,
                });
            }
            parts = pairs;
        }
        match parts.pop() {
            Some(biases) => Ok(biases),
            None => bail!(Internal, "a U-Net without resnets"),
        }
    }

    /// The time embeddings as every resnet uses them (after SiLU), `[timesteps·n, 1, 1, time_embed_dim]`: for each
    /// timestep those of `n` images.
    fn embed_times(
        &self,
        b: &B,
        timesteps: &[f32],
        n: usize,
        added: Option<&AddedConditions<B>>,
    ) -> Result<B::Tensor> {
        let values: Vec<f32> = timesteps.iter().flat_map(|t| std::iter::repeat_n(*t, n)).collect();
        let sinusoids = self.time_proj.embed(&values);
        let sinusoids = b.upload(Shape::vector(values.len(), self.time_proj.channels), &sinusoids)?;
        let mut time = self.time_embedding.forward(b, &sinusoids)?;
        match (&self.addition, added) {
            (Some(addition), Some(added)) => {
                let once = addition.forward(b, added)?;
                time = b.add(&time, &repeat(b, &once, time.shape())?)?;
            }
            (None, None) => {}
            (Some(_), None) => bail!(Format, "the U-Net needs a pooled text embedding and time ids"),
            (None, Some(_)) => bail!(Format, "the U-Net takes no pooled text embedding or time ids"),
        }
        b.activation(&time, Activation::Silu)
    }

    /// [`UNet2DConditionModel::forward`] from one of the [`UNet2DConditionModel::time_biases`] and a prepared context:
    /// what is left of it to do at every step. It neither uploads nor downloads.
    ///
    /// `sample` may have fewer images than these are for: it then stands for itself over and over, as the prompts of
    /// guidance see one sample, and what comes before the context is computed once, to the same bits.
    ///
    /// # Errors
    /// As [`UNet2DConditionModel::forward`].
    pub fn forward_prepared(
        &self,
        b: &B,
        sample: &B::Tensor,
        time_biases: &B::Tensor,
        context: &Context<B>,
        perturbed: Option<PerturbedBlocks<'_>>,
    ) -> Result<B::Tensor> {
        let n = time_biases.shape().c / self.resnets().map(ResnetBlock2D::outputs).sum::<usize>().max(1);
        let mut offset = 0;
        let bias = |resnet: &ResnetBlock2D<B>| {
            let shape = Shape::vector(n, resnet.outputs());
            offset += shape.len();
            b.view(time_biases, offset - shape.len(), shape)
        };
        let time_biases = self.resnets().map(bias).collect::<Result<Vec<_>>>()?;
        let (mut time_biases, mut context) = (time_biases.as_slice(), context.0.as_slice());
        // Each block takes its share off the front.
        let mut with = |block, resnets: usize, attentions: usize| {
            let (shares, rest) =
                (time_biases.split_at_checked(resnets), context.split_at_checked(attentions));
            let (Some((biases, biases_left)), Some((own, context_left))) = (shares, rest) else {
                bail!(Internal, "a context of another U-Net");
            };
            (time_biases, context) = (biases_left, context_left);
            let perturbed = perturbed.filter(|p| p.blocks.contains(&block)).map(|p| p.perturbed);
            Ok(Conditions { time_biases: biases, context: own, perturbed })
        };
        let mut h = b.conv2d(sample, &self.conv_in, Epilogue::default())?;
        let all = |x: Shape| Shape { n, ..x };
        if self.takes_added_conditions() {
            // They are part of the time embedding, so every image has one of its own.
            h = repeat(b, &h, all(h.shape()))?;
        }
        let mut skips = vec![h];
        for (i, block) in self.down_blocks.iter().enumerate() {
            let with = with(Block::Down(i), block.resnets.len(), block.attentions.len())?;
            block.forward(b, &mut skips, &with)?;
        }
        let mut h = match &self.mid_block {
            Some(block) => {
                let with = with(Block::Mid, block.resnets.len(), block.attentions.len())?;
                Some(block.forward(b, last(&skips)?, &with)?)
            }
            None => None,
        };
        for (i, block) in self.up_blocks.iter().enumerate() {
            let with = with(Block::Up(i), block.resnets.len(), block.attentions.len())?;
            h = Some(block.forward(b, h, &mut skips, &with)?);
        }
        let Some(h) = h else {
            bail!(Internal, "a U-Net without up blocks");
        };
        let h = repeat(b, &h, all(h.shape()))?;
        b.norm_conv2d(&h, self.conv_norm_out.with_silu(), &self.conv_out, Epilogue::default())
    }

    /// In the order in which they run.
    fn resnets(&self) -> impl Iterator<Item = &ResnetBlock2D<B>> {
        let down = self.down_blocks.iter().flat_map(|block| &block.resnets);
        let mid = self.mid_block.iter().flat_map(|block| &block.resnets);
        down.chain(mid).chain(self.up_blocks.iter().flat_map(|block| &block.resnets))
    }

    /// In the order in which they run.
    fn transformers(&self) -> impl Iterator<Item = &Transformer2DModel<B>> {
        let down = self.down_blocks.iter().flat_map(|block| &block.attentions);
        let mid = self.mid_block.iter().flat_map(|block| &block.attentions);
        down.chain(mid).chain(self.up_blocks.iter().flat_map(|block| &block.attentions))
    }
}

impl<B: Backend> Addition<B> {
    fn forward(&self, b: &B, added: &AddedConditions<B>) -> Result<B::Tensor> {
        let Shape { n, c, .. } = added.text_embeds.shape();
        let ids = self.add_time_proj.embed(&added.time_ids);
        let width = ids.len().checked_div(n).unwrap_or(0);
        if width * n != ids.len() || c + width != self.inputs {
            bail!(
                Format,
                "projection_class_embeddings_input_dim = {} does not fit a pooled embedding of {c} and {} time ids",
                self.inputs,
                width / self.add_time_proj.channels
            );
        }
        let ids = b.upload(Shape::vector(n, width), &ids)?;
        self.add_embedding.forward(b, &b.concat_channels(&added.text_embeds, &ids)?)
    }
}
