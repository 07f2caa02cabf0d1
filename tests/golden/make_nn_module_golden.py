#!/usr/bin/env python3
"""Writes nn_module_golden.safetensors: state dicts, outputs, gradients and buffers of PyTorch's
modules in float64.

    /usr/bin/python3 make_nn_module_golden.py

A case is {module, options, keys, state, inputs, outputs, seeds, input_grads, param_grads: {key:
tensor}, after?: {key: tensor}, eval?}: `keys` and `state` are the state dict's; the gradients are
those of sum(output * seed) over all outputs; an input that is not given and a gradient that there is
not are null; `after` holds the buffers that the call changed. `eval` marks the cases in evaluation
mode. Weights and inputs are multiples of 1/64, so that float32 and float64 see the same numbers.
RMSNorm, which PyTorch has from 2.4 on, is written out. Made with PyTorch 1.13.1.
"""
import math

import torch
from torch import nn

from safetensors_file import kept, write

torch.manual_seed(20240302)
torch.set_num_threads(1)
cases = []


def values(*sizes, low=-1.0, high=1.0):
    t = torch.round((torch.rand(sizes, dtype=torch.float64) * (high - low) + low) * 64) / 64
    return torch.where(t * 2 == torch.round(t * 2), t + 1 / 64, t)  # off the kinks


def different(*sizes):
    """No two alike, in random order: maxima are unique."""
    n = math.prod(sizes)
    return ((torch.randperm(n) - n // 2).double() / 16 + 1 / 64).reshape(sizes)


def case(module, inputs, options=None, *, name=None, call=None, seeds=None, train=True):
    module = module.double().train(train)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(values(*p.shape))
    before = {key: kept(t) for key, t in module.state_dict().items()}
    inputs = [t.clone().requires_grad_(t.is_floating_point()) if t is not None else None
              for t in inputs]
    y = (call or (lambda m, *args: m(*args)))(module, *inputs)
    outputs = [y] if isinstance(y, torch.Tensor) else list(y)
    seeds = [values(*t.shape) for t in outputs]
    torch.autograd.backward(outputs, seeds)
    entry = {
        "module": name or type(module).__name__,
        "options": options or {},
        "keys": list(before),
        "state": list(before.values()),
        "inputs": [kept(t) for t in inputs],
        "outputs": [kept(t) for t in outputs],
        "seeds": seeds,
        "input_grads": [None if t is None else kept(t.grad) for t in inputs],
        "param_grads": {key: kept(p.grad) for key, p in module.named_parameters()},
    }
    after = {key: kept(t) for key, t in module.named_buffers() if not torch.equal(t, before[key])}
    if after:
        entry["after"] = after
    if not train:
        entry["eval"] = True
    cases.append(entry)


class RMSNorm(nn.Module):
    def __init__(self, shape, eps=None, elementwise_affine=True):
        super().__init__()
        self.dims = tuple(range(-len(shape), 0))
        self.eps = torch.finfo(torch.float64).eps if eps is None else eps
        self.weight = nn.Parameter(torch.ones(shape)) if elementwise_affine else None

    def forward(self, x):
        y = x * torch.rsqrt(x.pow(2).mean(self.dims, keepdim=True) + self.eps)
        return y if self.weight is None else y * self.weight


def norms():
    indices = torch.tensor([[3, 1, 0], [1, 1, 4]])
    case(nn.Embedding(5, 3), [indices], {"args": [5, 3]})
    case(nn.Embedding(5, 3, padding_idx=-4), [indices], {"args": [5, 3], "padding_idx": -4})
    x = values(2, 3, 4, 2)
    for shape, more in [([2], {}), ([4, 2], {"eps": 0.125}), ([3, 4, 2], {}),
                        ([4, 2], {"elementwise_affine": False})]:
        options = {"shape": shape, **more}
        case(nn.LayerNorm(shape, **more), [x], options)
        case(RMSNorm(shape, **more), [x], options)
    case(nn.GroupNorm(2, 4), [values(3, 4, 5)], {"args": [2, 4]})
    case(nn.GroupNorm(4, 4, eps=0.25), [values(2, 4, 3, 2)], {"args": [4, 4], "eps": 0.25})
    case(nn.GroupNorm(1, 6, affine=False), [values(2, 6, 2)], {"args": [1, 6], "affine": False})
    case(nn.GroupNorm(3, 6), [values(4, 6)], {"args": [3, 6]})
    for x in (values(5, 3), values(2, 3, 4)):
        case(nn.BatchNorm1d(3), [x], {"args": [3]})
    case(nn.BatchNorm1d(3), [values(4, 3)], {"args": [3]}, train=False)
    case(nn.BatchNorm1d(2, momentum=None, affine=False), [values(3, 2, 2)],
         {"args": [2], "momentum": None, "affine": False})


def activations():
    x = values(2, 5, low=-3.0, high=3.0)
    for module, options in [
        (nn.ReLU(), {}), (nn.LeakyReLU(), {}), (nn.LeakyReLU(0.25), {"args": [0.25]}),
        (nn.ELU(), {}), (nn.ELU(0.5), {"args": [0.5]}), (nn.GELU(), {}),
        (nn.GELU(approximate="tanh"), {"approximate": "tanh"}), (nn.SiLU(), {}),
        (nn.Sigmoid(), {}), (nn.Tanh(), {}), (nn.Softplus(), {}),
        (nn.Softplus(2.0, 1.5), {"args": [2.0, 1.5]}), (nn.Hardtanh(), {}),
        (nn.Hardtanh(-0.25, 2.25), {"args": [-0.25, 2.25]}), (nn.ReLU6(), {}),
        (nn.Softmax(1), {"args": [1]}), (nn.Softmax(-2), {"args": [-2]}),
        (nn.LogSoftmax(1), {"args": [1]}), (nn.Identity(), {}),
    ]:
        case(module, [x * 3 if isinstance(module, nn.ReLU6) else x], options)
    case(nn.Flatten(), [values(2, 3, 2)])
    case(nn.Flatten(0, 1), [values(2, 3, 2)], {"args": [0, 1]})


def convolutions():
    case(nn.Linear(3, 2), [values(2, 2, 3)], {"args": [3, 2]})
    case(nn.Linear(3, 2, bias=False), [values(4, 3)], {"args": [3, 2], "bias": False})
    case(nn.Conv1d(2, 3, 3), [values(2, 2, 6)], {"args": [2, 3, 3]})
    more = {"stride": 2, "padding": 1, "dilation": 2, "groups": 2, "bias": False}
    case(nn.Conv1d(2, 4, 3, **more), [values(1, 2, 9)], {"args": [2, 4, 3], **more})
    case(nn.Conv2d(2, 2, 3), [values(1, 2, 4, 5)], {"args": [2, 2], "kernel": [3, 3]})
    more = {"stride": [2, 1], "padding": [0, 2], "dilation": [1, 2]}
    case(nn.Conv2d(2, 2, (2, 3), **more), [values(1, 2, 5, 4)],
         {"args": [2, 2], "kernel": [2, 3], **more})
    case(nn.ConvTranspose2d(2, 3, 3), [values(1, 2, 3, 2)], {"args": [2, 3], "kernel": [3, 3]})
    more = {"stride": [2, 3], "padding": [1, 0], "output_padding": [1, 2], "dilation": [1, 2],
            "groups": 2}
    case(nn.ConvTranspose2d(2, 4, (3, 2), bias=False, **more), [values(1, 2, 3, 2)],
         {"args": [2, 4], "kernel": [3, 2], "bias": False, **more})


def pools():
    line, image = different(2, 2, 7), different(1, 2, 5, 7)
    case(nn.MaxPool1d(2), [line], {"kernel": 2})
    more = {"stride": 1, "padding": 1, "dilation": 2}
    case(nn.MaxPool1d(3, **more), [line], {"kernel": 3, **more})
    case(nn.AvgPool1d(3), [line], {"kernel": 3})
    more = {"stride": 2, "padding": 1, "count_include_pad": False}
    case(nn.AvgPool1d(3, **more), [line], {"kernel": 3, **more})
    case(nn.MaxPool2d(2), [image], {"kernel": [2, 2]})
    more = {"stride": [1, 2], "padding": [1, 0], "dilation": [2, 1]}
    case(nn.MaxPool2d((2, 3), **more), [image], {"kernel": [2, 3], **more})
    case(nn.AvgPool2d(2), [image], {"kernel": [2, 2]})
    more = {"stride": [2, 1], "padding": [1, 0], "count_include_pad": False}
    case(nn.AvgPool2d((3, 2), **more), [image], {"kernel": [3, 2], **more})
    case(nn.AdaptiveAvgPool1d(3), [line], {"args": [3]})
    case(nn.AdaptiveAvgPool2d((2, 3)), [image], {"kernel": [2, 3]})
    case(nn.AdaptiveAvgPool2d(1), [image], {"kernel": [1, 1]})
    case(nn.AdaptiveMaxPool2d((3, 2)), [image], {"kernel": [3, 2]})


def losses():
    x, t = values(3, 4, low=-2.0, high=2.0), values(3, 4, low=-2.0, high=2.0)
    chance, share = values(3, 4, low=0.05, high=0.9), values(3, 4, low=0.05, high=0.9)
    each, positive = values(4, low=0.25, high=2.0), values(4, low=0.25, high=2.0)
    labels, images = torch.tensor([2, 0, 3]), torch.tensor([[2, 0], [1, 3], [3, 3]])
    planes = values(3, 4, 2)
    for how in ("mean", "sum", "none"):
        option = {"reduction": how}
        case(nn.MSELoss(**option), [x, t], option)
        case(nn.L1Loss(**option), [x, t], option)
        case(nn.SmoothL1Loss(**option), [x, t], option)
        case(nn.BCELoss(**option), [chance, share], option)
        case(nn.BCELoss(weight=each, **option), [chance, share], {"weight": each, **option})
        case(nn.BCEWithLogitsLoss(**option), [x, share], option)
        case(nn.BCEWithLogitsLoss(weight=each, pos_weight=positive, **option), [x, share],
             {"weight": each, "pos_weight": positive, **option})
        case(nn.NLLLoss(**option), [x, labels], option)
        more = {"ignore_index": 3, **option}
        case(nn.NLLLoss(weight=each, **more), [planes, images], {"weight": each, **more})
        case(nn.CrossEntropyLoss(**option), [x, labels], option)
        more = {"ignore_index": 3, "label_smoothing": 0.25, **option}
        case(nn.CrossEntropyLoss(weight=each, **more), [planes, images], {"weight": each, **more})
        case(nn.CrossEntropyLoss(label_smoothing=0.1, **option), [x, share],
             {"label_smoothing": 0.1, **option})
    for how in ("mean", "sum", "none", "batchmean"):
        option = {"reduction": how}
        case(nn.KLDivLoss(**option), [x, chance], option)
        case(nn.KLDivLoss(log_target=True, **option), [x, t], {"log_target": True, **option})
    case(nn.SmoothL1Loss(beta=0.25), [x, t], {"beta": 0.25})


def attention():
    """Options hold the arguments of the constructor and, under "call", those of forward; masks are
    the inputs after query, key and value."""
    def attend(module, query, key, value, attn_mask, key_padding_mask, **call):
        # PyTorch has no `causal` of its own: there it is one more mask.
        if call.pop("causal", False):
            n, s = query.shape[1 if module.batch_first else 0], key.shape[
                1 if module.batch_first else 0]
            hidden = torch.triu(torch.ones(n, s, dtype=torch.bool), 1)
            attn_mask = hidden if attn_mask is None else attn_mask.logical_or(hidden)
        y, weights = module(query, key, value, attn_mask=attn_mask,
                            key_padding_mask=key_padding_mask, **call)
        return y if weights is None else (y, weights)

    def attention_case(sizes, args, options=None, call=None, masks=(None, None)):
        options, call = options or {}, call or {}
        module = nn.MultiheadAttention(*args, **options)
        query, key, value = (values(*size) for size in sizes)
        case(module, [query, key, value, *masks], {"args": args, **options, "call": call},
             call=lambda m, *inputs: attend(m, *inputs, **call))

    no_weights = {"need_weights": False}
    sizes = [(3, 2, 4), (5, 2, 4), (5, 2, 4)]
    padding = torch.tensor([[False, False, True, False, True], [False, True, True, True, False]])
    hidden = torch.tensor([[False, False, True, True, True], [True, False, False, True, False],
                           [False, False, False, False, True]])
    each = torch.zeros(4, 3, 5, dtype=torch.bool)
    each[0, 0, 3] = each[1, 2, 0] = each[2, 1, 4] = each[3, :, 2] = True
    attention_case(sizes, [4, 2])
    attention_case(sizes, [4, 2], call=no_weights)
    attention_case(sizes, [4, 1], {"bias": False}, {"average_attn_weights": False})
    for call in ({}, no_weights):
        attention_case([(2, 3, 4), (2, 5, 4), (2, 5, 4)], [4, 2], {"batch_first": True}, call,
                       (None, padding))
        attention_case(sizes, [4, 2], {}, call, (hidden, padding))
        attention_case(sizes, [4, 2], {}, call, (values(4, 3, 5), padding))
        attention_case([(4, 2, 4)] * 3, [4, 2], {}, {"causal": True, **call})
        attention_case([(2, 3, 4)] * 3, [4, 2], {"batch_first": True}, {"causal": True, **call},
                       (hidden[:, :3], None))
    attention_case(sizes, [4, 2], {}, {}, (each, None))
    attention_case(sizes, [4, 2], {}, no_weights, (values(3, 5), None))
    attention_case([(3, 2, 4), (2, 2, 3), (2, 2, 6)], [4, 2], {"kdim": 3, "vdim": 6})
    attention_case([(3, 4), (5, 4), (5, 4)], [4, 2], {}, {}, (hidden, padding[0]))
    attention_case([(3, 4), (5, 4), (5, 4)], [4, 2], {"batch_first": True}, no_weights)


def transformers():
    padding = torch.tensor([[False, False, True], [False, True, False]])
    hidden = torch.triu(torch.ones(3, 3, dtype=torch.bool), 1)
    base = {"dim_feedforward": 5, "dropout": 0.0}
    for more, size, masks in [
        ({}, (3, 2, 4), (None, None)),
        ({"norm_first": True, "activation": "gelu"}, (3, 2, 4), (hidden, None)),
        ({"batch_first": True, "layer_norm_eps": 0.125}, (2, 3, 4), (hidden, padding)),
        ({"norm_first": True, "batch_first": True}, (3, 4), (None, None)),
    ]:
        options = {**base, **more}
        case(nn.TransformerEncoderLayer(4, 2, **options), [values(*size), *masks],
             {"args": [4, 2], **options})


def recurrence():
    """The inputs after the first are the initial states."""
    def outputs(module, x, *states):
        given = None if states[0] is None else states if len(states) > 1 else states[0]
        y = module(x, given)
        if isinstance(y, torch.Tensor):
            return y
        first, last = y
        return (first, *last) if isinstance(last, tuple) else (first, last)

    for kind, count in ((nn.LSTM, 2), (nn.GRU, 1)):
        def sequence_case(size, states, args, options=None):
            states = [values(*states) if states else None for _ in range(count)]
            case(kind(*args, **(options or {})), [values(*size), *states],
                 {"args": args, **(options or {})}, call=outputs)

        sequence_case((3, 2, 2), None, [2, 3])
        sequence_case((2, 3, 2), (1, 2, 1), [2, 1], {"batch_first": True, "bias": False})
        sequence_case((3, 2, 2), (4, 2, 2), [2, 2], {"num_layers": 2, "bidirectional": True})
        sequence_case((2, 2, 1), None, [1, 2],
                      {"num_layers": 2, "batch_first": True, "dropout": 0.0})
        sequence_case((3, 2), (2, 2), [2, 2], {"bidirectional": True})
        sequence_case((1, 2), None, [2, 1], {"batch_first": True})
    for kind, count in ((nn.LSTMCell, 2), (nn.GRUCell, 1)):
        def cell_case(size, states, args, options=None):
            states = [values(*states) if states else None for _ in range(count)]
            case(kind(*args, **(options or {})), [values(*size), *states],
                 {"args": args, **(options or {})},
                 call=lambda m, x, *s: m(x, None if s[0] is None else s if count > 1 else s[0]))

        cell_case((2, 3), (2, 2), [3, 2])
        cell_case((2, 3), None, [3, 2])
        cell_case((3,), (2,), [3, 2], {"bias": False})


def main():
    for group in (norms, activations, convolutions, pools, losses, attention, transformers,
                  recurrence):
        group()
    write("nn_module_golden.safetensors", cases)


if __name__ == "__main__":
    main()
