"""The script that people write to train a head with PyTorch, after the transfer learning tutorial; compared by jobs.py.

    python bench/torch_train.py DATA WEIGHTS THREADS
"""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms

EPOCHS = 7
normalize = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
augmented = transforms.Compose(
    [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor(), normalize]
)
plain = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), normalize])


def state_dict(path):
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, weights_only=True)


def main(data, weights, threads):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    valid_folder = next(folder for name in ["valid", "val"] if (folder := Path(data) / name).is_dir())
    train = datasets.ImageFolder(f"{data}/train", augmented)
    valid = datasets.ImageFolder(valid_folder, plain)
    train_batches = DataLoader(train, batch_size=64, shuffle=True, num_workers=2)
    valid_batches = DataLoader(valid, batch_size=64, num_workers=2)

    model = models.mobilenet_v2()
    model.load_state_dict(state_dict(weights))
    for parameter in model.parameters():
        parameter.requires_grad = False
    head = [nn.Linear(1280, 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, len(train.classes)), nn.LogSoftmax(dim=1)]
    model.classifier = nn.Sequential(*head)
    loss_of = nn.NLLLoss()
    optimizer = torch.optim.Adam(model.classifier.parameters(), lr=0.003)

    for epoch in range(1, EPOCHS + 1):
        model.train()
        for images, labels in train_batches:
            optimizer.zero_grad()
            loss = loss_of(model(images), labels)
            loss.backward()
            optimizer.step()
        model.eval()
        correct = 0
        with torch.no_grad():
            for images, labels in valid_batches:
                correct += (model(images).argmax(1) == labels).sum().item()
        print(f"epoch {epoch}: valid accuracy {correct / len(valid):.4f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
