"""Embeddings of positions for another number of patches, as torchvision interpolates them.

    python parity/positions.py

writes fixtures/positions.json.gz: a list of {from, to}, each {shape, values} of an `encoder.pos_embedding`, `[1, 1 + side * side, dim]`, the
class token first, before and after torchvision's `interpolate_embeddings`; computed in f64 and rounded to f32 once.
"""

import torch
from torchvision.models.vision_transformer import interpolate_embeddings

import formula
from fixture import floats, write


def case(before, after, dim):
    embedding = torch.from_numpy(formula.values("encoder.pos_embedding", [1, 1 + before * before, dim])).double()
    # A patch of one pixel: the side of the image is that of the grid.
    interpolated = interpolate_embeddings(after, 1, {"encoder.pos_embedding": embedding})["encoder.pos_embedding"]
    return {
        key: {"shape": list(tensor.shape), "values": floats(tensor)}
        for key, tensor in (("from", embedding), ("to", interpolated))
    }


def main():
    cases = [case(4, 7, 3), case(7, 4, 3), case(5, 6, 2), case(3, 12, 2), case(1, 3, 4), case(6, 1, 4), case(2, 3, 2), case(4, 4, 2)]
    print(f"{len(cases)} cases, {write('positions', cases)} bytes")


if __name__ == "__main__":
    main()
