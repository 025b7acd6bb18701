//! Failures that the stand-in is told to have.

use super::*;

const SHAPE: Shape = Shape::image(2, 5, 3, 24);

/// Some operations, most with memory of their own, and their result.
fn work(cuda: &Cuda) -> Result<Vec<f32>> {
    let x = cuda.upload(SHAPE, &values(SHAPE))?;
    let y = cuda.activation(&x, Activation::Silu)?;
    let wide = cuda.concat_channels(&x, &y)?;
    let z = cuda.attention(&wide, &wide, &wide, 2, false)?;
    let one = cuda.select_tokens(&z, &[2, 1])?;
    let mut out = vec![0.0; one.shape().len()];
    cuda.download(&one, &mut out)?;
    Ok(out)
}

/// The same as a step that is recorded and replayed.
fn repeated_work(cuda: &Cuda, state: &mut CudaRepeated) -> Result<Vec<f32>> {
    let x = values(SHAPE);
    let mut out = vec![0.0; SHAPE.len()];
    let body = |inputs: &[CudaTensor]| {
        let y = cuda.activation(&inputs[0], Activation::Silu)?;
        let wide = cuda.concat_channels(&inputs[0], &y)?;
        let z = cuda.attention(&wide, &wide, &wide, 2, false)?;
        cuda.view(&z, 0, SHAPE)
    };
    for _ in 0..4 {
        cuda.repeat(state, &[Input::Host(SHAPE, &x)], &body, &mut out)?;
    }
    Ok(out)
}

/// Whichever allocation or launch of a job fails, that job fails, or did without, and the next one works.
#[test]
fn a_job_that_fails_leaves_a_session_that_works() {
    let Some(stand_in) = StandIn::take() else { return };
    type Job = dyn Fn(&Cuda) -> Result<Vec<f32>>;
    let repeated: &Job = &|cuda| repeated_work(cuda, &mut CudaRepeated::default());
    for (setting, expected_status) in
        [("fail_allocation", Status::DeviceOutOfMemory), ("fail_launch", Status::Device)]
    {
        for job in [&work as &Job, repeated] {
            let expected = job(&gpu(Precision::F16)).unwrap();
            let mut failed = 0;
            for n in 1.. {
                let cuda = gpu(Precision::F16);
                stand_in.set(setting, n);
                let result = job(&cuda);
                let came_to_it = stand_in.get(setting) == 0;
                stand_in.set(setting, 0);
                match result {
                    Ok(result) => assert!(result == expected),
                    Err(error) => {
                        assert_eq!(error.status(), expected_status, "{error}");
                        failed += 1;
                    }
                }
                assert!(job(&cuda).unwrap() == expected, "after {setting} {n}");
                drop(cuda);
                assert_eq!(stand_in.get("memory_in_use"), 0);
                if !came_to_it {
                    break;
                }
            }
            assert!(failed >= 3, "{setting}: {failed}");
        }
    }
}

/// A kernel that breaks the context: everything on that device is lost from there on, and quietly; another device and
/// its engines are not.
#[test]
fn a_lost_device_is_lost_for_all_its_engines_and_no_other() {
    let Some(stand_in) = StandIn::take() else { return };
    for in_graph in [false, true] {
        for n in 1..=3 {
            stand_in.set("devices", 2);
            let other = Cuda::new(&Options { index: 1, ..Options::default() }).unwrap();
            let expected = work(&other).unwrap();
            let cuda = gpu(Precision::F16);
            let session = cuda.session().unwrap();
            let kept = session.upload(SHAPE, &values(SHAPE)).unwrap();
            let mut state = CudaRepeated::default();
            if in_graph {
                repeated_work(&cuda, &mut state).unwrap();
            }
            stand_in.set("fault_kernel", n);
            let result = if in_graph { repeated_work(&cuda, &mut state) } else { work(&cuda) };
            let error = result.err().unwrap();
            assert_eq!(error.status(), Status::DeviceLost, "{error}");
            assert!(error.message().contains("Stand-in GPU 0 (GPU 0) is lost"), "{error}");

            for result in [work(&cuda), work(&session)] {
                assert_eq!(result.err().unwrap().status(), Status::DeviceLost);
            }
            assert_eq!(
                session.download(&kept, &mut vec![0.0; SHAPE.len()]).err().unwrap().status(),
                Status::DeviceLost
            );
            assert_eq!(cuda.session().err().unwrap().status(), Status::DeviceLost);
            // The driver's context is one for the whole process.
            assert_eq!(Cuda::new(&Options::default()).err().unwrap().status(), Status::DeviceLost);
            assert!(work(&other).unwrap() == expected);
            std::thread::spawn(move || drop((kept, state))).join().unwrap();
            drop((cuda, session));
            assert!(
                work(&gpu(Precision::F16)).unwrap() == expected,
                "the last engine took the context along"
            );
        }
    }
}

#[test]
fn a_device_that_does_not_exist_is_named() {
    let Some(stand_in) = StandIn::take() else { return };
    let open = |index| Cuda::new(&Options { index, ..Options::default() }).err().unwrap();
    assert_eq!(open(1).status(), Status::NotFound);
    assert_eq!(open(1).message(), "CUDA device 1 does not exist, there are 1");
    assert_eq!(open(usize::MAX).status(), Status::NotFound);
    stand_in.set("devices", 0);
    assert_eq!(open(0).status(), Status::Unsupported);
}

#[test]
fn an_old_gpu_is_not_supported() {
    let Some(stand_in) = StandIn::take() else { return };
    stand_in.set("architecture", 75);
    let error = Cuda::new(&Options::default()).err().unwrap();
    assert_eq!(error.status(), Status::Unsupported);
    assert_eq!(error.message(), "Stand-in GPU 0 (GPU 0) has compute capability 7.5, at least 8.0 is needed");
}

/// A GPU that is another all of a sudden, when its first kernels are loaded.
#[test]
fn kernels_that_do_not_fit_the_gpu_are_not_supported() {
    let Some(stand_in) = StandIn::take() else { return };
    let cuda = gpu(Precision::F16);
    stand_in.set("architecture", 75);
    let error = work(&cuda).err().unwrap();
    assert_eq!(error.status(), Status::Unsupported, "{error}");
    assert!(error.message().starts_with("the kernels attention are not for Stand-in GPU 0"), "{error}");
    stand_in.set("architecture", 80);
    work(&cuda).unwrap();
}

/// A head of 512 values needs more shared memory than some GPUs let a block have.
#[test]
fn too_little_shared_memory_is_not_supported() {
    let Some(stand_in) = StandIn::take() else { return };
    stand_in.set("architecture", 86);
    let cuda = gpu(Precision::F16);
    let shape = Shape::tokens(1, 2, 512);
    let x = cuda.upload(shape, &values(shape)).unwrap();
    // 98.5 KiB of 99.
    let y = cuda.attention(&x, &x, &x, 1, false).unwrap();
    assert_eq!(values_of(&cuda, &y).len(), shape.len());
    let channels = Shape::image(1, 1, 1, 9000);
    let x = cuda.upload(channels, &values(channels)).unwrap();
    let ones: Vec<u8> = [1.0f32; 9000].iter().flat_map(|x| x.to_le_bytes()).collect();
    let weight = Weight { dtype: crate::backend::DType::F32, shape: &[9000], bytes: &ones };
    let affine = cuda.prepare_affine(weight, weight).unwrap();
    let error = cuda.group_norm(&x, &affine, 1, 1e-5, false).err().unwrap();
    assert_eq!(error.status(), Status::Unsupported, "{error}");
}

#[test]
fn a_cancelled_job_stops_between_operations() {
    let Some(_turn) = Gpu::take() else { return };
    let cuda = gpu(Precision::F16);
    let cancel = Cancel::default();
    let job = cuda.with_cancel(&cancel);
    work(&job).unwrap();
    cancel.cancel();
    assert_eq!(work(&job).err().unwrap().status(), Status::Cancelled);
    work(&cuda).unwrap();
}
