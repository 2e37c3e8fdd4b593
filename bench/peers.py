"""The peers: other programs that run the same networks on a CPU, one process each.

    python bench/peers.py PEER NETWORK BATCH THREADS

loads the network with random weights, compares its logits with PyTorch's, and prints a line of JSON: `versions`,
`error` (the largest difference, relative to the largest logit) and `load_seconds`. Then it answers each line
`time SECONDS` on its standard input with `{"seconds": [of each pass]}`, and the end of its input with
`{"peak_memory_bytes": ...}`.

    python bench/peers.py export NETWORK BATCH
    python bench/peers.py export-ncnn NETWORK

write the files that the peers read into target/bench-cache; the peers call them when the files are missing.
"""

import json
import os
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

BENCH = Path(__file__).parent
CACHE = BENCH.parent / "target" / "bench-cache"
SIZE = 224
# The largest error at which a peer still counts. f32 stays far below it; bf16 and f16, which some peers take by
# themselves on machines that have them, do not.
TOLERANCE = 1e-3


def torch_model(network):
    """torchvision's network with random weights, the same in every process."""
    import torch
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.get_model(network, weights=None).eval()
    for parameter in model.parameters():
        # vit's head starts as zeros, and logits that are all zero compare equal to anything.
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def exported(network, batch):
    """The folder with `model.onnx`, `input.npy` and `logits.npy`."""
    folder = CACHE / f"{network}-{batch}"
    if not (folder / "logits.npy").exists():
        call_self("export", network, batch)
    return folder


def export(network, batch):
    import numpy
    import torch

    folder = CACHE / f"{network}-{batch}"
    folder.mkdir(parents=True, exist_ok=True)
    model = torch_model(network)
    images = torch.randn(batch, 3, SIZE, SIZE)
    with torch.inference_mode():
        logits = model(images)
    torch.onnx.export(model, (images,), folder / "model.onnx", dynamo=True, external_data=False, verbose=False)
    numpy.save(folder / "input.npy", images.numpy())
    # Last: it says that the folder is complete.
    numpy.save(folder / "logits.npy", logits.numpy())


def exported_for_ncnn(network):
    """The folder with `model.ncnn.param` and `model.ncnn.bin`, for batches of one: ncnn has no others."""
    folder = CACHE / f"{network}-ncnn"
    if not (folder / "model.ncnn.bin").exists():
        call_self("export-ncnn", network)
    return folder


def export_for_ncnn(network):
    import tempfile

    import torch

    folder = CACHE / f"{network}-ncnn"
    folder.mkdir(parents=True, exist_ok=True)
    # pnnx writes five files more than are wanted.
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        torch.jit.trace(torch_model(network), torch.randn(1, 3, SIZE, SIZE)).save(f"{scratch}/model.pt")
        # The program, not the module of that name: that one imports the Python it wrote, in which some names are none.
        pnnx = [Path(sys.executable).parent / "pnnx", "model.pt", f"inputshape=[1,3,{SIZE},{SIZE}]", "fp16=0"]
        subprocess.run(pnnx, check=True, stdout=sys.stderr, cwd=scratch)
        for name in ["model.ncnn.param", "model.ncnn.bin"]:
            os.replace(f"{scratch}/{name}", folder / name)


def call_self(*arguments):
    command = [sys.executable, Path(__file__).resolve(), *map(str, arguments)]
    subprocess.run(command, check=True, stdout=sys.stderr)


class Torch:
    """PyTorch as it comes: eager, channels last."""

    package = "torch"

    def __init__(self, network, batch, threads):
        import torch

        self.torch = torch
        torch.set_num_threads(threads)
        self.model = torch_model(network).to(memory_format=torch.channels_last)

    def input(self, images):
        return self.torch.from_numpy(images).to(memory_format=self.torch.channels_last)

    def run(self, images):
        with self.torch.inference_mode():
            return self.model(images).numpy()


class TorchCompile(Torch):
    """PyTorch compiled by inductor, with the weights frozen into the program."""

    def __init__(self, network, batch, threads):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(CACHE / "inductor"))
        super().__init__(network, batch, threads)
        import torch._inductor.config

        torch._inductor.config.freezing = True
        self.model = torch.compile(self.model)

    def run(self, images):
        # Not inference_mode, under which inductor does not freeze.
        with self.torch.no_grad():
            return self.model(images).numpy()


class OnnxRuntime:
    package = "onnxruntime"

    def __init__(self, network, batch, threads):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        model = exported(network, batch) / "model.onnx"
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.name = self.session.get_inputs()[0].name

    def input(self, images):
        return {self.name: images}

    def run(self, images):
        return self.session.run(None, images)[0]


class OpenVino:
    """OpenVINO, hinted to latency: one request that has all threads."""

    package = "openvino"

    def __init__(self, network, batch, threads):
        import openvino

        model = exported(network, batch) / "model.onnx"
        hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        self.request = openvino.compile_model(model, "CPU", hints).create_infer_request()

    def input(self, images):
        return images

    def run(self, images):
        return self.request.infer([images], share_inputs=True, share_outputs=True)[0]


class Ncnn:
    """ncnn, one image after the other: it has no batches."""

    package = "ncnn"

    def __init__(self, network, batch, threads):
        import ncnn

        self.ncnn = ncnn
        self.net = ncnn.Net()
        self.net.opt.num_threads = threads
        for option in ["use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"]:
            setattr(self.net.opt, option, False)
        folder = exported_for_ncnn(network)
        self.net.load_param(str(folder / "model.ncnn.param"))
        self.net.load_model(str(folder / "model.ncnn.bin"))

    def input(self, images):
        return [self.ncnn.Mat(image).clone() for image in images]

    def run(self, images):
        import numpy

        logits = []
        for image in images:
            extractor = self.net.create_extractor()
            extractor.input("in0", image)
            logits.append(numpy.array(extractor.extract("out0")[1]))
        return numpy.stack(logits)


PEERS = {"torch": Torch, "torch-compile": TorchCompile, "onnxruntime": OnnxRuntime, "openvino": OpenVino, "ncnn": Ncnn}
# rten speaks the protocol from Rust.
RTEN = BENCH.parent / "target" / "bench-rten" / "release" / "rten-peer"
NAMES = [*PEERS, "rten"]


def command(peer, network, batch, threads):
    """The command that starts a peer's process."""
    if peer == "rten":
        return [RTEN, exported(network, batch), str(threads)]
    return [sys.executable, Path(__file__).resolve(), peer, network, str(batch), str(threads)]


def serve(peer, network, batch, threads):
    """The loop that the head of this file describes."""
    import numpy

    started = time.perf_counter()
    peer = peer(network, batch, threads)
    load_seconds = time.perf_counter() - started
    folder = exported(network, batch)
    images, logits = peer.input(numpy.load(folder / "input.npy")), numpy.load(folder / "logits.npy")
    error = float(abs(peer.run(images) - logits).max() / abs(logits).max())
    # `not <=`, so that NaN counts as an error.
    if not error <= TOLERANCE:
        sys.exit(f"its logits differ from PyTorch's by {error:.1e} of the largest")
    say(versions={peer.package: version(peer.package)}, error=error, load_seconds=load_seconds)
    for request in sys.stdin:
        seconds = float(request.split()[1])
        # Not timed: the caches are the previous peer's, and its threads may still spin.
        passes(peer, images, 0.2 * seconds, least=1)
        say(seconds=passes(peer, images, seconds, least=2))
    # In kilobytes, except on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    say(peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def passes(peer, images, seconds, least):
    """Seconds of each of the passes that fill `seconds`."""
    times = []
    while len(times) < least or sum(times) < seconds:
        start = time.perf_counter()
        peer.run(images)
        times.append(time.perf_counter() - start)
    return times


def say(**facts):
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["export", network, batch]:
            export(network, int(batch))
        case ["export-ncnn", network]:
            export_for_ncnn(network)
        case [peer, network, batch, threads]:
            # Before the peers' libraries are loaded, which read it then.
            os.environ["OMP_NUM_THREADS"] = threads
            serve(PEERS[peer], network, int(batch), int(threads))
        case _:
            sys.exit(__doc__)
