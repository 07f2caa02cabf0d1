#!/usr/bin/env python3
"""Matrix products and memory-bound ops: Lockstep's rates against PyTorch's on the same device.

    bench/compare_kernels.py [BUILD_FOLDER] [--device cuda] [--dtype float32] [--rounds 5]

The two run in turns. Prints, for each op of bench/kernels.cc, PyTorch's time divided by Lockstep's
(medians), Lockstep's rate, and for what memory bounds the share of the rate of Lockstep's or
PyTorch's copy, whichever is faster. PyTorch computes float32 in float32 (no TF32).
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

PYTORCH = """
import json, re, statistics, sys, time
import torch
import torch.nn.functional as F

device, dtype, scale, span = sys.argv[1], getattr(torch, sys.argv[2]), *map(float, sys.argv[3:5])
names, rounds = sys.argv[6:], int(sys.argv[5])
torch.backends.cuda.matmul.allow_tf32 = False
sync = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
if device == "cpu":
    torch.set_num_threads(int(__import__("os").environ.get("OMP_NUM_THREADS", "1")))

def scaled(n):
    return max(16, round(scale * n))

def random(*sizes):
    return torch.randn(sizes, device=device).to(dtype)

def forward_cases():
    rows, columns = scaled(16384), scaled(4096)
    x, y = random(rows, columns), random(rows, columns)
    weight, bias = random(columns), random(columns)
    leaf = random(rows, columns).requires_grad_()
    w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()

    def backward(output, *inputs):
        gradient = random(*output.shape)
        return lambda: torch.autograd.grad(output, inputs, gradient, retain_graph=True)

    return {
        "copy": lambda: lambda: y.copy_(x),
        "add": lambda: lambda: x + y,
        "relu": lambda: lambda: torch.relu(x),
        "gelu": lambda: lambda: F.gelu(x),
        "gelu backward": lambda: backward(F.gelu(leaf), leaf),
        "sum of all": lambda: lambda: x.sum(),
        "sum of rows": lambda: lambda: x.sum(0),
        "softmax": lambda: lambda: torch.softmax(x, -1),
        "softmax backward": lambda: backward(torch.softmax(leaf, -1), leaf),
        "layer norm": lambda: lambda: F.layer_norm(x, (columns,), weight, bias),
        "layer norm backward": lambda: backward(F.layer_norm(leaf, (columns,), w, b), leaf, w, b),
    }

def milliseconds(run):
    def clock(n):
        sync()
        begin = time.perf_counter()
        for _ in range(n):
            run()
        sync()
        return 1e3 * (time.perf_counter() - begin) / n
    clock(2)
    n = max(1, round(span / clock(1)))
    return statistics.median(clock(n) for _ in range(rounds))

cases = forward_cases()
for name in names:
    product = re.fullmatch(r"matmul (\\d+)x(\\d+)x(\\d+)", name)
    if product:
        m, n, k = (scaled(int(s)) for s in product.groups())
        a, b = random(m, k), random(k, n)
        run = lambda: a @ b
    else:
        run = cases[name]()
    print(json.dumps({"name": name, "ms": milliseconds(run)}), flush=True)
"""


def lines(command):
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in output.splitlines()]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", nargs="?", default="build")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--scale", default="1.0", help="of every size, to try it out")
    parser.add_argument("--milliseconds", default="20", help="of one measurement")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    common = [options.device, options.dtype, options.scale, options.milliseconds]
    ours, theirs, facts = {}, {}, {}
    for _ in range(options.rounds):
        flags = ("--device", "--dtype", "--scale", "--milliseconds")
        for line in lines([os.path.join(options.build, "bench", "kernels"), "--rounds", "3",
                           *(word for pair in zip(flags, common) for word in pair)]):
            ours.setdefault(line["name"], []).append(line["ms"])
            facts[line["name"]] = line
        for line in lines([sys.executable, "-c", PYTORCH, *common, "3", *facts]):
            theirs.setdefault(line["name"], []).append(line["ms"])
    best_copy = min(statistics.median(times["copy"]) for times in (ours, theirs))
    best_rate = facts["copy"]["gigabytes"] / best_copy
    for name, fact in facts.items():
        mine, other = statistics.median(ours[name]), statistics.median(theirs[name])
        if fact["gigaops"]:
            rate = f"{fact['gigaops'] / mine:9.2f} TFLOP/s"
        else:
            speed = fact["gigabytes"] / mine
            rate = f"{1e3 * speed:9.1f} GB/s, {100 * speed / best_rate:3.0f} % of copy"
        print(f"{name:24s} {mine:9.4f} ms, PyTorch {other:9.4f} ms, ratio {other / mine:5.2f} {rate}")


if __name__ == "__main__":
    main()
