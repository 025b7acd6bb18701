//! Memory: limits, failures, what must not be touched.

use cudarc::driver::{result, sys};

use crate::support::*;

#[test]
fn bytes_arrive_and_come_back() {
    let stand_in = StandIn::new();
    let gpu = stand_in.gpu();
    let values = numbers(1001, 1);
    let on_device = gpu.stream.clone_htod(&values).unwrap();
    let copy = gpu.stream.clone_dtod(&on_device).unwrap();
    assert_eq!(gpu.stream.clone_dtoh(&copy).unwrap(), values);
    let zeros = gpu.stream.alloc_zeros::<f32>(33).unwrap();
    assert_eq!(gpu.stream.clone_dtoh(&zeros).unwrap(), [0.0; 33]);
    // SAFETY: what is read from fresh memory is the point.
    let fresh = unsafe { gpu.stream.alloc::<f32>(33) }.unwrap();
    assert!(gpu.stream.clone_dtoh(&fresh).unwrap().iter().all(|x| x.is_nan()));
    let mut keep = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device exists, and the attribute is a u64.
    unsafe {
        let pool = result::device::get_default_mem_pool(gpu.context.cu_device()).unwrap();
        result::mem_pool::set_attribute(pool, attribute, (&raw mut keep).cast()).unwrap();
    }
}

/// With a pool and without one.
#[test]
fn memory_runs_out_and_is_there_again() {
    for pools in [1, 0] {
        let stand_in = StandIn::new();
        stand_in.set("pools", pools);
        stand_in.set("memory", 1 << 20);
        let gpu = stand_in.gpu();
        assert_eq!(gpu.context.has_async_alloc(), pools == 1);
        let held = gpu.stream.alloc_zeros::<u8>(600_000).unwrap();
        assert_eq!(gpu.context.mem_get_info().unwrap(), ((1 << 20) - 600_000, 1 << 20));
        expect_error(gpu.stream.alloc_zeros::<u8>(600_000), sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        // The stream has not come to the release, so an allocation has to wait for it.
        drop(held);
        gpu.stream.alloc_zeros::<u8>(1 << 20).unwrap();
        gpu.stream.synchronize().unwrap();
        assert_eq!(stand_in.get("memory_in_use"), 0);
        assert_eq!(stand_in.get("peak_memory"), 1 << 20);
        assert_eq!((stand_in.get("allocations"), stand_in.get("frees")), (2, 2));
    }
}

#[test]
fn the_allocation_that_a_test_names_fails() {
    let stand_in = StandIn::new();
    let gpu = stand_in.gpu();
    stand_in.set("fail_allocation", 2);
    let first = gpu.stream.alloc_zeros::<u8>(10);
    let second = gpu.stream.alloc_zeros::<u8>(10);
    let third = gpu.stream.alloc_zeros::<u8>(10);
    assert!(first.is_ok() && third.is_ok());
    expect_error(second, sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY);
}

#[test]
fn copies_outside_of_memory_are_refused() {
    let stand_in = StandIn::new();
    stand_in.set("devices", 2);
    let (gpu, other) = (stand_in.gpu(), stand_in.gpu_at(1));
    let elsewhere = other.stream.alloc_zeros::<u8>(1).unwrap().leak();
    gpu.context.bind_to_thread().unwrap();
    let stream = gpu.stream.cu_stream();
    let invalid = sys::CUresult::CUDA_ERROR_INVALID_VALUE;
    let pointer = gpu.stream.alloc_zeros::<u8>(100).unwrap().leak();
    let mut bytes = [0u8; 101];
    // SAFETY: the calls find out that they must not be done.
    unsafe {
        expect_error(result::memcpy_htod_async(pointer, &bytes, stream), invalid);
        expect_error(result::memcpy_dtoh_async(&mut bytes, pointer, stream), invalid);
        expect_error(result::memcpy_dtoh_sync(&mut bytes[..2], pointer + 99), invalid);
        expect_error(result::memset_d8_async(pointer, 0, 101, stream), invalid);
        expect_error(result::memset_d8_async(pointer - 1, 0, 1, stream), invalid);
        expect_error(result::memset_d8_async(elsewhere, 0, 1, stream), invalid);
        result::memset_d8_async(pointer + 1, 0, 99, stream).unwrap();
        result::free_async(pointer, stream).unwrap();
        // Although the stream has not come to the release.
        expect_error(result::memset_d8_async(pointer, 0, 1, stream), invalid);
        expect_error(result::free_async(pointer, stream), invalid);
    }
}
