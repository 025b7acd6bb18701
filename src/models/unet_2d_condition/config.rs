//! The U-Net's config, and the architecture it describes.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::models::config::{PerBlock, SampleSize, bounded, require};
use crate::nn::embeddings::Sinusoid;
use crate::nn::resnet::ResnetShape;
use crate::nn::transformer::TransformerShape;
use crate::util::error::{Result, bail};
use crate::util::limits::{MODEL_LAYERS, MODEL_WIDTH};

/// `config.json` of diffusers' `UNet2DConditionModel`, with its defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct UNet2DConditionConfig {
    /// Latent pixels the model was trained at.
    pub sample_size: Option<SampleSize>,
    pub in_channels: usize,
    pub out_channels: usize,
    pub flip_sin_to_cos: bool,
    pub freq_shift: f32,
    pub down_block_types: Vec<String>,
    pub mid_block_type: Option<String>,
    pub up_block_types: Vec<String>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: PerBlock<usize>,
    pub downsample_padding: usize,
    pub norm_num_groups: usize,
    pub norm_eps: f32,
    pub cross_attention_dim: PerBlock<usize>,
    pub transformer_layers_per_block: PerBlock<PerBlock<usize>>,
    pub reverse_transformer_layers_per_block: Option<Vec<PerBlock<usize>>>,
    /// The number of heads, not their width: the key was misnamed and stayed so.
    pub attention_head_dim: PerBlock<usize>,
    pub num_attention_heads: Option<PerBlock<usize>>,
    /// `None`, or `text_time` for SDXL.
    pub addition_embed_type: Option<String>,
    pub addition_time_embed_dim: Option<usize>,
    pub projection_class_embeddings_input_dim: Option<usize>,
    pub time_embedding_dim: Option<usize>,
    pub conv_in_kernel: usize,
    pub conv_out_kernel: usize,
    /// Every other key: checked against what is built in.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Default for UNet2DConditionConfig {
    fn default() -> Self {
        let names = |names: [&str; 4]| names.map(str::to_owned).to_vec();
        let cross = "CrossAttnDownBlock2D";
        let up = "CrossAttnUpBlock2D";
        Self {
            sample_size: None,
            in_channels: 4,
            out_channels: 4,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: names([cross, cross, cross, "DownBlock2D"]),
            mid_block_type: Some("UNetMidBlock2DCrossAttn".to_owned()),
            up_block_types: names(["UpBlock2D", up, up, up]),
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: PerBlock::Same(2),
            downsample_padding: 1,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: PerBlock::Same(1280),
            transformer_layers_per_block: PerBlock::Same(PerBlock::Same(1)),
            reverse_transformer_layers_per_block: None,
            attention_head_dim: PerBlock::Same(8),
            num_attention_heads: None,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            projection_class_embeddings_input_dim: None,
            time_embedding_dim: None,
            conv_in_kernel: 3,
            conv_out_kernel: 3,
            other: Map::new(),
        }
    }
}

/// One resolution on the way down or up.
#[derive(Debug, PartialEq)]
pub(super) struct BlockPlan {
    pub(super) channels: usize,
    pub(super) resnets: Vec<ResnetShape>,
    /// As many as resnets, or none.
    pub(super) attentions: Vec<TransformerShape>,
    /// Whether a convolution that changes the resolution follows.
    pub(super) resample: bool,
}

/// The whole network.
#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) time_proj: Sinusoid,
    pub(super) time_embed_dim: usize,
    /// SDXL: the sinusoid of each time id and the width of `add_embedding`'s input.
    pub(super) addition: Option<(Sinusoid, usize)>,
    pub(super) down: Vec<BlockPlan>,
    /// No resnets = no mid block.
    pub(super) mid: BlockPlan,
    pub(super) up: Vec<BlockPlan>,
}

impl UNet2DConditionConfig {
    /// Derives the network as diffusers' constructor does.
    ///
    /// # Errors
    /// `Unsupported` or `Format`, naming the key.
    pub(super) fn plan(&self) -> Result<Plan> {
        self.check()?;
        let blocks = self.block_out_channels.len();
        let heads = match &self.num_attention_heads {
            Some(heads) => heads.expand("num_attention_heads", blocks)?,
            None => self.attention_head_dim.expand("attention_head_dim", blocks)?,
        };
        let layers = self.layers_per_block.expand("layers_per_block", blocks)?;
        let context = self.cross_attention_dim.expand("cross_attention_dim", blocks)?;
        let depths = self.transformer_layers_per_block.expand("transformer_layers_per_block", blocks)?;
        let up_depths = self.up_depths(&depths)?;
        for layers in &layers {
            bounded("layers_per_block", *layers, MODEL_LAYERS)?;
        }
        for width in &context {
            bounded("cross_attention_dim", *width, MODEL_WIDTH)?;
        }
        let first = self.block_out_channels[0];
        let time_embed_dim = self.time_embedding_dim.unwrap_or(4 * first);
        let resnet = |inputs, outputs| ResnetShape {
            inputs,
            outputs,
            time_embed_dim: Some(time_embed_dim),
            norm_groups: self.norm_num_groups,
            norm_eps: self.norm_eps,
            scale: 1.0,
        };
        let transformer = |block: usize, depth| TransformerShape {
            channels: self.block_out_channels[block],
            heads: heads[block],
            depth,
            cross_attention_dim: context[block],
            norm_groups: self.norm_num_groups,
        };

        // What each up layer will be handed: the channels of every tensor that the way down leaves behind.
        let mut skips = vec![first];
        let mut channels = first;
        let mut down = Vec::with_capacity(blocks);
        for (i, kind) in self.down_block_types.iter().enumerate() {
            let attends = is_one_of("down_block_types", kind, "CrossAttnDownBlock2D", "DownBlock2D")?;
            let outputs = self.block_out_channels[i];
            let mut plan = BlockPlan::new(outputs, i + 1 < blocks);
            for _ in 0..layers[i] {
                plan.resnets.push(resnet(channels, outputs));
                channels = outputs;
                skips.push(outputs);
            }
            if attends {
                let depths = per_layer("transformer_layers_per_block", &depths[i], layers[i])?;
                plan.attentions = depths.into_iter().map(|depth| transformer(i, depth)).collect();
            }
            if plan.resample {
                skips.push(outputs);
            }
            down.push(plan);
        }

        let last = blocks - 1;
        let mut mid = BlockPlan::new(channels, false);
        match self.mid_block_type.as_deref() {
            None => {}
            Some("UNetMidBlock2D") => mid.resnets = vec![resnet(channels, channels)],
            Some("UNetMidBlock2DCrossAttn") => {
                // diffusers gives its one attention the first depth of a list.
                let depth = match &depths[last] {
                    PerBlock::Same(depth) => *depth,
                    PerBlock::Each(depths) => depths.first().copied().unwrap_or(1),
                };
                bounded("transformer_layers_per_block", depth.max(1), MODEL_LAYERS)?;
                mid.resnets = vec![resnet(channels, channels); 2];
                mid.attentions = vec![transformer(last, depth)];
            }
            Some(other) => bail!(Unsupported, "mid_block_type = {other:?} is not supported"),
        }

        let mut up = Vec::with_capacity(blocks);
        for (i, kind) in self.up_block_types.iter().enumerate() {
            let attends = is_one_of("up_block_types", kind, "CrossAttnUpBlock2D", "UpBlock2D")?;
            let block = last - i;
            let outputs = self.block_out_channels[block];
            let mut plan = BlockPlan::new(outputs, i + 1 < blocks);
            for _ in 0..=layers[block] {
                plan.resnets.push(resnet(channels + skips.pop().unwrap_or(0), outputs));
                channels = outputs;
            }
            if attends {
                let depths = per_layer("transformer_layers_per_block", &up_depths[i], layers[block] + 1)?;
                plan.attentions = depths.into_iter().map(|depth| transformer(block, depth)).collect();
            }
            up.push(plan);
        }
        let time_proj = self.sinusoid(first);
        Ok(Plan { time_proj, time_embed_dim, addition: self.addition()?, down, mid, up })
    }

    fn sinusoid(&self, channels: usize) -> Sinusoid {
        Sinusoid { channels, flip_sin_to_cos: self.flip_sin_to_cos, freq_shift: self.freq_shift }
    }

    fn addition(&self) -> Result<Option<(Sinusoid, usize)>> {
        match self.addition_embed_type.as_deref() {
            None => Ok(None),
            Some("text_time") => {
                let time = self.addition_time_embed_dim.unwrap_or(0);
                let inputs = self.projection_class_embeddings_input_dim.unwrap_or(0);
                bounded("addition_time_embed_dim", time, MODEL_WIDTH)?;
                bounded("projection_class_embeddings_input_dim", inputs, MODEL_WIDTH)?;
                Ok(Some((self.sinusoid(time), inputs)))
            }
            Some(other) => bail!(Unsupported, "addition_embed_type = {other:?} is not supported"),
        }
    }

    fn up_depths(&self, depths: &[PerBlock<usize>]) -> Result<Vec<PerBlock<usize>>> {
        match &self.reverse_transformer_layers_per_block {
            Some(given) if given.len() == depths.len() => Ok(given.clone()),
            Some(given) => bail!(
                Format,
                "reverse_transformer_layers_per_block has {} entries for {} blocks",
                given.len(),
                depths.len()
            ),
            None if depths.iter().any(|d| matches!(d, PerBlock::Each(_))) => bail!(
                Format,
                "transformer_layers_per_block lists single layers, so reverse_transformer_layers_per_block must be given"
            ),
            None => Ok(depths.iter().rev().cloned().collect()),
        }
    }

    fn check(&self) -> Result<()> {
        let blocks = self.block_out_channels.len();
        bounded("block_out_channels (its length)", blocks, MODEL_LAYERS)?;
        for (key, types) in
            [("down_block_types", &self.down_block_types), ("up_block_types", &self.up_block_types)]
        {
            if types.len() != blocks {
                bail!(Format, "{key} has {} entries for {blocks} blocks", types.len());
            }
        }
        for channels in &self.block_out_channels {
            bounded("block_out_channels", *channels, MODEL_WIDTH)?;
        }
        bounded("in_channels", self.in_channels, MODEL_WIDTH)?;
        bounded("out_channels", self.out_channels, MODEL_WIDTH)?;
        bounded("time_embedding_dim", self.time_embedding_dim.unwrap_or(1), MODEL_WIDTH)?;
        for (key, kernel) in
            [("conv_in_kernel", self.conv_in_kernel), ("conv_out_kernel", self.conv_out_kernel)]
        {
            if !matches!(kernel, 1 | 3 | 5 | 7) {
                bail!(Unsupported, "{key} = {kernel} is not supported");
            }
        }
        // Without padding an odd side rounds down, and upsampling would not find back to it.
        if self.downsample_padding != 1 {
            bail!(Unsupported, "downsample_padding = {} is not supported", self.downsample_padding);
        }
        if self.freq_shift >= (self.block_out_channels[0] / 2) as f32 {
            bail!(Format, "freq_shift = {} is out of range", self.freq_shift);
        }
        // A config without act_fn says "silu", which has another name too.
        let activation = self.other.get("act_fn").and_then(Value::as_str).unwrap_or("silu");
        if !matches!(activation, "silu" | "swish") {
            bail!(Unsupported, "act_fn = {activation:?} is not supported");
        }
        require(
            &self.other,
            &[
                ("attention_type", json!("default")),
                ("center_input_sample", json!(false)),
                ("class_embed_type", Value::Null),
                ("class_embeddings_concat", json!(false)),
                ("cross_attention_norm", Value::Null),
                ("dual_cross_attention", json!(false)),
                ("encoder_hid_dim", Value::Null),
                ("encoder_hid_dim_type", Value::Null),
                ("mid_block_only_cross_attention", json!(false)),
                ("mid_block_scale_factor", json!(1)),
                ("num_class_embeds", Value::Null),
                ("only_cross_attention", json!(false)),
                ("resnet_out_scale_factor", json!(1)),
                ("resnet_skip_time_act", json!(false)),
                ("resnet_time_scale_shift", json!("default")),
                ("time_cond_proj_dim", Value::Null),
                ("time_embedding_act_fn", Value::Null),
                ("time_embedding_type", json!("positional")),
                ("timestep_post_act", Value::Null),
            ],
        )
    }
}

impl BlockPlan {
    fn new(channels: usize, resample: bool) -> Self {
        Self { channels, resnets: Vec::new(), attentions: Vec::new(), resample }
    }
}

/// Whether `kind` is the block type with attention or the one without.
fn is_one_of(key: &str, kind: &str, with: &str, without: &str) -> Result<bool> {
    match kind {
        _ if kind == with => Ok(true),
        _ if kind == without => Ok(false),
        _ => bail!(Unsupported, "{key}: {kind:?} is not supported"),
    }
}

fn per_layer(key: &str, depth: &PerBlock<usize>, layers: usize) -> Result<Vec<usize>> {
    let depths = depth.expand(key, layers)?;
    for depth in &depths {
        bounded(key, (*depth).max(1), MODEL_LAYERS)?;
    }
    Ok(depths)
}
