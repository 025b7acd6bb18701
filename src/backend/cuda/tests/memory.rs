//! The pool and the account.

use super::*;
use crate::backend::DType;

const MIB: usize = 1 << 20;

#[test]
fn blocks_are_reused_and_counted() {
    let Some(stand_in) = StandIn::take() else { return };
    let cuda = gpu(Precision::F16);
    let take = |bytes| cuda.scratch(bytes, "x").unwrap();
    let first = take(3 * MIB);
    let place = first.pointer();
    assert_eq!(cuda.memory_used(), 3 * MIB as u64);
    drop(first);
    let second = take(2 * MIB);
    assert_eq!(second.pointer(), place, "the free block fits");
    let third = take(MIB);
    assert_eq!((cuda.memory_used(), cuda.memory_peak()), (4 * MIB as u64, 4 * MIB as u64));
    drop((second, third));
    let small = take(MIB / 4);
    assert_eq!(cuda.memory_used(), (4 * MIB + MIB / 4) as u64, "no large block for a small need");
    assert_eq!(stand_in.get("memory_in_use"), cuda.memory_used());
    drop((small, cuda));
    assert_eq!(stand_in.get("memory_in_use"), 0);
}

#[test]
fn the_limit_frees_reserves_first_and_then_fails() {
    let Some(_stand_in) = StandIn::take() else { return };
    let limit = Some(8 * MIB as u64);
    let cuda = Cuda::new(&Options { memory_limit: limit, ..Options::default() }).unwrap();
    let other = cuda.session().unwrap();
    // Work of the other session on memory that it has given back.
    let shape = Shape::vector(1, 5 * MIB / 4);
    let x = cuda.upload(shape, &values(shape)).unwrap();
    drop(cuda.add(&x, &x).unwrap());
    drop(x);
    let kept = other.scratch(6 * MIB, "b").unwrap();
    assert_eq!(cuda.memory_used(), 6 * MIB as u64);
    let error = cuda.scratch(3 * MIB, "conv2d").err().unwrap();
    assert_eq!(error.status(), Status::DeviceOutOfMemory);
    assert_eq!(
        error.message(),
        "conv2d needs 3 MiB of Stand-in GPU 0 (GPU 0), 6 of the limit of 8 MiB in use"
    );
    drop(kept);
    cuda.scratch(8 * MIB, "c").unwrap();
    assert_eq!(cuda.memory_limit(), limit);
}

#[test]
fn the_memory_of_the_gpu_is_a_limit_too() {
    let Some(stand_in) = StandIn::take() else { return };
    stand_in.set("memory", 8 * MIB as u64);
    let cuda = gpu(Precision::F16);
    let other = cuda.session().unwrap();
    drop(other.scratch(5 * MIB, "a").unwrap());
    let kept = cuda.scratch(6 * MIB, "b").unwrap();
    let error = cuda.scratch(3 * MIB, "conv2d").err().unwrap();
    assert_eq!(error.status(), Status::DeviceOutOfMemory);
    assert_eq!(error.message(), "conv2d needs 3 MiB of Stand-in GPU 0 (GPU 0), 6 of 8 MiB in use");
    assert_eq!(cuda.memory_used(), 6 * MIB as u64);
    drop(kept);
    for bytes in [usize::MAX, usize::MAX / 2, 1 << 52] {
        assert_eq!(cuda.scratch(bytes, "x").err().unwrap().status(), Status::DeviceOutOfMemory);
    }
}

/// Tensors, sessions and weights may end on any thread, and in any order.
#[test]
fn everything_may_be_dropped_anywhere() {
    let Some(stand_in) = StandIn::take() else { return };
    let handles = stand_in.get("blas_handles");
    let cuda = gpu(Precision::F16);
    let session = cuda.session().unwrap();
    let shape = Shape::vector(1, 1000);
    let x = session.upload(shape, &values(shape)).unwrap();
    let y = session.add(&x, &x).unwrap();
    let part = Weight { dtype: DType::F32, shape: &[2], bytes: &[0; 8] };
    let weight = cuda.prepare_affine(part, part).unwrap();
    drop(session);
    std::thread::spawn(move || drop((weight, y))).join().unwrap();
    assert_ne!(stand_in.get("memory_in_use"), 0);
    std::thread::spawn(move || drop(x)).join().unwrap();
    assert_eq!(stand_in.get("memory_in_use"), 0);
    // The engine itself, before what it made, and at last on a thread that has no context.
    let x = cuda.upload(shape, &values(shape)).unwrap();
    drop(cuda);
    assert_eq!(stand_in.get("blas_handles"), handles + 1);
    std::thread::spawn(move || drop(x)).join().unwrap();
    assert_eq!((stand_in.get("memory_in_use"), stand_in.get("blas_handles")), (0, handles));
}

/// Two sessions at a time, each on its own thread, and both against the limit.
#[test]
fn sessions_run_side_by_side() {
    let Some(_turn) = Gpu::take() else { return };
    let limit = Some(4 * MIB as u64);
    let cuda = Cuda::new(&Options { memory_limit: limit, ..Options::default() }).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..2usize {
            let session = cuda.session().unwrap();
            scope.spawn(move || {
                for round in 0..20 {
                    let shape = Shape::vector(1, 100_000 + 40_000 * (round % 5) + thread);
                    let x = session.upload(shape, &values(shape)).unwrap();
                    let y = session.add(&x, &x).unwrap();
                    let expected: Vec<f32> = values(shape).into_iter().map(|x| x + x).collect();
                    assert!(values_of(&session, &y) == expected);
                }
            });
        }
    });
    assert!(cuda.memory_peak() <= 4 * MIB as u64);
}

/// A session moves from thread to thread.
#[test]
fn a_session_moves_between_threads() {
    let Some(_turn) = Gpu::take() else { return };
    let cuda = gpu(Precision::F32);
    let shape = Shape::vector(1, 10);
    let x = cuda.upload(shape, &values(shape)).unwrap();
    let sum = std::thread::spawn(move || {
        let y = cuda.add(&x, &x).unwrap();
        values_of(&cuda, &y)
    });
    let expected: Vec<f32> = values(shape).into_iter().map(|x| x + x).collect();
    assert_eq!(sum.join().unwrap(), expected);
}
