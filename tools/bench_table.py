#!/usr/bin/env python3
"""Prints what `cargo bench` measured last as one table: median time, its 95 % interval, and the rate where there is one.

    bench_table.py [target/criterion]
"""
import json
import pathlib
import sys

UNITS = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns"))


def duration(ns):
    scale, unit = next((u for u in UNITS if ns >= u[0]), UNITS[-1])
    return f"{ns / scale:.3g} {unit}"


def rate(throughput, ns):
    """Elements or bytes a second; criterion's elements are floating-point operations here."""
    for key, unit in (("Elements", "GFLOP/s"), ("Bytes", "GB/s")):
        if throughput and key in throughput:
            return f"{throughput[key] / ns:.1f} {unit}"
    return ""


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "target/criterion")
    rows = []
    for path in sorted(root.glob("**/new/benchmark.json")):
        about = json.loads(path.read_text())
        median = json.loads((path.parent / "estimates.json").read_text())["median"]
        interval = median["confidence_interval"]
        ns = median["point_estimate"]
        rows.append((about["full_id"], duration(ns),
                     f"{duration(interval['lower_bound'])} to {duration(interval['upper_bound'])}",
                     rate(about.get("throughput"), ns)))
    if not rows:
        sys.exit(f"{root}: no results; run `make bench`")
    print("| benchmark | median | 95 % interval | rate |\n|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
