"""One photo and PyTorch: the five classes that mobilenet_v2 finds most probable; compared by jobs.py.

    python bench/torch_predict.py IMAGE WEIGHTS THREADS
"""

import sys

import torch
from PIL import Image
from torchvision import models

from torch_train import plain, state_dict


def main(image, weights, threads):
    torch.set_num_threads(threads)
    model = models.mobilenet_v2()
    model.load_state_dict(state_dict(weights))
    model.eval()
    with torch.inference_mode():
        probabilities = model(plain(Image.open(image).convert("RGB"))[None]).softmax(1)[0]
    top = probabilities.topk(5)
    for probability, label in zip(top.values.tolist(), top.indices.tolist()):
        print(f"{probability:.4f} {label}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
