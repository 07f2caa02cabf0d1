#include "lockstep/launch/summary.h"

#include <gtest/gtest.h>

namespace lockstep::launch {
namespace {

TEST(Summary, OfSeveralRanks) {
  Report r;
  r.world_size = 2;
  r.device = "cpu";
  r.steps = 936;
  r.epochs = 2;
  r.train_loss = 0.25;
  r.test_accuracy = 0.91234;
  r.validation_loss = 1.8765;
  r.samples_per_second = 12345.6;
  r.communication_seconds_per_step = 0.004;
  r.exposed_communication_seconds_per_step = 0.0005;
  r.weights_sha256 = "abcd";
  r.log = "logs/rank_0000.log";
  EXPECT_EQ(format_summary(r, "r.json", "t.json"),
            "trained        936 steps in 2 epochs on 2 ranks (cpu)\n"
            "train loss     0.2500\n"
            "test accuracy  91.23 %\n"
            "validation     loss 1.8765\n"
            "samples/s      12346\n"
            "communication  88 % hidden behind backward (0.50 of 4.00 ms per step exposed)\n"
            "weights        sha256 abcd\n"
            "log            logs/rank_0000.log\n"
            "report         r.json\n"
            "trace          t.json\n");
}

TEST(Summary, OfOneRankWithoutExtras) {
  Report r;
  r.device = "cpu";
  r.steps = 1;
  r.epochs = 1;
  r.samples_per_second = 10.0;
  EXPECT_EQ(format_summary(r, ""),
            "trained        1 steps in 1 epoch on 1 rank (cpu)\n"
            "samples/s      10\n"
            "communication  none\n");
}

Report with_overlap(double step, double communication, double exposed, double all_reduces) {
  Report r;
  r.world_size = 2;
  r.global_batch = 96;
  r.accumulate = 3;
  r.seconds_per_step = step;
  r.communication_seconds_per_step = communication;
  r.exposed_communication_seconds_per_step = exposed;
  r.all_reduces_per_step = all_reduces;
  return r;
}

void expect_has(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << text;
}

TEST(Summary, AdvisesWhereOverlapIsPoor) {
  // Nothing to say: most of it is hidden, or it takes hardly any time, or there is none.
  EXPECT_EQ(overlap_advice(with_overlap(1.0, 0.5, 0.2, 4)), "");
  EXPECT_EQ(overlap_advice(with_overlap(1.0, 0.09, 0.09, 1)), "");
  EXPECT_EQ(overlap_advice(with_overlap(1.0, 0.0, 0.0, 0)), "");
  Report alone = with_overlap(1.0, 0.9, 0.9, 1);
  alone.world_size = 1;
  EXPECT_EQ(overlap_advice(alone), "");

  const auto bound = overlap_advice(with_overlap(1.0, 0.9, 0.7, 4));
  expect_has(bound, "takes longer than the computation");
  expect_has(bound, "--global-batch, now 96");
  expect_has(bound, "--accumulate, now 3");
  expect_has(overlap_advice(with_overlap(1.0, 0.3, 0.3, 1)), "one bucket");
  const auto several = overlap_advice(with_overlap(1.0, 0.3, 0.25, 7));
  expect_has(several, "with 7 buckets");
  expect_has(several, "--trace");
  const auto summary = format_summary(with_overlap(1.0, 0.3, 0.3, 1), "");
  expect_has(summary, "\nadvice         all gradients leave in one bucket");
}

}  // namespace
}  // namespace lockstep::launch
