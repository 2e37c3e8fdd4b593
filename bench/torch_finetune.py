"""The script that people write to fine-tune a part of a network with PyTorch; compared by jobs.py.

    python bench/torch_finetune.py DATA WEIGHTS THREADS ARCH last|all EPOCHS

`last` trains layer4 and the head of a ResNet, `all` everything; batch norms keep their running statistics, as engraft's do. What is frozen
is computed in each epoch, without gradients, on photos that are augmented; channels last, which is the faster layout on a CPU. It prints
how long each epoch took, its validation included.
"""

import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, models

from torch_train import augmented, plain, state_dict

BATCH = 32


def main(data, weights, threads, arch, part, epochs):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    valid_folder = next(folder for name in ["valid", "val"] if (folder := Path(data) / name).is_dir())
    train = datasets.ImageFolder(f"{data}/train", augmented)
    valid = datasets.ImageFolder(valid_folder, plain)
    train_batches = DataLoader(train, batch_size=BATCH, shuffle=True, num_workers=2)
    valid_batches = DataLoader(valid, batch_size=BATCH, num_workers=2)

    model = models.get_model(arch)
    model.load_state_dict(state_dict(weights))
    if part == "last":
        for parameter in model.parameters():
            parameter.requires_grad = False
        for parameter in model.layer4.parameters():
            parameter.requires_grad = True
    if hasattr(model, "fc"):
        model.fc = nn.Linear(model.fc.in_features, len(train.classes))
    else:
        model.classifier = nn.Linear(model.classifier[-1].in_features, len(train.classes))
    model = model.to(memory_format=torch.channels_last).eval()
    loss_of = nn.CrossEntropyLoss()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.001, momentum=0.9)

    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        for images, labels in train_batches:
            optimizer.zero_grad()
            loss = loss_of(model(images.to(memory_format=torch.channels_last)), labels)
            loss.backward()
            optimizer.step()
        trained_after = time.perf_counter() - start
        correct = 0
        with torch.no_grad():
            for images, labels in valid_batches:
                correct += (model(images.to(memory_format=torch.channels_last)).argmax(1) == labels).sum().item()
        seconds = time.perf_counter() - start
        print(
            f"epoch {epoch}: {seconds:.3f} s, {trained_after:.3f} s without validation, "
            f"valid accuracy {correct / len(valid):.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:3], int(sys.argv[3]), *sys.argv[4:6], int(sys.argv[6]))
