#include "lockstep/engine/autograd/checkpoint.h"

#include <optional>

#include "lockstep/engine/autograd/autocast.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/autograd/saved_tensor.h"
#include "lockstep/engine/autograd/saved_tensor_hooks.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/random.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep::autograd {
namespace {

// Puts this thread's generator back where it was.
struct KeepRandomState {
  KeepRandomState() = default;
  ~KeepRandomState() { set_random_state(before); }
  KeepRandomState(const KeepRandomState&) = delete;
  KeepRandomState& operator=(const KeepRandomState&) = delete;
  RandomState before = random_state();
};

// What one checkpointed call needs to run again. The packed form of its i-th saved tensor is i.
//
// The inputs are saved tensors: a change in place is noticed, and those of a call within another
// checkpointed function are that one's to recompute.
struct Replay {
  struct Input {
    SavedTensor tensor;
    bool requires_grad = false;
  };
  CheckpointedFunction function;
  std::vector<Input> inputs;
  RandomState random;
  DType precision = DType::kFloat32;           // of autocast, float32 where it was off
  size_t saved = 0;                            // tensors that the first run saved
  std::vector<std::pair<DType, Dims>> shapes;  // of those
  std::optional<std::vector<Tensor>>
      again;  // what the second run saved; entries go as they are used

  void run() {
    std::vector<Tensor> tensors;
    std::vector<Tensor> own;
    for (const Input& input : inputs) {
      const Tensor t = input.tensor.unpack(nullptr);
      own.push_back(t.defined() ? t.detach() : t);
      if (input.requires_grad) own.back().requires_grad_();
    }
    {
      const KeepRandomState keep;
      set_random_state(random);
      const EnableGrad enable;
      const Autocast autocast(precision);
      const SavedTensorHooks hooks(
          [&](const Tensor& t) {
            tensors.push_back(t);
            return std::any();
          },
          [](const std::any&) -> Tensor {
            fail<Error>("[checkpoint] backward inside the checkpointed function is not supported");
          });
      function(own);
    }
    check<Error>(tensors.size() == saved,
                 "[checkpoint] the function saved {} tensors when it ran for backward and {} in "
                 "forward; it must compute the same thing both times",
                 tensors.size(), saved);
    for (size_t i = 0; i < saved; ++i) {
      check<Error>(tensors[i].dtype() == shapes[i].first && tensors[i].sizes() == shapes[i].second,
                   "[checkpoint] saved tensor {} was {} {} in forward and is {} {} in backward", i,
                   name_of(shapes[i].first), shapes[i].second.str(), name_of(tensors[i].dtype()),
                   tensors[i].sizes().str());
    }
    again = std::move(tensors);
  }

  Tensor take(size_t i) {
    if (!again || !(*again)[i].defined()) run();
    return std::exchange((*again)[i], Tensor());
  }
};

}  // namespace

Tensor checkpoint(const CheckpointedFunction& function, const std::vector<Tensor>& inputs) {
  if (!grad_enabled()) return function(inputs);
  const auto replay = std::make_shared<Replay>();
  replay->function = function;
  for (const Tensor& input : inputs) {
    replay->inputs.push_back({SavedTensor(input), input.requires_grad()});
  }
  replay->random = random_state();
  if (autocast_enabled()) replay->precision = autocast_dtype();
  const SavedTensorHooks hooks(
      [replay](const Tensor& t) {
        replay->shapes.emplace_back(t.dtype(), t.sizes());
        return std::any(replay->saved++);
      },
      [replay](const std::any& index) { return replay->take(std::any_cast<size_t>(index)); });
  return function(inputs);
}

}  // namespace lockstep::autograd
