//! [`Backend::repeat`]: a step is recorded as a CUDA graph when it comes for the second time, and replayed from then on.
//!
//! A graph has no memory of its own: it goes on using the addresses that its kernels were recorded with. So inputs are
//! copied to tensors that stay, and what the step took from the pool while it was recorded stays with the recording.

use std::sync::Arc;

use cudarc::driver::result;
use cudarc::driver::sys::{CUgraph, CUgraphExec, CUgraphInstantiate_flags};

use super::device::Device;
use super::pool::RecordedMemory;
use super::{Cuda, CudaTensor};
use crate::backend::{Backend, Input, Shape, Tensor};
use crate::util::error::{Result, Status, bail};

/// How often a step is run for the sake of memory that was missing when it was recorded. Recording takes no new memory,
/// and a step may find its way into the pool's blocks in another order than the one before.
const ATTEMPTS: u32 = 3;

/// What [`Backend::repeat`] keeps from one call to the next. It may be dropped on any thread.
#[derive(Default)]
pub struct CudaRepeated {
    /// Copies of the inputs, in tensors that are there for all calls; the first makes them.
    inputs: Option<Vec<CudaTensor>>,
    recording: Option<Recording>,
    /// Recordings that failed.
    failures: u32,
}

/// A step to be replayed. Fields are dropped in their order: the graph before the memory that it uses.
struct Recording {
    graph: Graph,
    /// In memory of the recording, mostly.
    result: CudaTensor,
    _memory: RecordedMemory,
}

/// An executable graph.
struct Graph {
    graph: CUgraphExec,
    device: Arc<Device>,
}

// SAFETY: a handle of the driver, which one thread at a time uses.
unsafe impl Send for Graph {}

impl Graph {
    /// Of what was recorded, which this call uses up. The context is bound.
    fn new(device: &Arc<Device>, recorded: CUgraph) -> Result<Self> {
        if recorded.is_null() {
            bail!(Device, "recording: nothing was recorded on {}", device.name());
        }
        // SAFETY: the graph was just recorded.
        let graph = unsafe { result::graph::instantiate(recorded, CUgraphInstantiate_flags(0)) };
        // SAFETY: as above; nobody else has it.
        let _ = unsafe { result::graph::destroy(recorded) };
        Ok(Self { graph: device.check("recording", graph)?, device: Arc::clone(device) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if let Some(_callers) = self.device.bind_to_drop() {
            // SAFETY: made in `new`, destroyed once. A launch that is not done yet is done nevertheless.
            let _ = unsafe { result::graph::exec_destroy(self.graph) };
        }
    }
}

pub(super) fn repeat(
    cuda: &Cuda,
    state: &mut CudaRepeated,
    inputs: &[Input<'_, CudaTensor>],
    body: &dyn Fn(&[CudaTensor]) -> Result<CudaTensor>,
    out: &mut [f32],
) -> Result<()> {
    let result = attempt(cuda, state, inputs, body, out);
    if result.is_err() {
        *state = CudaRepeated::default();
    }
    result
}

fn attempt(
    cuda: &Cuda,
    state: &mut CudaRepeated,
    inputs: &[Input<'_, CudaTensor>],
    body: &dyn Fn(&[CudaTensor]) -> Result<CudaTensor>,
    out: &mut [f32],
) -> Result<()> {
    cuda.start()?;
    let places = match state.inputs.take() {
        Some(places) => {
            place(cuda, &places, inputs)?;
            if state.recording.is_none() && state.failures < ATTEMPTS {
                record(cuda, state, &places, body)?;
            }
            places
        }
        None => {
            let make = |input: &Input<'_, CudaTensor>| cuda.tensor(shape_of(input), "a step's input");
            let places = inputs.iter().map(make).collect::<Result<Vec<_>>>()?;
            place(cuda, &places, inputs)?;
            places
        }
    };
    match &state.recording {
        Some(recording) => {
            // SAFETY: the graph exists, and the memory that it uses is the recording's.
            let launched = unsafe { result::graph::launch(recording.graph.graph, cuda.pool.stream.handle()) };
            cuda.device.check("a recorded step", launched)?;
            cuda.download(&recording.result, out)?;
        }
        None => cuda.download(&body(&places)?, out)?,
    }
    state.inputs = Some(places);
    Ok(())
}

fn shape_of(input: &Input<'_, CudaTensor>) -> Shape {
    match *input {
        Input::Host(shape, _) => shape,
        Input::Device(tensor) => tensor.shape(),
    }
}

/// Copies the inputs to their places.
fn place(cuda: &Cuda, places: &[CudaTensor], inputs: &[Input<'_, CudaTensor>]) -> Result<()> {
    if !inputs.iter().map(shape_of).eq(places.iter().map(Tensor::shape)) {
        bail!(Internal, "a step that was repeated with inputs of other shapes");
    }
    for (place, input) in places.iter().zip(inputs) {
        match *input {
            Input::Host(shape, values) if values.len() == shape.len() => cuda.write(place, values)?,
            Input::Host(shape, values) => bail!(Internal, "repeat: {} values for {shape}", values.len()),
            Input::Device(tensor) => {
                let bytes = tensor.shape.len() * cuda.device.precision.size();
                // SAFETY: both tensors have the shape's values, and nothing but this function writes to places.
                unsafe { cuda.copy(tensor.pointer(), place.pointer(), bytes, "a step's input") }?;
            }
        }
    }
    Ok(())
}

/// Records the step. If that fails the step is to be run as it is, which will tell what is wrong with it; only where
/// that makes no sense is it an error.
fn record(
    cuda: &Cuda,
    state: &mut CudaRepeated,
    places: &[CudaTensor],
    body: &dyn Fn(&[CudaTensor]) -> Result<CudaTensor>,
) -> Result<()> {
    let recording = cuda.pool.begin_recording().and_then(|capture| {
        let result = body(places);
        let (recorded, memory) = capture.end();
        let graph = recorded.and_then(|recorded| Graph::new(&cuda.device, recorded));
        // An operation's error says more than that of the capture that it spoiled.
        Ok(Recording { result: result?, graph: graph?, _memory: memory })
    });
    match recording {
        Ok(recording) => state.recording = Some(recording),
        Err(error) if matches!(error.status(), Status::Cancelled | Status::DeviceLost) => return Err(error),
        Err(error) => {
            // Running the step takes the memory that was missing; nothing helps against other errors.
            let missing = error.status() == Status::DeviceOutOfMemory;
            state.failures = if missing { state.failures + 1 } else { ATTEMPTS };
            if state.failures == ATTEMPTS {
                cuda.device.warn_once(format_args!("steps are not recorded: {error}"));
            }
        }
    }
    Ok(())
}
