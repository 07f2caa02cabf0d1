// SyncBatchNorm against nn::BatchNorm of the concatenated batch.
#include <chrono>
#include <optional>

#include <gtest/gtest.h>

#include "lockstep/distributed/layer_exchange.h"
#include "lockstep/distributed/sync_batch_norm.h"
#include "lockstep/engine/autograd/backward.h"

#include "data_parallel_support.h"
#include "more_cases.h"

namespace lockstep::distributed::testing {
namespace {

constexpr int64_t kChannels = 3;

// Ranks mix the calls of a group and its duplicate differently.
void duplicates_have_an_order_of_their_own(ProcessGroup& group) {
  const auto other = group.duplicate();
  EXPECT_EQ(other->rank(), group.rank());
  EXPECT_EQ(other->size(), group.size());
  EXPECT_EQ(other->name(), group.name());
  double a = 1.0 + group.rank(), b = 2.0;
  const auto reduce_a = [&] { group.all_reduce({&a, 1, DType::kFloat64, {}}).wait(); };
  const auto reduce_b = [&] {
    other->all_reduce({&b, 1, DType::kFloat64, {}}, ReduceOp::kSum, Launch::kBlocking).wait();
  };
  Work work;
  if (group.rank() % 2 == 0) {
    work = group.all_reduce({&a, 1, DType::kFloat64, {}});
    reduce_b();
    work.wait();
  } else {
    reduce_b();
    reduce_a();
  }
  EXPECT_EQ(a, 0.5 * group.size() * (group.size() + 1));
  EXPECT_EQ(b, 2.0 * group.size());
  if (group.name() == "mpi") return;  // which ends with its first aborted group
  const auto third = other->duplicate();
  other->abort("enough");
  EXPECT_NE(text_of<DistributedError>([&] { third->barrier().wait(); }).find("enough"),
            std::string::npos);
  group.barrier().wait();
}

// Relative to the largest element.
void expect_near(const Tensor& actual, const Tensor& expected, double tolerance, const char* what) {
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  const auto x = actual.to_vector(), y = expected.to_vector();
  double largest = 0.0, distance = 0.0;
  for (size_t i = 0; i < x.size(); ++i) {
    largest = std::max(largest, std::abs(y[i]));
    distance = std::isfinite(x[i]) ? std::max(distance, std::abs(x[i] - y[i])) : INFINITY;
  }
  EXPECT_LE(distance, tolerance * largest) << what;
}

Tensor summed(ProcessGroup& group, const Tensor& t) {
  const Tensor sum = t.detach().contiguous().clone();
  group.all_reduce({sum.data_ptr(), sum.numel(), sum.dtype(), {}}).wait();
  return sum;
}

// Rank r's share: r + 6 samples of all, but none on the last of several ranks.
data::Range share_of_rank(int rank, int size) {
  const auto begin = [](int64_t r) { return r * (r + 11) / 2; };
  const bool last = size > 1 && rank == size - 1;
  return {begin(rank), last ? begin(rank) : begin(rank + 1)};
}

struct Shape {
  const char* name;
  Dims inner;  // behind (N, C)
};

// Two training steps and an evaluation of one layer.
void compare_layers(ProcessGroup& group, const Shape& shape, DType dtype,
                    nn::BatchNorm::Options options, double tolerance) {
  SCOPED_TRACE(shape.name);
  const data::Range own = share_of_rank(group.rank(), group.size());
  const int64_t n = share_of_rank(group.size() - 1, group.size()).end;
  SyncBatchNorm layer(kChannels, share_of(group), options);
  nn::BatchNorm1d reference(kChannels, options);
  const RandomScope scope(5, 0, RandomPurpose::kData);
  if (options.affine) {
    const autograd::NoGrad no_grad;
    layer.weight.copy_(rand({kChannels}) + 0.5);
    layer.bias.copy_(randn({kChannels}));
    reference.weight.copy_(layer.weight);
    reference.bias.copy_(layer.bias);
  }
  layer.to(dtype);
  reference.to(dtype);
  Dims sizes{n, kChannels};
  for (const int64_t d : shape.inner) sizes.push_back(d);
  int64_t length = 1;
  for (const int64_t d : shape.inner) length *= d;
  for (int step = 0; step < 3; ++step) {
    const bool training = step < 2;
    layer.train(training);
    reference.train(training);
    const Tensor all = (randn(sizes) * 2.0 + 3.0).to(dtype);
    const Tensor gradient = randn(sizes).to(dtype);
    const Tensor whole = all.clone().requires_grad_();
    const Tensor part = all.narrow(0, own.begin, own.size()).clone().requires_grad_();
    const Tensor expected = reference(whole.view({n, kChannels, length})).view(sizes);
    const Tensor actual = layer(part);
    expect_near(actual, expected.narrow(0, own.begin, own.size()), tolerance, "output");
    reference.zero_grad();
    layer.zero_grad();
    sum(expected * gradient).backward();
    sum(actual * gradient.narrow(0, own.begin, own.size())).backward();
    expect_near(part.grad(), whole.grad().narrow(0, own.begin, own.size()), tolerance, "gradient");
    if (options.affine) {
      expect_near(summed(group, layer.weight.grad()), reference.weight.grad(), tolerance, "weight");
      expect_near(summed(group, layer.bias.grad()), reference.bias.grad(), tolerance, "bias");
    }
    if (!options.track_running_stats) continue;
    expect_near(layer.running_mean, reference.running_mean, tolerance, "running_mean");
    expect_near(layer.running_var, reference.running_var, tolerance, "running_var");
    EXPECT_EQ(layer.num_batches_tracked.item(), reference.num_batches_tracked.item());
    expect_same_bits(group, layer.named_buffers());
  }
}

void sync_batch_norm_equals_one_batch(ProcessGroup& group) {
  const Shape shapes[] = {
      {"(N, C)", {}}, {"(N, C, L)", {5}}, {"(N, C, H, W)", {3, 4}}, {"(N, C, D, H, W)", {2, 3, 2}}};
  for (const Shape& shape : shapes) {
    compare_layers(group, shape, DType::kFloat64, {}, 1e-12);
    compare_layers(group, shape, DType::kFloat32, {}, 5e-6);
  }
  compare_layers(group, shapes[2], DType::kFloat64, {.momentum = std::nullopt, .affine = false},
                 1e-12);
  if (group.size() == 1) return;
  // Without running statistics an evaluation is local, so there is nothing to compare with.
  SyncBatchNorm layer(kChannels, share_of(group), {.track_running_stats = false});
  const Tensor x = full({2, kChannels}, group.rank(), {DType::kFloat32});
  const Tensor y = layer(x);
  const double mean = 0.5 * (group.size() - 1);
  EXPECT_NEAR(y.to_vector()[0] * (mean - group.rank()),
              -std::abs(y.to_vector()[0]) * std::abs(mean - group.rank()), 1e-6);
}

// Far from zero, where sums of squares would leave nothing of the variance.
void sync_batch_norm_far_from_zero(ProcessGroup& group) {
  SyncBatchNorm layer(1, share_of(group));
  const RandomScope scope(6, static_cast<uint64_t>(group.rank()), RandomPurpose::kData);
  const Tensor noise = randn({50, 1});
  const Tensor y = layer(noise + 10000.0 * (1 + group.rank() % 2));
  const double scale = group.size() == 1 ? 1.0 : 5000.0;
  const Tensor squares = summed(group, sum(square(y.detach())).view({1}));
  EXPECT_NEAR(squares.item() / (50.0 * group.size()), 1.0, 1e-3);
  const double var = layer.running_var.item() * 10.0 - 9.0;  // momentum 0.1, at first 1
  if (group.size() % 2 == 0) {
    EXPECT_NEAR(var / (scale * scale), 50.0 * group.size() / (50.0 * group.size() - 1), 1e-3);
  }
}

struct SyncNet : Net {
  static constexpr int64_t kInput = 36;
  nn::Conv2d conv{1, 4, 3, {.bias = false}};
  SyncBatchNorm norm1;
  nn::Linear middle{64, 10, {.bias = false}};
  SyncBatchNorm norm2;
  nn::Linear odd{10, 10}, fc{10, kClasses};
  bool uses_odd = false;
  explicit SyncNet(const std::shared_ptr<ProcessGroup>& group) : norm1(4, group), norm2(10, group) {
    register_modules({{"conv", conv},
                      {"norm1", norm1},
                      {"middle", middle},
                      {"norm2", norm2},
                      {"odd", odd},
                      {"fc", fc}});
  }
  Tensor loss(const Tensor& x, const Tensor& y, int64_t) override {
    const auto h = flatten(relu(norm1(conv(x.view({-1, 1, 6, 6})))), 1);
    auto z = tanh(norm2(middle(h)));
    if (uses_odd) z = z + odd(z);
    return cross_entropy(fc(z), y);
  }
};

std::unique_ptr<SyncNet> make_sync_net(const std::shared_ptr<ProcessGroup>& group) {
  manual_seed(1);
  auto net = std::make_unique<SyncNet>(group);
  net->to(DType::kFloat64);
  return net;
}

// Unequal shares, several buckets, several steps: as one process on the whole batch.
void sync_batch_norm_in_data_parallel(ProcessGroup& group) {
  const auto net = make_sync_net(share_of(group));
  const auto alone = make_sync_net(make_single_group());
  DataParallel replicas(*net, share_of(group), {.first_bucket_bytes = 64, .bucket_bytes = 512});
  for (int64_t s = 0; s < 3; ++s) {
    const Samples all = make_samples(3 * group.size() + 1, SyncNet::kInput, DType::kFloat64, s);
    auto step = make_step(all, group.rank(), group.size(), 1, s);
    net->zero_grad();
    alone->zero_grad();
    run_step(replicas, *net, step);
    backward_alone(*alone, all, 1, s);
    expect_same_gradients(*net, *alone, 1e-11);
    for (size_t b = 0; b < net->named_buffers().size(); ++b) {
      expect_near(net->named_buffers()[b].second, alone->named_buffers()[b].second, 1e-12,
                  "buffer");
    }
  }
}

// Where a parameter is used on some ranks only, its bucket leaves before the layers' backward on
// those, and behind it on the others.
void sync_batch_norm_beside_unused_parameters(ProcessGroup& group) {
  const auto net = make_sync_net(share_of(group));
  DataParallel replicas(*net, share_of(group), {.first_bucket_bytes = 64, .bucket_bytes = 64});
  net->uses_odd = group.rank() % 2 == 0;
  for (int64_t s = 0; s < 4; ++s) {
    const Samples all = make_samples(4 * group.size(), SyncNet::kInput, DType::kFloat64, s);
    auto step = make_step(all, group.rank(), group.size(), 2, s);
    net->zero_grad();
    run_step(replicas, *net, step);
    expect_same_bits(group, gradients_of(*net));
  }
  EXPECT_TRUE(net->odd.weight.grad().defined());
}

// On both sides of a layer; the ranks that wait in it learn of the failure, and the next step
// works.
void sync_batch_norm_when_a_rank_fails(ProcessGroup& group) {
  const auto net = make_sync_net(share_of(group));
  const auto alone = make_sync_net(make_single_group());
  DataParallel replicas(*net, share_of(group), {.first_bucket_bytes = 64, .bucket_bytes = 512});
  const Samples all = make_samples(4 * group.size(), SyncNet::kInput, DType::kFloat64, 0);
  const int last = group.size() - 1;
  int64_t s = 0;
  for (const Tensor& place : {net->fc.weight, net->middle.weight, net->conv.weight}) {
    for (const int64_t accumulate : {1, 2}) {
      auto step = make_step(all, group.rank(), group.size(), accumulate, s++);
      net->zero_grad();
      autograd::HookHandle hook;
      if (group.rank() == last) {
        hook =
            place.register_hook([](const Tensor&) -> Tensor { throw Error("the hook says no"); });
      }
      const std::string text = text_of<Error>([&] { run_step(replicas, *net, step); });
      const std::string expected =
          group.rank() == last ? "the hook says no"
                               : "rank " + std::to_string(last) + " failed: the hook says no";
      EXPECT_NE(text.find(expected), std::string::npos) << text;
      hook.remove();
      for (const auto& [name, p] : net->named_parameters()) EXPECT_FALSE(p.grad().defined());
    }
  }
  // The failed steps have moved the running statistics, but in training nobody looks at them.
  auto step = make_step(all, group.rank(), group.size(), 1, s);
  run_step(replicas, *net, step);
  backward_alone(*alone, all, 1, s);
  expect_same_gradients(*net, *alone, 1e-11);
}

void sync_batch_norm_used_differently(ProcessGroup& group) {
  if (group.size() == 1) return;
  SyncBatchNorm a(2, share_of(group)), b(2, share_of(group));
  a.set_name("a");
  b.set_name("b");
  const Tensor x = randn({4, 2});
  const bool odd = group.rank() == 1;
  const std::string text = text_of<DifferentLayersError>([&] { odd ? b(x) : a(x); });
  EXPECT_NE(text.find("rank 1 in forward of SyncBatchNorm b"), std::string::npos) << text;
  EXPECT_NE(text.find("in forward of SyncBatchNorm a"), std::string::npos) << text;
  // One rank in forward again, the others in backward.
  const Tensor leaf = x.clone().requires_grad_();
  const Tensor y = a(leaf);
  text_of<DifferentLayersError>([&] { odd ? (void)a(x) : sum(y).backward(); });
  // Without a graph on one rank.
  const std::string graph = text_of<DistributedError>([&] {
    const autograd::GradMode grad(!odd);
    a(leaf);
  });
  EXPECT_NE(graph.find("rank 1 record no graph in SyncBatchNorm a"), std::string::npos) << graph;
  b(x);  // all is well
}

// The timeout is the group's, and the message names the layer.
void sync_batch_norm_missed_by_a_rank(ProcessGroup& group) {
  if (group.size() == 1 || group.name() == "mpi") return;  // which ends with a failed group
  SyncBatchNorm layer(2, share_of(group));
  layer.set_name("block.norm");
  const bool missing = group.rank() == 1;
  group.set_timeout(std::chrono::milliseconds(missing ? 0 : 200));
  if (!missing) {
    const std::string text = text_of<DistributedError>([&] { layer(randn({4, 2})); });
    EXPECT_NE(text.find("forward of SyncBatchNorm block.norm"), std::string::npos) << text;
    EXPECT_NE(text.find("rank 1 has not arrived"), std::string::npos) << text;
  }
  group.set_timeout(ProcessGroup::kDefaultTimeout);
  group.barrier().wait();  // goes on without layers
}

void sync_batch_norm_refusals(ProcessGroup& group) {
  SyncBatchNorm layer(2, share_of(group));
  EXPECT_EQ(text_of<ValueError>([&] { layer(zeros({2})); }),
            "expected at least 2D input (got 1D input)");
  const bool first = group.rank() == 0;
  const std::string one = text_of<ValueError>([&] { layer(zeros({first ? 1 : 0, 2})); });
  EXPECT_EQ(one.find("Expected more than 1 value per channel when training, got input size"), 0u)
      << one;
  EXPECT_EQ(layer.num_batches_tracked.item(), group.size() == 1 ? 1 : 0);
  EXPECT_EQ(text_of<ValueError>([&] {
              const auto net = make_sync_net(share_of(group));
              DataParallel(*net, share_of(group),
                           {.reduction = ReductionMode::kBitwise, .virtual_shards = 8});
            }).find("[data_parallel] norm1 is a SyncBatchNorm"),
            0u);
  if (group.size() == 1) return;
  const auto net = make_sync_net(share_of(group));
  DataParallel replicas(*net, share_of(group));
  EXPECT_NE(text_of<Error>([&] { replicas.join(); }).find("such as SyncBatchNorm"),
            std::string::npos);
  EXPECT_NE(text_of<ValueError>([&] {
              layer(zeros({2, 3}));
            }).find("expects 2 channels"),
            std::string::npos);
  const Tensor x = randn({4, 2}).requires_grad_();
  const Tensor loss = sum(square(layer(x)));
  EXPECT_NE(text_of<Error>([&] {
              autograd::grad(loss, {x}, {.create_graph = true});
            }).find("create_graph"),
            std::string::npos);
}

}  // namespace

const std::vector<Case>& sync_batch_norm_cases() {
  static const std::vector<Case> cases{
      {"duplicates_have_an_order_of_their_own", duplicates_have_an_order_of_their_own},
      {"sync_batch_norm_equals_one_batch", sync_batch_norm_equals_one_batch},
      {"sync_batch_norm_far_from_zero", sync_batch_norm_far_from_zero},
      {"sync_batch_norm_in_data_parallel", sync_batch_norm_in_data_parallel},
      {"sync_batch_norm_beside_unused_parameters", sync_batch_norm_beside_unused_parameters},
      {"sync_batch_norm_when_a_rank_fails", sync_batch_norm_when_a_rank_fails},
      {"sync_batch_norm_used_differently", sync_batch_norm_used_differently},
      {"sync_batch_norm_missed_by_a_rank", sync_batch_norm_missed_by_a_rank},
      {"sync_batch_norm_refusals", sync_batch_norm_refusals},
  };
  return cases;
}

}  // namespace lockstep::distributed::testing
