// Ranks that run out of data at different times.
#include <algorithm>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/distributed/data_parallel.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/optim/optim.h"

#include "data_parallel_cases.h"
#include "data_parallel_support.h"

namespace lockstep::distributed::testing {
namespace {

// How many steps each rank has data for.
using Counts = std::vector<int64_t>;

std::vector<Counts> uneven(int world) {
  std::vector<Counts> all(4);
  for (int64_t r = 0; r < world; ++r) {
    all[0].push_back(2 + r);          // the lowest rank first,
    all[1].push_back(1 + world - r);  // last
    all[2].push_back(r == 0 ? 0 : 3);
    all[3].push_back(2);  // all at once
  }
  return all;
}

Samples batch_of(int64_t rank, int64_t step, int64_t samples) {
  return make_samples(samples, Mlp::kInput, DType::kFloat64, 100 * step + rank);
}

void expect_same_weights(ProcessGroup& group, const nn::Module& net, const nn::Module& alone) {
  const auto a = net.named_parameters(), b = alone.named_parameters();
  for (size_t i = 0; i < a.size(); ++i) {
    const auto x = a[i].second.to_vector(), y = b[i].second.to_vector();
    for (size_t j = 0; j < x.size(); ++j) EXPECT_NEAR(x[j], y[j], 1e-12) << a[i].first;
  }
  expect_same_bits(group, net.state_dict());
}

// -- backward() outside accumulate()

struct Way {
  bool follow = false;        // with a function for the optimizer
  bool count_joined = false;  // the option
  int64_t micros = 1;         // all but the last in no_sync()
};

// Two epochs, in both of which the ranks have `counts` batches, beside one process that takes the
// batches of all ranks.
void expect_uneven_epochs(ProcessGroup& group, const Counts& counts, const Way& way) {
  const auto alone = make_net<BackwardNet>(DType::kFloat64);
  const auto net = make_net<BackwardNet>(DType::kFloat64);
  auto options = kBucketEach;
  options.count_joined_ranks = way.count_joined;
  options.check_lockstep_every = 1;
  DataParallel replicas(*net, share_of(group), options);
  // Without `follow` an optimizer with a memory would go on differently in the second epoch.
  std::unique_ptr<optim::Optimizer> optimizer, optimizer_alone;
  if (way.follow) {
    optimizer = std::make_unique<optim::Adam>(net->parameters(), optim::Adam::Options{.lr = 0.01});
    optimizer_alone =
        std::make_unique<optim::Adam>(alone->parameters(), optim::Adam::Options{.lr = 0.01});
    replicas.watch(*optimizer);
  } else {
    optimizer = std::make_unique<optim::SGD>(net->parameters(), optim::SGD::Options{.lr = 0.1});
    optimizer_alone =
        std::make_unique<optim::SGD>(alone->parameters(), optim::SGD::Options{.lr = 0.1});
  }
  const auto mine = counts[static_cast<size_t>(group.rank())];
  const auto longest = *std::max_element(counts.begin(), counts.end());
  for (int64_t epoch = 0; epoch < 2; ++epoch) {
    const auto micro = [&](int64_t rank, int64_t step, int64_t k) {
      return batch_of(rank, 50 * epoch + 5 * step + k, 3);
    };
    for (int64_t i = 0; i < mine; ++i) {
      optimizer->zero_grad();
      for (int64_t k = 0; k < way.micros; ++k) {
        std::optional<DataParallel::NoSync> local;
        if (k + 1 < way.micros) local.emplace(replicas);
        const Samples s = micro(group.rank(), i, k);
        replicas.backward(net->loss(s.x, s.y, 0));
      }
      optimizer->step();
    }
    int64_t followed = 0;
    if (way.follow) {
      replicas.join([&] {
        ++followed;
        optimizer->step();
      });
      EXPECT_EQ(followed, longest - mine);
    } else {
      replicas.join();
    }
    for (int64_t i = 0; i < longest; ++i) {
      const auto active =
          std::count_if(counts.begin(), counts.end(), [&](int64_t count) { return i < count; });
      optimizer_alone->zero_grad();
      for (int r = 0; r < group.size(); ++r) {
        if (i >= counts[static_cast<size_t>(r)]) continue;
        for (int64_t k = 0; k < way.micros; ++k) {
          const Samples s = micro(r, i, k);
          const auto parts = static_cast<double>(way.count_joined ? group.size() : active);
          (alone->loss(s.x, s.y, 0) / parts).backward();
        }
      }
      optimizer_alone->step();
    }
    expect_same_weights(group, *net, *alone);
    for (const Tensor& p : net->parameters()) EXPECT_FALSE(p.grad().defined());
    replicas.check_lockstep();  // the optimizer's memory too, if it is watched
  }
}

void uneven_epochs(ProcessGroup& group) {
  for (const Counts& counts : uneven(group.size())) {
    for (const bool follow : {false, true}) {
      for (const bool count_joined : {false, true}) {
        expect_uneven_epochs(group, counts, {follow, count_joined, 1});
      }
    }
    expect_uneven_epochs(group, counts, {true, false, 2});
  }
}

// -- accumulate()

// Unequal micro-batches, and a global number of samples that does not know who has joined.
void uneven_steps(ProcessGroup& group) {
  for (const Counts& counts : uneven(group.size())) {
    const auto alone = make_net<Mlp>(DType::kFloat64), net = make_net<Mlp>(DType::kFloat64);
    DataParallel replicas(*net, share_of(group), kSmallBuckets);
    optim::Adam adam(net->parameters(), {.lr = 0.01});
    optim::Adam adam_alone(alone->parameters(), {.lr = 0.01});
    const auto samples_of = [](int64_t rank, int64_t k) { return rank + k + 1; };
    int64_t global_samples = 0;
    for (int r = 0; r < group.size(); ++r) global_samples += samples_of(r, 0) + samples_of(r, 1);
    const auto longest = *std::max_element(counts.begin(), counts.end());
    std::vector<double> losses;
    for (int64_t i = 0; i < counts[static_cast<size_t>(group.rank())]; ++i) {
      data::Step step;
      step.index = i;
      step.global_samples = global_samples;
      for (int64_t k = 0; k < 2; ++k) {
        const Samples s = batch_of(group.rank(), 2 * i + k, samples_of(group.rank(), k));
        step.micros.push_back({s.x, s.y, 2 * group.rank() + k, s.x.size(0)});
      }
      adam.zero_grad();
      run_step(replicas, *net, step);
      adam.step();
      losses.push_back(step.report.loss);
    }
    replicas.join([&] { adam.step(); });
    for (int64_t i = 0; i < longest; ++i) {
      adam_alone.zero_grad();
      int64_t samples = 0;
      for (int r = 0; r < group.size(); ++r) {
        if (i < counts[static_cast<size_t>(r)]) samples += samples_of(r, 0) + samples_of(r, 1);
      }
      double loss = 0.0;
      for (int r = 0; r < group.size(); ++r) {
        if (i >= counts[static_cast<size_t>(r)]) continue;
        for (int64_t k = 0; k < 2; ++k) {
          const Samples s = batch_of(r, 2 * i + k, samples_of(r, k));
          const Tensor part = alone->loss(s.x, s.y, 0) *
                              (static_cast<double>(s.x.size(0)) / static_cast<double>(samples));
          part.backward();
          loss += part.item();
        }
      }
      adam_alone.step();
      if (i < std::ssize(losses)) {
        EXPECT_NEAR(losses[static_cast<size_t>(i)], loss, 1e-12);
      }
    }
    expect_same_weights(group, *net, *alone);
  }
}

// -- the rest

// Running statistics are those of a rank that has seen all steps, also where rank 0 has not.
void buffers_of_a_rank_with_data(ProcessGroup& group) {
  for (const Counts& counts : uneven(group.size())) {
    const auto net = make_net<NormNet>(DType::kFloat32);
    DataParallel replicas(*net, share_of(group));
    optim::SGD sgd(net->parameters(), {.lr = 0.1});
    for (int64_t i = 0; i < counts[static_cast<size_t>(group.rank())]; ++i) {
      const Samples s = make_samples(4, NormNet::kInput, DType::kFloat32, 100 * i + group.rank());
      sgd.zero_grad();
      replicas.backward(net->loss(s.x, s.y, 0));
      sgd.step();
    }
    replicas.join([&] { sgd.step(); });
    EXPECT_EQ(net->norm.num_batches_tracked.item<int64_t>(),
              *std::max_element(counts.begin(), counts.end()));
    expect_same_bits(group, net->state_dict());
  }
}

void join_misuse(ProcessGroup& group) {
  const auto net = make_net<Mlp>(DType::kFloat64);
  DataParallel replicas(*net, share_of(group));
  optim::SGD sgd(net->parameters(), {.lr = 0.1});
  const Samples all = make_samples(2 * group.size(), Mlp::kInput, DType::kFloat64, 0);
  auto step = make_step(all, group.rank(), group.size(), 1, 0);
  {
    const auto scope = replicas.accumulate(step);
    expect_error([&] { replicas.join(); }, "join() inside accumulate()");
  }
  {
    const auto local = replicas.no_sync();
    expect_error([&] { replicas.join(); }, "join() inside no_sync()");
    replicas.backward(net->loss(all.x, all.y, 0));
  }
  expect_error([&] { replicas.join(); }, "join() while the gradients of 1 backward()");
  sgd.zero_grad();
  if (group.rank() != 0 || group.size() == 1) run_step(replicas, *net, step);
  replicas.join([&] {
    expect_error([&] { replicas.backward(net->loss(all.x, all.y, 0)); },
                 "backward() in the function that join() calls");
    expect_error([&] { replicas.accumulate(step); }, "accumulate() in the function");
    expect_error([&] { static_cast<void>(replicas.no_sync()); }, "no_sync() in the function");
    expect_error([&] { replicas.join(); }, "join() in the function");
  });
  replicas.watch(sgd);
  expect_error([&] { replicas.join(); }, "join() without a function to follow");
}

// A rank fails while another has joined: both hear of it, and can go on.
void failure_after_join(ProcessGroup& group) {
  const auto alone = make_net<Mlp>(DType::kFloat64), net = make_net<Mlp>(DType::kFloat64);
  DataParallel replicas(*net, share_of(group), kBucketEach);
  const Samples all = make_samples(2 * group.size(), Mlp::kInput, DType::kFloat64, 0);
  auto step = make_step(all, group.rank(), group.size(), 1, 0);
  std::string text = "no error";
  try {
    if (group.rank() == 0) {
      replicas.join();
    } else {
      autograd::HookHandle hook;
      if (group.rank() == 1) {
        hook = net->fc2.weight.register_hook(
            [](const Tensor&) -> Tensor { throw std::runtime_error("the hook says no"); });
      }
      run_step(replicas, *net, step);
    }
  } catch (const std::exception& error) {
    text = error.what();
  }
  EXPECT_NE(text.find("the hook says no"), std::string::npos) << text;
  if (group.rank() == 0) {
    EXPECT_NE(text.find("a step after join() was given up because rank 1"), std::string::npos);
  }
  step = make_step(all, group.rank(), group.size(), 1, 1);
  run_step(replicas, *net, step);
  backward_alone(*alone, all, group.size(), 1);
  expect_same_gradients(*net, *alone, 1e-13);
}

// Those that are still there must be in one step.
void different_steps_after_join(ProcessGroup& group) {
  if (group.size() < 3) return;
  const auto net = make_net<Mlp>(DType::kFloat64);
  DataParallel replicas(*net, share_of(group), kBucketEach);
  const Samples all = make_samples(2 * group.size(), Mlp::kInput, DType::kFloat64, 0);
  for (const int64_t apart : {0, 1}) {
    auto step = make_step(all, group.rank(), group.size(), 1, 7 + apart * group.rank());
    std::string text;
    try {
      if (group.rank() != 0) run_step(replicas, *net, step);
      replicas.join();
    } catch (const DistributedError& error) {
      text = error.what();
    }
    if (apart == 0) {
      EXPECT_EQ(text, "");
    } else {
      EXPECT_NE(text.find("rank 0 in a step after join()"), std::string::npos) << text;
      EXPECT_NE(text.find("rank 1 in step 8, rank 2 in step 9"), std::string::npos) << text;
    }
  }
}

}  // namespace

const std::vector<Case>& join_cases() {
  static const std::vector<Case> kCases = {
      {"uneven_epochs", uneven_epochs},
      {"uneven_steps", uneven_steps},
      {"buffers_of_a_rank_with_data", buffers_of_a_rank_with_data},
      {"join_misuse", join_misuse},
  };
  return kCases;
}

const std::vector<Case>& several_ranks_join_cases() {
  static const std::vector<Case> kCases = {
      {"failure_after_join", failure_after_join},
      {"different_steps_after_join", different_steps_after_join},
  };
  return kCases;
}

}  // namespace lockstep::distributed::testing
