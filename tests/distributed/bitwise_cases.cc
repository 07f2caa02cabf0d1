#include "bitwise_cases.h"

#include <bit>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/distributed/data_parallel.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/optim/optim.h"

#include "data_parallel_support.h"

namespace lockstep::distributed::testing {
namespace {

constexpr int64_t kShards = 16;
constexpr int64_t kBatch = 3 * kShards;

DataParallelOptions bitwise(size_t bucket_bytes = 200, int64_t shards = kShards) {
  return {.reduction = ReductionMode::kBitwise,
          .virtual_shards = shards,
          .first_bucket_bytes = bucket_bytes,
          .bucket_bytes = bucket_bytes};
}
constexpr size_t kBucketSizes[] = {1, 200, size_t{1} << 20};

// -- the definition

using Order = Tensor (*)(std::vector<Tensor> terms);

Tensor tree(std::vector<Tensor> terms) {
  while (terms.size() > 1) {
    std::vector<Tensor> parents;
    for (size_t i = 0; i < terms.size(); i += 2) parents.push_back(terms[i] + terms[i + 1]);
    terms = parents;
  }
  return terms[0];
}
Tensor left_comb(std::vector<Tensor> terms) {
  Tensor total = terms[0];
  for (size_t i = 1; i < terms.size(); ++i) total = total + terms[i];
  return total;
}
Tensor far_first(std::vector<Tensor> terms) {
  for (size_t half = terms.size() / 2; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) terms[i] = terms[i] + terms[i + half];
  }
  return terms[0];
}

using Prepare = std::function<void(const nn::Module& net, int64_t shard)>;

// One step of one process, a shard after the other: leaves the gradients and the buffers that any
// number of ranks must have. Returns the loss.
double step_alone(Net& net, const Samples& all, int64_t index, int64_t shards = kShards,
                  Order order = tree, const Prepare& prepare = nullptr) {
  const auto parameters = net.named_parameters(), buffers = net.named_buffers();
  const double weight = 1.0 / static_cast<double>(shards);
  std::vector<std::vector<Tensor>> gradients(parameters.size()), statistics(buffers.size());
  std::vector<bool> used(parameters.size());
  std::vector<Tensor> before, start, losses;
  {
    const autograd::NoGrad no_grad;
    for (const auto& [name, p] : parameters) {
      before.push_back(p.grad().defined() ? p.grad().clone() : Tensor());
    }
    for (const auto& [name, b] : buffers) start.push_back(b.clone());
  }
  for (int64_t s = 0; s < shards; ++s) {
    if (prepare) prepare(net, s);
    const auto m = part(all, s, shards);
    for (const auto& [name, p] : parameters) p.set_grad({});
    for (size_t b = 0; b < buffers.size(); ++b) {
      const autograd::NoGrad no_grad;
      buffers[b].second.copy_(start[b]);
    }
    const RandomScope scope(static_cast<uint64_t>(index), static_cast<uint64_t>(s));
    const Tensor loss = net.loss(m.x, m.y, s);
    loss.backward(full(loss.sizes(), weight, {loss.dtype()}));
    const autograd::NoGrad no_grad;
    losses.push_back(loss.to(DType::kFloat64) * weight);
    for (size_t p = 0; p < parameters.size(); ++p) {
      const Tensor g = parameters[p].second.grad();
      used[p] = used[p] || g.defined();
      gradients[p].push_back(g.defined() ? g.clone() : zeros_like(parameters[p].second));
    }
    for (size_t b = 0; b < buffers.size(); ++b) {
      const Tensor& left = buffers[b].second;
      statistics[b].push_back(is_floating(left.dtype()) ? left * weight : left.clone());
    }
  }
  const autograd::NoGrad no_grad;
  for (size_t p = 0; p < parameters.size(); ++p) {
    Tensor total = used[p] ? order(gradients[p]) : Tensor();
    if (before[p].defined()) total = total.defined() ? total + before[p] : before[p];
    parameters[p].second.set_grad(total);
  }
  for (size_t b = 0; b < buffers.size(); ++b) {
    const Tensor& buffer = buffers[b].second;
    buffer.copy_(is_floating(buffer.dtype()) ? order(statistics[b]) : statistics[b][0]);
  }
  return tree(losses).item();
}

data::Step shards_of_step(const ProcessGroup& group, const Samples& all, int64_t index,
                          int64_t shards = kShards) {
  data::Step step;
  step.index = index;
  step.global_samples = all.x.size(0);
  const auto range = data::shards_of(shards, group.rank(), group.size());
  for (int64_t s = range.begin; s < range.end; ++s) step.micros.push_back(part(all, s, shards));
  return step;
}

void expect_bits(const NamedTensors& actual, const NamedTensors& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_EQ(actual[i].first, expected[i].first);
    EXPECT_EQ(bits_of({actual[i]}), bits_of({expected[i]})) << actual[i].first;
  }
}

void expect_gradients(const nn::Module& actual, const nn::Module& expected) {
  const auto of = gradients_of(expected);
  EXPECT_FALSE(of.empty());
  expect_bits(gradients_of(actual), of);
}

// -- cases

template <typename T>
void expect_bits_of_one_process(ProcessGroup& group, DType dtype = DType::kFloat32) {
  for (const size_t bucket_bytes : kBucketSizes) {
    const auto alone = make_net<T>(dtype), net = make_net<T>(dtype);
    DataParallel replicas(*net, share_of(group), bitwise(bucket_bytes));
    for (int64_t index = 0; index < 3; ++index) {
      SCOPED_TRACE(index);
      const Samples all = make_samples(kBatch, T::kInput, dtype, index);
      net->zero_grad();
      alone->zero_grad();
      auto step = shards_of_step(group, all, index);
      run_step(replicas, *net, step);
      EXPECT_EQ(step.report.loss, step_alone(*alone, all, index));
      expect_gradients(*net, *alone);
      expect_bits(net->named_buffers(), alone->named_buffers());
    }
  }
}
void mlp(ProcessGroup& group) { expect_bits_of_one_process<Mlp>(group); }
void mlp_float64(ProcessGroup& group) { expect_bits_of_one_process<Mlp>(group, DType::kFloat64); }
// Its buckets are cut anew after the first step.
void backward_net(ProcessGroup& group) { expect_bits_of_one_process<BackwardNet>(group); }
void conv_net(ProcessGroup& group) { expect_bits_of_one_process<ConvNet>(group); }
void tied_weights(ProcessGroup& group) { expect_bits_of_one_process<TiedNet>(group); }
void branches(ProcessGroup& group) { expect_bits_of_one_process<BranchNet>(group); }
void frozen_parameters(ProcessGroup& group) { expect_bits_of_one_process<FrozenNet>(group); }
void mixed_dtypes(ProcessGroup& group) { expect_bits_of_one_process<MixedNet>(group); }
void batch_norm_and_dropout(ProcessGroup& group) { expect_bits_of_one_process<NormNet>(group); }

void other_numbers_of_shards(ProcessGroup& group) {
  const auto fewest = static_cast<int64_t>(std::bit_ceil(static_cast<unsigned>(group.size())));
  for (const int64_t shards : {fewest, 2 * fewest, int64_t{64}}) {
    const auto alone = make_net<NormNet>(DType::kFloat32), net = make_net<NormNet>(DType::kFloat32);
    DataParallel replicas(*net, share_of(group), bitwise(200, shards));
    const Samples all = make_samples(2 * shards, NormNet::kInput, DType::kFloat32, 0);
    auto step = shards_of_step(group, all, 0, shards);
    run_step(replicas, *net, step);
    step_alone(*alone, all, 0, shards);
    expect_gradients(*net, *alone);
  }
}

// Everything at once: after some steps the weights are those of one process.
void a_whole_training(ProcessGroup& group) {
  struct Trainer {
    explicit Trainer(const nn::Module& net)
        : parameters(net.parameters()), adam(parameters, {.lr = 0.02, .weight_decay = 0.1}) {}
    void step() {
      norms.push_back(optim::clip_grad_norm_(parameters, 0.3));
      adam.step();
      schedule.step();
    }
    std::vector<Tensor> parameters;
    optim::AdamW adam;
    optim::LambdaLR schedule{adam,
                             [](int64_t step) { return 1.0 / static_cast<double>(step + 1); }};
    std::vector<double> norms;
  };
  const auto alone = make_net<NormNet>(DType::kFloat32), net = make_net<NormNet>(DType::kFloat32);
  DataParallel replicas(*net, share_of(group), bitwise());
  Trainer trainer(*net), trainer_alone(*alone);
  for (int64_t index = 0; index < 6; ++index) {
    const Samples all = make_samples(kBatch, NormNet::kInput, DType::kFloat32, index);
    net->zero_grad();
    alone->zero_grad();
    auto step = shards_of_step(group, all, index);
    run_step(replicas, *net, step);
    step_alone(*alone, all, index);
    trainer.step();
    trainer_alone.step();
    expect_bits(net->state_dict(), alone->state_dict());
  }
  EXPECT_EQ(trainer.norms, trainer_alone.norms);
  EXPECT_GT(trainer.norms[0], 0.3) << "nothing was clipped";
}

// These tests would notice another order.
void other_orders_give_other_bits(ProcessGroup& group) {
  const auto net = make_net<Mlp>(DType::kFloat32);
  DataParallel replicas(*net, share_of(group), bitwise());
  const Samples all = make_samples(kBatch, Mlp::kInput, DType::kFloat32, 0);
  auto step = shards_of_step(group, all, 0);
  run_step(replicas, *net, step);
  for (const Order order : {left_comb, far_first}) {
    const auto alone = make_net<Mlp>(DType::kFloat32);
    step_alone(*alone, all, 0, kShards, order);
    expect_same_gradients(*net, *alone, 1e-5);
    EXPECT_NE(bits_of(gradients_of(*net)), bits_of(gradients_of(*alone)));
  }
}

// The sum of several steps, where nobody calls zero_grad().
void gradients_of_several_steps_add_up(ProcessGroup& group) {
  const auto alone = make_net<BranchNet>(DType::kFloat32),
             net = make_net<BranchNet>(DType::kFloat32);
  DataParallel replicas(*net, share_of(group), bitwise());
  for (int64_t index = 0; index < 3; ++index) {
    const Samples all = make_samples(kBatch, BranchNet::kInput, DType::kFloat32, index);
    auto step = shards_of_step(group, all, index);
    run_step(replicas, *net, step);
    step_alone(*alone, all, index);
    expect_gradients(*net, *alone);
  }
}

void freeze(const nn::Module& net, const std::string& prefix) {
  for (const auto& [name, p] : net.named_parameters()) {
    p.requires_grad_(prefix.empty() || !name.starts_with(prefix));
  }
}

void frozen_and_unfrozen(ProcessGroup& group) {
  for (const auto& [bucket_bytes, zero] :
       {std::pair{kBucketSizes[0], true}, std::pair{kBucketSizes[0], false},
        std::pair{kBucketSizes[1], false}, std::pair{kBucketSizes[2], true}}) {
    const auto alone = make_net<Mlp>(DType::kFloat32), net = make_net<Mlp>(DType::kFloat32);
    freeze(*net, "fc1");
    DataParallel replicas(*net, share_of(group), bitwise(bucket_bytes));
    // Within the last step what is frozen changes from shard to shard.
    const std::vector<std::string> frozen = {"fc1", "", "fc2", "fc2", "", "fc2", "fc2", "mixed"};
    for (size_t i = 0; i < frozen.size(); ++i) {
      SCOPED_TRACE("step " + std::to_string(i) + ", frozen: " + frozen[i]);
      const auto index = static_cast<int64_t>(i);
      const Prepare prepare = [&](const nn::Module& module, int64_t shard) {
        const std::string which[] = {"fc3", "fc2", "", "fc1"};
        freeze(module, frozen[i] == "mixed" ? which[shard / 2 % 4] : frozen[i]);
      };
      const Samples all = make_samples(kBatch, Mlp::kInput, DType::kFloat32, index);
      if (zero) net->zero_grad();
      if (zero) alone->zero_grad();
      auto step = shards_of_step(group, all, index);
      for (auto& m : replicas.accumulate(step)) {
        prepare(*net, m.index);
        replicas.backward(net->loss(m.x, m.y, m.index), m.size());
      }
      step_alone(*alone, all, index, kShards, tree, prepare);
      expect_gradients(*net, *alone);
    }
  }
}

// Frozen from the beginning, and unfrozen for some shards of the first step.
void unfrozen_within_the_first_step(ProcessGroup& group) {
  for (const int64_t first : {0, 5, 15}) {
    const auto alone = make_net<Mlp>(DType::kFloat32), net = make_net<Mlp>(DType::kFloat32);
    const Prepare prepare = [&](const nn::Module& module, int64_t shard) {
      freeze(module, shard >= first && shard < first + 7 ? "" : "fc2");
    };
    freeze(*net, "fc2");
    DataParallel replicas(*net, share_of(group), bitwise());
    const Samples all = make_samples(kBatch, Mlp::kInput, DType::kFloat32, 0);
    auto step = shards_of_step(group, all, 0);
    for (auto& m : replicas.accumulate(step)) {
      prepare(*net, m.index);
      replicas.backward(net->loss(m.x, m.y, m.index), m.size());
    }
    step_alone(*alone, all, 0, kShards, tree, prepare);
    expect_gradients(*net, *alone);
  }
}

// Wherever they have been in between; and a zero_grad() inside of the step changes nothing.
void gradients_end_where_they_were(ProcessGroup& group) {
  const auto alone = make_net<Mlp>(DType::kFloat32), net = make_net<Mlp>(DType::kFloat32);
  DataParallel replicas(*net, share_of(group), bitwise());
  const Samples all = make_samples(kBatch, Mlp::kInput, DType::kFloat32, 0);
  const void* place = nullptr;
  for (int64_t index = 0; index < 2; ++index) {
    net->zero_grad();
    auto step = shards_of_step(group, all, index);
    for (auto& m : replicas.accumulate(step)) {
      net->zero_grad();
      replicas.backward(net->loss(m.x, m.y, m.index), m.size());
    }
    alone->zero_grad();
    step_alone(*alone, all, index);
    expect_gradients(*net, *alone);
    const void* here = net->fc1.weight.grad().data_ptr();
    EXPECT_TRUE(index == 0 || here == place) << "the gradient has moved";
    place = here;
  }
}

// Whichever shard fails, every rank throws, the buffers are those from before, and the next step is
// right.
void a_failing_shard(ProcessGroup& group) {
  const auto alone = make_net<NormNet>(DType::kFloat32), net = make_net<NormNet>(DType::kFloat32);
  DataParallel replicas(*net, share_of(group), bitwise());
  for (const int64_t bad : {0, 3, 7, 15}) {
    SCOPED_TRACE(bad);
    const Samples all = make_samples(kBatch, NormNet::kInput, DType::kFloat32, bad);
    auto step = shards_of_step(group, all, 2 * bad);
    std::string text;
    try {
      for (auto& m : replicas.accumulate(step)) {
        autograd::HookHandle hook;
        Tensor loss = net->loss(m.x, m.y, m.index);
        if (m.index == bad) {
          loss = loss * 1.0;
          hook = loss.register_hook([](const Tensor&) -> Tensor { throw Error("a bad shard"); });
          loss = loss * 1.0;
        }
        replicas.backward(loss, m.size());
      }
    } catch (const Error& error) {
      text = error.what();
    }
    EXPECT_NE(text.find("a bad shard"), std::string::npos) << text;
    expect_bits(net->named_buffers(), alone->named_buffers());
    for (const Tensor& p : net->parameters()) EXPECT_FALSE(p.grad().defined());
    alone->zero_grad();
    step = shards_of_step(group, all, 2 * bad + 1);
    run_step(replicas, *net, step);
    step_alone(*alone, all, 2 * bad + 1);
    expect_gradients(*net, *alone);
    expect_bits(net->named_buffers(), alone->named_buffers());
    net->zero_grad();
  }
}

void a_step_left_early(ProcessGroup& group) {
  const auto alone = make_net<NormNet>(DType::kFloat32), net = make_net<NormNet>(DType::kFloat32);
  DataParallel replicas(*net, share_of(group), bitwise());
  const Samples all = make_samples(kBatch, NormNet::kInput, DType::kFloat32, 0);
  auto step = shards_of_step(group, all, 0);
  for (auto& m : replicas.accumulate(step)) {
    const Tensor loss = net->loss(m.x, m.y, m.index);
    if (&m == &step.micros.back()) break;
    replicas.backward(loss, m.size());
  }
  expect_bits(net->named_buffers(), alone->named_buffers());
  for (const Tensor& p : net->parameters()) EXPECT_FALSE(p.grad().defined());
  step = shards_of_step(group, all, 1);
  run_step(replicas, *net, step);
  step_alone(*alone, all, 1);
  expect_gradients(*net, *alone);
  expect_bits(net->named_buffers(), alone->named_buffers());
}

std::string text_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}
void expect_refused(const std::string& why, const std::function<void()>& body) {
  const std::string text = text_of(body);
  EXPECT_NE(text.find(why), std::string::npos) << text;
}

void what_is_no_shard_is_refused(ProcessGroup& group) {
  const auto net = make_net<Mlp>(DType::kFloat32);
  expect_refused("12 virtual shards: the number must be a power of two",
                 [&] { DataParallel(*net, share_of(group), bitwise(200, 12)); });
  if (group.size() > 1) {
    const auto few = static_cast<int64_t>(std::bit_floor(static_cast<unsigned>(group.size() - 1)));
    expect_refused("cannot be spread over " + std::to_string(group.size()) + " ranks",
                   [&] { DataParallel(*net, share_of(group), bitwise(200, few)); });
  }
  DataParallel replicas(*net, share_of(group), bitwise());
  const Samples all = make_samples(kBatch, Mlp::kInput, DType::kFloat32, 0);
  const auto accumulate = [&](data::Step step) {
    return [&, step]() mutable { run_step(replicas, *net, step); };
  };
  const std::string wrong = "In reduction mode bitwise with 16 virtual shards they must be";
  expect_refused(wrong, accumulate(shards_of_step(group, all, 0, 32)));
  auto step = shards_of_step(group, all, 0);
  step.micros.pop_back();
  step.micros.push_back(part(all, 16, 17));
  expect_refused(wrong, accumulate(step));
  step = shards_of_step(group, make_samples(kBatch + 1, Mlp::kInput, DType::kFloat32, 0), 0);
  expect_refused(wrong, accumulate(step));
  expect_refused("backward() outside accumulate() has no virtual shards",
                 [&] { replicas.backward(net->loss(all.x, all.y, 0)); });
  expect_refused("join() in reduction mode bitwise", [&] { replicas.join(); });
  expect_refused("use accumulate() instead of no_sync()",
                 [&] { static_cast<void>(replicas.no_sync()); });
  step = shards_of_step(group, all, 0);
  run_step(replicas, *net, step);
  EXPECT_TRUE(net->fc1.weight.grad().defined());
}

}  // namespace

const std::vector<Case>& bitwise_cases() {
  static const std::vector<Case> cases{
      {"mlp", mlp},
      {"mlp_float64", mlp_float64},
      {"backward_net", backward_net},
      {"conv_net", conv_net},
      {"tied_weights", tied_weights},
      {"branches", branches},
      {"frozen_parameters", frozen_parameters},
      {"mixed_dtypes", mixed_dtypes},
      {"batch_norm_and_dropout", batch_norm_and_dropout},
      {"other_numbers_of_shards", other_numbers_of_shards},
      {"a_whole_training", a_whole_training},
      {"other_orders_give_other_bits", other_orders_give_other_bits},
      {"gradients_of_several_steps_add_up", gradients_of_several_steps_add_up},
      {"frozen_and_unfrozen", frozen_and_unfrozen},
      {"unfrozen_within_the_first_step", unfrozen_within_the_first_step},
      {"gradients_end_where_they_were", gradients_end_where_they_were},
      {"a_failing_shard", a_failing_shard},
      {"a_step_left_early", a_step_left_early},
      {"what_is_no_shard_is_refused", what_is_no_shard_is_refused},
  };
  return cases;
}

}  // namespace lockstep::distributed::testing
