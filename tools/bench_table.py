#!/usr/bin/env python3
"""Prints what `cargo bench` measured last as one table: median time, its 95 % interval, and, where a bench says how much
it does, the rate and its share of what the machine can do at most: the fastest sample of `peak/fma` and `peak/copy`, if
they were measured. In brackets the share of the fastest sample, which is nearer to the truth where other programs, or
other guests of the same host, take their turns.

    bench_table.py [target/criterion]
"""
import json
import pathlib
import sys

UNITS = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns"))
# Criterion's elements are floating-point operations here; each with what is the most of it.
RATES = {"Elements": ("GFLOP/s", "peak/fma"), "Bytes": ("GB/s", "peak/copy")}


def duration(ns):
    scale, unit = next((u for u in UNITS if ns >= u[0]), UNITS[-1])
    return f"{ns / scale:.3g} {unit}"


def read(path):
    """A result's name, median, interval and fastest sample in ns, and what it counts, or None."""
    about = json.loads(path.read_text())
    median = json.loads((path.parent / "estimates.json").read_text())["median"]
    sample = json.loads((path.parent / "sample.json").read_text())
    fastest = min(time / runs for time, runs in zip(sample["times"], sample["iters"]))
    interval = median["confidence_interval"]
    return (about["full_id"], median["point_estimate"], interval["lower_bound"], interval["upper_bound"], fastest,
            about.get("throughput"))


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "target/criterion")
    results = [read(path) for path in sorted(root.glob("**/new/benchmark.json"))]
    if not results:
        sys.exit(f"{root}: no results; run `make bench`")
    peaks = {name: next(iter(count.values())) / fastest for name, *_, fastest, count in results
             if name.startswith("peak/")}
    print("| benchmark | median | 95 % interval | rate | share of the peak |\n|---|---|---|---|---|")
    for name, ns, low, high, fastest, throughput in results:
        rate = share = ""
        for kind, amount in (throughput or {}).items():
            unit, peak = RATES[kind]
            rate = f"{amount / ns:.1f} {unit}"
            if peak in peaks:
                share = f"{100 * amount / ns / peaks[peak]:.0f} % ({100 * amount / fastest / peaks[peak]:.0f} %)"
        print(f"| {name} | {duration(ns)} | {duration(low)} to {duration(high)} | {rate} | {share} |")


if __name__ == "__main__":
    main()
