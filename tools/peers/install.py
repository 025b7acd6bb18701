"""What bench_peers.py needs, each part made once: packages, stable-diffusion.cpp, random models, OpenVINO's networks, the
library and the meter of the machine's peak. All but the library lives in one folder outside the repository."""
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.request
from pathlib import Path

from worker import Failed

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent

# What the benchmark was run with. PyPI's PyTorch for Linux brings CUDA's libraries along, which nothing here loads.
PACKAGES = ["torch==2.15.0", "diffusers==0.42.1", "transformers==5.23.0", "accelerate==1.15.0", "safetensors==0.8.0",
            "numpy==2.4.6", "openvino==2026.4.1", "cmake==4.4.5", "ninja==1.13.2"]
# Only for the CLIP vocabulary in it (tools/make_model.py).
VOCABULARY = "open_clip_torch==3.3.0"

# stable-diffusion.cpp has no releases; this source package carries a state of it with its submodules. It is fetched as a
# file, because pip would build it to learn its name.
SDCPP = ("https://files.pythonhosted.org/packages/b1/06/300aba9ac36e2166fbe45b4a29039a76f725ef08796f5472caf3e8c4e08d/"
         "stable_diffusion_cpp_python-0.4.7.tar.gz")
SDCPP_SHA256 = "998d1957260dd5ae4e18a8acc0c14b0a8757aaa9f96515197b6d5bbf46df9282"
SDCPP_VERSION = "of stable-diffusion-cpp-python 0.4.7"

GB = 1e9


def say(text):
    print(f"== {text}", file=sys.stderr, flush=True)


def need_disk(folder, gigabytes, what):
    free = shutil.disk_usage(folder).free / GB
    if free < gigabytes:
        raise Failed(f"{what} needs {gigabytes:.0f} GB of disk, {folder} has {free:.1f} GB free")


def need_memory(gigabytes, what):
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024 / GB
            if free < gigabytes:
                raise Failed(f"{what} needs {gigabytes:.0f} GB of memory, {free:.1f} GB are free")


def command(arguments, what, log, **options):
    """Runs a step of the installation; its output goes to a log that a failure names."""
    with open(log, "w") as file:
        try:
            code = subprocess.run([str(a) for a in arguments], stdout=file, stderr=subprocess.STDOUT, **options).returncode
        except FileNotFoundError as error:
            raise Failed(f"{what}: {error.filename} is not installed") from None
    if code != 0:
        raise Failed(f"{what} failed with status {code}: {log}")


class Installation:
    def __init__(self, root):
        self.root = Path(root).expanduser().resolve()
        self.root.mkdir(parents=True, exist_ok=True)
        self.logs = self.root / "logs"
        self.logs.mkdir(exist_ok=True)
        self.bin = self.root / "venv" / "bin"
        self.python = self.bin / "python"

    def packages(self):
        """A virtual environment with the pinned packages."""
        listing = ("import importlib.metadata as m, json; "
                   "print(json.dumps([f\"{d.name}=={d.version}\" for d in m.distributions()]))")

        def missing():
            installed = json.loads(subprocess.check_output([str(self.python), "-c", listing])) if self.python.exists() else []
            return [p for p in [*PACKAGES, VOCABULARY] if p not in installed]

        if not missing():
            return
        need_disk(self.root, 9, "a virtual environment with the peers")
        if not self.python.exists():
            command([sys.executable, "-m", "venv", self.root / "venv"], "making a virtual environment", self.logs / "venv.log")
        say(f"installing {', '.join(missing())} into {self.root / 'venv'}")
        pip = [self.python, "-m", "pip", "install", "--disable-pip-version-check"]
        command([*pip, *PACKAGES], "pip install", self.logs / "pip.log")
        command([*pip, "--no-deps", VOCABULARY], "pip install", self.logs / "pip-vocabulary.log")
        if missing():
            raise Failed(f"pip left {', '.join(missing())} out: {self.logs / 'pip.log'}")

    def sdcpp(self):
        """stable-diffusion.cpp's command line. It is built for AVX2, its best: for AVX-512 too it took five times as long."""
        folder = self.root / "sdcpp"
        build = folder / "avx2"
        program = build / "bin" / "sd-cli"
        if program.exists():
            return program
        source = folder / "source"
        if not source.exists():
            need_disk(self.root, 1, "stable-diffusion.cpp")
            say(f"downloading {SDCPP.rsplit('/', 1)[1]}")
            folder.mkdir(exist_ok=True)
            archive = folder / "source.tar.gz"
            try:
                with urllib.request.urlopen(SDCPP, timeout=60) as stream, open(archive, "wb") as file:
                    shutil.copyfileobj(stream, file)
            except OSError as error:
                raise Failed(f"downloading stable-diffusion.cpp: {error}") from None
            digest = hashlib.sha256(archive.read_bytes()).hexdigest()
            if digest != SDCPP_SHA256:
                raise Failed(f"{archive} has SHA-256 {digest}, expected {SDCPP_SHA256}")
            with tarfile.open(archive) as tar:
                tar.extractall(folder / "unpacked", filter="data")
            next((folder / "unpacked").glob("*/vendor/stable-diffusion.cpp")).rename(source)
            shutil.rmtree(folder / "unpacked")
        say("building stable-diffusion.cpp, which takes some minutes")
        target = ["-DGGML_NATIVE=OFF", "-DGGML_AVX=ON", "-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DGGML_F16C=ON",
                  "-DGGML_BMI2=ON", "-DCMAKE_C_FLAGS=-march=haswell", "-DCMAKE_CXX_FLAGS=-march=haswell"]
        environment = os.environ | {"PATH": f"{self.bin}:{os.environ['PATH']}"}
        # llamafile's matrix products are off by default and twice as fast.
        command([self.bin / "cmake", "-S", source, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
                 "-DGGML_LLAMAFILE=ON", "-DSD_WEBP=OFF", "-DSD_WEBM=OFF", *target],
                "configuring stable-diffusion.cpp", self.logs / "sdcpp-configure.log", env=environment)
        command([self.bin / "cmake", "--build", build, "--target", "sd-cli"],
                "building stable-diffusion.cpp", self.logs / "sdcpp-build.log", env=environment)
        return program

    def model(self, family):
        """A full-size model with random weights in f16: sd15 or sdxl."""
        folder = self.root / "models" / family
        if not (folder / "model_index.json").exists():
            need_disk(self.root, 3 if family == "sd15" else 8, f"the model {family}")
            say(f"making {folder}")
            shutil.rmtree(folder, ignore_errors=True)
            command([self.python, REPOSITORY / "tools" / "make_model.py", family, folder], f"making the model {family}",
                    self.logs / f"model-{family}.log")
        return folder

    def openvino(self, family, stages):
        """OpenVINO's networks of a model's parts."""
        folder = self.root / "openvino" / family
        missing = [stage for stage in stages if not (folder / f"{stage}.xml").exists()]
        if missing:
            need_disk(self.root, 3 if family == "sd15" else 6, "OpenVINO's networks")
            need_memory(10 if family == "sd15" else 22, f"converting {family} for OpenVINO")
            say(f"converting {', '.join(missing)} of {family} for OpenVINO")
            folder.mkdir(parents=True, exist_ok=True)
            command([self.python, HERE / "openvino_peer.py", "convert", self.model(family), folder, ",".join(missing)],
                    f"converting {family} for OpenVINO", self.logs / f"openvino-{family}.log")
        return folder

    def library(self):
        """This repository's release library."""
        say("building libdiffusion")
        command(["make", "-C", REPOSITORY, "lib"], "make lib", self.logs / "lib.log")
        return REPOSITORY / "build" / "lib" / "libdiffusion.so"

    def example(self):
        """This repository's command-line example."""
        command(["make", "-C", REPOSITORY, "build/bin/02_txt2img"], "make build/bin/02_txt2img", self.logs / "example.log")
        return REPOSITORY / "build" / "bin" / "02_txt2img"

    def meter(self):
        """The program of fma.c."""
        program = self.root / "fma"
        command([os.environ.get("CC", "gcc"), "-O2", "-pthread", HERE / "fma.c", "-o", program], "compiling fma.c",
                self.logs / "fma.log")
        return program
