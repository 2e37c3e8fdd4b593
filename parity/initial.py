"""How torchvision's networks draw their initial values.

    python parity/initial.py

writes fixtures/engine/initial.json.gz, {arch: {name: [mean, deviation, largest magnitude]}} of every float parameter and buffer but tables
of coordinates, as drawn with seed 0 in f32, computed in f64 and rounded to f32 once; the deviation is of the values from their mean.
"""

import torch
import torchvision

from fixture import floats, write

ARCHS = ["resnet18", "vit_b_16", "swin_t", "swin_v2_t", "convnext_tiny", "maxvit_t"]


def main():
    drawn = {}
    for arch in ARCHS:
        torch.manual_seed(0)
        state = torchvision.models.get_model(arch).state_dict()
        state = {name: tensor.double() for name, tensor in state.items() if tensor.is_floating_point()}
        drawn[arch] = {
            name: floats(torch.stack([values.mean(), values.std(correction=0), values.abs().max()]))
            for name, values in state.items()
            if not name.endswith("relative_coords_table")
        }
        print(arch, len(drawn[arch]))
    print(write("engine/initial", drawn), "bytes")


if __name__ == "__main__":
    main()
