#include "lockstep/optim/grad_scaler.h"

#include <algorithm>
#include <cmath>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/reduce.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::optim {
namespace {

// The square of a finite float32 is a finite double; of float64 a zero multiple is looked at.
bool all_finite(const Tensor& gradient) {
  if (gradient.numel() == 0) return true;
  if (gradient.dtype() == DType::kFloat64) return sum(mul(gradient, 0.0)).item() == 0.0;
  const OptimizerSegment whole{
      nullptr, gradient.data_ptr(), {}, gradient.numel(), gradient.dtype()};
  return std::isfinite(backend_of(gradient).sum_of_squares({&whole, 1}));
}

}  // namespace

GradScaler::GradScaler(const LossScaleOptions& options, bool enabled)
    : scale_(enabled ? options : LossScaleOptions{}), enabled_(enabled) {}

Tensor GradScaler::scale(const Tensor& output) {
  if (!enabled_) return output;
  scaled_ = true;
  if (DeviceGraph* const graph = graph_in_capture()) return scale_captured(*graph, output);
  return mul(output, scale_.value());
}

void GradScaler::watch_replays(DeviceGraph& graph) const {
  graph.before_replay(
      [alive = std::weak_ptr<const int>(alive_.token)] {
        check<Error>(!alive.expired(), "[cuda graph] the captured step's GradScaler is gone");
      },
      nullptr);
}

// What a capture that has failed left behind counts for nothing.
void GradScaler::forget_failed_captures() {
  std::erase_if(optimizers_, [](const auto& entry) {
    return entry.second.captured && entry.second.skip.expired();
  });
}

// By a number on the device: the bits are those of one of the host's.
Tensor GradScaler::scale_captured(DeviceGraph& graph, const Tensor& output) const {
  if (size_of(output.dtype()) < 4) {
    forbid_in_capture("GradScaler::scale() of 16 bits", "scale the loss in float32");
  }
  watch_replays(graph);
  return mul(output, graph.value([this] { return static_cast<float>(scale_.value()); }));
}

std::vector<Tensor> GradScaler::scale(const std::vector<Tensor>& outputs) {
  std::vector<Tensor> all;
  for (const Tensor& output : outputs) all.push_back(scale(output));
  return all;
}

void GradScaler::check_scaled(const char* function) const {
  check<Error>(scaled_,
               "Attempted {} but _scale is None.  This may indicate your script did not use "
               "scaler.scale(loss or outputs) earlier in the iteration.",
               function);
}

void GradScaler::unscale_(const Optimizer& optimizer) {
  if (!enabled_) return;
  check_scaled("unscale_");
  forget_failed_captures();
  OptimizerState& state = optimizers_[&optimizer];
  check<Error>(state.stage != Stage::kUnscaled,
               "unscale_() has already been called on this optimizer since the last update().");
  check<Error>(state.stage != Stage::kStepped, "unscale_() is being called after step().");
  const autograd::NoGrad no_grad;
  if (DeviceGraph* const graph = graph_in_capture()) {
    unscale_captured(*graph, optimizer, state);
    return;
  }
  const auto inverse = static_cast<float>(1.0 / scale_.value());
  for (const Tensor& p : optimizer.parameters()) {
    const Tensor gradient = p.grad();
    if (!gradient.defined()) continue;
    check(gradient.dtype() != DType::kFloat16, "Attempting to unscale FP16 gradients.");
    state.checked = true;
    state.found_inf = !all_finite(gradient.contiguous()) || state.found_inf;
    if (inverse != 1.0f) gradient.mul_(inverse);
  }
  state.stage = Stage::kUnscaled;
}

// Zero times what is not finite is NaN.
void GradScaler::unscale_captured(DeviceGraph& graph, const Optimizer& optimizer,
                                  OptimizerState& state) const {
  watch_replays(graph);
  const Tensor inverse = graph.value([this] { return static_cast<float>(1.0 / scale_.value()); });
  Tensor zero;
  for (const Tensor& p : optimizer.parameters()) {
    const Tensor gradient = p.grad();
    if (!gradient.defined()) continue;
    check(gradient.dtype() != DType::kFloat16, "Attempting to unscale FP16 gradients.");
    const Tensor own = sum(mul(gradient, 0.0)).to(DType::kFloat32);
    zero = zero.defined() ? add(zero, own) : own;
    gradient.mul_(inverse);
  }
  state.stage = Stage::kUnscaled;
  if (!zero.defined()) return;
  state.checked = true;
  const auto skip = std::make_shared<DeviceGraph::Skip>();
  skip->flag = ne(zero, zero).to(DType::kFloat32);
  graph.after_replay([skip] {
    skip->skipped = true;  // if the wait finds an error, too
    skip->skipped = skip->flag.item() != 0.0;
  });
  // Steps and updates on the host would not hear of it.
  graph.at_end([captured = std::weak_ptr(skip), alive = std::weak_ptr<const int>(alive_.token),
                this, &optimizer] {
    if (alive.expired()) return;
    const auto now = optimizers_.find(&optimizer);
    check<Error>(now == optimizers_.end() || now->second.skip.lock() != captured.lock(),
                 "[cuda graph] GradScaler::unscale_() has been captured without step() and "
                 "update(): capture all three, or none of them");
  });
  state.captured = true;
  state.skip = skip;
}

bool GradScaler::step(Optimizer& optimizer) {
  if (!enabled_) {
    optimizer.step();
    return true;
  }
  check_scaled("step");
  forget_failed_captures();
  check<Error>(optimizers_[&optimizer].stage != Stage::kStepped,
               "step() has already been called since the last update().");
  if (optimizers_[&optimizer].stage == Stage::kReady) unscale_(optimizer);
  OptimizerState& state = optimizers_[&optimizer];
  check<Error>(state.checked, "No inf checks were recorded for this optimizer.");
  if (DeviceGraph* const graph = graph_in_capture()) {
    graph->skip_updates_if(state.skip.lock());
    optimizer.step();
    graph->skip_updates_if(nullptr);
  } else if (!state.found_inf) {
    optimizer.step();
  }
  state.stage = Stage::kStepped;
  return !state.found_inf;
}

void GradScaler::update() {
  if (!enabled_) return;
  check_scaled("update");
  forget_failed_captures();
  const auto any = [&](bool OptimizerState::*flag) {
    return std::any_of(optimizers_.begin(), optimizers_.end(),
                       [&](const auto& entry) { return entry.second.*flag; });
  };
  check<Error>(any(&OptimizerState::checked), "No inf checks were recorded prior to update.");
  if (DeviceGraph* const graph = graph_in_capture()) {
    update_captured(*graph);
  } else {
    scale_.update(any(&OptimizerState::found_inf));
  }
  optimizers_.clear();
}

void GradScaler::update_captured(DeviceGraph& graph) {
  watch_replays(graph);
  std::vector<std::shared_ptr<const DeviceGraph::Skip>> all;
  for (const auto& [optimizer, state] : optimizers_) {
    if (const auto skip = state.skip.lock()) all.push_back(skip);
  }
  graph.after_replay([this, all = std::move(all)] {
    scale_.update(std::any_of(all.begin(), all.end(), [](const auto& s) { return s->skipped; }));
  });
}

void GradScaler::update(double new_scale) {
  if (!enabled_) return;
  check_scaled("update");
  forbid_in_capture("GradScaler::update() to a given scale", "call it between the replays");
  scale_.set(new_scale);
  optimizers_.clear();
}

std::map<std::string, double> GradScaler::state_dict() const {
  if (!enabled_) return {};
  return {{"scale", scale_.value()},
          {"growth_factor", get_growth_factor()},
          {"backoff_factor", get_backoff_factor()},
          {"growth_interval", static_cast<double>(get_growth_interval())},
          {"_growth_tracker", static_cast<double>(scale_.growth_tracker())}};
}

void GradScaler::load_state_dict(const std::map<std::string, double>& state) {
  if (!enabled_) return;
  check<Error>(!state.empty(),
               "The source state dict is empty, possibly because it was saved from a disabled "
               "instance of GradScaler.");
  const auto value = [&](const char* key) {
    const auto at = state.find(key);
    check(at != state.end(), "[grad_scaler] the state dict has no \"{}\"", key);
    return at->second;
  };
  LossScale loaded({.init_scale = value("scale"),
                    .growth_factor = value("growth_factor"),
                    .backoff_factor = value("backoff_factor"),
                    .growth_interval = static_cast<int64_t>(value("growth_interval"))});
  loaded.set_growth_tracker(static_cast<int64_t>(value("_growth_tracker")));
  scale_ = loaded;
}

}  // namespace lockstep::optim
