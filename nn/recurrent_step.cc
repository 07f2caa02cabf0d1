#include "lockstep/nn/recurrent_step.h"

#include "lockstep/engine/autograd/autocast.h"
#include "lockstep/engine/autograd/function.h"
#include "lockstep/engine/ops/ops.h"

namespace lockstep::nn {
namespace {

struct Pieces : autograd::Function<Pieces> {
  struct Cut {
    int64_t dim;
    Dims sizes;  // of a part
  };

  static std::vector<Tensor> forward(autograd::FunctionContext& context, const Tensor& x,
                                     int64_t count, int64_t dim) {
    const int64_t size = x.size(dim) / count;
    std::vector<Tensor> parts;
    for (int64_t i = 0; i < count; ++i) parts.push_back(x.narrow(dim, i * size, size));
    context.data = Cut{dim, parts.front().sizes()};
    context.set_materialize_grads(false);  // one tensor of zeros does for all
    return parts;
  }

  static std::vector<Tensor> backward(autograd::FunctionContext& context,
                                      const std::vector<Tensor>& gradients) {
    const auto& cut = std::any_cast<const Cut&>(context.data);
    Tensor zero;
    std::vector<Tensor> parts = gradients;
    for (const Tensor& g : gradients) {
      if (g.defined() && !zero.defined()) zero = zeros(cut.sizes, {g.dtype(), g.device()});
    }
    for (Tensor& g : parts) {
      if (!g.defined()) g = zero;
    }
    return {cat(parts, cut.dim)};
  }
};

// To autocast a cell is one op, which computes in the scope's dtype throughout.
RecurrentState in_autocast_dtype(const RecurrentState& state) {
  return {autograd::in_autocast_dtype(state.h), autograd::in_autocast_dtype(state.c)};
}

}  // namespace

std::vector<Tensor> pieces(const Tensor& x, int64_t count, int64_t dim) {
  return Pieces::apply(x, count, dim);
}

RecurrentState lstm_step(const Tensor& from_input, const RecurrentState& before,
                         const Tensor& weight_hh, const Tensor& bias_hh) {
  const RecurrentState state = in_autocast_dtype(before);
  const auto gates = pieces(from_input + linear(state.h, weight_hh, bias_hh), 4, 1);
  const Tensor kept = sigmoid(gates[1]) * state.c;
  const Tensor c = kept + sigmoid(gates[0]) * tanh(gates[2]);
  return {sigmoid(gates[3]) * tanh(c), c};
}

RecurrentState gru_step(const Tensor& from_input, const RecurrentState& before,
                        const Tensor& weight_hh, const Tensor& bias_hh) {
  const RecurrentState state = in_autocast_dtype(before);
  const auto x = pieces(from_input, 3, 1);
  const auto h = pieces(linear(state.h, weight_hh, bias_hh), 3, 1);
  const Tensor reset = sigmoid(x[0] + h[0]), update = sigmoid(x[1] + h[1]);
  const Tensor fresh = tanh(x[2] + reset * h[2]);
  return {fresh + update * (state.h - fresh), {}};
}

}  // namespace lockstep::nn
