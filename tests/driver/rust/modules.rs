//! Which images are taken, and which kernels they have.

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, DriverError};
use cudarc::nvrtc::Ptx;

use crate::support::*;

/// What the driver reads of a cubin: the header, and the names of sections.
fn cubin(abi: u8, flags: u32, kernel: &str) -> Vec<u8> {
    let mut image = vec![0; 64];
    image[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    image[8] = abi;
    image[18] = 190; // EM_CUDA
    image[48..52].copy_from_slice(&flags.to_le_bytes());
    image.extend_from_slice(format!("\0.text.{kernel}\0").as_bytes());
    let end = image.len() as u64;
    image[40..48].copy_from_slice(&end.to_le_bytes());
    image
}

fn load(image: Ptx) -> Result<(), DriverError> {
    CudaContext::new(0)?.load_module(image).map(|_| ())
}

#[test]
fn cubins_are_for_their_architecture() {
    let stand_in = StandIn::new();
    // As NVRTC 12.9 writes them.
    let (sm_80, sm_86) = (cubin(7, 0x0050_0550, "silu_f16"), cubin(7, 0x0056_0556, "silu_f16"));
    let (sm_90, sm_90a) = (cubin(7, 0x005a_055a, "silu_f16"), cubin(7, 0x005a_0d5a, "silu_f16"));
    let sm_120 = cubin(8, 0x0600_7802, "silu_f16");
    let fitting = [
        (80, vec![&sm_80]),
        (89, vec![&sm_80, &sm_86]),
        (90, vec![&sm_90, &sm_90a]),
        (91, vec![&sm_90]),
        (103, vec![]),
        (120, vec![&sm_120]),
    ];
    for (architecture, fitting) in fitting {
        stand_in.set("architecture", architecture);
        for image in [&sm_80, &sm_86, &sm_90, &sm_90a, &sm_120] {
            let loaded = load(Ptx::from_binary(image.clone()));
            if fitting.contains(&image) {
                loaded.unwrap();
            } else {
                expect_error(loaded, CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
            }
        }
    }
}

#[test]
fn ptx_is_for_its_architecture_and_later_ones() {
    let stand_in = StandIn::new();
    let ptx = |target: &str| load(Ptx::from_src(format!(".version 8.8\n.target {target}\n")));
    stand_in.set("architecture", 90);
    ptx("sm_80").unwrap();
    ptx("sm_90a").unwrap();
    expect_error(ptx("sm_100"), CUresult::CUDA_ERROR_INVALID_PTX);
    stand_in.set("architecture", 120);
    expect_error(ptx("sm_90a"), CUresult::CUDA_ERROR_INVALID_PTX);
    expect_error(load(Ptx::from_src("no image")), CUresult::CUDA_ERROR_INVALID_IMAGE);
}

#[test]
fn kernels_are_those_of_the_image() {
    let stand_in = StandIn::new();
    let context = stand_in.gpu().context;
    let images = |kernel: &str| {
        let text = format!("{IMAGE}.visible .entry {kernel}(\n)\n");
        [Ptx::from_binary(cubin(7, 0x50, kernel)), Ptx::from_src(text)]
    };
    for image in images("silu_f16") {
        let module = context.load_module(image).unwrap();
        assert_eq!(module.load_function("silu_f16").unwrap().max_threads_per_block().unwrap(), 256);
        expect_error(module.load_function("silu_f32"), CUresult::CUDA_ERROR_NOT_FOUND);
    }
    // A longer name, and one that the emulator knows nothing of.
    for image in images("silu_f16_twice") {
        let module = context.load_module(image).unwrap();
        expect_error(module.load_function("silu_f16"), CUresult::CUDA_ERROR_NOT_FOUND);
        expect_error(module.load_function("silu_f16_twice"), CUresult::CUDA_ERROR_NOT_FOUND);
    }
}
