#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "lockstep/engine/backend.h"
#include "lockstep/engine/capture.h"
#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::optim {

// Base of all optimizers: updates parameters from their gradients. Parameters whose grad() is
// undefined are skipped and keep their state, as in PyTorch.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  virtual void step() = 0;
  // Forgets all gradients; grad() becomes undefined, no memory is touched.
  void zero_grad();
  const std::vector<Tensor>& parameters() const { return parameters_; }

  // What a schedule may change of each parameter group, in place; until the groups change.
  struct Rates {
    double* lr;
    double* momentum;  // SGD's and RMSprop's, Adam's beta1; null where there is none
  };
  virtual std::vector<Rates> rates() = 0;

  // What the optimizer remembers of a parameter.
  struct ParameterState {
    Tensor parameter;
    int64_t steps = 0;     // updates so far, where the algorithm counts them
    NamedTensors buffers;  // named as in PyTorch; undefined before the first update
  };
  // Of every parameter, in order of the groups. The tensors are the optimizer's own.
  virtual std::vector<ParameterState> states() const { return {}; }
  // Remembers copies of `states` instead, which states() of an optimizer of this kind has said of
  // parameters of the same shapes in the same order; whose they are is not looked at. Throws
  // ValueError, and changes nothing, if the numbers, names, shapes or dtypes do not fit.
  virtual void load_states(const std::vector<ParameterState>& states);

 protected:
  Optimizer() = default;
  // Throws ValueError on an empty list, a repeated parameter or one that is not a leaf.
  void add_parameters(const std::vector<Tensor>& parameters);

  // An optimizer's memory of one parameter.
  struct State {
    int64_t steps = 0;
    Tensor buffers[3];
  };
  // By group and parameter, for load_states(); null where nothing can be loaded.
  virtual std::vector<std::vector<State>>* memory() { return nullptr; }
  // What a kernel needs for one parameter; its first `buffers` state tensors are made (zeros) when
  // missing.
  OptimizerSegment segment(const Tensor& parameter, State& state, int buffers);

  // Throws Error in a capture, whose replays would all be first steps.
  static void forbid_first_step();
  // Of a captured update: replays throw Error if this optimizer is gone, or the parameters or
  // states are in other memory than now; then, if it `counts`, the states' steps go on by one.
  using Updated = std::vector<std::pair<Tensor, State*>>;  // as the segments
  void watch_replays(DeviceGraph& graph, std::vector<OptimizerSegment> segments,
                     const Updated& updated, bool counts);

  // For states(): each parameter's, with the names of its buffers.
  template <typename Group>
  static std::vector<ParameterState> named_states(const std::vector<Group>& groups,
                                                  const std::vector<std::vector<State>>& states,
                                                  const std::vector<const char*>& names) {
    std::vector<ParameterState> all;
    for (size_t g = 0; g < groups.size(); ++g) {
      for (size_t i = 0; i < groups[g].parameters.size(); ++i) {
        ParameterState& one =
            all.emplace_back(ParameterState{groups[g].parameters[i], states[g][i].steps, {}});
        for (size_t b = 0; b < names.size(); ++b) {
          one.buffers.emplace_back(names[b], states[g][i].buffers[b]);
        }
      }
    }
    return all;
  }

 private:
  friend class Schedule;
  std::vector<Tensor> parameters_;
  std::vector<double> initial_lrs_;  // each group's before the first schedule; empty without any
  std::shared_ptr<const int> alive_ = std::make_shared<int>();  // for those who watch
};

// Parameters that share hyperparameters. Options may be changed between steps, by a schedule say.
template <typename Options>
struct ParamGroup {
  std::vector<Tensor> parameters;
  Options options;
};

}  // namespace lockstep::optim
