#pragma once

#include <vector>

#include "lockstep/nn/module.h"

namespace lockstep::nn {

struct RecurrentState;

// What LSTM and GRU have: layers of recurrence over sequences (L, N, input_size), with batch_first
// (N, L, input_size), or a single one (L, input_size). D is 2 if bidirectional, else 1.
class Recurrent : public Module {
 public:
  struct Options {
    int64_t num_layers = 1;
    bool bias = true;
    bool batch_first = false;
    double dropout = 0.0;  // of every layer's output but the last's, while training
    bool bidirectional = false;
  };
  // For G gates of H features: weight_ih (G H, input_size), above the first layer (G H, D H),
  // weight_hh (G H, H), biases (G H) or undefined; as U(-1/sqrt(H), 1/sqrt(H)) at first.
  struct Weights {
    Tensor weight_ih, weight_hh, bias_ih, bias_hh;
  };

  // Those named weight_ih_l0 and so on; with `reverse` weight_ih_l0_reverse.
  const Weights& weights(int64_t layer, bool reverse = false) const;

 protected:
  Recurrent(const char* name, int64_t gates, int64_t input_size, int64_t hidden_size,
            Options options);

  // Runs all layers. `states` holds h and, for an LSTM, c: (layers D, N, H) or undefined for zeros
  // before, the last ones after. Returns (L, N, D H), with batch_first (N, L, D H), or (L, D H).
  Tensor run(const Tensor& input, std::vector<Tensor>& states) const;

 private:
  virtual RecurrentState step(const Tensor& from_input, const RecurrentState& state,
                              const Weights& weights) const = 0;
  // One direction of one layer over x (L N, features), from `state`, which becomes the last one;
  // returns (L, N, H).
  Tensor run_layer(const Tensor& x, int64_t length, bool reverse, const Weights& weights,
                   RecurrentState& state) const;
  void check_arguments(const Tensor& input, const std::vector<Tensor>& states) const;

  const char* name_;
  int64_t input_size_, hidden_size_;
  Options options_;
  int64_t directions_;
  std::vector<Weights> weights_;  // layer by layer, forward before reverse
};

// Initial states and the last ones are (layers D, N, H), for a single sequence (layers D, H).
// States that are left out are zeros.
class LSTM : public Recurrent {
 public:
  struct Output {
    Tensor output, h_n, c_n;
  };

  LSTM(int64_t input_size, int64_t hidden_size, Options options)
      : Recurrent("LSTM", 4, input_size, hidden_size, options) {}
  LSTM(int64_t input_size, int64_t hidden_size) : LSTM(input_size, hidden_size, Options()) {}

  Output forward(const Tensor& input, const Tensor& h_0 = {}, const Tensor& c_0 = {});
  Output operator()(const Tensor& input, const Tensor& h_0 = {}, const Tensor& c_0 = {}) {
    return forward(input, h_0, c_0);
  }

 private:
  RecurrentState step(const Tensor& from_input, const RecurrentState& state,
                      const Weights& weights) const override;
};

class GRU : public Recurrent {
 public:
  struct Output {
    Tensor output, h_n;
  };

  GRU(int64_t input_size, int64_t hidden_size, Options options)
      : Recurrent("GRU", 3, input_size, hidden_size, options) {}
  GRU(int64_t input_size, int64_t hidden_size) : GRU(input_size, hidden_size, Options()) {}

  Output forward(const Tensor& input, const Tensor& h_0 = {});
  Output operator()(const Tensor& input, const Tensor& h_0 = {}) { return forward(input, h_0); }

 private:
  RecurrentState step(const Tensor& from_input, const RecurrentState& state,
                      const Weights& weights) const override;
};

}  // namespace lockstep::nn
