"""Reference values for engines: single operations, and short trainings.

    python parity/engine.py

writes, all with the tensors of formula.py, computed in f64 and rounded to f32 once:

fixtures/engine/ops.json.gz: a list of cases
    name          unique, in words
    op            the operation as `engraft_graph::Op` is serialised
    inputs        shapes; the values are uniform(f"input{i}", shape, input_centre, input_width)
    parameters    [name, shape] in the order of the state dict; the values are values(name, shape)
    print         of modules that the operation alone stands for, what PyTorch prints
    output        {shape, values}, in evaluation mode

fixtures/engine/training.json.gz, convnet.json.gz and transformer.json.gz: full-batch trainings by torch.optim.Adam on the mean cross
entropy, in train mode
    print         the network
    input         shape of the input, inputs("x", shape)
    labels        i % 3 for example i
    learning_rate, steps
    losses        before each step
    gradients     {name: {shape, values}} of the first step; what is not in it is frozen
    state         {name: {shape, values}} after the last step, running statistics included
    logits        {shape, values} in evaluation mode, after the last step

What is printed is how far torch's own f32 training is from these values, relative to the largest value of each tensor.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.convnext import LayerNorm2d
from torchvision.models.maxvit import RelativePositionalMultiHeadAttention
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2
from torchvision.ops import StochasticDepth

import formula
from fixture import floats, write


def output(tensor):
    return {"shape": list(tensor.shape), "values": floats(tensor)}


def case(name, op, inputs, call, parameters=(), centre=0, width=4, **more):
    """One case; `call` takes the inputs as f64 tensors."""
    tensors = [torch.from_numpy(formula.uniform(f"input{i}", shape, centre, width)).double() for i, shape in enumerate(inputs)]
    with torch.inference_mode():
        result = call(*tensors)
    return {
        "name": name,
        "op": op,
        "inputs": inputs,
        "input_centre": centre,
        "input_width": width,
        "parameters": [[parameter, list(shape)] for parameter, shape in parameters],
        "output": output(result),
        **more,
    }


def module_case(name, op, module, shape, **kwargs):
    """A case of a module, in evaluation mode, with the values of the formula."""
    formula.fill(module).double().eval()
    parameters = [(key, tensor.shape) for key, tensor in module.state_dict().items()]
    printed = {} if list(module.children()) else {"print": str(module)}
    return case(name, op, [shape], module, parameters, **kwargs, **printed)


def conv(name, shape, out, kernel, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, bias=True):
    attributes = {
        "in_channels": shape[1], "out_channels": out, "kernel": kernel, "stride": stride,
        "padding": padding, "dilation": dilation, "groups": groups, "bias": bias,
    }  # fmt: skip
    module = nn.Conv2d(*attributes.values())
    return module_case(f"convolution, {name}", {"Conv2d": attributes}, module, shape)


def linear(name, shape, out, bias=True):
    attributes = {"in_features": shape[-1], "out_features": out, "bias": bias}
    return module_case(f"linear, {name}", {"Linear": attributes}, nn.Linear(**attributes), shape)


def batch_norm(name, shape, eps):
    op = {"BatchNorm2d": {"features": shape[1], "eps": eps, "momentum": 0.1}}
    return module_case(f"batch norm, {name}", op, nn.BatchNorm2d(shape[1], eps), shape)


def layer_norm_2d(name, shape, eps):
    op = {"LayerNorm2d": {"features": shape[1], "eps": eps}}
    return module_case(f"layer norm of channels, {name}", op, LayerNorm2d(shape[1], eps), shape)


def layer_norm(name, shape, eps):
    op = {"LayerNorm": {"features": shape[-1], "eps": eps}}
    return module_case(f"layer norm, {name}", op, nn.LayerNorm(shape[-1], eps), shape)


def max_pool(name, shape, kernel, stride, padding=0, ceil_mode=False):
    """All inputs are negative: a padding of zeros instead of minus infinity would show."""
    op = {"MaxPool2d": {"kernel": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}}
    module = nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil_mode)
    return module_case(f"max pool, {name}", op, module, shape, centre=-3)


def avg_pool(name, shape, kernel, stride, padding=0, ceil_mode=False, count_include_pad=True):
    window = {"kernel": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    op = {"AvgPool2d": {"window": window, "count_include_pad": count_include_pad}}
    return module_case(f"average pool, {name}", op, nn.AvgPool2d(*window.values(), count_include_pad), shape)


def adaptive_pool(name, shape, size):
    return module_case(f"adaptive average pool, {name}", {"AdaptiveAvgPool2d": {"output": size}}, nn.AdaptiveAvgPool2d(size), shape)


def convolutions():
    return [
        conv("3x3", [2, 3, 5, 6], 4, (3, 3)),
        conv("1x1", [2, 5, 4, 3], 6, (1, 1)),
        conv("no bias", [1, 3, 6, 5], 4, (3, 3), padding=(1, 1), bias=False),
        conv("stride 2 and padding on an odd size", [1, 3, 9, 7], 5, (3, 3), stride=(2, 2), padding=(1, 1)),
        conv("stride 2 and padding on an even size", [1, 3, 8, 6], 5, (3, 3), stride=(2, 2), padding=(1, 1)),
        conv("1x1, stride 2", [1, 4, 7, 6], 5, (1, 1), stride=(2, 2), bias=False),
        conv("5x5", [1, 2, 7, 9], 3, (5, 5), padding=(2, 2)),
        conv("7x7, stride 2, padding 3", [1, 3, 15, 12], 4, (7, 7), stride=(2, 2), padding=(3, 3), bias=False),
        conv("11x11, stride 4, padding 2", [1, 3, 23, 19], 4, (11, 11), stride=(4, 4), padding=(2, 2)),
        conv("dilation 2", [1, 2, 8, 7], 3, (3, 3), padding=(2, 2), dilation=(2, 2)),
        conv("dilation 2, no padding, stride 2", [1, 2, 9, 8], 3, (3, 3), stride=(2, 2), dilation=(2, 2)),
        conv("two groups", [2, 4, 5, 5], 6, (3, 3), padding=(1, 1), groups=2),
        conv("depthwise", [2, 4, 6, 5], 4, (3, 3), padding=(1, 1), groups=4, bias=False),
        conv("depthwise, stride 2", [1, 5, 7, 8], 5, (3, 3), stride=(2, 2), padding=(1, 1), groups=5),
        conv("depthwise, 5x5", [1, 3, 7, 6], 3, (5, 5), padding=(2, 2), groups=3, bias=False),
        conv("depthwise, two outputs a channel", [1, 3, 5, 4], 6, (3, 3), padding=(1, 1), groups=3),
        conv("1x7", [1, 3, 5, 8], 4, (1, 7), padding=(0, 3), bias=False),
        conv("3x1, unequal strides", [1, 3, 8, 7], 4, (3, 1), stride=(2, 1), padding=(1, 0)),
        conv("kernel as large as the input", [2, 3, 4, 4], 5, (4, 4)),
    ]


def layers():
    affine = {"scale": [0.5, -1.25, 2.0], "shift": [0.25, 0.0, -3.0]}  # exact in f32
    scale, shift = (torch.tensor(values).double().reshape(1, -1, 1, 1) for values in affine.values())
    return [
        linear("rank 2", [4, 7], 5),
        linear("rank 2, no bias", [3, 6], 4, bias=False),
        linear("rank 3", [2, 5, 6], 4),
        linear("rank 4", [2, 3, 4, 5], 3),
        batch_norm("eps 0.00001", [2, 6, 4, 3], 1e-5),
        batch_norm("eps 0.001", [2, 6, 4, 3], 1e-3),
        layer_norm("rank 3", [2, 5, 8], 1e-6),
        layer_norm("rank 4", [2, 3, 4, 6], 1e-5),
        layer_norm_2d("eps 0.000001", [2, 6, 3, 4], 1e-6),
        case("affine map of channels", {"ChannelAffine": affine}, [[2, 3, 4, 5]], lambda x: x * scale + shift),
        module_case("stochastic depth, in evaluation", {"StochasticDepth": {"p": 0.3}}, StochasticDepth(0.3, "row"), [3, 4, 2, 2]),
    ]


def pools():
    return [
        max_pool("2x2", [1, 3, 6, 8], 2, 2),
        max_pool("3x3, stride 2, padding 1", [1, 3, 8, 7], 3, 2, padding=1),
        max_pool("3x3, stride 2, floor", [1, 3, 8, 8], 3, 2),
        max_pool("3x3, stride 2, ceil", [1, 3, 8, 8], 3, 2, ceil_mode=True),
        max_pool("2x2, ceil without a window that starts in the padding", [1, 2, 6, 5], 2, 2, padding=1, ceil_mode=True),
        max_pool("3x3, stride 1, padding 1", [1, 2, 5, 6], 3, 1, padding=1),
        max_pool("2x2, stride 3", [1, 2, 7, 8], 2, 3),
        avg_pool("2x2", [1, 3, 6, 8], 2, 2),
        avg_pool("2x2 on an odd size", [1, 3, 7, 5], 2, 2),
        avg_pool("3x3, padding counted", [1, 2, 5, 6], 3, 1, padding=1),
        avg_pool("3x3, padding not counted", [1, 2, 5, 6], 3, 1, padding=1, count_include_pad=False),
        avg_pool("3x3, stride 2, ceil, padding counted", [1, 2, 6, 6], 3, 2, padding=1, ceil_mode=True),
        avg_pool("3x3, stride 2, ceil, padding not counted", [1, 2, 6, 6], 3, 2, padding=1, ceil_mode=True, count_include_pad=False),
        adaptive_pool("to one", [2, 5, 4, 6], (1, 1)),
        adaptive_pool("13 to 7", [1, 2, 13, 13], (7, 7)),
        adaptive_pool("4 to 6", [1, 3, 4, 4], (6, 6)),
        adaptive_pool("7 to 7", [1, 3, 7, 7], (7, 7)),
        adaptive_pool("5x9 to 3x4", [1, 3, 5, 9], (3, 4)),
    ]


def resizes():
    def pair(x):
        return list(x) if isinstance(x, tuple) else [x, x]

    def mode(name, align_corners):
        return "Nearest" if name == "nearest" else {"Bilinear": {"align_corners": align_corners}}

    def resize(shape, name, size=None, scale=None, align_corners=False):
        module = nn.Upsample(size, scale, name, align_corners if name == "bilinear" else None)
        # So that rounding decides on no pixel.
        x = torch.arange(math.prod(shape)).reshape(shape)
        assert name == "bilinear" or (module(x.float()) == module(x.double())).all()
        to = {"Size": pair(size)} if size else {"Scale": pair(scale)}
        op = {"to": to, "square": not isinstance(size or scale, tuple), "mode": mode(name, align_corners)}
        aligned = ", corners aligned" if align_corners else ""
        text = f"resize, {name}{aligned}, {shape[2]}x{shape[3]} " + (f"to {size}" if size else f"by {scale}")
        return module_case(text, {"Resize": op}, module, shape)

    def like(shape, other, name):
        op = {"Resize": {"to": "Like", "mode": mode(name, False)}}
        return case(f"resize, {name}, like another", op, [shape, other], lambda x, y: F.interpolate(x, y.shape[2:], mode=name))

    kinds = [("nearest", False), ("bilinear", False), ("bilinear", True)]
    sizes = [((7, 9), [2, 3, 5, 6]), (3, [1, 2, 8, 7]), ((4, 1), [1, 2, 4, 5]), ((3, 5), [2, 4, 1, 1]), ((6, 10), [1, 3, 3, 5])]
    scales = [(2, [2, 3, 3, 4]), (0.5, [1, 2, 7, 6]), ((1.5, 2.6), [1, 2, 5, 4]), ((0.7, 1.2), [1, 3, 6, 4]), (3.3, [1, 2, 2, 3])]
    return [
        *[resize(shape, name, size=size, align_corners=aligned) for name, aligned in kinds for size, shape in sizes],
        *[resize(shape, name, scale=scale, align_corners=aligned) for name, aligned in kinds for scale, shape in scales],
        *[like([2, 3, 3, 4], [1, 2, 5, 7], name) for name in ("nearest", "bilinear")],
    ]


def activations():
    def activation(module, name, shape, width):
        function = type(module).__name__
        if isinstance(module, nn.LeakyReLU):
            function = {function: {"negative_slope": module.negative_slope}}
        op = {"Activation": {"function": function, "inplace": getattr(module, "inplace", False)}}
        return module_case(name, op, module, shape, width=width)

    modules = (nn.ReLU(), nn.LeakyReLU(), nn.ReLU6(), nn.SiLU(), nn.Hardswish(), nn.Hardsigmoid(), nn.Sigmoid(), nn.GELU(), nn.Tanh())
    near = [activation(module, type(module).__name__, [2, 3, 5, 4], 16) for module in modules]
    # Where exponentials overflow.
    far = [activation(module, f"{type(module).__name__}, far from zero", [4, 16], 400) for module in modules]
    inplace = (nn.ReLU(True), nn.LeakyReLU(0.2, True), nn.ReLU6(True), nn.SiLU(True), nn.Hardswish(True), nn.Hardsigmoid(True))
    slopes = [activation(nn.LeakyReLU(slope), f"LeakyReLU, slope {slope}", [2, 3, 5, 4], 16) for slope in (0.1, 1e-5, -0.5, 1.5)]
    return near + far + [activation(module, f"{type(module).__name__}, in place", [3, 5], 16) for module in inplace] + slopes


def attention(name, module, shape, dim, heads, names, scores=None, position="None", windows=None):
    """`shape` is that of the input; `scores` are products, scaled for the width of a head, where nothing else is said."""
    scores = scores or {"Product": {"scale": (dim // heads) ** -0.5}}
    op = {"dim": dim, "heads": heads, "names": names, "scores": scores, "position": position, "windows": windows}
    return module_case(f"attention, {name}", {"Attention": op}, module, shape)


class SelfAttention(nn.MultiheadAttention):
    """Of one input, with its batch first."""

    def __init__(self, dim, heads):
        super().__init__(dim, heads, batch_first=True)

    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)[0]


def attentions():
    def swin(name, shape, heads, side, shift):
        module = ShiftedWindowAttention(shape[-1], [side, side], [shift, shift], heads)
        position = {"Table": {"window": side, "matrix": False}}
        return attention(f"Swin, {name}", module, shape, shape[-1], heads, "Swin", None, position, {"side": side, "shift": shift})

    def swin_v2(name, shape, heads, side, shift):
        module = ShiftedWindowAttentionV2(shape[-1], [side, side], [shift, shift], heads)
        position = {"Network": {"window": side}}
        return attention(f"Swin V2, {name}", module, shape, shape[-1], heads, "Swin", "Cosine", position, {"side": side, "shift": shift})

    def maxvit(name, shape, heads, side):
        dim = shape[-1]
        module = RelativePositionalMultiHeadAttention(dim, dim // heads, side * side)
        position = {"Table": {"window": side, "matrix": True}}
        return attention(f"MaxViT, {name}", module, shape, dim, heads, "MaxVit", {"Product": {"scale": dim**-0.5}}, position)

    return [
        attention("PyTorch's own", SelfAttention(12, 3), [2, 5, 12], 12, 3, "Torch"),
        attention("one head, one token", SelfAttention(6, 1), [2, 1, 6], 6, 1, "Torch"),
        swin("whole windows", [1, 6, 3, 8], 2, 3, 0),
        swin("windows to be padded", [2, 4, 2, 6], 3, 3, 0),
        swin("shifted", [1, 6, 6, 4], 2, 3, 1),
        swin("shifted, to be padded", [1, 5, 7, 6], 2, 3, 1),
        swin("shifted along the width only", [1, 2, 7, 6], 2, 3, 1),
        swin("shifted along the height only", [2, 5, 3, 4], 1, 3, 1),
        swin("not shifted, as one window holds all", [2, 3, 2, 4], 1, 4, 2),
        swin_v2("whole windows", [1, 2, 6, 8], 4, 2, 0),
        swin_v2("shifted, to be padded", [1, 5, 7, 6], 2, 4, 2),
        maxvit("two groups", [2, 2, 9, 8], 2, 3),
    ]


def softmaxes():
    def softmax(name, shape, axis, **kwargs):
        return case(f"softmax, {name}", {"Softmax": {"axis": axis}}, [shape], lambda x: x.softmax(axis), **kwargs)

    return [
        softmax("last axis", [2, 3, 7], 2, width=16),
        softmax("large logits", [3, 10], 1, centre=500, width=400),
        softmax("channels", [2, 5, 3, 2], 1),
    ]


def arithmetic():
    x, gate = [2, 3, 4, 5], [2, 3, 1, 1]
    return [
        case("add", "Add", [x, x], torch.add),
        case("add, one value a channel", "Add", [x, gate], torch.add),
        case("add, the same for the batch", "Add", [[2, 4, 6], [1, 4, 6]], torch.add),
        case("add, axes that the second lacks", "Add", [[2, 3, 4], [3, 4]], torch.add),
        case("add, axes that the first lacks", "Add", [[3, 1], [2, 3, 4]], torch.add),
        case("mul", "Mul", [x, x], torch.mul),
        case("mul, axes that the second lacks", "Mul", [[2, 3, 4, 2], [2]], torch.mul),
        case("mul, both repeated", "Mul", [[3, 1, 2], [2, 1, 4, 1]], torch.mul),
        case("mul, one value a channel", "Mul", [x, gate], torch.mul),
        case("mul, one value a channel, first", "Mul", [gate, x], torch.mul),
        case("matmul, rank 2", "MatMul", [[3, 4], [4, 5]], torch.matmul),
        case("matmul, rank 3", "MatMul", [[2, 3, 4], [2, 4, 5]], torch.matmul),
        case("matmul, rank 4", "MatMul", [[2, 3, 4, 5], [2, 3, 5, 6]], torch.matmul),
        case("mean of height and width", {"Mean": {"axes": [2, 3]}}, [x], lambda x: x.mean((2, 3))),
        case("mean of tokens", {"Mean": {"axes": [1]}}, [[2, 5, 6]], lambda x: x.mean(1)),
    ]


def shapes():
    keep = [{"Keep": axis} for axis in range(5)]
    x, channels, tokens = [2, 3, 4, 5], [2, 6, 3, 2], [2, 3, 12]
    split, merge = [keep[0], {"Fixed": 2}, {"Div": [1, 2]}, keep[2], keep[3]], [keep[0], "Infer", keep[3], keep[4]]
    return [
        case("flatten", {"Flatten": {"start": 1}}, [x], lambda x: x.flatten(1)),
        case("flatten height and width", {"Flatten": {"start": 2}}, [x], lambda x: x.flatten(2)),
        case("concat of channels", {"Concat": {"axis": 1}}, [[2, 3, 4, 2], [2, 1, 4, 2], [2, 2, 4, 2]], lambda *x: torch.cat(x, 1)),
        case("concat of tokens", {"Concat": {"axis": 1}}, [[2, 1, 6], [2, 4, 6]], lambda *x: torch.cat(x, 1)),
        *[
            case(f"chunk {i} of two, channels", {"Chunk": {"axis": 1, "index": i, "parts": 2}}, [channels], lambda x, i=i: x.chunk(2, 1)[i])
            for i in range(2)
        ],
        case("chunk 1 of three, last axis", {"Chunk": {"axis": 2, "index": 1, "parts": 3}}, [tokens], lambda x: x.chunk(3, 2)[1]),
        # The three steps of a channel shuffle.
        case("reshape, channels split", {"Reshape": {"shape": split}}, [channels], lambda x: x.reshape(2, 2, 3, 3, 2)),
        case("permute, rank 5", {"Permute": {"axes": [0, 2, 1, 3, 4]}}, [[2, 2, 3, 3, 2]], lambda x: x.permute(0, 2, 1, 3, 4)),
        case("reshape, channels merged", {"Reshape": {"shape": merge}}, [[2, 3, 2, 3, 2]], lambda x: x.reshape(2, 6, 3, 2)),
        case("permute, channels last", {"Permute": {"axes": [0, 2, 3, 1]}}, [x], lambda x: x.permute(0, 2, 3, 1)),
        case("permute, rank 3", {"Permute": {"axes": [0, 2, 1]}}, [tokens], lambda x: x.permute(0, 2, 1)),
        case("the first of an axis", {"Select": {"axis": 1, "index": 0}}, [[2, 5, 6]], lambda x: x[:, 0]),
        case("one of the last axis", {"Select": {"axis": 3, "index": 2}}, [x], lambda x: x[..., 2]),
        case("expand to the batch", "ExpandBatch", [[1, 2, 6], [3, 4]], lambda x, batch: x.expand(len(batch), -1, -1)),
        case("expand to a batch of one", "ExpandBatch", [[1, 6], [1, 4, 2]], lambda x, batch: x.expand(len(batch), -1)),
        case("pad to a multiple", {"PadToMultiple": {"axes": [1, 2], "of": 3}}, [[2, 4, 5, 3]], lambda x: F.pad(x, (0, 0, 0, 1, 0, 2))),
        case("pad where it is none", {"PadToMultiple": {"axes": [1, 2], "of": 2}}, [[1, 4, 3, 2]], lambda x: F.pad(x, (0, 0, 0, 1))),
        case("roll", {"Roll": {"shifts": [-1, 2], "axes": [1, 2]}}, [[2, 4, 5, 3]], lambda x: x.roll((-1, 2), (1, 2))),
    ]


def head():
    return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


def convnet():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.MaxPool2d(3, 2, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


class Transformer(nn.Module):
    """The attentions of Swin, Swin V2 and the Vision Transformer, one after the other.

    Frozen are biases of keys, which no scores depend on: their gradients are rounding errors, and Adam makes steps of them.
    """

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.swin = ShiftedWindowAttention(8, [3, 3], [1, 1], 2)
        self.windows = ShiftedWindowAttentionV2(8, [3, 3], [1, 1], 2)
        self.class_token = nn.Parameter(torch.empty(1, 1, 8))
        self.pos_embedding = nn.Parameter(torch.empty(1, 17, 8))
        self.ln = nn.LayerNorm(8)
        self.attention = SelfAttention(8, 2)
        self.head = nn.Linear(8, 3)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name not in ("swin.qkv.bias", "attention.in_proj_bias"))

    def forward(self, x):
        x = self.conv(x).permute(0, 2, 3, 1)
        x = x + self.swin(x)
        x = x + self.windows(x)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x.flatten(1, 2)], 1) + self.pos_embedding
        x = x + self.attention(self.ln(x))
        return self.head(x[:, 0])


STEPS = 5
TRAININGS = [
    ("training", head, [16, 12], 0.01),
    ("convnet", convnet, [8, 3, 16, 16], 0.01),
    # Adam makes large steps of the small gradients of position biases, in which rounding errors show.
    ("transformer", Transformer, [8, 3, 16, 16], 0.001),
]


def train(network, shape, learning_rate, dtype):
    """(losses, gradients of the first step, final state, logits in evaluation mode) in `dtype`."""
    model = formula.fill(network).to(dtype)
    x = torch.from_numpy(formula.inputs("x", shape)).to(dtype)
    labels = torch.arange(shape[0]) % 3
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    losses, gradients = [], None
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), labels)
        loss.backward()
        gradients = gradients or {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad}
        optimizer.step()
        losses.append(loss.detach())
    with torch.inference_mode():
        logits = model.eval()(x)
    return {"losses": torch.stack(losses), "gradients": gradients, "state": model.state_dict(), "logits": logits}


def difference(a, b):
    """The largest difference of two results of `train`, relative to the largest value of each tensor."""
    if isinstance(a, dict):
        return max(difference(a[key], b[key]) for key in a)
    return ((a.double() - b.double()).abs().max() / max(b.abs().max(), 1e-30)).item()


def training(network, shape, learning_rate):
    """(fixture, relative difference of torch's f32)"""
    result = train(network(), shape, learning_rate, torch.float64)
    value = {
        "print": str(network()),
        "input": shape,
        "labels": [i % 3 for i in range(shape[0])],
        "learning_rate": learning_rate,
        "steps": STEPS,
        "losses": floats(result["losses"]),
        "gradients": {name: output(gradient) for name, gradient in result["gradients"].items()},
        "state": {name: output(tensor) for name, tensor in result["state"].items()},
        "logits": output(result["logits"]),
    }
    f32 = train(network(), shape, learning_rate, torch.float32)
    return value, {key: difference(f32[key], result[key]) for key in result}


def main():
    torch.set_num_threads(1)
    cases = [*convolutions(), *layers(), *pools(), *resizes(), *activations(), *attentions(), *softmaxes(), *arithmetic(), *shapes()]
    assert len({case["name"] for case in cases}) == len(cases)
    counts = [math.prod(case["output"]["shape"]) for case in cases]
    print(f"ops: {len(cases)} cases of at most {max(counts)} values, {write('engine/ops', cases)} bytes")
    for name, *arguments in TRAININGS:
        value, f32 = training(*arguments)
        size = write(f"engine/{name}", value)
        print(f"{name}: {size} bytes, losses {value['losses']}, f32 off by", {key: f"{off:.1e}" for key, off in f32.items()})


if __name__ == "__main__":
    main()
