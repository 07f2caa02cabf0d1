#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/optim/loss_scale.h"
#include "lockstep/optim/optimizer.h"

namespace lockstep::optim {

// Loss scaling for training in float16, as torch.cuda.amp.GradScaler:
//
//   optim::GradScaler scaler;
//   for (...) {
//     optimizer.zero_grad();
//     Tensor loss;
//     {
//       const autograd::Autocast scope(DType::kFloat16);
//       loss = nn::cross_entropy(net.forward(x), y);
//     }
//     scaler.scale(loss).backward();
//     scaler.unscale_(optimizer);  // only where gradients are looked at or clipped before the step
//     scaler.step(optimizer);      // does nothing if a gradient is NaN or infinite
//     scaler.update();
//   }
//
// Several losses and optimizers may share one: scale() each loss, step() each optimizer, update()
// once. DataParallel with precision float16 scales by itself and needs none of this.
//
// Wrong orders throw Error with PyTorch's texts.
class GradScaler {
 public:
  // Disabled, step() calls the optimizer's, and everything else does nothing. Throws ValueError on
  // factors that would not grow or not back off.
  explicit GradScaler(const LossScaleOptions& options = {}, bool enabled = true);

  // In a capture (engine/cuda_graph.h) all of an iteration's calls are made; a replay takes the
  // scale as it is then, skips the step by itself, waits, and adapts the scale. 16-bit outputs
  // cannot be captured.
  Tensor scale(const Tensor& output);
  std::vector<Tensor> scale(const std::vector<Tensor>& outputs);

  // Divides the gradients of the optimizer's parameters by the scale, and looks for what is not
  // finite among them; once between two updates, after the last backward. Waits for the device.
  // Throws ValueError on gradients of float16: parameters are float32.
  void unscale_(const Optimizer& optimizer);
  // unscale_() if that has not happened; then the optimizer's step(), unless something was not
  // finite. Returns whether the optimizer made its step; true in a capture.
  bool step(Optimizer& optimizer);
  // After the last step() of an iteration: adapts the scale to what unscale_() has found.
  void update();
  void update(double new_scale);

  double get_scale() const { return enabled_ ? scale_.value() : 1.0; }
  double get_growth_factor() const { return scale_.options().growth_factor; }
  void set_growth_factor(double factor) { scale_.set_growth_factor(factor); }
  double get_backoff_factor() const { return scale_.options().backoff_factor; }
  void set_backoff_factor(double factor) { scale_.set_backoff_factor(factor); }
  int64_t get_growth_interval() const { return scale_.options().growth_interval; }
  void set_growth_interval(int64_t steps) { scale_.set_growth_interval(steps); }
  bool is_enabled() const { return enabled_; }

  // PyTorch's keys: scale, growth_factor, backoff_factor, growth_interval, _growth_tracker. Empty
  // if disabled.
  std::map<std::string, double> state_dict() const;
  // Does nothing if disabled. Throws Error on an empty state, ValueError naming a missing key.
  void load_state_dict(const std::map<std::string, double>& state);

 private:
  enum class Stage : uint8_t { kReady, kUnscaled, kStepped };
  struct OptimizerState {
    Stage stage = Stage::kReady;
    bool checked = false;  // there were gradients to look at
    bool found_inf = false;
    // Of a step that is being captured. Gone with its graph, if that has failed.
    bool captured = false;
    std::weak_ptr<DeviceGraph::Skip> skip{};
  };
  // Of one object only: copies have their own.
  struct Alive {
    std::shared_ptr<const int> token = std::make_shared<int>();
    Alive() = default;
    ~Alive() = default;
    Alive(const Alive&) : Alive() {}
    // NOLINTNEXTLINE(bugprone-unhandled-self-assignment): every assignment does nothing
    Alive& operator=(const Alive&) { return *this; }
  };
  void watch_replays(DeviceGraph& graph) const;
  Tensor scale_captured(DeviceGraph& graph, const Tensor& output) const;
  void unscale_captured(DeviceGraph& graph, const Optimizer& optimizer,
                        OptimizerState& state) const;
  void forget_failed_captures();
  void update_captured(DeviceGraph& graph);
  void check_scaled(const char* function) const;

  LossScale scale_;
  bool enabled_;
  bool scaled_ = false;                                    // scale() has been called
  std::map<const Optimizer*, OptimizerState> optimizers_;  // since the last update
  Alive alive_;
};

}  // namespace lockstep::optim
