//! From a prompt to a PNG file with the Rust API, without going through C.
//!
//! ```text
//! cargo run --release --example txt2img -- models/emoji "a blue cat on a yellow background" cat.png
//! ```

use std::path::Path;
use std::time::Duration;

use diffusion::api::{
    Engine, EngineOptions, Error, Model, ModelOptions, OptionId, Request, Session, SessionOptions,
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, prompt, output] = arguments.as_slice() else {
        eprintln!("usage: txt2img MODEL PROMPT OUTPUT.png");
        std::process::exit(2);
    };
    if let Err(error) = generate(Path::new(model), prompt, Path::new(output)) {
        eprintln!("txt2img: {error}");
        std::process::exit(1);
    }
}

fn generate(model: &Path, prompt: &str, output: &Path) -> Result<(), Error> {
    let engine = Engine::new(EngineOptions::default())?;
    let model = Model::load(&engine, model, ModelOptions::default())?;
    let session = Session::new(&model, SessionOptions::default())?;

    let mut request = Request::new(&model);
    request.set_string(OptionId::Prompt, Some(prompt))?;
    request.set_float(OptionId::GuidanceScale, 2.5)?;
    request.set_int(OptionId::Seed, 1)?;

    // A job runs on a thread of the session's; `session.generate(&request)` would do all of this in one call.
    let job = session.submit(&request)?;
    let outcome = loop {
        if let Some(outcome) = job.wait(Some(Duration::from_millis(100))) {
            break outcome;
        }
        let progress = job.progress();
        println!("step {} of {}", progress.step, progress.steps);
    };
    outcome?;

    job.image(0)?.save_png(output)?;
    let report = job.report()?;
    println!(
        "{}: {} x {} pixels, text {:.0?}, denoise {:.0?}, decode {:.0?}",
        output.display(),
        report.width,
        report.height,
        report.text_time,
        report.denoise_time,
        report.decode_time
    );
    Ok(())
}
