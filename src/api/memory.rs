//! How much memory a request needs, before anything is loaded.

use std::path::Path;

use super::engine::Engine;
use super::model::ModelOptions;
use crate::backend::Backend;
use crate::backend::shape::Shapes;
use crate::pipeline::Pipeline;
use crate::pipeline::request::Request;
use crate::sampling::guidance::GuidanceOptions;
use crate::util::error::{Result, Status};
use crate::util::log::Log;

/// What requests take that do not say.
const DEFAULT_STEPS: u32 = 20;

/// What decides how much memory a text-to-image request takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryQuery {
    /// In pixels; 0 = the size that the model was trained at.
    pub width: u32,
    pub height: u32,
    /// Images; 0 = 1.
    pub batch_size: u32,
    /// Denoising steps; 0 = 20.
    pub steps: u32,
    /// Whether there is guidance, which doubles the batch.
    pub guided: bool,
}

/// Bytes of the memory of an engine's device that a model and one request on it take, with what the session keeps in
/// reserve. What the driver takes for itself is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPrediction {
    /// Of the model, which all its sessions share.
    pub weights: u64,
    /// The most that a session takes at a time beside them.
    pub activations: u64,
    /// Both.
    pub total: u64,
    /// The most that there can be: the engine's limit, or what the GPU has if that is less; 0 = no limit.
    pub limit: u64,
    /// Whether the request runs within the limit, if nothing else does in the engine. This may be so with a total above
    /// it: reserves are given up first.
    pub fits: bool,
}

impl Engine {
    /// Predicts the memory for one request on the model at `path`, of which only configs, tokenizers and the headers of
    /// the weight files are read. Nothing is allocated on the device.
    ///
    /// # Errors
    /// Those of [`Model::load`](super::Model::load), but for what only the weights' values tell; `InvalidArgument` for a size that
    /// the model cannot have.
    pub fn predict_memory(
        &self,
        path: &Path,
        options: ModelOptions<'_>,
        query: &MemoryQuery,
    ) -> Result<MemoryPrediction> {
        let limit = self.backend().most_memory();
        let ModelOptions { variant, weights: format } = options;
        let shapes = self.backend().shapes(format, None)?;
        let weights = rehearse(&shapes, path, variant, query)?;
        let total = shapes.memory_peak();
        let fits = match limit {
            Some(limit) if total > limit => {
                match rehearse(&self.backend().shapes(format, Some(limit))?, path, variant, query) {
                    Ok(_) => true,
                    Err(error) if error.status() == Status::OutOfMemory => false,
                    Err(error) => return Err(error),
                }
            }
            _ => true,
        };
        let activations = total - weights;
        Ok(MemoryPrediction { weights, activations, total, limit: limit.unwrap_or(0), fits })
    }
}

/// Loads the model and runs a request in short; the bytes of the weights.
fn rehearse(shapes: &Shapes, path: &Path, variant: Option<&str>, query: &MemoryQuery) -> Result<u64> {
    let pipeline = Pipeline::load(path, variant, shapes, &Log::off())?;
    let weights = shapes.memory_used();
    let request = Request {
        width: query.width,
        height: query.height,
        batch_size: query.batch_size.max(1),
        steps: if query.steps == 0 { DEFAULT_STEPS } else { query.steps },
        guidance: GuidanceOptions::at_scale(if query.guided { 7.5 } else { 1.0 }),
        ..Request::default()
    };
    pipeline.rehearse(&shapes.session()?, &request)?;
    Ok(weights)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::api::{Device, EngineOptions, Model, OptionId, Precision, Session, SessionOptions};
    use crate::backend::WeightFormat;
    use crate::backend::cuda::stand_in::StandIn;

    fn folder(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
    }

    fn cpu(threads: u32, memory_limit_host: u64) -> Engine {
        Engine::new(EngineOptions {
            device: Device::Cpu,
            threads,
            memory_limit_host,
            ..EngineOptions::default()
        })
        .unwrap()
    }

    fn run(engine: &Engine, path: &Path, options: ModelOptions<'_>, query: &MemoryQuery) -> Result<()> {
        let model = Model::load(engine, path, options)?;
        let session = Session::new(&model, SessionOptions::default())?;
        let mut request = crate::api::Request::new(&model);
        request.set_int(OptionId::Width, i64::from(query.width))?;
        request.set_int(OptionId::Height, i64::from(query.height))?;
        request.set_int(OptionId::BatchSize, i64::from(query.batch_size))?;
        request.set_float(OptionId::GuidanceScale, if query.guided { 5.0 } else { 1.0 })?;
        request.set_int(OptionId::Steps, i64::from(query.steps))?;
        request.set_string(OptionId::Prompt, Some("a blue cat"))?;
        session.generate(&request).map(drop)
    }

    /// At least what the engine's account says afterwards, and little more.
    fn compare(engine: &Engine, path: &Path, query: &MemoryQuery) {
        compare_with(engine, path, ModelOptions::default(), query);
    }

    fn compare_with(engine: &Engine, path: &Path, options: ModelOptions<'_>, query: &MemoryQuery) {
        let predicted = engine.predict_memory(path, options, query).unwrap();
        assert_eq!(predicted.total, predicted.weights + predicted.activations);
        assert_eq!(engine.memory_peak(), 0, "a prediction allocates nothing");
        run(engine, path, options, query).unwrap();
        let measured = engine.memory_peak();
        let name = path.display();
        let most = measured + measured / 10 + (1 << 20);
        assert!(
            (measured..=most).contains(&predicted.total),
            "{name} {query:?}: {predicted:?} for {measured}"
        );
        assert!(predicted.fits);
    }

    const QUERIES: [MemoryQuery; 3] = [
        MemoryQuery { width: 64, height: 64, batch_size: 1, steps: 3, guided: true },
        MemoryQuery { width: 64, height: 64, batch_size: 2, steps: 1, guided: false },
        MemoryQuery { width: 96, height: 32, batch_size: 3, steps: 7, guided: true },
    ];

    #[test]
    fn cpu_predictions_are_what_the_engine_takes() {
        for name in ["tests/golden/models/sd1", "tests/golden/models/sd2", "tests/golden/models/sdxl"] {
            for threads in [1, 2, 5] {
                for query in &QUERIES {
                    compare(&cpu(threads, 0), &folder(name), query);
                }
            }
        }
        for name in ["models/emoji", "models/emoji-64"] {
            for (threads, query) in [1, 2, 5].into_iter().zip(&QUERIES) {
                compare(&cpu(threads, 0), &folder(name), query);
            }
        }
        let strict =
            EngineOptions { device: Device::Cpu, threads: 2, strict: true, ..EngineOptions::default() };
        compare(&Engine::new(strict).unwrap(), &folder("models/emoji-64"), &QUERIES[0]);
    }

    /// To the byte; the decoder's attention at 256×256 is long enough for bf16 too. Only where that is faster than f32.
    #[test]
    fn predictions_in_bf16_are_what_the_engine_takes() {
        let large = MemoryQuery { width: 256, height: 256, ..QUERIES[0] };
        for (name, query) in [
            ("models/emoji-64", &QUERIES[0]),
            ("models/emoji-64", &large),
            ("tests/golden/models/sdxl", &QUERIES[2]),
        ] {
            let precision = Some(Precision::Bf16);
            let options =
                EngineOptions { device: Device::Cpu, threads: 2, precision, ..EngineOptions::default() };
            let Ok(engine) = Engine::new(options) else { return };
            let predicted = engine.predict_memory(&folder(name), ModelOptions::default(), query).unwrap();
            run(&engine, &folder(name), ModelOptions::default(), query).unwrap();
            assert_eq!(predicted.total, engine.memory_peak(), "{name} {query:?}");
        }
    }

    /// Of the weights to the byte.
    #[test]
    fn predictions_with_int8_are_what_the_engine_takes() {
        let options = ModelOptions { weights: WeightFormat::Int8, ..ModelOptions::default() };
        for name in ["models/emoji-64", "tests/golden/models/sd1", "tests/golden/models/sdxl"] {
            let (path, engine) = (folder(name), cpu(2, 0));
            compare_with(&engine, &path, options, &QUERIES[0]);
            let predicted = engine.predict_memory(&path, options, &QUERIES[0]).unwrap();
            let stored = engine.predict_memory(&path, ModelOptions::default(), &QUERIES[0]).unwrap();
            assert!(
                predicted.weights < stored.weights,
                "{name}: {} of {}",
                predicted.weights,
                stored.weights
            );
            assert_eq!(predicted.activations, stored.activations, "{name}");
            let before = engine.memory_used();
            let _model = Model::load(&engine, &path, options).unwrap();
            assert_eq!(engine.memory_used() - before, predicted.weights, "{name}");
        }
    }

    #[test]
    fn what_fits_runs_and_what_does_not_fails() {
        let (path, query) = (folder("tests/golden/models/sd1"), &QUERIES[0]);
        let all = cpu(1, 0).predict_memory(&path, ModelOptions::default(), query).unwrap();
        assert_eq!(all.limit, 0);
        let runs = |limit| {
            let engine = cpu(1, limit);
            let predicted = engine.predict_memory(&path, ModelOptions::default(), query).unwrap();
            assert_eq!((predicted.total, predicted.limit), (all.total, limit));
            let ran = run(&engine, &path, ModelOptions::default(), query);
            assert_eq!(predicted.fits, ran.is_ok(), "{limit} of {}: {ran:?}", all.total);
            predicted.fits
        };
        assert!(runs(all.total));
        assert!(!runs(all.weights));
        // Somewhere between, giving up reserves is no longer enough.
        for part in 1..8 {
            runs(all.weights + all.activations * part / 8 / 4096 * 4096);
        }
    }

    #[test]
    fn queries_that_cannot_be() {
        let engine = cpu(1, 0);
        let path = folder("tests/golden/models/sd1");
        let status = |path: &Path, variant, query| {
            let options = ModelOptions { variant, ..ModelOptions::default() };
            engine.predict_memory(path, options, &query).map_err(|error| error.status()).err()
        };
        let fine = MemoryQuery::default();
        assert_eq!(status(&path, None, fine), None);
        let endless = MemoryQuery { steps: 1001, ..fine };
        assert_eq!(status(&path, None, endless), Some(Status::InvalidArgument));
        assert_eq!(status(&folder("no/such/model"), None, fine), Some(Status::NotFound));
        assert_eq!(status(&path, Some("fp99"), fine), Some(Status::NotFound));
        assert_eq!(status(&path, None, MemoryQuery { width: 65, ..fine }), Some(Status::InvalidArgument));
        assert_eq!(
            status(&path, None, MemoryQuery { batch_size: 65, ..fine }),
            Some(Status::InvalidArgument)
        );
    }

    #[test]
    fn more_images_and_larger_ones_take_more() {
        let (engine, path) = (cpu(2, 0), folder("models/emoji-64"));
        let total = |width, batch_size, guided| {
            let query = MemoryQuery { width, height: width, batch_size, steps: 0, guided };
            engine.predict_memory(&path, ModelOptions::default(), &query).unwrap().total
        };
        assert!(total(64, 8, false) > total(64, 1, false));
        assert!(total(64, 8, true) > total(64, 8, false));
        assert!(total(512, 1, false) > 4 * total(64, 1, false));
        assert_eq!(total(0, 0, false), total(64, 1, false));
    }

    #[test]
    fn cuda_predictions_are_what_the_engine_takes() {
        let Some(_stand_in) = StandIn::take() else { return };
        for precision in [Precision::F16, Precision::F32] {
            let options = EngineOptions {
                device: Device::Cuda,
                precision: Some(precision),
                ..EngineOptions::default()
            };
            let engine = Engine::new(options).unwrap();
            let query = MemoryQuery { width: 32, height: 32, batch_size: 1, steps: 4, guided: true };
            compare(&engine, &folder("tests/golden/models/sd1"), &query);
        }
    }
}
