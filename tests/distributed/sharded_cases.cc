// ShardedOptimizer against the same optimizer on every rank: the same bits.
#include <chrono>
#include <thread>

#include <gtest/gtest.h>

#include "lockstep/distributed/sharded_optimizer.h"
#include "lockstep/optim/optim.h"

#include "data_parallel_support.h"
#include "more_cases.h"

namespace lockstep::distributed::testing {
namespace {

const DataParallelOptions kSharded{
    .first_bucket_bytes = 100, .bucket_bytes = 400, .shard_gradients = true};
const DataParallelOptions kPlain{.first_bucket_bytes = 100, .bucket_bytes = 400};

NamedTensors flat(const std::vector<optim::Optimizer::ParameterState>& states) {
  NamedTensors all;
  for (size_t i = 0; i < states.size(); ++i) {
    all.emplace_back("steps", full({1}, static_cast<double>(states[i].steps)));
    for (const auto& [name, t] : states[i].buffers) {
      if (t.defined()) all.emplace_back(name + std::to_string(i), t);
    }
  }
  return all;
}

void expect_equal(const NamedTensors& actual, const NamedTensors& expected, const char* what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_EQ(actual[i].first, expected[i].first) << what;
    EXPECT_EQ(actual[i].second.sizes(), expected[i].second.sizes()) << what << actual[i].first;
    EXPECT_TRUE(bits_of({actual[i]}) == bits_of({expected[i]})) << what << ' ' << actual[i].first;
  }
}

size_t bytes_of(const std::vector<optim::Optimizer::ParameterState>& states) {
  size_t bytes = 0;
  for (const auto& state : states) {
    for (const auto& [name, t] : state.buffers) {
      if (t.defined()) bytes += static_cast<size_t>(t.numel()) * size_of(t.dtype());
    }
  }
  return bytes;
}

// Two replicas of a net: one trained with Inner on every rank, one with its state spread.
template <typename NetType, typename Inner>
class Pair {
 public:
  Pair(ProcessGroup& group, typename Inner::Options options, DataParallelOptions plain = kPlain,
       DataParallelOptions sharded = kSharded)
      : net(make_net<NetType>(DType::kFloat32)),
        reference(make_net<NetType>(DType::kFloat32)),
        replicas(*net, share_of(group), sharded),
        reference_replicas(*reference, share_of(group), plain),
        optimizer(replicas, net->parameters(), options),
        inner(reference->parameters(), options),
        group_(group) {}

  void backward(const data::Step& step) {
    data::Step one = step;
    data::Step other = step;
    optimizer.zero_grad();
    inner.zero_grad();
    run_step(replicas, *net, one);
    run_step(reference_replicas, *reference, other);
  }
  void train(int64_t index, int64_t accumulate = 2) {
    const Samples all =
        make_samples(4 * group_.size() + 1, NetType::kInput, DType::kFloat32, index);
    backward(make_step(all, group_.rank(), group_.size(), accumulate, index));
    optimizer.step();
    inner.step();
  }
  void expect_same() {
    expect_equal(net->named_parameters(), reference->named_parameters(), "parameter");
    expect_same_bits(group_, net->named_parameters());
    expect_equal(flat(optimizer.gather_states()), flat(inner.states()), "state");
  }

  std::unique_ptr<NetType> net, reference;
  DataParallel replicas, reference_replicas;
  ShardedOptimizer<Inner> optimizer;
  Inner inner;

 private:
  ProcessGroup& group_;
};

template <typename NetType, typename Inner>
void compare(ProcessGroup& group, typename Inner::Options options) {
  Pair<NetType, Inner> pair(group, options);
  for (int64_t s = 0; s < 3; ++s) pair.train(s);
  pair.expect_same();
  // A rank keeps its share: the bucket's cut in equal parts of whole cache lines.
  const size_t all = bytes_of(pair.inner.states());
  double sum = static_cast<double>(pair.optimizer.state_bytes());
  if (group.size() > 1) {
    EXPECT_LT(sum, 0.9 * static_cast<double>(all));
  }
  group.all_reduce({&sum, 1, DType::kFloat64, {}}).wait();
  EXPECT_EQ(sum, static_cast<double>(all));
}

void sharded_equals_unsharded(ProcessGroup& group) {
  compare<Mlp, optim::SGD>(group, {.lr = 0.1, .momentum = 0.9, .weight_decay = 0.01});
  compare<Mlp, optim::Adam>(group, {.lr = 0.01, .amsgrad = true});
  compare<ConvNet, optim::AdamW>(group, {.lr = 0.01});
  compare<MixedNet, optim::RMSprop>(group, {.momentum = 0.5, .centered = true});
  compare<TiedNet, optim::Adagrad>(group, {.lr_decay = 0.1, .initial_accumulator_value = 0.1});
}

// Unused and frozen parameters, whose buckets may come later; schedules and rates.
void sharded_with_unused_and_frozen(ProcessGroup& group) {
  Pair<BranchNet, optim::Adam> branches(group, {.lr = 0.01});
  for (int64_t s = 0; s < 3; ++s) branches.train(s, 1);
  branches.expect_same();
  EXPECT_FALSE(branches.net->never.grad().defined());

  Pair<FrozenNet, optim::AdamW> frozen(group, {.lr = 0.01});
  optim::StepLR schedule(frozen.optimizer, 2), other(frozen.inner, 2);
  for (int64_t s = 0; s < 6; ++s) {
    for (const auto& net : {frozen.net.get(), frozen.reference.get()}) {
      net->fc1.weight.requires_grad_(s % 4 >= 2);
      net->fc2.weight.requires_grad_(s != 4);
    }
    frozen.train(s);
    schedule.step();
    other.step();
    EXPECT_EQ(frozen.optimizer.groups()[0].options.lr, frozen.inner.groups()[0].options.lr);
    frozen.expect_same();
  }
  EXPECT_LT(frozen.inner.groups()[0].options.lr, 1e-3);
}

void sharded_clipping(ProcessGroup& group) {
  Pair<Mlp, optim::SGD> pair(group, {.lr = 0.5});
  for (int64_t s = 0; s < 2; ++s) {
    const Samples all = make_samples(4 * group.size(), Mlp::kInput, DType::kFloat32, s);
    pair.backward(make_step(all, group.rank(), group.size(), 1, s));
    const double expected = optim::clip_grad_norm_(pair.reference->parameters(), 0.05);
    const double norm = pair.optimizer.clip_grad_norm_(0.05);
    EXPECT_GT(expected, 0.1);  // there is something to clip
    EXPECT_NEAR(norm, expected, 1e-6 * expected);
    double roots = norm;
    group.broadcast({&roots, 1, DType::kFloat64, {}}, 0).wait();
    EXPECT_EQ(norm, roots);
    pair.optimizer.step();
    pair.inner.step();
    const auto a = pair.net->named_parameters(), b = pair.reference->named_parameters();
    for (size_t i = 0; i < a.size(); ++i) {
      const auto x = a[i].second.to_vector(), y = b[i].second.to_vector();
      for (size_t j = 0; j < x.size(); ++j) EXPECT_NEAR(x[j], y[j], 1e-6) << a[i].first;
    }
    expect_same_bits(group, a);
  }
  if (group.size() == 1) return;
  // Half a sum does not pass for a whole one.
  const Samples all = make_samples(4 * group.size(), Mlp::kInput, DType::kFloat32, 9);
  pair.backward(make_step(all, group.rank(), group.size(), 1, 9));
  EXPECT_TRUE(std::isnan(optim::clip_grad_norm_(pair.net->parameters(), 0.05)));
}

// Whole gradients on every rank: clipping has the same bits, too.
void sharded_in_mode_bitwise(ProcessGroup& group) {
  constexpr int64_t kShards = 8;
  DataParallelOptions plain = kPlain, sharded = kSharded;
  plain.reduction = sharded.reduction = ReductionMode::kBitwise;
  plain.virtual_shards = sharded.virtual_shards = kShards;
  Pair<Mlp, optim::AdamW> pair(group, {.lr = 0.01}, plain, sharded);
  for (int64_t s = 0; s < 3; ++s) {
    const Samples all = make_samples(2 * kShards, Mlp::kInput, DType::kFloat32, s);
    data::Step step;
    step.index = s;
    step.global_samples = 2 * kShards;
    const auto range = data::shards_of(kShards, group.rank(), group.size());
    for (int64_t i = range.begin; i < range.end; ++i) step.micros.push_back(part(all, i, kShards));
    pair.backward(step);
    EXPECT_EQ(pair.optimizer.clip_grad_norm_(0.1),
              optim::clip_grad_norm_(pair.reference->parameters(), 0.1));
    pair.optimizer.step();
    pair.inner.step();
  }
  pair.expect_same();
}

// A state that was gathered goes on elsewhere, in either direction.
void sharded_state_moves(ProcessGroup& group) {
  Pair<Mlp, optim::Adam> pair(group, {.lr = 0.01});
  for (int64_t s = 0; s < 2; ++s) pair.train(s);
  const auto sharded = pair.optimizer.gather_states();
  const auto whole = pair.inner.states();
  Pair<Mlp, optim::Adam> next(group, {.lr = 0.01});
  for (const auto& net : {next.net.get(), next.reference.get()}) {
    net->load_state_dict(pair.net->state_dict());
  }
  next.optimizer.load_states(whole);
  next.inner.load_states(sharded);
  next.expect_same();
  pair.train(2);
  next.train(2);
  next.expect_same();
  expect_equal(next.net->named_parameters(), pair.net->named_parameters(), "parameter");

  // Of a parameter that has no bucket yet, and gets one in the next step.
  Pair<FrozenNet, optim::Adam> frozen(group, {.lr = 0.01});
  frozen.optimizer.load_states(whole);
  frozen.inner.load_states(whole);
  frozen.expect_same();
  for (const auto& net : {frozen.net.get(), frozen.reference.get()}) net->requires_grad_();
  frozen.train(2);
  frozen.expect_same();

  auto wrong = whole;
  wrong.pop_back();
  EXPECT_EQ(text_of<ValueError>([&] { next.optimizer.load_states(wrong); }),
            "[sharded_optimizer] the state is that of 5 parameters, there are 6");
  wrong = whole;
  wrong[1].buffers[0].second = zeros({3});
  EXPECT_NE(text_of<ValueError>([&] { next.optimizer.load_states(wrong); }).find("exp_avg of"),
            std::string::npos);
  EXPECT_NE(text_of<ValueError>([&] { next.inner.load_states(wrong); }).find("exp_avg of"),
            std::string::npos);
  wrong = whole;
  wrong[1].buffers[0].first = "momentum";
  EXPECT_NE(text_of<ValueError>([&] { next.inner.load_states(wrong); }).find("\"momentum\""),
            std::string::npos);
  next.expect_same();
}

// After a failed step nothing is updated, and the next one works.
void sharded_after_a_failure(ProcessGroup& group) {
  Pair<Mlp, optim::Adam> pair(group, {.lr = 0.01});
  pair.train(0);
  const auto before = bits_of(pair.net->named_parameters());
  {
    autograd::HookHandle hook;
    if (group.rank() == group.size() - 1) {
      hook = pair.net->fc2.weight.register_hook(
          [](const Tensor&) -> Tensor { throw Error("the hook says no"); });
    }
    const Samples all = make_samples(4 * group.size(), Mlp::kInput, DType::kFloat32, 1);
    auto step = make_step(all, group.rank(), group.size(), 1, 1);
    pair.optimizer.zero_grad();
    EXPECT_THROW(run_step(pair.replicas, *pair.net, step), Error);
  }
  pair.optimizer.step();
  EXPECT_TRUE(before == bits_of(pair.net->named_parameters()));
  pair.train(2);
  pair.expect_same();
  // Two backward passes without zero_grad() add up.
  const Samples all = make_samples(4 * group.size(), Mlp::kInput, DType::kFloat32, 3);
  for (int twice = 0; twice < 2; ++twice) {
    auto step = make_step(all, group.rank(), group.size(), 1, 3), same = step;
    run_step(pair.replicas, *pair.net, step);
    run_step(pair.reference_replicas, *pair.reference, same);
  }
  pair.optimizer.step();
  pair.inner.step();
  pair.expect_same();
}

// Rank 0 gets through its step before the others have begun theirs, and waits where it reads.
void sharded_step_does_not_wait(ProcessGroup& group) {
  const auto aside = group.duplicate();
  aside->set_timeout(std::chrono::seconds(20));
  Pair<ConvNet, optim::Adam> pair(group, {.lr = 0.01});
  for (int64_t s = 0; s < 3; ++s) {
    const Samples all = make_samples(2 * group.size(), ConvNet::kInput, DType::kFloat32, s);
    pair.backward(make_step(all, group.rank(), group.size(), 1, s));
    pair.inner.step();
    if (group.rank() != 0) aside->barrier().wait();
    pair.optimizer.step();
    if (group.rank() == 0) aside->barrier().wait();
    pair.expect_same();
  }
}

// The memory that others still send to is not freed under them.
void sharded_goes_while_gathering(ProcessGroup& group) {
  const auto aside = group.duplicate();
  for (int64_t s = 0; s < 3; ++s) {
    Pair<Mlp, optim::Adam> pair(group, {.lr = 0.01});
    const Samples all = make_samples(2 * group.size(), Mlp::kInput, DType::kFloat32, s);
    pair.backward(make_step(all, group.rank(), group.size(), 1, s));
    if (group.rank() != 0) {
      aside->barrier().wait();
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    pair.optimizer.step();
    if (group.rank() == 0) aside->barrier().wait();
  }
}

void sharded_refusals(ProcessGroup& group) {
  const auto net = make_net<Mlp>(DType::kFloat32), stranger = make_net<Mlp>(DType::kFloat32);
  DataParallel replicas(*net, share_of(group), kSharded);
  EXPECT_EQ(
      text_of<ValueError>([&] { ShardedOptimizer<optim::SGD>(replicas, stranger->parameters()); }),
      "[sharded_optimizer] parameter 0 is not one of the DataParallel's");
  ShardedOptimizer<optim::SGD> sgd(replicas, net->parameters(), {.lr = 0.1});
  sum(net->fc1.weight).backward();
  EXPECT_EQ(text_of<Error>([&] {
              sgd.step();
            }).find("[sharded_optimizer] the gradient of fc1.weight is this rank's own"),
            0u);
  sgd.zero_grad();
  sgd.step();  // nothing to do
  const Tensor home = net->fc2.weight.detach();
  net->fc2.weight.set_data(home.clone());
  EXPECT_EQ(
      text_of<Error>([&] { sgd.step(); }),
      "[sharded_optimizer] parameter fc2.weight no longer lies in its bucket; write its values "
      "with copy_() instead of set_data()");
  net->fc2.weight.set_data(home);
  sgd.step();
  if (group.size() == 1) return;
  EXPECT_NE(text_of<Error>([&] { replicas.join(); }).find("sharded optimizer"), std::string::npos);
  DataParallel plain(*stranger, share_of(group));
  EXPECT_EQ(
      text_of<ValueError>([&] { ShardedOptimizer<optim::SGD>(plain, stranger->parameters()); }),
      "[sharded_optimizer] its DataParallel must be made with {.shard_gradients = true}");
}

}  // namespace

const std::vector<Case>& sharded_cases() {
  static const std::vector<Case> cases{
      {"sharded_equals_unsharded", sharded_equals_unsharded},
      {"sharded_with_unused_and_frozen", sharded_with_unused_and_frozen},
      {"sharded_clipping", sharded_clipping},
      {"sharded_in_mode_bitwise", sharded_in_mode_bitwise},
      {"sharded_state_moves", sharded_state_moves},
      {"sharded_after_a_failure", sharded_after_a_failure},
      {"sharded_step_does_not_wait", sharded_step_does_not_wait},
      {"sharded_goes_while_gathering", sharded_goes_while_gathering},
      {"sharded_refusals", sharded_refusals},
  };
  return cases;
}

}  // namespace lockstep::distributed::testing
