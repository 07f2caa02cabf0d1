#!/usr/bin/env python3
"""Writes op_set_golden.safetensors: results, gradients and graph node names of the op set as
PyTorch computes them in float64.

    /usr/bin/python3 make_op_set_golden.py

Inputs are multiples of 1/64, so that float32 and float64 see the same numbers. A case is
{op, args, inputs, outputs, seeds, grads, node?, twice?}, with lists of tensors from `inputs` to
`grads`: the gradients of sum(output * seed) over all outputs with respect to the inputs, null where
there is none; `node` is the name of the first output's grad_fn; `twice` false: not differentiable
twice at these inputs, or (null) not even once. Made with PyTorch 1.13.1.
"""
import math
import sys

import torch
import torch.nn.functional as F

from safetensors_file import kept, write

torch.manual_seed(20240301)
cases = []
inf = float("inf")


def values(*sizes, low=-2.0, high=2.0):
    t = torch.round((torch.rand(sizes, dtype=torch.float64) * (high - low) + low) * 64) / 64
    return torch.where(t * 2 == torch.round(t * 2), t + 1 / 64, t)  # off the kinks


def different(*sizes, step=1 / 16):
    """No two alike, in random order."""
    n = math.prod(sizes)
    return ((torch.randperm(n) - n // 2).double() * step + 1 / 64).reshape(sizes)


def number(v):
    """As JSON can write it."""
    return "nan" if v != v else "inf" if v == inf else "-inf" if v == -inf else v


def case(op, function, inputs, args=None, grad=True, node=True, twice=True):
    leaves = [t.clone().requires_grad_(grad and t.is_floating_point()) for t in inputs]
    y = function(*leaves)
    outputs = [y] if isinstance(y, torch.Tensor) else list(y)
    entry = {"op": op, "args": args or {}, "inputs": [kept(t) for t in leaves],
             "outputs": [kept(t) for t in outputs]}
    tracked = [t for t in outputs if t.requires_grad]
    if tracked:
        seeds = [values(*t.shape, low=-1, high=1) for t in tracked]
        torch.autograd.backward(tracked, seeds)
        entry["seeds"] = seeds
        entry["grads"] = [kept(t.grad) for t in leaves]
        if node:
            entry["node"] = tracked[0].grad_fn.name() if node is True else node
        if twice is not True:
            entry["twice"] = twice
    cases.append(entry)


special = torch.tensor([0.0, -0.0, 1.0, -1.0, 0.5, inf, -inf, float("nan"), 700.0, -700.0],
                       dtype=torch.float64)
kinks = torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0], dtype=torch.float64)
mask34 = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [1, 1, 0, 1]], dtype=torch.bool)

# -- pointwise
unary = {
    "rsqrt": torch.rsqrt, "log1p": torch.log1p, "expm1": torch.expm1, "tan": torch.tan,
    "erf": torch.erf, "gelu": F.gelu, "silu": F.silu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}
for name, f in unary.items():
    low, high = (0.25, 2) if name == "rsqrt" else (-0.9, 1.2) if name in ("log1p", "tan") else (-2, 2)
    case(name, f, [values(3, 4, low=low, high=high)])
    case(name, f, [values(low=low, high=high)])
    case(name, f, [values(0, 3)])
    case(name, f, [special[:8]], grad=False)
parametric = {
    "softplus": (lambda x, p, q: F.softplus(x, p, q), [(1.0, 20.0), (2.0, 1.0)]),
    "leaky_relu": (lambda x, p, q: F.leaky_relu(x, p), [(0.01, 0), (0.25, 0)]),
    "elu": (lambda x, p, q: F.elu(x, p), [(1.0, 0), (0.5, 0)]),
    "hardtanh": (lambda x, p, q: F.hardtanh(x, p, q), [(-1.0, 1.0), (-0.25, 1.5)]),
}
for name, (f, params) in parametric.items():
    for p, q in params:
        case(name, lambda x: f(x, p, q), [values(3, 4)], {"p": p, "q": q})
        case(name, lambda x: f(x, p, q), [kinks], {"p": p, "q": q}, twice=None)
        case(name, lambda x: f(x, p, q), [special], {"p": p, "q": q}, grad=False)
case("pow", torch.pow, [values(2, 3, low=0.25), values(2, 3)])
case("pow", torch.pow, [values(2, 3, low=0.25), values(3)])
case("pow", torch.pow, [values(low=0.25), values(2, 1, 3)])
case("pow", torch.pow, [torch.tensor([0.0, 0.0, 2.0, 0.0]).double(),
                        torch.tensor([0.0, 2.0, 0.0, 1.0]).double()], twice=None)
case("pow", torch.pow, [torch.tensor([2, -3, 1, -1, 5]), torch.tensor([3, 2, -2, -3, 0])])
case("rpow", lambda x: torch.pow(2.5, x), [values(2, 3)], {"base": 2.5})
case("rpow", lambda x: torch.pow(0.0, x), [torch.tensor([0.0, 1.0, 2.0]).double()], {"base": 0.0},
     twice=None)
case("masked_fill", lambda x, m: x.masked_fill(m, -3.5), [values(3, 4), mask34], {"value": -3.5})
case("masked_fill", lambda x, m: x.masked_fill(m, 7), [values(3, 4), mask34[1]], {"value": 7})
case("masked_fill", lambda x, m: x.masked_fill(m, -inf), [values(3, 4), mask34],
     {"value": "-inf"}, grad=False)
case("masked_fill_tensor", lambda x, m, v: x.masked_fill(m, v), [values(3, 4), mask34, values()])
case("masked_fill", lambda x, m: x.masked_fill(m, 7), [torch.arange(12).reshape(3, 4), mask34],
     {"value": 7})
case("logical_and", torch.logical_and, [mask34, mask34[0]])
case("logical_or", torch.logical_or, [mask34, mask34[0]])
case("logical_not", torch.logical_not, [mask34])
case("logical_and", torch.logical_and, [special, kinks[:1]], grad=False)

# -- joining and splitting
case("cat", lambda *x: torch.cat(x, 0), [values(2, 3), values(1, 3), values(3, 3)], {"dim": 0})
case("cat", lambda *x: torch.cat(x, -1), [values(2, 3), values(2, 1)], {"dim": -1})
case("cat", lambda *x: torch.cat(x, 1), [values(2, 1, 2), values(2, 3, 2)], {"dim": 1})
case("cat", lambda *x: torch.cat(x, 0), [values(0), values(2, 3)], {"dim": 0})
case("cat", lambda *x: torch.cat(x, 0), [torch.arange(3), torch.arange(2)], {"dim": 0})
case("stack", lambda *x: torch.stack(x, 0), [values(2, 3), values(2, 3)], {"dim": 0})
case("stack", lambda *x: torch.stack(x, -1), [values(2, 3), values(2, 3), values(2, 3)], {"dim": -1})
case("stack", lambda *x: torch.stack(x, 0), [values(), values()], {"dim": 0})
case("split", lambda x: x.split(2, 0), [values(5, 2)], {"size": 2, "dim": 0}, node=False)
case("split", lambda x: x.split(3, 1), [values(2, 3)], {"size": 3, "dim": 1}, node=False)
case("split_sizes", lambda x: x.split([1, 3], 1), [values(2, 4)], {"sizes": [1, 3], "dim": 1},
     node=False)
case("chunk", lambda x: x.chunk(3, 0), [values(7, 2)], {"chunks": 3, "dim": 0}, node=False)
case("chunk", lambda x: x.chunk(4, -1), [values(2, 5)], {"chunks": 4, "dim": -1}, node=False)
for repeats in [(2,), (3, 1), (2, 3), (1, 1), (2, 1, 3)]:
    case("repeat", lambda x: x.repeat(*([1] * (2 - len(repeats))), *repeats), [values(2, 3)],
         {"repeats": [1] * (2 - len(repeats)) + list(repeats)})
case("repeat", lambda x: x.repeat(2, 0), [values(2, 3)], {"repeats": [2, 0]})
case("flip", lambda x: x.flip(0, 2), [values(2, 3, 2)], {"dims": [0, 2]}, node=False)

# -- indexing
index = torch.tensor([[0, 1, 1], [2, 0, 2]])
case("gather", lambda x, i: x.gather(0, i), [values(3, 3), index], {"dim": 0})
case("gather", lambda x, i: x.gather(1, i), [values(2, 4), index], {"dim": 1})
case("gather", lambda x, i: x.gather(-1, i), [values(2, 3, 3), index.reshape(2, 3, 1)], {"dim": -1})
case("gather", lambda x, i: x.gather(0, i), [values(), torch.tensor(0)], {"dim": 0})
case("gather", lambda x, i: x.gather(0, i), [values(3, 3), torch.zeros(0, 3, dtype=torch.int64)],
     {"dim": 0})
case("scatter_add", lambda x, i, s: x.scatter_add(0, i, s), [values(3, 3), index, values(2, 3)],
     {"dim": 0})
case("scatter_add", lambda x, i, s: x.scatter_add(1, i, s), [values(3, 4), index, values(3, 4)],
     {"dim": 1}, grad=False)
some = torch.tensor([2, 0, 2])
case("index_add", lambda x, i, s: x.index_add(0, i, s), [values(3, 2), some, values(3, 2)], {"dim": 0})
case("index_add", lambda x, i, s: x.index_add(1, i, s), [values(2, 3, 2), some, values(2, 3, 2)],
     {"dim": 1})
case("index_select", lambda x, i: x.index_select(1, i), [values(2, 3, 2), some], {"dim": 1})
case("index", lambda x, i: x[i], [values(3, 2), some], {"at": [0]})
case("index", lambda x, i: x[:, i], [values(2, 3, 2), torch.tensor([[-1, 0], [1, 1]])], {"at": [1]},
     node=False)
case("index", lambda x, i, j: x[i, j], [values(3, 4), some, torch.tensor([[1], [3]])], {"at": [0, 1]})
case("index", lambda x, i, j: x[:, i, j], [values(2, 3, 4), some, torch.tensor([1, -1, 1])],
     {"at": [1, 2]}, node=False)
case("index", lambda x, i, j: x[i, :, j], [values(3, 2, 4), some, torch.tensor([[1], [3]])],
     {"at": [0, 2]}, node=False)
case("index", lambda x, m: x[m], [values(3, 4), mask34], {"at": [0]})
case("index", lambda x, m: x[m], [values(4, 2), mask34[2]], {"at": [0]})
case("index", lambda x, m: x[:, m], [values(2, 3, 4), mask34], {"at": [1]}, node=False)
case("index", lambda x, m: x[m], [torch.arange(12).reshape(3, 4), mask34], {"at": [0]})
case("index", lambda x, m: x[m], [values(3, 4), torch.zeros(3, 4, dtype=torch.bool)], {"at": [0]})
case("masked_select", lambda x, m: x.masked_select(m), [values(3, 4), mask34])
case("masked_select", lambda x, m: x.masked_select(m), [values(3, 1), mask34])
case("masked_select", lambda x, m: x.masked_select(m), [values(2, 3, 4), mask34])
case("nonzero", torch.nonzero, [mask34])
case("nonzero", torch.nonzero, [kinks], grad=False)
case("embedding", lambda i, w: F.embedding(i, w), [index, values(3, 2)], {})
case("embedding", lambda i, w: F.embedding(i, w, padding_idx=1), [index, values(3, 2)], {"padding": 1},
     twice=None)
case("embedding", lambda i, w: F.embedding(i, w), [torch.tensor(2), values(3, 2)], {})
case("one_hot", lambda i: F.one_hot(i), [index], {"classes": -1})
case("one_hot", lambda i: F.one_hot(i, 5), [index], {"classes": 5})
for d in [-1, 0, 1]:
    for name in ["tril", "triu"]:
        case(name, lambda x: getattr(x, name)(d), [values(3, 4)], {"diagonal": d})
        case(name, lambda x: getattr(x, name)(d), [values(2, 3, 2)], {"diagonal": d})

# -- extremes and sorting
ties = torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 1.0]]).double()
for name in ["max", "min"]:
    for dim, keep in [(0, False), (1, False), (-1, True)]:
        f = lambda x: getattr(torch, name)(x, dim, keep)
        case(name, f, [different(3, 4)], {"dim": dim, "keepdim": keep})
        case(name, f, [different(2, 3, 2)], {"dim": dim, "keepdim": keep})
        case(name, f, [ties], {"dim": dim, "keepdim": keep}, twice=None)
    case(name, lambda x: getattr(torch, name)(x, 0), [special], {"dim": 0, "keepdim": False}, grad=False)
    case(name, lambda x: getattr(torch, name)(x, 0), [values()], {"dim": 0, "keepdim": False})
case("argmax_all", torch.argmax, [different(3, 4)], grad=False)
case("argmin_all", torch.argmin, [different(3, 4)], grad=False)
case("argmin", lambda x: torch.argmin(x, 1), [different(3, 4)], {"dim": 1, "keepdim": False}, grad=False)
case("argmin", lambda x: torch.argmin(x, 0, True), [different(3, 4)], {"dim": 0, "keepdim": True},
     grad=False)
for dim, down in [(-1, False), (0, True), (1, True)]:
    f = lambda x: torch.sort(x, dim=dim, descending=down, stable=True)
    case("sort", f, [different(3, 4)], {"dim": dim, "descending": down}, node="SortBackward0")
    case("sort", f, [ties], {"dim": dim, "descending": down}, node="SortBackward0", twice=None)
    case("sort", f, [torch.tensor([[3, 1, 2], [9, 8, 7]])], {"dim": dim, "descending": down})
    case("argsort", lambda x: torch.argsort(x, dim, down), [different(3, 4)],
         {"dim": dim, "descending": down}, grad=False)
case("sort", lambda x: torch.sort(x, dim=0, descending=False, stable=True), [special],
     {"dim": 0, "descending": False}, grad=False)
case("sort", lambda x: torch.sort(x, dim=0, descending=True, stable=True), [special],
     {"dim": 0, "descending": True}, grad=False)
for k, dim, largest in [(2, -1, True), (1, 0, False), (3, 1, False), (0, 1, True)]:
    case("topk", lambda x: torch.topk(x, k, dim, largest), [different(3, 4)],
         {"k": k, "dim": dim, "largest": largest})

# -- reductions
zeros3 = torch.tensor([[0.0, 2.0, -1.5], [0.0, 0.0, 3.0], [1.0, 2.0, 0.5]]).double()
case("prod", torch.prod, [values(5)])
case("prod", torch.prod, [values(2, 3)])
case("prod", torch.prod, [values()])
case("prod", torch.prod, [values(0, 3)])
case("prod", torch.prod, [torch.tensor([[1, 2], [3, 4]])])
for dim, keep in [(0, False), (1, True), (-1, False)]:
    case("prod_dim", lambda x: torch.prod(x, dim, keep), [values(3, 4)], {"dim": dim, "keepdim": keep})
    case("prod_dim", lambda x: torch.prod(x, dim, keep), [zeros3], {"dim": dim, "keepdim": keep})
    case("prod_dim", lambda x: torch.prod(x, dim, keep), [values(2, 3, 2)], {"dim": dim, "keepdim": keep})
    case("cumsum", lambda x: torch.cumsum(x, dim), [values(3, 4)], {"dim": dim})
    case("cumsum", lambda x: torch.cumsum(x, dim), [values(2, 3, 2)], {"dim": dim})
case("cumsum", lambda x: torch.cumsum(x, 0), [torch.tensor([1, 2, 3])], {"dim": 0})
case("cumsum", lambda x: torch.cumsum(x, 0), [values()], {"dim": 0})
for dims, correction, keep in [([0], 1, False), ([1], 0, True), ([0, 2], 1, False), ([-1], 2, False)]:
    a = {"dims": dims, "correction": correction, "keepdim": keep}
    for name in ["var", "std"]:
        case(name, lambda x: getattr(torch, name)(x, dims, correction=correction, keepdim=keep),
             [values(3, 4, 3)], a)
for name in ["var", "std"]:
    case(name, lambda x: getattr(torch, name)(x, None, correction=1),
         [values(3, 4)], {"dims": [], "correction": 1, "keepdim": False})
case("std", lambda x: torch.std(x, [1], correction=1), [torch.ones(2, 3).double()],
     {"dims": [1], "correction": 1, "keepdim": False}, twice=None)
for dims, keep in [([0], False), ([1], True), ([0, 1], False), ([-1], False)]:
    case("logsumexp", lambda x: torch.logsumexp(x, dims, keep), [values(3, 4, low=-9, high=9)],
         {"dims": dims, "keepdim": keep})
case("logsumexp", lambda x: torch.logsumexp(x, 0), [torch.tensor([-inf, -inf]).double()],
     {"dims": [0], "keepdim": False}, grad=False)
case("logsumexp", lambda x: torch.logsumexp(x, 0), [torch.tensor([900.0, 901.0]).double()],
     {"dims": [0], "keepdim": False}, grad=False)
for p in [0, 0.5, 1, 1.5, 2, 3, inf, -inf]:
    for dims, keep in [([0], False), ([1], True), ([], False)]:
        case("norm", lambda x: torch.linalg.vector_norm(x, p, dims or None, keep), [different(3, 4)],
             {"p": number(p), "dims": dims, "keepdim": keep}, twice=True)
for p in [0, 1, 2, 3]:
    case("norm", lambda x: torch.linalg.vector_norm(x, p, [1]), [torch.zeros(2, 3).double()],
         {"p": p, "dims": [1], "keepdim": False}, twice=None)

# -- matrices
case("outer", torch.outer, [values(3), values(4)])
case("addmm", lambda c, a, b: torch.addmm(c, a, b), [values(2, 4), values(2, 3), values(3, 4)],
     {"beta": 1, "alpha": 1})
case("addmm", lambda c, a, b: torch.addmm(c, a, b, beta=0.5, alpha=-2), [values(4), values(2, 3),
     values(3, 4)], {"beta": 0.5, "alpha": -2})
for equation, shapes in [
        ("ij,jk->ik", [(2, 3), (3, 4)]), ("bij,bjk->bik", [(2, 2, 3), (2, 3, 2)]),
        ("ij->ji", [(2, 3)]), ("ij->", [(2, 3)]), ("ii->i", [(3, 3)]), ("ii", [(3, 3)]),
        ("i,j->ij", [(2,), (3,)]), ("ij,ij->", [(2, 3), (2, 3)]), ("i,i", [(3,), (3,)]),
        ("...ij,...jk->...ik", [(2, 2, 3), (3, 2)]), ("b...,b...->...", [(2, 3), (2, 3)]),
        ("ij,jk,kl->il", [(2, 3), (3, 2), (2, 2)]), ("ba,cb", [(2, 3), (4, 2)]),
        ("bhqd,bhkd->bhqk", [(1, 2, 2, 2), (1, 2, 3, 2)]), ("ij,ij->j", [(1, 3), (2, 3)]),
        ("iij,j->i", [(2, 2, 3), (3,)])]:
    case("einsum", lambda *x: torch.einsum(equation, *x), [values(*s) for s in shapes],
         {"equation": equation}, node=False)

# -- normalisation, softmax, attention
affine = [values(3, 4), values(4, low=0.5), values(4)]
for n in [1, 2, 3]:
    case("layer_norm", lambda x, w=None, b=None: F.layer_norm(x, (4,), w, b), affine[:n],
         {"shape": [4], "eps": 1e-5})
case("layer_norm", lambda x, w, b: F.layer_norm(x, (2, 3), w, b, 1e-3),
     [values(2, 2, 3), values(2, 3), values(2, 3)], {"shape": [2, 3], "eps": 1e-3})
case("layer_norm", lambda x: F.layer_norm(x, (3,)), [values(0, 3)], {"shape": [3], "eps": 1e-5})
for n in [1, 2, 3]:
    case("group_norm", lambda x, w=None, b=None: F.group_norm(x, 2, w, b),
         [values(2, 4, 3), values(4), values(4)][:n], {"groups": 2, "eps": 1e-5})
case("group_norm", lambda x, w, b: F.group_norm(x, 4, w, b), [values(1, 4, 2, 2), values(4), values(4)],
     {"groups": 4, "eps": 1e-5})


def rms_norm(x, w=None, dims=(-1,), eps=1e-6):
    y = x * torch.rsqrt((x * x).mean(dims, keepdim=True) + eps)
    return y if w is None else y * w


case("rms_norm", rms_norm, [values(3, 4)], {"shape": [4], "eps": 1e-6}, node=False)
case("rms_norm", rms_norm, [values(3, 4), values(4)], {"shape": [4], "eps": 1e-6}, node=False)
case("rms_norm", lambda x, w: rms_norm(x, w, (-1, -2)), [values(2, 2, 3), values(2, 3)],
     {"shape": [2, 3], "eps": 1e-6}, node=False)
for dim in [0, 1, -1]:
    case("softmax", lambda x: F.softmax(x, dim), [values(2, 3, 2)], {"dim": dim})
case("softmax", lambda x: F.softmax(x, 0), [values()], {"dim": 0})


def attention(q, k, v, mask=None, causal=False):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if causal:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -inf) if mask.dtype == torch.bool else scores + mask
    return torch.softmax(scores, -1) @ v


qkv = [values(2, 3, 2), values(2, 4, 2), values(2, 4, 3)]
case("attention", attention, qkv, {}, node=False)
case("attention", lambda q, k, v: attention(q, k, v, causal=True), qkv, {"causal": True}, node=False)
some_mask = torch.tensor([[1, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 1]], dtype=torch.bool)
case("attention", attention, qkv + [some_mask], {}, node=False)
case("attention", attention, qkv + [values(3, 4)], {}, node=False)

# -- losses
p, t = values(3, 4, low=0.1, high=0.9).clamp(0.1, 0.9), values(3, 4, low=0.1, high=0.9)
for r in ["none", "mean", "sum"]:
    a = {"reduction": r}
    pair = [values(3, 4), values(3, 4)]
    case("mse_loss", lambda x, y: F.mse_loss(x, y, reduction=r), pair, a)
    case("l1_loss", lambda x, y: F.l1_loss(x, y, reduction=r), pair, a)
    for beta in [1.0, 0.5, 0.0]:
        case("smooth_l1_loss", lambda x, y: F.smooth_l1_loss(x, y, reduction=r, beta=beta), pair,
             {"reduction": r, "beta": beta}, node=beta != 0)
    case("binary_cross_entropy", lambda x, y: F.binary_cross_entropy(x, y, reduction=r), [p, t], a)
    case("binary_cross_entropy", lambda x, y, w: F.binary_cross_entropy(x, y, w.detach(), reduction=r) * 1
         + 0 * w.sum(), [p, t, values(4)], a, node=False, grad=False)
    f = F.binary_cross_entropy_with_logits
    case("bce_with_logits", lambda x, y: f(x, y, reduction=r), [values(3, 4, low=-9, high=9), t], a,
         node=False)
    case("bce_with_logits", lambda x, y, w: f(x, y, w.detach(), reduction=r), [values(3, 4), t, values(4)],
         {"reduction": r, "weight": True}, node=False, grad=False)
    case("bce_with_logits", lambda x, y, w: f(x, y, pos_weight=w.detach(), reduction=r),
         [values(3, 4), t, values(4, low=0.5)], {"reduction": r, "pos_weight": True}, node=False, grad=False)
for r in ["none", "mean", "sum", "batchmean"]:
    for log_target in [False, True]:
        case("kl_div", lambda x, y: F.kl_div(x, y, reduction=r, log_target=log_target),
             [values(3, 4), values(3, 4, low=0.1)], {"reduction": r, "log_target": log_target}, node=False)
target = torch.tensor([2, 0, 4])
weight = [0.5, 2.0, 1.0, 0.25, 1.5]
w = torch.tensor(weight).double()
for r in ["none", "mean", "sum"]:
    for ww in [None, weight]:
        for ignore in [-100, 0]:
            a = {"reduction": r, "weight": ww, "ignore_index": ignore}
            kw = {"reduction": r, "weight": w if ww else None, "ignore_index": ignore}
            case("nll_loss", lambda x, y: F.nll_loss(x, y, **kw), [values(3, 5), target], a)
            case("cross_entropy", lambda x, y: F.cross_entropy(x, y, **kw), [values(3, 5), target], a)
            for s in [0.1, 1.0]:
                case("cross_entropy", lambda x, y: F.cross_entropy(x, y, label_smoothing=s, **kw),
                     [values(3, 5), target], {**a, "smoothing": s}, node=False)
            case("nll_loss", lambda x, y: F.nll_loss(x, y, **kw),
                 [values(2, 5, 2), torch.tensor([[1, 0], [0, 4]])], a, node=False)
        kw = {"reduction": r, "weight": w if ww else None}
        for s in [0.0, 0.2]:
            case("cross_entropy", lambda x, y: F.cross_entropy(x, y, label_smoothing=s, **kw),
                 [values(3, 5), F.softmax(values(3, 5), 1)],
                 {"reduction": r, "weight": ww, "ignore_index": -100, "smoothing": s}, node=False)
case("cross_entropy", lambda x, y: F.cross_entropy(x, y), [values(5), torch.tensor(3)],
     {"reduction": "mean", "weight": None, "ignore_index": -100}, node=False)
case("nll_loss", lambda x, y: F.nll_loss(x, y), [values(3, 5), torch.full((3,), -100)],
     {"reduction": "mean", "weight": None, "ignore_index": -100}, grad=False)

# -- convolution and pooling
for stride, padding, dilation, groups in [(1, 0, 1, 1), (2, 1, 1, 1), (1, 2, 2, 1), (1, 1, 1, 2)]:
    a = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    case("conv1d", lambda x, w, b: F.conv1d(x, w, b, **a),
         [values(2, 2, 6), values(2, 2 // groups, 3), values(2)], a, node=False)
for stride, padding, extra, dilation, groups in [((1, 1), (0, 0), (0, 0), (1, 1), 1),
                                                 ((2, 2), (1, 1), (1, 1), (1, 1), 1),
                                                 ((2, 1), (0, 1), (0, 0), (1, 2), 1),
                                                 ((1, 1), (1, 0), (0, 0), (1, 1), 2)]:
    a = {"stride": stride, "padding": padding, "output_padding": extra, "dilation": dilation,
         "groups": groups}
    case("conv_transpose2d", lambda x, w: F.conv_transpose2d(x, w, None, **a),
         [values(1, 2, 2, 3), values(2, 2, 2, 3)], a)
    case("conv_transpose2d", lambda x, w, b: F.conv_transpose2d(x, w, b, **a),
         [values(1, 2, 2, 2), values(2, 1, 3, 2), values(groups)], a, node=False)
for size, out in [((4, 6), (2, 3)), ((5, 3), (2, 2)), ((3, 4), (1, 1)), ((2, 3), (3, 5))]:
    case("adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, out), [values(1, 2, *size)],
         {"out": out}, node=False)
    case("adaptive_max_pool2d", lambda x: F.adaptive_max_pool2d(x, out), [different(1, 2, *size)],
         {"out": out}, node=False)
case("adaptive_max_pool2d", lambda x: F.adaptive_max_pool2d(x, (2, 2)),
     [torch.ones(1, 1, 3, 3).double()], {"out": [2, 2]}, node=False, twice=None)

# -- one node where PyTorch has one; parts and moved dimensions
case("split", lambda x: x.split(2, 0), [values(5, 2)], {"size": 2, "dim": 0})
case("split_sizes", lambda x: x.split([1, 3], 1), [values(2, 4)], {"sizes": [1, 3], "dim": 1})
case("chunk", lambda x: x.chunk(3, 0), [values(7, 2)], {"chunks": 3, "dim": 0})
case("unbind", lambda x: x.unbind(0), [values(3, 2)], {"dim": 0})
case("unbind", lambda x: x.unbind(-1), [values(2, 3, 2)], {"dim": -1})
case("flip", lambda x: x.flip(0, 2), [values(2, 3, 2)], {"dims": [0, 2]})
case("flip", lambda x: x.flip(1), [values(2, 0)], {"dims": [1]})
case("conv1d", lambda x, w, b: F.conv1d(x, w, b, stride=2), [values(2, 2, 6), values(2, 2, 3), values(2)],
     {"stride": 2, "padding": 0, "dilation": 1, "groups": 1})
case("conv_transpose2d", lambda x, w, b: F.conv_transpose2d(x, w, b),
     [values(1, 2, 2, 2), values(2, 1, 3, 2), values(1)],
     {"stride": [1, 1], "padding": [0, 0], "output_padding": [0, 0], "dilation": [1, 1], "groups": 1})
case("select", lambda x: x[1], [values(3, 2)], {"dim": 0, "index": 1})
case("select", lambda x: x.select(1, -1), [values(3, 2, 2)], {"dim": 1, "index": -1})
case("squeeze", lambda x: x.squeeze(), [values(1, 3, 1, 2)], {})
case("squeeze", lambda x: x.squeeze(), [values(3, 2)], {})
case("squeeze_dim", lambda x: x.squeeze(1), [values(3, 1)], {"dim": 1})
case("squeeze_dim", lambda x: x.squeeze(0), [values(3, 1)], {"dim": 0})
for source, target in [([0], [2]), ([2, 0], [0, 1]), ([-1], [0]), ([0, 1, 2], [2, 1, 0])]:
    case("movedim", lambda x: x.movedim(source, target), [values(2, 3, 4)],
         {"source": source, "target": target})

# -- two tensors: extremes, bounds, writes at indices
case("max_of", torch.max, [different(3, 4), different(4, step=1 / 8) + 1 / 32])
case("max_of", torch.max, [kinks, torch.tensor([0.0, 0.0, 0.0, 0.5, 3.0]).double()], twice=None)
case("min_of", torch.min, [different(3, 1), different(2, 1, 4, step=1 / 8) + 1 / 32])
bounds = [values(3, 4), values(4, low=-2, high=-0.5), values(3, 1, low=0.25, high=2)]
case("clamp_bounds", lambda x, a, b: torch.clamp(x, a, b), bounds, {"bounds": "both"})
case("clamp_bounds", lambda x, b, a: torch.clamp(x, a, b), bounds, {"bounds": "crossed"})
case("clamp_bounds", lambda x, a: torch.clamp(x, min=a), bounds[:2], {"bounds": "low"})
case("clamp_bounds", lambda x, b: torch.clamp(x, max=b), bounds[:2], {"bounds": "high"})
case("clamp_bounds", lambda x, a, b: torch.clamp(x, a, b),
     [kinks, torch.zeros(5).double(), torch.ones(5).double()], {"bounds": "both"}, twice=None)
case("clamp_min", lambda x: torch.clamp_min(x, 0.25), [values(3, 4)], {"low": 0.25})
case("clamp_max", lambda x: torch.clamp_max(x, 0.25), [values(3, 4)], {"high": 0.25})
case("clamp_min", lambda x: torch.clamp(x, min=2), [torch.tensor([-5, 0, 2, 2 ** 62])], {"low": 2})
case("clamp_max", lambda x: torch.clamp(x, max=2), [torch.tensor([-2 ** 62, 0, 2, 5])], {"high": 2})


def put(at, accumulate):
    def f(x, values, *indices):
        full = [slice(None)] * (max(at) + 1)
        for a, i in zip(at, indices):
            full[a] = i
        if slice(None) in full:
            y = x.clone()
            y[tuple(full)] = values
            return y
        return x.index_put(tuple(full), values, accumulate)
    return f


distinct = torch.tensor([2, 0])
for at, accumulate, inputs in [
        ([0], False, [values(3, 2), values(2, 2), distinct]),
        ([0], False, [values(3, 2), values(), distinct]),
        ([0], True, [values(3, 2), values(3, 2), some]),
        ([0], True, [values(3, 2), values(2), some]),
        ([0, 1], False, [values(3, 4), values(2), distinct, torch.tensor([-1, 1])]),
        ([0, 1], True, [values(3, 4), values(3), some, torch.tensor([[1], [3]])]),
        ([1], False, [values(2, 3), values(2, 2), distinct]),
        ([0], False, [values(3, 4), values(), mask34]),
        ([0], False, [values(3, 4), values(6), mask34]),
        ([0], True, [values(4, 2), values(3, 2), mask34[2]]),
        ([0], False, [values(3, 4), values(), torch.zeros(3, 4, dtype=torch.bool)])]:
    case("index_put", put(at, accumulate), inputs, {"at": at, "accumulate": accumulate},
         node=at != [1])

# -- vectors, and matrices without elements
case("matmul", torch.matmul, [values(3), values(3)])
case("matmul", torch.matmul, [values(2, 3), values(3)])
case("matmul", torch.matmul, [values(2, 2, 3), values(3, 2)])
case("matmul", torch.matmul, [values(2, 1, 2, 3), values(2, 3, 2)])
case("matmul", torch.matmul, [values(2, 2, 3), values(3)], node=False)
case("matmul", torch.matmul, [values(3), values(3, 2)], node=False)
for left, right in [((2, 3, 0), (0, 4)), ((2, 0), (0, 3)), ((0, 3), (3, 2)), ((2, 0, 3), (3, 2)),
                    ((0, 2, 3), (0, 3, 2)), ((2, 3, 0), (2, 0, 1)), ((0,), (0,)), ((3, 0), (0,)),
                    ((0, 2, 3), (3,)), ((2, 1, 2, 0), (3, 0, 2))]:
    case("matmul", torch.matmul, [values(*left), values(*right)], node=False)
for shape, weight_shape in [((0, 3), (2, 3)), ((2, 0), (3, 0)), ((2, 3, 0), (4, 0)), ((0, 2, 3), (2, 3))]:
    case("linear", F.linear, [values(*shape), values(*weight_shape), values(weight_shape[0])], node=False)
case("bmm", torch.bmm, [values(2, 2, 0), values(2, 0, 3)])
case("addmm", lambda c, a, b: torch.addmm(c, a, b, beta=0.5), [values(3), values(2, 0), values(0, 3)],
     {"beta": 0.5, "alpha": 1})
case("einsum", lambda *x: torch.einsum("ij,jk->ik", *x), [values(2, 0), values(0, 3)],
     {"equation": "ij,jk->ik"}, node=False)

# -- reductions and more over nothing
for dims, keep in [([0], False), ([1], True), ([0, 1], False)]:
    a = {"dims": dims, "keepdim": keep}
    case("sum_dims", lambda x: torch.sum(x, dims, keep), [values(0, 3)], a)
    case("mean_dims", lambda x: torch.mean(x, dims, keep), [values(0, 3)], a)
    case("logsumexp", lambda x: torch.logsumexp(x, dims, keep), [values(0, 3)], a)
    case("norm", lambda x: torch.linalg.vector_norm(x, 2, dims, keep), [values(0, 3)],
         {"p": 2, "dims": dims, "keepdim": keep})
    for name in ["var", "std"]:
        case(name, lambda x: getattr(torch, name)(x, dims, correction=1, keepdim=keep), [values(0, 3)],
             {"dims": dims, "correction": 1, "keepdim": keep})
case("sum_dims", lambda x: torch.sum(x, [1]), [torch.zeros(2, 0, dtype=torch.int64)],
     {"dims": [1], "keepdim": False})
for name in ["max", "min"]:
    case(name, lambda x: getattr(torch, name)(x, 1), [values(0, 3)], {"dim": 1, "keepdim": False})
case("argmin", lambda x: torch.argmin(x, 1), [values(0, 3)], {"dim": 1, "keepdim": False}, grad=False)
case("prod_dim", lambda x: torch.prod(x, 1), [values(2, 0)], {"dim": 1, "keepdim": False})
case("cumsum", lambda x: torch.cumsum(x, 1), [values(2, 0)], {"dim": 1})
case("sort", lambda x: torch.sort(x, dim=1, descending=False, stable=True), [values(2, 0)],
     {"dim": 1, "descending": False}, node=False)
case("topk", lambda x: torch.topk(x, 0, 1), [values(2, 0)], {"k": 0, "dim": 1, "largest": True})
case("softmax", lambda x: F.softmax(x, 1), [values(2, 0)], {"dim": 1})
case("softmax", lambda x: F.softmax(x, 1), [values(0, 3)], {"dim": 1})
case("tril", lambda x: x.tril(0), [values(0, 3)], {"diagonal": 0})
case("repeat", lambda x: x.repeat(2, 3), [values(0, 3)], {"repeats": [2, 3]})
case("stack", lambda *x: torch.stack(x, 0), [values(0, 3), values(0, 3)], {"dim": 0})
case("gather", lambda x, i: x.gather(1, i), [values(0, 3), torch.zeros(0, 2, dtype=torch.int64)],
     {"dim": 1})
case("embedding", lambda i, w: F.embedding(i, w), [torch.zeros(2, 0, dtype=torch.int64), values(3, 2)], {})
case("masked_select", lambda x, m: x.masked_select(m),
     [values(0, 3), torch.zeros(0, 3, dtype=torch.bool)])
case("mse_loss", lambda x, y: F.mse_loss(x, y, reduction="sum"), [values(0, 3), values(0, 3)],
     {"reduction": "sum"})

# -- later ops
for inputs in [[values(3, 4)], [values()], [values(0, 3)]]:
    case("atan", torch.atan, inputs)
case("atan", torch.atan, [special], grad=False)
truths = torch.tensor([[0.0, 1.0, -2.0], [0.0, float("nan"), 0.5]]).double()
for name in ["isnan", "isinf", "isfinite"]:
    case(name, getattr(torch, name), [special], grad=False)
    case(name, getattr(torch, name), [torch.arange(3)], grad=False)
for name in ["all", "any"]:
    for x in [truths, mask34, torch.arange(3), torch.zeros(0, 2), torch.ones(2, 2, dtype=torch.uint8)]:
        case(name, getattr(torch, name), [x], grad=False)
    for dim, keep in [(0, False), (1, True)]:
        case(name + "_dim", lambda t: getattr(torch, name)(t, dim, keep), [truths],
             {"dim": dim, "keepdim": keep}, grad=False)
        case(name + "_dim", lambda t: getattr(torch, name)(t, dim, keep), [torch.zeros(0, 2)],
             {"dim": dim, "keepdim": keep}, grad=False)

# -- vectors by name, writes in place, the adjoint of gather
case("dot", torch.dot, [values(3), values(3)])
case("dot", torch.dot, [values(0), values(0)])
case("mv", torch.mv, [values(2, 3), values(3)])
case("mv", torch.mv, [values(2, 0), values(0)])
for mask, value in [(mask34, -3.5), (mask34[1], 7), (mask34[:, :1], 0.25)]:
    case("masked_fill_", lambda x, m: x.clone().masked_fill_(m, value), [values(3, 4), mask],
         {"value": value})
case("masked_fill_tensor_", lambda x, m, v: x.clone().masked_fill_(m, v),
     [values(3, 4), mask34, values()])
for at, accumulate, inputs in [
        ([0], False, [values(3, 2), values(2, 2), distinct]),
        ([0], True, [values(3, 2), values(3, 2), some]),
        ([0, 1], False, [values(3, 4), values(2), distinct, torch.tensor([-1, 1])]),
        ([0], False, [values(3, 4), values(), mask34])]:
    case("index_put_", lambda x, v, *i: x.clone().index_put_(tuple(i), v, accumulate), inputs,
         {"at": at, "accumulate": accumulate})
for dim, i in [(0, index), (1, index), (-1, index)]:
    case("scatter_to_zeros", lambda g, i: torch.zeros(3, 4).double().scatter_add(dim, i, g),
         [values(2, 3), i], {"sizes": [3, 4], "dim": dim % 2})

# -- without a batch
case("conv2d", lambda x, w, b: F.conv2d(x, w, b), [values(2, 3, 4), values(3, 2, 2, 2), values(3)])
case("conv1d", lambda x, w, b: F.conv1d(x, w, b, stride=2), [values(2, 6), values(2, 2, 3), values(2)],
     {"stride": 2, "padding": 0, "dilation": 1, "groups": 1})
case("conv_transpose2d", lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2),
     [values(2, 2, 3), values(2, 1, 3, 2), values(1)],
     {"stride": [2, 2], "padding": [0, 0], "output_padding": [0, 0], "dilation": [1, 1], "groups": 1})
case("max_pool2d", lambda x: F.max_pool2d(x, 2), [different(2, 4, 5)], {"kernel": 2})
case("avg_pool2d", lambda x: F.avg_pool2d(x, 2), [values(2, 4, 5)], {"kernel": 2})
for out in [(2, 2), (1, 1), (2, 3)]:
    case("adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, out), [values(2, 4, 5)], {"out": out})
    case("adaptive_max_pool2d", lambda x: F.adaptive_max_pool2d(x, out), [different(2, 4, 5)], {"out": out})
case("adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, (0, 2)), [values(1, 2, 3, 3)],
     {"out": [0, 2]}, grad=False)
case("adaptive_max_pool2d", lambda x: F.adaptive_max_pool2d(x, (2, 0)), [values(1, 2, 3, 3)],
     {"out": [2, 0]}, grad=False)

# -- what has golden values elsewhere, for the 16-bit dtypes
for shape, dim in [((3, 5), 1), ((3, 5), 0), ((2, 3, 4), -1), ((7,), 0)]:
    case("softmax", lambda x: F.softmax(x, dim), [values(*shape)], {"dim": dim})
    case("log_softmax", lambda x: F.log_softmax(x, dim), [values(*shape)], {"dim": dim})

write("op_set_golden.safetensors", cases)
print(len(cases), "cases", file=sys.stderr)
