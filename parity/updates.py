"""What a trainer of an engine does with gradients, step by step, and losses of soft targets.

    python parity/updates.py

writes, all with the tensors of formula.py, computed in f64 and rounded to f32 once:

fixtures/engine/updates.json.gz: trainings of five steps of engine.py's `convnet` on inputs("x", [8, 3, 16, 16]), labels i % 3, batch norm live
    name
    rule        as `engraft_engine::Rule` is serialised
    rates       [learning rate, weight decay] of the groups: 0 the layers before the last, 1 the last (`7.`)
    clip        largest norm for torch.nn.utils.clip_grad_norm_, or none
    average     decay of torch.optim.swa_utils.AveragedModel with buffers, or none
    losses      before each step
    norms       of the gradients, before clipping
    state       {name: {shape, values}} after the last step
    averaged    the same of the averaged model, or none

fixtures/engine/targets.json.gz: the loss of engine.py's `head` on inputs("x", [6, 12]) for targets of many kinds
    name
    examples    [[class, class], [weight, weight], uniform] for each
    class_weights   or none
    loss
    gradients   {name: {shape, values}}
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import formula
from engine import convnet, head, output
from fixture import floats, write

RATES = [[0.02, 0.05], [0.05, 0.0]]
SLOW = [[0.002, 0.5], [0.005, 0.0]]
ADAM = {"betas": [0.9, 0.999], "eps": 1e-8}
UPDATES = [
    ("plain descent", {"Sgd": {"momentum": 0.0, "nesterov": False}}, [[0.05, 0.0], [0.05, 0.0]], None, None),
    ("plain descent with decay", {"Sgd": {"momentum": 0.0, "nesterov": False}}, RATES, None, None),
    ("momentum", {"Sgd": {"momentum": 0.9, "nesterov": False}}, RATES, None, None),
    ("Nesterov's momentum", {"Sgd": {"momentum": 0.8, "nesterov": True}}, RATES, None, None),
    ("Adam", {"Adam": ADAM}, [[0.002, 0.0], [0.005, 0.0]], None, None),
    ("Adam with decay and other betas", {"Adam": {"betas": [0.8, 0.95], "eps": 1e-4}}, SLOW, None, None),
    ("AdamW", {"AdamW": ADAM}, SLOW, None, None),
    ("clipped", {"Sgd": {"momentum": 0.9, "nesterov": False}}, RATES, 0.25, None),
    ("not clipped, as norms are small", {"AdamW": ADAM}, SLOW, 100.0, None),
    ("averaged", {"Sgd": {"momentum": 0.9, "nesterov": True}}, RATES, 0.5, 0.75),
]  # fmt: skip


def optimizer(rule, groups):
    ((name, options),) = rule.items()
    return {"Sgd": torch.optim.SGD, "Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}[name](groups, **options)


def update(name, rule, rates, clip, average):
    model = formula.fill(convnet()).double()
    groups = [
        {"params": [p for key, p in model.named_parameters() if key.startswith("7.") == last], "lr": rate, "weight_decay": decay}
        for last, (rate, decay) in zip((False, True), rates)
    ]
    rule_ = optimizer(rule, groups)
    averaged = average and AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(average), use_buffers=True)
    x, labels = torch.from_numpy(formula.inputs("x", [8, 3, 16, 16])).double(), torch.arange(8) % 3
    losses, norms = [], []
    for _ in range(5):
        rule_.zero_grad()
        loss = F.cross_entropy(model(x), labels)
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), clip or float("inf")))
        rule_.step()
        if averaged:
            averaged.update_parameters(model)
        losses.append(loss.detach())
    print(f"{name}: losses {losses[0]:.3f} to {losses[-1]:.3f}, norms {norms[0]:.3f} to {norms[-1]:.3f}")
    return {
        "name": name,
        "rule": rule,
        "rates": rates,
        "clip": clip,
        "average": average,
        "losses": floats(torch.stack(losses)),
        "norms": floats(torch.stack(norms)),
        "state": {key: output(tensor) for key, tensor in model.state_dict().items()},
        "averaged": averaged and {key: output(tensor) for key, tensor in averaged.module.state_dict().items()},
    }


LABELS = [0, 2, 1, 1, 0, 2]
OTHERS = [1, 2, 0, 2, 2, 0]
SHARES = [0.9, 0.5, 0.25, 0.6, 0.125, 1.0]
WEIGHTS = [0.5, 2.0, 1.25]


def targets(name, mixed=False, smoothing=0.0, class_weights=None):
    """Of labels, or of mixtures of two; the references are torch's, but for mixtures with class weights, which torch does not divide so."""
    model = formula.fill(head()).double()
    logits = model(torch.from_numpy(formula.inputs("x", [6, 12])).double())
    weight = None if class_weights is None else torch.tensor(class_weights).double()
    shares = torch.tensor(SHARES if mixed else [1.0] * 6).double()
    if not mixed:
        loss = F.cross_entropy(logits, torch.tensor(LABELS), weight=weight, label_smoothing=smoothing)
    else:
        one_hot = [F.one_hot(torch.tensor(labels), 3).double() for labels in (LABELS, OTHERS)]
        probabilities = shares[:, None] * one_hot[0] + (1 - shares[:, None]) * one_hot[1]
        loss = F.cross_entropy(logits, probabilities, weight=weight, label_smoothing=smoothing)
        if weight is not None:
            loss = loss * 6 / (probabilities @ weight).sum()
    loss.backward()
    kept = 1 - smoothing
    examples = [
        [[label, other if mixed else label], [kept * share, kept * (1 - share)], smoothing]
        for label, other, share in zip(LABELS, OTHERS, shares.tolist())
    ]
    return {
        "name": name,
        "examples": examples,
        "class_weights": class_weights,
        "loss": floats(loss.detach())[0],
        "gradients": {key: output(parameter.grad) for key, parameter in model.named_parameters()},
    }


def main():
    torch.set_num_threads(1)
    print(write("engine/updates", [update(*arguments) for arguments in UPDATES]), "bytes")
    cases = [
        targets("labels"),
        targets("smoothed labels", smoothing=0.1),
        targets("weighted classes", class_weights=WEIGHTS),
        targets("weighted classes, one of them 0", class_weights=[1.0, 0.0, 3.0]),
        targets("smoothed labels of weighted classes", smoothing=0.25, class_weights=WEIGHTS),
        targets("mixtures", mixed=True),
        targets("smoothed mixtures", mixed=True, smoothing=0.1),
        targets("mixtures of weighted classes", mixed=True, class_weights=WEIGHTS),
        targets("smoothed mixtures of weighted classes", mixed=True, smoothing=0.1, class_weights=WEIGHTS),
    ]
    print(write("engine/targets", cases), "bytes")


if __name__ == "__main__":
    main()
