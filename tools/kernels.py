#!/usr/bin/env python3
"""Compiles kernels/*.cu with NVRTC, which needs neither a GPU nor a driver nor the CUDA toolkit.

    tools/kernels.py build [FAMILY...]   writes build/kernels/FAMILY.ARCHITECTURE.cubin (and .ptx), and of all families
                                         kernels.pack, which build.rs embeds in the library
    tools/kernels.py check [FAMILY...]   compiles only, prints what each kernel uses, and fails on any warning,
                                         register spill, stack frame, or a wgmma that ptxas had to serialise

NVRTC comes from the folder $NVRTC_DIR, or from the package index into build/nvrtc-venv. 12.9 is the last version whose
images run on every driver since 525.
"""

import ctypes
import multiprocessing
import os
import pathlib
import re
import struct
import subprocess
import sys
import venv
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
KERNELS = ROOT / "kernels"
# The wrappers of device.cuh, one kernel each, are for tests, on the emulated GPU and on real ones.
SOURCES = {path.stem: path for path in sorted([*KERNELS.glob("*.cu"), ROOT / "tests" / "kernels" / "wrappers.cu"])}
PACKAGE = "nvidia-cuda-nvrtc-cu12==12.9.86"
# Machine code for each architecture, and PTX for those to come. Families that end in _sm90a use instructions that only
# sm_90a has.
ARCHITECTURES = ["sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100", "sm_120", "compute_80"]
OPTIONS = ["--std=c++17", "-default-device", "--ptxas-options=-v", "--ptxas-options=--warn-on-spills"]


def nvrtc_folder():
    """The folder that holds libnvrtc.so.12, installed if need be."""
    if "NVRTC_DIR" in os.environ:
        return pathlib.Path(os.environ["NVRTC_DIR"])
    environment = ROOT / "build" / "nvrtc-venv"
    found = sorted(environment.glob("lib/python*/site-packages/nvidia/cuda_nvrtc/lib"))
    if not found:
        print(f"== installing {PACKAGE} into build/nvrtc-venv", flush=True)
        venv.create(environment, with_pip=True)
        pip = [environment / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", PACKAGE]
        subprocess.run(pip, check=True)
        found = sorted(environment.glob("lib/python*/site-packages/nvidia/cuda_nvrtc/lib"))
    return found[0]


def load_nvrtc(folder):
    # The built-ins first: by its own name NVRTC would look for them in the system's folders only.
    for library in sorted(folder.glob("libnvrtc-builtins.so.*")):
        ctypes.CDLL(str(library))
    return ctypes.CDLL(str(next(folder.glob("libnvrtc.so.1*"))))


def strings(values):
    return (ctypes.c_char_p * len(values))(*values)


def fetch(nvrtc, program, what):
    """The program's log, PTX or CUBIN."""
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    data = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, data)
    return data.raw


def compile_source(nvrtc, name, source, architecture):
    """(succeeded, log, image)"""
    headers = sorted(KERNELS.glob("*.cuh"))
    names = strings([header.name.encode() for header in headers])
    texts = strings([header.read_bytes() for header in headers])
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, name.encode(), len(headers), texts, names)
    options = [option.encode() for option in [f"--gpu-architecture={architecture}", *OPTIONS]]
    status = nvrtc.nvrtcCompileProgram(program, len(options), strings(options))
    log = fetch(nvrtc, program, "ProgramLog").rstrip(b"\0").decode()
    image = b""
    if status == 0:
        image = fetch(nvrtc, program, "PTX" if architecture.startswith("compute") else "CUBIN")
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return status == 0, log, image


def compile_image(job):
    """(family, architecture, succeeded, log, image)"""
    folder, family, architecture = job
    source = SOURCES[family].read_bytes()
    return family, architecture, *compile_source(load_nvrtc(folder), f"{family}.cu", source, architecture)


def usage(log):
    """Of each kernel in the log: registers, bytes of static shared memory, of stack, of spills."""
    found, kernel = {}, None
    for line in log.splitlines():
        if m := re.search(r"Compiling entry function '(\w+)'", line):
            kernel = found.setdefault(m[1], {"registers": 0, "shared": 0, "stack": 0, "spills": 0})
        elif m := re.search(r"Function properties for (\w+)", line):
            kernel = found.get(m[1])
        elif kernel is None:
            continue
        elif m := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            kernel["stack"], kernel["spills"] = int(m[1]), int(m[2]) + int(m[3])
        elif m := re.search(r"Used (\d+) registers", line):
            kernel["registers"] = int(m[1])
            kernel["shared"] = int(shared[1]) if (shared := re.search(r"(\d+) bytes smem", line)) else 0
    return found


def complaints(log):
    """Lines of the log that are no report of ptxas -v."""
    reports = ("ptxas info", "ptxas         .")
    return [line for line in log.splitlines() if line.strip() and (not line.startswith(reports) or "C7510" in line)]


def faults_of(name, architecture, succeeded, log):
    found = [f"{name} for {architecture}: {line}" for line in complaints(log)]
    if not succeeded:
        found.append(f"{name} for {architecture}: does not compile")
    for kernel, used in usage(log).items():
        found += [f"{kernel} for {architecture}: {used[w]} bytes of {w}" for w in ("spills", "stack") if used[w]]
    return found


# A check that cannot fail proves nothing: these have to.
PLANTED = {
    "warning": b"extern \"C\" __global__ void k(int* x) { int unused; x[0] = 0; }",
    "spill": b"extern \"C\" __global__ void __launch_bounds__(1024, 2) k(float* x) { float v[64];"
    b"for (int i = 0; i < 64; i++) v[i] = x[i * 99 + threadIdx.x]; __syncthreads();"
    b"for (int i = 0; i < 64; i++) for (int j = 0; j < 64; j++) x[i * 64 + j] = v[i] * v[j]; }",
    "error": b"extern \"C\" __global__ void k(int* x) { x[0] = y; }",
}


def check_planted():
    nvrtc = load_nvrtc(nvrtc_folder())
    for name, source in PLANTED.items():
        succeeded, log, _ = compile_source(nvrtc, "k.cu", source, "sm_80")
        if not any(name in fault for fault in faults_of("planted", "sm_80", succeeded, log)):
            sys.exit(f"kernels-check: the planted {name} was not found")


def families(chosen):
    for name in chosen:
        if name not in SOURCES:
            sys.exit(f"tools/kernels.py: no kernels/{name}.cu")
    return chosen or SOURCES


def compile_all(chosen):
    folder = nvrtc_folder()
    jobs = [
        (folder, family, architecture)
        for family in families(chosen)
        for architecture in ARCHITECTURES
        if not family.endswith("_sm90a") or architecture == "sm_90a"
    ]
    with multiprocessing.Pool() as pool:
        yield from pool.imap(compile_image, jobs)


def hash_of_sources():
    """FNV-1a of names and texts, each with a zero behind it, as build.rs has it."""
    value = 0xCBF29CE484222325
    for source in sorted([*KERNELS.glob("*.cu"), *KERNELS.glob("*.cuh")], key=lambda path: path.name):
        for byte in source.name.encode() + b"\0" + source.read_bytes() + b"\0":
            value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def write_pack(path, images):
    """The format is told in src/backend/cuda/pack.rs."""
    packed = [(name.encode(), len(image), zlib.compress(image, 9)) for name, image in images]
    heads = [struct.pack("<B", len(name)) + name + struct.pack("<II", size, len(data)) for name, size, data in packed]
    data = [data for _, _, data in packed]
    path.write_bytes(b"".join([b"LDKPACK1", struct.pack("<QI", hash_of_sources(), len(packed)), *heads, *data]))
    # build.rs looks for a pack when it is run, and is run again when it changes.
    (ROOT / "build.rs").touch()


def build(chosen):
    out = ROOT / "build" / "kernels"
    out.mkdir(parents=True, exist_ok=True)
    size = count = 0
    images = []
    for family, architecture, succeeded, log, image in compile_all(chosen):
        if not succeeded:
            sys.exit(f"{family}.cu for {architecture}:\n{log}")
        extension = "ptx" if architecture.startswith("compute") else "cubin"
        (out / f"{family}.{architecture}.{extension}").write_bytes(image)
        size, count = size + len(image), count + 1
        # Of the families for every GPU sm_90a has nothing that sm_90 lacks; the tests' wrappers are not the library's.
        if family != "wrappers" and (architecture != "sm_90a" or family.endswith("_sm90a")):
            images.append((f"{family}.{architecture}", image))
    if not chosen:
        write_pack(out / "kernels.pack", images)
        print(f"kernels.pack: {(out / 'kernels.pack').stat().st_size / 1e6:.1f} MB")
    print(f"{count} images, {size / 1e6:.1f} MB, in {out.relative_to(ROOT)}")


def check(chosen):
    check_planted()
    faults, kernels = [], {}
    for family, architecture, succeeded, log, _ in compile_all(chosen):
        faults += faults_of(family, architecture, succeeded, log)
        for kernel, used in usage(log).items():
            kernels.setdefault((family, kernel), {})[architecture] = used
    columns = [architecture for architecture in ARCHITECTURES if architecture.startswith("sm")]
    print(f"{'registers':<40}" + "".join(f"{column:>8}" for column in columns) + "  shared  spills")
    for (family, kernel), by_architecture in sorted(kernels.items()):
        registers = "".join(f"{by_architecture.get(a, {}).get('registers', '-'):>8}" for a in columns)
        shared = max(used["shared"] for used in by_architecture.values())
        spills = max(used["spills"] for used in by_architecture.values())
        print(f"{family + ' ' + kernel:<40}{registers}{shared:>8}{spills:>8}")
    for fault in faults:
        print(fault)
    if faults or not kernels:
        sys.exit(f"kernels-check: {len(faults)} faults")
    print(f"kernels-check: {len(kernels)} kernels, no warnings, no spills")


if __name__ == "__main__":
    commands = {"build": build, "check": check}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](sys.argv[2:])
