#include "random_models.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/distributed/data_parallel.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/optim/optim.h"

#include "data_parallel_support.h"
#include "random_net.h"

namespace lockstep::distributed::testing {
namespace {

constexpr int64_t kSteps = 6;

// Largest differences that are let pass, relative to the largest element of what is compared.
// Float64 throughout is compared parameter by parameter. With float32 in play the gradient of one
// parameter may be a small rest of large terms that cancel, so the gradient of the whole model is
// what 1e-6 refers to; parameter by parameter it is only a guard against wrong factors.
constexpr double kTolerance = 1e-6;
constexpr double kDoubleTolerance = 1e-12;
constexpr double kFloatGuard = 1e-4;

// -- the batch

struct Batch {
  Tensor x, y;
  std::vector<std::vector<data::Range>> micros;  // by rank

  data::MicroBatch micro(int rank, size_t k) const {
    const data::Range range = micros[static_cast<size_t>(rank)][k];
    return take(range, static_cast<int64_t>(k));
  }
  // All of one rank's samples; they lie together.
  data::MicroBatch share(int rank) const {
    const auto& mine = micros[static_cast<size_t>(rank)];
    return take({mine.front().begin, mine.back().end}, 0);
  }
  data::MicroBatch take(data::Range range, int64_t index) const {
    return {x.narrow(0, range.begin, range.size()), y.narrow(0, range.begin, range.size()), index,
            range.size()};
  }
};

// Every rank gets one to three micro-batches of one to six samples. Classes come in runs, and not
// every batch has all of them.
Batch draw_batch(Draw& draw, int world) {
  Batch batch;
  int64_t at = 0;
  for (int r = 0; r < world; ++r) {
    auto& mine = batch.micros.emplace_back();
    for (int64_t k = draw.between(1, 3); k > 0; --k) {
      const int64_t size = draw.between(1, 6);
      mine.push_back({at, at + size});
      at += size;
    }
  }
  batch.x = empty({at, kInputs}, {DType::kFloat64});
  batch.y = empty({at}, {DType::kInt64});
  for (int64_t i = 0; i < at * kInputs; ++i) {
    batch.x.data<double>()[i] = static_cast<double>(draw.between(-1000, 1000)) / 700.0;
  }
  int64_t target = draw.below(kTargets);
  for (int64_t i = 0; i < at; ++i) {
    if (draw.one_in(4)) target = draw.below(kTargets);
    batch.y.data<int64_t>()[i] = target;
  }
  return batch;
}

// -- who is frozen where

class Freezer {
 public:
  Freezer(const NamedTensors& parameters, int world) : world_(world) {
    for (const auto& [name, p] : parameters) names_.push_back(name);
    frozen_.assign(names_.size(), std::vector<bool>(static_cast<size_t>(world), false));
  }

  void draw(Draw& draw) {
    uniform_ = true;
    for (size_t i = 0; i < names_.size(); ++i) {
      const bool any = draw.one_in(3), all = !draw.one_in(4);
      const bool last = names_[i].rfind("last", 0) == 0;  // something has to have a gradient
      for (int r = 0; r < world_; ++r) {
        const bool frozen = any && !last && (all || draw.one_in(2));
        frozen_[i][static_cast<size_t>(r)] = frozen;
        if (frozen != frozen_[i][0]) uniform_ = false;
      }
    }
  }

  bool frozen(size_t parameter, int rank) const {
    return frozen_[parameter][static_cast<size_t>(rank)];
  }
  int ranks_frozen(size_t parameter) const {
    return static_cast<int>(std::count(frozen_[parameter].begin(), frozen_[parameter].end(), true));
  }
  bool uniform() const { return uniform_; }

  void apply(const nn::Module& net, int rank) const {
    const auto parameters = net.named_parameters();
    for (size_t i = 0; i < parameters.size(); ++i) {
      parameters[i].second.requires_grad_(!frozen(i, rank));
    }
  }

 private:
  int world_;
  std::vector<std::string> names_;
  std::vector<std::vector<bool>> frozen_;  // by parameter, then rank
  bool uniform_ = true;
};

// -- one process

// One forward and backward over the whole batch; or one per rank, where they differ in what is
// frozen. Adds to the gradients and returns the loss.
double backward_alone(const RandomNet& net, const Batch& batch, const Freezer& freezer) {
  if (freezer.uniform()) {
    freezer.apply(net, 0);
    const Tensor loss = net.loss(batch.x, batch.y);
    loss.backward();
    return loss.item();
  }
  double sum = 0.0;
  for (int r = 0; r < static_cast<int>(batch.micros.size()); ++r) {
    freezer.apply(net, r);
    const data::MicroBatch share = batch.share(r);
    const Tensor loss = net.loss(share.x, share.y) *
                        (static_cast<double>(share.size()) / static_cast<double>(batch.x.size(0)));
    loss.backward();
    sum += loss.item();
  }
  return sum;
}

void copy_parameters(const nn::Module& from, const nn::Module& to) {
  const autograd::NoGrad no_grad;
  const auto sources = from.named_parameters();
  const auto targets = to.named_parameters();
  for (size_t i = 0; i < sources.size(); ++i) targets[i].second.copy_(sources[i].second);
}

double largest(const std::vector<double>& values) {
  double result = 0.0;
  for (double v : values) result = std::max(result, std::abs(v));
  return result;
}

void expect_close(const RandomNet& actual, const RandomNet& expected) {
  const auto a = actual.named_parameters(), b = expected.named_parameters();
  ASSERT_EQ(a.size(), b.size());
  const bool all_double = std::all_of(b.begin(), b.end(), [](const auto& named) {
    return named.second.dtype() == DType::kFloat64;
  });
  double whole = 0.0;
  for (const auto& [name, p] : b) {
    if (p.grad().defined()) whole = std::max(whole, largest(p.grad().to_vector()));
  }
  EXPECT_GT(whole, 0.0) << "gradients of zeros show nothing";
  for (size_t i = 0; i < a.size(); ++i) {
    const std::string& name = a[i].first;
    const Tensor g = a[i].second.grad(), h = b[i].second.grad();
    EXPECT_EQ(g.defined(), h.defined()) << name;
    if (!g.defined() || !h.defined()) continue;
    EXPECT_EQ(g.dtype(), h.dtype()) << name;
    const auto x = g.to_vector(), y = h.to_vector();
    double distance = 0.0;
    for (size_t j = 0; j < x.size(); ++j) {
      distance = std::isfinite(x[j]) ? std::max(distance, std::abs(x[j] - y[j])) : INFINITY;
    }
    if (all_double) {
      EXPECT_LE(distance, kDoubleTolerance * largest(y)) << name;
    } else {
      EXPECT_LE(distance, kTolerance * whole) << name;
      EXPECT_LE(distance, kFloatGuard * largest(y)) << name;
    }
  }
}

// -- many

void count(Coverage& coverage, const RandomNet& net, const Batch& batch, const Freezer& before,
           const Freezer& now) {
  const int world = static_cast<int>(batch.micros.size());
  ++coverage.steps;
  const auto parameters = net.named_parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    const int frozen = now.ranks_frozen(i);
    if (frozen == world) ++coverage.frozen;
    if (frozen > 0 && frozen < world) ++coverage.frozen_on_some_ranks;
    if (before.ranks_frozen(i) == world && frozen < world) ++coverage.unfrozen_later;
  }
  for (const Layer& layer : net.layers()) {
    if (layer.kind != Kind::kExpert) continue;
    int users = 0;
    for (int r = 0; r < world; ++r) {
      const auto classes = batch.share(r).y.to_vector();
      if (std::count(classes.begin(), classes.end(), static_cast<double>(layer.target)) > 0)
        ++users;
    }
    if (users == 0) ++coverage.used_by_no_rank;
    if (users > 0 && users < world) ++coverage.used_by_some_ranks;
  }
}

void count(Coverage& coverage, const RandomNet& net) {
  coverage.tied += net.has(Kind::kTied);
  coverage.checkpointed += net.has(Kind::kCheckpointed);
  const auto parameters = net.named_parameters();
  coverage.mixed_dtypes += std::any_of(
      parameters.begin(), parameters.end(),
      [&](const auto& named) { return named.second.dtype() != parameters.front().second.dtype(); });
}

// A backward throws on one rank: every rank throws, and has no gradients.
void expect_failure(ProcessGroup& group, DataParallel& replicas, const RandomNet& net,
                    data::Step& step, bool bad, size_t bad_micro) {
  size_t k = 0;
  try {
    for (auto& m : replicas.accumulate(step)) {
      const Tensor loss = net.loss(m.x, m.y);
      autograd::HookHandle hook;
      if (bad && k++ == bad_micro) {
        hook = loss.register_hook([](const Tensor&) -> Tensor { throw Error("not today"); });
      }
      replicas.backward(loss, m.size());
    }
    ADD_FAILURE() << "no error on rank " << group.rank();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("not today"), std::string::npos) << error.what();
  }
  for (const auto& [name, p] : net.named_parameters()) EXPECT_FALSE(p.grad().defined()) << name;
}

}  // namespace

void train_random_model(ProcessGroup& group, uint64_t seed, Coverage& coverage) {
  SCOPED_TRACE("seed " + std::to_string(seed) + ", rank " + std::to_string(group.rank()) + " of " +
               std::to_string(group.size()));
  const int world = group.size();
  Draw draw(seed + 1000);
  // Rank 0's values count; the others have their own until the DataParallel is made.
  manual_seed(seed + static_cast<uint64_t>(group.rank()));
  const RandomNet net(seed), alone(seed);
  count(coverage, net);
  Freezer freezer(net.named_parameters(), world);
  if (draw.one_in(2)) freezer.draw(draw);
  freezer.apply(net, group.rank());
  if (!freezer.uniform()) {  // the model must be the same everywhere at first
    freezer = Freezer(net.named_parameters(), world);
    freezer.apply(net, group.rank());
  }
  const std::vector<size_t> sizes = {1, 64, 200, 1000, size_t{1} << 20};
  DataParallel replicas(
      net, share_of(group),
      {.first_bucket_bytes = sizes[static_cast<size_t>(draw.below(std::ssize(sizes)))],
       .bucket_bytes = sizes[static_cast<size_t>(draw.below(std::ssize(sizes)))]});
  optim::SGD sgd(net.parameters(), {.lr = 0.05});

  for (int64_t index = 0; index < kSteps; ++index) {
    SCOPED_TRACE("step " + std::to_string(index));
    copy_parameters(net, alone);
    const Freezer before = freezer;
    if (draw.one_in(2)) freezer.draw(draw);
    freezer.apply(net, group.rank());
    const Batch batch = draw_batch(draw, world);
    if (!draw.one_in(4)) {
      net.zero_grad();
      alone.zero_grad();
    } else {
      ++coverage.kept_gradients;
    }
    data::Step step;
    step.index = index;
    step.global_samples = batch.x.size(0);
    const auto& mine = batch.micros[static_cast<size_t>(group.rank())];
    for (size_t k = 0; k < mine.size(); ++k) step.micros.push_back(batch.micro(group.rank(), k));

    const bool fails = draw.one_in(8);
    const auto bad_rank = static_cast<int>(draw.below(world));
    const auto bad_micro =
        static_cast<size_t>(draw.below(std::ssize(batch.micros[static_cast<size_t>(bad_rank)])));
    if (fails) {
      ++coverage.failed_steps;
      expect_failure(group, replicas, net, step, group.rank() == bad_rank, bad_micro);
      alone.zero_grad();
      continue;
    }
    for (auto& m : replicas.accumulate(step)) replicas.backward(net.loss(m.x, m.y), m.size());
    const double loss = backward_alone(alone, batch, freezer);
    EXPECT_NEAR(step.report.loss, loss, kTolerance * (1.0 + std::abs(loss)));
    expect_close(net, alone);
    count(coverage, net, batch, before, freezer);
    sgd.step();
    expect_same_bits(group, gradients_of(net));
    expect_same_bits(group, net.named_parameters());
  }
}

void train_random_models(ProcessGroup& group) {
  Coverage coverage;
  for (uint64_t seed = 0; seed < kRandomModels; ++seed) train_random_model(group, seed, coverage);
  EXPECT_GT(coverage.steps, 100);
  EXPECT_GT(coverage.failed_steps, 5);
  EXPECT_GT(coverage.kept_gradients, 10);
  EXPECT_GT(coverage.tied, 3);
  EXPECT_GT(coverage.checkpointed, 3);
  EXPECT_GT(coverage.mixed_dtypes, 3);
  EXPECT_GT(coverage.used_by_some_ranks, 10);
  EXPECT_GT(coverage.used_by_no_rank, 5);
  EXPECT_GT(coverage.frozen, 10);
  EXPECT_GT(coverage.unfrozen_later, 10);
  EXPECT_GT(coverage.frozen_on_some_ranks, 10);
}

}  // namespace lockstep::distributed::testing
