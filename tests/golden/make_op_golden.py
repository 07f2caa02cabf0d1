#!/usr/bin/env python3
"""Writes op_golden.safetensors: results and gradients of every op as PyTorch computes them in
float64.

    /usr/bin/python3 make_op_golden.py

Inputs are multiples of 1/64, so that float32 and float64 see the same numbers. A case is
{op, args, inputs: [tensors], output, seed, grads}: the gradients of sum(output * seed) with respect
to the inputs, null where there is none. Made with PyTorch 1.13.1.
"""
import sys

import torch
import torch.nn.functional as F

from safetensors_file import kept, write

torch.manual_seed(20240229)
cases = []


def values(*sizes, low=-2.0, high=2.0):
    return torch.round((torch.rand(sizes, dtype=torch.float64) * (high - low) + low) * 64) / 64


def case(op, function, inputs, args=None, grad=True):
    """inputs: tensors; floating ones get a gradient."""
    leaves = [t.clone().requires_grad_(grad and t.is_floating_point()) for t in inputs]
    y = function(*leaves)
    entry = {"op": op, "args": args or {}, "inputs": [kept(t) for t in leaves], "output": kept(y)}
    if y.requires_grad:
        seed = values(*y.shape, low=-1, high=1)
        y.backward(seed)
        entry["seed"] = seed
        entry["grads"] = [kept(t.grad) for t in leaves]
    cases.append(entry)


special = torch.tensor([0.0, -0.0, 1.0, -1.0, 0.5, float("inf"), -float("inf"), float("nan"), 700.0,
                        -700.0], dtype=torch.float64)

# -- pointwise
for name in ["neg", "abs", "sign", "exp", "sin", "cos", "tanh", "sigmoid", "relu", "square"]:
    f = getattr(torch, name)
    case(name, f, [values(3, 4)])
    case(name, f, [values()])
    case(name, f, [special], grad=False)
for name in ["log", "sqrt", "reciprocal"]:
    f = getattr(torch, name)
    case(name, f, [values(3, 4, low=0.25)])
    case(name, f, [special], grad=False)
# At the kinks, where a numerical derivative says nothing.
kinks = torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0], dtype=torch.float64)
for name in ["abs", "sign", "relu"]:
    case(name, getattr(torch, name), [kinks])
for p, q in [(-1.0, 0.5), (0.0, 0.0), (1.0, -1.0)]:
    case("clamp", lambda x: torch.clamp(x, p, q), [values(3, 4)], {"p": p, "q": q})
    case("clamp", lambda x: torch.clamp(x, p, q), [kinks], {"p": p, "q": q})
    case("clamp", lambda x: torch.clamp(x, p, q), [special], {"p": p, "q": q}, grad=False)
for p in [0, 1, 2, 3, -1, 0.5, 2.5, -2]:
    case("pow", lambda x: torch.pow(x, p), [values(2, 3, low=0.25)], {"p": p})
    case("pow", lambda x: torch.pow(x, p), [special], {"p": p}, grad=False)
case("pow", lambda x: torch.pow(x, 0), [kinks], {"p": 0})
case("pow", lambda x: torch.pow(x, 1), [kinks], {"p": 1})
case("pow", lambda x: torch.pow(x, 2), [kinks], {"p": 2})
pairs = [((3, 4), (3, 4)), ((3, 4), (4,)), ((2, 1, 3), (4, 1)), ((), (2, 3)), ((0, 3), (1, 3))]
binary = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div,
    "maximum": torch.maximum, "minimum": torch.minimum,
    "add_scaled": lambda a, b: torch.add(a, b, alpha=-0.75),
    "relu_backward": lambda g, y: torch.where(y > 0, g, torch.zeros_like(g)),
    "sigmoid_backward": lambda g, y: g * y * (1 - y),
    "tanh_backward": lambda g, y: g * (1 - y * y),
    "clamp_backward": lambda g, x: torch.where((x >= -1) & (x <= 0.5), g, torch.zeros_like(g)),
}
args = {"add_scaled": {"p": -0.75}, "clamp_backward": {"p": -1.0, "q": 0.5}}
for name, f in binary.items():
    for a, b in pairs:
        case(name, f, [values(*a), values(*b)], args.get(name))
for name in ["maximum", "minimum"]:  # ties halve the gradient
    case(name, binary[name], [kinks, torch.tensor([0.0, 0.0, -1.0, 2.0, 2.0], dtype=torch.float64)])
grid = special[:8].reshape(8, 1)
for name in ["add", "sub", "mul", "div", "maximum", "minimum"]:
    case(name, binary[name], [grid, special[:8]], grad=False)
for name in ["eq", "ne", "lt", "le", "gt", "ge"]:
    f = getattr(torch, name)
    case(name, f, [torch.round(values(3, 4)), torch.round(values(4))])
    case(name, f, [grid, special[:8]])
case("where", torch.where, [torch.rand(3, 4) > 0.5, values(3, 4), values(4)])
case("where", torch.where, [torch.rand(2, 1) > 0.5, values(3), values()])

# -- products
for a, b in [((3,), (3,)), ((3,), (3, 2)), ((2, 3), (3,)), ((2, 3), (3, 4)), ((2, 2, 3), (3, 2)),
             ((2, 2, 3), (2, 3, 2)), ((2, 1, 2, 2), (3, 2, 2)), ((0, 3), (3, 2)), ((2, 0), (0, 3))]:
    case("matmul", torch.matmul, [values(*a), values(*b)])
case("mm", torch.mm, [values(3, 2), values(2, 3)])
case("bmm", torch.bmm, [values(2, 3, 2), values(2, 2, 3)])
for sizes in [(3, 4), (4,), (2, 2, 4), (0, 4)]:
    case("linear", F.linear, [values(*sizes), values(2, 4), values(2)])
    case("linear", F.linear, [values(*sizes), values(2, 4)])

# -- convolution and pooling
for x, w, bias, args in [
    ((1, 2, 4, 4), (3, 2, 3, 3), True, {}),
    ((2, 1, 5, 4), (2, 1, 2, 3), False, {"stride": [2, 1]}),
    ((1, 2, 4, 3), (2, 2, 3, 3), True, {"padding": [1, 2]}),
    ((1, 1, 6, 6), (2, 1, 2, 2), True, {"dilation": [2, 3]}),
    ((1, 4, 3, 3), (4, 2, 2, 2), True, {"groups": 2}),
    ((2, 3, 4, 4), (3, 1, 3, 3), False, {"groups": 3, "padding": [1, 1], "stride": [2, 2]}),
    ((1, 2, 7, 6), (2, 2, 3, 2), True,
     {"stride": [2, 2], "padding": [2, 1], "dilation": [2, 1]}),
]:
    tensors = [values(*x), values(*w)] + ([values(w[0])] if bias else [])
    case("conv2d", lambda *t: F.conv2d(t[0], t[1], t[2] if len(t) > 2 else None, **args), tensors,
         args)
for x, args in [
    ((1, 2, 4, 4), {"kernel": [2, 2], "stride": [2, 2]}),
    ((2, 1, 5, 6), {"kernel": [3, 2], "stride": [2, 1]}),
    ((1, 2, 5, 5), {"kernel": [3, 3], "stride": [2, 2], "padding": [1, 1]}),
    ((1, 1, 6, 5), {"kernel": [2, 3], "stride": [1, 1], "padding": [1, 1]}),
]:
    t = {"kernel_size": args["kernel"], "stride": args["stride"], "padding": args.get("padding", 0)}
    case("max_pool2d", lambda x: F.max_pool2d(x, **t), [values(*x)], args)
    case("max_pool2d", lambda x: F.max_pool2d(x, **t), [torch.round(values(*x))], args)  # ties
    case("max_pool2d", lambda x: F.max_pool2d(x, dilation=2, **t), [values(x[0], x[1], 8, 8)],
         dict(args, dilation=[2, 2]))
    case("avg_pool2d", lambda x: F.avg_pool2d(x, **t), [values(*x)], args)
    case("avg_pool2d", lambda x: F.avg_pool2d(x, count_include_pad=False, **t), [values(*x)],
         dict(args, count_include_pad=False))
hole = values(1, 1, 4, 4)
hole[0, 0, 1, 2] = float("nan")
case("max_pool2d", lambda x: F.max_pool2d(x, 2), [hole], {"kernel": [2, 2], "stride": [2, 2]},
     grad=False)

# -- normalisation: the output is that of the op, then the running statistics after it
for sizes in [(4, 3), (2, 3, 4), (2, 2, 3, 3)]:
    c = sizes[1]
    for training in [True, False]:
        for affine in [True, False]:
            running = [values(c), values(c, low=0.5, high=2)]
            weights = [values(c, low=0.5), values(c)] if affine else []

            def norm(x, *rest):
                mean, var = running[0].clone(), running[1].clone()
                y = F.batch_norm(x, mean, var, *rest, training=training, momentum=0.2, eps=1e-3)
                norm.after = [mean, var]
                return y

            case("batch_norm", norm, [values(*sizes)] + weights,
                 {"training": training, "momentum": 0.2, "eps": 1e-3,
                  "mean": running[0], "var": running[1]})
            cases[-1]["running_after"] = norm.after

# -- softmax and losses
for sizes, dim in [((3, 4), 1), ((3, 4), 0), ((2, 3, 2), 1), ((5,), -1), ((), 0), ((2, 1), 1)]:
    case("log_softmax", lambda x: F.log_softmax(x, dim), [values(*sizes)], {"dim": dim})
    case("softmax", lambda x: F.softmax(x, dim), [values(*sizes)], {"dim": dim})
case("log_softmax", lambda x: F.log_softmax(x, 1), [values(3, 4, low=-500, high=500)], {"dim": 1})
target = torch.tensor([2, 0, 1, 2])
for reduction in ["none", "mean", "sum"]:
    a = {"reduction": reduction}
    case("nll_loss", lambda x, t: F.nll_loss(x, t, reduction=reduction), [values(4, 3), target], a)
    case("cross_entropy", lambda x, t: F.cross_entropy(x, t, reduction=reduction),
         [values(4, 3), target], a)
    case("mse_loss", lambda x, y: F.mse_loss(x, y, reduction=reduction), [values(3, 2), values(3, 2)],
         a)

# -- reductions
for sizes, dims, keep in [((3, 4), [0], False), ((3, 4), [-1], True), ((2, 3, 2), [0, 2], False),
                          ((2, 3, 2), [1], True), ((0, 3), [0], False), ((3, 0), [0], False)]:
    a = {"dims": dims, "keepdim": keep}
    case("sum_dims", lambda x: torch.sum(x, dims, keep), [values(*sizes)], a)
    case("mean_dims", lambda x: torch.mean(x, dims, keep), [values(*sizes)], a)
for sizes in [(), (5,), (3, 4), (0,)]:
    case("sum", torch.sum, [values(*sizes)])
    case("mean", torch.mean, [values(*sizes)])
    case("norm", torch.norm, [values(*sizes)])
    if 0 not in sizes:
        case("max", torch.max, [values(*sizes)])
        case("min", torch.min, [values(*sizes)])
ties = torch.tensor([[1.0, 3.0, 3.0], [1.0, 2.0, 3.0]], dtype=torch.float64)
case("max", torch.max, [ties])
case("min", torch.min, [ties])
case("norm", torch.norm, [torch.zeros(3, dtype=torch.float64)])
case("sum", torch.sum, [torch.tensor([[1, 2], [3, -7]])])
case("max", torch.max, [torch.tensor([[1, 2], [3, -7]])])
for name in ["max", "min", "sum"]:
    case(name, getattr(torch, name), [special], grad=False)
for dim in [0, 1, -1]:
    case("argmax", lambda x: torch.argmax(x, dim), [values(3, 4)], {"dim": dim})
    case("argmax", lambda x: torch.argmax(x, dim), [ties], {"dim": dim})
case("argmax", lambda x: torch.argmax(x, 0), [special], {"dim": 0})
case("argmax", lambda x: torch.argmax(x, 0), [values()], {"dim": 0})

# -- indexing and views
case("index_select", lambda x, i: torch.index_select(x, 0, i), [values(3, 2),
     torch.tensor([2, 0, 2, 2])], {"dim": 0})
case("index_select", lambda x, i: torch.index_select(x, 1, i), [values(2, 3, 2),
     torch.tensor([1, 1])], {"dim": 1})
case("view", lambda x: x.view(3, -1), [values(2, 6)], {"sizes": [3, -1]})
case("reshape", lambda x: x.t().reshape(2, 6), [values(3, 4)], {"sizes": [2, 6]})
case("flatten", lambda x: x.flatten(1), [values(2, 3, 2)], {"dim": 1})
case("transpose", lambda x: x.transpose(0, -1), [values(2, 3, 2)], {"dims": [0, -1]})
case("permute", lambda x: x.permute(2, 0, 1), [values(2, 3, 2)], {"dims": [2, 0, 1]})
case("squeeze", lambda x: x.squeeze(1), [values(2, 1, 3)], {"dim": 1})
case("squeeze", lambda x: x.squeeze(0), [values(2, 1, 3)], {"dim": 0})
case("unsqueeze", lambda x: x.unsqueeze(-1), [values(2, 3)], {"dim": -1})
case("expand", lambda x: x.expand(2, -1, 4), [values(3, 1)], {"sizes": [2, -1, 4]})
case("select", lambda x: x.select(1, -2), [values(2, 3, 2)], {"dim": 1, "index": -2})
case("narrow", lambda x: x.narrow(1, 1, 2), [values(2, 4)], {"dim": 1, "start": 1, "length": 2})
case("slice", lambda x: x[:, 1:-1:2], [values(2, 7)], {"dim": 1, "start": 1, "end": -1, "step": 2})
case("slice", lambda x: x[5:2], [values(7)], {"dim": 0, "start": 5, "end": 2, "step": 1})

# -- in place, on clones
inplace = {
    "add_": lambda x, b: x.clone().add_(b, alpha=0.5), "sub_": lambda x, b: x.clone().sub_(b),
    "mul_": lambda x, b: x.clone().mul_(b), "div_": lambda x, b: x.clone().div_(b),
    "copy_": lambda x, b: x.clone().copy_(b),
}
for name, f in inplace.items():
    case(name, f, [values(2, 3), values(2, 3, low=0.5)])
    case(name, f, [values(2, 3), values(3, low=0.5)])

write("op_golden.safetensors", cases)
print(len(cases), "cases", file=sys.stderr)
