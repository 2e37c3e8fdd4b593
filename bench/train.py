"""Times a step of training in Engraft and in PyTorch, eager and compiled, alternating, and prints tables.

    python bench/train.py [--networks a,b] [--batches 16] [--optimizers adam,sgd] [--norms live,frozen] [--isa avx2]

A step is forward, backward and update of all parameters, on the same images each time. Programs, rounds and figures are
those of compare.py; ours is `engraft bench --train --serve`. Frozen norms use their running statistics; their weights
are trained like all others.

    python bench/train.py torch|torch-compile NETWORK BATCH SIZE OPTIMIZER NORM THREADS

is one process of PyTorch.
"""

import argparse
import json
import math
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

import peers
import rounds
from machine import bind, processor
from rounds import OURS, TARGET, median

NETWORKS = [
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "efficientnet_b0",
    "densenet121",
    "vgg13",
    "vit_b_16",
    "convnext_tiny",
]
PEERS = ["torch", "torch-compile"]


def serve(peer, network, batch, size, optimizer, norm, threads):
    """The loop that peers.py describes; a pass is a step."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    model = peers.torch_model(network, size).to(memory_format=torch.channels_last).train()
    if norm == "frozen":
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch,))
    if peer == "torch-compile":
        # Takes seconds, and is no part of loading.
        import torch._inductor

        peers.keep_inductors_files()

    started = time.perf_counter()
    # Fused: one loop over all that an update reads and writes, instead of one an operation.
    if optimizer == "adam":
        update = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    else:
        update = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)
    loss_of = nn.CrossEntropyLoss()
    forward = lambda images, labels: loss_of(model(images), labels)
    if peer == "torch-compile":
        forward = torch.compile(forward)

    def step():
        update.zero_grad()
        loss = forward(images, labels)
        loss.backward()
        update.step()
        return loss.item()

    load_seconds = time.perf_counter() - started
    started = time.perf_counter()
    loss = step()
    first_pass_seconds = time.perf_counter() - started
    if not math.isfinite(loss):
        sys.exit(f"its first loss is {loss}")
    peers.say(
        versions={"torch": version("torch")},
        avx512=peers.sees_avx512(),
        load_seconds=load_seconds,
        first_pass_seconds=first_pass_seconds,
    )
    peers.answer(step)


def command(name, network, batch, optimizer, norm, options):
    size, threads = str(options.size), str(options.threads)
    if name not in options.ours:
        arguments = [name, network, str(batch), size, optimizer, norm, threads]
        return [sys.executable, Path(__file__).resolve(), *arguments]
    sizes = ["--batch", str(batch), "--size", size, "--threads", threads]
    training = ["--train", "--optimizer", optimizer, "--norm", norm]
    return [options.ours[name], "bench", network, "--weights", "random", *sizes, *training, "--serve"]


def table(runs, options):
    """Images a second and MB as lines of Markdown."""
    header = ["network", "batch", "optimizer", "norms", *options.programs, "GFLOP/s", "of peak", "ours / best", "memory"]
    rows, quotients = [], []
    for run in runs:
        results = {name: run["results"].get(name, {}) for name in options.programs}
        cells = [with_memory(result) for result in results.values()]
        cells += rounds.share_of_peak(results.get(OURS, {}), run["batch"])
        to_best = quotient(results, median, max)
        quotients.append(to_best)
        memory = quotient(results, lambda result: result.get("peak_memory_bytes"), min)
        cells += [f"{to_best:.2f}" if to_best else "-", f"{memory:.2f}" if memory else "-"]
        rows.append([run["network"], str(run["batch"]), run["optimizer"], run["norm"], *cells])
    last = [""] * (len(options.programs) + 5)
    rows.append(["geometric mean", *last, rounds.geometric_mean(quotients), ""])
    return rounds.markdown(header, rows)


def with_memory(result):
    memory = f", {result['peak_memory_bytes'] / 1e6:.0f} MB" if "peak_memory_bytes" in result else ""
    return rounds.speed_cell(result) + memory


def quotient(results, value, best):
    """Our value to the best of PyTorch's two; None where one is missing."""
    theirs = [value(results[name]) for name in PEERS if name in results and value(results[name])]
    ours = value(results.get(OURS, {}))
    return ours / best(theirs) if ours and theirs else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=rounds.names, default=NETWORKS)
    parser.add_argument("--batches", type=rounds.numbers, default=[16])
    parser.add_argument("--optimizers", type=rounds.names, default=["adam"], help="of adam,sgd")
    parser.add_argument("--norms", type=rounds.names, default=["live"], help="of live,frozen")
    parser.add_argument("--json", type=Path, default=TARGET / "bench-training.json", help="where the figures go")
    rounds.add_options(parser, [OURS, *PEERS], seconds=2)
    options = rounds.parse(parser)

    conditions = {"machine": processor(), "isa": options.isa, "size": options.size, "threads": options.threads}
    runs = rounds.earlier(options.json, conditions) if options.add else []
    binding = bind(options.threads)
    cases = [
        (network, batch, optimizer, norm)
        for network in options.networks
        for batch in options.batches
        for optimizer in options.optimizers
        for norm in options.norms
    ]
    for network, batch, optimizer, norm in cases:
        what = f"{network}, batch {batch}, {optimizer}, {norm} norms"
        run = {"what": what, "network": network, "batch": batch, "optimizer": optimizer, "norm": norm}
        run["load_before"] = os.getloadavg()[0]
        start = lambda name: command(name, network, batch, optimizer, norm, options)
        run["results"] = rounds.alternate(what, start, batch, options)
        runs = [other for other in runs if other["what"] != what] + [run]
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({**conditions, "runs": runs}, indent=1))

    print("\n".join(rounds.describe(conditions, binding, runs)))
    print(f"\nImages a second of training, {options.size} x {options.size}: median of {options.rounds} rounds and half")
    print("their range, and the most memory that the process had.\n")
    print(table(runs, options))
    print("\n".join(rounds.failures(runs)))
    print(f"\nFigures: {options.json}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case [("torch" | "torch-compile") as peer, network, batch, size, optimizer, norm, threads]:
            # Before torch is loaded, which reads it then.
            os.environ["OMP_NUM_THREADS"] = threads
            serve(peer, network, int(batch), int(size), optimizer, norm, int(threads))
        case _:
            main()
