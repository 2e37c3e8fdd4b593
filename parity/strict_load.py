"""Does a weights file that torch wrote load strictly, for every architecture?

    cargo build --release -p engraft-weights --example strict_load
    python parity/strict_load.py [--program target/release/examples/strict_load] [ARCH...]

writes the state dict of each of torchvision's networks with random values as .safetensors and .pth (zip and legacy), one file at a time, to a
temporary folder, loads it with Engraft, and compares name, shape and CRC-32 of every tensor in order. It writes no fixture, as the files are
large: 2.5 GB for vit_h_14 and regnet_y_128gf, which need 6 GiB of memory. All 80 take three minutes.
"""

import argparse
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import torch
import torchvision.models
from safetensors.torch import save_file
from torchvision.models import get_model, list_models

WRITERS = {
    "zip": ("weights.pth", torch.save),
    "legacy": ("weights.pth", lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False)),
    "safetensors": ("weights.safetensors", save_file),
}


def random_state(architecture):
    """The state dict of a network with values that are all different from a default."""
    state = get_model(architecture).state_dict()
    random = torch.Generator().manual_seed(5)
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.uniform_(-1, 1, generator=random)
        else:
            tensor.random_(0, 100, generator=random)
    return state


def description(state):
    return [f"{name} {list(tensor.shape)} {zlib.crc32(tensor.numpy()):08x}" for name, tensor in state.items()]


def check(program, architecture, folder):
    """What is wrong, if anything."""
    state = random_state(architecture)
    expected = description(state)
    for form, (file_name, write) in WRITERS.items():
        path = folder / file_name
        write(state, path)
        loaded = subprocess.run([program, architecture, path], capture_output=True, text=True)
        path.unlink()
        if loaded.returncode != 0:
            return f"{form}: {loaded.stderr.strip()}"
        if loaded.stdout.splitlines() != expected:
            return f"{form}: other names, shapes or values"
    return None


def main():
    # torchvision takes minutes to draw the initial values of some networks, which are not used here.
    for name in dir(torch.nn.init):
        if name.endswith("_") and not name.startswith("_"):
            setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", default=str(Path(__file__).parent.parent / "target/release/examples/strict_load"))
    parser.add_argument("architectures", nargs="*", default=list_models(torchvision.models))
    options = parser.parse_args()
    known = subprocess.run([options.program], capture_output=True, text=True, check=True).stdout.split()
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for architecture in options.architectures:
            if architecture in known:
                wrong = check(options.program, architecture, Path(folder))
            else:
                wrong = "not in the zoo"
            print(f"{architecture}: {wrong or 'ok'}", flush=True)
            failures += wrong is not None
    print(f"{len(options.architectures) - failures} of {len(options.architectures)} load strictly")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
