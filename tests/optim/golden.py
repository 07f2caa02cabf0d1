#!/usr/bin/env python3
"""Makes golden/schedules.safetensors and golden/optimizers.safetensors with PyTorch 1.13.1 (Debian's
python3-torch): the trajectories that schedules_test and optimizers_test compare with.

    golden.py FOLDER
"""
import json
import struct
import sys
from pathlib import Path

import torch
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop
from torch.optim import lr_scheduler as lrs


def save(path, tensors):
    """Writes float32 and float64 tensors in the safetensors format."""
    header, data = {"__metadata__": {"torch": torch.__version__}}, b""
    for name, t in sorted(tensors.items(), key=lambda item: item[1].dtype != torch.float64):
        raw = t.detach().contiguous().numpy().tobytes()
        header[name] = {
            "dtype": {torch.float32: "F32", torch.float64: "F64"}[t.dtype],
            "shape": list(t.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


# -- schedules: the rates of two groups before the first update and after each of 40

STEPS = 40
METRICS = [1.0 / (1 + t) if t < 12 else 0.1 - 0.004 * (t % 7) for t in range(STEPS)]


def groups():
    return [
        {"params": [torch.nn.Parameter(torch.zeros(2))], "lr": 0.1},
        {"params": [torch.nn.Parameter(torch.zeros(3))], "lr": 0.02},
    ]


def sgd():
    return SGD(groups(), lr=1.0, momentum=0.9)


def adam():
    return Adam(groups(), lr=1.0)


def plateau(**options):
    return lambda o: [lrs.ReduceLROnPlateau(o, **options)]


SCHEDULES = {
    "step": (sgd, lambda o: [lrs.StepLR(o, 3, 0.5)]),
    "multi_step": (sgd, lambda o: [lrs.MultiStepLR(o, [9, 2, 5, 5], 0.3)]),
    "exponential": (sgd, lambda o: [lrs.ExponentialLR(o, 0.9)]),
    "linear": (sgd, lambda o: [lrs.LinearLR(o)]),
    "linear_down": (sgd, lambda o: [lrs.LinearLR(o, 0.9, 0.2, 7)]),
    "lambda": (sgd, lambda o: [lrs.LambdaLR(o, lambda t: 0.95**t)]),
    "lambdas": (sgd, lambda o: [lrs.LambdaLR(o, [lambda t: 1 / (1 + t), lambda t: 0.5 ** (t // 4)])]),
    "cosine": (sgd, lambda o: [lrs.CosineAnnealingLR(o, 8, 0.001)]),
    "cosine_long": (sgd, lambda o: [lrs.CosineAnnealingLR(o, 40)]),
    "warm_restarts": (sgd, lambda o: [lrs.CosineAnnealingWarmRestarts(o, 5)]),
    "warm_restarts_longer": (sgd, lambda o: [lrs.CosineAnnealingWarmRestarts(o, 3, 2, 0.005)]),
    "one_cycle": (sgd, lambda o: [lrs.OneCycleLR(o, 0.5, STEPS)]),
    "one_cycle_three_phase": (
        sgd,
        lambda o: [lrs.OneCycleLR(o, 0.5, STEPS, pct_start=0.25, anneal_strategy="linear", three_phase=True)],
    ),
    "one_cycle_adam": (
        adam,
        lambda o: [
            lrs.OneCycleLR(o, [0.1, 0.2], STEPS + 3, pct_start=0.4, div_factor=10.0, final_div_factor=100.0,
                           base_momentum=0.8, max_momentum=0.99)
        ],
    ),
    "one_cycle_fixed_momentum": (sgd, lambda o: [lrs.OneCycleLR(o, 0.5, STEPS, cycle_momentum=False)]),
    "chained": (sgd, lambda o: [lrs.LinearLR(o, 0.25, 1.0, 4), lrs.ExponentialLR(o, 0.9), lrs.StepLR(o, 10)]),
    "warmup_cosine": (sgd, lambda o: [lrs.LinearLR(o, 0.1, 1.0, 5), lrs.CosineAnnealingLR(o, 20)]),
    "plateau": (sgd, plateau(patience=2)),
    "plateau_max": (
        sgd,
        plateau(mode="max", factor=0.5, patience=1, threshold=0.05, threshold_mode="abs", cooldown=2, min_lr=0.01),
    ),
    "plateau_eps": (sgd, plateau(factor=0.5, patience=0, eps=0.004, threshold_mode="abs")),
    "plateau_max_rel": (sgd, plateau(mode="max", factor=0.8, patience=3, threshold=0.01)),
}


def schedules():
    out = {"metrics": torch.tensor(METRICS, dtype=torch.float64)}
    for name, (make_optimizer, make_schedules) in SCHEDULES.items():
        optimizer = make_optimizer()
        all_schedules = make_schedules(optimizer)
        rows = []

        def note():
            rows.append(
                [g["lr"] for g in optimizer.param_groups]
                + [g["momentum"] if "momentum" in g else g["betas"][0] for g in optimizer.param_groups]
            )

        note()
        for t in range(STEPS):
            optimizer.step()
            for schedule in all_schedules:
                if isinstance(schedule, lrs.ReduceLROnPlateau):
                    schedule.step(METRICS[t])
                else:
                    schedule.step()
            note()
        out[name] = torch.tensor(rows, dtype=torch.float64)  # (41, lr lr momentum momentum)
    return out


# -- optimizers: two parameters after each of 12 updates; the second has a gradient every other time

UPDATES = 12
OPTIMIZERS = {
    "sgd": (SGD, dict(lr=0.1)),
    "sgd_momentum": (SGD, dict(lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.05)),
    "sgd_nesterov": (SGD, dict(lr=0.1, momentum=0.8, nesterov=True, maximize=True)),
    "adam": (Adam, {}),
    "adam_amsgrad": (Adam, dict(lr=0.05, betas=(0.7, 0.9), weight_decay=0.1, amsgrad=True)),
    "adamw": (AdamW, dict(lr=0.02)),
    "rmsprop": (RMSprop, {}),
    "rmsprop_momentum": (RMSprop, dict(lr=0.03, alpha=0.9, eps=1e-4, weight_decay=0.1, momentum=0.5)),
    "rmsprop_centered": (RMSprop, dict(lr=0.02, alpha=0.8, centered=True)),
    "rmsprop_all": (RMSprop, dict(lr=0.02, alpha=0.8, centered=True, momentum=0.7, maximize=True)),
    "adagrad": (Adagrad, {}),
    "adagrad_decay": (
        Adagrad,
        dict(lr=0.1, lr_decay=0.2, weight_decay=0.1, initial_accumulator_value=0.3, eps=1e-3),
    ),
    "adagrad_maximize": (Adagrad, dict(lr=0.1, maximize=True)),
}


def optimizers():
    torch.manual_seed(1)
    out = {}
    for dtype, suffix in ((torch.float32, "f32"), (torch.float64, "f64")):
        start = torch.randn(2, 5).to(dtype)
        grads = torch.randn(UPDATES, 2, 5).to(dtype)
        grads[:, :, 4] *= 1e-4  # small beside eps
        out[f"start.{suffix}"], out[f"grads.{suffix}"] = start, grads
        for name, (kind, options) in OPTIMIZERS.items():
            parameters = [torch.nn.Parameter(row.clone()) for row in start]
            optimizer = kind(parameters, **{"lr": 1e-3, **options} if kind is SGD else options)
            rows = []
            for t in range(UPDATES):
                parameters[0].grad = grads[t, 0].clone()
                parameters[1].grad = grads[t, 1].clone() if t % 2 else None
                optimizer.step()
                rows.append(torch.stack([p.detach().clone() for p in parameters]))
            out[f"{name}.{suffix}"] = torch.stack(rows)
    return out


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    save(folder / "schedules.safetensors", schedules())
    save(folder / "optimizers.safetensors", optimizers())
