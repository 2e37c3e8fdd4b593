"""Reference values for networks: what torchvision prints, its state dict, and its outputs for the weights and input of formula.py.

    python parity/networks.py [ARCH...]

writes fixtures/networks/<arch>.json.gz with

    print       str(model)
    state_dict  [name, shape, dtype, "parameter" | "buffer"], in order
    head        path of the layer that gives the logits: the last convolution or linear layer that runs
    norm        centre of the norms' weights, see formula.py
    num_params  number of parameters
    gflops      what torchvision documents for its weights: 10^9 multiply-adds for one image of their size
    input       shape of the input: the size that the weights were evaluated on
    logits      1000 values
    features    what enters the classifier (the module of the first level in which the head lies): {shape, stride, values}.
                `values` is every `stride`-th of the flattened tensor, from the first on; of a 4-D tensor, the mean over height and width.

and, where there is something to say,

    aux              paths of the layers that give logits in training only
    transform_input  true: the network takes inputs normalised with ImageNet's mean and standard deviation, and normalises them anew
    without_transform_input  1000 logits of the same weights and input if it does not, as torchvision builds it for weights of one's own
    other_size       {input, logits} for an input of another size, which need not be square; vit and maxvit are built anew for it, vit with
                     interpolated embeddings of positions

Values are computed in f64 and rounded to f32 once, so that no order of summation shows in them. What is printed is how far
torch's own f32 is from them, in the default and in the channels_last memory format, relative to the largest logit; how far the
logits move if every second output channel of the first convolution grows by 1 %; and the seconds that the f32 takes with two threads.
"""

import gc
import math
import sys
import time

import torch
import torchvision
from torchvision.models.vision_transformer import interpolate_embeddings

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
    "googlenet",
    "inception_v3",
    *[f"resnext{shape}" for shape in ("50_32x4d", "101_32x8d", "101_64x4d")],
    *[f"wide_resnet{depth}_2" for depth in (50, 101)],
    *[f"mnasnet{width}" for width in ("0_5", "0_75", "1_0", "1_3")],
    *[f"mobilenet_v3_{size}" for size in ("small", "large")],
    *[f"efficientnet_{size}" for size in ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "v2_s", "v2_m", "v2_l")],
    *[f"regnet_x_{flops}" for flops in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")],
    *[f"regnet_y_{flops}" for flops in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf", "128gf")],
    *[f"convnext_{size}" for size in ("tiny", "small", "base", "large")],
    *[f"vit_{size}" for size in ("b_16", "b_32", "l_16", "l_32", "h_14")],
    *[f"swin_{size}" for size in ("t", "s", "b", "v2_t", "v2_s", "v2_b")],
    "maxvit_t",
]
# As torchvision builds them for their published weights, except that googlenet keeps its auxiliary heads.
OPTIONS = {arch: {"transform_input": True, "aux_logits": True, "init_weights": False} for arch in ("googlenet", "inception_v3")}
# The weights that give size and cost where torchvision's DEFAULT is for another size than the builder's own `image_size` of 224.
WEIGHTS = {"vit_h_14": "IMAGENET1K_SWAG_LINEAR_V1"}
# Where formula.py's default lets activations vanish or explode; SiLU with squeeze-excitation leaves little room between the two.
NORM = {
    "resnet152": 0.625,
    "resnext101_32x8d": 0.625,
    "resnext101_64x4d": 0.625,
    "wide_resnet101_2": 0.625,
    "googlenet": 1.0,
    "inception_v3": 1.0,
    "maxvit_t": 0.625,
    "mobilenet_v3_small": 0.9375,
    "mobilenet_v3_large": 0.9375,
    "efficientnet_b0": 1.015625,
    "efficientnet_b1": 0.96875,
    "efficientnet_b2": 0.96875,
    "efficientnet_b3": 0.9375,
    "efficientnet_b4": 0.9375,
    "efficientnet_b5": 0.921875,
    "efficientnet_b6": 0.875,
    "efficientnet_b7": 0.859375,
    "efficientnet_v2_s": 0.703125,
    "efficientnet_v2_m": 0.671875,
    "efficientnet_v2_l": 0.65625,
}
# A second input, by the beginning of the name: one that holds no whole number of windows for Swin, one of odd height and width for convolutions.
OTHER_SIZE = {
    ("vit_b", "vit_l"): [1, 3, 256, 256],
    ("vit_h",): [1, 3, 252, 252],
    ("swin",): [1, 3, 200, 232],
    ("maxvit",): [1, 3, 448, 448],
    ("",): [1, 3, 201, 165],  # all others
}
MOST_FEATURES = 4096  # more than this are thinned out; a fixture with a second input keeps a quarter of it


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


def thinning(count, most):
    """The smallest stride that leaves at most `most`, and that has no divisor in common with the rows and columns of a map."""
    stride = -(-count // most)
    while math.gcd(stride, count) != 1:
        stride += 1
    return stride


def state_dict_entries(model):
    parameters = {name for name, _ in model.named_parameters()}
    return [
        [name, list(tensor.shape), str(tensor.dtype).removeprefix("torch."), "parameter" if name in parameters else "buffer"]
        for name, tensor in model.state_dict().items()
    ]


def aux_paths(model, head):
    """Layers of 1000 classes that are not the head."""
    linears = [(path, module) for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    return [path for path, module in linears if module.out_features == 1000 and path != head]


def seconds(model, x):
    """What a pass takes with two threads; the better of two."""
    torch.set_num_threads(2)
    took = []
    for _ in range(2):
        start = time.perf_counter()
        with torch.inference_mode():
            model(x)
        took.append(time.perf_counter() - start)
    torch.set_num_threads(1)
    return min(took)


def with_larger_first_layer(model, head, x):
    """Logits after every second output channel of the first convolution has grown by 1 %."""
    weight = next(module.weight for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    before = weight.detach().clone()
    with torch.no_grad():
        weight[::2] *= 1.01
        _, logits = run(model, head, x)
        weight.copy_(before)
    return logits


def of_size(arch, model, size):
    """The network for images of another size, with the same weights."""
    state = model.state_dict()
    if arch.startswith("vit"):
        options = {"image_size": size}
        state = interpolate_embeddings(size, model.patch_size, state)
    elif arch.startswith("maxvit"):
        options = {"input_size": (size, size)}
    else:
        return model
    with torch.device("meta"):
        other = torchvision.models.get_model(arch, weights=None, **options)
    other.load_state_dict(state, assign=True)
    return other.eval()


def fixture(arch):
    """(fixture, what there is to print about it)"""
    norm = NORM.get(arch, 0.75)
    options = OPTIONS.get(arch, {})
    weights = torchvision.models.get_model_weights(arch)[WEIGHTS.get(arch, "DEFAULT")]
    model = formula.fill(torchvision.models.get_model(arch, weights=None, **options), norm).eval()
    (crop,) = weights.transforms().crop_size
    x = torch.from_numpy(formula.inputs("input", [1, 3, crop, crop]))
    head = head_path(model, x)
    value = {
        "print": str(model),
        "state_dict": state_dict_entries(model),
        "head": head,
        "norm": norm,
        "num_params": sum(parameter.numel() for parameter in model.parameters()),
        "gflops": weights.meta["_ops"],
        "input": list(x.shape),
    }
    aux = aux_paths(model, head)
    other = next((shape for families, shape in OTHER_SIZE.items() if arch.startswith(families)), None)

    took = seconds(model, x)
    _, f32 = run(model, head, x)
    larger = with_larger_first_layer(model, head, x)
    _, channels_last = run(model.to(memory_format=torch.channels_last), head, x.to(memory_format=torch.channels_last))
    features, logits = run(model.to(torch.float64, memory_format=torch.contiguous_format), head, x.double())
    kept = pooled(features).flatten()
    stride = thinning(kept.numel(), MOST_FEATURES // 4 if other else MOST_FEATURES)
    value["logits"] = floats(logits)
    value["features"] = {"shape": list(features.shape), "stride": stride, "values": floats(kept[::stride])}
    if aux:
        value["aux"] = aux
    if options.get("transform_input"):
        value["transform_input"] = True
        model.transform_input = False
        _, plain = run(model, head, x.double())
        value["without_transform_input"] = floats(plain)
        model.transform_input = True
    if other:
        other_model = of_size(arch, model, other[-1])
        _, other_logits = run(other_model, head, torch.from_numpy(formula.inputs("input", other)).double())
        value["other_size"] = {"input": other, "logits": floats(other_logits)}

    largest = logits.abs().max()
    off, off_channels_last = [((result - logits).abs().max() / largest).item() for result in (f32, channels_last)]
    moved = ((larger - f32).abs().max() / largest).item()
    return value, f"f32 off by {off:.1e}, channels_last {off_channels_last:.1e}, 1 % moves {moved:.1e}, {took:.3f} s"


def main():
    torch.set_num_threads(1)
    for arch in sys.argv[1:] or ARCHITECTURES:
        value, about = fixture(arch)
        size = write(f"networks/{arch}", value)
        logits, features = value["logits"], value["features"]
        print(
            f"{arch:20} {size:6} bytes, logits {min(logits):9.3f} .. {max(logits):8.3f}, {len(set(logits))} distinct, "
            f"features {features['shape']} up to {max(features['values']):.3f}, {about}",
            flush=True,
        )
        gc.collect()  # one network at a time: the largest takes 5 GiB in f64


if __name__ == "__main__":
    main()
