#!/usr/bin/env python3
"""Forward and backward of y = x * a + b on one element: Lockstep against PyTorch, in turns.

    bench/compare_op_overhead.py [BUILD_FOLDER] [--rounds 7]

PyTorch runs from Python (this interpreter's torch) and, where libtorch's headers are installed,
from C++; the faster of the two counts. Prints medians and the ratio.
"""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))

PYTHON = """
import sys, time, torch
torch.set_num_threads(1)
n, rounds = int(sys.argv[1]), int(sys.argv[2])
x = torch.tensor([2.0])
a = torch.tensor([3.0], requires_grad=True)
b = torch.tensor([1.0], requires_grad=True)
times = []
for _ in range(rounds + 1):
    a.grad = b.grad = None
    start = time.perf_counter_ns()
    for _ in range(n):
        y = x * a + b
        y.backward()
    times.append((time.perf_counter_ns() - start) / n)
    assert a.grad.item() == 2.0 * n and b.grad.item() == n
print(sorted(times[1:])[rounds // 2])
"""


def libtorch_program(folder):
    program = os.path.join(folder, "op_overhead_torch")
    include = "/usr/include/torch/csrc/api/include"
    if not os.path.isdir(include):
        return None
    subprocess.run(
        ["c++", "-std=c++17", "-O2", "-I" + include, "-o", program,
         os.path.join(HERE, "op_overhead_torch.cc"), "-ltorch", "-ltorch_cpu", "-lc10"],
        check=True, stderr=subprocess.DEVNULL)
    return program


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", nargs="?", default="build")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--iterations", type=int, default=20000)
    options = parser.parse_args()
    n, inner = str(options.iterations), "5"
    with tempfile.TemporaryDirectory() as folder:
        contestants = {
            "lockstep": [os.path.join(options.build, "bench", "op_overhead"),
                         "--iterations", n, "--rounds", inner],
            "torch python": [sys.executable, "-c", PYTHON, n, inner],
        }
        program = libtorch_program(folder)
        if program:
            contestants["torch c++"] = [program, n, inner]
        times = {name: [] for name in contestants}
        for _ in range(options.rounds):
            for name, command in contestants.items():
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                times[name].append(float(output))
    medians = {name: statistics.median(t) for name, t in times.items()}
    for name, nanoseconds in medians.items():
        print(f"{name:14s} {nanoseconds / 1000:8.2f} us per forward and backward")
    best = min(t for name, t in medians.items() if name != "lockstep")
    ratios = [min(times[name][i] for name in times if name != "lockstep") / times["lockstep"][i]
              for i in range(options.rounds)]
    print(f"PyTorch's best / Lockstep: {best / medians['lockstep']:.2f} "
          f"(rounds: {', '.join(f'{r:.2f}' for r in ratios)})")


if __name__ == "__main__":
    main()
