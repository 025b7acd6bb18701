//! Recorded steps.

use std::cell::Cell;

use cudarc::driver::result;

use super::*;
use crate::backend::DType;
use crate::backend::cases::weight_bytes;

const SHAPE: Shape = Shape::image(2, 5, 3, 24);

/// What a step borrows.
struct Model {
    other: CudaTensor,
    affine: CudaAffine,
    linear: CudaLinear,
    geglu: CudaLinear,
    conv: CudaConv2d,
}

impl Model {
    fn new(cuda: &Cuda) -> Self {
        let bytes = |shape: &[usize]| weight_bytes(shape, DType::F32, 1);
        let weight = |shape: &'static [usize], bytes| Weight { dtype: DType::F32, shape, bytes };
        let (vector, square, tall, kernel) =
            (bytes(&[24]), bytes(&[24, 24]), bytes(&[96, 24]), bytes(&[24, 48, 3, 3]));
        let vector = weight(&[24], &vector);
        let same = ConvGeometry::same(3);
        Self {
            other: cuda.upload(SHAPE, &values(SHAPE)).unwrap(),
            affine: cuda.prepare_affine(vector, vector).unwrap(),
            linear: cuda.prepare_linear(weight(&[24, 24], &square), Some(vector)).unwrap(),
            geglu: cuda.prepare_geglu(weight(&[96, 24], &tall), None).unwrap(),
            conv: cuda.prepare_conv2d(weight(&[24, 48, 3, 3], &kernel), Some(vector), same).unwrap(),
        }
    }
}

/// A step with enough in it to take and give back memory of several sizes.
fn step(cuda: &Cuda, x: &CudaTensor, t: &CudaTensor, model: &Model) -> Result<CudaTensor> {
    let y = cuda.group_norm(x, &model.affine, 4, 1e-5, true)?;
    let y = cuda.add(&y, t)?;
    let wide = cuda.linear_geglu(&y, &model.geglu)?;
    let wide = cuda.attention(&wide, &wide, &wide, 2, false)?;
    let y = cuda.linear(&y, &model.linear, Epilogue::residual(&model.other))?;
    let left = cuda.view(&wide, 8, x.shape())?;
    let y = cuda.concat_channels(&y, &left)?;
    let y = cuda.conv2d(&y, &model.conv, Epilogue::residual(x))?;
    let y = cuda.layer_norm(&y, &model.affine, 1e-5)?;
    cuda.activation(&y, Activation::Gelu)
}

/// One image: `steps` steps with other inputs each, the first of them in device memory, and how often the body ran.
fn image(
    cuda: &Cuda,
    state: &mut CudaRepeated,
    model: &Model,
    steps: usize,
) -> Result<(Vec<Vec<f32>>, usize)> {
    let ran = Cell::new(0);
    let body = |inputs: &[CudaTensor]| {
        ran.set(ran.get() + 1);
        step(cuda, &inputs[0], &inputs[1], model)
    };
    let mut results = Vec::new();
    for i in 0..steps {
        let x: Vec<f32> = values(SHAPE).into_iter().map(|x| x * (1.0 + i as f32)).collect();
        let t = cuda.upload(SHAPE, &vec![i as f32; SHAPE.len()])?;
        let mut out = vec![0.0; SHAPE.len()];
        cuda.repeat(state, &[Input::Host(SHAPE, &x), Input::Device(&t)], &body, &mut out)?;
        results.push(out);
    }
    Ok((results, ran.get()))
}

fn plain(cuda: &Cuda, model: &Model, steps: usize) -> Vec<Vec<f32>> {
    let step = |i: usize| {
        let x: Vec<f32> = values(SHAPE).into_iter().map(|x| x * (1.0 + i as f32)).collect();
        let x = cuda.upload(SHAPE, &x).unwrap();
        let t = cuda.upload(SHAPE, &vec![i as f32; SHAPE.len()]).unwrap();
        values_of(cuda, &step(cuda, &x, &t, model).unwrap())
    };
    (0..steps).map(step).collect()
}

#[test]
fn a_recorded_step_gives_what_it_gives_unrecorded() {
    let Some(device) = Gpu::take() else { return };
    for precision in [Precision::F16, Precision::F32] {
        for eager in [0, 1] {
            device.set("eager", eager);
            let cuda = gpu(precision);
            let model = Model::new(&cuda);
            let expected = plain(&cuda, &model, 5);
            let session = cuda.session().unwrap();
            let model = Model::new(&session);
            let launched = device.get("graph_launches");
            let (results, ran) = image(&session, &mut CudaRepeated::default(), &model, 5).unwrap();
            assert!(results == expected, "{precision:?}, eager {eager}");
            assert_eq!((ran, device.get("graph_launches")), (2, launched.map(|n| n + 4)));
        }
    }
}

#[test]
fn a_warm_step_allocates_nothing() {
    let Some(stand_in) = StandIn::take() else { return };
    let cuda = gpu(Precision::F16);
    let model = Model::new(&cuda);
    // What other work has left, which no step has use for.
    drop(cuda.scratch(1 << 20, "x").unwrap());
    let mut state = CudaRepeated::default();
    image(&cuda, &mut state, &model, 1).unwrap();
    let calls = || ["allocations", "frees", "pinned_allocations"].map(|name| stand_in.get(name));
    let warm = (calls(), cuda.memory_used());
    image(&cuda, &mut state, &model, 4).unwrap();
    drop(state);
    // The next image.
    let mut state = CudaRepeated::default();
    image(&cuda, &mut state, &model, 4).unwrap();
    assert_eq!((calls(), cuda.memory_used()), warm);
}

/// The memory of a recording is not lent to others while it may be replayed, and goes back after.
#[test]
fn a_recording_keeps_its_memory() {
    let Some(device) = Gpu::take() else { return };
    let cuda = gpu(Precision::F16);
    let model = Model::new(&cuda);
    let mut state = CudaRepeated::default();
    let (expected, _) = image(&cuda, &mut state, &model, 3).unwrap();
    // Everything that is free is overwritten between two replays.
    let blocks: Vec<_> = (0..20).map(|_| cuda.upload(SHAPE, &vec![7.0; SHAPE.len()]).unwrap()).collect();
    assert!(image(&cuda, &mut state, &model, 3).unwrap().0 == expected);
    for block in &blocks {
        assert!(values_of(&cuda, block) == vec![7.0; SHAPE.len()], "a replay wrote to it");
    }
    drop(blocks);
    let before = device.get("allocations");
    drop(state);
    let (results, _) = image(&cuda, &mut CudaRepeated::default(), &model, 3).unwrap();
    assert!(results == expected);
    assert_eq!(device.get("allocations"), before);
}

/// A result that outlives the recording, a recording that outlives the session, and the end on another thread.
#[test]
fn a_recording_may_end_anywhere() {
    let Some(stand_in) = StandIn::take() else { return };
    let cuda = gpu(Precision::F16);
    let session = cuda.session().unwrap();
    let model = Model::new(&session);
    let mut state = CudaRepeated::default();
    image(&session, &mut state, &model, 3).unwrap();
    drop((cuda, session, model));
    std::thread::spawn(move || drop(state)).join().unwrap();
    assert_eq!(stand_in.get("memory_in_use"), 0);
}

#[test]
fn other_shapes_are_an_error_and_begin_anew() {
    let Some(_turn) = Gpu::take() else { return };
    let cuda = gpu(Precision::F16);
    let model = Model::new(&cuda);
    let mut state = CudaRepeated::default();
    let (expected, _) = image(&cuda, &mut state, &model, 3).unwrap();
    let small = Shape::vector(1, 8);
    let body = |inputs: &[CudaTensor]| cuda.add(&inputs[0], &inputs[0]);
    let mut out = [0.0; 8];
    let mut step =
        |state: &mut CudaRepeated| cuda.repeat(state, &[Input::Host(small, &[1.0; 8])], &body, &mut out);
    assert_eq!(step(&mut state).err().unwrap().status(), Status::Internal);
    step(&mut state).unwrap();
    drop(state);
    assert!(image(&cuda, &mut CudaRepeated::default(), &model, 3).unwrap().0 == expected);
}

/// What a recording cannot hold: the step is run as it is, and the log hears of it once.
#[test]
fn a_step_that_cannot_be_recorded_is_run() {
    let Some(device) = Gpu::take() else { return };
    let (log, heard) = listener();
    let cuda = Cuda::new(&Options { log, ..Options::default() }).unwrap();
    let x = values(SHAPE);
    let waits = |inputs: &[CudaTensor]| {
        let y = cuda.add(&inputs[0], &inputs[0])?;
        cuda.download(&y, &mut vec![0.0; SHAPE.len()])?;
        Ok(y)
    };
    let allocates = |inputs: &[CudaTensor]| {
        let y = cuda.add(&inputs[0], &inputs[0])?;
        // SAFETY: freed once.
        let freed = unsafe { result::malloc_sync(4).and_then(|memory| result::free_sync(memory)) };
        cuda.device.check("allocating", freed)?;
        Ok(y)
    };
    type Body<'a> = &'a dyn Fn(&[CudaTensor]) -> Result<CudaTensor>;
    for body in [&waits as Body<'_>, &allocates] {
        let expected: Vec<f32> = values_of(&cuda, &body(&[cuda.upload(SHAPE, &x).unwrap()]).unwrap());
        let mut state = CudaRepeated::default();
        for _ in 0..4 {
            let mut out = vec![0.0; SHAPE.len()];
            cuda.repeat(&mut state, &[Input::Host(SHAPE, &x)], body, &mut out).unwrap();
            assert!(out == expected);
        }
    }
    assert_eq!(device.get("graph_launches").unwrap_or(0), 0);
    assert_eq!(heard.lock().unwrap().len(), 1, "{:?}", heard.lock().unwrap());
}

#[test]
fn a_cancelled_step_stops() {
    let Some(_turn) = Gpu::take() else { return };
    for steps in 0..4 {
        let cancel = Cancel::default();
        let (log, heard) = listener();
        let cuda = Cuda::new(&Options { log, ..Options::default() }).unwrap();
        let job = cuda.with_cancel(&cancel);
        let model = Model::new(&job);
        let mut state = CudaRepeated::default();
        image(&job, &mut state, &model, steps).unwrap();
        let x = values(SHAPE);
        let inputs = [Input::Host(SHAPE, &x), Input::Device(&model.other)];
        // In the middle of the body, if that runs.
        let body = |inputs: &[CudaTensor]| {
            cancel.cancel();
            step(&job, &inputs[0], &inputs[1], &model)
        };
        let mut out = vec![0.0; SHAPE.len()];
        if steps >= 2 {
            cancel.cancel();
        }
        let error = job.repeat(&mut state, &inputs, &body, &mut out).err().unwrap();
        assert_eq!(error.status(), Status::Cancelled, "after {steps} steps");
        assert_eq!(*heard.lock().unwrap(), [""; 0], "after {steps} steps");
        // And the session is as good as before.
        assert_eq!(image(&cuda, &mut state, &model, 3).unwrap().1, 2);
    }
}

/// A session that needs memory takes the reserves of all others, but for one that is recording: the driver would give
/// that one's recording up.
#[test]
fn others_do_not_disturb_a_recording() {
    let Some(device) = Gpu::take() else { return };
    let limit = Some(4 << 20);
    let cuda = Cuda::new(&Options { memory_limit: limit, ..Options::default() }).unwrap();
    let session = cuda.session().unwrap();
    let x = values(SHAPE);
    // From before the recording, so that it goes back to the session.
    let kept = Mutex::new(vec![session.upload(SHAPE, &x).unwrap(), session.upload(SHAPE, &x).unwrap()]);
    let body = |inputs: &[CudaTensor]| {
        let y = session.add(&inputs[0], &inputs[0])?;
        drop(lock(&kept).pop());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for mib in [1, 2, 3] {
                    drop(cuda.upload(Shape::vector(mib, 1 << 19), &vec![0.0; mib << 19]).unwrap());
                }
            });
        });
        Ok(y)
    };
    let mut state = CudaRepeated::default();
    let mut out = vec![0.0; SHAPE.len()];
    for _ in 0..3 {
        session.repeat(&mut state, &[Input::Host(SHAPE, &x)], &body, &mut out).unwrap();
    }
    assert_eq!(device.get("graph_launches").unwrap_or(2), 2);
}

/// A step that needs more memory than the one before was not recorded, but the next is.
#[test]
fn memory_that_a_recording_misses_is_taken_by_the_step_itself() {
    let Some(device) = Gpu::take() else { return };
    let (log, heard) = listener();
    let cuda = Cuda::new(&Options { log, ..Options::default() }).unwrap();
    let ran = Cell::new(0);
    let x = values(SHAPE);
    let body = |inputs: &[CudaTensor]| {
        ran.set(ran.get() + 1);
        let _more = if ran.get() > 1 { Some(cuda.scratch(1 << 20, "x")?) } else { None };
        cuda.add(&inputs[0], &inputs[0])
    };
    let expected: Vec<f32> = x.iter().map(|x| x + x).collect();
    let mut state = CudaRepeated::default();
    for _ in 0..5 {
        let mut out = vec![0.0; SHAPE.len()];
        cuda.repeat(&mut state, &[Input::Host(SHAPE, &x)], &body, &mut out).unwrap();
        assert_eq!(out, expected);
    }
    // Run, recorded in vain and run, recorded, and replayed three times.
    assert_eq!((ran.get(), device.get("graph_launches").unwrap_or(3)), (4, 3));
    assert_eq!(*heard.lock().unwrap(), [""; 0]);
}

/// A bug in the middle of a recording is that session's trouble. The thread goes on to work for another.
#[test]
fn a_panic_ends_a_recording() {
    let Some(_turn) = Gpu::take() else { return };
    let cuda = gpu(Precision::F16);
    let session = cuda.session().unwrap();
    let ran = Cell::new(0);
    let body = |inputs: &[CudaTensor]| {
        ran.set(ran.get() + 1);
        let y = session.add(&inputs[0], &inputs[0])?;
        assert!(ran.get() < 2, "planted");
        Ok(y)
    };
    let x = values(SHAPE);
    let mut state = CudaRepeated::default();
    let mut step = || {
        let mut out = vec![0.0; SHAPE.len()];
        session.repeat(&mut state, &[Input::Host(SHAPE, &x)], &body, &mut out)
    };
    step().unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(step));
    assert!(panicked.is_err());
    let model = Model::new(&cuda);
    let (results, _) = image(&cuda, &mut CudaRepeated::default(), &model, 3).unwrap();
    assert!(results == plain(&session, &Model::new(&session), 3));
}
