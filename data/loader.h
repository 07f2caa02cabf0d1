#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "lockstep/data/dataset.h"
#include "lockstep/data/sampler.h"
#include "lockstep/data/step.h"

namespace lockstep::data {

// Assembles the training steps [first, last) of a sampler in a thread of its own, a few ahead of
// the consumer. The dataset must outlive the loader; Dataset::get is called from that thread only.
class Loader {
 public:
  struct Options {
    int64_t first = 0;
    int64_t last = 0;
    int prefetch = 2;  // finished steps kept ready, at least 1
    Device device{};   // where their tensors go
  };

  Loader(const Dataset& dataset, Sampler sampler, Options options);
  ~Loader();  // at any moment: stops the thread after the step it is assembling
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // The next step in order, or nothing after the last one. Rethrows what the dataset threw, after
  // the steps that were assembled before it, and from then on every time.
  std::optional<Step> next();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lockstep::data
