#pragma once

#include <span>

#include "lockstep/engine/backend.h"

// Reductions and indexing of the CPU backend.
namespace lockstep::cpu {

void sum_dims(const Tensor& out, const Tensor& in);
void extreme_along(const Tensor& values, const Tensor& indices, const Tensor& in, int dim,
                   bool largest);
void gather_slices(const Tensor& out, const Tensor& in, int dim, const Tensor& index);
void add_slices(const Tensor& out, int dim, const Tensor& index, const Tensor& in);

}  // namespace lockstep::cpu
