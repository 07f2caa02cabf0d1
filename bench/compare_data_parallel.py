#!/usr/bin/env python3
"""What data parallelism adds to a training step: Lockstep, and PyTorch's DDP over gloo, in turns.

    bench/compare_data_parallel.py [BUILD_FOLDER] [--models mlp:64,cnn:64] [--rounds 7]
                                   [--peer PROGRAM] [--compression bf16]
    bench/on_hosts.sh 2 1gbit bench/compare_data_parallel.py build --peer PROGRAM

A model is a name, a colon, and the batch of each rank. Every round runs each step with and without
communication; what counts is the median over the rounds of the difference between the two.

PROGRAM is a Python program that trains the same models with PyTorch: it takes --model, --batch,
--threads, --ranks (a number, or "env": rank and world from the environment), --seconds and, for the
step without communication, --nosync 1; and prints a JSON line with the milliseconds of a step,
"ms". It is run by $PY or this interpreter.

Between hosts (bench/on_hosts.sh) the link's bandwidth is measured, too, with bench/all_reduce on a
bucket of 64 MiB. From it follow how long the gradients take at least, the share of that time during
which backward goes on, and a bound for the step: the longer of computation and communication.
(Where ranks compute on all cores, moving the bytes also takes cycles from them: what is added to a
step is more than what it waits.)
"""
import argparse
import json
import os
import random
import shlex
import statistics
import subprocess
import sys


class Machine:
    """Starts ranks here, or one on each host."""

    def __init__(self, ranks):
        self.hosts = os.environ.get("LOCKSTEP_HOSTS", "").split()
        self.ranks = len(self.hosts) or ranks

    def lockstep(self, program, *flags):
        start = shlex.split(os.environ["LOCKSTEP_HOSTS_MPIRUN"]) if self.hosts else \
            ["mpirun", "--bind-to", "none", "--oversubscribe"]
        return run([*start, "-n", str(self.ranks), program, *flags], {})

    def peer(self, program, *flags):
        command = [os.environ.get("PY", sys.executable), program, *flags]
        if not self.hosts:
            return run([*command, "--ranks", str(self.ranks)], {})
        port = str(random.randint(20000, 50000))
        processes = []
        for rank, host in enumerate(self.hosts):
            environment = {"RANK": str(rank), "WORLD_SIZE": str(self.ranks), "MASTER_PORT": port,
                           "MASTER_ADDR": "10.98.0.1", "GLOO_SOCKET_IFNAME": "eth0"}
            processes.append(subprocess.Popen(
                ["ip", "netns", "exec", host, *command, "--ranks", "env"],
                env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True))
        outputs = [process.communicate()[0] for process in processes]
        if any(process.returncode for process in processes):
            sys.exit(f"{' '.join(command)} failed")
        return outputs[0]


def run(command, environment):
    done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE,
                          text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with {done.returncode}")
    return done.stdout


def last_json(text):
    return json.loads([line for line in text.splitlines() if line.startswith("{")][-1])


class Contestant:
    """A step with and without communication, in milliseconds."""

    def __init__(self, name):
        self.name, self.alone, self.together, self.exposed = name, [], [], []

    def added(self):
        return statistics.median(b - a for a, b in zip(self.alone, self.together))

    def __str__(self):
        alone, together = statistics.median(self.alone), statistics.median(self.together)
        return (f"  {self.name:10s} {alone:9.2f} ms alone {together:9.2f} ms together "
                f"{self.added():8.2f} ms added ({100 * self.added() / alone:.0f} %)")


def bandwidth(machine, options):
    """Bytes per millisecond that an all-reduce moves between two hosts."""
    size = 64 << 20
    table = machine.lockstep(os.path.join(options.build, "bench", "all_reduce"),
                             "--min-bytes", str(size), "--max-bytes", str(size))
    microseconds = float(table.splitlines()[-1].split("|")[2].split()[0])  # asynchronous
    return 1e3 * size / microseconds


def compare(machine, options, model, batch, rate):
    ours, theirs = Contestant("lockstep"), Contestant("peer")
    program = os.path.join(options.build, "bench", "train_step")
    flags = ["--model", model, "--batch", batch, "--threads", "1", "--seconds",
             str(options.seconds)]
    for _ in range(options.rounds):
        ours.alone.append(last_json(machine.lockstep(program, *flags, "--alone"))["ms"])
        report = last_json(machine.lockstep(program, *flags, *options.compression))
        ours.together.append(report["ms"])
        ours.exposed.append(report["comm"])
        if options.peer:
            theirs.alone.append(last_json(machine.peer(options.peer, *flags, "--nosync", "1"))["ms"])
            theirs.together.append(last_json(machine.peer(options.peer, *flags))["ms"])
    print(f"{model}, batch {batch}, {machine.ranks} ranks, {report['bytes'] / 1e6:.1f} MB of "
          "gradients")
    print(ours)
    if rate:
        alone, wire = statistics.median(ours.alone), report["bytes"] / rate
        exposed, step = statistics.median(ours.exposed), statistics.median(ours.together)
        print(f"  {'':10s} {wire:9.2f} ms of communication, {exposed:.2f} ms of them waited for: "
              f"{100 * (1 - exposed / wire):.0f} % hidden; the step is "
              f"{step / max(alone, wire):.2f} times the longer of the two")
    if options.peer:
        print(theirs)
        print(f"  {'':10s} ours / peer: added {ours.added() / theirs.added():.2f}, step "
              f"{statistics.median(a / b for a, b in zip(ours.together, theirs.together)):.2f}")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", nargs="?", default="build")
    parser.add_argument("--models", default="mlp:64,cnn:64,gpt:4")
    parser.add_argument("--ranks", type=int, default=2, help="on this machine")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--peer", metavar="PROGRAM")
    parser.add_argument("--compression", type=lambda name: ["--compression", name], default=[])
    options = parser.parse_args()
    machine = Machine(options.ranks)
    rate = bandwidth(machine, options) if machine.hosts else None
    if rate:
        print(f"all-reduce between the hosts: {rate * 8e-6:.3f} Gbit/s of gradients")
    for named in options.models.split(","):
        model, batch = named.split(":")
        compare(machine, options, model, batch, rate)


if __name__ == "__main__":
    main()
