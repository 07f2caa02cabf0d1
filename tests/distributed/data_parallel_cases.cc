#include "data_parallel_cases.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>

#include <gtest/gtest.h>

#include "lockstep/distributed/data_parallel.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/optim/optim.h"

#include "data_parallel_support.h"

namespace lockstep::distributed::testing {
namespace {

// -- gradients

// One process on all micro-batches gives the same gradients: for every cut into micro-batches and
// buckets, over three steps.
template <typename Net>
void expect_gradients_of_one_process(ProcessGroup& group, DType dtype = DType::kFloat32) {
  const double tolerance = dtype == DType::kFloat64 ? 1e-13 : 1e-6;
  for (const auto& options : {kOneBucket, kSmallBuckets, kBucketEach}) {
    for (const int64_t accumulate : {1, 3}) {
      for (const int64_t surplus : {0, 1, 5}) {  // uneven shares
        const auto alone = make_net<Net>(dtype), net = make_net<Net>(dtype);
        DataParallel replicas(*net, share_of(group), options);
        for (int64_t index = 0; index < 3; ++index) {
          const Samples all =
              make_samples(2 * group.size() * accumulate + surplus, Net::kInput, dtype, index);
          net->zero_grad();
          alone->zero_grad();
          auto step = make_step(all, group.rank(), group.size(), accumulate, index);
          run_step(replicas, *net, step);
          const double loss = backward_alone(*alone, all, group.size() * accumulate, index);
          expect_same_gradients(*net, *alone, tolerance);
          expect_same_bits(group, gradients_of(*net));
          EXPECT_TRUE(step.report.has_loss);
          EXPECT_NEAR(step.report.loss, loss, tolerance * (1 + std::abs(loss)));
        }
      }
    }
  }
}

void mlp(ProcessGroup& group) { expect_gradients_of_one_process<Mlp>(group); }
void mlp_float64(ProcessGroup& group) {
  expect_gradients_of_one_process<Mlp>(group, DType::kFloat64);
}
void conv_net(ProcessGroup& group) { expect_gradients_of_one_process<ConvNet>(group); }
void conv_net_float64(ProcessGroup& group) {
  expect_gradients_of_one_process<ConvNet>(group, DType::kFloat64);
}
void tied_weights(ProcessGroup& group) { expect_gradients_of_one_process<TiedNet>(group); }
void branches(ProcessGroup& group) { expect_gradients_of_one_process<BranchNet>(group); }
void frozen_parameters(ProcessGroup& group) { expect_gradients_of_one_process<FrozenNet>(group); }
void mixed_dtypes(ProcessGroup& group) { expect_gradients_of_one_process<MixedNet>(group); }

// What the loss of one process is for a mean over the whole batch, cut or not.
void weights_are_those_of_one_batch(ProcessGroup& group) {
  const auto alone = make_net<Mlp>(DType::kFloat64), net = make_net<Mlp>(DType::kFloat64);
  DataParallel replicas(*net, share_of(group));
  const Samples all = make_samples(3 * group.size() + 2, Mlp::kInput, DType::kFloat64, 0);
  auto step = make_step(all, group.rank(), group.size(), 2, 0);
  run_step(replicas, *net, step);
  alone->loss(all.x, all.y, 0).backward();
  expect_same_gradients(*net, *alone, 1e-13);
}

// Outside accumulate() a backward is a step of its own: the average over the ranks.
void plain_backward_averages(ProcessGroup& group) {
  const auto alone = make_net<Mlp>(DType::kFloat64), net = make_net<Mlp>(DType::kFloat64);
  DataParallel replicas(*net, share_of(group), kSmallBuckets);
  for (int round = 0; round < 2; ++round) {
    alone->zero_grad();
    net->zero_grad();
    const Samples all = make_samples(4 * group.size(), Mlp::kInput, DType::kFloat64, round);
    const auto step = make_step(all, group.rank(), group.size(), 1, 0);
    replicas.backward(net->loss(step.micros[0].x, step.micros[0].y, 0));
    alone->loss(all.x, all.y, 0).backward();
    expect_same_gradients(*net, *alone, 1e-13);
  }
}

// Without zero_grad() gradients add up, and what was reduced is not reduced again.
void further_backward_adds_the_new_part(ProcessGroup& group) {
  for (const auto& options : {kOneBucket, kBucketEach}) {
    const auto alone = make_net<BranchNet>(DType::kFloat64);
    const auto net = make_net<BranchNet>(DType::kFloat64);
    DataParallel replicas(*net, share_of(group), options);
    // In step 1 only micro-batch 0 takes part in branch "first"; later ones must keep its gradient.
    for (int64_t index = 0; index < 4; ++index) {
      const int64_t accumulate = 1 + index % 2;
      const Samples all = make_samples(2 * group.size() * accumulate + 1, BranchNet::kInput,
                                       DType::kFloat64, index);
      auto step = make_step(all, group.rank(), group.size(), accumulate, index);
      run_step(replicas, *net, step);
      backward_alone(*alone, all, group.size() * accumulate, index);
      expect_same_gradients(*net, *alone, 1e-13);
      expect_same_bits(group, gradients_of(*net));
    }
    EXPECT_TRUE(net->first.grad().defined());
    EXPECT_FALSE(net->never.grad().defined());
    net->zero_grad();
    for (const Tensor& p : net->parameters()) EXPECT_FALSE(p.grad().defined());
  }
}

// -- replicas

struct Replica : nn::Module {
  Tensor weight, frozen, transposed;
  Tensor floats, doubles, counter, flags, bytes, ints;
  explicit Replica(int rank) {
    const double r = rank + 1;
    weight = register_parameter("weight", full({3, 2}, r));
    frozen = register_parameter("frozen", full({4}, 10 * r)).requires_grad_(false);
    transposed = register_parameter("transposed", full({2, 5}, 20 * r).t().detach());
    transposed.requires_grad_(false);
    floats = register_buffer("floats", full({3}, r));
    doubles = register_buffer("doubles", full({2}, r, {DType::kFloat64}));
    counter = register_buffer("counter", full({}, rank, {DType::kInt64}));
    flags = register_buffer("flags", full({3}, rank == 0, {DType::kBool}));
    bytes = register_buffer("bytes", full({5}, rank, {DType::kUInt8}));
    ints = register_buffer("ints", full({1}, rank, {DType::kInt32}));
  }
};

void construction_gives_every_rank_root_s_values(ProcessGroup& group) {
  Replica net(group.rank());
  const Replica root(0);
  const DataParallel replicas(net, share_of(group));
  const auto mine = net.state_dict(), expected = root.state_dict();
  for (size_t i = 0; i < mine.size(); ++i) {
    EXPECT_EQ(mine[i].second.to_vector(), expected[i].second.to_vector()) << mine[i].first;
  }
}

// Five steps of Adam over a net with batch normalisation and dropout: the same bits everywhere, the
// running statistics included.
void replicas_stay_in_lockstep(ProcessGroup& group) {
  const auto net = make_net<NormNet>(DType::kFloat32);
  DataParallel replicas(*net, share_of(group), kSmallBuckets);
  optim::Adam adam(net->parameters(), {.lr = 0.01});
  const auto before = bits_of(net->state_dict());
  for (int64_t index = 0; index < 5; ++index) {
    const Samples all = make_samples(6 * group.size() + 1, NormNet::kInput, DType::kFloat32, index);
    auto step = make_step(all, group.rank(), group.size(), 2, index);
    adam.zero_grad();
    run_step(replicas, *net, step);
    adam.step();
    expect_same_bits(group, net->state_dict());
  }
  EXPECT_NE(bits_of(net->state_dict()), before);
  EXPECT_EQ(net->norm.num_batches_tracked.item<int64_t>(), 10);
}

// Random ops in a micro-batch draw the numbers of its global index, whoever computes it.
void random_numbers_belong_to_the_micro_batch(ProcessGroup& group) {
  const auto net = make_net<Mlp>(DType::kFloat32);
  DataParallel replicas(*net, share_of(group));
  const Samples all = make_samples(2 * group.size(), Mlp::kInput, DType::kFloat32, 0);
  manual_seed(5);
  const auto outside = rand({3}).to_vector();
  manual_seed(5);
  auto step = make_step(all, group.rank(), group.size(), 2, 7);
  for (auto& m : replicas.accumulate(step)) {
    const auto drawn = rand({3}).to_vector();
    {
      const RandomScope scope(7, static_cast<uint64_t>(m.index));
      EXPECT_EQ(drawn, rand({3}).to_vector());
    }
    {
      const RandomScope scope(7, static_cast<uint64_t>(m.index) + 1);
      EXPECT_NE(drawn, rand({3}).to_vector());
    }
    replicas.backward(net->loss(m.x, m.y, m.index), m.size());
  }
  EXPECT_EQ(rand({3}).to_vector(), outside) << "the program's own stream goes on";
}

void another_data_parallel_takes_over(ProcessGroup& group) {
  const auto alone = make_net<Mlp>(DType::kFloat64), net = make_net<Mlp>(DType::kFloat64);
  auto replicas = std::make_unique<DataParallel>(*net, share_of(group), kBucketEach);
  const Samples all = make_samples(2 * group.size(), Mlp::kInput, DType::kFloat64, 0);
  auto step = make_step(all, group.rank(), group.size(), 1, 0);
  run_step(*replicas, *net, step);
  replicas = std::make_unique<DataParallel>(*net, share_of(group));  // made before the other dies
  step = make_step(all, group.rank(), group.size(), 1, 1);
  run_step(*replicas, *net, step);
  backward_alone(*alone, all, group.size(), 1);
  expect_same_gradients(*net, *alone, 1e-13);
  // Afterwards the parameters are ordinary leaves again.
  const auto values = bits_of(net->state_dict());
  replicas.reset();
  EXPECT_EQ(bits_of(net->state_dict()), values);
  net->zero_grad();
  net->loss(all.x, all.y, 0).backward();
  expect_same_gradients(*net, *alone, 1e-13);
}

// The older one would reduce gradients that never arrive: it must refuse, and leave the newer one's
// alone.
void an_older_data_parallel_refuses(ProcessGroup& group) {
  const auto alone = make_net<Mlp>(DType::kFloat64), net = make_net<Mlp>(DType::kFloat64);
  DataParallel older(*net, share_of(group), kBucketEach);
  const Samples all = make_samples(2 * group.size(), Mlp::kInput, DType::kFloat64, 0);
  const auto run = [&](DataParallel& replicas, int64_t index) {
    auto step = make_step(all, group.rank(), group.size(), 2, index);
    run_step(replicas, *net, step);
  };
  run(older, 0);
  {
    // Over a part of the net only.
    DataParallel newer({{"fc2", net->fc2.weight}}, {}, share_of(group));
    newer.backward(sum(net->fc2.weight));
    const auto gradient = net->fc2.weight.grad().to_vector();
    expect_error([&] { run(older, 1); }, "parameter fc2.weight no longer arrives");
    expect_error([&] { older.backward(sum(net->fc1.weight)); }, "use the newest");
    EXPECT_EQ(net->fc2.weight.grad().to_vector(), gradient);
    newer.backward(sum(net->fc2.weight));
  }
  expect_error([&] { run(older, 2); }, "make a new DataParallel");
  DataParallel newest(*net, share_of(group));
  net->zero_grad();
  run(newest, 3);
  backward_alone(*alone, all, 2 * group.size(), 3);
  expect_same_gradients(*net, *alone, 1e-13);
}

// -- different models

struct Free : nn::Module {
  using Module::register_buffer;
  using Module::register_parameter;
};

// The last rank's model differs: every rank is told.
void expect_refused(ProcessGroup& group, const std::function<void(Free&)>& usual,
                    const std::function<void(Free&)>& odd, const std::string& part) {
  Free net;
  (group.rank() == group.size() - 1 ? odd : usual)(net);
  const std::string last = std::to_string(group.size() - 1);
  std::string text = part;
  for (size_t i; (i = text.find('@')) != std::string::npos;) text.replace(i, 1, last);
  try {
    const DataParallel replicas(net, share_of(group));
    ADD_FAILURE() << "no error on rank " << group.rank() << ": " << text;
  } catch (const DistributedError& error) {
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
  }
}

void different_models(ProcessGroup& group) {
  const auto usual = [](Free& m) {
    m.register_parameter("a", zeros({2, 3}));
    m.register_parameter("b", zeros({3}));
    m.register_buffer("s", zeros({3}));
  };
  expect_refused(
      group, usual,
      [&](Free& m) {
        usual(m);
        m.register_parameter("c", zeros({1}));
        m.register_parameter("d", zeros({1}));
      },
      "DDP expects same model across all ranks, but Rank 0 has 2 params, while rank @ has "
      "inconsistent 4 params.");
  expect_refused(
      group, usual,
      [](Free& m) {
        m.register_parameter("a", zeros({3, 2}));
        m.register_parameter("b", zeros({3}));
        m.register_buffer("s", zeros({3}));
      },
      "[@]: params[0] in this process with sizes [3, 2] appears not to match sizes of the same "
      "param in process 0. It is \"a float32 [3, 2]");
  expect_refused(
      group, usual,
      [](Free& m) {
        m.register_parameter("a", zeros({2, 3}));
        m.register_parameter("B", zeros({3}));
        m.register_buffer("s", zeros({3}));
      },
      "[@]: params[1]");
  expect_refused(
      group, usual,
      [](Free& m) {
        m.register_parameter("a", zeros({2, 3}));
        m.register_parameter("b", zeros({3}, {DType::kFloat64}));
        m.register_buffer("s", zeros({3}));
      },
      "float64");
  expect_refused(
      group, usual,
      [&](Free& m) {
        usual(m);
        m.parameters()[1].requires_grad_(false);
      },
      "requires_grad");
  expect_refused(
      group, usual,
      [](Free& m) {
        m.register_parameter("a", zeros({2, 3}));
        m.register_parameter("b", zeros({3}));
      },
      "Rank 0 has 1 buffers, while rank @ has inconsistent 0 buffers.");
  expect_refused(
      group, usual,
      [](Free& m) {
        m.register_parameter("a", zeros({2, 3}));
        m.register_parameter("b", zeros({3}));
        m.register_buffer("s", zeros({4}));
      },
      "[@]: buffers[0]");
  // The group is none the worse for it.
  Free net;
  usual(net);
  const DataParallel replicas(net, share_of(group));
  EXPECT_EQ(replicas.buckets().size(), 1u);
}

}  // namespace

const std::vector<Case>& data_parallel_cases() {
#define CASE(name) \
  { #name, name }
  static const std::vector<Case> kCases = [] {
    std::vector<Case> cases = {
        CASE(mlp),
        CASE(mlp_float64),
        CASE(conv_net),
        CASE(conv_net_float64),
        CASE(tied_weights),
        CASE(branches),
        CASE(frozen_parameters),
        CASE(frozen_and_unfrozen_between_steps),
        CASE(frozen_and_unfrozen_within_a_step),
        CASE(unfrozen_on_one_rank),
        CASE(frozen_parameters_are_not_reduced),
        CASE(failure_with_an_unfrozen_parameter),
        CASE(unfrozen_beside_another_data_parallel),
        CASE(mixed_dtypes),
        CASE(weights_are_those_of_one_batch),
        CASE(plain_backward_averages),
        CASE(further_backward_adds_the_new_part),
        CASE(construction_gives_every_rank_root_s_values),
        CASE(replicas_stay_in_lockstep),
        CASE(random_numbers_belong_to_the_micro_batch),
        CASE(another_data_parallel_takes_over),
        CASE(an_older_data_parallel_refuses),
    };
    for (const auto* more : {&failure_cases(), &order_cases(), &no_sync_cases(), &join_cases()}) {
      cases.insert(cases.end(), more->begin(), more->end());
    }
    return cases;
  }();
  return kCases;
}

const std::vector<Case>& several_ranks_cases() {
  static const std::vector<Case> kCases = [] {
    std::vector<Case> cases = {CASE(different_models)};
    for (const auto* more : {&several_ranks_failure_cases(), &several_ranks_no_sync_cases(),
                             &several_ranks_join_cases()}) {
      cases.insert(cases.end(), more->begin(), more->end());
    }
    return cases;
  }();
#undef CASE
  return kCases;
}

}  // namespace lockstep::distributed::testing
