#include "lockstep/data/loader.h"

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/tensor/error.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::data {
namespace {

// Batches whose x and y hold the samples' indices; counts calls and can fail or be slow.
class Echo : public Dataset {
 public:
  explicit Echo(int64_t size) : size_(size) {}

  int64_t size() const override { return size_; }
  Batch get(std::span<const int64_t> indices) const override {
    if (++calls == fail_at) throw std::out_of_range("call " + std::to_string(fail_at));
    std::this_thread::sleep_for(delay);
    const auto count = static_cast<int64_t>(indices.size());
    const Tensor x = from_span<int64_t>(indices, {count});
    return {x, x, count};
  }

  mutable std::atomic<int> calls{0};
  int fail_at = -1;
  std::chrono::milliseconds delay{0};

 private:
  int64_t size_;
};

Sampler sampler_for(const Dataset& dataset, int64_t accumulate = 1) {
  return Sampler({.samples = dataset.size(),
                  .global_batch = 10,
                  .rank = 0,
                  .world_size = 1,
                  .accumulate = accumulate,
                  .seed = 4});
}

std::vector<int64_t> samples_of(const MicroBatch& micro) {
  const auto* values = micro.x.data<int64_t>();
  return {values, values + micro.x.numel()};
}

TEST(Loader, YieldsThePlannedStepsInOrder) {
  const Echo dataset(35);  // three steps an epoch
  Loader loader(dataset, sampler_for(dataset, 3), {.first = 2, .last = 8});
  auto sampler = sampler_for(dataset, 3);
  for (int64_t index = 2; index < 8; ++index) {
    auto step = loader.next();
    ASSERT_TRUE(step.has_value());
    const auto plan = sampler.plan(index);
    EXPECT_EQ(step->index, index);
    EXPECT_EQ(step->epoch, index / 3);
    EXPECT_EQ(step->global_samples, 10);
    EXPECT_FALSE(step->report.has_loss);
    ASSERT_EQ(step->micros.size(), 3u);
    for (size_t k = 0; k < 3; ++k) {
      EXPECT_EQ(step->micros[k].index, static_cast<int64_t>(k));
      EXPECT_EQ(samples_of(step->micros[k]), plan.micros[k].samples);
      EXPECT_EQ(step->micros[k].size(), static_cast<int64_t>(plan.micros[k].samples.size()));
    }
  }
  EXPECT_FALSE(loader.next().has_value());
  EXPECT_FALSE(loader.next().has_value());
}

TEST(Loader, SamplesNeedNoTargets) {
  class Unlabelled : public Echo {
   public:
    using Echo::Echo;
    Batch get(std::span<const int64_t> indices) const override {
      Batch batch = Echo::get(indices);
      batch.y = Tensor();
      return batch;
    }
  };
  const Unlabelled dataset(20);
  Loader loader(dataset, sampler_for(dataset), {.first = 0, .last = 1});
  const auto step = loader.next();
  ASSERT_TRUE(step.has_value());
  EXPECT_EQ(step->micros[0].x.numel(), 10);
  EXPECT_FALSE(step->micros[0].y.defined());
}

TEST(Loader, NothingToDo) {
  const Echo dataset(20);
  Loader loader(dataset, sampler_for(dataset), {.first = 5, .last = 5});
  EXPECT_FALSE(loader.next().has_value());
  EXPECT_EQ(dataset.calls, 0);
}

TEST(Loader, RunsAheadAsFarAsAllowed) {
  const Echo dataset(1000);
  Loader loader(dataset, sampler_for(dataset), {.first = 0, .last = 100, .prefetch = 3});
  const auto settle = [&] {
    int seen = -1;
    while (seen != dataset.calls) {
      seen = dataset.calls;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    return seen;
  };
  EXPECT_EQ(settle(), 4);  // three kept ready, one in hand
  loader.next();
  EXPECT_EQ(settle(), 5);
}

TEST(Loader, ErrorsArriveAfterTheStepsBeforeThem) {
  Echo dataset(100);
  dataset.fail_at = 4;
  Loader loader(dataset, sampler_for(dataset), {.first = 0, .last = 10});
  for (int i = 0; i < 3; ++i) EXPECT_EQ(loader.next()->index, i);
  for (int i = 0; i < 2; ++i) {
    try {
      loader.next();
      FAIL() << "nothing was thrown";
    } catch (const std::out_of_range& error) {  // the type survives
      EXPECT_STREQ(error.what(), "call 4");
    }
  }
}

TEST(Loader, CanBeDestroyedAtAnyMoment) {
  for (int taken = 0; taken < 6; ++taken) {
    for (const int prefetch : {1, 2, 50}) {
      const Echo dataset(1000);
      Loader loader(dataset, sampler_for(dataset), {.first = 0, .last = 100, .prefetch = prefetch});
      for (int i = 0; i < taken; ++i) ASSERT_EQ(loader.next()->index, i);
    }
  }
}

TEST(Loader, EndsWhileUnwinding) {
  Echo dataset(1000);
  dataset.delay = std::chrono::milliseconds(5);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THROW(
      {
        Loader loader(dataset, sampler_for(dataset), {.first = 0, .last = 100});
        loader.next();
        throw std::runtime_error("training failed");
      },
      std::runtime_error);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
  EXPECT_LE(dataset.calls, 5);  // it did not work through the rest
}

TEST(Loader, AnErrorNobodyAskedForIsDropped) {
  Echo dataset(100);
  dataset.fail_at = 1;
  Loader loader(dataset, sampler_for(dataset), {.first = 0, .last = 10});
  while (dataset.calls == 0) std::this_thread::yield();
}

TEST(Loader, WrongArguments) {
  const Echo dataset(100);
  const Echo other(99);
  EXPECT_THROW(Loader(dataset, sampler_for(dataset), {.first = 3, .last = 2}), ValueError);
  EXPECT_THROW(Loader(dataset, sampler_for(dataset), {.first = -1, .last = 2}), ValueError);
  EXPECT_THROW(Loader(dataset, sampler_for(dataset), {.first = 0, .last = 2, .prefetch = 0}),
               ValueError);
  EXPECT_THROW(Loader(dataset, sampler_for(other), {.first = 0, .last = 2}), ValueError);
}

}  // namespace
}  // namespace lockstep::data
