#!/usr/bin/env python3
"""Writes promotion_golden.json: the dtype and the values of operations on two arguments of any
dtypes, as PyTorch promotes them.

Usage: python3 make_promotion_golden.py > promotion_golden.json

A case is [op, a, b, dtype, values], for clamp [op, a, low, dtype, values, high]. An argument is [kind, dtype]: kind "tensor" stands for the
three values below in that dtype, "zero_dim" for the second of them as a tensor without dimensions,
"number" for the second of them as a Python number (dtype bool, int64 or float64). Losses are not
reduced. dtype is null where PyTorch refuses; values are null where it only lacks the kernel (float16 on a CPU), and the
dtype is then that of torch.result_type. Made with PyTorch 1.13.1.
"""
import itertools
import json
import sys

import torch
import torch.nn.functional as F

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16,
          "float16": torch.float16, "int64": torch.int64, "int32": torch.int32,
          "uint8": torch.uint8, "bool": torch.bool}
NUMBERS = {"bool": bool, "int64": int, "float64": float}
LEFT, RIGHT, HIGH = [3.0, 0.0, 1.0], [2.0, 1.0, 0.0], [2.0, 3.0, 0.0]
CONDITION = torch.tensor([True, False, True])

OPS = {
    "add": torch.add, "mul": torch.mul, "sub": torch.sub, "div": torch.div, "pow": torch.pow,
    "maximum": torch.maximum, "minimum": torch.minimum,
    "where": lambda a, b: torch.where(CONDITION, a, b),
    "matmul": torch.matmul,
    "l1_loss": lambda a, b: F.l1_loss(a, b, reduction="none"),
    "mse_loss": lambda a, b: F.mse_loss(a, b, reduction="none"),
    "smooth_l1_loss": lambda a, b: F.smooth_l1_loss(a, b, reduction="none"),
    "eq": lambda a, b: a == b, "lt": lambda a, b: a < b, "ge": lambda a, b: a >= b,
}
OPERATORS = {"add": lambda a, b: a + b, "mul": lambda a, b: a * b, "sub": lambda a, b: a - b,
             "div": lambda a, b: a / b}
LOSSES = {"l1_loss", "mse_loss", "smooth_l1_loss"}
TENSORS_ONLY = {"maximum", "minimum", "matmul", *LOSSES}


def argument(kind, dtype, values):
    if kind == "number":
        return NUMBERS[dtype](values[1])
    t = torch.tensor(values).to(DTYPES[dtype])
    return t[1] if kind == "zero_dim" else t


def name(dtype):
    return str(dtype).split(".")[1]


def number(v):
    return "nan" if v != v else "inf" if v == float("inf") else "-inf" if v == -float("inf") else v


def case(op, a, b):
    x, y = argument(*a, LEFT), argument(*b, RIGHT)
    f = OPERATORS.get(op, OPS[op])
    try:
        z = f(x, y)
        return [op, a, b, name(z.dtype), [number(v) for v in z.reshape(-1).tolist()]]
    except RuntimeError as e:
        lacking = "not implemented for 'Half'" in str(e) or "not implemented for 'BFloat16'" in str(e)
        if not lacking:
            return [op, a, b, None, None]
        compares = op in ("eq", "lt", "ge")
        if op in LOSSES:  # of the same shape
            x, y = torch.broadcast_tensors(x, y)
        return [op, a, b, "bool" if compares else name(torch.result_type(x, y)), None]


def clamp_case(a, low, high):
    try:
        z = torch.clamp(argument(*a, LEFT), argument(*low, RIGHT), argument(*high, HIGH))
        return ["clamp", a, low, name(z.dtype), [number(v) for v in z.reshape(-1).tolist()], high]
    except RuntimeError as e:
        return None if "'Half'" in str(e) else ["clamp", a, low, None, None, high]


tensors = [["tensor", d] for d in DTYPES]
zero_dims = [["zero_dim", d] for d in DTYPES]
numbers = [["number", d] for d in NUMBERS]
cases = []
for op in OPS:
    pairs = list(itertools.product(tensors, tensors))
    if op != "matmul":
        pairs += list(itertools.product(tensors, zero_dims)) + list(itertools.product(zero_dims, tensors))
    if op not in TENSORS_ONLY:
        pairs += list(itertools.product(tensors, numbers)) + list(itertools.product(numbers, tensors))
    cases += [case(op, a, b) for a, b in pairs]
bounds = [["tensor", "float16"], ["tensor", "int64"], ["tensor", "bool"],
          ["zero_dim", "bfloat16"], ["zero_dim", "float64"], ["zero_dim", "uint8"]]
clamps = [clamp_case(a, low, high) for a, low, high in itertools.product(tensors, bounds, bounds)]
cases += [c for c in clamps if c is not None]
print("[" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "]")
print(len(cases), "cases", file=sys.stderr)
