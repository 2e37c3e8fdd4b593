"""Reference values for networks: what torchvision prints, its state dict, and its outputs for the weights and input of formula.py.

    python parity/networks.py [ARCH...]

writes fixtures/networks/<arch>.json.gz with

    print       str(model)
    state_dict  [name, shape, dtype, "parameter" | "buffer"], in order
    head        path of the layer that gives the logits: the last convolution or linear layer that runs
    norm        centre of the norms' weights, see formula.py
    num_params  number of parameters
    gflops      what torchvision documents for its weights: 10^9 multiply-adds for one image of their size
    input       shape of the input
    logits      1000 values
    features    what enters the classifier (the module of the first level in which the head lies): {shape, stride, values}.
                `values` is every `stride`-th of the flattened tensor, from the first on; of a 4-D tensor, the mean over height and width.

Values are computed in f64 and rounded to f32 once, so they depend on no order of summation, and on no machine. What is printed is how far
torch's own f32 is from them, in the default and in the channels_last memory format, relative to the largest logit.
"""

import math
import sys

import torch
import torchvision

import formula
from fixture import floats, write

ARCHITECTURES = [
    "alexnet",
    *[f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")],
    *[f"resnet{depth}" for depth in (18, 34, 50, 101, 152)],
    *[f"squeezenet1_{minor}" for minor in (0, 1)],
    "mobilenet_v2",
    *[f"shufflenet_v2_x{width}" for width in ("0_5", "1_0", "1_5", "2_0")],
    *[f"densenet{depth}" for depth in (121, 161, 169, 201)],
]
NORM = {"resnet152": 0.625}  # where formula.py's default lets activations vanish or explode
INPUT = [1, 3, 224, 224]
MOST_FEATURES = 4096  # more than this are thinned out


def head_path(model, x):
    """The last convolution or linear layer that runs."""
    ran = []
    hooks = [
        module.register_forward_hook(lambda *_, path=path: ran.append(path))
        for path, module in model.named_modules()
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))
    ]
    with torch.inference_mode():
        model(x)
    for hook in hooks:
        hook.remove()
    return ran[-1]


def run(model, head, x):
    """(what enters the classifier, logits) for a batch."""
    classifier = model.get_submodule(head.split(".")[0])
    seen = []
    hook = classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        logits = model(x)
    hook.remove()
    return seen[0], logits


def pooled(features):
    """`[batch, channels]` from `[batch, channels, height, width]`; other ranks as they are."""
    return features.mean((2, 3)) if features.dim() == 4 else features


def thinning(count):
    """The smallest stride that leaves at most MOST_FEATURES, and that has no divisor in common with the rows and columns of a map."""
    stride = -(-count // MOST_FEATURES)
    while math.gcd(stride, count) != 1:
        stride += 1
    return stride


def state_dict_entries(model):
    parameters = {name for name, _ in model.named_parameters()}
    return [
        [name, list(tensor.shape), str(tensor.dtype).removeprefix("torch."), "parameter" if name in parameters else "buffer"]
        for name, tensor in model.state_dict().items()
    ]


def fixture(arch):
    """(fixture, relative difference of torch's f32 in the default memory format, and in channels_last)"""
    norm = NORM.get(arch, 0.75)
    model = formula.fill(torchvision.models.get_model(arch, weights=None), norm).eval()
    x = torch.from_numpy(formula.inputs("input", INPUT))
    head = head_path(model, x)
    value = {
        "print": str(model),
        "state_dict": state_dict_entries(model),
        "head": head,
        "norm": norm,
        "num_params": sum(parameter.numel() for parameter in model.parameters()),
        "gflops": torchvision.models.get_model_weights(arch).DEFAULT.meta["_ops"],
        "input": INPUT,
    }
    _, f32 = run(model, head, x)
    _, channels_last = run(model.to(memory_format=torch.channels_last), head, x.to(memory_format=torch.channels_last))
    features, logits = run(model.to(torch.float64, memory_format=torch.contiguous_format), head, x.double())
    kept = pooled(features).flatten()
    stride = thinning(kept.numel())
    value["logits"] = floats(logits)
    value["features"] = {"shape": list(features.shape), "stride": stride, "values": floats(kept[::stride])}
    largest = logits.abs().max()
    return value, *[((other - logits).abs().max() / largest).item() for other in (f32, channels_last)]


def main():
    torch.set_num_threads(1)
    for arch in sys.argv[1:] or ARCHITECTURES:
        value, f32, channels_last = fixture(arch)
        size = write(f"networks/{arch}", value)
        logits, features = value["logits"], value["features"]
        print(
            f"{arch:20} {size:6} bytes, logits {min(logits):9.3f} .. {max(logits):8.3f}, {len(set(logits))} distinct, "
            f"features {features['shape']} up to {max(features['values']):.3f}, "
            f"f32 off by {f32:.1e}, channels_last {channels_last:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
