#!/usr/bin/env python3
"""Whether a job's all-reduces ran while backward did.

    tests/gpu/overlap_in_trace.py TRACE

Of each rank in a file of --trace: how many of its steps, the first one aside, have an all-reduce
that began before the step's backward ended. Fails unless that is more than half on every rank.
"""
import collections
import json
import sys


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    backward_ends = collections.defaultdict(dict)
    first_reductions = collections.defaultdict(dict)
    for event in events:
        if event["ph"] != "X" or "step" not in event.get("args", {}):
            continue
        rank, step = event["pid"], event["args"]["step"]
        if event["cat"] == "backward":
            ends = backward_ends[rank]
            ends[step] = max(ends.get(step, 0), event["ts"] + event["dur"])
        elif event["cat"] == "all-reduce":
            begins = first_reductions[rank]
            begins[step] = min(begins.get(step, event["ts"]), event["ts"])
    if not backward_ends:
        sys.exit("the trace has no step")
    bad = []
    for rank, ends in sorted(backward_ends.items()):
        steps = sorted(ends)[1:]
        hidden = sum(first_reductions[rank].get(s, ends[s]) < ends[s] for s in steps)
        print(f"rank {rank}: in {hidden} of {len(steps)} steps an all-reduce began within backward")
        if 2 * hidden <= len(steps):
            bad.append(rank)
    if bad:
        sys.exit(f"no overlap on ranks {bad}")


main()
