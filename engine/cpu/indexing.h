#pragma once

#include "lockstep/engine/tensor/tensor.h"

// Gather and scatter element by element; see Backend for the contracts.
namespace lockstep::cpu {

void gather_elements(const Tensor& out, const Tensor& in, int dim, const Tensor& index);
void scatter_add_elements(const Tensor& out, int dim, const Tensor& index, const Tensor& in);

}  // namespace lockstep::cpu
