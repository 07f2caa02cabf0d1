#pragma once

#include <functional>
#include <vector>

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::autograd {

// Runs function(inputs) without keeping its activations; backward computes them again when it first
// needs one (Chen, Xu, Zhang, Guestrin: "Training deep nets with sublinear memory cost", 2016). The
// graph is the ordinary one, so gradients, hooks and buckets behave as without it, random ops draw
// the same numbers both times, and autocast is what it was. `function` must compute the same thing
// again; if it saves other tensors the second time, backward throws Error. Writes to buffers
// (running statistics) happen twice.
using CheckpointedFunction = std::function<Tensor(const std::vector<Tensor>& inputs)>;
Tensor checkpoint(const CheckpointedFunction& function, const std::vector<Tensor>& inputs);

}  // namespace lockstep::autograd
