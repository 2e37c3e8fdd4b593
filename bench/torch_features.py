"""The script that an expert writes to train a head on a frozen network with PyTorch; compared by jobs.py.

    python bench/torch_features.py DATA WEIGHTS THREADS

The backbone is computed once a photo, channels last and without gradients, and the head is trained on what it gave:
what engraft does. Head, epochs, optimizer and splits are those of torch_train.py.
"""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, models

from torch_train import EPOCHS, plain, state_dict


def features(backbone, folder):
    """Pooled features, labels and classes of a folder of photos."""
    photos = datasets.ImageFolder(folder, plain)
    rows, labels = [], []
    with torch.inference_mode():
        for images, each in DataLoader(photos, batch_size=32, num_workers=2):
            maps = backbone(images.to(memory_format=torch.channels_last))
            rows.append(maps.mean((2, 3)))
            labels.append(each)
    # Cloned outside, where they are tensors that autograd takes.
    return torch.cat(rows).clone(), torch.cat(labels).clone(), photos.classes


def main(data, weights, threads):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    valid_folder = next(folder for name in ["valid", "val"] if (folder := Path(data) / name).is_dir())

    model = models.mobilenet_v2()
    model.load_state_dict(state_dict(weights))
    backbone = model.features.eval().to(memory_format=torch.channels_last)
    rows, labels, classes = features(backbone, f"{data}/train")
    valid_rows, valid_labels, _ = features(backbone, valid_folder)

    head = nn.Sequential(nn.Linear(1280, 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, len(classes)))
    loss_of = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(head.parameters(), lr=0.003)
    for epoch in range(1, EPOCHS + 1):
        head.train()
        for batch in torch.randperm(len(rows)).split(64):
            optimizer.zero_grad()
            loss_of(head(rows[batch]), labels[batch]).backward()
            optimizer.step()
        head.eval()
        with torch.no_grad():
            correct = (head(valid_rows).argmax(1) == valid_labels).sum().item()
        print(f"epoch {epoch}: valid accuracy {correct / len(valid_rows):.4f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
