#include "lockstep/nn/recurrent_cell.h"

#include <cmath>

#include "lockstep/engine/ops/linear.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/nn/init.h"
#include "lockstep/nn/recurrent_step.h"

namespace lockstep::nn {

RecurrentCell::RecurrentCell(const char* name, int64_t gates, int64_t input_size,
                             int64_t hidden_size, Options options)
    : name_(name), hidden_size_(hidden_size) {
  check(input_size >= 0 && hidden_size > 0, "[{}] {} inputs and {} hidden features", name,
        input_size, hidden_size);
  const double bound = 1 / std::sqrt(static_cast<double>(hidden_size));
  const auto uniform = [&](const char* parameter, const Dims& sizes) {
    const Tensor t = empty(sizes);
    init::uniform_(t, -bound, bound);
    return register_parameter(parameter, t);
  };
  weight_ih = uniform("weight_ih", {gates * hidden_size, input_size});
  weight_hh = uniform("weight_hh", {gates * hidden_size, hidden_size});
  if (!options.bias) return;
  bias_ih = uniform("bias_ih", {gates * hidden_size});
  bias_hh = uniform("bias_hh", {gates * hidden_size});
}

Tensor RecurrentCell::from_input(const Tensor& x) const {
  check(x.dim() == 1 || x.dim() == 2, "{}: Expected input to be 1D or 2D, got {}D instead", name_,
        x.dim());
  check(x.size(-1) == weight_ih.size(1), "input has inconsistent input_size: got {} expected {}",
        x.size(-1), weight_ih.size(1));
  return linear(x.dim() == 1 ? x.unsqueeze(0) : x, weight_ih, bias_ih);
}

Tensor RecurrentCell::state_or_zeros(const Tensor& state, const Tensor& x, int index) const {
  const int64_t samples = x.dim() == 1 ? 1 : x.size(0);
  if (!state.defined()) return zeros({samples, hidden_size_}, {x.dtype(), x.device()});
  check(state.dim() == x.dim(), "{}: Expected hidden{} to be {}D as the input, got {}D instead",
        name_, index, x.dim(), state.dim());
  check(state.size(-1) == hidden_size_,
        "hidden{} has inconsistent hidden_size: got {}, expected {}", index, state.size(-1),
        hidden_size_);
  check(x.dim() == 1 || state.size(0) == samples,
        "Input batch size {} doesn't match hidden{} batch size {}", samples, index, state.size(0));
  return x.dim() == 1 ? state.unsqueeze(0) : state;
}

LSTMCell::Output LSTMCell::forward(const Tensor& x, const Tensor& h, const Tensor& c) {
  const Tensor gates = from_input(x);
  const RecurrentState next =
      lstm_step(gates, {state_or_zeros(h, x, 0), state_or_zeros(c, x, 1)}, weight_hh, bias_hh);
  if (x.dim() == 1) return {next.h.squeeze(0), next.c.squeeze(0)};
  return {next.h, next.c};
}

Tensor GRUCell::forward(const Tensor& x, const Tensor& h) {
  const Tensor gates = from_input(x);
  const Tensor next = gru_step(gates, {state_or_zeros(h, x, 0), {}}, weight_hh, bias_hh).h;
  return x.dim() == 1 ? next.squeeze(0) : next;
}

}  // namespace lockstep::nn
