"""Weights files in every format of torch.save, and what torch reads from them.

    python parity/state_dicts.py

writes fixtures/state_dicts/*.pth and *.safetensors, and fixtures/state_dicts/expected.json.gz: for each file that holds a state dict,
`[name, shape, values]` of all tensors in the file's order, read back by torch (or by the package safetensors); `densenet_names` and `vit_names`,
the same for the tensors of densenet_old_names.pth and vit_old_names.pth under the names of today's torchvision; and `mobilenetv2_bottleneck`, [name, shape] in the order of a
published MobileNetV2 backbone whose names are not torchvision's, which is read if its path is given as an argument (else kept as it was).

The sizes are tiny, the layouts are not: storages shared, cut, transposed, and the tar archive that torch.save wrote before PyTorch 0.1.10.
"""

import gzip
import io
import json
import os
import pickle
import re
import struct
import sys
import tarfile
from collections import OrderedDict

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models.densenet import DenseNet
from torchvision.models.vision_transformer import VisionTransformer

from fixture import FIXTURES, write

FOLDER = FIXTURES / "state_dicts"


def small_network():
    """A network with what state dicts hold: convolution, batch norm with its counter, linear. The names do not sort into their order."""
    torch.manual_seed(7)
    network = nn.Sequential(OrderedDict(
        stem=nn.Conv2d(2, 3, 3), bn=nn.BatchNorm2d(3), body=nn.Sequential(*[nn.Linear(2, 2) for _ in range(11)]), fc=nn.Linear(3, 4)))
    for _ in range(3):
        network.bn(torch.randn(2, 3, 4, 4))
    return network


def views():
    """Tensors that are not the whole of their storage, or not in its order."""
    storage = torch.arange(24, dtype=torch.float32) / 8 - 1
    grid = storage.view(4, 6)
    return OrderedDict(
        whole=grid, transposed=grid.t(), offset=storage[5:9], columns=grid[:, 1:6:2], block=grid[1:3, 2:5],
        permuted=storage.view(2, 3, 4).permute(2, 0, 1), expanded=storage[3:4].expand(2, 3), scalar=storage[7], empty=storage[:0],
        tied=grid)


def write_tar(tensors, path):
    """The layout of torch.save before PyTorch 0.1.10: what `torch.serialization._legacy_load` reads in its branch for tar archives."""

    def dump(value):
        return pickle.dumps(value, protocol=2)

    def storage_type(tensor):
        return {torch.float32: torch.FloatStorage, torch.int64: torch.LongStorage}[tensor.dtype]

    storages, storage_blob, tensor_blob = {}, b"", b""
    for key, tensor in enumerate(tensors.values()):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in storages:
            storages[storage.data_ptr()] = 1000 + len(storages)
            storage_blob += dump((storages[storage.data_ptr()], "cpu", storage_type(tensor)))
            storage_blob += struct.pack("<q", len(storage) // tensor.element_size()) + bytes(storage)
        tensor_blob += dump((key, storages[storage.data_ptr()], type(tensor)))
        tensor_blob += struct.pack("<i4x", tensor.dim())
        tensor_blob += struct.pack(f"<{2 * tensor.dim() + 1}q", *tensor.shape, *tensor.stride(), tensor.storage_offset())

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            keys = [str(key) for key, tensor in enumerate(tensors.values()) if tensor is value]
            return keys[0] if keys else None

    main = io.BytesIO()
    Pickler(main, protocol=2).dump(OrderedDict(tensors))
    system = dict(protocol_version=1000, little_endian=True, type_sizes=dict(short=2, int=4, long=4))
    entries = dict(
        sys_info=dump(system), pickle=main.getvalue(), tensors=dump(len(tensors)) + tensor_blob,
        storages=dump(len(storages)) + storage_blob + dump([]))
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as archive:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


class Command:
    """Runs a command when it is unpickled by Python."""

    def __reduce__(self):
        return os.system, ("touch code-in-a-weights-file-was-run",)


def tiny_densenet():
    torch.manual_seed(11)
    return DenseNet(growth_rate=2, block_config=(2, 3), num_init_features=4, bn_size=1, num_classes=3).state_dict()


def densenet_old_name(name):
    """The published DenseNet files have `norm.1` where torchvision has `norm1`; torchvision itself renames while it loads."""
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))([12])\.", r"\1.\2.", name)


def tiny_vit():
    torch.manual_seed(13)
    return VisionTransformer(image_size=4, patch_size=2, num_layers=2, num_heads=1, hidden_dim=4, mlp_dim=6, num_classes=3).state_dict()


def vit_old_name(name):
    """The published ViT files were written before the MLP became a sequence; torchvision renames while it loads."""
    return name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2.")


def as_list(tensors):
    def values(tensor):
        return tensor.tolist() if tensor.dtype == torch.int64 else tensor.float().tolist()

    return [[name, list(tensor.shape), values(tensor.contiguous().flatten())] for name, tensor in tensors.items()]


def save_all():
    """Writes the files; returns what reads each of those that hold a state dict."""
    network = small_network()
    state = network.state_dict()
    legacy = dict(_use_new_zipfile_serialization=False)
    parameters = OrderedDict((name, tensor) for name, tensor in state.items() if tensor.is_floating_point())

    def save(name, value, **options):
        torch.save(value, FOLDER / name, **options)
        return name, value

    saved = [
        save("zip.pth", state),
        save("legacy.pth", state, **legacy),
        save("protocol4.pth", state, pickle_protocol=4),
        save("views.pth", views()),
        save("views_legacy.pth", views(), **legacy),
        save("f64.pth", OrderedDict((name, tensor.double()) for name, tensor in parameters.items())),
        save("f16.pth", OrderedDict((name, tensor.half()) for name, tensor in state.items() if name != "bn.num_batches_tracked")),
        save("half_module.pth", small_network().half().state_dict()),
        save("bf16.pth", OrderedDict((name, tensor.bfloat16()) for name, tensor in parameters.items())),
        save("parameters.pth", OrderedDict(network.named_parameters())),
        save("densenet_old_names.pth", OrderedDict((densenet_old_name(n), t) for n, t in tiny_densenet().items()
                                                   if not n.endswith("num_batches_tracked")), **legacy),
        save("vit_old_names.pth", OrderedDict((vit_old_name(n), t) for n, t in tiny_vit().items())),
    ]
    expected = {name: as_list(torch.load(FOLDER / name, weights_only=False)) for name, _ in saved}
    expected["densenet_names"] = as_list(tiny_densenet())
    expected["vit_names"] = as_list(tiny_vit())

    for name, tensors in [("tar.pth", state), ("views_tar.pth", views())]:
        write_tar(tensors, FOLDER / name)
        expected[name] = as_list(torch.load(FOLDER / name, weights_only=False))

    optimizer = torch.optim.Adam(network.parameters())
    for name, value in {
        "nested.pth": {"epoch": 3, "optimizer": optimizer.state_dict(), "state_dict": state},
        "nested_model.pth": {"model": state, "args": None},
        "data_parallel.pth": nn.DataParallel(network).state_dict(),
        "nested_data_parallel.pth": {"model_state_dict": nn.DataParallel(network).state_dict(), "loss": 0.5},
        "whole_module.pth": network,
    }.items():
        save(name, value)
        expected[name] = expected["zip.pth"]

    for name, dtype in [("f32.safetensors", torch.float32), ("f16.safetensors", torch.float16), ("bf16.safetensors", torch.bfloat16)]:
        tensors = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        save_file(tensors, FOLDER / name, metadata={"format": "pt", "epoch": "3"})
        expected[name] = as_list(load_file(FOLDER / name))
    save_file({"mask": torch.zeros(2, dtype=torch.bool)}, FOLDER / "bool.safetensors")

    save("int32.pth", OrderedDict(weight=torch.ones(2), table=torch.ones(3, dtype=torch.int32)))
    save("not_finite.pth", OrderedDict(good=torch.ones(2), bad=torch.tensor([1.0, float("nan"), float("inf")]),
                                       worse=torch.tensor([-float("inf")])))
    save("command.pth", Command())
    save("command_beside_tensors.pth", OrderedDict(weight=torch.ones(2), command=Command()))
    save("list.pth", [torch.ones(2)])
    save("no_tensor.pth", {"epoch": 3})
    return expected


def published_mobilenet():
    if len(sys.argv) > 1:
        return [[name, list(tensor.shape)] for name, tensor in torch.load(sys.argv[1]).items()]
    return json.loads(gzip.open(FOLDER / "expected.json.gz").read())["mobilenetv2_bottleneck"]


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    names = published_mobilenet()
    expected = save_all() | {"mobilenetv2_bottleneck": names}
    print(write("state_dicts/expected", expected), "bytes of expected values")
