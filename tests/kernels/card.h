// A real GPU in place of the emulated one, for the build `card`: the same tests, kernels from images that
// tools/kernels.py built. Tests see host memory, as on the emulator; a launch takes copies of all of it to the card and
// back, and puts the card's addresses in place of the host's.
#pragma once

#include "emulator.h"

namespace card {

// As in namespace emulator.
void* allocate(size_t bytes);
void release(void* memory);
void launch(const emulator::Kernel& kernel, emulator::Dim3 grid, emulator::Dim3 block, size_t shared_bytes,
            void** parameters, const emulator::Options& options);

}  // namespace card
