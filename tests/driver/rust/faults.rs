//! Errors that tests ask for, and mistakes of kernels.

use std::process::Command;

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaSlice, DriverError, PushKernelArg};

use crate::support::*;

fn silu(gpu: &Gpu, x: &mut CudaSlice<f32>, count: u64) -> Result<(), DriverError> {
    let kernel = gpu.kernel("silu_f32");
    let mut launch = gpu.stream.launch_builder(&kernel);
    launch.arg(&*x).arg(&*x).arg(&count);
    // SAFETY: the parameters are the kernel's.
    unsafe { launch.launch(config((1, 1, 1), 256, 0)) }.map(|_| ())
}

#[test]
fn a_launch_fails_once() {
    let stand_in = StandIn::new();
    let gpu = stand_in.gpu();
    let mut x = gpu.stream.alloc_zeros::<f32>(8).unwrap();
    stand_in.set("fail_launch", 2);
    silu(&gpu, &mut x, 8).unwrap();
    expect_error(silu(&gpu, &mut x, 8), CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    silu(&gpu, &mut x, 8).unwrap();
    gpu.stream.synchronize().unwrap();
    assert_eq!(stand_in.get("kernels"), 2);
}

/// A kernel that breaks its context, launched or in a graph: the error comes at the next wait, stays until the context
/// ends, and is that device's alone.
#[test]
fn a_broken_context_stays_broken() {
    let lost = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
    for in_graph in [false, true] {
        let stand_in = StandIn::new();
        stand_in.set("devices", 2);
        let (gpu, other) = (stand_in.gpu(), stand_in.gpu_at(1));
        let mut x = gpu.stream.alloc_zeros::<f32>(8).unwrap();
        let mut y = other.stream.alloc_zeros::<f32>(8).unwrap();
        gpu.context.bind_to_thread().unwrap();
        stand_in.set("fault_kernel", 2);
        if in_graph {
            gpu.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).unwrap();
            silu(&gpu, &mut x, 8).unwrap();
            let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD;
            let graph = gpu.stream.end_capture(flags).unwrap().unwrap();
            (0..3).for_each(|_| graph.launch().unwrap());
        } else {
            (0..3).for_each(|_| silu(&gpu, &mut x, 8).unwrap());
        }
        expect_error(gpu.stream.synchronize(), lost);
        assert_eq!(stand_in.get("kernels"), 1);
        expect_error(gpu.stream.alloc_zeros::<f32>(8), lost);
        expect_error(gpu.stream.clone_dtoh(&x), lost);
        expect_error(gpu.context.synchronize(), lost);
        expect_error(gpu.context.mem_get_info(), lost);

        other.context.bind_to_thread().unwrap();
        silu(&other, &mut y, 8).unwrap();
        assert_eq!(other.stream.clone_dtoh(&y).unwrap(), [0.0; 8]);
        drop((x, gpu));
        let gpu = stand_in.gpu();
        let mut x = gpu.stream.alloc_zeros::<f32>(8).unwrap();
        silu(&gpu, &mut x, 8).unwrap();
        assert_eq!(gpu.stream.clone_dtoh(&x).unwrap(), [0.0; 8]);
    }
}

/// Runs this test in a process of its own, since a kernel's mistake ends it.
#[test]
fn a_kernel_that_reads_too_far_ends_the_process() {
    const CHILD: &str = "DRIVER_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let stand_in = StandIn::new();
        let gpu = stand_in.gpu();
        let mut x = gpu.stream.alloc_zeros::<f32>(64).unwrap();
        silu(&gpu, &mut x, 65).unwrap();
        gpu.stream.synchronize().unwrap();
        return;
    }
    let test = "faults::a_kernel_that_reads_too_far_ends_the_process";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert_eq!(child.status.code(), Some(70), "{said}");
    assert!(said.contains("out-of-bounds access") && said.contains("silu_f32"), "{said}");
}

/// A setting that is misspelt would go unnoticed.
#[test]
fn a_setting_that_is_none_ends_the_process() {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "devices::an_error_has_a_name"])
        .env("STANDIN_DEVICE", "2")
        .output()
        .unwrap();
    assert_eq!(child.status.code(), Some(70));
    assert!(String::from_utf8_lossy(&child.stderr).contains("STANDIN_DEVICE=2"));
}
