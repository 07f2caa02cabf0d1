// Numbers that are taken together over the ranks.
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "lockstep/distributed/metrics.h"
#include "lockstep/engine/tensor/error.h"
#include "lockstep/engine/tensor/factory.h"

#include "more_cases.h"

namespace lockstep::distributed::testing {
namespace {

std::shared_ptr<ProcessGroup> shared(ProcessGroup& group) {
  return {std::shared_ptr<void>(), &group};
}

// Every rank says what the others hold.
void expect_same_everywhere(ProcessGroup& group, const MetricValues& values) {
  for (const auto& [name, mine] : values) {
    double roots = mine;
    group.broadcast({&roots, 1, DType::kFloat64, {}}, 0).wait();
    EXPECT_EQ(mine, roots) << name;
  }
}

void metrics_of_all_kinds(ProcessGroup& group) {
  Metrics metrics(shared(group));
  const int size = group.size();
  double loss = 0.0;
  double samples = 0.0;
  // Rank r has r + 1 batches, of which batch b has b + 2 samples.
  for (int r = 0; r < size; ++r) {
    for (int b = 0; b <= r; ++b) {
      const double value = 0.1 * r + 0.01 * b;
      if (r == group.rank()) {
        metrics.add("loss", value, b + 2);
        metrics.sum("samples", b + 2);
        metrics.max("most", value);
        metrics.min("least", value - 1.0);
      }
      loss += value * (b + 2);
      samples += b + 2;
    }
  }
  const MetricValues all = metrics.reduce();
  ASSERT_EQ(all.size(), 4u);
  EXPECT_NEAR(all["loss"], loss / samples, 1e-15);
  EXPECT_EQ(all["samples"], samples);
  EXPECT_EQ(all["most"], 0.1 * (size - 1) + 0.01 * (size - 1));
  EXPECT_EQ(all["least"], -1.0);
  expect_same_everywhere(group, all);
  EXPECT_FALSE(all.contains("mean"));
  EXPECT_EQ(text_of<ValueError>([&] { (void)all["mean"]; }),
            "[metrics] there is no \"mean\" among least, loss, most, samples");
  // Nothing is left, and the next round does not see the last.
  metrics.sum("samples", 1.0);
  const MetricValues next = metrics.reduce();
  EXPECT_EQ(next.size(), 1u);
  EXPECT_EQ(next["samples"], size);
  EXPECT_EQ(metrics.reduce().size(), 0u);
}

// The order of ranks is that of a sequential sum, whatever the group does inside.
void metrics_are_summed_in_rank_order(ProcessGroup& group) {
  Metrics metrics(shared(group));
  const auto term = [](int rank) { return rank == 0 ? 1.0 : std::ldexp(1.0, -53) * rank; };
  metrics.sum("s", term(group.rank()));
  double expected = 0.0;
  for (int r = 0; r < group.size(); ++r) expected += term(r);
  EXPECT_EQ(metrics.reduce()["s"], expected);
}

// More than fit into the first exchange; ranks without any are told the names.
void metrics_of_ranks_without_any(ProcessGroup& group) {
  for (const int count : {1, 30, 31, 75}) {
    for (int silent = 0; silent < group.size(); ++silent) {
      Metrics metrics(shared(group));
      for (int i = 0; i < count; ++i) {
        if (group.rank() != silent) metrics.add("m" + std::to_string(i), i + group.rank());
      }
      const MetricValues all = metrics.reduce();
      if (group.size() == 1) {
        EXPECT_EQ(all.size(), 0u);
        continue;
      }
      ASSERT_EQ(all.size(), static_cast<size_t>(count)) << silent;
      double others = 0.0;
      for (int r = 0; r < group.size(); ++r) others += r == silent ? 0.0 : r;
      others /= group.size() - 1;
      for (int i = 0; i < count; ++i) {
        EXPECT_NEAR(all["m" + std::to_string(i)], i + others, 1e-13) << silent;
      }
      expect_same_everywhere(group, all);
    }
  }
}

void metrics_of_no_samples(ProcessGroup& group) {
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  Metrics metrics(shared(group));
  metrics.add("nothing", kNaN, 0.0);
  metrics.add("one", group.rank() == 0 ? 3.0 : kNaN, group.rank() == 0 ? 2.0 : 0.0);
  metrics.max("nan", group.rank() == group.size() - 1 ? kNaN : 1.0);
  metrics.add("tensor", full({1}, 0.5, {DType::kFloat64}), 4.0);
  const MetricValues all = metrics.reduce();
  EXPECT_TRUE(std::isnan(all["nothing"]));
  EXPECT_EQ(all["one"], 3.0);
  EXPECT_TRUE(std::isnan(all["nan"]));
  EXPECT_EQ(all["tensor"], 0.5);
}

void metrics_refuse_what_is_wrong(ProcessGroup& group) {
  Metrics metrics(shared(group));
  metrics.add("loss", 1.0);
  EXPECT_EQ(text_of<ValueError>([&] { metrics.max("loss", 1.0); }),
            "[metrics] \"loss\" is a mean and cannot be a max, too");
  EXPECT_EQ(text_of<ValueError>([&] { metrics.add("loss", 1.0, -2.0); }),
            "[metrics] \"loss\" got the weight -2; it must be finite and not negative");
  EXPECT_EQ(text_of<ValueError>([&] { metrics.add("loss", zeros({2}), 1.0); }),
            "[metrics] \"loss\" got a tensor of shape [2] instead of one number");
  EXPECT_EQ(metrics.reduce()["loss"], 1.0);
  if (group.size() == 1) return;
  // Another name, and another kind, on the last rank; then all goes on.
  const bool odd = group.rank() == group.size() - 1;
  metrics.sum(odd ? "b" : "a", 1.0);
  const std::string names = text_of<DistributedError>([&] { metrics.reduce(); });
  EXPECT_NE(names.find("[metrics] the ranks have different ones"), std::string::npos) << names;
  EXPECT_NE(names.find(": a (sum)"), std::string::npos) << names;
  EXPECT_NE(names.find("rank " + std::to_string(group.size() - 1) + ": b (sum)"), std::string::npos)
      << names;
  if (odd) {
    metrics.max("a", 1.0);
  } else {
    metrics.sum("a", 1.0);
  }
  EXPECT_NE(text_of<DistributedError>([&] { metrics.reduce(); }).find("a (max)"),
            std::string::npos);
  metrics.sum("a", 1.0);
  EXPECT_EQ(metrics.reduce()["a"], group.size());
}

}  // namespace

const std::vector<Case>& metrics_cases() {
  static const std::vector<Case> cases{
      {"metrics_of_all_kinds", metrics_of_all_kinds},
      {"metrics_are_summed_in_rank_order", metrics_are_summed_in_rank_order},
      {"metrics_of_ranks_without_any", metrics_of_ranks_without_any},
      {"metrics_of_no_samples", metrics_of_no_samples},
      {"metrics_refuse_what_is_wrong", metrics_refuse_what_is_wrong},
  };
  return cases;
}

std::vector<Case> more_cases() {
  std::vector<Case> all;
  for (const auto& some : {metrics_cases(), sync_batch_norm_cases(), sharded_cases()})
    all.insert(all.end(), some.begin(), some.end());
  return all;
}

}  // namespace lockstep::distributed::testing
