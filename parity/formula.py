"""Tensors that any language computes from their name and shape, bit for bit.

Reference values need weights on both sides. Instead of shipping hundreds of megabytes, each side computes them:

    seed     = FNV-1a, 64 bits, of the tensor's name in UTF-8
               (offset basis 0xcbf29ce484222325, prime 0x100000001b3)
    z        = seed + i + 0x9e3779b97f4a7c15          for the element with row-major index i
    z        = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
    z        = (z ^ (z >> 27)) * 0x94d049bb133111eb
    z        = z ^ (z >> 31)                          all modulo 2**64: one step of splitmix64 from the state seed + i
    u        = f32(z >> 40) / 2**24                   in [0, 1), exact
    value    = centre + (u - 0.5) * width             in f32; the subtraction is exact, the product and the
                                                      sum are each rounded once (no fused multiply-add)

so that a value is uniform in [centre - width / 2, centre + width / 2). `centre` and `width` are f32 and follow from the last component
of the name (`weight` of `features.0.weight`) and the shape; the first line that fits holds:

    last component                      centre   width
    num_batches_tracked                 0        0       (an int64, always zero)
    running_mean                        0        0.2
    running_var                         1        1
    ends with `bias`                    0        0.2
    class_token, pos_embedding          0        2
    logit_scale                         2        5.5     (swin_v2's, which is cut off at ln 100 = 4.6)
    layer_scale, or rank 1 (a norm's)   norm     0.5     (norm = 0.75 where nothing else is said)
    any other                           0        f32(2 * sqrt(6 / fan_in)), computed in f64; fan_in = product of shape[1:]

The last line is Kaiming's uniform initialisation for ReLU. `norm`, the centre of the norms' weights, is the one number that a network may
set: activations grow with every residual block and shrink with every plain one, and no value keeps the deepest of both kinds in range.
Buffers that an architecture computes itself (`relative_position_index`, `relative_coords_table`) are not filled.

An input is a tensor with centre 0 and width 4, named `input` where nothing else is said.

Examples, shortest decimals that round to the f32:

    values("features.0.weight", [64, 3, 3, 3])[0, 0, 0, :3]  =  [0.33541137, -0.012282603, -0.45279697]
    values("bn1.weight", [64])[:3]                           =  [0.680102, 0.73014, 0.64074564]
    inputs("input", [1, 3, 224, 224])[0, 0, 0, :3]           =  [-1.6087267, -1.4100857, 0.2963376]
"""

import math

import numpy as np

CHUNK = 1 << 20  # elements computed at a time: the intermediate values stay in the processor's cache


def seed(name):
    """FNV-1a, 64 bits."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = ((state ^ byte) * 0x100000001B3) % 2**64
    return state


def uniform(name, shape, centre, width):
    """f32 values in [centre - width / 2, centre + width / 2), from the name alone."""
    values = np.empty(math.prod(shape), np.float32)
    for start in range(0, values.size, CHUNK):
        part = values[start : start + CHUNK]
        first = (seed(name) + start + 0x9E3779B97F4A7C15) % 2**64
        z = np.arange(part.size, dtype=np.uint64) + np.uint64(first)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
        u = (z >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
        part[:] = np.float32(centre) + (u - np.float32(0.5)) * np.float32(width)
    return values.reshape(shape)


def centre_and_width(name, shape, norm):
    """The table above."""
    kind = name.split(".")[-1]
    if kind == "num_batches_tracked":
        return 0, 0
    if kind == "running_mean":
        return 0, 0.2
    if kind == "running_var":
        return 1, 1
    if kind.endswith("bias"):
        return 0, 0.2
    if kind in ("class_token", "pos_embedding"):
        return 0, 2
    if kind == "logit_scale":
        return 2, 5.5
    if kind == "layer_scale" or len(shape) == 1:
        return norm, 0.5
    return 0, 2 * math.sqrt(6 / math.prod(shape[1:]))


def values(name, shape, norm=0.75):
    """The parameter or buffer `name` of a network."""
    return uniform(name, shape, *centre_and_width(name, shape, norm))


def inputs(name, shape):
    """The input `name` of a network: in [-2, 2), about the range of a normalised photo."""
    return uniform(name, shape, 0, 4)


def fill(model, norm=0.75):
    """Gives a torch module the values of this formula, in place; buffers that its architecture computes itself stay."""
    import torch

    parameters = {name for name, _ in model.named_parameters()}
    batch_statistics = ("running_mean", "running_var", "num_batches_tracked")
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name in parameters or name.endswith(batch_statistics):
                tensor.copy_(torch.from_numpy(values(name, tuple(tensor.shape), norm)))
    return model
