#pragma once

#include "lockstep/engine/tensor/tensor.h"

// Initialisers; they draw from the calling thread's generator (engine/tensor/random.h).
namespace lockstep::nn::init {

void uniform_(const Tensor& t, double from, double to);
void normal_(const Tensor& t, double mean = 0.0, double std = 1.0);
void constant_(const Tensor& t, double value);

// Inputs of one output: the product of all sizes but the first of a weight (out, in, ...).
int64_t fan_in(const Tensor& weight);

// U(-b, b) with b = sqrt(6 / ((1 + a^2) fan_in)): He, Zhang, Ren, Sun, "Delving deep into
// rectifiers", ICCV 2015, for a leaky ReLU of slope a.
void kaiming_uniform_(const Tensor& weight, double a = 0.0);
// N(0, s^2) with s = sqrt(2 / ((1 + a^2) fan_in)).
void kaiming_normal_(const Tensor& weight, double a = 0.0);
// U(-b, b) with b = gain sqrt(6 / (fan_in + fan_out)): Glorot, Bengio, AISTATS 2010.
void xavier_uniform_(const Tensor& weight, double gain = 1.0);

}  // namespace lockstep::nn::init
