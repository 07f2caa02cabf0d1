#!/usr/bin/env python3
"""Writes gpt_curve.json: the losses of the first 50 steps, and the validation loss after them, of

    char_gpt --text gpt_text.txt --layers 2 --width 128 --heads 4 --context 32 --global-batch 8
             --lr 3e-3 --warmup 10 --max-steps 50 --seed 1

computed by PyTorch. The initial weights and the windows of each step are Lockstep's, made here a
second time from their definition (examples/char_gpt, engine/cpu/elementwise.cc, data/sampler.cc;
what make_mlp_curve.py has is taken from there), so that the file needs to hold nothing but losses.

"spread" is what PyTorch shows against itself: the largest relative distance, step by step, to the
same training in float64, with two threads, and with the rows of each batch shuffled.

    /usr/bin/python3 make_gpt_curve.py

Written with PyTorch 1.13. gpt_text.txt is the beginning of Debian's package bible-kjv-text.
"""
import json
import math
import os

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from make_mlp_curve import PURPOSE_PROGRAM, SEED, keys, permutation, philox

STEPS, BATCH, LR, WARMUP = 50, 8, 3e-3, 10
LAYERS, WIDTH, HEADS, CONTEXT = 2, 128, 4, 32
FOLDER = os.path.dirname(os.path.abspath(__file__))


def normal(shape, std, ordinal):
    """The ordinal-th random op of the program: N(0, std^2), two from two words each."""
    count = math.prod(shape)
    words = philox(*keys(PURPOSE_PROGRAM), np.arange((count + 3) // 4), ordinal, 0, 0)
    u = (words >> np.uint64(8)).astype(np.float64) * 2.0 ** -24
    radius = np.sqrt(-2.0 * np.log1p(-u[:, 0::2]))
    angle = 2.0 * math.pi * u[:, 1::2]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2)
    return torch.from_numpy((std * pairs.reshape(-1)[:count]).astype(np.float32).reshape(shape))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        batch, time, _ = x.shape
        q, k, v = (part.view(batch, time, HEADS, WIDTH // HEADS).transpose(1, 2)
                   for part in self.qkv(self.norm1(x)).split(WIDTH, 2))
        scores = q @ k.transpose(2, 3) / math.sqrt(WIDTH // HEADS)
        hidden = torch.ones(time, time, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(hidden, -math.inf).softmax(-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(batch, time, WIDTH))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.positions = nn.Embedding(256, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        # The default initialisations come first and draw, too: one op for each embedding, two for
        # each linear layer.
        ordinal = 2 + 8 * LAYERS
        residual = 0.02 / math.sqrt(2.0 * LAYERS)
        todo = [(self.embedding, 0.02), (self.positions, 0.02)]
        for b in self.blocks:
            todo += [(b.qkv, 0.02), (b.proj, residual), (b.up, 0.02), (b.down, residual)]
        with torch.no_grad():
            for module, std in todo:
                module.weight.copy_(normal(module.weight.shape, std, ordinal))
                ordinal += 1
                if isinstance(module, nn.Linear):
                    module.bias.zero_()

    def loss(self, x, y):
        h = self.embedding(x) + self.positions(torch.arange(x.shape[1]))
        for block in self.blocks:
            h = block(h)
        logits = F.linear(self.norm(h), self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())


def rate(step):
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.1 + 0.45 * (1.0 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def train(batches, validation, dtype=torch.float32, shuffle_rows=None):
    """The losses of all steps and, last, the validation loss."""
    net = Gpt().to(dtype)
    decay = [p for p in net.parameters() if p.dim() >= 2]
    others = [p for p in net.parameters() if p.dim() < 2]
    adam = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1},
                              {"params": others, "weight_decay": 0.0}], lr=LR, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, rate)
    if shuffle_rows is not None:
        torch.manual_seed(shuffle_rows)
    losses = []
    for x, y in batches:
        if shuffle_rows is not None:
            rows = torch.randperm(len(y))
            x, y = x[rows], y[rows]
        loss = net.loss(x, y)
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()
        schedule.step()
        losses.append(loss.item())
    with torch.no_grad():
        losses.append(net.loss(*validation).item())
    return losses


def main():
    torch.set_num_threads(1)
    with open(os.path.join(FOLDER, "gpt_text.txt"), "rb") as f:
        text = np.frombuffer(f.read(), np.uint8).astype(np.int64)
    cut = len(text) // 10 * 9

    def windows(starts):
        at = np.array(starts)[:, None] + np.arange(CONTEXT)
        return torch.from_numpy(text[at]), torch.from_numpy(text[at + 1])

    order = permutation(cut - CONTEXT, 0)
    batches = [windows(order[step * BATCH:(step + 1) * BATCH]) for step in range(STEPS)]
    validation = windows(range(cut, len(text) - CONTEXT, CONTEXT))

    losses = train(batches, validation)
    others = [train(batches, validation, dtype=torch.float64)]
    others += [train(batches, validation, shuffle_rows=seed) for seed in range(4)]
    torch.set_num_threads(2)
    others += [train(batches, validation)]
    spread = np.max(np.abs(np.array(others) / np.array(losses) - 1.0), axis=0)
    with open(os.path.join(FOLDER, "gpt_curve.json"), "w") as f:
        json.dump({"torch": torch.__version__,
                   "arguments": f"--layers {LAYERS} --width {WIDTH} --heads {HEADS} "
                                f"--context {CONTEXT} --global-batch {BATCH} --lr {LR} "
                                f"--warmup {WARMUP} --max-steps {STEPS} --seed {SEED}",
                   "losses": losses[:-1], "validation_loss": losses[-1],
                   "spread": [float(f"{value:.1e}") for value in spread]}, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
