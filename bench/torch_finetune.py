"""The scripts that people and experts write to fine-tune a part of a network with PyTorch; compared by jobs.py.

    python bench/torch_finetune.py DATA WEIGHTS THREADS ARCH last|all usual|expert EPOCHS

`last` trains layer4 and the head of a ResNet, `all` everything; batch norms keep their running statistics, as engraft's do. The usual script
augments the photos in each epoch, and so computes what is frozen in each; the expert's sets channels last, which is the faster layout on a
CPU, and computes what comes before layer4 once a photo, as engraft does. Both print how long each epoch took, its validation included.
"""

import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision import datasets, models

from torch_train import augmented, plain, state_dict

BATCH = 32


def loader(photos, shuffle):
    return DataLoader(photos, batch_size=BATCH, shuffle=shuffle, num_workers=2)


def computed(trunk, photos):
    """What the frozen layers make of all photos, and the labels, in memory."""
    maps, labels = [], []
    with torch.inference_mode():
        for images, each in loader(photos, False):
            maps.append(trunk(images.to(memory_format=torch.channels_last)))
            labels.append(each)
    # Cloned outside, where they are tensors that autograd takes.
    return TensorDataset(torch.cat(maps).clone(), torch.cat(labels).clone())


def main(data, weights, threads, arch, part, style, epochs):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    is_expert = style == "expert"
    layout = torch.channels_last if is_expert else torch.contiguous_format
    valid_folder = next(folder for name in ["valid", "val"] if (folder := Path(data) / name).is_dir())
    train = datasets.ImageFolder(f"{data}/train", plain if is_expert and part == "last" else augmented)
    valid = datasets.ImageFolder(valid_folder, plain)
    classes, images = len(train.classes), len(valid)

    model = models.get_model(arch)
    model.load_state_dict(state_dict(weights))
    if part == "last":
        for parameter in model.parameters():
            parameter.requires_grad = False
        for parameter in model.layer4.parameters():
            parameter.requires_grad = True
    if hasattr(model, "fc"):
        model.fc = nn.Linear(model.fc.in_features, classes)
    else:
        model.classifier = nn.Linear(model.classifier[-1].in_features, classes)
    model = model.to(memory_format=layout).eval()
    workers = 2
    if is_expert and part == "last":
        trunk = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool, model.layer1, model.layer2, model.layer3)
        train, valid = computed(trunk, train), computed(trunk, valid)
        model = nn.Sequential(model.layer4, model.avgpool, nn.Flatten(), model.fc)
        workers = 0
    train_batches = DataLoader(train, batch_size=BATCH, shuffle=True, num_workers=workers)
    valid_batches = DataLoader(valid, batch_size=BATCH, num_workers=workers)
    loss_of = nn.CrossEntropyLoss()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.001, momentum=0.9)

    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        for inputs, labels in train_batches:
            optimizer.zero_grad()
            loss = loss_of(model(inputs.to(memory_format=layout)), labels)
            loss.backward()
            optimizer.step()
        trained_after = time.perf_counter() - start
        correct = 0
        with torch.no_grad():
            for inputs, labels in valid_batches:
                correct += (model(inputs.to(memory_format=layout)).argmax(1) == labels).sum().item()
        seconds = time.perf_counter() - start
        print(
            f"epoch {epoch}: {seconds:.3f} s, {trained_after:.3f} s without validation, "
            f"valid accuracy {correct / images:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:3], int(sys.argv[3]), *sys.argv[4:7], int(sys.argv[7]))
