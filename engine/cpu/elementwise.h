#pragma once

#include "lockstep/engine/backend.h"

// Kernels of the CPU backend that visit elements one by one.
namespace lockstep::cpu {

void run_pointwise(PointwiseOp op, const PointwiseCall& call);
void copy_strided(const Tensor& out, const Tensor& in);
void fill_strided(const Tensor& out, Scalar value);
void fill_random(const Tensor& out, RandomKind kind, double p, double q, const RandomKey& key);

}  // namespace lockstep::cpu
