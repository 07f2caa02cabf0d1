#pragma once

#include <span>
#include <vector>

#include "lockstep/engine/autograd/node.h"
#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::autograd {

// Backpropagates from `roots` and accumulates into the leaves, as torch.autograd.backward. An
// undefined entry of `gradients` stands for one, which only single-element roots allow.
void backward(std::span<const Tensor> roots, std::span<const Tensor> gradients = {},
              bool retain_graph = false, bool create_graph = false);

struct GradOptions {
  bool retain_graph = false;  // implied by create_graph
  bool create_graph = false;
  bool allow_unused = false;  // else an input that no root depends on is an error
};
// The gradients of the roots' sum with respect to `inputs`, at least one, accumulating nothing.
std::vector<Tensor> grad(std::span<const Tensor> roots, std::span<const Tensor> inputs,
                         std::span<const Tensor> gradients = {}, GradOptions options = {});
std::vector<Tensor> grad(const Tensor& root, const std::vector<Tensor>& inputs,
                         GradOptions options = {});

// Internal, for the backward of an op that can compute a gradient where it is to end up: the memory
// of a leaf's empty gradient slot, if this edge is the only contribution to it in the current
// backward; otherwise undefined. Contiguous, of the leaf's shape.
Tensor gradient_destination(const Edge& edge);

}  // namespace lockstep::autograd
