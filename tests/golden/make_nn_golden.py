#!/usr/bin/env python3
"""Writes nn_golden.safetensors: outputs, gradients and running statistics of PyTorch's BatchNorm2d
over three training steps and one evaluation, and the texts of load_state_dict's errors.

    /usr/bin/python3 make_nn_golden.py

Written with PyTorch 1.13.1.
"""
import numpy as np
import torch

from safetensors_file import kept, write

BATCH_NORMS = [
    ("default", dict()),
    ("momentum", dict(momentum=0.4, eps=1e-2)),
    ("cumulative", dict(momentum=None)),
    ("not_affine", dict(affine=False)),
    ("untracked", dict(track_running_stats=False)),
]
SHAPE = (4, 3, 2, 2)


def batch_norm(name, options, inputs):
    layer = torch.nn.BatchNorm2d(SHAPE[1], **options).double()
    if layer.affine:
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([0.5, 1.0, -2.0]))
            layer.bias.copy_(torch.tensor([0.25, 0.0, 1.0]))
    steps = []
    for i, values in enumerate(inputs):
        layer.train(i < 3)
        x = torch.tensor(values, requires_grad=True)
        y = layer(x)
        layer.zero_grad()
        (y * y * torch.arange(y.numel()).reshape(y.shape).double() / 16).sum().backward()
        step = {"y": kept(y), "dx": kept(x.grad)}
        if layer.affine:
            step["dweight"], step["dbias"] = kept(layer.weight.grad), kept(layer.bias.grad)
        if layer.track_running_stats:
            step["running_mean"] = kept(layer.running_mean)
            step["running_var"] = kept(layer.running_var)
            step["num_batches_tracked"] = layer.num_batches_tracked.item()
        steps.append(step)
    options = {k: v for k, v in options.items()}
    return {"name": name, "options": options, "steps": steps}


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 2)
        self.bn = torch.nn.BatchNorm2d(2)


def load_errors():
    good = Net().state_dict()
    texts = {}
    def attempt(name, change, strict=True):
        state = dict(good)
        change(state)
        try:
            Net().load_state_dict(state, strict=strict)
            texts[name] = None
        except RuntimeError as error:
            texts[name] = str(error)
    attempt("missing", lambda s: (s.pop("fc.bias"), s.pop("bn.running_mean")))
    attempt("unexpected", lambda s: s.update({"zeta": torch.zeros(1), "alpha": torch.zeros(1)}))
    attempt("shape", lambda s: s.update({"fc.weight": torch.zeros(3, 2),
                                         "bn.weight": torch.zeros(4)}))
    attempt("all", lambda s: (s.pop("bn.bias"), s.update({"more": torch.zeros(1),
                                                          "fc.weight": torch.zeros(5)})))
    attempt("loose", lambda s: (s.pop("bn.bias"), s.update({"more": torch.zeros(1),
                                                            "fc.weight": torch.zeros(5)})),
            strict=False)
    attempt("fine", lambda s: (s.pop("bn.bias"), s.update({"more": torch.zeros(1)})), strict=False)
    return texts


def main():
    torch.set_num_threads(1)
    rng = np.random.default_rng(7)
    inputs = [rng.integers(-64, 64, SHAPE) / 16.0 + step for step in range(4)]
    write("nn_golden.safetensors", {
        "inputs": [torch.tensor(x) for x in inputs],
        "batch_norms": [batch_norm(name, options, inputs) for name, options in BATCH_NORMS],
        "state_dict": [[name, list(t.shape)] for name, t in Net().state_dict().items()],
        "load_errors": load_errors(),
    })


if __name__ == "__main__":
    main()
