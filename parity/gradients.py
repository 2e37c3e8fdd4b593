"""The gradients of whole networks of torchvision, every parameter of them.

    python parity/gradients.py

writes fixtures/engine/gradients.json.gz, a list of cases, computed in f64 and rounded to f32 once, with the tensors of formula.py:

    arch        torchvision's name
    name, input inputs(name, shape) is the input
    live        whether batch norms use statistics of the batch; otherwise they use their running ones
    activation  what stands in the place of every ReLU, or none
    labels      97 * i for image i
    loss        mean cross entropy, and 0.3 times that of each auxiliary head, in training mode but without dropout and stochastic depth
    gradients   {name: seven numbers} in the order of the state dict:
                the norm; the products with the vectors uniform(f"{name}.{probe}", [n], 0, 2) for the probes a and b;
                the elements 0, n // 4, n // 2 and 3 n // 4

Rounding errors can carry a value over the kink of a ReLU, and where a layer sees few pixels, that changes gradients in the second digit. So the
input is the first of x0, x1, ... by which this does not happen: whatever the weights are changed by, at random and by some rounding errors, no number
moves by more than STEADY of the norm, in torch's own f32 neither (to which is added a thousandth of the largest norm, as some gradients are zero but for rounding).

What is printed is by how much they move in torch's own f32, and then: the furthest number of each network.
"""

import itertools

import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

import formula
from fixture import floats, write

# The smallest of each family whose layers the others do not have, on images that leave more than one pixel to the last layer. Where norms
# are live, a single kink moves a whole channel, so that not every network has a steady input; or only for engines whose rounding errors are
# torch's, which those of Winograd's convolutions are not. Without kinks it has.
CASES = [
    ("squeezenet1_1", [2, 3, 64, 64], True),
    ("shufflenet_v2_x0_5", [4, 3, 64, 64], True),
    ("mobilenet_v2", [2, 3, 64, 64], False),
    ("mobilenet_v3_small", [4, 3, 64, 64], True),
    ("mnasnet0_5", [4, 3, 64, 64], True),
    ("efficientnet_b0", [4, 3, 64, 64], True),
    ("regnet_y_400mf", [2, 3, 64, 64], False),
    ("resnet18", [4, 3, 64, 64], True, "SiLU"),
    ("resnet18", [2, 3, 64, 64], False),
    ("densenet121", [2, 3, 64, 64], False),
    ("googlenet", [2, 3, 64, 64], False),
    ("convnext_tiny", [2, 3, 64, 64], True),
    ("vit_b_32", [2, 3, 64, 64], True),
    ("swin_t", [2, 3, 64, 64], True),
    ("swin_v2_t", [2, 3, 64, 64], True),
]


def network(arch, shape, live, activation=None):
    """In training mode, without dropout; with this activation in the place of every ReLU."""
    kwargs = {"image_size": shape[-1]} if arch.startswith("vit") else {}
    if arch == "googlenet":
        kwargs = {"init_weights": False, "transform_input": True}
    model = formula.fill(torchvision.models.get_model(arch, **kwargs)).train()
    for module in model.modules():
        if isinstance(module, (nn.Dropout, StochasticDepth)):
            module.p = 0.0
        if isinstance(module, nn.BatchNorm2d):
            module.train(live)
        for name, child in module.named_children():
            if activation and isinstance(child, nn.ReLU):
                setattr(module, name, getattr(nn, activation)())
    return model


def loss_of(model, x, labels):
    """Cross entropy, and 0.3 times that of each auxiliary head."""
    outputs = model(x)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    losses = [F.cross_entropy(output, labels) for output in outputs]
    return losses[0] + 0.3 * sum(losses[1:])


def gradients(model, x, labels):
    """(loss, {name: gradient})"""
    loss = loss_of(model, x, labels)
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def summary(name, gradient):
    """The seven numbers."""
    flat = gradient.double().reshape(-1)
    n = len(flat)
    probes = [torch.from_numpy(formula.uniform(f"{name}.{probe}", [n], 0, 2)).double() for probe in "ab"]
    return torch.stack([flat.norm(), *(flat @ probe for probe in probes), *flat[[0, n // 4, n // 2, 3 * n // 4]]])


STEADY = 1.5e-4


def nudge_weights(model, generator):
    """Changes weights by some rounding errors."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1 + 2e-7 * (2 * torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype) - 1)


def summaries(arch, shape, live, activation, name, dtype=torch.float64, nudge=None):
    """(loss, {name: summary}); weights are nudged with the numbers of the generator `nudge`."""
    model = network(arch, shape, live, activation).to(dtype)
    if nudge:
        nudge_weights(model, nudge)
    x = torch.from_numpy(formula.inputs(name, shape)).to(dtype)
    loss, grads = gradients(model, x, torch.arange(shape[0]) * 97)
    return loss, {name: summary(name, gradient) for name, gradient in grads.items()}


def furthest(numbers, exact):
    """How far the furthest number is off, and in which gradient."""
    largest = max(numbers[0] for numbers in exact.values())
    return max((((numbers[name] - of).abs().max() / (of[0] + 1e-3 * largest)).item(), name) for name, of in exact.items())


def case(arch, shape, live, activation=None):
    for name in (f"x{attempt}" for attempt in range(20)):
        loss, exact = summaries(arch, shape, live, activation, name)
        nudged = (summaries(arch, shape, live, activation, name, nudge=torch.Generator().manual_seed(seed)) for seed in range(2))
        in_f32 = (summaries(arch, shape, live, activation, name, torch.float32) for _ in range(1))
        moved = []
        for _, numbers in itertools.chain(in_f32, nudged):
            moved.append(furthest(numbers, exact))
            if moved[-1][0] > STEADY:
                break
        else:
            break
    else:
        raise RuntimeError(f"{arch}: no input is steady")
    moves = ", ".join(f"{off:.1e}" for off, _ in moved)
    print(f"{arch} {shape} {'live' if live else 'frozen'} {activation or ''} {name}: loss {loss:.3f}, moves by {moves}", flush=True)
    return {
        "arch": arch,
        "name": name,
        "input": shape,
        "live": live,
        "activation": activation,
        "labels": [97 * i for i in range(shape[0])],
        "loss": floats(loss)[0],
        "gradients": {name: floats(numbers) for name, numbers in exact.items()},
    }


def main():
    torch.set_num_threads(2)
    print(write("engine/gradients", [case(*arguments) for arguments in CASES]), "bytes")


if __name__ == "__main__":
    main()
