#pragma once

#include <vector>

#include "lockstep/engine/tensor/tensor.h"

// Internal: one step in time of the recurrent modules. N samples, H hidden features.
namespace lockstep::nn {

// x cut into `count` equal parts along `dim`: views, whose gradients come together in one node
// instead of one tensor of x's size each.
std::vector<Tensor> pieces(const Tensor& x, int64_t count, int64_t dim);

struct RecurrentState {
  Tensor h, c;  // (N, H); a GRU has no c
};

// Hochreiter, Schmidhuber, "Long short-term memory", 1997, with forget gates. from_input (N, 4 H)
// is x W_ih^T + b_ih; the rows of the weights are the input, forget, cell and output gates.
RecurrentState lstm_step(const Tensor& from_input, const RecurrentState& state,
                         const Tensor& weight_hh, const Tensor& bias_hh);

// Cho et al., "Learning phrase representations", 2014, with the reset gate after the product.
// from_input (N, 3 H); the rows of the weights are the reset, update and new gates.
RecurrentState gru_step(const Tensor& from_input, const RecurrentState& state,
                        const Tensor& weight_hh, const Tensor& bias_hh);

}  // namespace lockstep::nn
