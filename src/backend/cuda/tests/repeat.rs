//! Recorded steps.

use std::cell::Cell;

use super::*;

const SHAPE: Shape = Shape::image(2, 5, 3, 24);

/// A step with enough in it to take and give back memory of several sizes. `other` is what it borrows.
fn step(cuda: &Cuda, x: &CudaTensor, t: &CudaTensor, other: &CudaTensor) -> Result<CudaTensor> {
    let y = cuda.activation(x, Activation::Silu)?;
    let y = cuda.add(&y, t)?;
    let wide = cuda.concat_channels(&y, other)?;
    let wide = cuda.attention(&wide, &wide, &wide, 2, false)?;
    let left = cuda.view(&wide, 8, x.shape())?;
    let right = cuda.activation(&left, Activation::Gelu)?;
    cuda.add(&right, x)
}

/// One image: `steps` steps with other inputs each, the first of them in device memory, and how often the body ran.
fn image(
    cuda: &Cuda,
    state: &mut CudaRepeated,
    other: &CudaTensor,
    steps: usize,
) -> Result<(Vec<Vec<f32>>, usize)> {
    let ran = Cell::new(0);
    let body = |inputs: &[CudaTensor]| {
        ran.set(ran.get() + 1);
        step(cuda, &inputs[0], &inputs[1], other)
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

fn plain(cuda: &Cuda, other: &CudaTensor, steps: usize) -> Vec<Vec<f32>> {
    let step = |i: usize| {
        let x: Vec<f32> = values(SHAPE).into_iter().map(|x| x * (1.0 + i as f32)).collect();
        let x = cuda.upload(SHAPE, &x).unwrap();
        let t = cuda.upload(SHAPE, &vec![i as f32; SHAPE.len()]).unwrap();
        values_of(cuda, &step(cuda, &x, &t, other).unwrap())
    };
    (0..steps).map(step).collect()
}

#[test]
fn a_recorded_step_gives_what_it_gives_unrecorded() {
    let Some(stand_in) = StandIn::take() else { return };
    for precision in [Precision::F16, Precision::F32] {
        for eager in [0, 1] {
            stand_in.set("eager", eager);
            let cuda = gpu(precision);
            let other = cuda.upload(SHAPE, &values(SHAPE)).unwrap();
            let expected = plain(&cuda, &other, 5);
            let session = cuda.session().unwrap();
            let other = session.upload(SHAPE, &values(SHAPE)).unwrap();
            let launched = stand_in.get("graph_launches");
            let (results, ran) = image(&session, &mut CudaRepeated::default(), &other, 5).unwrap();
            assert!(results == expected, "{precision:?}, eager {eager}");
            assert_eq!((ran, stand_in.get("graph_launches") - launched), (2, 4));
        }
    }
}

#[test]
fn a_warm_step_allocates_nothing() {
    let Some(stand_in) = StandIn::take() else { return };
    let cuda = gpu(Precision::F16);
    let other = cuda.upload(SHAPE, &values(SHAPE)).unwrap();
    let mut state = CudaRepeated::default();
    image(&cuda, &mut state, &other, 1).unwrap();
    let warm = (stand_in.get("allocations"), stand_in.get("pinned_allocations"), cuda.memory_used());
    image(&cuda, &mut state, &other, 4).unwrap();
    drop(state);
    // The next image.
    let mut state = CudaRepeated::default();
    image(&cuda, &mut state, &other, 4).unwrap();
    let now = (stand_in.get("allocations"), stand_in.get("pinned_allocations"), cuda.memory_used());
    assert_eq!(now, warm);
}

/// The memory of a recording is not lent to others while it may be replayed, and goes back after.
#[test]
fn a_recording_keeps_its_memory() {
    let Some(stand_in) = StandIn::take() else { return };
    let cuda = gpu(Precision::F16);
    let other = cuda.upload(SHAPE, &values(SHAPE)).unwrap();
    let mut state = CudaRepeated::default();
    let (expected, _) = image(&cuda, &mut state, &other, 3).unwrap();
    // Everything that is free is overwritten between two replays.
    let blocks: Vec<_> = (0..20).map(|_| cuda.upload(SHAPE, &vec![7.0; SHAPE.len()]).unwrap()).collect();
    assert!(image(&cuda, &mut state, &other, 3).unwrap().0 == expected);
    for block in &blocks {
        assert!(values_of(&cuda, block) == vec![7.0; SHAPE.len()], "a replay wrote to it");
    }
    drop(blocks);
    let before = stand_in.get("allocations");
    drop(state);
    let (results, _) = image(&cuda, &mut CudaRepeated::default(), &other, 3).unwrap();
    assert!(results == expected);
    assert_eq!(stand_in.get("allocations"), before);
}

/// A result that outlives the recording, a recording that outlives the session, and the end on another thread.
#[test]
fn a_recording_may_end_anywhere() {
    let Some(stand_in) = StandIn::take() else { return };
    let cuda = gpu(Precision::F16);
    let session = cuda.session().unwrap();
    let other = session.upload(SHAPE, &values(SHAPE)).unwrap();
    let mut state = CudaRepeated::default();
    image(&session, &mut state, &other, 3).unwrap();
    drop((cuda, session, other));
    std::thread::spawn(move || drop(state)).join().unwrap();
    assert_eq!(stand_in.get("memory_in_use"), 0);
}

#[test]
fn other_shapes_are_an_error_and_begin_anew() {
    let Some(_stand_in) = StandIn::take() else { return };
    let cuda = gpu(Precision::F16);
    let other = cuda.upload(SHAPE, &values(SHAPE)).unwrap();
    let mut state = CudaRepeated::default();
    let (expected, _) = image(&cuda, &mut state, &other, 3).unwrap();
    let small = Shape::vector(1, 8);
    let body = |inputs: &[CudaTensor]| cuda.add(&inputs[0], &inputs[0]);
    let mut out = [0.0; 8];
    let mut step =
        |state: &mut CudaRepeated| cuda.repeat(state, &[Input::Host(small, &[1.0; 8])], &body, &mut out);
    assert_eq!(step(&mut state).err().unwrap().status(), Status::Internal);
    step(&mut state).unwrap();
    drop(state);
    assert!(image(&cuda, &mut CudaRepeated::default(), &other, 3).unwrap().0 == expected);
}

/// What a recording cannot hold: the step is run as it is, and the log hears of it once.
#[test]
fn a_step_that_cannot_be_recorded_is_run() {
    let Some(stand_in) = StandIn::take() else { return };
    let (log, heard) = listener();
    let cuda = Cuda::new(&Options { log, ..Options::default() }).unwrap();
    let x = values(SHAPE);
    // It waits for the stream.
    let body = |inputs: &[CudaTensor]| {
        let y = cuda.add(&inputs[0], &inputs[0])?;
        cuda.download(&y, &mut vec![0.0; SHAPE.len()])?;
        Ok(y)
    };
    let expected: Vec<f32> = values_of(&cuda, &body(&[cuda.upload(SHAPE, &x).unwrap()]).unwrap());
    for _ in 0..2 {
        let mut state = CudaRepeated::default();
        for _ in 0..4 {
            let mut out = vec![0.0; SHAPE.len()];
            cuda.repeat(&mut state, &[Input::Host(SHAPE, &x)], &body, &mut out).unwrap();
            assert!(out == expected);
        }
    }
    assert_eq!(stand_in.get("graph_launches"), 0);
    assert_eq!(heard.lock().unwrap().len(), 1, "{:?}", heard.lock().unwrap());
}

#[test]
fn a_cancelled_step_stops() {
    let Some(_stand_in) = StandIn::take() else { return };
    for steps in 0..4 {
        let cancel = Cancel::default();
        let cuda = gpu(Precision::F16);
        let job = cuda.with_cancel(&cancel);
        let other = job.upload(SHAPE, &values(SHAPE)).unwrap();
        let mut state = CudaRepeated::default();
        image(&job, &mut state, &other, steps).unwrap();
        let x = values(SHAPE);
        let inputs = [Input::Host(SHAPE, &x), Input::Device(&other)];
        // In the middle of the body, if that runs.
        let body = |inputs: &[CudaTensor]| {
            cancel.cancel();
            step(&job, &inputs[0], &inputs[1], &other)
        };
        let mut out = vec![0.0; SHAPE.len()];
        if steps >= 2 {
            cancel.cancel();
        }
        let error = job.repeat(&mut state, &inputs, &body, &mut out).err().unwrap();
        assert_eq!(error.status(), Status::Cancelled, "after {steps} steps");
        // And the session is as good as before.
        image(&cuda, &mut state, &other, 3).unwrap();
    }
}
