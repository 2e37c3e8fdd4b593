"""Times the networks in Engraft and in its peers, alternating, and prints a table.

    python bench/compare.py [--networks a,b] [--batches 1,8] [--peers a,b] [--threads 2] [--rounds 5]

Every peer keeps one process a network and batch (peers.py); each round asks one after the other for about a second
of passes, so that a change of the machine's clock or of its load meets all of them alike. A figure is the median over
the rounds, the spread half the range. All processes are bound to the same cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import peers
from machine import bind, processor
from plot import plot

TARGET = Path(__file__).parent.parent / "target"
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
OURS, REFERENCE = "engraft", "onnxruntime"


class Failed(Exception):
    """A peer that cannot run a network; the text is its last word."""


class Peer:
    """A process that answers `time SECONDS` with the seconds of each pass."""

    def __init__(self, command):
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )
        self.facts = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            lines = self.errors.read().strip().splitlines()
            raise Failed(lines[-1] if lines else f"ended with code {self.process.wait()}")
        return json.loads(line)

    def images_per_second(self, batch, seconds):
        print(f"time {seconds}", file=self.process.stdin, flush=True)
        times = self.answer()["seconds"]
        return batch * len(times) / sum(times)

    def close(self):
        """Ends the process and returns what it said last."""
        self.process.stdin.close()
        last = self.process.stdout.read()
        self.process.wait()
        return json.loads(last)


class Engraft:
    """`engraft bench`, which times itself: one process a round."""

    def __init__(self, program, network, batch, threads):
        self.command = [program, "bench", network, "--weights", "random", "--json"]
        self.command += ["--batch", str(batch), "--threads", str(threads)]
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()
        self.facts = {"versions": {"engraft": version[-1]}}
        self.peak = 0

    def images_per_second(self, batch, seconds):
        run = subprocess.run(self.command, capture_output=True, text=True)
        if run.returncode:
            raise Failed((run.stderr.strip() or f"ended with code {run.returncode}").splitlines()[-1])
        answer = json.loads(run.stdout)
        answer = answer[0] if isinstance(answer, list) else answer
        self.peak = max(self.peak, answer["peak_memory_bytes"])
        return answer["images_per_second"]

    def close(self):
        return {"peak_memory_bytes": self.peak}


def start(name, network, batch, options):
    if name == OURS:
        return Engraft(options.engraft, network, batch, options.threads)
    return Peer(peers.command(name, network, batch, options.threads))


def measure(network, batch, options):
    """{peer: {images_per_second: [of each round], ...} or {failed: reason}}."""
    results, running = {}, {}
    for name in options.peers:
        say(f"{network}, batch {batch}: {name} starts")
        try:
            running[name] = start(name, network, batch, options)
            results[name] = {**running[name].facts, "images_per_second": []}
        except Failed as reason:
            results[name] = {"failed": str(reason)}
    for round in range(options.rounds):
        say(f"{network}, batch {batch}: round {round + 1} of {options.rounds}")
        for name in list(running):
            try:
                speed = running[name].images_per_second(batch, options.seconds)
                results[name]["images_per_second"].append(speed)
            except Failed as reason:
                results[name] = {"failed": str(reason)}
                del running[name]
    for name, peer in running.items():
        results[name].update(peer.close())
    return results


def median(result):
    """Images a second, None when the peer failed."""
    return statistics.median(result["images_per_second"]) if "images_per_second" in result else None


def spread(result):
    """Half the range over the rounds, relative to the median."""
    speeds = result["images_per_second"]
    return (max(speeds) - min(speeds)) / 2 / median(result)


def ratios(results):
    """Ours to the reference and ours to the best peer, with its name; None where one of the two is missing."""
    speeds = {name: median(result) for name, result in results.items() if median(result)}
    ours = speeds.pop(OURS, None)
    best = max(speeds, key=speeds.get, default=None)
    to_reference = ours / speeds[REFERENCE] if ours and REFERENCE in speeds else None
    return to_reference, ours / speeds[best] if ours and best else None, best


def table(runs, names):
    """The table as lines of Markdown."""
    header = ["network", "batch", *names, f"ours / {REFERENCE}", "ours / best peer"]
    rows = []
    for run in runs:
        results = [run["results"][name] for name in names]
        cells = [f"{median(result):.1f} ±{spread(result):.0%}" if median(result) else "-" for result in results]
        to_reference, to_best, best = ratios(run["results"])
        cells.append(f"{to_reference:.2f}" if to_reference else "-")
        cells.append(f"{to_best:.2f} ({best})" if to_best else "-")
        rows.append([run["network"], str(run["batch"]), *cells])
    for batch in sorted({run["batch"] for run in runs}):
        pairs = [ratios(run["results"])[:2] for run in runs if run["batch"] == batch]
        cells = [geometric_mean(column) for column in zip(*pairs)]
        rows.append(["geometric mean", str(batch), *[""] * len(names), *cells])
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    lines = [header, ["-" * width for width in widths], *rows]
    return ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines]


def geometric_mean(values):
    values = [value for value in values if value]
    return f"{statistics.geometric_mean(values):.2f}" if values else "-"


def say(text):
    print(text, file=sys.stderr, flush=True)


def main():
    every = [OURS, *peers.NAMES]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=lambda text: text.split(","), default=NETWORKS)
    parser.add_argument("--batches", type=lambda text: [int(batch) for batch in text.split(",")], default=[1, 8])
    parser.add_argument("--peers", type=lambda text: text.split(","), default=every, help=f"of {','.join(every)}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1, help="of a peer's turn in each round")
    parser.add_argument("--engraft", type=Path, default=TARGET / "release" / "engraft", help="our program")
    parser.add_argument("--json", type=Path, default=TARGET / "bench-results.json", help="where the figures go")
    parser.add_argument("--plot", type=Path, default=TARGET / "bench.svg", help="where the plot goes")
    options = parser.parse_args()
    for name in set(options.peers) - set(every):
        sys.exit(f"There is no peer {name}; there are {', '.join(every)}.")
    options.peers = [name for name in options.peers if usable(name, options)]

    conditions = {"machine": processor(), "threads": options.threads, "binding": bind(options.threads)}
    conditions["load_before"] = os.getloadavg()[0]
    runs = []
    for network in options.networks:
        for batch in options.batches:
            runs.append({"network": network, "batch": batch, "results": measure(network, batch, options)})
            # Written after each, so that a run that is stopped leaves what it has.
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps({**conditions, "runs": runs}, indent=1))

    versions = {}
    for run in runs:
        for result in run["results"].values():
            versions.update(result.get("versions", {}))
    print(f"{conditions['machine']}, {options.threads} threads, {conditions['binding']}, "
          f"load before {conditions['load_before']:.1f}")
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    print(f"Images a second, {peers.SIZE} x {peers.SIZE}, median of {options.rounds} rounds and half their range.\n")
    print("\n".join(table(runs, options.peers)))
    for run in runs:
        for name, result in run["results"].items():
            if "failed" in result:
                print(f"{name} has no {run['network']} at batch {run['batch']}: {result['failed']}")
    plot(options.json, options.plot)
    print(f"\nFigures: {options.json}\nPlot: {options.plot}")


def usable(name, options):
    """Whether a program is there at all; says why not."""
    if name == OURS:
        command = [options.engraft, "bench", "--help"]
        if not options.engraft.exists() or subprocess.run(command, capture_output=True).returncode:
            say(f"engraft is left out: {options.engraft} is missing or has no `bench`. Build it: cargo build --release")
            return False
    if name == "rten" and not peers.RTEN.exists():
        say(f"rten is left out: {peers.RTEN} is missing; bench/run builds it.")
        return False
    return True


if __name__ == "__main__":
    main()
