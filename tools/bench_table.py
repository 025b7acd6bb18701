#!/usr/bin/env python3
"""Prints what `cargo bench` measured last as one table: median time, its 95 % interval, and, where a bench says how much
it does, the rate and its share of what the machine can do at most (`peak/fma` and `peak/copy`, if they were measured).

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
    """A result's name, median and interval in ns, what it counts (or None), and how much of that it does in a ns."""
    about = json.loads(path.read_text())
    median = json.loads((path.parent / "estimates.json").read_text())["median"]
    ns, interval = median["point_estimate"], median["confidence_interval"]
    throughput = about.get("throughput") or {}
    kind = next((kind for kind in RATES if kind in throughput), None)
    return (about["full_id"], ns, interval["lower_bound"], interval["upper_bound"],
            kind, throughput[kind] / ns if kind else 0.0)


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "target/criterion")
    results = [read(path) for path in sorted(root.glob("**/new/benchmark.json"))]
    if not results:
        sys.exit(f"{root}: no results; run `make bench`")
    peaks = {name: rate for name, *_, rate in results}
    print("| benchmark | median | 95 % interval | rate | share of the peak |\n|---|---|---|---|---|")
    for name, ns, low, high, kind, rate in results:
        unit, peak = RATES.get(kind, ("", ""))
        row = (name, duration(ns), f"{duration(low)} to {duration(high)}",
               f"{rate:.1f} {unit}" if kind else "",
               f"{100 * rate / peaks[peak]:.0f} %" if peak in peaks and peak != name else "")
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
