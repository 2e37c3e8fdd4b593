"""Whole jobs as a user starts them from the shell, by PyTorch and by engraft: wall time and memory of all processes.

    python bench/jobs.py --data DATA --weights WEIGHTS [--threads 2] [--rounds 3] [--isa avx2] [--jobs last,all]

DATA has `train/` and `val/` with a folder a class, WEIGHTS are torchvision's for mobilenet_v2 (.pth or .safetensors).

    train       a head of 256 hidden units on frozen mobilenet_v2, 7 epochs
    predict     one photo, named by mobilenet_v2
    transform   decoding and the evaluation transform alone, on one thread
    last        the last stage of resnet50 (random weights) and a linear head: an epoch after the first, with its validation
    all         everything of mobilenet_v2 and a linear head: likewise

The programs alternate. Training is done by four: the script that people write (torch_train.py), which computes the
backbone in each epoch, on photos that it augments; the one that an expert writes (torch_features.py), which computes it
once a photo, as engraft does; engraft with an empty cache, and engraft with the cache of the run before.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path

import psutil

from machine import avx2_only, bind, processor
from rounds import markdown

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent


def run(command, environment):
    """Wall time, peak memory of the process tree and standard output of a command.

    Pages that processes share are counted once, where the system tells (PSS, on Linux): PyTorch's loader workers are
    forks, and the sum of their resident sets would count the interpreter three times.
    """
    # In a folder of its own, where engraft writes its run.
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as output:
        setting = {"env": {**os.environ, **environment}, "cwd": folder}
        start = time.perf_counter()
        process = subprocess.Popen(command, **setting, stdout=output, stderr=output)
        samples, ended = [0], threading.Event()
        sampler = threading.Thread(target=sample, args=(process.pid, samples, ended))
        sampler.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        sampler.join()
        output.seek(0)
        text = output.read()
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{text}")
    # The kernel's figure for the first process: a short one ends before it is sampled.
    first = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": seconds, "peak_memory_bytes": max(*samples, first), "output": text}


def sample(pid, samples, ended):
    """Appends the memory of the process tree now and then. Not oftener: the kernel walks all pages for it."""
    while not ended.wait(0.5):
        samples.append(memory(pid))


def memory(pid):
    """Bytes that a process and those below it have now."""
    total = 0
    try:
        first = psutil.Process(pid)
        for process in [first, *first.children(recursive=True)]:
            full = process.memory_full_info()
            total += getattr(full, "pss", full.rss)
    except psutil.NoSuchProcess:
        pass
    return total


def alternate(rounds, commands, environment, score=None):
    """Runs the commands in turn; the median of each one's seconds (or of `score(output)`), and its largest peak."""
    runs = {name: [] for name in commands}
    for round in range(rounds):
        # One cache a round: empty for the first command of ours, full for the second.
        with tempfile.TemporaryDirectory() as cache:
            for name, command in commands.items():
                print(f"round {round + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
                runs[name].append(run(command, {**environment, "ENGRAFT_CACHE": cache}))
    return {
        name: {
            "median": statistics.median(score(r["output"]) if score else r["seconds"] for r in each),
            "peak_memory_bytes": max(r["peak_memory_bytes"] for r in each),
            "output": each[-1]["output"],
            "each": [score(r["output"]) if score else r["seconds"] for r in each],
        }
        for name, each in runs.items()
    }


def images_a_second(output):
    return float(re.search(r"([\d.]+) a second", output)[1])


def epoch_seconds(output):
    """The median over the epochs after the first, of PyTorch's lines or of engraft's JSON."""
    ours = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    seconds = [event["seconds"] for event in ours if event["event"] == "epoch"]
    seconds += [float(found) for found in re.findall(r"^epoch \d+: ([\d.]+) s", output, re.MULTILINE)]
    return statistics.median(seconds[1:])


def random_weights(path):
    """A file of resnet50's initial weights by torchvision."""
    import torch
    from torchvision import models

    torch.manual_seed(0)
    torch.save(models.resnet50().state_dict(), path)
    return path


def absolute(text):
    return Path(text).resolve()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=absolute, required=True)
    parser.add_argument("--weights", type=absolute, required=True)
    parser.add_argument("--jobs", type=lambda text: text.split(","), default=["train", "predict", "transform"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--isa", choices=["native", "avx2"], default="native", help="avx2 hides AVX-512 from all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engraft", type=absolute, default=ROOT / "target" / "release" / "engraft", help="our program")
    parser.add_argument(
        "--throughput",
        type=absolute,
        default=ROOT / "target" / "release" / "examples" / "throughput",
        help="our decoding alone: cargo build --release -p engraft-data --example throughput",
    )
    parser.add_argument("--json", type=Path, default=ROOT / "target" / "bench-jobs.json", help="where the figures go")
    options = parser.parse_args()
    photo = min((options.data / "train").rglob("*.jpg"), default=None)
    if photo is None:
        sys.exit(f"There are no .jpg files below {options.data / 'train'}; name a folder of photos with --data.")

    binding = bind(options.threads)
    environment = avx2_only(ROOT / "target") if options.isa == "avx2" else {}
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    data, weights, threads = options.data, options.weights, options.threads
    head = "--hidden-units 256 --dropout 0.2 --epochs 7 --learning-rate 0.003 --batch-size 64".split()
    training = [options.engraft, "train", data, "--arch", "mobilenet_v2", "--weights", weights, *head]
    python = [sys.executable]
    scratch = tempfile.TemporaryDirectory()
    resnet50 = random_weights(Path(scratch.name) / "resnet50.pth") if "last" in options.jobs else ""
    theirs = [*python, BENCH / "torch_finetune.py", data]

    def ours(arch, weights, part, epochs):
        steps = f"--train {part} --epochs {epochs} --batch-size 32 --json".split()
        return [options.engraft, "train", data, "--arch", arch, "--weights", weights, *steps]

    jobs = {
        "train": {
            "PyTorch": [*python, BENCH / "torch_train.py", data, weights, str(threads)],
            "PyTorch, features once": [*python, BENCH / "torch_features.py", data, weights, str(threads)],
            "engraft": training,
            "engraft, from its cache": training,
        },
        "predict": {
            "PyTorch": [*python, BENCH / "torch_predict.py", photo, weights, str(threads)],
            "engraft": [options.engraft, "predict", "--arch", "mobilenet_v2", "--weights", weights, photo],
        },
        "transform": {
            "PyTorch": [*python, BENCH / "torch_transform.py", data / "train"],
            "engraft": [options.throughput, data / "train"],
        },
        "last": {
            "PyTorch": [*theirs, resnet50, str(threads), "resnet50", "last", "usual", "3"],
            "PyTorch, features once": [*theirs, resnet50, str(threads), "resnet50", "last", "expert", "3"],
            "engraft": ours("resnet50", resnet50, "last:1", 4),
        },
        "all": {
            "PyTorch": [*theirs, weights, str(threads), "mobilenet_v2", "all", "usual", "3"],
            "PyTorch, channels last": [*theirs, weights, str(threads), "mobilenet_v2", "all", "expert", "3"],
            "engraft": ours("mobilenet_v2", weights, "all", 3),
        },
    }
    scores = {"transform": images_a_second, "last": epoch_seconds, "all": epoch_seconds}
    instructions = "AVX2 alone" if options.isa == "avx2" else "its own instruction set"
    print(f"{processor()}, {instructions}, {threads} threads, {binding}, load before {os.getloadavg()[0]:.1f}")
    print(f"torch {version('torch')}, torchvision {version('torchvision')}, Pillow {version('pillow')}")
    print(f"Median of {options.rounds} rounds, and the most memory of all. How often engraft, with an empty cache, is as fast,")
    print("and what part of the memory it needs, stands last.\n")
    rows, results = [], {}
    for job in options.jobs:
        is_rate = job == "transform"
        results[job] = alternate(options.rounds, jobs[job], environment, scores.get(job))
        reference = results[job]["engraft"]
        for program, result in results[job].items():
            figure = f"{result['median']:.0f} images/s" if is_rate else f"{result['median']:.2f} s"
            faster = reference["median"] / result["median"]
            faster = faster if is_rate else 1 / faster
            share = reference["peak_memory_bytes"] / result["peak_memory_bytes"]
            memory = f"{result['peak_memory_bytes'] / 1e6:.0f} MB"
            rows.append([job, program, figure, memory, f"{faster:.1f} x", f"{share:.0%}"])
    print(markdown(["job", "program", "time", "memory", "engraft is faster", "engraft's memory"], rows))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1))
    for program, result in results.get("train", {}).items():
        print(f"\nThe last lines of {program}'s training:\n" + "\n".join(result["output"].strip().splitlines()[-3:]))
    print(f"\nFigures: {options.json}")
    scratch.cleanup()


if __name__ == "__main__":
    main()
