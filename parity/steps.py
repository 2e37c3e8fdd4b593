"""Trainings of whole networks of torchvision, five steps of each rule.

    python parity/steps.py

writes fixtures/engine/steps.json.gz, a list of trainings on one batch, computed in f64 and rounded to f32 once, with the tensors of formula.py:

    arch        torchvision's name
    name, input inputs(name, shape) is the batch
    live        whether batch norms use statistics of the batch; otherwise they use their running ones
    labels      97 * i for image i
    rule        as `engraft_engine::Rule` is serialised
    rate        [learning rate, weight decay]
    losses      before each of the five steps, and after the last; as in gradients.py

In training rounding errors grow, and where one carries a value over the kink of a ReLU, they grow at once. So rate and batch are the first by which
this does not happen: in torch's own f32, and whatever the weights are changed by, at random and by some rounding errors, the losses stay within STEADY of
what they are, relative to them. And they must move, by MOVED at least.

What is printed is by how much the loss moves, and how far the losses of torch's f32 and of nudged weights are off.
"""

import torch

import formula
from fixture import floats, write
from gradients import loss_of, network, nudge_weights
from updates import ADAM, optimizer

# With the largest rates that are tried, of SGD and of Adam. Batch norms are live where a steady training is found with them.
NETWORKS = [
    ("resnet18", [4, 3, 64, 64], True, 3e-5, 3e-6),
    ("mobilenet_v2", [4, 3, 64, 64], False, 3e-3, 1e-4),
    ("vit_b_32", [2, 3, 64, 64], False, 1e-4, 3e-6),
    ("convnext_tiny", [2, 3, 64, 64], False, 1e-4, 3e-6),
    ("googlenet", [2, 3, 64, 64], False, 1e-3, 1e-4),
]
STEADY = 2e-5
MOVED = 1e-2
STEPS = 5
# By how much of itself a weight decays in a step: enough to show in the losses, whatever the rate.
SHRINK = 3e-3


def losses(arch, shape, live, name, rule, rate, dtype=torch.float64, nudge=None):
    model = network(arch, shape, live).to(dtype)
    if nudge:
        nudge_weights(model, nudge)
    x, labels = torch.from_numpy(formula.inputs(name, shape)).to(dtype), torch.arange(shape[0]) * 97
    learning_rate, weight_decay = rate
    rule = optimizer(rule, [{"params": list(model.parameters()), "lr": learning_rate, "weight_decay": weight_decay}])
    given = []
    for _ in range(STEPS):
        rule.zero_grad()
        loss = loss_of(model, x, labels)
        loss.backward()
        rule.step()
        given.append(loss.detach())
    with torch.no_grad():
        given.append(loss_of(model, x, labels))
    return torch.stack(given).double()


def trials(largest_rate, shrink):
    """Rates, with decays, and names of batches, in the order in which they are tried."""
    for rate in (largest_rate, largest_rate / 3, largest_rate / 10, largest_rate / 30):
        for name in ("x0", "x1"):
            yield [rate, shrink / rate], name


def trainings(arch, shape, live, sgd_rate, adam_rate):
    momentum = {"Sgd": {"momentum": 0.9, "nesterov": False}}
    for rule, rate, shrink in [(momentum, sgd_rate, SHRINK), ({"Adam": ADAM}, adam_rate, 0.0), ({"AdamW": ADAM}, adam_rate, SHRINK)]:
        yield training(arch, shape, live, rule, rate, shrink)


def training(arch, shape, live, rule, largest_rate, shrink):
    for rate, name in trials(largest_rate, shrink):
        arguments = (arch, shape, live, name, rule, rate)
        exact = losses(*arguments)
        others = ({"dtype": torch.float32}, {"nudge": torch.Generator().manual_seed(0)}, {"nudge": torch.Generator().manual_seed(1)})
        off = []
        for other in others:
            off.append(((losses(*arguments, **other) - exact).abs() / exact).max().item())
            if not off[-1] < STEADY:
                break
        else:
            break
    else:
        raise RuntimeError(f"{arch}: nothing is steady")
    moved = (exact.max() - exact.min()).item()
    offs = ", ".join(f"{part:.1e}" for part in off)
    print(f"{arch} {name} {rule} {rate}: losses {exact.numpy().round(4)}, move by {moved:.3f}, off by {offs}", flush=True)
    assert moved > MOVED * exact[0], f"{arch}: the loss moves by {moved}"
    return {
        "arch": arch,
        "name": name,
        "input": shape,
        "live": live,
        "labels": [97 * i for i in range(shape[0])],
        "rule": rule,
        "rate": rate,
        "losses": floats(exact),
    }


def main():
    torch.set_num_threads(2)
    print(write("engine/steps", [training for network in NETWORKS for training in trainings(*network)]), "bytes")


if __name__ == "__main__":
    main()
