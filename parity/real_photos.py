"""Reference values for real photos and real weights: features and ImageNet predictions of three networks.

    python parity/real_photos.py SHARED [FOLDER]

SHARED holds weights/<arch>.safetensors and data/; nothing of it is copied. Photos are read by Pillow and transformed by torchvision's preset
for ImageNet: shorter side to 256, bilinear, antialiased, centre crop of 224. Writes fixtures/networks/real_photos.json.gz,

    {photo: {arch: {"top5": classes, best first, "features": the first 64, "largest": the largest magnitude of all features}}}

with paths relative to SHARED/data and features as they enter the classifier, averaged over height and width where they are maps. With
FOLDER, it also writes there all values for all photos: photos.txt, <arch>.features.npy `[photos, features]`, <arch>.logits.npy `[photos, 1000]`.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms._presets import ImageClassification

import networks
from fixture import floats, write

ARCHITECTURES = ["mobilenet_v2", "shufflenet_v2_x1_0", "squeezenet1_1"]
CLASSES = {"flowers/test": 2, "hymenoptera/val": 5}  # photos of each class
IN_FIXTURE = [0, 3, 6, 9, 12, 17]


def photos(data):
    """Paths relative to `data`: the first of each class in the order of their names."""
    folders = [(folder, count) for split, count in CLASSES.items() for folder in sorted((data / split).iterdir())]
    return [str(path.relative_to(data)) for folder, count in folders for path in sorted(folder.glob("*.jpg"))[:count]]


def main():
    torch.set_num_threads(1)
    shared, *folders = map(Path, sys.argv[1:])
    names = photos(shared / "data")
    transform = ImageClassification(crop_size=224)
    x = torch.stack([transform(Image.open(shared / "data" / name).convert("RGB")) for name in names]).double()
    fixture = {names[i]: {} for i in IN_FIXTURE}
    for arch in ARCHITECTURES:
        model = torchvision.models.get_model(arch, weights=None).eval()
        model.load_state_dict(load_file(shared / "weights" / f"{arch}.safetensors"))
        head = networks.head_path(model, x[:1].float())
        features, logits = networks.run(model.double(), head, x)
        features = networks.pooled(features)
        for i in IN_FIXTURE:
            fixture[names[i]][arch] = {
                "top5": logits[i].topk(5).indices.tolist(),
                "features": floats(features[i, :64]),
                "largest": floats(features[i].abs().max())[0],
            }
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "photos.txt").write_text("".join(name + "\n" for name in names))
            np.save(folder / f"{arch}.features.npy", features.float().numpy())
            np.save(folder / f"{arch}.logits.npy", logits.float().numpy())
    print(f"{len(fixture)} of {len(names)} photos, {write('networks/real_photos', fixture)} bytes")


if __name__ == "__main__":
    main()
