#pragma once

#include "lockstep/nn/module.h"

// One step in time as a module; LSTM and GRU (recurrent.h) do whole sequences. Parameters start as
// U(-1/sqrt(hidden_size), 1/sqrt(hidden_size)).
namespace lockstep::nn {

// What both cells have: weight_ih (G H, input_size), weight_hh (G H, H), biases (G H), for the G
// gates of H features.
class RecurrentCell : public Module {
 public:
  struct Options {
    bool bias = true;
  };

  Tensor weight_ih, weight_hh, bias_ih, bias_hh;

 protected:
  RecurrentCell(const char* name, int64_t gates, int64_t input_size, int64_t hidden_size,
                Options options);

  // x W_ih^T + b_ih of x (N, input_size), checked.
  Tensor from_input(const Tensor& x) const;
  // (N, H) for the given state, or zeros for none; `index` names it in errors.
  Tensor state_or_zeros(const Tensor& state, const Tensor& x, int index) const;

 private:
  const char* name_;
  int64_t hidden_size_;
};

// Input (N, input_size), states (N, hidden_size), or all three without the N. States that are left
// out are zeros.
class LSTMCell : public RecurrentCell {
 public:
  struct Output {
    Tensor h, c;
  };

  LSTMCell(int64_t input_size, int64_t hidden_size, Options options)
      : RecurrentCell("LSTMCell", 4, input_size, hidden_size, options) {}
  LSTMCell(int64_t input_size, int64_t hidden_size)
      : LSTMCell(input_size, hidden_size, Options()) {}

  Output forward(const Tensor& x, const Tensor& h = {}, const Tensor& c = {});
  Output operator()(const Tensor& x, const Tensor& h = {}, const Tensor& c = {}) {
    return forward(x, h, c);
  }
};

// Input (N, input_size), state (N, hidden_size), or both without the N; returns the new state. A
// state that is left out is zeros.
class GRUCell : public RecurrentCell {
 public:
  GRUCell(int64_t input_size, int64_t hidden_size, Options options)
      : RecurrentCell("GRUCell", 3, input_size, hidden_size, options) {}
  GRUCell(int64_t input_size, int64_t hidden_size) : GRUCell(input_size, hidden_size, Options()) {}

  Tensor forward(const Tensor& x, const Tensor& h = {});
  Tensor operator()(const Tensor& x, const Tensor& h = {}) { return forward(x, h); }
};

}  // namespace lockstep::nn
