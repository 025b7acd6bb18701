//! The stand-in driver, used as the CUDA backend uses a driver: through cudarc, which finds it by `LD_LIBRARY_PATH`.
//! `make test-driver` runs this.

mod devices;
mod faults;
mod graphs;
mod kernels;
mod matmul;
mod memory;
mod modules;
mod streams;
mod support;
