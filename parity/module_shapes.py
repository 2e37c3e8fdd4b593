"""Writes the output shape of every module of every classification network, as torch's forward hooks see it.

The networks run on torch's `meta` device, which computes shapes alone, in training mode, so that auxiliary heads run as well.

fixtures/module_shapes.json.gz: {network: {"input": shape, "modules": [[path, class, shape of the last output or null]]}}
"""

import torch
import torchvision

from fixture import write


def module_shapes(name: str) -> dict:
    side = 299 if name == "inception_v3" else 224
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    # RegNet computes its widths with tensors that hold values.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        model = torchvision.models.get_model(name, **options).to("meta")
    image = torch.zeros(2, 3, side, side, device="meta")
    shapes = {}

    def keep(path):
        def hook(module, inputs, output):
            shapes[path] = list((output if torch.is_tensor(output) else output[0]).shape)

        return hook

    for path, module in model.named_modules():
        module.register_forward_hook(keep(path))
    if options:
        model.transform_input = True
    model.train()(image)
    modules = [[path, type(m).__name__, shapes.get(path)] for path, m in model.named_modules(remove_duplicate=False)]
    return {"input": list(image.shape), "modules": modules}


if __name__ == "__main__":
    names = torchvision.models.list_models(module=torchvision.models)
    write("module_shapes", {name: module_shapes(name) for name in sorted(names)})
