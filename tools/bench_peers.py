#!/usr/bin/env python3
"""Times libdiffusion against PyTorch, OpenVINO and stable-diffusion.cpp on this machine's CPU, and prints README's tables.

    bench_peers.py [FOLDER] [--set small|large] [--peers pytorch,...] [--threads N] [--rounds 5] [--isa avx2] [--install]

FOLDER (~/.cache/libdiffusion-peers) is where everything goes that is needed and not there yet: a virtual environment with
pinned peers (7 GB, PyPI), stable-diffusion.cpp built from source, a full-size model with random weights. Each peer is
paired with libdiffusion and takes turns with it, round by round, on the same processors; ratios are of the rounds' times.
Both keep their models loaded, but for stable-diffusion.cpp, whose every round is a run of its command line. A stage's
share of the peak is the definition's operations over what the machine's multiply-adds in registers reach, measured
before and after every pair. The arithmetic is f32 for everybody but the rows that say bf16, which are paired with
libdiffusion in bf16, or in f32 on processors where it refuses bf16 (and the products of stable-diffusion.cpp with f16
weights, which it computes in f16).

The set small is Stable Diffusion 1.5 and takes about half an hour on two processors, large is SDXL's U-Net and takes
longer. `--isa avx2` keeps everybody to AVX2, where a library can be told (the note under the table says where not).
`--install` prepares and measures nothing. A peer that fails has a row that says why. Run it on a quiet machine: a program
beside it costs the peers and us unequally, and the note under the table tells when processors were missing.
"""
import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
from install import HERE, PACKAGES, REPOSITORY, SDCPP_VERSION, Failed, Installation, need_memory, say  # noqa: E402
from sdcpp import Sdcpp  # noqa: E402
from worker import Worker, run  # noqa: E402

# Of each set, the stages at each size of picture.
SETS = {"small": ("sd15", {512: ["text", "step", "decode"], 256: ["step"]}),
        "large": ("sdxl", {1024: ["step"], 512: ["step"]})}

# Operations of the definition, in 10^9 (torch's FlopCounterMode): a guided step is the U-Net on two images, text is two
# prompts.
GFLOP = {("sd15", "text", 512): 26.60, ("sd15", "step", 512): 1606.55, ("sd15", "decode", 512): 2514.52,
         ("sd15", "step", 256): 360.21, ("sdxl", "step", 1024): 13522.47, ("sdxl", "step", 512): 3177.56}
TITLES = {"text": "text, 2 prompts", "step": "guided step", "decode": "VAE decode"}

# glibc gives freed memory back and PyTorch asks for it again, page by page; with this it keeps it and is a quarter faster.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_TOP_PAD_": "268435456"}
# What keeps each library to AVX2: oneDNN (and OpenVINO's copy of it), PyTorch, MKL, libdiffusion.
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "LIBDIFFUSION_CPU": "avx2"}


@dataclass
class Peer:
    """A row: its name, the gigabytes of memory it takes with each set, and for stable-diffusion.cpp its options."""
    name: str
    memory: dict
    options: list = field(default_factory=list)


VERSIONS = dict(package.split("==") for package in PACKAGES)
PEERS = {
    "pytorch": Peer(f"PyTorch {VERSIONS['torch']}", {"sd15": 8, "sdxl": 15}),
    "openvino": Peer(f"OpenVINO {VERSIONS['openvino']}", {"sd15": 11, "sdxl": 28}),
    "openvino-bf16": Peer(f"OpenVINO {VERSIONS['openvino']}, bf16", {"sd15": 9, "sdxl": 22}),
    "sdcpp-f16": Peer("stable-diffusion.cpp, f16", {"sd15": 3, "sdxl": 9}, ["--type", "f16", "--diffusion-fa"]),
    "sdcpp-f32": Peer("stable-diffusion.cpp, f32", {"sd15": 4, "sdxl": 12}, ["--type", "f32", "--diffusion-fa"]),
}
OURS = "libdiffusion"
OURS_BF16 = "libdiffusion, bf16"
OUR_MEMORY = {"sd15": 4, "sdxl": 8}


def name(row):
    return PEERS[row].name if row in PEERS else row


class Bench:
    def __init__(self, args):
        self.args = args
        self.family, self.sizes = SETS[args.set]
        self.installation = Installation(args.folder)
        self.environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "MKL_NUM_THREADS": str(args.threads)}
        if args.isa == "avx2":
            self.environment |= AVX2
        self.peaks = []
        # (row, size) -> rounds; row -> facts; row -> why it failed.
        self.rounds, self.facts, self.failures = {}, {}, {}

    def start(self, row, size):
        """The row's process, ready for rounds at this size."""
        stages, set_up = self.sizes[size], self.installation
        log = set_up.logs / f"{row}-{size}.log"
        model = set_up.model(self.family)
        threads, python, parts = str(self.args.threads), str(set_up.python), ",".join(stages)
        precision = "bf16" if row.endswith("bf16") else "f32"
        need_memory(PEERS[row].memory[self.family] if row in PEERS else OUR_MEMORY[self.family], row)
        if row not in PEERS:
            worker = Worker([sys.executable, str(HERE / "libdiffusion.py"), str(self.library), str(model), precision, threads,
                             str(size), parts], self.environment, log)
            if self.args.isa == "avx2" and "AVX2" not in worker.facts["about"]:
                raise Failed(f"libdiffusion computes with {worker.facts['about']} and does not hear LIBDIFFUSION_CPU")
            return worker
        if row == "pytorch":
            return Worker([python, str(HERE / "pytorch.py"), str(model), threads, str(size), parts],
                          self.environment | KEEP_MEMORY | {"OMP_PROC_BIND": "close"}, log)
        if row.startswith("openvino"):
            folder = set_up.openvino(self.family, ["text", "step", "decode"] if self.family == "sd15" else ["step"])
            return Worker([python, str(HERE / "openvino_peer.py"), "run", str(model), str(folder), precision, threads,
                           str(size), parts], self.environment, log)
        return Sdcpp(set_up.sdcpp(), model, threads, size, stages,
                     PEERS[row].options, self.environment, log)

    def measure_peak(self):
        """GFLOP/s of multiply-adds in registers, of the best vectors that everybody may use."""
        rates = []
        for isa in ["avx2"] if self.args.isa else ["avx2", "avx512"]:
            meter = subprocess.run([str(self.meter), str(self.args.threads), isa], capture_output=True, text=True)
            if meter.returncode == 0:
                rates.append(float(meter.stdout))
        if not rates:
            raise Failed("this machine has no AVX2")
        self.peaks.append(max(rates))

    def ours(self, row):
        """The row of libdiffusion that a peer was paired with."""
        return next(one for (peer, _), rounds in self.rounds.items() if peer == row for one in rounds if one != row)

    def pair(self, row, size):
        """Rounds of libdiffusion, in the peer's precision if it computes in that here, and of a peer in turn."""
        both, us = {}, OURS_BF16 if row.endswith("bf16") else OURS
        try:
            try:
                both[us] = self.start(us, size)
            except Failed as error:
                # It refuses bf16 where f32 is faster.
                if us == OURS or "precision:" not in str(error):
                    raise
                say(f"libdiffusion computes in f32 beside {name(row)}: {error}")
                us = OURS
                both[us] = self.start(us, size)
            both[row] = self.start(row, size)
            command_line = isinstance(both[row], Sdcpp)
            for one in [us] if command_line else [us, row]:
                both[one].round()
            self.measure_peak()
            rounds = {one: [] for one in both}
            for index in range(min(self.args.rounds, 3) if command_line else self.args.rounds):
                for one in (us, row) if index % 2 == 0 else (row, us):
                    # Threads of the other may go on waiting actively for a while.
                    time.sleep(1)
                    rounds[one].append(both[one].round())
            self.measure_peak()
        finally:
            for worker in both.values():
                worker.close()
        for one in both:
            self.facts.setdefault(one, []).append(both[one].facts)
        self.rounds[row, size] = rounds
        for stage in self.sizes[size]:
            our_time, their_time = (statistics.median(r["seconds"][stage] for r in rounds[one]) for one in (us, row))
            say(f"{name(row)}, {size}x{size}, {stage}: {their_time:.3f} s, libdiffusion {our_time:.3f} s")

    def prepare(self):
        """Whatever is needed; a peer that cannot be had fails alone."""
        self.meter = self.installation.meter()
        self.library = self.installation.library()
        self.installation.packages()
        self.installation.model(self.family)
        for row in list(self.args.peers):
            try:
                if row.startswith("sdcpp"):
                    self.installation.sdcpp()
                if row.startswith("openvino"):
                    self.installation.openvino(
                        self.family, ["text", "step", "decode"] if self.family == "sd15" else ["step"])
            except Failed as error:
                self.fail(row, error)

    def fail(self, row, error):
        say(f"{PEERS[row].name}: {error}")
        self.failures[row] = str(error)

    def measure(self):
        for row in self.args.peers:
            for size in self.sizes:
                if row in self.failures:
                    continue
                # It decodes whatever it is asked, which at this size takes as long as all else together.
                if row.startswith("sdcpp") and size > 512:
                    continue
                try:
                    self.pair(row, size)
                except Failed as error:
                    self.fail(row, error)
        path = self.installation.logs / f"rounds-{datetime.datetime.now():%Y-%m-%d-%H%M%S}.json"
        path.write_text(json.dumps({"peaks": self.peaks, "failures": self.failures, "facts": self.facts, "rounds": {
            f"{row} {size}": rounds for (row, size), rounds in self.rounds.items()}}, indent=1))
        say(f"every round is in {path}")

    def of(self, row, size, what):
        """What `what` finds in each of the row's rounds at a size; libdiffusion's are those next to all peers."""
        pairs = [rounds for (_, at), rounds in self.rounds.items() if at == size and row in rounds]
        return [what(one) for rounds in pairs for one in rounds[row]]

    def tables(self):
        columns = [(stage, size) for stage in TITLES for size in self.sizes if stage in self.sizes[size]]
        columns.sort(key=lambda column: ["step", "decode", "text"].index(column[0]))
        titles = [f"{TITLES[stage]}" + ("" if stage == "text" else f" {size}×{size}") for stage, size in columns]
        peak = statistics.median(self.peaks)
        first = next(iter(self.sizes))
        peers = [row for row in self.args.peers if row not in self.failures]
        rows = [*dict.fromkeys(sorted(map(self.ours, peers))), *peers]
        print(f"{self.args.threads} threads, {self.family}, {datetime.date.today()}; peak of multiply-adds "
              f"{peak:.0f} GFLOP/s ({min(self.peaks):.0f}-{max(self.peaks):.0f})"
              + (", everybody kept to AVX2" if self.args.isa else "") + "\n")
        header = ["", *titles] + (["load", "peak memory"] if self.family == "sd15" else [])
        print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
        for row in rows:
            cells = [name(row)]
            for stage, size in columns:
                times = self.of(row, size, lambda one: one["seconds"][stage])
                seconds = statistics.median(times) if times else None
                share = GFLOP[self.family, stage, size] / seconds / peak if times else 0
                cells.append(f"{seconds:.3g} s, {100 * share:.0f} %" if times else "")
            if self.family == "sd15":
                loads = [facts["load"] for facts in self.facts[row]]
                cells.append(f"{statistics.median(loads):.1f} s")
                cells.append(f"{max(self.of(row, first, lambda one: one['peak'])) / 1e9:.2f} GB")
            print("| " + " | ".join(cells) + " |")
        for row, why in self.failures.items():
            print(f"| {PEERS[row].name} | " + " | ".join([why, *[""] * (len(header) - 2)]) + " |")
        print("\nTimes that of libdiffusion in the same precision (in f32 where it refuses bf16), medians of the rounds "
              "(min-max):\n")
        print("| " + " | ".join(["", *titles]) + " |\n|" + "---|" * (1 + len(columns)))
        for row in peers:
            cells = [name(row)]
            for stage, size in columns:
                rounds = self.rounds.get((row, size))
                ratios = [theirs["seconds"][stage] / us["seconds"][stage]
                          for theirs, us in zip(rounds[row], rounds[self.ours(row)])] if rounds else []
                cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})" if ratios else "")
            print("| " + " | ".join(cells) + " |")
        self.notes(rows)

    def notes(self, rows):
        print()
        for row in rows:
            about = self.facts[row][0]["about"]
            least = min(b for size in self.sizes for b in self.of(row, size, lambda one: one["busy"]) or [1e9])
            short = "; PROCESSORS WERE MISSING, repeat the run" if least < 0.75 * self.args.threads else ""
            print(f"{name(row)}: {about}; at least {least:.2f} processors busy in a round{short}. ", end="")
        print(f"stable-diffusion.cpp is {SDCPP_VERSION}, built with GGML_LLAMAFILE=ON.")

    def picture(self):
        """The default model's picture, whole process against whole process."""
        set_up, model = self.installation, REPOSITORY / "models" / "emoji"
        threads, times = str(self.args.threads), {"libdiffusion": [], "diffusers": []}
        commands = {
            "libdiffusion": ([str(set_up.example()), "--model", str(model), "--prompt", "a blue cat on a yellow background",
                              "--guidance", "2.5", "--steps", "20", "--seed", "1", "--device", "cpu", "--threads", threads,
                              "-o", str(set_up.logs / "ours.png")], self.environment),
            "diffusers": ([str(set_up.python), str(HERE / "diffusers_picture.py"), str(model), threads,
                           str(set_up.logs / "theirs.png")], self.environment | KEEP_MEMORY | {"OMP_PROC_BIND": "close"})}
        for index in range(self.args.rounds + 1):
            for program, (command, environment) in commands.items():
                _, seconds, _, _ = run(command, environment, set_up.logs / f"picture-{program}.log")
                # The first fills the page cache.
                if index > 0:
                    times[program].append(seconds)
        our_time, their_time = (statistics.median(times[program]) for program in commands)
        ratios = [b / a for a, b in zip(*times.values())]
        print(f"\nThe default model's picture of 20 guided steps, process against process: libdiffusion {our_time:.2f} s, "
              f"diffusers {their_time:.2f} s, {statistics.median(ratios):.0f} times that "
              f"({min(ratios):.0f}-{max(ratios):.0f}).")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="~/.cache/libdiffusion-peers")
    parser.add_argument("--set", choices=SETS, default="small")
    parser.add_argument("--peers", type=lambda names: names.split(","), default=list(PEERS), help=", ".join(PEERS))
    parser.add_argument("--sizes", type=lambda sizes: [int(size) for size in sizes.split(",")], help="of the set's")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5, help="at most 3 of stable-diffusion.cpp")
    parser.add_argument("--isa", choices=["avx2"], help="the best vectors that anybody may use")
    parser.add_argument("--install", action="store_true", help="prepare, and measure nothing")
    args = parser.parse_args()
    unknown = [peer for peer in args.peers if peer not in PEERS]
    if unknown:
        parser.error(f"there is no peer {unknown[0]}; there are {', '.join(PEERS)}")
    if args.rounds < 1 or args.threads < 1:
        parser.error("--rounds and --threads are at least 1")
    if args.isa:
        args.peers = [peer for peer in args.peers if not peer.endswith("bf16")]
    # Everybody on the same processors.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:args.threads])
    try:
        bench = Bench(args)
        if args.sizes:
            bench.sizes = {size: stages for size, stages in bench.sizes.items() if size in args.sizes}
        bench.prepare()
        if args.install:
            return
        bench.measure()
        if bench.rounds:
            bench.tables()
        if args.set == "small":
            bench.picture()
    except Failed as error:
        sys.exit(f"bench_peers.py: {error}")


if __name__ == "__main__":
    main()
