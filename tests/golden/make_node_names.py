#!/usr/bin/env python3
"""Writes node_names.json: the name of the grad_fn of every public op's result in PyTorch.

Usage: python3 make_node_names.py > node_names.json

A key is the op, or op.variant; a value the name of the first differentiable output's grad_fn,
"itself" where the op returns its argument, null where no output has a gradient. Made with PyTorch
1.13.1; OTHER are the names that Lockstep deliberately has instead. tests/engine/node_names_test.cc
has the same calls in C++.
"""
import json
import sys

import torch
import torch.nn.functional as F

OTHER = {
    "ReshapeAliasBackward0": "ViewBackward0",  # 2.x's
    "NormBackward1": "LinalgVectorNormBackward0",  # 2.x's
    "SqueezeBackward3": "SqueezeBackward1",  # of squeeze_(dim), at the end of other ops
    "DivBackward1": "DivBackward0",  # by a number that is a symbol
}
torch.manual_seed(1)


def leaf(*sizes):
    return (torch.rand(sizes) * 0.5 + 0.25).requires_grad_()


s, v, w, m, n = leaf(), leaf(4), leaf(4), leaf(3, 4), leaf(4, 3)
square, a3, b3, wide = leaf(4, 4), leaf(2, 3, 4), leaf(2, 4, 3), leaf(1, 3, 1)
x3, x4, x6 = leaf(2, 2, 6), leaf(2, 2, 6, 6), leaf(1, 2, 5, 7)
c, chan = leaf(2), leaf(2)
mask = torch.tensor([[True, False, True, False]] * 3)
index = torch.tensor([0, 2])
places = torch.tensor([[0, 1, 2, 0]])
classes = torch.tensor([1, 0, 3])
p34 = torch.full((3, 4), 0.25)


def fresh():
    """A non-leaf that may be written."""
    return m * 1


calls = {
    # -- pointwise, of one argument
    **{op: (lambda op=op: getattr(m, op)()) for op in [
        "neg", "abs", "sign", "exp", "log", "sqrt", "reciprocal", "sin", "cos", "tanh", "sigmoid",
        "relu", "rsqrt", "log1p", "expm1", "tan", "erf", "atan", "square", "isnan", "isinf",
        "isfinite", "logical_not", "nonzero", "all", "any", "prod", "max", "min", "argmax",
        "argmin", "norm", "sum", "mean", "std", "var", "clone", "contiguous", "t", "squeeze",
        "flatten", "detach"]},
    "all.dim": lambda: m.all(1),
    "any.dim": lambda: m.any(1),
    "silu": lambda: F.silu(m),
    "gelu": lambda: F.gelu(m),
    "gelu.tanh": lambda: F.gelu(m, approximate="tanh"),
    "softplus": lambda: F.softplus(m),
    "leaky_relu": lambda: F.leaky_relu(m),
    "elu": lambda: F.elu(m),
    "hardtanh": lambda: F.hardtanh(m),
    "clamp": lambda: m.clamp(0.3, 0.6),
    "clamp.tensors": lambda: torch.clamp(m, v.detach(), w.detach() + 1),
    "clamp.low": lambda: torch.clamp(m, min=v.detach()),
    "clamp_min": lambda: torch.clamp_min(m, 0.3),
    "clamp_max": lambda: torch.clamp_max(m, 0.3),
    "pow.number": lambda: m.pow(3),
    "pow.tensor": lambda: m.pow(m),
    "pow.base": lambda: torch.pow(2.0, m),
    # -- of two
    "add": lambda: m + v,
    "add.number": lambda: m + 1,
    "add.alpha": lambda: torch.add(m, v, alpha=2),
    "sub": lambda: m - v,
    "sub.number": lambda: m - 1,
    "sub.number_first": lambda: 1 - m,
    "sub.alpha": lambda: torch.sub(m, v, alpha=2),
    "mul": lambda: m * v,
    "mul.number": lambda: 2 * m,
    "div": lambda: m / v,
    "div.number": lambda: m / 2,
    "div.number_first": lambda: 2 / m,
    "maximum": lambda: torch.maximum(m, v),
    "minimum": lambda: torch.minimum(m, v),
    "max.tensors": lambda: torch.max(m, v),
    "min.tensors": lambda: torch.min(m, v),
    **{op: (lambda op=op: getattr(torch, op)(m, v)) for op in [
        "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or"]},
    "sum_to_size": lambda: m.sum_to_size(1, 4),
    "sum_to_size.fewer_dims": lambda: m.sum_to_size(4),
    "where": lambda: torch.where(mask, m, v),
    "masked_fill": lambda: m.masked_fill(mask, 0),
    "masked_fill.tensor": lambda: m.masked_fill(mask, s),
    # -- in place
    **{op: (lambda op=op: getattr(fresh(), op)()) for op in [
        "neg_", "abs_", "exp_", "log_", "sqrt_", "rsqrt_", "reciprocal_", "sin_", "cos_", "tanh_",
        "sigmoid_", "relu_", "zero_", "uniform_", "normal_"]},
    "clamp_": lambda: fresh().clamp_(0.3, 0.6),
    "pow_": lambda: fresh().pow_(2),
    "fill_": lambda: fresh().fill_(1),
    "fill_.zero": lambda: fresh().fill_(0),
    "copy_": lambda: fresh().copy_(v),
    "add_": lambda: fresh().add_(v),
    "add_.number": lambda: fresh().add_(1),
    "sub_": lambda: fresh().sub_(v),
    "sub_.alpha": lambda: fresh().sub_(v, alpha=2),
    "sub_.number": lambda: fresh().sub_(1),
    "mul_": lambda: fresh().mul_(v),
    "mul_.number": lambda: fresh().mul_(2),
    "div_": lambda: fresh().div_(v),
    "div_.number": lambda: fresh().div_(2),
    "masked_fill_": lambda: fresh().masked_fill_(mask, 0),
    "masked_fill_.tensor": lambda: fresh().masked_fill_(mask, s),
    "leaky_relu_": lambda: F.leaky_relu_(fresh()),
    "elu_": lambda: F.elu_(fresh()),
    "hardtanh_": lambda: F.hardtanh_(fresh()),
    "silu_": lambda: F.silu(fresh(), inplace=True),
    "index_put_": lambda: fresh().index_put_((index,), v.detach()),
    # -- reductions
    "sum.dim": lambda: m.sum(1),
    "mean.dim": lambda: m.mean(1),
    "max.dim": lambda: m.max(1),
    "min.dim": lambda: m.min(1),
    "argmax.dim": lambda: m.argmax(1),
    "argmin.dim": lambda: m.argmin(1),
    "norm.p": lambda: m.norm(3),
    "norm.dim": lambda: m.norm(2, dim=1),
    "var.dim": lambda: m.var(1),
    "std.dim": lambda: m.std(1),
    "logsumexp": lambda: m.logsumexp(1),
    "prod.dim": lambda: m.prod(1),
    "cumsum": lambda: m.cumsum(1),
    "sort": lambda: m.sort(1),
    "argsort": lambda: m.argsort(1),
    "topk": lambda: m.topk(2),
    "softmax": lambda: m.softmax(1),
    "log_softmax": lambda: m.log_softmax(1),
    # -- views
    "view": lambda: m.view(4, 3),
    "view.same": lambda: m.view(3, 4),
    "view_as": lambda: m.view_as(n),
    "reshape": lambda: m.reshape(2, 6),
    "reshape.same": lambda: m.reshape(3, 4),
    "reshape.copy": lambda: m.t().reshape(2, 6),
    "flatten.vector": lambda: v.flatten(),
    "flatten.number": lambda: s.flatten(),
    "flatten.copy": lambda: m.t().flatten(),
    "flatten.one_dim": lambda: a3.flatten(1, 1),
    "t.vector": lambda: v.t(),
    "t.number": lambda: s.t(),
    "transpose": lambda: m.transpose(0, 1),
    "transpose.same": lambda: m.transpose(1, 1),
    "transpose.number": lambda: s.transpose(0, 0),
    "permute": lambda: m.permute(1, 0),
    "movedim": lambda: torch.movedim(m, 0, 1),
    "squeeze.dim": lambda: wide.squeeze(0),
    "squeeze.other_dim": lambda: m.squeeze(0),
    "unsqueeze": lambda: m.unsqueeze(0),
    "expand": lambda: m.expand(2, 3, 4),
    "expand.same": lambda: m.expand(3, 4),
    "expand_as": lambda: v.expand_as(m),
    "select": lambda: m.select(0, 1),
    "select.bracket": lambda: m[1],
    "narrow": lambda: m.narrow(0, 1, 1),
    "narrow.whole": lambda: m.narrow(0, 0, 3),
    "slice": lambda: m[0:3:2],
    "split": lambda: m.split(2),
    "split.sizes": lambda: m.split([1, 2]),
    "chunk": lambda: m.chunk(2),
    "unbind": lambda: m.unbind(),
    # -- copies
    "contiguous.copy": lambda: m.t().contiguous(),
    "to": lambda: m.to(torch.float64),
    "to.same": lambda: m.to(torch.float32),
    "to.device": lambda: m.to("cpu"),
    "cat": lambda: torch.cat([m, m]),
    "stack": lambda: torch.stack([m, m]),
    "repeat": lambda: m.repeat(2, 1),
    "flip": lambda: m.flip(0),
    "flip.zero_dim": lambda: s.flip(0),
    "tril": lambda: m.tril(),
    "triu": lambda: m.triu(),
    # -- indices
    "index": lambda: m[index],
    "index.rows_columns": lambda: m[index, index],
    "index.middle": lambda: a3[:, index],
    "index.last": lambda: a3[:, :, index],
    "index.place": lambda: m[torch.tensor(1)],
    "index.places": lambda: m[torch.tensor([0, 2]), torch.tensor(1)],
    "index.mask": lambda: m[mask],
    "index_select": lambda: m.index_select(0, index),
    "index_add": lambda: m.index_add(0, index, p34[:2]),
    "index_put": lambda: m.index_put((index,), v.detach()),
    "gather": lambda: m.gather(0, places),
    "gather.zero_dim": lambda: s.gather(0, torch.tensor([0])),
    "scatter_add": lambda: m.scatter_add(0, places, p34[:1]),
    "masked_select": lambda: m.masked_select(mask),
    "embedding": lambda: F.embedding(index, m),
    "one_hot": lambda: F.one_hot(index),
    # -- products
    "matmul.vectors": lambda: torch.matmul(v, w),
    "matmul.vector_matrix": lambda: torch.matmul(v, n),
    "matmul.matrix_vector": lambda: torch.matmul(m, v),
    "matmul": lambda: torch.matmul(m, n),
    "matmul.batch_vector": lambda: torch.matmul(a3, v),
    "matmul.batch_matrix": lambda: torch.matmul(a3, n),
    "matmul.batches": lambda: torch.matmul(a3, b3),
    "matmul.broadcast": lambda: torch.matmul(a3.unsqueeze(0), b3),
    "mm": lambda: torch.mm(m, n),
    "dot": lambda: torch.dot(v, w),
    "mv": lambda: torch.mv(m, v),
    "bmm": lambda: torch.bmm(a3, b3),
    "addmm": lambda: torch.addmm(square[:3, :3], m, n),
    "outer": lambda: torch.outer(v, w),
    "linear": lambda: F.linear(m, m, leaf(3)),
    "linear.no_bias": lambda: F.linear(m, m),
    "linear.row_weight": lambda: F.linear(m, v),
    "linear.vector": lambda: F.linear(v, m),
    "linear.vector_bias": lambda: F.linear(v, m, leaf(3)),
    "linear.batch": lambda: F.linear(a3, m, leaf(3)),
    "linear.batch_no_bias": lambda: F.linear(a3, m),
    # -- layers
    "conv1d": lambda: F.conv1d(x3, leaf(2, 2, 3), c),
    "conv2d": lambda: F.conv2d(x4, leaf(2, 2, 3, 3), c),
    "conv_transpose2d": lambda: F.conv_transpose2d(x4, leaf(2, 2, 3, 3), c),
    "max_pool2d": lambda: F.max_pool2d(x4, 2),
    "max_pool2d.unbatched": lambda: F.max_pool2d(a3, 2),
    "avg_pool2d": lambda: F.avg_pool2d(x4, 2),
    "avg_pool2d.unbatched": lambda: F.avg_pool2d(a3, 2),
    "adaptive_avg_pool2d": lambda: F.adaptive_avg_pool2d(x4, 2),
    "adaptive_avg_pool2d.uneven": lambda: F.adaptive_avg_pool2d(x6, (2, 3)),
    "adaptive_avg_pool2d.one": lambda: F.adaptive_avg_pool2d(x4, 1),
    "adaptive_max_pool2d": lambda: F.adaptive_max_pool2d(x4, 2),
    "adaptive_max_pool2d.uneven": lambda: F.adaptive_max_pool2d(x6, (2, 3)),
    "batch_norm": lambda: F.batch_norm(x4, None, None, c, chan, True),
    "layer_norm": lambda: F.layer_norm(m, (4,), v, w),
    "group_norm": lambda: F.group_norm(x4, 2, c, chan),
    "dropout": lambda: F.dropout(m, 0.5),
    "dropout.eval": lambda: F.dropout(m, 0.5, False),
    # -- losses
    "mse_loss": lambda: F.mse_loss(m, p34),
    "mse_loss.none": lambda: F.mse_loss(m, p34, reduction="none"),
    "l1_loss": lambda: F.l1_loss(m, p34),
    "l1_loss.none": lambda: F.l1_loss(m, p34, reduction="none"),
    "smooth_l1_loss": lambda: F.smooth_l1_loss(m, p34),
    "smooth_l1_loss.beta_0": lambda: F.smooth_l1_loss(m, p34, beta=0),
    "binary_cross_entropy": lambda: F.binary_cross_entropy(m, p34),
    "binary_cross_entropy.weight": lambda: F.binary_cross_entropy(m, p34, p34),
    "binary_cross_entropy_with_logits": lambda: F.binary_cross_entropy_with_logits(m, p34),
    "binary_cross_entropy_with_logits.none":
        lambda: F.binary_cross_entropy_with_logits(m, p34, reduction="none"),
    "binary_cross_entropy_with_logits.weights":
        lambda: F.binary_cross_entropy_with_logits(m, p34, p34, pos_weight=p34),
    "kl_div": lambda: F.kl_div(m, p34, reduction="mean"),
    "kl_div.batchmean": lambda: F.kl_div(m, p34, reduction="batchmean"),
    "nll_loss": lambda: F.nll_loss(m, classes),
    "nll_loss.none": lambda: F.nll_loss(m, classes, reduction="none"),
    "nll_loss.one": lambda: F.nll_loss(v, torch.tensor(1)),
    "nll_loss.one_none": lambda: F.nll_loss(v, torch.tensor(1), reduction="none"),
    "nll_loss.segments": lambda: F.nll_loss(b3.transpose(1, 2), torch.zeros(2, 4).long()),
    "nll_loss.segments_none":
        lambda: F.nll_loss(b3.transpose(1, 2), torch.zeros(2, 4).long(), reduction="none"),
    "nll_loss.image": lambda: F.nll_loss(x4, torch.zeros(2, 6, 6).long()),
    "nll_loss.image_none":
        lambda: F.nll_loss(x4, torch.zeros(2, 6, 6).long(), reduction="none"),
    "cross_entropy": lambda: F.cross_entropy(m, classes),
    "cross_entropy.none": lambda: F.cross_entropy(m, classes, reduction="none"),
    "cross_entropy.smoothing": lambda: F.cross_entropy(m, classes, label_smoothing=0.1),
    "cross_entropy.image": lambda: F.cross_entropy(x4, torch.zeros(2, 6, 6).long()),
    "cross_entropy.probabilities": lambda: F.cross_entropy(m, p34),
    "cross_entropy.probabilities_none": lambda: F.cross_entropy(m, p34, reduction="none"),
}


def name_of(call):
    y = call()
    outputs = [y] if isinstance(y, torch.Tensor) else list(y)
    if any(outputs[0] is x for x in (s, v, m, a3)):
        return "itself"
    for t in outputs:
        if t.grad_fn is not None:
            name = type(t.grad_fn).__name__
            return OTHER.get(name, name)
    return None


json.dump({key: name_of(call) for key, call in calls.items()}, sys.stdout, indent=1)
sys.stdout.write("\n")
