"""How many images a second one thread decodes and transforms with Pillow and torchvision; compared by jobs.py.

    python bench/torch_transform.py FOLDER
"""

import io
import sys
import time
from pathlib import Path

import torch
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from torch_train import plain

PASSES = 10


def main(folder):
    torch.set_num_threads(1)
    # In memory, so that the disk has no part in it.
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in IMG_EXTENSIONS)
    files = [path.read_bytes() for path in paths]
    times = []
    for _ in range(PASSES):
        start = time.perf_counter()
        for file in files:
            plain(Image.open(io.BytesIO(file)).convert("RGB"))
        times.append(time.perf_counter() - start)
    print(f"{len(files)} images, {len(files) / min(times):.1f} a second")


if __name__ == "__main__":
    main(sys.argv[1])
