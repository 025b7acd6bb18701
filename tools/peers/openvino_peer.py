"""The worker of bench_peers.py for OpenVINO.

    openvino_peer.py convert MODEL FOLDER STAGES           writes a network for each stage, from PyTorch's modules
    openvino_peer.py run MODEL FOLDER PRECISION THREADS SIZE STAGES        PRECISION is f32 or bf16, of the arithmetic

Networks are compiled for the one size, which is faster than for any.
"""
import json
import sys
import time
from pathlib import Path

from worker import peak_memory, read_ahead, serve


def convert(model, folder, stages):
    import openvino
    import torch
    from pytorch import call, modules

    class Stage(torch.nn.Module):
        def __init__(self, stage, module):
            super().__init__()
            self.module = module
            self.function = call(stage, module)

        def forward(self, *inputs):
            return self.function(*inputs)

    for stage in stages:
        module, inputs = modules(model, [stage])[stage]
        with torch.no_grad():
            network = openvino.convert_model(Stage(stage, module), example_input=inputs(256))
        # The files' weights are f16, so nothing is lost. Under another name until it is whole.
        openvino.save_model(network, folder / f"new-{stage}.xml", compress_to_fp16=True)
        for suffix in (".bin", ".xml"):
            (folder / f"new-{stage}{suffix}").rename(folder / f"{stage}{suffix}")
        print(f"{stage}: {peak_memory() / 1e9:.1f} GB at most", flush=True)
        del network, module


def input_shapes(stage, size, width):
    latents = [4, size // 8, size // 8]
    if stage == "text":
        return [[2, 77]]
    if stage == "decode":
        return [[1, *latents]]
    return [[2, *latents], [], [2, 77, width]] + ([[2, 1280], [2, 6]] if width == 2048 else [])


def main():
    if sys.argv[1] == "convert":
        model, folder, stages = sys.argv[2:]
        return convert(model, Path(folder), stages.split(","))
    model, folder, precision, threads, size, stages = sys.argv[2:]
    width = json.loads((Path(model) / "unet" / "config.json").read_text())["cross_attention_dim"]
    import numpy
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": int(threads), "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1,
                "INFERENCE_PRECISION_HINT": precision}
    read_ahead(folder)
    noise = numpy.random.default_rng(0)

    def load():
        requests = {}
        for stage in stages.split(","):
            network = core.read_model(Path(folder) / f"{stage}.xml")
            shapes = input_shapes(stage, int(size), width)
            network.reshape({network.inputs[i]: shape for i, shape in enumerate(shapes)})
            compiled = core.compile_model(network, "CPU", settings)
            del network
            values = [numpy.float32(501.0) if shape == [] else noise.standard_normal(shape, dtype=numpy.float32)
                      for shape in shapes]
            if stage == "text":
                values = [noise.integers(0, 49000, shapes[0])]
            requests[stage] = compiled, compiled.create_infer_request(), values

        def one_round(_):
            seconds = {}
            for stage, (_, request, values) in requests.items():
                start = time.perf_counter()
                request.infer(values)
                seconds[stage] = time.perf_counter() - start
            return seconds

        used = sorted({compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
                       for compiled, _, _ in requests.values()})
        return {"about": f"{openvino.__version__.split('-')[0]}, {', '.join(used)}"}, one_round

    serve(load)


if __name__ == "__main__":
    main()
