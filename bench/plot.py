"""Draws what compare.py measured: for each network, each program's speed relative to ONNX Runtime's.

    python bench/plot.py target/bench-results.json target/bench.svg
"""

import json
import statistics
import sys
from pathlib import Path

REFERENCE = "onnxruntime"
# Ours is the one in colour that is filled; the peers have an outline.
MARKERS = {"engraft": "o", "torch": "s", "torch-compile": "D", "openvino": "^", "ncnn": "v", "rten": "P"}


def plot(results, picture):
    """Reads the JSON file `results` and writes `picture`, in the format that its suffix names."""
    import matplotlib

    matplotlib.use("Agg")
    # The same figures give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "engraft"
    from matplotlib import pyplot

    results = json.loads(Path(results).read_text())
    batches = sorted({run["batch"] for run in results["runs"]})
    networks = list(dict.fromkeys(run["network"] for run in results["runs"]))
    size = (5.5 * len(batches) + 1.5, 0.32 * len(networks) + 1.6)
    figure, panels = pyplot.subplots(1, len(batches), figsize=size, sharey=True, squeeze=False)
    for panel, batch in zip(panels[0], batches):
        for name, marker in MARKERS.items():
            points = [
                (speeds[name] / speeds[REFERENCE], networks.index(run["network"]))
                for run in results["runs"]
                if run["batch"] == batch
                for speeds in [medians(run)]
                if name in speeds and REFERENCE in speeds
            ]
            if points:
                ours = name == "engraft"
                colours = {"color": "tab:red", "zorder": 3} if ours else {"facecolors": "none", "edgecolors": "0.35"}
                panel.scatter(*zip(*points), marker=marker, label=name, s=50 if ours else 28, **colours)
        panel.axvline(1, color="0.35", linewidth=1)
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.set_title(f"batch {batch}", fontsize=10)
        panel.set_xlabel("images a second, relative to ONNX Runtime")
        panel.set_yticks(range(len(networks)), networks)
        panel.grid(color="0.9")
        panel.set_axisbelow(True)
        panel.set_ylim(len(networks) - 0.5, -0.5)
    handles, labels = max((panel.get_legend_handles_labels() for panel in panels[0]), key=lambda pair: len(pair[1]))
    figure.legend(handles, labels, loc="outside lower center", ncols=len(MARKERS), frameon=False)
    figure.suptitle(f"{results['machine']}, {results['threads']} threads", fontsize=10)
    figure.set_layout_engine("constrained")
    figure.savefig(picture, metadata={"Date": None} if str(picture).endswith(".svg") else None)


def medians(run):
    """Images a second by program, without those that failed."""
    speeds = {name: result.get("images_per_second") for name, result in run["results"].items()}
    return {name: statistics.median(rounds) for name, rounds in speeds.items() if rounds}


if __name__ == "__main__":
    plot(sys.argv[1], sys.argv[2])
