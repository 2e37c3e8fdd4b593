"""Times the networks in Engraft and in its peers, alternating, and prints tables.

    python bench/compare.py [--networks a,b] [--batches 1,8] [--peers a,b] [--threads 2] [--rounds 5] [--isa avx2]

Every program keeps one process a network and batch (peers.py; ours is `engraft bench --serve`); each round asks one
after the other for about a second of passes, so that a change of the machine's clock or of its load meets all of them
alike. A figure is the median over the rounds, the spread half the range. All processes are bound to the same cores.

--engraft given again names another build of ours, which takes part as `engraft-2`.
"""

import argparse
import json
import os
from pathlib import Path

import peers
import rounds
from machine import bind, processor
from plot import plot
from rounds import OURS, TARGET, median

NETWORKS = [
    "alexnet",
    "vgg13",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "densenet121",
    "squeezenet1_1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "regnet_y_400mf",
    "convnext_tiny",
    "vit_b_16",
    "swin_t",
]
REFERENCE = "onnxruntime"


def command(name, network, batch, options):
    if name not in options.ours:
        return peers.command(name, network, batch, options.size, options.threads)
    sizes = ["--batch", str(batch), "--size", str(options.size), "--threads", str(options.threads)]
    return [options.ours[name], "bench", network, "--weights", "random", *sizes, "--serve"]


def ratios(results, options):
    """Ours to the reference, to the best peer, and to each of our other builds, None where one is missing; that peer."""
    speeds = {name: median(results.get(name, {})) for name in options.programs}
    speeds = {name: speed for name, speed in speeds.items() if speed}
    ours, *others = [speeds.pop(name, None) for name in options.ours] or [None]
    best = max(speeds, key=speeds.get, default=None)
    to = [speeds.get(REFERENCE), speeds.get(best), *others]
    return [ours / speed if ours and speed else None for speed in to], best


def speeds_table(runs, options):
    """Images a second as lines of Markdown, with what ours is of the machine's peak."""
    programs, builds = options.programs, [*options.ours]
    header = ["network", "batch", *programs, "GFLOP/s", "of peak", f"ours / {REFERENCE}", "ours / best peer"]
    header += [f"ours / {name}" for name in builds[1:]]
    rows = []
    for run in runs:
        cells = [rounds.speed_cell(run["results"].get(name, {})) for name in programs]
        cells += rounds.share_of_peak(run["results"].get(OURS, {}), run["batch"])
        quotients, best = ratios(run["results"], options)
        to = [f"{quotient:.2f}" if quotient else "-" for quotient in quotients]
        to[1] += f" ({best})" if quotients[1] else ""
        rows.append([run["network"], str(run["batch"]), *cells, *to])
    for batch in sorted({run["batch"] for run in runs}):
        quotients = [ratios(run["results"], options)[0] for run in runs if run["batch"] == batch]
        means = [rounds.geometric_mean(column) for column in zip(*quotients)]
        rows.append(["geometric mean", str(batch), *[""] * (len(programs) + 2), *means])
    return rounds.markdown(header, rows)


def starts_table(runs, options):
    """Load and first pass in milliseconds, memory in MB, as lines of Markdown."""
    rows = []
    for run in runs:
        cells = []
        for result in (run["results"].get(name, {}) for name in options.programs):
            if "peak_memory_bytes" in result:
                load, first = 1e3 * result["load_seconds"], 1e3 * result["first_pass_seconds"]
                cells.append(f"{load:.0f} + {first:.0f} ms, {result['peak_memory_bytes'] / 1e6:.0f} MB")
            else:
                cells.append("-")
        rows.append([run["network"], str(run["batch"]), *cells])
    return rounds.markdown(["network", "batch", *options.programs], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=rounds.names, default=NETWORKS)
    parser.add_argument("--batches", type=rounds.numbers, default=[1, 8])
    parser.add_argument("--json", type=Path, default=TARGET / "bench-results.json", help="where the figures go")
    parser.add_argument("--plot", type=Path, default=TARGET / "bench.svg", help="where the plot goes")
    rounds.add_options(parser, [OURS, *peers.NAMES], seconds=1)
    options = rounds.parse(parser)
    if "rten" in options.programs and not peers.RTEN.exists():
        rounds.say(f"rten is left out: {peers.RTEN} is missing; bench/run builds it.")
        options.programs.remove("rten")

    conditions = {"machine": processor(), "isa": options.isa, "size": options.size, "threads": options.threads}
    runs = rounds.earlier(options.json, conditions) if options.add else []
    binding = bind(options.threads)
    for network in options.networks:
        for batch in options.batches:
            what = f"{network}, batch {batch}"
            run = {"what": what, "network": network, "batch": batch, "load_before": os.getloadavg()[0]}
            run["results"] = rounds.alternate(what, lambda name: command(name, network, batch, options), batch, options)
            runs = [other for other in runs if other["what"] != what] + [run]
            # Written after each, so that a run that is stopped leaves what it has.
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps({**conditions, "runs": runs}, indent=1))

    print("\n".join(rounds.describe(conditions, binding, runs)))
    print(f"\nImages a second, {options.size} x {options.size}: median of {options.rounds} rounds and half their range.\n")
    print(speeds_table(runs, options))
    print("\nLoad and first pass, and the most memory that the process had.\n")
    print(starts_table(runs, options))
    print("\n".join(rounds.failures(runs)))
    plot(options.json, options.plot)
    print(f"\nFigures: {options.json}\nPlot: {options.plot}")


if __name__ == "__main__":
    main()
