#!/usr/bin/env python3
"""Writes autocast_golden.safetensors: what PyTorch's autocast does to which op.

    /usr/bin/python3 make_autocast_golden.py

"lists" are the names of the ops that PyTorch tests its CUDA autocast with, by policy. "products" are
outputs and gradients under its CPU autocast to bfloat16, of ops that both lists treat alike.

Written with PyTorch 1.13.1.
"""
import sys
import types

import torch
import torch.nn.functional as F

# The lists need one flag of a module that imports more than is installed.
utilities = types.ModuleType("torch.testing._internal.common_utils")
utilities.TEST_WITH_ROCM = False
sys.modules.setdefault(utilities.__name__, utilities)
from torch.testing._internal.autocast_test_lists import AutocastTestLists

from safetensors_file import kept, write

PRODUCTS = [
    ("linear", F.linear, [(5, 33), (7, 33), (7,)]),
    ("mm", torch.mm, [(5, 33), (33, 7)]),
    ("bmm", torch.bmm, [(3, 5, 33), (3, 33, 7)]),
    ("matmul", torch.matmul, [(2, 5, 33), (33, 7)]),
    ("addmm", torch.addmm, [(7,), (5, 33), (33, 7)]),
    ("conv1d", F.conv1d, [(2, 3, 9), (4, 3, 3), (4,)]),
    ("conv2d", F.conv2d, [(2, 3, 7, 6), (4, 3, 3, 3), (4,)]),
    ("mse_loss", F.mse_loss, [(4, 5), (4, 5)]),
]


def lists():
    all = AutocastTestLists("meta")  # nothing is computed
    names = lambda *groups: sorted({entry[0] for group in groups for entry in group})
    return {"low": names(all.torch_fp16, all.nn_fp16),
            "float32": names(all.torch_fp32, all.nn_fp32),
            "widest": names(all.torch_need_autocast_promote),
            "refused": names(all.banned)}


def product(name, function, shapes):
    inputs = [(torch.randn(s) / 2).requires_grad_() for s in shapes]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = function(*inputs)
    g = torch.randn(y.shape).to(y.dtype)
    y.backward(g)
    assert all(x.grad.dtype == torch.float32 for x in inputs)
    return {"op": name, "inputs": [kept(x) for x in inputs], "output": kept(y), "gradient": g,
            "gradients": [kept(x.grad) for x in inputs]}


def main():
    torch.manual_seed(0)
    write("autocast_golden.safetensors",
          {"lists": lists(), "products": [product(*case) for case in PRODUCTS]})


if __name__ == "__main__":
    main()
