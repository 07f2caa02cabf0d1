#include "lockstep/data/loader.h"

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "lockstep/engine/capture.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::data {

struct Loader::State {
  State(const Dataset& dataset, Sampler sampler, Options options)
      : dataset_(dataset), sampler_(std::move(sampler)), options_(options) {}

  void run() {
    try {
      for (int64_t index = options_.first; index < options_.last; ++index) {
        Step step = assemble(index);
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stop_ || ready_.size() < capacity(); });
        if (stop_) return;
        ready_.push_back(std::move(step));
        changed_.notify_all();
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      error_ = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    finished_ = true;
    changed_.notify_all();
  }

  std::optional<Step> next() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !ready_.empty() || finished_; });
    if (!ready_.empty()) {
      Step step = std::move(ready_.front());
      ready_.pop_front();
      changed_.notify_all();
      return step;
    }
    if (error_) std::rethrow_exception(error_);
    return std::nullopt;
  }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
      changed_.notify_all();
    }
    if (thread_.joinable()) thread_.join();
  }

  std::thread thread_;

 private:
  size_t capacity() const { return static_cast<size_t>(options_.prefetch); }

  Tensor moved(const Tensor& t) const {
    if (!t.defined()) return t;
    std::optional<NoCaptures> wait;  // of the training, which would capture what this thread does
    if (!options_.device.is_cpu()) wait.emplace();
    return t.to(options_.device);
  }

  Step assemble(int64_t index) {
    auto plan = sampler_.plan(index);
    Step step;
    step.index = plan.index;
    step.epoch = plan.epoch;
    step.global_samples = plan.global_samples;
    step.micros.reserve(plan.micros.size());
    for (auto& micro : plan.micros) {
      Batch batch = dataset_.get(micro.samples);
      step.micros.push_back({moved(batch.x), moved(batch.y), micro.index, batch.samples});
    }
    return step;
  }

  const Dataset& dataset_;
  Sampler sampler_;
  const Options options_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Step> ready_;
  std::exception_ptr error_;
  bool finished_ = false;
  bool stop_ = false;
};

Loader::Loader(const Dataset& dataset, Sampler sampler, Options options) {
  check(options.first >= 0 && options.first <= options.last && options.prefetch >= 1,
        "[loader] steps [{}, {}) with {} prefetched: expected 0 <= first <= last and prefetch >= 1",
        options.first, options.last, options.prefetch);
  check(sampler.options().samples == dataset.size(),
        "[loader] the sampler draws from {} samples, but the dataset has {}",
        sampler.options().samples, dataset.size());
  state_ = std::make_unique<State>(dataset, std::move(sampler), options);
  state_->thread_ = std::thread([state = state_.get()] { state->run(); });
}

Loader::~Loader() { state_->stop(); }

std::optional<Step> Loader::next() { return state_->next(); }

}  // namespace lockstep::data
