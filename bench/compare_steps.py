#!/usr/bin/env python3
"""Whole training steps on one device: Lockstep against PyTorch eager, in turns.

    bench/compare_steps.py [BUILD_FOLDER] [--device cuda] [--models mlp:64,cnn:64,mlp:4096,cnn:4096]
                           [--rounds 7] [--seconds 1] [--tf32] [--cuda-graph]

A model is a name (mlp, widemlp or cnn, as bench/models.cc has them) and a batch. Both train with
Adam on the same sizes of random data, from the forward pass to zero_grad. Prints the medians over
the rounds, PyTorch's time divided by Lockstep's for each round's pair, and the range of those.

Float32 is computed in float32 on both sides; with --tf32 products and convolutions may use TF32 on
both. --cuda-graph captures Lockstep's step (PyTorch stays eager).
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

PYTORCH = """
import json, sys, time
import torch
from torch import nn

device, model, batch, seconds, tf32, threads = sys.argv[1:7]
batch, seconds, tf32 = int(batch), float(seconds), tf32 == "True"
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
torch.set_num_threads(int(threads))
torch.manual_seed(0)

class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3)
        self.fc1, self.fc2 = nn.Linear(9216, 128), nn.Linear(128, 10)

    def forward(self, x):
        h = nn.functional.max_pool2d(self.conv2(self.conv1(x).relu()).relu(), 2)
        return self.fc2(self.fc1(h.flatten(1)).relu())

def mlp(*widths):
    layers = []
    for fan_in, fan_out in zip(widths, widths[1:]):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])

nets = {"mlp": lambda: mlp(784, 512, 512, 10), "widemlp": lambda: mlp(784, 4096, 4096, 4096, 10),
        "cnn": Cnn}
net = nets[model]().to(device)
x = torch.randn((batch, 1, 28, 28) if model == "cnn" else (batch, 784), device=device)
y = torch.randint(0, 10, (batch,), device=device)
optimizer = torch.optim.Adam(net.parameters())  # its fastest form on a GPU comes by itself
sync = torch.cuda.synchronize if device.startswith("cuda") else lambda: None

def run(steps):
    sync()
    begin = time.perf_counter()
    for _ in range(steps):
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    sync()
    return 1e3 * (time.perf_counter() - begin) / steps

run(10)
print(json.dumps({"ms": run(max(8, round(1e3 * seconds / run(10))))}))
"""


def milliseconds(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])["ms"]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", nargs="?", default="build")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", default="mlp:64,cnn:64,mlp:4096,cnn:4096")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", default="1", help="of one measurement")
    parser.add_argument("--threads", default="1", help="of a CPU")
    parser.add_argument("--tf32", action="store_true")
    parser.add_argument("--cuda-graph", action="store_true")
    options = parser.parse_args()
    for work in options.models.split(","):
        model, batch = work.split(":")
        ours = [os.path.join(options.build, "bench", "train_step"), "--device", options.device,
                "--model", model, "--batch", batch, "--seconds", options.seconds,
                "--threads", options.threads]
        ours += ["--matmul-precision", "high"] if options.tf32 else []
        ours += ["--cuda-graph"] if options.cuda_graph else []
        theirs = [os.environ.get("PY", sys.executable), "-c", PYTORCH, options.device, model, batch,
                  options.seconds, str(options.tf32), options.threads]
        pairs = [(milliseconds(ours), milliseconds(theirs)) for _ in range(options.rounds)]
        ratios = sorted(other / mine for mine, other in pairs)
        mine, other = (statistics.median(times) for times in zip(*pairs))
        print(f"{work:14s} {mine:9.4f} ms, PyTorch {other:9.4f} ms, "
              f"ratio {statistics.median(ratios):5.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
              flush=True)


if __name__ == "__main__":
    main()
