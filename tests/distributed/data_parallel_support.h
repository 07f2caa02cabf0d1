#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/data/sampler.h"
#include "lockstep/data/step.h"
#include "lockstep/distributed/collective.h"
#include "lockstep/distributed/data_parallel.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/random.h"
#include "lockstep/nn/nn.h"

// Small nets, their data, and one process that trains them as the yardstick.
namespace lockstep::distributed::testing {

// -- nets; every one maps (N, kInput) to a mean loss. `micro` is the micro-batch's global index.

constexpr int64_t kClasses = 3;

struct Net : nn::Module {
  virtual Tensor loss(const Tensor& x, const Tensor& y, int64_t micro) = 0;
};

struct Mlp : Net {
  static constexpr int64_t kInput = 5;
  nn::Linear fc1{kInput, 8}, fc2{8, 7}, fc3{7, kClasses};
  Mlp() { register_modules({{"fc1", fc1}, {"fc2", fc2}, {"fc3", fc3}}); }
  struct Unregistered {};
  explicit Mlp(Unregistered) {}
  Tensor loss(const Tensor& x, const Tensor& y, int64_t) override {
    return cross_entropy(fc3(tanh(fc2(tanh(fc1(x))))), y);
  }
};

// Registered in the opposite order of use: gradients become ready in registration order.
struct BackwardNet : Mlp {
  BackwardNet() : Mlp(Unregistered{}) {
    register_modules({{"fc3", fc3}, {"fc2", fc2}, {"fc1", fc1}});
  }
};

struct ConvNet : Net {
  static constexpr int64_t kInput = 36;
  nn::Conv2d conv1{1, 4, 3}, conv2{4, 3, 2, {.padding = 1}};
  nn::Linear fc{12, kClasses};
  ConvNet() { register_modules({{"conv1", conv1}, {"conv2", conv2}, {"fc", fc}}); }
  Tensor loss(const Tensor& x, const Tensor& y, int64_t) override {
    const auto h = conv2(tanh(conv1(x.view({-1, 1, 6, 6}))));
    return cross_entropy(fc(flatten(max_pool2d(h, 2), 1)), y);
  }
};

// One weight in three places.
struct TiedNet : Net {
  static constexpr int64_t kInput = 4;
  nn::Linear fc{kInput, kInput}, head{kInput, kClasses};
  Tensor alias;
  TiedNet() {
    register_modules({{"fc", fc}, {"head", head}});
    alias = register_parameter("alias", fc.weight);
  }
  Tensor loss(const Tensor& x, const Tensor& y, int64_t) override {
    const auto h = linear(tanh(fc(tanh(fc(x)))), alias);
    return cross_entropy(head(h), y);
  }
};

// Parts that only some micro-batches use, and one that none does.
struct BranchNet : Net {
  static constexpr int64_t kInput = 5;
  nn::Linear always{kInput, kClasses}, odd{kInput, kClasses};
  Tensor first, never;
  BranchNet() {
    first = register_parameter("first", ones({kClasses}));
    register_modules({{"always", always}, {"odd", odd}});
    never = register_parameter("never", ones({2}));
  }
  Tensor loss(const Tensor& x, const Tensor& y, int64_t micro) override {
    auto h = always(x);
    if (micro % 2 == 1) h = h + odd(x);
    if (micro == 0) h = h * first;
    return cross_entropy(h, y);
  }
};

struct FrozenNet : Mlp {
  FrozenNet() {
    fc1.weight.requires_grad_(false);
    fc3.bias.requires_grad_(false);
  }
};

// float32 and float64 parameters in turn.
struct MixedNet : Net {
  static constexpr int64_t kInput = 5;
  nn::Linear fc1{kInput, 6}, fc2{6, 6}, fc3{6, kClasses};
  MixedNet() {
    register_modules({{"fc1", fc1}, {"fc2", fc2}, {"fc3", fc3}});
    fc2.to(DType::kFloat64);
  }
  Tensor loss(const Tensor& x, const Tensor& y, int64_t) override {
    const auto h = tanh(fc2(tanh(fc1(x)).to(DType::kFloat64)));
    return cross_entropy(fc3(h.to(DType::kFloat32)), y);
  }
};

struct NormNet : Net {
  static constexpr int64_t kInput = 36;
  nn::Conv2d conv{1, 4, 3, {.bias = false}};
  nn::BatchNorm2d norm{4};
  nn::Dropout dropout{0.3};
  nn::Linear fc{64, kClasses};
  NormNet() {
    register_modules({{"conv", conv}, {"norm", norm}, {"dropout", dropout}, {"fc", fc}});
  }
  Tensor loss(const Tensor& x, const Tensor& y, int64_t) override {
    return cross_entropy(fc(dropout(flatten(relu(norm(conv(x.view({-1, 1, 6, 6})))), 1))), y);
  }
};

template <typename T>
std::unique_ptr<T> make_net(DType dtype) {
  manual_seed(1);
  auto net = std::make_unique<T>();
  if (dtype != DType::kFloat32) net->to(dtype);
  return net;
}

// -- data

struct Samples {
  Tensor x, y;
};

inline Samples make_samples(int64_t count, int64_t inputs, DType dtype, int64_t index) {
  const RandomScope scope(static_cast<uint64_t>(index), 0, RandomPurpose::kData);
  Samples s{randn({count, inputs}, {dtype}), empty({count}, {DType::kInt64})};
  for (int64_t i = 0; i < count; ++i) s.y.data<int64_t>()[i] = (i * 7 + index) % kClasses;
  return s;
}

inline data::MicroBatch part(const Samples& all, int64_t index, int64_t parts) {
  const data::Range range = data::share(all.x.size(0), index, parts);
  return {all.x.narrow(0, range.begin, range.size()), all.y.narrow(0, range.begin, range.size()),
          index, range.size()};
}

// One rank's share of a step.
inline data::Step make_step(const Samples& all, int rank, int world, int64_t accumulate,
                            int64_t index) {
  data::Step step;
  step.index = index;
  step.global_samples = all.x.size(0);
  for (int64_t k = 0; k < accumulate; ++k) {
    step.micros.push_back(part(all, rank * accumulate + k, world * accumulate));
  }
  return step;
}

// -- training

inline const DataParallelOptions kOneBucket{};
inline const DataParallelOptions kSmallBuckets{.first_bucket_bytes = 64, .bucket_bytes = 200};
inline const DataParallelOptions kBucketEach{.first_bucket_bytes = 1, .bucket_bytes = 1};

// Groups are handed to the cases by reference; DataParallel wants to share them.
inline std::shared_ptr<ProcessGroup> share_of(ProcessGroup& group) {
  return {std::shared_ptr<void>(), &group};
}

inline void run_step(DataParallel& replicas, Net& net, data::Step& step) {
  for (auto& m : replicas.accumulate(step)) {
    replicas.backward(net.loss(m.x, m.y, m.index), m.size());
  }
}

// The mean loss over all samples, by one process without data parallelism. Returns the loss.
inline double backward_alone(Net& net, const Samples& all, int64_t parts, int64_t index) {
  Tensor total;
  for (int64_t i = 0; i < parts; ++i) {
    const auto m = part(all, i, parts);
    const RandomScope scope(static_cast<uint64_t>(index), static_cast<uint64_t>(i));
    const auto weight = static_cast<double>(m.size()) / static_cast<double>(all.x.size(0));
    const auto loss = net.loss(m.x, m.y, i) * weight;
    total = total.defined() ? total + loss : loss;
  }
  total.backward();
  return total.item();
}

// -- comparisons

// Largest difference relative to the largest element.
inline void expect_same_gradients(const nn::Module& actual, const nn::Module& expected,
                                  double tolerance) {
  const auto a = actual.named_parameters(), b = expected.named_parameters();
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    const std::string& name = a[i].first;
    const Tensor g = a[i].second.grad(), h = b[i].second.grad();
    ASSERT_EQ(g.defined(), h.defined()) << name;
    if (!g.defined()) continue;
    EXPECT_EQ(g.dtype(), h.dtype()) << name;
    const auto x = g.to_vector(), y = h.to_vector();
    ASSERT_EQ(x.size(), y.size()) << name;
    double largest = 0.0, distance = 0.0;
    for (size_t j = 0; j < x.size(); ++j) {
      largest = std::max(largest, std::abs(y[j]));
      distance = std::isfinite(x[j]) ? std::max(distance, std::abs(x[j] - y[j])) : INFINITY;
    }
    EXPECT_GT(largest, 0.0) << name << ": a gradient of zeros shows nothing";
    EXPECT_LE(distance, tolerance * largest) << name;
  }
}

inline NamedTensors gradients_of(const nn::Module& net) {
  NamedTensors result;
  for (const auto& [name, p] : net.named_parameters()) {
    if (p.grad().defined()) result.emplace_back(name, p.grad());
  }
  return result;
}

inline std::vector<uint8_t> bits_of(const NamedTensors& tensors) {
  std::vector<uint8_t> bits;
  for (const auto& [name, t] : tensors) {
    const Tensor dense = t.contiguous();
    const auto* data = static_cast<const uint8_t*>(dense.data_ptr());
    bits.insert(bits.end(), data,
                data + static_cast<size_t>(dense.numel()) * size_of(dense.dtype()));
  }
  return bits;
}

inline void expect_error(const std::function<void()>& act, const std::string& part) {
  try {
    act();
    ADD_FAILURE() << "no error: " << part;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

// Every rank holds what rank 0 holds.
inline void expect_same_bits(ProcessGroup& group, const NamedTensors& tensors) {
  const auto mine = bits_of(tensors);
  auto roots = mine;
  ASSERT_FALSE(roots.empty());
  group.broadcast({roots.data(), static_cast<int64_t>(roots.size()), DType::kUInt8, {}}, 0).wait();
  EXPECT_TRUE(mine == roots) << "rank " << group.rank() << " differs from rank 0";
}

// Passes everything on and writes down what was called.
class RecordingGroup final : public ProcessGroup {
 public:
  explicit RecordingGroup(ProcessGroup& inner)
      : ProcessGroup(inner.rank(), inner.size()), inner_(inner) {}
  std::string_view name() const override { return "recording"; }
  std::shared_ptr<Memory> allocate(size_t bytes, Device device) override {
    return inner_.allocate(bytes, device);
  }
  void abort(const std::string& reason) noexcept override { inner_.abort(reason); }

  std::vector<std::string> events;

 private:
  Work issue(const Collective& c, Launch launch) override {
    switch (c.kind) {
      case CollectiveKind::kAllReduce:
        events.push_back("all_reduce");
        return inner_.all_reduce(c.in, c.op, launch);
      case CollectiveKind::kBroadcast:
        events.push_back("broadcast");
        return inner_.broadcast(c.in, c.root, launch);
      case CollectiveKind::kAllGather:
        events.push_back("all_gather");
        return inner_.all_gather(c.out, c.in, launch);
      default:
        throw Error("[recording group] unexpected collective");
    }
  }

  ProcessGroup& inner_;
};

}  // namespace lockstep::distributed::testing
