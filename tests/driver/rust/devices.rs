//! Devices and contexts.

use cudarc::driver::{CudaContext, result, sys};

use crate::support::*;

fn driver_version() -> i32 {
    let mut version = 0;
    // SAFETY: writes the version.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().unwrap();
    version
}

#[test]
fn a_device_describes_itself() {
    let stand_in = StandIn::new();
    // SAFETY: only looks for the library.
    assert!(unsafe { sys::is_culib_present() });
    stand_in.set("devices", 2);
    stand_in.set("memory", 3 << 20);
    assert_eq!(CudaContext::device_count().unwrap(), 2);
    let first = CudaContext::new(0).unwrap();
    let second = CudaContext::new(1).unwrap();
    assert_ne!(first.name().unwrap(), second.name().unwrap());
    assert_ne!(first.uuid().unwrap().bytes, second.uuid().unwrap().bytes);
    assert_eq!(first.total_mem().unwrap(), 3 << 20);
    assert_eq!(first.compute_capability().unwrap(), (8, 0));
    stand_in.set("architecture", 120);
    assert_eq!(first.compute_capability().unwrap(), (12, 0));
}

#[test]
fn no_device_a_wrong_ordinal_and_an_old_driver() {
    let stand_in = StandIn::new();
    stand_in.set("devices", 0);
    expect_error(CudaContext::new(0), sys::CUresult::CUDA_ERROR_NO_DEVICE);
    stand_in.set("devices", 1);
    expect_error(CudaContext::new(1), sys::CUresult::CUDA_ERROR_INVALID_DEVICE);
    assert_eq!(driver_version(), 13000);
    stand_in.set("driver_version", 11040);
    assert_eq!(driver_version(), 11040);
}

#[test]
fn an_error_has_a_name() {
    let _stand_in = StandIn::new();
    let error = result::DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    assert_eq!(error.error_name().unwrap().to_str().unwrap(), "CUDA_ERROR_OUT_OF_MEMORY");
}

#[test]
fn the_last_release_ends_a_context_with_all_that_is_in_it() {
    let stand_in = StandIn::new();
    let gpu = stand_in.gpu();
    let again = CudaContext::new(0).unwrap();
    let leaked = gpu.stream.alloc_zeros::<u8>(1000).unwrap().leak();
    drop(gpu);
    assert_eq!(stand_in.get("memory_in_use"), 1000);
    drop(again);
    assert_eq!(stand_in.get("memory_in_use"), 0);
    let gpu = stand_in.gpu();
    // SAFETY: no memory of this context, which is what the call has to find out.
    let freed = unsafe { result::free_async(leaked, gpu.stream.cu_stream()) };
    expect_error(freed, sys::CUresult::CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn a_thread_without_a_context_can_do_nothing() {
    let stand_in = StandIn::new();
    let gpu = stand_in.gpu();
    let stream = gpu.stream.cu_stream() as usize;
    // SAFETY: the call fails.
    let waited = std::thread::spawn(move || unsafe { result::stream::synchronize(stream as sys::CUstream) });
    expect_error(waited.join().unwrap(), sys::CUresult::CUDA_ERROR_INVALID_CONTEXT);
}
