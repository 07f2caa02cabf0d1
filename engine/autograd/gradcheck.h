#pragma once

#include <functional>
#include <vector>

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::autograd {

using DifferentiableFunction = std::function<Tensor(const std::vector<Tensor>& inputs)>;

struct GradcheckOptions {
  double eps = 1e-6;  // step of the central differences
  double atol = 1e-5;
  double rtol = 1e-3;
};

// Compares the analytical Jacobian of `function` with central differences, element by element, for
// every float64 input that requires grad. Throws Error naming the first entry that is further apart
// than atol + rtol |numerical|, and ValueError where an input that requires grad is not float64.
// Random functions must draw the same numbers at every call.
void gradcheck(const DifferentiableFunction& function, const std::vector<Tensor>& inputs,
               GradcheckOptions options = {});

// gradcheck of the gradient: of inputs and output gradient to the inputs' gradients. The output
// gradients are drawn from a fixed seed.
void gradgradcheck(const DifferentiableFunction& function, const std::vector<Tensor>& inputs,
                   GradcheckOptions options = {});

}  // namespace lockstep::autograd
