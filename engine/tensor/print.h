#pragma once

#include <string>

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

// As PyTorch prints a tensor: "tensor([1., 2.], requires_grad=True)". An undefined one is "None".
std::string format_tensor(const Tensor& tensor);

// A 0-d tensor as PyTorch's format strings show it, like a Python float or integer; other tensors
// as format_tensor.
std::string format_value(const Tensor& tensor);

}  // namespace lockstep
