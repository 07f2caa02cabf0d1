#include "lockstep/distributed/finite_check.h"

#include <atomic>
#include <limits>

#include <gtest/gtest.h>

#include "lockstep/distributed/threads_group.h"
#include "lockstep/engine/autograd/autocast.h"
#include "lockstep/engine/autograd/hooks.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/optim/optim.h"

#include "conformance.h"
#include "data_parallel_support.h"

namespace lockstep::distributed::testing {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <typename T>
void finds_every_position(DType dtype) {
  for (const int64_t n : {1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 200, 1000}) {
    const Tensor x = full({n}, 1.0, {dtype});
    x.data<T>()[n / 2] = -std::numeric_limits<T>::max();
    x.data<T>()[n - 1] = std::numeric_limits<T>::denorm_min();
    EXPECT_EQ(first_non_finite(x), -1) << n;
    for (int64_t at = 0; at < n; ++at) {
      for (const double value : {kNan, -kNan, kInfinity, -kInfinity}) {
        const T before = x.data<T>()[at];
        x.data<T>()[at] = static_cast<T>(value);
        EXPECT_EQ(first_non_finite(x), at) << value << " in " << n;
        x.data<T>()[at] = before;
      }
    }
  }
}

TEST(FirstNonFinite, FindsEveryPosition) {
  finds_every_position<float>(DType::kFloat32);
  finds_every_position<double>(DType::kFloat64);
  EXPECT_EQ(first_non_finite(empty({0})), -1);
  const Tensor several = full({5}, kNan);
  EXPECT_EQ(first_non_finite(several), 0);
  EXPECT_THROW(first_non_finite(zeros({3}, {DType::kInt64})), ValueError);
}

// On the last rank, in that micro-batch of its own, the gradient of `parameter` becomes `value` at
// `element`.
struct Fault {
  Tensor parameter;
  int64_t element;
  double value;
  int64_t micro;
};
// One step with `accumulate` micro-batches per rank. What it throws, if anything.
std::string step_with(DataParallel& replicas, Net& net, int64_t inputs, int64_t index,
                      int64_t accumulate, const std::vector<Fault>& faults) {
  ProcessGroup& group = replicas.group();
  const Samples all = make_samples(12 * accumulate, inputs, DType::kFloat32, index);
  data::Step step = make_step(all, group.rank(), group.size(), accumulate, index);
  try {
    int64_t k = 0;
    for (auto& m : replicas.accumulate(step)) {
      std::vector<autograd::HookHandle> hooks;
      for (const Fault& fault : faults) {
        if (group.rank() + 1 != group.size() || fault.micro != k) continue;
        hooks.push_back(fault.parameter.register_hook([&fault](const Tensor& gradient) {
          const Tensor changed = gradient.clone();
          changed.data<float>()[fault.element] = static_cast<float>(fault.value);
          return changed;
        }));
      }
      replicas.backward(net.loss(m.x, m.y, m.index), m.size());
      ++k;
    }
  } catch (const DistributedError& error) {
    return error.what();
  }
  return "";
}

void expect_no_gradients(const nn::Module& net) {
  for (const auto& [name, p] : net.named_parameters()) EXPECT_FALSE(p.grad().defined()) << name;
}

TEST(NonFiniteGradients, NameParameterRankAndElementEverywhere) {
  std::atomic<int> noticed = 0;
  run_thread_ranks(3, [&](ProcessGroup& group) {
    const auto net = make_net<Mlp>(DType::kFloat32);
    DataParallel replicas(*net, share_of(group), {.first_bucket_bytes = 1, .bucket_bytes = 1});
    std::string text =
        step_with(replicas, *net, Mlp::kInput, 31, 1, {{net->fc2.weight, 17, kNan, 0}});
    EXPECT_NE(
        text.find("gradient of fc2.weight is not finite on rank 2 (nan at element 17) in step "
                  "31"),
        std::string::npos)
        << text;
    EXPECT_EQ(text.find("more"), std::string::npos) << text;
    expect_no_gradients(*net);

    // In an earlier micro-batch; infinite.
    text = step_with(replicas, *net, Mlp::kInput, 32, 3,
                     {{net->fc3.bias, 1, -kInfinity, 0}, {net->fc1.weight, 39, kInfinity, 2}});
    EXPECT_NE(
        text.find("gradient of fc3.bias is not finite on rank 2 (-inf at element 1), gradient "
                  "of fc1.weight is not finite on rank 2 (inf at element 39) in step 32"),
        std::string::npos)
        << text;

    // All parameters, on every rank.
    const Samples all = make_samples(12, Mlp::kInput, DType::kFloat32, 33);
    all.x.fill_(kNan);
    data::Step step = make_step(all, group.rank(), 3, 1, 33);
    text = error_of([&] { run_step(replicas, *net, step); });
    for (const char* rank : {"rank 0", "rank 1", "rank 2"}) {
      EXPECT_NE(text.find(std::string("3 more on ") + rank), std::string::npos) << text;
    }

    // The next step works.
    EXPECT_EQ(step_with(replicas, *net, Mlp::kInput, 34, 2, {}), "");
    for (const auto& [name, p] : net->named_parameters()) {
      EXPECT_EQ(first_non_finite(p.grad()), -1) << name;
    }
    ++noticed;
  });
  EXPECT_EQ(noticed, 3);
}

// Only the first micro-batch of all uses `first`: no hook fires for it in the one that is reduced.
TEST(NonFiniteGradients, AreFoundWhereTheLastMicroBatchAddsNothing) {
  std::atomic<int> noticed = 0;
  run_thread_ranks(2, [&](ProcessGroup& group) {
    const auto net = make_net<BranchNet>(DType::kFloat32);
    DataParallel replicas(*net, share_of(group));
    const Samples all = make_samples(8, BranchNet::kInput, DType::kFloat32, 5);
    data::Step step = make_step(all, group.rank(), 2, 2, 5);
    autograd::HookHandle hook;
    if (group.rank() == 0) {
      hook = net->first.register_hook([](const Tensor& gradient) { return gradient * kNan; });
    }
    const std::string text = error_of([&] { run_step(replicas, *net, step); });
    EXPECT_NE(text.find("gradient of first is not finite on rank 0 (nan at element 0) in step 5"),
              std::string::npos)
        << text;
    ++noticed;
  });
  EXPECT_EQ(noticed, 2);
}

// In mode bitwise each micro-batch's gradients are apart.
TEST(NonFiniteGradients, AreFoundInEveryShard) {
  std::atomic<int> noticed = 0;
  run_thread_ranks(2, [&](ProcessGroup& group) {
    const auto net = make_net<Mlp>(DType::kFloat32);
    DataParallel replicas(*net, share_of(group),
                          {.reduction = ReductionMode::kBitwise, .virtual_shards = 4});
    for (int64_t bad = 0; bad < 2; ++bad) {
      const std::string text =
          step_with(replicas, *net, Mlp::kInput, bad, 2, {{net->fc2.weight, 17, kNan, bad}});
      EXPECT_NE(text.find("gradient of fc2.weight is not finite on rank 1 (nan at element 17) in "
                          "step " +
                          std::to_string(bad) + "."),
                std::string::npos)
          << text;
      expect_no_gradients(*net);
      EXPECT_EQ(step_with(replicas, *net, Mlp::kInput, 10 + bad, 2, {}), "");
      EXPECT_EQ(first_non_finite(net->fc2.weight.grad()), -1);
    }
    ++noticed;
  });
  EXPECT_EQ(noticed, 2);
}

TEST(NonFiniteGradients, CanBeSkipped) {
  run_thread_ranks(3, [&](ProcessGroup& group) {
    const auto net = make_net<Mlp>(DType::kFloat32);
    DataParallel replicas(*net, share_of(group), {.non_finite = NonFinite::kSkip});
    optim::SGD sgd(net->parameters(), {.lr = 0.5});
    const auto before = bits_of(net->named_parameters());
    EXPECT_EQ(step_with(replicas, *net, Mlp::kInput, 0, 1, {{net->fc2.bias, 3, kInfinity, 0}}), "");
    expect_no_gradients(*net);
    sgd.step();
    EXPECT_EQ(bits_of(net->named_parameters()), before);
    EXPECT_EQ(replicas.skipped_steps(), 1);
    EXPECT_EQ(step_with(replicas, *net, Mlp::kInput, 1, 1, {}), "");
    sgd.step();
    EXPECT_NE(bits_of(net->named_parameters()), before);
    EXPECT_EQ(replicas.skipped_steps(), 1);
    replicas.check_lockstep();
  });
}

TEST(NonFiniteGradients, CanBeIgnored) {
  run_thread_ranks(3, [&](ProcessGroup& group) {
    const auto net = make_net<Mlp>(DType::kFloat32);
    DataParallel replicas(*net, share_of(group), {.non_finite = NonFinite::kIgnore});
    EXPECT_EQ(step_with(replicas, *net, Mlp::kInput, 0, 1, {{net->fc2.bias, 3, kNan, 0}}), "");
    EXPECT_EQ(first_non_finite(net->fc2.bias.grad()), 3);
  });
}

// -- loss scaling

DataParallelOptions half(int64_t growth_interval = 2000) {
  return {.precision = DType::kFloat16,
          .loss_scale = {.init_scale = 1024.0, .growth_interval = growth_interval}};
}

// One rank's overflow in one micro-batch: all of them skip the step, then go on alike.
TEST(LossScaling, SkipsTheStepOnEveryRank) {
  run_thread_ranks(3, [&](ProcessGroup& group) {
    const auto net = make_net<Mlp>(DType::kFloat32);
    DataParallel replicas(*net, share_of(group), half(2));
    optim::SGD sgd(net->parameters(), {.lr = 0.5});
    EXPECT_EQ(replicas.loss_scale(), 1024.0);
    const auto before = bits_of(net->named_parameters());
    EXPECT_EQ(step_with(replicas, *net, Mlp::kInput, 0, 2, {{net->fc2.bias, 3, kInfinity, 0}}), "");
    expect_no_gradients(*net);
    sgd.step();
    EXPECT_EQ(bits_of(net->named_parameters()), before);
    EXPECT_EQ(replicas.skipped_steps(), 1);
    EXPECT_EQ(replicas.loss_scale(), 512.0);
    for (const double scale : {512.0, 1024.0, 1024.0, 2048.0}) {
      EXPECT_EQ(step_with(replicas, *net, Mlp::kInput, 1, 2, {}), "");
      sgd.step();
      EXPECT_EQ(replicas.loss_scale(), scale);
    }
    EXPECT_NE(bits_of(net->named_parameters()), before);
    EXPECT_EQ(replicas.skipped_steps(), 1);
    replicas.check_lockstep();
  });
}

// Gradients that are NaN at any scale end the job after all, by name.
TEST(LossScaling, GivesUpWhereTheScaleIsNotTheReason) {
  run_thread_ranks(2, [&](ProcessGroup& group) {
    const auto net = make_net<Mlp>(DType::kFloat32);
    DataParallelOptions options = half();
    options.loss_scale.backoff_factor = 0x1p-13;
    DataParallel replicas(*net, share_of(group), options);
    const std::vector<Fault> fault = {{net->fc2.weight, 17, kNan, 0}};
    std::string text;
    for (int64_t i = 0; i < 3; ++i) {
      text = step_with(replicas, *net, Mlp::kInput, i, 1, fault);
      EXPECT_EQ(text.empty(), i < 2) << text;
    }
    EXPECT_NE(text.find("gradient of fc2.weight is not finite on rank 1"), std::string::npos);
    expect_no_gradients(*net);
  });
}

// The gradients are those of the unscaled loss, forward runs in float16, and the step's report says
// what was done.
TEST(LossScaling, LeavesNoTraceInTheGradients) {
  run_thread_ranks(2, [&](ProcessGroup& group) {
    const Samples all = make_samples(10, Mlp::kInput, DType::kFloat32, 0);
    const auto net = make_net<Mlp>(DType::kFloat32), plain = make_net<Mlp>(DType::kFloat32);
    DataParallel replicas(*net, share_of(group), half());
    data::Step step = make_step(all, group.rank(), group.size(), 2, 0);
    for (auto& m : replicas.accumulate(step)) {
      EXPECT_EQ(net->fc1(m.x).dtype(), DType::kFloat16);
      replicas.backward(net->loss(m.x, m.y, m.index), m.size());
    }
    EXPECT_FALSE(autograd::autocast_enabled());
    EXPECT_EQ(step.report.loss_scale, 1024.0);
    EXPECT_FALSE(step.report.skipped);
    EXPECT_NEAR(step.report.loss, backward_alone(*plain, all, 4, 0), 1e-3);
    for (size_t i = 0; i < net->parameters().size(); ++i) {
      const auto got = net->parameters()[i].grad().to_vector();
      const auto expected = plain->parameters()[i].grad().to_vector();
      for (size_t k = 0; k < got.size(); ++k) EXPECT_NEAR(got[k], expected[k], 1e-3);
    }
  });
}

}  // namespace
}  // namespace lockstep::distributed::testing
