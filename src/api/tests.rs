#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

//! What the objects promise, on the small model that comes along.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::options::{Kind, OPTIONS};
use super::*;
use crate::pipeline::request::{self as pipeline, SAMPLERS};

fn engine() -> Engine {
    Engine::new(EngineOptions { device: Device::Cpu, threads: 1, ..EngineOptions::default() }).unwrap()
}

fn model() -> Model {
    let path = crate::testing::root().join("models/emoji-64");
    Model::load(&engine(), &path, ModelOptions::default()).unwrap()
}

fn session(model: &Model, queue_limit: u32) -> Session {
    Session::new(model, SessionOptions { queue_limit }).unwrap()
}

fn request(model: &Model, steps: i64) -> Request {
    let mut request = Request::new(model);
    request.set_string(OptionId::Prompt, Some("a blue cat")).unwrap();
    request.set_int(OptionId::Steps, steps).unwrap();
    request
}

/// A job that runs until it is cancelled, and has begun to.
fn endless(session: &Session) -> Job {
    let mut request = request(session.model(), 1000);
    let (sender, begun) = mpsc::channel();
    let sender = Mutex::new(sender);
    request.set_progress(Some(Arc::new(move |_| {
        let _ = sender.lock().unwrap().send(());
        ControlFlow::Continue(())
    })));
    let job = session.submit(&request).unwrap();
    begun.recv().unwrap();
    job
}

fn status(result: Option<Result<()>>) -> Option<Status> {
    result.and_then(Result::err).map(|error| error.status())
}

#[test]
fn option_numbers_count_from_one_in_the_order_of_the_table() {
    for (index, spec) in OPTIONS.iter().enumerate() {
        assert_eq!(spec.id as usize, index + 1, "{}", spec.name);
        assert_eq!(spec.id.spec().name, spec.name);
        assert_eq!(OptionId::from_name(spec.name), Some(spec.id));
        assert_eq!(OptionId::from_number(spec.id as i32).unwrap(), spec.id);
    }
    for number in [0, -1, OPTIONS.len() as i32 + 1] {
        assert_eq!(OptionId::from_number(number).unwrap_err().status(), Status::InvalidArgument);
    }
    assert_eq!(OptionId::from_name("guidance"), None);
}

#[test]
fn defaults_of_the_table_are_those_of_the_pipeline() {
    let model = model();
    let mut request = Request::new(&model);
    for spec in OPTIONS {
        match spec.kind {
            Kind::String => request.set_string(spec.id, None),
            Kind::Int { default, .. } => request.set_int(spec.id, default),
            Kind::Float { default, .. } => request.set_float(spec.id, default),
            Kind::Enum(_) => request.set_int(spec.id, 0),
            Kind::Floats => request.set_floats(spec.id, None),
            Kind::Image => request.set_image(spec.id, None),
        }
        .unwrap();
        assert_eq!(*request.values(), pipeline::Request::default(), "{}", spec.name);
    }
}

#[test]
fn ranges_hold_at_both_ends() {
    let mut request = Request::new(&model());
    for spec in OPTIONS {
        match spec.kind {
            Kind::Int { min, max, .. } => {
                request.set_int(spec.id, min).unwrap();
                request.set_int(spec.id, max).unwrap();
                for value in [min.checked_sub(1), max.checked_add(1)].into_iter().flatten() {
                    let error = request.set_int(spec.id, value).unwrap_err();
                    assert_eq!(error.status(), Status::InvalidArgument);
                    assert_eq!(
                        error.message(),
                        format!("option {}: {value} is not in {min}..{max}", spec.name)
                    );
                }
            }
            Kind::Float { min, max, .. } => {
                request.set_float(spec.id, min).unwrap();
                request.set_float(spec.id, max).unwrap();
                for value in [min - 1e-9, max + 1e-9, f64::NAN, f64::INFINITY] {
                    assert!(request.set_float(spec.id, value).is_err(), "{} {value}", spec.name);
                }
            }
            Kind::Enum(choices) => {
                for (number, name) in choices.iter().enumerate() {
                    request.set_int(spec.id, number as i64).unwrap();
                    let by_number = request.values().clone();
                    request.set_int(spec.id, 0).unwrap();
                    request.set_string(spec.id, Some(name)).unwrap();
                    assert_eq!(*request.values(), by_number, "{} {name}", spec.name);
                }
                assert!(request.set_int(spec.id, choices.len() as i64).is_err());
                assert!(request.set_int(spec.id, -1).is_err());
                assert!(request.set_string(spec.id, Some("nonsense")).is_err());
            }
            Kind::String | Kind::Floats | Kind::Image => {}
        }
    }
}

#[test]
fn choices_mean_what_they_are_called() {
    let mut request = Request::new(&model());
    request.set_string(OptionId::Sampler, Some("euler")).unwrap();
    request.set_string(OptionId::TimestepSpacing, Some("trailing")).unwrap();
    request.set_string(OptionId::Noise, Some("mt19937")).unwrap();
    request.set_string(OptionId::Output, Some("latents")).unwrap();
    let values = request.values();
    assert_eq!(values.sampler, Some(Sampler::Euler));
    assert_eq!(values.timestep_spacing, Some(TimestepSpacing::Trailing));
    assert_eq!(values.noise, Some(Noise::Mt19937));
    assert!(!values.decode);
    assert_eq!(sampler_number(Sampler::Euler), 3);
    for info in SAMPLERS {
        request.set_string(OptionId::Sampler, Some(info.name)).unwrap();
        assert_eq!(request.values().sampler, Some(info.sampler));
        request.set_int(OptionId::Sampler, i64::from(sampler_number(info.sampler))).unwrap();
        assert_eq!(request.values().sampler, Some(info.sampler));
    }
    for schedule in SigmaSchedule::ALL {
        request.set_string(OptionId::SigmaSchedule, Some(schedule.name())).unwrap();
        assert_eq!(request.values().sigma_schedule, Some(schedule));
    }
    for profile in [Profile::Diffusers, Profile::A1111, Profile::ComfyUi] {
        request.set_string(OptionId::Profile, Some(profile.name())).unwrap();
        assert_eq!(request.values().profile, profile);
    }
}

#[test]
fn values_go_to_the_option_they_were_set_for() {
    let mut request = Request::new(&model());
    request.set_string(OptionId::Prompt, Some("p")).unwrap();
    request.set_string(OptionId::NegativePrompt, Some("")).unwrap();
    for (id, value) in [(OptionId::Width, 8), (OptionId::Height, 16), (OptionId::Steps, 3)] {
        request.set_int(id, value).unwrap();
    }
    request.set_int(OptionId::Seed, -1).unwrap();
    request.set_int(OptionId::BatchSize, 2).unwrap();
    request.set_float(OptionId::GuidanceScale, 2.5).unwrap();
    request.set_float(OptionId::Eta, 0.5).unwrap();
    request.set_floats(OptionId::Latents, Some(&[1.0, 2.0])).unwrap();
    request.set_floats(OptionId::Sigmas, Some(&[3.0, 0.0])).unwrap();
    request.set_floats(OptionId::Timesteps, Some(&[4.0])).unwrap();
    for (id, value) in [
        (OptionId::SChurn, 1.5),
        (OptionId::STmin, 0.1),
        (OptionId::STmax, 9.0),
        (OptionId::SNoise, 1.003),
        (OptionId::Strength, 0.25),
        (OptionId::VariationStrength, 0.75),
        (OptionId::DynamicThresholdingRatio, 0.995),
        (OptionId::DynamicThresholdingMax, 2.0),
    ] {
        request.set_float(id, value).unwrap();
    }
    request.set_int(OptionId::VariationSeed, -2).unwrap();
    request.set_int(OptionId::EtaNoiseSeedDelta, 31337).unwrap();
    let picture = |value: u8| Image::from_pixels(1, 1, Format::Gray8, &[value], 0).unwrap();
    // The request keeps the pixels.
    request.set_image(OptionId::Image, Some(&picture(255))).unwrap();
    request.set_image(OptionId::Mask, Some(&picture(0))).unwrap();
    let expected = pipeline::Request {
        prompt: "p".to_owned(),
        negative_prompt: Some(String::new()),
        width: 8,
        height: 16,
        steps: 3,
        seed: u64::MAX,
        batch_size: 2,
        guidance: pipeline::GuidanceOptions::at_scale(2.5),
        eta: Some(0.5),
        latents: Some(vec![1.0, 2.0]),
        sigmas: Some(vec![3.0, 0.0]),
        timesteps: Some(vec![4.0]),
        s_churn: 1.5,
        s_tmin: 0.1,
        s_tmax: 9.0,
        s_noise: 1.003,
        strength: 0.25,
        variation_seed: u64::MAX - 1,
        variation_strength: 0.75,
        eta_noise_seed_delta: 31337,
        dynamic_thresholding_ratio: 0.995,
        dynamic_thresholding_max: 2.0,
        image: Some(picture(255).picture().clone()),
        mask: Some(picture(0).picture().clone()),
        ..pipeline::Request::default()
    };
    assert_eq!(*request.values(), expected);
}

#[test]
fn images_go_only_where_images_belong() {
    let mut request = Request::new(&model());
    let image = Image::from_pixels(1, 1, Format::Gray8, &[9], 0).unwrap();
    let error = request.set_image(OptionId::Steps, Some(&image)).unwrap_err();
    assert_eq!(error.message(), "option steps: it takes an integer, not an image");
    let error = request.set_string(OptionId::Image, Some("cat.png")).unwrap_err();
    assert_eq!(error.message(), "option image: it takes an image, not a string");
    assert!(request.set_int(OptionId::Mask, 1).is_err() && request.set_float(OptionId::Mask, 1.0).is_err());
    assert!(request.set_floats(OptionId::Mask, Some(&[1.0])).is_err());
    request.set_image(OptionId::Image, Some(&image)).unwrap();
    request.set_image(OptionId::Image, None).unwrap();
    assert_eq!(request.values().image, None);
}

#[test]
fn a_request_remembers_its_first_failure_until_it_is_reset() {
    let model = model();
    let session = session(&model, 0);
    let mut request = request(&model, 1);
    let wrong_type = request.set_int(OptionId::Prompt, 3).unwrap_err();
    assert_eq!(wrong_type.message(), "option prompt: it takes a string, not an integer");
    request.set_float(OptionId::Eta, 2.0).unwrap_err();
    request.set_floats(OptionId::Latents, Some(&[0.0, f32::NAN])).unwrap_err();
    let error = session.submit(&request).err().unwrap();
    assert_eq!((error.status(), error.message()), (Status::InvalidArgument, wrong_type.message()));
    request.reset();
    request.set_int(OptionId::Steps, 1).unwrap();
    session.generate(&request).unwrap();
}

#[test]
fn an_over_long_prompt_is_refused() {
    let mut request = Request::new(&model());
    let most = crate::util::limits::PROMPT_BYTES;
    request.set_string(OptionId::Prompt, Some(&"x".repeat(most))).unwrap();
    let error = request.set_string(OptionId::Prompt, Some(&"x".repeat(most + 1))).unwrap_err();
    assert!(error.message().starts_with("option prompt: the text has 1048577 bytes"), "{error}");
}

#[test]
fn a_request_of_another_model_and_a_bad_size_are_refused_at_submit() {
    let (model, other) = (model(), model());
    let session = session(&model, 0);
    assert_eq!(session.submit(&request(&other, 1)).err().unwrap().status(), Status::InvalidArgument);
    let mut request = request(&model, 1);
    request.set_int(OptionId::Width, 63).unwrap();
    let error = session.submit(&request).err().unwrap();
    assert_eq!(error.status(), Status::InvalidArgument);
    assert!(error.message().contains("63"), "{error}");
}

#[test]
fn a_job_reports_what_it_did() {
    let model = model();
    let session = session(&model, 0);
    let mut request = request(&model, 2);
    request.set_int(OptionId::BatchSize, 2).unwrap();
    request.set_int(OptionId::Seed, 5).unwrap();
    let job = session.submit(&request).unwrap();
    // The job keeps all it needs.
    drop((session, request, model));
    job.wait(None).unwrap().unwrap();
    let report = job.report().unwrap();
    assert_eq!((report.width, report.height, report.image_count), (64, 64, 2));
    assert_eq!((report.steps, report.seed), (2, 5));
    let progress = job.progress();
    assert_eq!((progress.stage, progress.step, progress.steps), (JobStage::Finished, 2, 2));
    assert_eq!(progress, job.progress(), "time stands still once a job is finished");
    let image = job.image(1).unwrap();
    assert!(image.metadata().contains("Seed: 6, Size: 64x64"), "{}", image.metadata());
    assert_eq!(job.image(2).unwrap_err().status(), Status::InvalidArgument);
    let count = job.latents_len().unwrap();
    let mut latents = vec![f32::NAN; count + 1];
    job.copy_latents(1, &mut latents).unwrap();
    assert!(latents[..count].iter().all(|x| x.is_finite()) && latents[count].is_nan());
    assert_eq!(job.copy_latents(0, &mut latents[1..count]).unwrap_err().status(), Status::BufferTooSmall);
    assert_eq!(job.copy_latents(2, &mut latents).unwrap_err().status(), Status::InvalidArgument);
    drop(job);
    assert_eq!(image.pixels().len(), 64 * 64 * 3);
}

#[test]
fn progress_only_moves_forward() {
    let model = model();
    let session = session(&model, 0);
    let mut request = request(&model, 3);
    let white = Image::from_pixels(64, 64, Format::Gray8, &[255; 64 * 64], 0).unwrap();
    request.set_image(OptionId::Image, Some(&white)).unwrap();
    request.set_float(OptionId::Strength, 1.0).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = seen.clone();
    request.set_progress(Some(Arc::new(move |progress| {
        sink.lock().unwrap().push(*progress);
        ControlFlow::Continue(())
    })));
    session.generate(&request).unwrap();
    let seen = seen.lock().unwrap();
    let order: Vec<_> = seen.iter().map(|p| (p.stage, p.step, p.elapsed)).collect();
    assert!(order.is_sorted(), "{order:?}");
    for stage in [JobStage::Text, JobStage::Encode, JobStage::Denoise, JobStage::Decode] {
        assert!(seen.iter().any(|p| p.stage == stage), "{stage:?}");
    }
    for step in 1..=3 {
        assert!(seen.iter().any(|p| (p.stage, p.step, p.steps) == (JobStage::Denoise, step, 3)));
    }
}

#[test]
fn latents_alone_make_no_image() {
    let model = model();
    let session = session(&model, 0);
    let mut request = request(&model, 1);
    request.set_string(OptionId::Output, Some("latents")).unwrap();
    let job = session.submit(&request).unwrap();
    job.wait(None).unwrap().unwrap();
    assert_eq!(job.report().unwrap().image_count, 0);
    assert!(job.latents_len().unwrap() > 0);
    assert_eq!(job.image(0).unwrap_err().status(), Status::InvalidArgument);
    assert_eq!(session.generate(&request).unwrap_err().status(), Status::InvalidArgument);
}

#[test]
fn a_job_can_be_cancelled_before_it_starts() {
    let model = model();
    let session = session(&model, 0);
    let first = endless(&session);
    let second = session.submit(&request(&model, 1)).unwrap();
    second.cancel();
    assert_eq!(status(second.status()), Some(Status::Cancelled), "at once, though another job runs");
    assert_eq!(second.progress().stage, JobStage::Finished);
    assert_eq!(second.report().unwrap_err().status(), Status::Cancelled);
    assert!(first.status().is_none());
}

#[test]
fn a_job_can_be_cancelled_while_it_runs_but_not_after() {
    let model = model();
    let session = session(&model, 0);
    let job = endless(&session);
    assert_eq!(job.report().unwrap_err().status(), Status::InvalidState);
    let start = Instant::now();
    job.cancel();
    assert_eq!(status(job.wait(None)), Some(Status::Cancelled));
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(job.image(0).unwrap_err().status(), Status::Cancelled);

    let job = session.submit(&request(&model, 1)).unwrap();
    job.wait(None).unwrap().unwrap();
    job.cancel();
    assert!(job.status().unwrap().is_ok());
    job.image(0).unwrap();
}

#[test]
fn a_progress_function_can_cancel() {
    let model = model();
    let session = session(&model, 0);
    let mut request = request(&model, 1000);
    request.set_progress(Some(Arc::new(|progress| {
        if progress.step == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })));
    assert_eq!(session.generate(&request).unwrap_err().status(), Status::Cancelled);
}

#[test]
fn a_dropped_job_is_over_when_drop_returns() {
    let model = model();
    let session = session(&model, 0);
    let mut request = request(&model, 1000);
    let (begun, ended) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let counters = (begun.clone(), ended.clone());
    request.set_progress(Some(Arc::new(move |_| {
        counters.0.fetch_add(1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(50));
        counters.1.fetch_add(1, Ordering::SeqCst);
        ControlFlow::Continue(())
    })));
    let job = session.submit(&request).unwrap();
    while begun.load(Ordering::SeqCst) < 2 {
        thread::yield_now();
    }
    // The function sleeps now; drop has to wait for it.
    drop(job);
    let after = begun.load(Ordering::SeqCst);
    assert_eq!(ended.load(Ordering::SeqCst), after);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(begun.load(Ordering::SeqCst), after);
}

#[test]
fn everything_can_be_dropped_inside_the_progress_function() {
    let model = model();
    let session = session(&model, 0);
    let mut request = request(&model, 1000);
    let slot: Arc<Mutex<Option<Job>>> = Arc::default();
    let (sender, done) = mpsc::channel();
    let (inside, sender) = (slot.clone(), Mutex::new(sender));
    let calls = AtomicU32::new(0);
    request.set_progress(Some(Arc::new(move |_| {
        // The first call waits until the job is in the slot.
        let job = loop {
            if let Some(job) = inside.lock().unwrap().take() {
                break job;
            }
            thread::yield_now();
        };
        let waited = job.wait(None);
        drop(job);
        let call = calls.fetch_add(1, Ordering::SeqCst);
        let _ = sender.lock().unwrap().send((call, status(waited)));
        ControlFlow::Continue(())
    })));
    let job = session.submit(&request).unwrap();
    // From now on only the job holds the session, the model and the engine.
    drop((session, request, model));
    *slot.lock().unwrap() = Some(job);
    let heard = done.recv_timeout(Duration::from_secs(20)).expect("no deadlock");
    assert_eq!(heard, (0, Some(Status::InvalidState)), "waiting in there is refused");
    assert!(done.recv_timeout(Duration::from_secs(20)).is_err(), "not called again, and then let go");
}

#[test]
fn a_full_queue_is_busy_and_a_withdrawn_job_makes_room() {
    let model = model();
    let session = session(&model, 2);
    let running = endless(&session);
    let request = request(&model, 1);
    let second = session.submit(&request).unwrap();
    let third = session.submit(&request).unwrap();
    assert_eq!(session.submit(&request).err().unwrap().status(), Status::Busy);
    third.cancel();
    let fourth = session.submit(&request).unwrap();
    running.cancel();
    second.wait(None).unwrap().unwrap();
    fourth.wait(None).unwrap().unwrap();
}

#[test]
fn wait_comes_back_when_its_time_is_up() {
    let session = session(&model(), 0);
    let job = endless(&session);
    assert!(job.wait(Some(Duration::ZERO)).is_none());
    let start = Instant::now();
    assert!(job.wait(Some(Duration::from_millis(50))).is_none());
    assert!(start.elapsed() >= Duration::from_millis(50));
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(30));
            job.cancel();
        });
        assert_eq!(status(job.wait(Some(Duration::MAX))), Some(Status::Cancelled));
    });
}

#[test]
fn a_panic_poisons_its_session_and_no_other() {
    crate::util::panic::install_hook();
    let model = model();
    let (broken, sound) = (session(&model, 0), session(&model, 0));
    let mut bad = request(&model, 5);
    let barrier = Arc::new(Barrier::new(2));
    let gate = barrier.clone();
    bad.set_progress(Some(Arc::new(move |_| {
        gate.wait();
        panic!("a bug")
    })));
    let good = request(&model, 1);
    let job = broken.submit(&bad).unwrap();
    let behind = broken.submit(&good).unwrap();
    barrier.wait();
    let error = job.wait(None).unwrap().unwrap_err();
    assert_eq!(error.status(), Status::Internal);
    assert!(error.message().starts_with("panic at src/api/tests.rs:"), "{error}");
    assert!(error.message().ends_with(": a bug"), "{error}");
    assert_eq!(status(behind.wait(None)), Some(Status::InvalidState));
    assert_eq!(broken.submit(&good).err().unwrap().status(), Status::InvalidState);
    sound.generate(&good).unwrap();
    session(&model, 0).generate(&good).unwrap();
}

#[test]
fn two_sessions_of_a_model_run_side_by_side() {
    let model = model();
    // Each job's first step waits for the other's: alone neither would end.
    let barrier = Arc::new(Barrier::new(2));
    let images: Vec<Image> = thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (session, mut request, barrier) =
                    (session(&model, 0), request(&model, 1), barrier.clone());
                request.set_progress(Some(Arc::new(move |progress| {
                    if progress.step == 0 && progress.stage == JobStage::Denoise {
                        barrier.wait();
                    }
                    ControlFlow::Continue(())
                })));
                scope.spawn(move || session.generate(&request).unwrap())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(images[0].pixels(), images[1].pixels());
}

#[test]
fn jobs_of_a_session_run_in_order() {
    let model = model();
    let session = session(&model, 0);
    let order = Arc::new(Mutex::new(Vec::new()));
    let jobs: Vec<Job> = (0..4)
        .map(|number| {
            let (mut request, order) = (request(&model, 1), order.clone());
            request.set_progress(Some(Arc::new(move |progress| {
                if progress.step == 1 && progress.stage == JobStage::Denoise {
                    order.lock().unwrap().push(number);
                }
                ControlFlow::Continue(())
            })));
            session.submit(&request).unwrap()
        })
        .collect();
    jobs.iter().for_each(|job| job.wait(None).unwrap().unwrap());
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3]);
}

#[test]
fn the_log_has_prompts_only_at_debug() {
    let lines = |level| {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = lines.clone();
        let log = Log::new(level, Arc::new(move |_, line: &str| sink.lock().unwrap().push(line.to_owned())));
        let options = EngineOptions { device: Device::Cpu, threads: 1, log, ..EngineOptions::default() };
        let engine = Engine::new(options).unwrap();
        let path = crate::testing::root().join("models/emoji-64");
        let model = Model::load(&engine, &path, ModelOptions::default()).unwrap();
        session(&model, 0).generate(&request(&model, 1)).unwrap();
        lines.lock().unwrap().join("\n")
    };
    let info = lines(Level::Info);
    assert!(info.contains("submit: job 1, 0x0, 1 steps") && info.contains("job 1: done"), "{info}");
    assert!(!info.contains("blue cat"), "{info}");
    assert!(lines(Level::Debug).contains("blue cat"));
    assert_eq!(lines(Level::Warn), "");
}

#[test]
fn an_engine_refuses_what_it_cannot_do() {
    let in_precision = |precision| {
        Engine::new(EngineOptions {
            device: Device::Cpu,
            precision: Some(precision),
            ..EngineOptions::default()
        })
    };
    let error = in_precision(Precision::F16).err().unwrap();
    assert_eq!(error.status(), Status::Unsupported);
    assert_eq!(error.message(), "precision: the CPU computes in f32 or bf16, not in f16");
    match in_precision(Precision::Bf16) {
        Ok(engine) => assert_eq!(engine.precision(), Precision::Bf16),
        Err(error) => {
            assert_eq!(error.status(), Status::Unsupported);
            assert!(error.message().contains("AVX512-BF16"), "{}", error.message());
        }
    }
    let threads = EngineOptions { threads: 1025, ..EngineOptions::default() };
    assert_eq!(Engine::new(threads).err().unwrap().status(), Status::InvalidArgument);
}
