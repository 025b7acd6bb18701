//! What every backend promises of views and of repeated work.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::cpu::Cpu;
use super::reference::Reference;
use super::*;
use crate::util::error::Status;

fn values<B: Backend>(b: &B, x: &B::Tensor) -> Vec<f32> {
    let mut values = vec![f32::NAN; x.shape().len()];
    b.download(x, &mut values).unwrap();
    values
}

fn check_views<B: Backend>(b: &B) {
    let numbers: Vec<f32> = (0..24).map(|i| i as f32).collect();
    let x = b.upload(Shape::image(2, 2, 3, 2), &numbers).unwrap();
    let tail = b.view(&x, 12, Shape::vector(3, 4)).unwrap();
    let inner = b.view(&tail, 4, Shape::tokens(1, 2, 3)).unwrap();
    let doubled = b.add(&tail, &tail).unwrap();
    // A view outlives what it looks at, and the memory is not given to what comes after.
    drop((x, tail));
    let other = b.upload(Shape::image(2, 2, 3, 2), &[-1.0; 24]).unwrap();
    assert_eq!((inner.shape(), values(b, &inner)), (Shape::tokens(1, 2, 3), numbers[16..22].to_vec()));
    assert_eq!(values(b, &doubled), numbers[12..].iter().map(|x| 2.0 * x).collect::<Vec<_>>());
    assert_eq!(values(b, &other), [-1.0; 24]);
    assert!(b.view(&other, 0, other.shape()).is_ok());
    for (offset, len) in [(0, 25), (1, 24), (24, 1), (usize::MAX, 2)] {
        let error = b.view(&other, offset, Shape::vector(1, len)).err().unwrap();
        assert_eq!(error.status(), Status::Internal, "{error}");
    }
    // The end is that of the view, not of the memory behind it.
    assert!(b.view(&inner, 4, Shape::vector(1, 3)).is_err());
}

fn check_repeat<B: Backend>(b: &B) {
    let shape = Shape::vector(2, 3);
    let two = b.upload(shape, &[2.0; 6]).unwrap();
    let body = |inputs: &[B::Tensor]| {
        let [host, device] = inputs else { panic!("{} inputs", inputs.len()) };
        b.add(&b.add(host, device)?, &two)
    };
    let mut state = B::Repeated::default();
    let mut out = [f32::NAN; 6];
    for call in 0..4 {
        let device = b.upload(shape, &[10.0 * call as f32; 6]).unwrap();
        let host = [call as f32, 1.0, 2.0, 3.0, 4.0, 5.0];
        let inputs = [Input::Host(shape, &host), Input::Device(&device)];
        b.repeat(&mut state, &inputs, &body, &mut out).unwrap();
        assert_eq!(out, host.map(|x| x + 10.0 * call as f32 + 2.0), "call {call}");
        // The inputs are unharmed, and an error does no more than fail.
        assert_eq!(values(b, &device), [10.0 * call as f32; 6]);
        let failing = |_: &[B::Tensor]| b.view(&two, 6, shape);
        assert!(b.repeat(&mut B::Repeated::default(), &inputs, &failing, &mut out).is_err());
    }
}

#[test]
fn views_share_and_stay() {
    check_views(&Reference::default());
    check_views(&Cpu::new(1, None).unwrap());
}

#[test]
fn repeated_work_reads_its_inputs_anew() {
    check_repeat(&Reference::default());
    check_repeat(&Cpu::new(2, None).unwrap());
}

/// 4 MiB are taken once, however many views there are of them.
#[test]
fn a_view_takes_no_memory_on_the_cpu() {
    let b = Cpu::new(1, None).unwrap();
    let x = b.upload(Shape::vector(16, 1 << 16), &vec![0.0; 1 << 20]).unwrap();
    let used = b.memory_used();
    let views: Vec<_> = (0..16).map(|i| b.view(&x, i << 16, Shape::vector(1, 1 << 16)).unwrap()).collect();
    assert_eq!((views.len(), b.memory_used()), (16, used));
}
