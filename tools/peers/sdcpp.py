"""stable-diffusion.cpp, which has a command line only: every round is a run of it, timed by its own log."""
import re

from worker import Failed, run

# As its log calls them; the last of each is that of the picture.
STAGES = {"text": r"get_learned_condition completed, taking ([0-9.]+)s", "step": r"sampling completed, taking ([0-9.]+)s",
          "decode": r"decode_first_stage completed, taking ([0-9.]+)s"}
LOAD = r"loading tensors completed, taking ([0-9.]+)s"
STEPS = 2


class Sdcpp:
    """One configuration of it, with the methods of `Worker`."""

    def __init__(self, program, model, threads, size, stages, options, environment, log):
        # A step evaluates the U-Net with and without the prompt, one after the other, as the guided steps of all do.
        self.command = [str(program), "-m", str(model), "-p", "an astronaut riding a horse", "-n", "rain",
                        "--cfg-scale", "7.5", "--sampling-method", "euler", "--steps", str(STEPS), "-W", str(size),
                        "-H", str(size), "-t", str(threads), "-s", "1", "-o", f"{log}.png", "-v", *options]
        self.environment, self.log, self.stages = environment, log, stages
        self.facts = {"about": " ".join(options), "load": None}

    def round(self):
        output, _, busy, peak = run(self.command, self.environment, self.log)
        seconds = {}
        for stage in (*self.stages, "load"):
            found = re.findall(LOAD if stage == "load" else STAGES[stage], output)
            if not found:
                raise Failed(f"its log does not tell the time of {stage} ({self.log})")
            seconds[stage] = float(found[-1]) / (STEPS if stage == "step" else 1)
        self.facts["load"] = seconds.pop("load")
        return {"seconds": seconds, "busy": busy, "peak": peak}

    def close(self):
        pass
