//! A model: a pipeline's weights, loaded once and shared by any number of sessions.

use std::path::Path;
use std::sync::Arc;

use super::backend::AnyPipeline;
use super::engine::Engine;
use crate::backend::WeightFormat;
use crate::pipeline::Info;
use crate::util::error::Result;

/// How to load a model. The default is the plain files with the weights as they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct ModelOptions<'a> {
    /// Picks weight files such as `model.fp16.safetensors`; `None` takes the plain file, or the only one there is.
    pub variant: Option<&'a str>,
    /// What the weights are in memory.
    pub weights: WeightFormat,
}

/// Weights and config, immutable. Cheap to clone; clones are the same model. Keeps its engine alive.
#[derive(Clone)]
pub struct Model(Arc<Inner>);

// The pipeline comes first so that the weights go before the engine does.
struct Inner {
    pipeline: Box<dyn AnyPipeline>,
    engine: Engine,
}

impl Model {
    /// Loads a folder in diffusers layout.
    ///
    /// # Errors
    /// Those of [`Pipeline::load`](crate::pipeline::Pipeline::load); `Unsupported` for a format of weights that the
    /// device does not have.
    pub fn load(engine: &Engine, path: &Path, options: ModelOptions<'_>) -> Result<Self> {
        let log = engine.log();
        let ModelOptions { variant, weights } = options;
        let variant = variant.unwrap_or("none");
        log.info(format_args!("model: load {} (variant {variant}, weights {weights:?})", path.display()));
        let pipeline = engine.backend().load(path, options, log)?;
        let info = pipeline.info();
        log.info(format_args!(
            "model: {}, {} parameters, {}x{}",
            info.pipeline_class, info.parameters, info.width, info.height
        ));
        Ok(Self(Arc::new(Inner { pipeline, engine: engine.clone() })))
    }

    /// Facts about the model.
    pub fn info(&self) -> &Info {
        self.0.pipeline.info()
    }

    /// The name of the model's own sampler, as the option `sampler` spells it.
    pub fn default_sampler(&self) -> &'static str {
        self.info().default_sampler.name()
    }

    /// The engine that holds the weights.
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(super) fn pipeline(&self) -> &dyn AnyPipeline {
        &*self.0.pipeline
    }

    pub(super) fn same(&self, other: &Model) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
