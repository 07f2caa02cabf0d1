// Results depend neither on how many threads compute nor on what other threads do meanwhile.
#include <algorithm>
#include <atomic>
#include <future>
#include <memory>
#include <stdexcept>
#include <thread>

#include <gtest/gtest.h>

#include "lockstep/engine/cpu/thread_pool.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/random.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep::testing {
namespace {

using Results = std::vector<std::vector<double>>;

// Large enough that every kernel is cut into tiles, and odd so that the last one is ragged.
Results compute() {
  manual_seed(11);
  Results results;
  const auto keep = [&](const Tensor& t) { results.push_back(t.to_vector()); };
  const Tensor x = randn({257, 301}), column = rand({257, 1});
  keep(x);
  keep(empty({70001}).uniform_());
  keep(dropout(x, 0.5, true));
  keep(exp(x * column) + x);
  keep(x.t() + 1);
  keep(x.t().contiguous());
  keep(x.to(DType::kBFloat16));
  keep(sum(x));
  keep(sum(x, {0}));
  keep(sum(x, {1}));
  keep(sum(x.t(), {0}));
  keep(mean(x.view({-1})));
  keep(norm(x));
  keep(max(x));
  keep(argmax(x, 0));
  keep(log_softmax(x, 1));
  keep(index_select(x, 0, arange(0, 257, 3)));
  const Tensor w = randn({64, 301}, {.requires_grad = true}),
               b = rand({64}, {.requires_grad = true});
  const Tensor y = linear(x, w, b);
  keep(y);
  square(y).mean().backward();
  keep(w.grad());
  keep(b.grad());
  const Tensor image = randn({4, 8, 19, 21}, {.requires_grad = true});
  const Tensor kernel = randn({16, 8, 3, 3}, {.requires_grad = true});
  const Tensor scale = rand({16}, {.requires_grad = true});
  const Tensor z =
      max_pool2d(relu(batch_norm(conv2d(image, kernel, {}, {.padding = {1, 1}}), {}, {}, scale,
                                 zeros({16}, {.requires_grad = true}), {.training = true})),
                 2);
  keep(z);
  square(z).sum().backward();
  keep(image.grad());
  keep(kernel.grad());
  keep(scale.grad());
  return results;
}

TEST(Threads, TheirNumberDoesNotMatter) {
  const int before = cpu::num_threads();
  cpu::set_num_threads(1);
  const Results single = compute();
  for (int threads : {2, 3, 7}) {
    cpu::set_num_threads(threads);
    const Results several = compute();
    ASSERT_EQ(several.size(), single.size());
    for (size_t i = 0; i < single.size(); ++i) {
      EXPECT_EQ(several[i], single[i]) << "result " << i << " with " << threads << " threads";
    }
  }
  cpu::set_num_threads(before);
}

TEST(Threads, RanksMayBeThreads) {
  const int before = cpu::num_threads();
  cpu::set_num_threads(2);
  const Results alone = compute();
  std::vector<Results> together(3);
  std::vector<std::thread> threads;
  for (Results& r : together) threads.emplace_back([&r] { r = compute(); });
  for (auto& thread : threads) thread.join();
  for (const Results& r : together) EXPECT_EQ(r, alone);
  cpu::set_num_threads(before);
}

// Leaves that several threads use at once: forward only reads them, and each thread's backward
// ends in leaves of its own.
TEST(Threads, SharedLeavesInForward) {
  const Tensor shared = rand({64, 64}, {.requires_grad = true});
  std::vector<std::thread> threads;
  std::vector<double> sums(4);
  for (double& s : sums) {
    threads.emplace_back([&shared, &s] {
      const Tensor own = ones({64, 64}, {.requires_grad = true});
      for (int i = 0; i < 20; ++i) {
        const Tensor y = (shared.detach() * own).sum();
        y.backward();
        const Tensor recorded = shared * own;  // makes and drops shared's accumulator
      }
      s = own.grad().sum().item();
    });
  }
  for (auto& thread : threads) thread.join();
  for (double s : sums) EXPECT_EQ(s, sums[0]);
  EXPECT_NEAR(sums[0], 20 * shared.detach().sum().item(), 1);
  EXPECT_FALSE(shared.grad().defined());
}

class Delivery final : public Arrival {
 public:
  void wait() override {
    ++waiting_;
    came_.get();
  }
  int waiting() const { return waiting_; }
  void come() { promise_.set_value(); }
  void fail() { promise_.set_exception(std::make_exception_ptr(std::runtime_error("lost"))); }

 private:
  std::atomic<int> waiting_{0};
  std::promise<void> promise_;
  std::shared_future<void> came_ = promise_.get_future().share();
};

TEST(Threads, ReadersWaitForContentsOnTheirWay) {
  const Tensor x = zeros({1000}), alias = x.data_tensor();
  auto* values = x.data<float>();
  for (int round = 1; round <= 3; ++round) {
    const auto delivery = std::make_shared<Delivery>();
    x.impl()->storage->expect(delivery);
    std::vector<std::future<double>> sums;
    for (const Tensor& read : {x, alias}) {
      sums.push_back(std::async(std::launch::async, [read] {
        return read.view({10, -1}).sum().item();
      }));
    }
    while (delivery->waiting() < 2) std::this_thread::yield();
    std::fill_n(values, 1000, static_cast<float>(round));
    delivery->come();
    for (auto& sum : sums) EXPECT_EQ(sum.get(), 1000 * round);
  }
  const auto delivery = std::make_shared<Delivery>();
  x.impl()->storage->expect(delivery);
  EXPECT_EQ(x.sizes(), (Dims{1000}));  // needs no contents
  delivery->fail();
  for (int twice = 0; twice < 2; ++twice) EXPECT_THROW(x.sum(), std::runtime_error);
}

}  // namespace
}  // namespace lockstep::testing
