//! Every operation on the stand-in driver, or a real GPU, against the naive `f64` backend; what fails, and what goes on after.
#![allow(clippy::unwrap_used, clippy::panic)]

mod cases;
mod faults;
mod memory;
mod repeat;

use super::stand_in::{Gpu, StandIn};
use super::*;
use crate::util::error::Status;

/// The GPU, with its context bound, as operations do it first.
fn gpu(precision: Precision) -> Cuda {
    let cuda = Cuda::new(&Options { precision, ..Options::default() }).unwrap();
    cuda.device.bind().unwrap();
    cuda
}

/// `n` images of values between -1 and 1.
fn values(shape: Shape) -> Vec<f32> {
    (0..shape.len()).map(|i| ((i * 37 + i / 7) % 256) as f32 / 128.0 - 1.0).collect()
}

fn values_of(cuda: &Cuda, x: &CudaTensor) -> Vec<f32> {
    let mut values = vec![0.0; x.shape().len()];
    cuda.download(x, &mut values).unwrap();
    values
}

/// A log, and what it was told.
fn listener() -> (Log, Arc<Mutex<Vec<String>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&heard);
    let hear = move |_: crate::util::log::Level, message: &str| sink.lock().unwrap().push(message.to_owned());
    (Log::new(crate::util::log::Level::Warn, Arc::new(hear)), heard)
}
