#pragma once

#include <string_view>

#include "lockstep/engine/tensor/tensor.h"

// Internal.
namespace lockstep::autograd {

// `y`, which several ops have made and nobody else holds, as the result of one op more that changes
// nothing and has the name `label`, a literal: what is one op to PyTorch shows its name. It is no
// view, though the last of the ops made one.
Tensor renamed(const Tensor& y, std::string_view label);

}  // namespace lockstep::autograd
