//! Streams do nothing that nobody waits for, so a missing wait shows.

use cudarc::driver::{DevicePtr, result, sys};

use crate::support::*;

/// Pinned memory without the waits that cudarc's own type has.
fn pinned(values: &[f32]) -> &'static mut [f32] {
    // SAFETY: as large as asked for; a context is current.
    unsafe {
        let memory = result::malloc_host(size_of_val(values), 0).unwrap().cast::<f32>();
        let pinned = std::slice::from_raw_parts_mut(memory, values.len());
        pinned.copy_from_slice(values);
        pinned
    }
}

#[test]
fn work_happens_when_it_is_waited_for_or_at_once() {
    for eager in [false, true] {
        let stand_in = StandIn::new();
        stand_in.set("eager", eager.into());
        let gpu = stand_in.gpu();
        let stream = gpu.stream.cu_stream();
        let (from, to) = (pinned(&[1.0; 8]), pinned(&[0.0; 8]));
        let on_device = gpu.stream.alloc_zeros::<f32>(8).unwrap();
        let (pointer, _) = on_device.device_ptr(&gpu.stream);
        // SAFETY: the memory outlives the copies.
        unsafe {
            result::memcpy_htod_async(pointer, from, stream).unwrap();
            from.fill(2.0);
            result::memcpy_dtoh_async(to, pointer, stream).unwrap();
        }
        assert_eq!(to[0], if eager { 1.0 } else { 0.0 });
        gpu.stream.synchronize().unwrap();
        assert_eq!(to[0], if eager { 1.0 } else { 2.0 }, "pinned memory that was written too early");
        assert_eq!(stand_in.get("pinned_allocations"), 2);
        // SAFETY: not used any more.
        unsafe {
            result::free_host(from.as_mut_ptr().cast()).unwrap();
            result::free_host(to.as_mut_ptr().cast()).unwrap();
        }
    }
}

#[test]
fn a_stream_waits_for_another_only_where_it_is_told_to() {
    for told in [false, true] {
        let stand_in = StandIn::new();
        let gpu = stand_in.gpu();
        let other = gpu.context.new_stream().unwrap();
        // SAFETY: written before it is read, if told.
        let mut memory = unsafe { gpu.stream.alloc::<f32>(4) }.unwrap();
        gpu.stream.memcpy_htod(&[1.0f32, 2.0, 3.0, 4.0], &mut memory).unwrap();
        let written = gpu.stream.record_event(None).unwrap();
        gpu.stream.memset_zeros(&mut memory).unwrap();
        if told {
            other.wait(&written).unwrap();
        }
        let read = other.clone_dtoh(&memory).unwrap();
        if told {
            // Up to the event and no further.
            assert_eq!(read, [1.0, 2.0, 3.0, 4.0]);
        } else {
            assert!(read[0].is_nan());
        }
        // The copies that wait do so for the null stream alone.
        let mut blocking = [0.0f32; 4];
        let (pointer, _) = memory.device_ptr(&gpu.stream);
        // SAFETY: as large.
        unsafe { result::memcpy_dtoh_sync(&mut blocking, pointer) }.unwrap();
        assert_ne!(blocking, [0.0; 4]);
        gpu.context.synchronize().unwrap();
        // SAFETY: as large.
        unsafe { result::memcpy_dtoh_sync(&mut blocking, pointer) }.unwrap();
        assert_eq!(blocking, [0.0; 4]);
    }
}

#[test]
fn events_tell_when_and_polling_ends() {
    let stand_in = StandIn::new();
    let gpu = stand_in.gpu();
    let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
    let start = gpu.stream.record_event(timed).unwrap();
    let memory = gpu.stream.alloc_zeros::<f32>(4).unwrap();
    let end = gpu.stream.record_event(timed).unwrap();
    let mut polls = 0;
    while !end.is_complete() {
        polls += 1;
    }
    assert_eq!(polls, 3);
    assert!(start.elapsed_ms(&end).unwrap() >= 0.0);
    let untimed = gpu.stream.record_event(None).unwrap();
    expect_error(start.elapsed_ms(&untimed), sys::CUresult::CUDA_ERROR_INVALID_HANDLE);
    drop(memory);
}

#[test]
fn handles_that_are_no_more_are_found_out() {
    let stand_in = StandIn::new();
    let gpu = stand_in.gpu();
    let gone = gpu.context.new_stream().unwrap().cu_stream();
    // SAFETY: the calls find out.
    unsafe {
        expect_error(result::stream::synchronize(gone), sys::CUresult::CUDA_ERROR_INVALID_HANDLE);
        expect_error(
            result::event::destroy(std::ptr::dangling_mut()),
            sys::CUresult::CUDA_ERROR_INVALID_HANDLE,
        );
    }
}
