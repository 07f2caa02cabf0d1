// Steps that fail on some rank, are left early or are misused.
#include <functional>
#include <stdexcept>
#include <string>

#include <gtest/gtest.h>

#include "lockstep/distributed/data_parallel.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/ops/ops.h"

#include "data_parallel_cases.h"
#include "data_parallel_support.h"

namespace lockstep::distributed::testing {
namespace {

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

}  // namespace

const std::vector<Case>& failure_cases() {
  static const std::vector<Case> kCases = {
      {"failure_in_one_backward", failure_in_one_backward},
      {"several_ranks_fail_at_once", several_ranks_fail_at_once},
      {"backward_inside_backward", backward_inside_backward},
      {"step_left_early", step_left_early},
      {"a_rank_tries_a_step_again", a_rank_tries_a_step_again},
      {"missing_and_double_backward", missing_and_double_backward},
      {"other_misuse", other_misuse},
  };
  return kCases;
}

const std::vector<Case>& several_ranks_failure_cases() {
  static const std::vector<Case> kCases = {
      {"a_rank_leaves_a_step_alone", a_rank_leaves_a_step_alone},
      {"every_rank_in_another_step", every_rank_in_another_step},
  };
  return kCases;
}

}  // namespace lockstep::distributed::testing
