#!/usr/bin/env python3
"""Writes optim_golden.safetensors: trajectories of PyTorch's optimizers and results of its gradient
clipping.

    /usr/bin/python3 make_optim_golden.py

Three parameters, of 3, 2x2 and 1 elements; the second gets no gradient in steps 2 and 3, the third
none before step 4. A trajectory is one tensor for each parameter, whose first dimension is the step.
Written with PyTorch 1.13.1. Its `maximize` of SGD lets weight decay push in the wrong direction,
which later versions corrected; "maximize" cases therefore run on negated gradients without it.
"""
import numpy as np
import torch

from safetensors_file import kept, write

STEPS = 8
CASES = [
    ("sgd", "SGD", [dict(lr=0.1)]),
    ("sgd_weight_decay", "SGD", [dict(lr=0.1, weight_decay=0.05)]),
    ("sgd_momentum", "SGD", [dict(lr=0.1, momentum=0.9)]),
    ("sgd_dampening", "SGD", [dict(lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.01)]),
    ("sgd_nesterov", "SGD", [dict(lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.01)]),
    ("sgd_maximize", "SGD", [dict(lr=0.1, momentum=0.9, weight_decay=0.02, maximize=True)]),
    ("sgd_groups", "SGD", [dict(lr=0.1), dict(lr=0.01, momentum=0.9)]),
    ("adam", "Adam", [dict(lr=0.01)]),
    ("adam_options", "Adam", [dict(lr=0.02, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.1)]),
    ("adam_amsgrad", "Adam", [dict(lr=0.01, betas=(0.5, 0.5), amsgrad=True)]),
    ("adam_maximize", "Adam", [dict(lr=0.01, weight_decay=0.1, maximize=True)]),
    ("adam_groups", "Adam", [dict(lr=0.01), dict(lr=0.1, weight_decay=0.1)]),
    ("adamw", "AdamW", [dict(lr=0.01)]),
    ("adamw_options", "AdamW", [dict(lr=0.05, betas=(0.8, 0.95), weight_decay=0.3)]),
    ("adamw_amsgrad", "AdamW", [dict(lr=0.01, betas=(0.5, 0.5), weight_decay=0.2, amsgrad=True)]),
    ("adamw_maximize", "AdamW", [dict(lr=0.01, weight_decay=0.2, maximize=True)]),
]
SHAPES = [(3,), (2, 2), (1,)]


def values():
    rng = np.random.default_rng(5)
    # Multiples of 1/64: the same in float32 and float64.
    draw = lambda shape: (rng.integers(-128, 128, shape) / 64.0)
    start = [draw(s) for s in SHAPES]
    grads = []
    for step in range(STEPS):
        # Large at first, so that amsgrad's maximum differs from the running average later.
        step_grads = [draw(s) * (4.0 if step < 2 else 1.0) for s in SHAPES]
        if step in (2, 3):
            step_grads[1] = None
        if step < 4:
            step_grads[2] = None
        grads.append(step_grads)
    return start, grads


def tensor(x):
    return None if x is None else torch.tensor(x)


def trajectory(algorithm, groups, dtype, start, grads):
    params = [torch.tensor(p, dtype=dtype, requires_grad=True) for p in start]
    sign = -1.0 if groups[0].get("maximize") else 1.0
    groups = [{k: v for k, v in g.items() if k != "maximize"} for g in groups]
    # With two groups, the first parameter is alone in its own.
    members = [params] if len(groups) == 1 else [params[:1], params[1:]]
    optimizer = getattr(torch.optim, algorithm)(
        [dict(params=m, **g) for m, g in zip(members, groups)], lr=1.0)
    result = []
    for step, step_grads in enumerate(grads):
        if step == 5:  # a schedule
            for g in optimizer.param_groups:
                g["lr"] *= 0.5
        for p, g in zip(params, step_grads):
            p.grad = None if g is None else torch.tensor(sign * g, dtype=dtype)
        optimizer.step()
        result.append([kept(p) for p in params])
    return [torch.stack(steps) for steps in zip(*result)]


def clipped(max_norm, limit, dtype, grads):
    params = [torch.zeros(g.shape if g is not None else (2,), dtype=dtype) for g in grads]
    for p, g in zip(params, grads):
        p.grad = None if g is None else torch.tensor(g, dtype=dtype)
    out = {}
    if max_norm is not None:
        out["max_norm"] = max_norm
        out["norm"] = torch.nn.utils.clip_grad_norm_(params, max_norm).item()
    else:
        out["limit"] = limit
        torch.nn.utils.clip_grad_value_(params, limit)
    out["grads"] = [kept(p.grad) for p in params]
    return out


def main():
    torch.set_num_threads(1)
    start, grads = values()
    golden = {
        "start": [tensor(p) for p in start],
        "grads": [[tensor(g) for g in step] for step in grads],
        "cases": [],
        "clip": [],
    }
    for name, algorithm, groups in CASES:
        golden["cases"].append({
            "name": name, "algorithm": algorithm, "groups": groups,
            "float32": trajectory(algorithm, groups, torch.float32, start, grads),
            "float64": trajectory(algorithm, groups, torch.float64, start, grads)})
    for max_norm, limit in ((1.0, None), (1e3, None), (0.0, None), (None, 0.5), (None, 0.0)):
        golden["clip"].append(clipped(max_norm, limit, torch.float64, grads[3]))
    write("optim_golden.safetensors", golden)


if __name__ == "__main__":
    main()
