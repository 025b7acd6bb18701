//! Capture and replay.

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode, CUstreamCaptureStatus};
use cudarc::driver::{CudaFunction, CudaGraph, CudaSlice, DevicePtr, DriverError, PushKernelArg, result};

use crate::support::*;

const THREAD_LOCAL: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
const GLOBAL: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;

fn end(gpu: &Gpu) -> Result<CudaGraph, DriverError> {
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    gpu.stream.end_capture(flags).map(|graph| graph.expect("a graph"))
}

/// y = silu(x), n = 100.
fn silu(
    gpu: &Gpu,
    kernel: &CudaFunction,
    x: &CudaSlice<f32>,
    y: &mut CudaSlice<f32>,
) -> Result<(), DriverError> {
    let mut launch = gpu.stream.launch_builder(kernel);
    launch.arg(x).arg(y).arg(&100u64);
    // SAFETY: the parameters are the kernel's.
    unsafe { launch.launch(config((1, 1, 1), 256, 0)) }.map(|_| ())
}

fn expected(values: &[f32]) -> Vec<f64> {
    let silu = |x: f64| x / (1.0 + (-x).exp());
    values.iter().map(|&x| silu(silu(f64::from(x)))).collect()
}

#[test]
fn a_captured_step_is_replayed_without_the_driver() {
    for eager in [0, 1] {
        let stand_in = StandIn::new();
        stand_in.set("eager", eager);
        let gpu = stand_in.gpu();
        let kernel = gpu.kernel("silu_f32");
        let first = numbers(100, 1);
        let mut x = gpu.stream.clone_htod(&first).unwrap();
        let mut middle = gpu.stream.alloc_zeros::<f32>(100).unwrap();
        let mut y = gpu.stream.alloc_zeros::<f32>(100).unwrap();

        gpu.stream.begin_capture(THREAD_LOCAL).unwrap();
        silu(&gpu, &kernel, &x, &mut middle).unwrap();
        silu(&gpu, &kernel, &middle, &mut y).unwrap();
        let active = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE;
        assert_eq!(gpu.stream.capture_status().unwrap(), active);
        let graph = end(&gpu).unwrap();
        graph.upload().unwrap();
        assert_eq!((stand_in.get("launches"), stand_in.get("kernels")), (2, 0));
        assert_eq!(gpu.stream.clone_dtoh(&y).unwrap(), [0.0; 100]);

        let allocations = stand_in.get("allocations");
        for values in [first, numbers(100, 2)] {
            gpu.stream.memcpy_htod(&values, &mut x).unwrap();
            graph.launch().unwrap();
            expect_close(gpu.stream.clone_dtoh(&y).unwrap(), &expected(&values), 4e-6);
        }
        assert_eq!((stand_in.get("launches"), stand_in.get("kernels")), (2, 4));
        assert_eq!((stand_in.get("graph_launches"), stand_in.get("allocations")), (2, allocations));
    }
}

/// Each of these is refused in a capture, and spoils it.
#[test]
fn a_capture_refuses_to_allocate_and_to_wait() {
    let stand_in = StandIn::new();
    let gpu = stand_in.gpu();
    let kept = gpu.stream.alloc_zeros::<f32>(100).unwrap();
    type Call<'a> = &'a dyn Fn() -> Result<(), DriverError>;
    let refusals: [(&str, Call); 9] = [
        ("alloc", &|| gpu.stream.alloc_zeros::<f32>(4).map(|_| ())),
        // SAFETY: fails.
        ("malloc", &|| unsafe { result::malloc_sync(4) }.map(|_| ())),
        // SAFETY: fails.
        ("pinned", &|| unsafe { result::malloc_host(4, 0) }.map(|_| ())),
        // SAFETY: fails.
        ("from pageable memory", &|| unsafe {
            result::memcpy_htod_async(kept.device_ptr(&gpu.stream).0, &[1.0f32], gpu.stream.cu_stream())
        }),
        ("to pageable memory", &|| gpu.stream.clone_dtoh(&kept).map(|_| ())),
        ("synchronize", &|| gpu.stream.synchronize()),
        ("synchronize context", &|| gpu.context.synchronize()),
        ("load module", &|| gpu.context.load_module(cudarc::nvrtc::Ptx::from_src(IMAGE)).map(|_| ())),
        // SAFETY: fails.
        ("blocking copy", &|| unsafe { result::memcpy_dtoh_sync(&mut [0u8], 0) }),
    ];
    for (name, call) in refusals {
        gpu.stream.begin_capture(GLOBAL).unwrap();
        assert_eq!(call(), Err(DriverError(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)), "{name}");
        let status = gpu.stream.capture_status().unwrap();
        assert_eq!(status, CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED, "{name}");
        let ended = gpu.stream.end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD);
        assert!(matches!(ended, Err(DriverError(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED))), "{name}");
    }
    // And the stream is as good as before.
    assert_eq!(gpu.stream.clone_dtoh(&kept).unwrap(), [0.0; 100]);
}

#[test]
fn a_capture_neither_waits_for_what_is_outside_nor_the_reverse() {
    let stand_in = StandIn::new();
    let gpu = stand_in.gpu();
    let outside = gpu.stream.record_event(None).unwrap();
    let other = gpu.context.new_stream().unwrap();
    gpu.stream.begin_capture(THREAD_LOCAL).unwrap();
    let inside = gpu.stream.record_event(None).unwrap();
    gpu.stream.wait(&inside).unwrap();
    expect_error(inside.try_is_complete(), CUresult::CUDA_ERROR_CAPTURED_EVENT);
    expect_error(inside.synchronize(), CUresult::CUDA_ERROR_CAPTURED_EVENT);
    expect_error(other.wait(&inside), CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    end(&gpu).unwrap();
    gpu.stream.begin_capture(THREAD_LOCAL).unwrap();
    expect_error(gpu.stream.wait(&outside), CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    expect_error(end(&gpu).map(|_| ()), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

/// A capture is its thread's: others may allocate unless it is a global one.
#[test]
fn other_threads_go_on() {
    let stand_in = StandIn::new();
    let gpu = stand_in.gpu();
    let allocate_elsewhere = || {
        std::thread::scope(|scope| {
            let allocate = scope.spawn(|| {
                gpu.context.bind_to_thread()?;
                // SAFETY: freed at once.
                unsafe { result::malloc_sync(4).and_then(|pointer| result::free_sync(pointer)) }
            });
            allocate.join().unwrap()
        })
    };
    gpu.stream.begin_capture(THREAD_LOCAL).unwrap();
    allocate_elsewhere().unwrap();
    std::thread::scope(|scope| {
        let ended = scope.spawn(|| end(&gpu).map(|_| ()));
        expect_error(ended.join().unwrap(), CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    });
    end(&gpu).unwrap();
    gpu.stream.begin_capture(GLOBAL).unwrap();
    expect_error(allocate_elsewhere(), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    expect_error(end(&gpu).map(|_| ()), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

/// Unless the thread says that it does not care, or only for its own.
#[test]
fn a_thread_may_allocate_in_spite_of_captures() {
    let stand_in = StandIn::new();
    let gpu = stand_in.gpu();
    let relaxed = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    let exchange = |mut mode: CUstreamCaptureMode| {
        // SAFETY: writes an enumeration's value.
        unsafe { cudarc::driver::sys::cuThreadExchangeStreamCaptureMode(&raw mut mode) }.result().unwrap();
        mode
    };
    // SAFETY: freed at once.
    let allocate = || unsafe { result::malloc_sync(4).and_then(|pointer| result::free_sync(pointer)) };
    for mode in [THREAD_LOCAL, relaxed] {
        gpu.stream.begin_capture(GLOBAL).unwrap();
        std::thread::scope(|scope| {
            let elsewhere = scope.spawn(|| {
                gpu.context.bind_to_thread()?;
                assert_eq!((exchange(mode), exchange(mode)), (GLOBAL, mode));
                allocate()
            });
            elsewhere.join().unwrap().unwrap();
        });
        exchange(mode);
        let own = allocate();
        exchange(GLOBAL);
        if mode == relaxed {
            own.unwrap();
            end(&gpu).unwrap();
        } else {
            expect_error(own, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
            expect_error(end(&gpu).map(|_| ()), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        }
    }
}
