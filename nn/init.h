#pragma once

#include <string_view>

#include "lockstep/engine/tensor/tensor.h"

// Initialisers; they draw from the calling thread's generator (engine/tensor/random.h) and record
// nothing in the graph. A weight has at least 2 dimensions, (out, in, ...).
namespace lockstep::nn::init {

void uniform_(const Tensor& t, double from = 0.0, double to = 1.0);
void normal_(const Tensor& t, double mean = 0.0, double std = 1.0);
// N(mean, std^2) within [least, most], exactly: by the inverse of the distribution function.
void trunc_normal_(const Tensor& t, double mean = 0.0, double std = 1.0, double least = -2.0,
                   double most = 2.0);
void constant_(const Tensor& t, double value);
void ones_(const Tensor& t);
void zeros_(const Tensor& t);
// Ones on the diagonal of a matrix, zeros elsewhere.
void eye_(const Tensor& t);
// gain times a matrix with orthonormal rows or columns, whichever are fewer; of a weight of more
// dimensions as (out, the rest): Saxe, McClelland, Ganguli, ICLR 2014.
void orthogonal_(const Tensor& weight, double gain = 1.0);

// Inputs of one output: the product of all sizes but the first.
int64_t fan_in(const Tensor& weight);
// Outputs of one input: the product of all sizes but the second.
int64_t fan_out(const Tensor& weight);

enum class FanMode : uint8_t { kFanIn, kFanOut };

// The factor that keeps the variance through a nonlinearity: 1 for "linear", "sigmoid" and the
// convolutions ("conv1d", "conv_transpose2d", ...), 5/3 for "tanh", 3/4 for "selu", sqrt(2) for
// "relu", sqrt(2 / (1 + a^2)) for "leaky_relu" of slope a = `parameter`, which only that one reads.
double calculate_gain(std::string_view nonlinearity, double parameter = 0.01);

// U(-b, b) with b = gain sqrt(3 / fan): He, Zhang, Ren, Sun, "Delving deep into rectifiers", ICCV
// 2015. `a` is the slope of a leaky ReLU.
void kaiming_uniform_(const Tensor& weight, double a = 0.0, FanMode mode = FanMode::kFanIn,
                      std::string_view nonlinearity = "leaky_relu");
// N(0, s^2) with s = gain / sqrt(fan).
void kaiming_normal_(const Tensor& weight, double a = 0.0, FanMode mode = FanMode::kFanIn,
                     std::string_view nonlinearity = "leaky_relu");
// U(-b, b) with b = gain sqrt(6 / (fan_in + fan_out)): Glorot, Bengio, AISTATS 2010.
void xavier_uniform_(const Tensor& weight, double gain = 1.0);
// N(0, s^2) with s = gain sqrt(2 / (fan_in + fan_out)).
void xavier_normal_(const Tensor& weight, double gain = 1.0);

}  // namespace lockstep::nn::init
