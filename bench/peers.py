"""The peers: other programs that run the same networks on a CPU, one process each.

    python bench/peers.py PEER NETWORK BATCH SIZE THREADS

loads the network with random weights, compares its logits with PyTorch's, and prints a line of JSON: `versions`,
`error` (the largest difference, relative to the largest logit), `avx512` (whether the process sees a machine that has
it), `load_seconds` and `first_pass_seconds`. Then it answers each line `time SECONDS` on its standard input with
`{"seconds": [of each pass]}`, and ends with its input. Loading is what lies between the network, in PyTorch or in a
file, and the first pass; that may compile or pack as well. Starting Python and importing the peer is neither.

    python bench/peers.py export NETWORK BATCH SIZE
    python bench/peers.py export-ncnn NETWORK SIZE

write the files that the peers read into target/bench-cache; the peers call them when the files are missing.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

BENCH = Path(__file__).parent
CACHE = BENCH.parent / "target" / "bench-cache"
# The largest error at which a peer still counts. f32 stays far below it; bf16 and f16, which some peers take by
# themselves on machines that have them, do not.
TOLERANCE = 1e-3


def torch_model(network, size):
    """torchvision's network with random weights, the same in every process, for images of this side."""
    import torch
    import torchvision

    torch.manual_seed(0)
    # Of all, these alone have weights that depend on it.
    options = {"image_size": size} if network.startswith("vit_") else {}
    model = torchvision.models.get_model(network, weights=None, **options).eval()
    for parameter in model.parameters():
        # vit's head starts as zeros, and logits that are all zero compare equal to anything.
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def exported(network, batch, size):
    """The folder with `model.onnx`, `input.npy` and `logits.npy`."""
    folder = CACHE / f"{network}-{batch}-{size}"
    if not (folder / "logits.npy").exists():
        call_self("export", network, batch, size)
    return folder


def export(network, batch, size):
    import numpy
    import torch

    folder = CACHE / f"{network}-{batch}-{size}"
    folder.mkdir(parents=True, exist_ok=True)
    model = torch_model(network, size)
    images = torch.randn(batch, 3, size, size)
    with torch.inference_mode():
        logits = model(images)
    torch.onnx.export(model, (images,), folder / "model.onnx", dynamo=True, external_data=False, verbose=False)
    numpy.save(folder / "input.npy", images.numpy())
    # Last: it says that the folder is complete.
    numpy.save(folder / "logits.npy", logits.numpy())


def exported_for_ncnn(network, size):
    """The folder with `model.ncnn.param` and `model.ncnn.bin`, for batches of one: ncnn has no others."""
    folder = CACHE / f"{network}-ncnn-{size}"
    if not (folder / "model.ncnn.bin").exists():
        call_self("export-ncnn", network, size)
    return folder


def export_for_ncnn(network, size):
    import tempfile

    import torch

    folder = CACHE / f"{network}-ncnn-{size}"
    folder.mkdir(parents=True, exist_ok=True)
    # pnnx writes five files more than are wanted.
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        images = torch.randn(1, 3, size, size)
        # Unchecked: attention is traced in one way and checked in another.
        torch.jit.trace(torch_model(network, size), images, check_trace=False).save(f"{scratch}/model.pt")
        # The program, not the module of that name: that one imports the Python it wrote, in which some names are none.
        pnnx = [Path(sys.executable).parent / "pnnx", "model.pt", f"inputshape=[1,3,{size},{size}]", "fp16=0"]
        subprocess.run(pnnx, check=True, stdout=sys.stderr, cwd=scratch)
        for name in ["model.ncnn.param", "model.ncnn.bin"]:
            os.replace(f"{scratch}/{name}", folder / name)


def call_self(*arguments):
    command = [sys.executable, Path(__file__).resolve(), *map(str, arguments)]
    subprocess.run(command, check=True, stdout=sys.stderr)


class Torch:
    """PyTorch as it comes: eager, channels last."""

    package = "torch"

    @staticmethod
    def network(network, batch, size):
        return torch_model(network, size)

    def __init__(self, network, threads):
        import torch

        self.torch = torch
        torch.set_num_threads(threads)
        self.model = network.to(memory_format=torch.channels_last)

    def input(self, images):
        return self.torch.from_numpy(images).to(memory_format=self.torch.channels_last)

    def run(self, images):
        with self.torch.inference_mode():
            return self.model(images).numpy()


class TorchCompile(Torch):
    """PyTorch compiled by inductor, with the weights frozen into the program."""

    @staticmethod
    def network(network, batch, size):
        # A library of its own, nearly, which takes seconds to import.
        import torch._inductor.config

        torch._inductor.config.freezing = True
        return torch_model(network, size)

    def __init__(self, network, threads):
        super().__init__(network, threads)
        keep_inductors_files()
        self.model = self.torch.compile(self.model)

    def run(self, images):
        # Not inference_mode, under which inductor does not freeze.
        with self.torch.no_grad():
            return self.model(images).numpy()


def keep_inductors_files():
    """In a folder for each instruction set: they are not named after it."""
    import torch

    folder = CACHE / f"inductor-{torch.backends.cpu.get_cpu_capability().lower()}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


class OnnxRuntime:
    package = "onnxruntime"

    @staticmethod
    def network(network, batch, size):
        return exported(network, batch, size) / "model.onnx"

    def __init__(self, network, threads):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
        self.name = self.session.get_inputs()[0].name

    def input(self, images):
        return {self.name: images}

    def run(self, images):
        return self.session.run(None, images)[0]


class OpenVino:
    """OpenVINO, hinted to latency: one request that has all threads."""

    package = "openvino"
    network = OnnxRuntime.network

    def __init__(self, network, threads):
        import openvino

        hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        self.request = openvino.compile_model(network, "CPU", hints).create_infer_request()

    def input(self, images):
        return images

    def run(self, images):
        return self.request.infer([images], share_inputs=True, share_outputs=True)[0]


class Ncnn:
    """ncnn, one image after the other: it has no batches."""

    package = "ncnn"

    @staticmethod
    def network(network, batch, size):
        return exported_for_ncnn(network, size)

    def __init__(self, network, threads):
        import ncnn

        self.ncnn = ncnn
        self.net = ncnn.Net()
        self.net.opt.num_threads = threads
        for option in ["use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"]:
            setattr(self.net.opt, option, False)
        self.net.load_param(str(network / "model.ncnn.param"))
        self.net.load_model(str(network / "model.ncnn.bin"))

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


def command(peer, network, batch, size, threads):
    """The command that starts a peer's process."""
    if peer == "rten":
        return [RTEN, exported(network, batch, size), str(threads)]
    return [sys.executable, Path(__file__).resolve(), peer, network, str(batch), str(size), str(threads)]


def serve(peer, network, batch, size, threads):
    """The loop that the head of this file describes."""
    import numpy

    importlib.import_module(peer.package)
    folder = exported(network, batch, size)
    images, expected = numpy.load(folder / "input.npy"), numpy.load(folder / "logits.npy")
    network = peer.network(network, batch, size)
    started = time.perf_counter()
    program = peer(network, threads)
    load_seconds = time.perf_counter() - started
    images = program.input(images)
    started = time.perf_counter()
    logits = program.run(images)
    first_pass_seconds = time.perf_counter() - started
    error = float(abs(logits - expected).max() / abs(expected).max())
    # `not <=`, so that NaN counts as an error.
    if not error <= TOLERANCE:
        sys.exit(f"its logits differ from PyTorch's by {error:.1e} of the largest")
    say(
        versions={peer.package: version(peer.package)},
        error=error,
        avx512=sees_avx512(),
        load_seconds=load_seconds,
        first_pass_seconds=first_pass_seconds,
    )
    answer(lambda: program.run(images))


def sees_avx512():
    """Whether this process sees a machine that has AVX-512: numpy has looked."""
    from numpy._core._multiarray_umath import __cpu_features__

    return __cpu_features__.get("AVX512F", False)


def answer(run):
    """Answers each line `time SECONDS` on the standard input."""
    for request in sys.stdin:
        seconds = float(request.split()[1])
        # Not timed: the caches are the previous peer's, and its threads may still spin.
        passes(run, 0.2 * seconds, least=1)
        say(seconds=passes(run, seconds, least=2))


def passes(run, seconds, least):
    """Seconds of each of the passes that fill `seconds`."""
    times = []
    while len(times) < least or sum(times) < seconds:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def say(**facts):
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["export", network, batch, size]:
            export(network, int(batch), int(size))
        case ["export-ncnn", network, size]:
            export_for_ncnn(network, int(size))
        case [peer, network, batch, size, threads]:
            # Before the peers' libraries are loaded, which read it then.
            os.environ["OMP_NUM_THREADS"] = threads
            serve(PEERS[peer], network, int(batch), int(size), int(threads))
        case _:
            sys.exit(__doc__)
