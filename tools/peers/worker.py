"""A peer in a process of its own, which loads its models once and then does a round whenever it is told to.

The worker's side is `serve`, the other is `Worker`. They speak JSON, a line each way: first what `load` tells, then for each
line on the worker's standard input the seconds of every stage of one round. What the libraries print goes to stderr.
"""
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


class Failed(Exception):
    """A peer cannot be measured; the message says why, in one line."""


def peak_memory():
    """The most memory that this process has had resident, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise Failed("/proc/self/status has no VmHWM")


def serve(load):
    """`load` returns (facts, round); `round(i)` returns the seconds of each stage. Only `load` itself counts as loading."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(facts):
        answers.write(json.dumps(facts) + "\n")
        answers.flush()

    try:
        start = time.perf_counter()
        facts, one_round = load()
        # Whoever imports packages in `load` says what is to be counted.
        answer({"load": time.perf_counter() - start, **facts})
        for index, _ in enumerate(sys.stdin):
            wall, busy = time.perf_counter(), time.process_time()
            seconds = one_round(index)
            wall, busy = time.perf_counter() - wall, time.process_time() - busy
            answer({"seconds": seconds, "busy": busy / wall, "peak": peak_memory()})
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}".splitlines()[0]})


def read_ahead(folder):
    """Brings a model's files into the page cache, so that loading is of the same kind for everybody."""
    for path in Path(folder).rglob("*"):
        if path.is_file():
            with open(path, "rb", buffering=0) as file:
                while file.read(1 << 24):
                    pass


class Worker:
    """A peer's process, seen from outside."""

    def __init__(self, command, environment, log):
        self.log = open(log, "w")
        self.process = subprocess.Popen(command, env=environment, text=True, stderr=self.log,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.facts = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            raise Failed(f"ended with status {code}" + (", perhaps for want of memory" if code == -9 else "")
                         + f" ({self.log.name})")
        facts = json.loads(line)
        if "error" in facts:
            raise Failed(facts["error"])
        return facts

    def round(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.log.close()


def run(command, environment, log):
    """Runs a program to its end; (its output, seconds, processors busy, most bytes resident)."""
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode(errors="replace")
    Path(log).write_text(text)
    if process.returncode != 0:
        raise Failed(f"ended with status {process.returncode} ({log})")
    return text, seconds, (usage.ru_utime + usage.ru_stime) / seconds, usage.ru_maxrss * 1024
