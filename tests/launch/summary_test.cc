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
  EXPECT_EQ(format_summary(r, "r.json"),
            "trained        936 steps in 2 epochs on 2 ranks (cpu)\n"
            "train loss     0.2500\n"
            "test accuracy  91.23 %\n"
            "validation     loss 1.8765\n"
            "samples/s      12346\n"
            "communication  88 % hidden behind backward (0.50 of 4.00 ms per step exposed)\n"
            "weights        sha256 abcd\n"
            "log            logs/rank_0000.log\n"
            "report         r.json\n");
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

}  // namespace
}  // namespace lockstep::launch
