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

constexpr DataParallelOptions kOneBucket{};
constexpr DataParallelOptions kSmallBuckets{.first_bucket_bytes = 64, .bucket_bytes = 200};
constexpr DataParallelOptions kBucketEach{.first_bucket_bytes = 1, .bucket_bytes = 1};

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

// -- a step that fails

struct Boom : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// `bad` throws in the backward of its micro-batch `micro`.
void expect_failed_step(ProcessGroup& group, DataParallel& replicas, Mlp& net, data::Step& step,
                        int bad, int64_t micro) {
  std::string text;
  bool boom = false;
  try {
    for (auto& m : replicas.accumulate(step)) {
      autograd::HookHandle hook;
      if (group.rank() == bad &&
          m.index == bad * static_cast<int64_t>(step.micros.size()) + micro) {
        // The middle layer: some buckets are on their way, some are not.
        hook = net.fc2.weight.register_hook(
            [](const Tensor&) -> Tensor { throw Boom("the hook says no"); });
      }
      replicas.backward(net.loss(m.x, m.y, m.index), m.size());
    }
    ADD_FAILURE() << "no error on rank " << group.rank();
  } catch (const Boom& error) {
    boom = true;
    text = error.what();
  } catch (const DistributedError& error) {
    text = error.what();
  }
  EXPECT_EQ(boom, group.rank() == bad);
  EXPECT_NE(text.find("the hook says no"), std::string::npos) << text;
  if (!boom) {
    EXPECT_NE(text.find("rank " + std::to_string(bad) + " failed"), std::string::npos) << text;
    EXPECT_NE(text.find("step " + std::to_string(step.index)), std::string::npos) << text;
  }
  for (const auto& [name, p] : net.named_parameters()) {
    EXPECT_FALSE(p.grad().defined()) << name << " kept a gradient of the failed step";
  }
}

void failure_in_one_backward(ProcessGroup& group) {
  for (const auto& options : {kOneBucket, kBucketEach}) {
    for (const int bad : {0, group.size() - 1}) {
      for (const int64_t micro : {0, 1, 2}) {
        const auto alone = make_net<Mlp>(DType::kFloat64), net = make_net<Mlp>(DType::kFloat64);
        DataParallel replicas(*net, share_of(group), options);
        const Samples all = make_samples(4 * group.size(), Mlp::kInput, DType::kFloat64, 0);
        auto step = make_step(all, group.rank(), group.size(), 3, 0);
        run_step(replicas, *net, step);  // its gradients are there when the next step fails
        step = make_step(all, group.rank(), group.size(), 3, 1);
        expect_failed_step(group, replicas, *net, step, bad, micro);
        step = make_step(all, group.rank(), group.size(), 3, 2);
        run_step(replicas, *net, step);
        backward_alone(*alone, all, 3 * group.size(), 2);
        expect_same_gradients(*net, *alone, 1e-13);
        // ... and one outside accumulate().
        net->zero_grad();
        alone->zero_grad();
        const Samples even = make_samples(group.size(), Mlp::kInput, DType::kFloat64, 3);
        const auto own = make_step(even, group.rank(), group.size(), 1, 3);
        replicas.backward(net->loss(own.micros[0].x, own.micros[0].y, 0));
        alone->loss(even.x, even.y, 0).backward();
        expect_same_gradients(*net, *alone, 1e-13);
      }
    }
  }
}

void several_ranks_fail_at_once(ProcessGroup& group) {
  const auto net = make_net<Mlp>(DType::kFloat32);
  DataParallel replicas(*net, share_of(group), kBucketEach);
  const Samples all = make_samples(2 * group.size(), Mlp::kInput, DType::kFloat32, 0);
  auto step = make_step(all, group.rank(), group.size(), 2, 0);
  // Each rank in another micro-batch.
  int64_t k = 0;
  EXPECT_THROW(
      {
        for (auto& m : replicas.accumulate(step)) {
          autograd::HookHandle hook;
          if (k++ == group.rank() % 2) {
            hook = net->fc1.weight.register_hook([](const Tensor&) -> Tensor { throw Boom("!"); });
          }
          replicas.backward(net->loss(m.x, m.y, m.index), m.size());
        }
      },
      Boom);
  run_step(replicas, *net, step = make_step(all, group.rank(), group.size(), 2, 1));
  EXPECT_TRUE(net->fc1.weight.grad().defined());
}

// -- misuse

// A second gradient for a parameter whose bucket is under way would be added to memory that the
// all-reduce is reading: it must end the step.
void backward_inside_backward(ProcessGroup& group) {
#if !defined(__SANITIZE_THREAD__)  // which is right to object
  const auto net = make_net<Mlp>(DType::kFloat32);
  DataParallel replicas(*net, share_of(group), kBucketEach);
  const Samples all = make_samples(2 * group.size(), Mlp::kInput, DType::kFloat32, 0);
  auto step = make_step(all, group.rank(), group.size(), 1, 0);
  {
    const autograd::HookHandle hook = net->fc1.weight.register_hook([&](const Tensor&) {
      const autograd::EnableGrad grad;  // off inside of backward
      sum(net->fc3.weight).backward();
      return Tensor();
    });
    std::string text = "no error";
    try {
      run_step(replicas, *net, step);
    } catch (const Error& error) {
      text = error.what();
    }
    EXPECT_NE(text.find("parameter fc3.weight got another gradient after its bucket had left"),
              std::string::npos)
        << text;
  }
  for (const Tensor& p : net->parameters()) EXPECT_FALSE(p.grad().defined());
  step = make_step(all, group.rank(), group.size(), 1, 1);
  run_step(replicas, *net, step);
  EXPECT_TRUE(net->fc3.weight.grad().defined());
#else
  static_cast<void>(group);
#endif
}

// A step that is left early leaves nothing behind, whatever was there before.
void step_left_early(ProcessGroup& group) {
  for (const bool zero : {true, false}) {
    const auto alone = make_net<Mlp>(DType::kFloat64), net = make_net<Mlp>(DType::kFloat64);
    DataParallel replicas(*net, share_of(group), kSmallBuckets);
    const Samples all = make_samples(4 * group.size(), Mlp::kInput, DType::kFloat64, 0);
    auto step = make_step(all, group.rank(), group.size(), 2, 0);
    run_step(replicas, *net, step);
    if (zero) net->zero_grad();
    step = make_step(all, group.rank(), group.size(), 2, 1);
    for (auto& m : replicas.accumulate(step)) {
      replicas.backward(net->loss(m.x, m.y, m.index), m.size());
      break;
    }
    for (const auto& [name, p] : net->named_parameters()) {
      EXPECT_FALSE(p.grad().defined())
          << name << ": an unreduced gradient would reach the optimizer";
    }
    net->zero_grad();
    step = make_step(all, group.rank(), group.size(), 2, 2);
    run_step(replicas, *net, step);
    backward_alone(*alone, all, 2 * group.size(), 2);
    expect_same_gradients(*net, *alone, 1e-13);
    // Leaving after the reduction is harmless.
    net->zero_grad();
    step = make_step(all, group.rank(), group.size(), 1, 3);
    for (auto& m : replicas.accumulate(step)) {
      replicas.backward(net->loss(m.x, m.y, m.index), m.size());
      break;
    }
    expect_same_gradients(*net, *alone, 1e-13);
  }
}

// One rank leaves a step and goes on alone, its peers are still in the old one: nobody may go on
// with the sum of two steps' gradients.
void a_rank_leaves_a_step_alone(ProcessGroup& group) {
  enum class How { kBreak, kCaught, kSkipped };
  const auto last = group.size() - 1;
  for (const auto& options : {kOneBucket, kBucketEach}) {
    for (const How how : {How::kBreak, How::kCaught, How::kSkipped}) {
      for (const int leaver : {0, last}) {
        const auto alone = make_net<Mlp>(DType::kFloat32), net = make_net<Mlp>(DType::kFloat32);
        DataParallel replicas(*net, share_of(group), options);
        const Samples all = make_samples(4 * group.size(), Mlp::kInput, DType::kFloat32, 0);
        const auto step_of = [&](int64_t index) {
          return make_step(all, group.rank(), group.size(), 2, index);
        };
        auto step = step_of(40);
        run_step(replicas, *net, step);
        net->zero_grad();
        step = step_of(41);
        if (group.rank() == leaver && how == How::kBreak) {
          for (auto& m : replicas.accumulate(step)) {
            replicas.backward(net->loss(m.x, m.y, m.index), m.size());
            break;
          }
        } else if (group.rank() == leaver && how == How::kCaught) {
          try {
            for (auto& m : replicas.accumulate(step)) {
              if (&m == &step.micros.back()) throw Boom("in forward");
              replicas.backward(net->loss(m.x, m.y, m.index), m.size());
            }
          } catch (const Boom&) {
          }
        }
        if (group.rank() == leaver) step = step_of(42);
        std::string text;
        try {
          run_step(replicas, *net, step);
          ADD_FAILURE() << "two steps were added up on rank " << group.rank();
        } catch (const DistributedError& error) {
          text = error.what();
        }
        std::string others = group.size() == 2 ? "rank" : "ranks";
        for (int r = 0, n = 0; r < group.size(); ++r) {
          if (r != leaver) others += (n++ == 0 ? " " : ", ") + std::to_string(r);
        }
        for (const std::string& part :
             {others + " in step 41", "rank " + std::to_string(leaver) + " in step 42",
              "this is rank " + std::to_string(group.rank()), std::string("caught exception")}) {
          EXPECT_NE(text.find(part), std::string::npos) << text;
        }
        for (const auto& [name, p] : net->named_parameters()) {
          EXPECT_FALSE(p.grad().defined()) << name << " kept a gradient of two steps";
        }
        // Together again.
        step = step_of(43);
        run_step(replicas, *net, step);
        backward_alone(*alone, all, 2 * group.size(), 43);
        expect_same_gradients(*net, *alone, 1e-6);
      }
    }
  }
}

// The middle rank's step is the mean of the others': it must notice all the same. And a rank's own
// failure does not hide that it is elsewhere.
void every_rank_in_another_step(ProcessGroup& group) {
  const auto net = make_net<Mlp>(DType::kFloat32);
  DataParallel replicas(*net, share_of(group));
  const Samples all = make_samples(2 * group.size(), Mlp::kInput, DType::kFloat32, 0);
  for (const int64_t base : {int64_t{0}, int64_t{1} << 40}) {
    for (const bool failing : {false, true}) {
      auto step = make_step(all, group.rank(), group.size(), 1, base + group.rank());
      autograd::HookHandle hook;
      if (failing && group.rank() == 0) {
        hook = net->fc2.weight.register_hook([](const Tensor&) -> Tensor { throw Boom("no"); });
      }
      try {
        run_step(replicas, *net, step);
        ADD_FAILURE() << "no error on rank " << group.rank();
      } catch (const DistributedError& error) {
        const std::string text = error.what();
        for (int r = 0; r < group.size(); ++r) {
          const std::string part = "rank " + std::to_string(r) + " in step " +
                                   std::to_string(base + r) +
                                   (failing && r == 0 ? " (which fails with: no)" : "");
          EXPECT_NE(text.find(part), std::string::npos) << text;
        }
      }
    }
    auto step = make_step(all, group.rank(), group.size(), 1, base);
    run_step(replicas, *net, step);  // no false alarm
  }
  // A step here, a backward of its own there.
  auto step = make_step(all, group.rank(), group.size(), 1, 7);
  EXPECT_THROW(
      group.rank() == 0 ? run_step(replicas, *net, step) : replicas.backward(sum(net->fc1.weight)),
      DistributedError);
}

// A step that fails on one rank before its backward may be tried again: its peers wait for it.
void a_rank_tries_a_step_again(ProcessGroup& group) {
  const auto alone = make_net<Mlp>(DType::kFloat64), net = make_net<Mlp>(DType::kFloat64);
  DataParallel replicas(*net, share_of(group), kSmallBuckets);
  const Samples all = make_samples(4 * group.size(), Mlp::kInput, DType::kFloat64, 0);
  auto step = make_step(all, group.rank(), group.size(), 2, 3);
  if (group.rank() == 0) {
    for (auto& m : replicas.accumulate(step)) {
      replicas.backward(net->loss(m.x, m.y, m.index), m.size());
      break;
    }
  }
  run_step(replicas, *net, step);
  backward_alone(*alone, all, 2 * group.size(), 3);
  expect_same_gradients(*net, *alone, 1e-13);
}

void expect_error(const std::function<void()>& act, const std::string& part) {
  try {
    act();
    ADD_FAILURE() << "no error: " << part;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

void missing_and_double_backward(ProcessGroup& group) {
  const auto alone = make_net<Mlp>(DType::kFloat64), net = make_net<Mlp>(DType::kFloat64);
  DataParallel replicas(*net, share_of(group));
  const Samples all = make_samples(4 * group.size(), Mlp::kInput, DType::kFloat64, 0);
  int64_t index = 0;
  const auto next = [&] { return make_step(all, group.rank(), group.size(), 2, index++); };
  for (const int64_t missing : {0, 1}) {
    auto step = next();
    expect_error(
        [&] {
          int64_t k = 0;
          for (auto& m : replicas.accumulate(step)) {
            if (k++ != missing) replicas.backward(net->loss(m.x, m.y, m.index), m.size());
          }
        },
        "micro-batch " + std::to_string(missing) + " of step " + std::to_string(step.index) +
            " had no call of backward()");
    auto again = next();
    expect_error(
        [&] {
          int64_t k = 0;
          for (auto& m : replicas.accumulate(again)) {
            replicas.backward(net->loss(m.x, m.y, m.index), m.size());
            if (k++ == missing) replicas.backward(net->loss(m.x, m.y, m.index), m.size());
          }
        },
        "a second backward() in micro-batch " + std::to_string(missing));
  }
  net->zero_grad();
  auto step = next();
  run_step(replicas, *net, step);
  backward_alone(*alone, all, 2 * group.size(), step.index);
  expect_same_gradients(*net, *alone, 1e-13);
}

void other_misuse(ProcessGroup& group) {
  const auto net = make_net<Mlp>(DType::kFloat32);
  DataParallel replicas(*net, share_of(group));
  const Samples all = make_samples(2 * group.size(), Mlp::kInput, DType::kFloat32, 0);
  auto step = make_step(all, group.rank(), group.size(), 1, 0);
  expect_error([&] { replicas.backward(ones({2})); }, "a loss of one element, got [2]");
  expect_error([&] { replicas.backward({}); }, "an undefined tensor");
  expect_error([&] { replicas.backward(sum(net->fc1.weight), -1); }, "-1 samples");
  {
    auto outer = replicas.accumulate(step);
    expect_error([&] { replicas.accumulate(step); }, "accumulate() inside accumulate()");
    outer.begin();
    expect_error([&] { outer.begin(); }, "iterated once");
  }
  data::Step empty;
  expect_error([&] { replicas.accumulate(empty); }, "0 micro-batches");
  run_step(replicas, *net, step);
  expect_error([&] { sum(net->fc1.weight * 2.0).backward({}, false, /*create_graph=*/true); },
               "autograd::grad");
  expect_error([&] { DataParallel(NamedTensors(), NamedTensors(), share_of(group)); },
               "no parameters");
  net->requires_grad_(false);
  expect_error([&] { DataParallel(*net, share_of(group)); },
               "no parameter of the model requires a gradient");
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

// -- when it communicates

// Buckets go out in the midst of the last backward, in index order, and nowhere else.
void all_reduce_overlaps_backward(ProcessGroup& group) {
  const auto net = make_net<Mlp>(DType::kFloat32);
  const auto recorder = std::make_shared<RecordingGroup>(group);
  DataParallel replicas(*net, recorder, kBucketEach);
  ASSERT_EQ(replicas.buckets().size(), 6u);
  std::vector<autograd::HookHandle> hooks;
  for (const auto& [name, p] : net->named_parameters()) {
    hooks.push_back(p.register_hook([&events = recorder->events, name = name](const Tensor&) {
      events.push_back(name);
      return Tensor();
    }));
  }
  const Samples all = make_samples(4 * group.size(), Mlp::kInput, DType::kFloat32, 0);
  auto step = make_step(all, group.rank(), group.size(), 2, 0);
  for (auto& m : replicas.accumulate(step)) {
    recorder->events.clear();
    const auto loss = net->loss(m.x, m.y, m.index);
    recorder->events.push_back("backward");
    replicas.backward(loss, m.size());
    const auto& events = recorder->events;
    const auto reductions = std::count(events.begin(), events.end(), "all_reduce");
    EXPECT_EQ(reductions, &m == &step.micros.back() ? 6 : 0);
  }
  // As in the graph: a bias and a weight of a layer at a time, last layer first.
  const auto& events = recorder->events;
  const auto at = [&](const std::string& event) {
    const auto found = std::find(events.begin(), events.end(), event);
    EXPECT_NE(found, events.end()) << event;
    return found - events.begin();
  };
  EXPECT_EQ(events.front(), "backward");
  EXPECT_LT(at("all_reduce"), at("fc1.weight")) << "no overlap";
  EXPECT_LT(at("all_reduce"), at("fc2.weight")) << "no overlap";
  EXPECT_GT(at("all_reduce"), std::min(at("fc3.weight"), at("fc3.bias")));
  const auto before_last_gradient = std::count(
      events.begin(), events.begin() + std::max(at("fc1.weight"), at("fc1.bias")), "all_reduce");
  EXPECT_GE(before_last_gradient, 4);
}

// Every rank issues the same collectives whatever its graph was.
void collectives_do_not_depend_on_the_graph(ProcessGroup& group) {
  const auto net = make_net<BranchNet>(DType::kFloat32);
  const auto recorder = std::make_shared<RecordingGroup>(group);
  DataParallel replicas(*net, recorder, kBucketEach);
  const Samples all = make_samples(2 * group.size(), BranchNet::kInput, DType::kFloat32, 0);
  auto step = make_step(all, group.rank(), group.size(), 1, 0);
  recorder->events.clear();
  run_step(replicas, *net, step);
  EXPECT_EQ(recorder->events, std::vector<std::string>(replicas.buckets().size(), "all_reduce"));
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
  static const std::vector<Case> kCases = {
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
      CASE(failure_in_one_backward),
      CASE(several_ranks_fail_at_once),
      CASE(backward_inside_backward),
      CASE(step_left_early),
      CASE(a_rank_tries_a_step_again),
      CASE(missing_and_double_backward),
      CASE(other_misuse),
      CASE(construction_gives_every_rank_root_s_values),
      CASE(replicas_stay_in_lockstep),
      CASE(random_numbers_belong_to_the_micro_batch),
      CASE(another_data_parallel_takes_over),
      CASE(an_older_data_parallel_refuses),
      CASE(all_reduce_overlaps_backward),
      CASE(collectives_do_not_depend_on_the_graph),
  };
  return kCases;
}

const std::vector<Case>& several_ranks_cases() {
  static const std::vector<Case> kCases = {
      CASE(different_models),
      CASE(a_rank_leaves_a_step_alone),
      CASE(every_rank_in_another_step),
  };
#undef CASE
  return kCases;
}

}  // namespace lockstep::distributed::testing
