"""libdiffusion through its C API, by ctypes: what bench_peers.py and gpu_compare.py share, and bench_peers.py's worker.

    libdiffusion.py LIBRARY MODEL PRECISION THREADS SIZE STAGES        PRECISION is f32 or bf16
"""
import ctypes
import sys

from worker import read_ahead, serve

CPU = 1
PRECISIONS = {"bf16": 2, "f32": 3}


class EngineDesc(ctypes.Structure):
    """diffusion_engine_desc of include/diffusion.h."""

    _fields_ = [("struct_size", ctypes.c_uint32), ("device", ctypes.c_int32), ("threads", ctypes.c_uint32),
                ("log_level", ctypes.c_int32), ("memory_limit_host", ctypes.c_uint64),
                ("log", ctypes.c_void_p), ("log_user_data", ctypes.c_void_p), ("device_index", ctypes.c_uint32),
                ("precision", ctypes.c_int32), ("memory_limit_device", ctypes.c_uint64),
                ("cuda_library_directory", ctypes.c_char_p)]


class EngineInfo(ctypes.Structure):
    """diffusion_engine_info of include/diffusion.h."""

    _fields_ = [("struct_size", ctypes.c_uint32), ("device", ctypes.c_int32), ("threads", ctypes.c_uint32),
                ("reserved", ctypes.c_uint32), ("memory_used", ctypes.c_uint64), ("memory_peak", ctypes.c_uint64),
                ("memory_limit", ctypes.c_uint64), ("device_name", ctypes.c_char_p),
                ("device_index", ctypes.c_uint32), ("precision", ctypes.c_int32)]


class Result(ctypes.Structure):
    """diffusion_result of include/diffusion.h."""

    _fields_ = [(name, ctypes.c_uint32) for name in (
        "struct_size", "image_count", "width", "height", "prompt_tokens", "prompt_tokens_dropped",
        "negative_tokens", "negative_tokens_dropped")] + [
        ("sampler", ctypes.c_int32), ("steps", ctypes.c_uint32)] + [
        (name, ctypes.c_uint64) for name in ("seed", "text_ns", "denoise_ns", "decode_ns", "total_ns")]


class Libdiffusion:
    """An engine on the CPU, a model and a session. Its jobs are one guided step: text, step, decode."""

    def __init__(self, library, model, precision, threads, size, decode):
        self.lib = lib = ctypes.CDLL(library)
        lib.diffusion_error_message.restype = ctypes.c_char_p
        lib.diffusion_error_message.argtypes = [ctypes.c_void_p]
        engine, self.model, self.session = (ctypes.c_void_p() for _ in range(3))
        desc = EngineDesc(struct_size=ctypes.sizeof(EngineDesc), device=CPU, threads=threads,
                          precision=PRECISIONS[precision])
        self.call("diffusion_engine_new", ctypes.byref(desc), ctypes.byref(engine))
        info = EngineInfo(ctypes.sizeof(EngineInfo))
        self.call("diffusion_engine_get_info", engine, ctypes.byref(info))
        self.device_name = info.device_name.decode()
        self.call("diffusion_model_load", engine, model.encode(), None, ctypes.byref(self.model))
        self.call("diffusion_session_new", self.model, None, ctypes.byref(self.session))
        self.size, self.decode = size, decode

    def call(self, name, *arguments):
        error = ctypes.c_void_p()
        if getattr(self.lib, name)(*arguments, ctypes.byref(error)) != 0:
            raise RuntimeError(f"{name}: {self.lib.diffusion_error_message(error).decode()}")

    def round(self, index):
        """Seconds of each stage. Prompts differ from round to round, so that nothing can be kept from the last."""
        request, job, result = ctypes.c_void_p(), ctypes.c_void_p(), Result(ctypes.sizeof(Result))
        self.call("diffusion_request_new", self.model, ctypes.byref(request))
        option = lambda name: self.lib.diffusion_option_find(name.encode())
        for name, value in (("prompt", f"an astronaut riding horse {index}"), ("negative_prompt", f"rain {index}"),
                            ("sampler", "euler"), ("output", "image" if self.decode else "latents")):
            self.lib.diffusion_request_set_string(request, option(name), value.encode())
        for name, value in (("width", self.size), ("height", self.size), ("steps", 1)):
            self.lib.diffusion_request_set_int(request, option(name), ctypes.c_int64(value))
        self.lib.diffusion_request_set_float(request, option("guidance_scale"), ctypes.c_double(7.5))
        self.call("diffusion_submit", self.session, request, ctypes.byref(job))
        self.lib.diffusion_job_wait(job, ctypes.c_int64(-1))
        self.call("diffusion_job_get_result", job, ctypes.byref(result))
        self.lib.diffusion_job_free(job)
        self.lib.diffusion_request_free(request)
        seconds = {"text": result.text_ns / 1e9, "step": result.denoise_ns / 1e9}
        return seconds | ({"decode": result.decode_ns / 1e9} if self.decode else {})


def main():
    library, model, precision, threads, size, stages = sys.argv[1:]
    read_ahead(model)

    def load():
        loaded = Libdiffusion(library, model, precision, int(threads), int(size), "decode" in stages.split(","))
        return {"about": loaded.device_name}, loaded.round

    serve(load)


if __name__ == "__main__":
    main()
