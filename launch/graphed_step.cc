#include "lockstep/launch/graphed_step.h"

#include <algorithm>
#include <utility>

#include "lockstep/engine/tensor/check.h"
#include "lockstep/launch/job_state.h"
#include "lockstep/launch/log.h"

namespace lockstep::launch {
namespace {

constexpr int64_t kStepsBefore = 3;  // libraries start, and optimizers make their state

// Why a job's steps cannot be captured, whatever they do. Empty: they may.
std::string obstacle(const Job& job) {
  if (job.device().is_cpu()) return "CUDA graphs need --device cuda";
  if (job.world_size() > 1) return "the host issues what several ranks send each other";
  return {};
}

bool same_shape(const Tensor& a, const Tensor& b) {
  if (!a.defined() || !b.defined()) return a.defined() == b.defined();
  return a.sizes() == b.sizes() && a.dtype() == b.dtype() && a.device() == b.device();
}

void write(const Tensor& to, const Tensor& from) {
  if (to.defined()) to.copy_(from);
}

Tensor copy_of(const Tensor& t) { return t.defined() ? t.detach().clone() : t; }

}  // namespace

GraphedStep::GraphedStep(Job& job, std::function<void(data::Step&)> body)
    : body_(std::move(body)), device_(job.device()), captures_(job.options().cuda_graph) {
  job.state_->has_graphed_step = true;
  if (!captures_) return;
  const std::string why = obstacle(job);
  if (why.empty()) return;
  captures_ = false;
  if (job.rank() == 0) log::info(fmt::format("--cuda-graph has no effect: {}", why));
}

GraphedStep::~GraphedStep() = default;

void GraphedStep::operator()(data::Step& step) {
  if (captures_ && graph_ == nullptr && steps_ >= kStepsBefore) capture(step);
  if (graph_ != nullptr && fits(step)) {
    replay(step);
  } else {
    body_(step);
  }
  ++steps_;
}

void GraphedStep::reset() {
  graph_.reset();
  static_ = {};
  steps_ = 0;
}

void GraphedStep::capture(const data::Step& step) {
  static_ = {step.index, step.epoch, step.global_samples, {}, {}};
  for (const auto& m : step.micros) {
    static_.micros.push_back({copy_of(m.x), copy_of(m.y), m.index, m.samples});
  }
  auto graph = std::make_unique<cuda::CUDAGraph>();
  try {
    cuda::GraphCapture capture(*graph, device_);
    body_(static_);
    capture.end();
  } catch (const Error& error) {
    captures_ = false;
    log::warn(fmt::format("--cuda-graph has no effect: {}", error.what()));
    return;
  }
  graph_ = std::move(graph);
  log::info(fmt::format("from step {} on a step is one CUDA graph of {} kernels, copies and fills",
                        step.index, graph_->nodes()));
}

bool GraphedStep::fits(const data::Step& step) const {
  return step.global_samples == static_.global_samples &&
         std::equal(step.micros.begin(), step.micros.end(), static_.micros.begin(),
                    static_.micros.end(), [](const auto& a, const auto& b) {
                      return a.samples == b.samples && same_shape(a.x, b.x) && same_shape(a.y, b.y);
                    });
}

void GraphedStep::replay(data::Step& step) {
  static_.index = step.index;
  static_.epoch = step.epoch;
  for (size_t i = 0; i < step.micros.size(); ++i) {
    write(static_.micros[i].x, step.micros[i].x);
    write(static_.micros[i].y, step.micros[i].y);
    static_.micros[i].index = step.micros[i].index;
  }
  graph_->replay();
  step.report = std::move(static_.report);
}

}  // namespace lockstep::launch
