"""Programs that live on between their turns, and the rounds in which they take them; used by compare.py and train.py."""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import avx2_only

TARGET = Path(__file__).resolve().parent.parent / "target"
OURS = "engraft"


class Failed(Exception):
    """A program that cannot do what it should; the text is its last word."""


class Program:
    """A process that says facts about itself, and answers `time SECONDS` with the seconds of each pass (peers.py)."""

    def __init__(self, command, options):
        self.errors = tempfile.TemporaryFile("w+")
        environment = {**os.environ, **options.environment}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors}
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)
        self.facts = self.answer()
        has_avx512 = self.facts.get("avx512") or self.facts.get("instruction_set") == "avx512"
        if options.isa == "avx2" and has_avx512:
            self.process.kill()
            raise Failed("it sees AVX-512, which --isa avx2 should hide")

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            lines = self.errors.read().strip().splitlines()
            raise Failed(lines[-1] if lines else f"ended with code {self.process.wait()}")
        return json.loads(line)

    def turn(self, seconds):
        print(f"time {seconds}", file=self.process.stdin, flush=True)
        return self.answer()

    def close(self):
        """Ends the process and returns the most memory it has had, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status")
        peak = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
        self.process.stdin.close()
        _, _, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = 0
        # Only where there is no better: it counts processes that this one has started, too. In bytes, on macOS.
        return int(peak[1]) * 1024 if peak else usage.ru_maxrss


def alternate(what, command, batch, options):
    """{program: {images_per_second: [of each round], ...} or {failed: reason}}, each started by `command(program)`."""
    results, running = {}, {}
    for name in options.programs:
        say(f"{what}: {name} starts")
        try:
            running[name] = Program(command(name), options)
            results[name] = {**running[name].facts, "images_per_second": [], "peak_gflops": []}
        except (Failed, subprocess.CalledProcessError) as reason:
            results[name] = {"failed": str(reason)}
    for round in range(options.rounds):
        say(f"{what}: round {round + 1} of {options.rounds}")
        for name in list(running):
            try:
                answer = running[name].turn(options.seconds)
                seconds = answer["seconds"]
                results[name]["images_per_second"].append(batch * len(seconds) / sum(seconds))
                if "peak_gflops" in answer:
                    results[name]["peak_gflops"].append(answer["peak_gflops"])
            except Failed as reason:
                results[name] = {"failed": str(reason)}
                del running[name]
    for name, program in running.items():
        results[name]["peak_memory_bytes"] = program.close()
    return results


def add_options(parser, programs, seconds):
    """The options that all comparisons have."""
    parser.add_argument("--peers", type=names, default=programs, help=f"of {','.join(programs)}")
    parser.add_argument("--size", type=int, default=224, help="side of the images, in pixels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--isa", choices=["native", "avx2"], default="native", help="avx2 hides AVX-512 from all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=seconds, help="of a program's turn in each round")
    parser.add_argument("--engraft", type=Path, action="append", help="our program; again for another build of it")
    parser.add_argument("--add", action="store_true", help="keep what the file of figures has of other networks")


def parse(parser):
    """The options, with `ours` ({name: path}), `programs` (names of all that are there) and `environment` (theirs)."""
    options = parser.parse_args()
    every = parser.get_default("peers")
    for name in set(options.peers) - set(every):
        sys.exit(f"There is no peer {name}; there are {', '.join(every)}.")
    builds = options.engraft or [TARGET / "release" / "engraft"]
    builds = {OURS if number == 1 else f"{OURS}-{number}": path for number, path in enumerate(builds, 1)}
    options.ours = {}
    for name, path in builds.items() if OURS in options.peers else ():
        if not path.exists() or subprocess.run([path, "bench", "--serve", "--help"], capture_output=True).returncode:
            say(f"{name} is left out: {path} is missing or has no `bench --serve`. Build it: cargo build --release")
        else:
            options.ours[name] = path
    options.programs = [name for peer in options.peers for name in (options.ours if peer == OURS else [peer])]
    options.environment = avx2_only(TARGET) if options.isa == "avx2" else {}
    return options


def names(text):
    return text.split(",")


def numbers(text):
    return [int(number) for number in text.split(",")]


def earlier(path, conditions):
    """The runs that a file of figures holds, if they were made like this."""
    if not path.exists():
        return []
    figures = json.loads(path.read_text())
    runs = figures.pop("runs")
    if figures != conditions:
        sys.exit(f"{path} has figures of another kind: {figures}.")
    return runs


def median(result):
    """Images a second, None when the program failed."""
    return statistics.median(result["images_per_second"]) if result.get("images_per_second") else None


def speed_cell(result):
    """The median, and half the range over the rounds."""
    if not median(result):
        return "-"
    speeds = result["images_per_second"]
    return f"{median(result):.1f} ±{(max(speeds) - min(speeds)) / 2 / median(result):.0%}"


def share_of_peak(result, batch):
    """Floating-point operations a second in 10^9, and their share of what the machine did in registers then."""
    if not result.get("peak_gflops"):
        return ["-", "-"]
    rate = result["gflop"] * median(result) / batch
    return [f"{rate:.0f}", f"{rate / statistics.median(result['peak_gflops']):.0%}"]


def geometric_mean(values):
    values = [value for value in values if value]
    return f"{statistics.geometric_mean(values):.2f}" if values else "-"


def markdown(header, rows):
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines)


def describe(conditions, binding, runs):
    """What a reader must know of the figures, in lines."""
    versions, peaks = {}, []
    for result in (result for run in runs for result in run["results"].values()):
        versions.update(result.get("versions", {}))
        peaks += result.get("peak_gflops", [])
    instructions = "AVX2 alone" if conditions["isa"] == "avx2" else "its own instruction set"
    yield f"{conditions['machine']}, {instructions}, {conditions['threads']} threads, {binding}"
    yield f"Load before the first: {runs[0]['load_before']:.1f}"
    if peaks:
        yield f"Peak of multiply-adds: {statistics.median(peaks):.0f} GFLOP/s, {min(peaks):.0f} to {max(peaks):.0f}"
    yield ", ".join(f"{name} {version}" for name, version in versions.items())


def failures(runs):
    """What is missing in the table, and why."""
    for run in runs:
        for name, result in run["results"].items():
            if "failed" in result:
                yield f"{name} has no {run['what']}: {result['failed']}"


def say(text):
    print(text, file=sys.stderr, flush=True)
