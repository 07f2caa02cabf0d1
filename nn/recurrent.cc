#include "lockstep/nn/recurrent.h"

#include <cmath>
#include <string>

#include "lockstep/engine/ops/dropout.h"
#include "lockstep/engine/ops/join.h"
#include "lockstep/engine/ops/linear.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/nn/init.h"
#include "lockstep/nn/recurrent_step.h"

namespace lockstep::nn {

Recurrent::Recurrent(const char* name, int64_t gates, int64_t input_size, int64_t hidden_size,
                     Options options)
    : name_(name),
      input_size_(input_size),
      hidden_size_(hidden_size),
      options_(options),
      directions_(options.bidirectional ? 2 : 1) {
  check(input_size >= 0, "[{}] input_size {} must not be negative", name, input_size);
  check(hidden_size > 0, "hidden_size must be greater than zero: got {}", hidden_size);
  check(options.num_layers > 0, "num_layers must be greater than zero: got {}", options.num_layers);
  check(
      options.dropout >= 0 && options.dropout <= 1,
      "dropout should be a number in range [0, 1] representing the probability of an element being "
      "zeroed: got {}",
      options.dropout);
  const double bound = 1 / std::sqrt(static_cast<double>(hidden_size));
  for (int64_t layer = 0; layer < options.num_layers; ++layer) {
    for (int64_t direction = 0; direction < directions_; ++direction) {
      const std::string suffix = fmt::format("_l{}{}", layer, direction == 1 ? "_reverse" : "");
      const auto uniform = [&](const char* parameter, const Dims& sizes) {
        const Tensor t = empty(sizes);
        init::uniform_(t, -bound, bound);
        return register_parameter(parameter + suffix, t);
      };
      Weights w;
      w.weight_ih = uniform(
          "weight_ih", {gates * hidden_size, layer == 0 ? input_size : directions_ * hidden_size});
      w.weight_hh = uniform("weight_hh", {gates * hidden_size, hidden_size});
      if (options.bias) {
        w.bias_ih = uniform("bias_ih", {gates * hidden_size});
        w.bias_hh = uniform("bias_hh", {gates * hidden_size});
      }
      weights_.push_back(w);
    }
  }
}

const Recurrent::Weights& Recurrent::weights(int64_t layer, bool reverse) const {
  check(layer >= 0 && layer < options_.num_layers && (!reverse || options_.bidirectional),
        "[{}] no weights for layer {}{} of {}", name_, layer, reverse ? " in reverse" : "",
        options_.num_layers);
  return weights_[static_cast<size_t>(layer * directions_ + (reverse ? 1 : 0))];
}

void Recurrent::check_arguments(const Tensor& input, const std::vector<Tensor>& states) const {
  check(input.dim() == 2 || input.dim() == 3, "{}: Expected input to be 2D or 3D, got {}D instead",
        name_, input.dim());
  check(input.size(-1) == input_size_,
        "input.size(-1) must be equal to input_size. Expected {}, got {}", input_size_,
        input.size(-1));
  const bool single = input.dim() == 2;
  check(input.size(options_.batch_first && !single ? 1 : 0) > 0,
        "Expected sequence length to be larger than 0 in RNN");
  Dims wanted = {options_.num_layers * directions_, hidden_size_};
  if (!single) wanted.insert(1, input.size(options_.batch_first ? 0 : 1));
  for (size_t i = 0; i < states.size(); ++i) {
    if (!states[i].defined()) continue;
    const std::string which = states.size() > 1 ? fmt::format("[{}]", i) : "";
    check(states[i].sizes() == wanted, "Expected hidden{} size {}, got {}", which, wanted.str(),
          states[i].sizes().str());
  }
}

Tensor Recurrent::run_layer(const Tensor& x, int64_t length, bool reverse, const Weights& w,
                            RecurrentState& state) const {
  const auto from_input = pieces(linear(x, w.weight_ih, w.bias_ih), length, 0);
  std::vector<Tensor> outputs(from_input.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    const size_t t = reverse ? outputs.size() - 1 - i : i;
    state = step(from_input[t], state, w);
    outputs[t] = state.h;
  }
  return stack(outputs);
}

Tensor Recurrent::run(const Tensor& input, std::vector<Tensor>& states) const {
  check_arguments(input, states);
  const bool single = input.dim() == 2;
  Tensor x = single ? input.unsqueeze(1) : options_.batch_first ? input.transpose(0, 1) : input;
  const int64_t length = x.size(0), samples = x.size(1), runs = options_.num_layers * directions_;
  for (Tensor& s : states) {
    if (!s.defined()) {
      s = zeros({runs, samples, hidden_size_}, {input.dtype(), input.device()});
    } else if (single) {
      s = s.unsqueeze(1);
    }
  }

  std::vector<std::vector<Tensor>> last(states.size());
  for (int64_t layer = 0; layer < options_.num_layers; ++layer) {
    const Tensor rows = x.reshape({length * samples, x.size(2)});
    std::vector<Tensor> outputs;
    for (int64_t direction = 0; direction < directions_; ++direction) {
      const int64_t run = layer * directions_ + direction;
      RecurrentState state{states[0].select(0, run),
                           states.size() > 1 ? states[1].select(0, run) : Tensor()};
      outputs.push_back(
          run_layer(rows, length, direction == 1, weights_[static_cast<size_t>(run)], state));
      last[0].push_back(state.h);
      if (states.size() > 1) last[1].push_back(state.c);
    }
    x = outputs.size() == 1 ? outputs[0] : cat(outputs, 2);
    if (layer + 1 < options_.num_layers) x = dropout(x, options_.dropout, is_training());
  }

  for (size_t i = 0; i < states.size(); ++i) {
    states[i] = stack(last[i]);
    if (single) states[i] = states[i].squeeze(1);
  }
  if (single) return x.squeeze(1);
  return options_.batch_first ? x.transpose(0, 1) : x;
}

RecurrentState LSTM::step(const Tensor& from_input, const RecurrentState& state,
                          const Weights& w) const {
  return lstm_step(from_input, state, w.weight_hh, w.bias_hh);
}

LSTM::Output LSTM::forward(const Tensor& input, const Tensor& h_0, const Tensor& c_0) {
  std::vector<Tensor> states = {h_0, c_0};
  const Tensor output = run(input, states);
  return {output, states[0], states[1]};
}

RecurrentState GRU::step(const Tensor& from_input, const RecurrentState& state,
                         const Weights& w) const {
  return gru_step(from_input, state, w.weight_hh, w.bias_hh);
}

GRU::Output GRU::forward(const Tensor& input, const Tensor& h_0) {
  std::vector<Tensor> states = {h_0};
  const Tensor output = run(input, states);
  return {output, states[0]};
}

}  // namespace lockstep::nn
