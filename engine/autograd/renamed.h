#pragma once

#include <string_view>

#include "lockstep/engine/tensor/tensor.h"

// Internal.
namespace lockstep::autograd {

// `y`, which several ops have made and nobody else holds, as the result of one op more that changes
// nothing and has the name `label`, a literal: what is one op to PyTorch shows its name. Outside
// the graph it stays as it is.
Tensor renamed(const Tensor& y, std::string_view label);

}  // namespace lockstep::autograd
