#!/usr/bin/env python3
"""Writes tensor_golden.safetensors: what PyTorch prints for tensors and which dtypes it promotes
to.

    /usr/bin/python3 make_tensor_golden.py

{print: [{tensor, requires_grad, text, value}], promote: [[kind a, kind b, result]]}.
A kind is a dtype's name, with a trailing "0" for a 0-d tensor, or "number_int", "number_float",
"number_bool" for a Python number. `value` is what a format string gives. Made with PyTorch 1.13.1.
"""
import torch

from safetensors_file import kept, write

torch.manual_seed(7)
inf, nan = float("inf"), float("nan")
prints = []


def show(t):
    prints.append({
        "tensor": kept(t), "requires_grad": t.requires_grad, "text": repr(t),
        "value": f"{t}" if not t.requires_grad else f"{t.detach()}",
    })


T = torch.tensor
for t in [
    T([1.0, 2.0, 3.0]), T([1, 2, -30]), T([0.5, 1.0]), T(5.0), T(3.14159265), T(7), T(True),
    T([True, False]), T([1000.0, 1.0]), T([1001.0, 1.0]), T([1001.0, 1.5]), T([1e8, 1e7]),
    T([1.1e8, 1e8]), T([0.00009, 0.0001]), T([0.0001, 0.01]), T([1e-5, 1.0]), T([inf, -inf, 1.5]),
    T([inf, 1.0]), T([inf, 100.0, nan]), T([nan]), T(nan), T(-inf), T([nan, 0.25]), T([0.0, 0.0]),
    T([0.0, 100.0]), T([-0.0, 0.0]), T([-1.5, 22.25, 333.125]), T([1e20, 1.0]), T([1e-20]),
    T([123456.789]), T([99999.9999, 0.1]), T(1e10), T(1e-7), T(123456789.0), T(-0.001),
    torch.empty(0), torch.empty(0, 3), torch.empty(2, 0, 4), torch.empty(0, dtype=torch.int64),
    torch.empty(0, 2, dtype=torch.bool), torch.empty(0, dtype=torch.float64),
    torch.zeros(2, 3), torch.eye(3), torch.arange(10), torch.arange(30), torch.arange(30.0),
    torch.arange(24).reshape(2, 3, 4), torch.arange(24.0).reshape(2, 3, 4) / 8,
    torch.arange(16).reshape(2, 2, 2, 2), torch.arange(1001), torch.arange(1000.0),
    torch.arange(1200.0).reshape(30, 40), torch.arange(2000).reshape(2, 1000),
    torch.arange(3000.0).reshape(10, 10, 30) / 16, torch.arange(1100).reshape(1100, 1),
    torch.arange(1500).reshape(3, 5, 100), torch.ones(7, 200), torch.rand(3, 20), torch.randn(40),
    torch.randn(5, 5) * 1000, torch.randn(2, 3) * 1e-3, torch.randn(2, 3) * 1e6,
    T([1.0, 2.5], dtype=torch.float64), T([1, 2], dtype=torch.int32), T([1, 255], dtype=torch.uint8),
    T([1.0, 2.5], dtype=torch.float16), T([1.0, 2.5], dtype=torch.bfloat16), T(0.1),
    T(0.1, dtype=torch.float64), T(2.0, dtype=torch.float16), T(3, dtype=torch.int32),
    T([0.1, 0.2], dtype=torch.float64, requires_grad=True), T([1.0, 2.0], requires_grad=True),
    T(2.0, requires_grad=True), T([[1.0, -2.0]], requires_grad=True),
    T([[1.0], [2.0]], dtype=torch.float64, requires_grad=True), T(16777216.0), T(1e16), T(1e15),
    T([2147483648, -1]), T([9007199254740993, -1]), T(9007199254740993), T([[inf, 0.1], [nan, -inf]]),
    T([1e37, 1e-37]), T([1.0, 10.0, 100.0, 1000.0]), T([1.0, 1000.5]), T([0.1, 101.0]),
    T([65504.0, 1.0], dtype=torch.float16), T([True]).reshape(1, 1, 1), torch.ones(1, 1, 1, 1),
]:
    show(t)

names = ["float32", "float64", "bfloat16", "float16", "int64", "int32", "uint8", "bool"]
kinds = {}
for name in names:
    dtype = getattr(torch, name)
    kinds[name] = torch.ones(2, dtype=dtype)
    kinds[name + "0"] = torch.ones((), dtype=dtype)
kinds.update({"number_int": 2, "number_float": 2.5, "number_bool": True})
promote = []
for a, x in kinds.items():
    for b, y in kinds.items():
        if not isinstance(x, torch.Tensor) and not isinstance(y, torch.Tensor):
            continue
        promote.append([a, b, str(torch.result_type(x, y)).split(".")[1]])
write("tensor_golden.safetensors", {"print": prints, "promote": promote})
