#include "lockstep/launch/job.h"

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/data/fashion_mnist.h"
#include "lockstep/distributed/data_parallel.h"
#include "lockstep/distributed/threads_group.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/matmul_precision.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/error.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/random.h"
#include "lockstep/launch/log.h"
#include "lockstep/launch/weights_hash.h"
#include "lockstep/nn/nn.h"
#include "lockstep/optim/optim.h"

namespace lockstep::launch {
namespace {

// Calls `body` with a job of its own in each of `size` threads.
void with_jobs(int size, const Options& options, const std::function<void(Job&)>& body) {
  log::start({});
  const auto groups = distributed::make_threads_groups(size);
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::exception_ptr first;
  for (const auto& group : groups) {
    threads.emplace_back([&, group] {
      try {
        Job job({options, "program", ""}, group);
        body(job);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!first) first = std::current_exception();
        group->abort("a rank failed");
      }
    });
  }
  for (auto& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

// x and y of sample i are i.
data::TensorDataset counting(int64_t size) { return {arange(size), arange(size)}; }

Options options_with(int64_t batch, int64_t accumulate = 1, int64_t epochs = 1) {
  Options options;
  options.global_batch = batch;
  options.accumulate = accumulate;
  options.epochs = epochs;
  options.seed = 5;
  return options;
}

// The samples of every micro-batch, by step and global number of the micro-batch.
using Seen = std::map<std::pair<int64_t, int64_t>, std::vector<double>>;

Seen samples_seen(int ranks, const Options& options, const data::Dataset& dataset) {
  Seen seen;
  std::mutex mutex;
  with_jobs(ranks, options, [&](Job& job) {
    for (auto& step : job.steps(dataset)) {
      for (const auto& micro : step.micros) {
        const std::lock_guard lock(mutex);
        EXPECT_TRUE(seen.emplace(std::pair(step.index, micro.index), micro.x.to_vector()).second);
        EXPECT_EQ(micro.y.to_vector(), micro.x.to_vector());
      }
    }
  });
  return seen;
}

TEST(Job, AccumulationOnOneRankEqualsFourRanks) {
  const auto dataset = counting(103);
  const auto alone = samples_seen(1, options_with(10, 4, 2), dataset);
  EXPECT_EQ(alone.size(), 2u * 10u * 4u);
  EXPECT_EQ(samples_seen(4, options_with(10, 1, 2), dataset), alone);
  EXPECT_EQ(samples_seen(2, options_with(10, 2, 2), dataset), alone);
}

TEST(Job, MaxStepsWinsOverEpochs) {
  const auto dataset = counting(50);
  for (const int64_t steps : {1, 3, 12}) {
    auto options = options_with(10, 1, 2);
    options.max_steps = steps;
    with_jobs(1, options, [&](Job& job) {
      int64_t count = 0;
      for (auto& step : job.steps(dataset)) {
        EXPECT_EQ(step.index, count++);
        EXPECT_EQ(step.epoch, step.index / 5);
      }
      EXPECT_EQ(count, steps);
      const auto report = job.finish();
      EXPECT_EQ(report.steps, steps);
      EXPECT_EQ(report.epochs, (steps + 4) / 5);
    });
  }
}

TEST(Job, ReportsWhatTheStepsSaid) {
  const auto dataset = counting(40);
  auto options = options_with(10, 1, 2);  // two epochs of four steps
  options.reduction = "fast";
  options.compression = "bf16";
  with_jobs(2, options, [&](Job& job) {
    for (auto& step : job.steps(dataset)) {
      step.report.loss = static_cast<double>(step.index) + 0.25;
      step.report.has_loss = true;
      step.report.communication_seconds = 0.5 + job.rank();
      step.report.exposed_communication_seconds = 0.25 * job.rank();
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    EXPECT_EQ(job.reduction(), distributed::ReductionMode::kFast);
    EXPECT_TRUE(job.compression());
    const auto report = job.finish();
    EXPECT_EQ(report.program, "program");
    EXPECT_EQ(report.world_size, 2);
    EXPECT_EQ(report.device, "cpu");
    EXPECT_EQ(report.steps, 8);
    EXPECT_EQ(report.epochs, 2);
    EXPECT_EQ(report.train_loss, (4 + 5 + 6 + 7) / 4.0 + 0.25);
    EXPECT_EQ(report.step_losses,
              (std::vector<double>{0.25, 1.25, 2.25, 3.25, 4.25, 5.25, 6.25, 7.25}));
    EXPECT_EQ(report.communication_seconds_per_step, 1.5);  // the slower rank's
    EXPECT_EQ(report.exposed_communication_seconds_per_step, 0.25);
    EXPECT_GE(report.seconds_per_step, 0.010);
    EXPECT_LT(report.seconds_per_step, 0.5);
    EXPECT_NEAR(report.samples_per_second * report.seconds_per_step, 10.0, 1e-9);
    EXPECT_GT(report.peak_memory_bytes, 1 << 20);
    EXPECT_FALSE(report.test_accuracy.has_value());
    EXPECT_EQ(report.weights_sha256, "");
    EXPECT_EQ(report.reduction, "fast");
    EXPECT_EQ(report.compression, "bf16");
    EXPECT_EQ(report.global_batch, 10);
    EXPECT_EQ(report.accumulate, 1);
    EXPECT_EQ(report.seed, 5u);
  });
}

// The shards are the same on any number of ranks; --accumulate has no effect.
TEST(Job, StepsOfModeBitwiseConsistOfVirtualShards) {
  const auto dataset = counting(40);
  auto options = options_with(16, 3, 1);
  options.reduction = "bitwise";
  options.virtual_shards = 8;
  for (const int ranks : {1, 3}) {
    with_jobs(ranks, options, [&](Job& job) {
      EXPECT_EQ(job.reduction(), distributed::ReductionMode::kBitwise);
      EXPECT_EQ(job.reduction().virtual_shards, 8);
      const auto range = data::shards_of(8, job.rank(), ranks);
      int64_t count = 0;
      for (auto& step : job.steps(dataset)) {
        ++count;
        ASSERT_EQ(std::ssize(step.micros), range.size());
        for (size_t k = 0; k < step.micros.size(); ++k) {
          EXPECT_EQ(step.micros[k].index, range.begin + static_cast<int64_t>(k));
          EXPECT_EQ(step.micros[k].size(), 2);
        }
      }
      EXPECT_EQ(count, 2);
    });
  }
}

TEST(Job, KeepsTheFirstThousandLosses) {
  const auto dataset = counting(20);
  auto options = options_with(10);
  options.max_steps = 1005;
  with_jobs(1, options, [&](Job& job) {
    for (auto& step : job.steps(dataset)) {
      step.report.loss = static_cast<double>(step.index);
      step.report.has_loss = true;
    }
    const auto report = job.finish();
    ASSERT_EQ(report.step_losses.size(), 1000u);
    EXPECT_EQ(report.step_losses.back(), 999.0);
    EXPECT_EQ(report.train_loss, 1004.0);  // two steps an epoch: the last one is step 1004 alone
  });
}

TEST(Job, WithoutLosses) {
  const auto dataset = counting(20);
  with_jobs(1, options_with(10), [&](Job& job) {
    for (auto& step : job.steps(dataset)) static_cast<void>(step);
    EXPECT_FALSE(job.finish().train_loss.has_value());
  });
}

TEST(Job, LeavingTheLoopStopsIt) {
  const auto dataset = counting(1000);
  with_jobs(2, options_with(10), [&](Job& job) {
    for (auto& step : job.steps(dataset)) {
      if (step.index == 3) break;
    }
    EXPECT_EQ(job.finish().steps, 3);
  });
  EXPECT_THROW(with_jobs(2, options_with(10),
                         [&](Job& job) {
                           for (auto& step : job.steps(dataset)) {
                             if (step.index == 3) throw std::out_of_range("enough");
                           }
                         }),
               std::out_of_range);
}

TEST(Job, StepsAreGivenOnce) {
  const auto dataset = counting(20);
  with_jobs(1, options_with(10), [&](Job& job) {
    auto steps = job.steps(dataset);
    EXPECT_THROW(job.steps(dataset), ValueError);
    EXPECT_EQ(steps.begin()->index, 0);
    EXPECT_THROW(steps.begin(), ValueError);
  });
}

TEST(Job, ImpossibleBatches) {
  const auto dataset = counting(20);
  EXPECT_THROW(with_jobs(3, options_with(2), [&](Job& job) { job.steps(dataset); }), ValueError);
  EXPECT_THROW(with_jobs(1, options_with(21), [&](Job& job) { job.steps(dataset); }), ValueError);
}

TEST(Job, RanksMustAgreeOnWhatToTrain) {
  const auto dataset = counting(20);
  const auto longer = counting(21);
  std::atomic<int> errors = 0;
  with_jobs(3, options_with(10), [&](Job& job) {
    try {
      job.steps(job.rank() == 1 ? longer : dataset);
    } catch (const DistributedError& error) {
      const std::string text = error.what();
      EXPECT_NE(text.find("samples in the dataset: 20 on one, 21 on another"), std::string::npos)
          << text;
      ++errors;
    }
  });
  EXPECT_EQ(errors, 3);
}

// Logits whose largest value is at (index % 4); the label is the index, so a quarter of 0..3 fits.
Tensor logits_for(const data::Batch& batch) {
  Tensor logits = zeros({batch.size(), 4});
  for (int64_t i = 0; i < batch.size(); ++i) {
    logits.data<float>()[4 * i + batch.x.data<int64_t>()[i] % 4] = 1.0f;
  }
  return logits;
}

TEST(Job, EvaluationCountsEverySampleOnce) {
  const int64_t size = 23;
  const data::TensorDataset dataset(arange(size), full({size}, 2, {DType::kInt64}));
  for (const int ranks : {1, 2, 3, 4, 25}) {  // 25: some ranks have nothing to do
    for (const int64_t batch : {1, 4, 100}) {
      std::atomic<int64_t> samples = 0;
      with_jobs(ranks, options_with(30), [&](Job& job) {
        const double accuracy = job.evaluate(
            dataset,
            [&](const data::Batch& b) {
              EXPECT_LE(b.size(), batch);
              EXPECT_FALSE(autograd::grad_enabled());
              samples += b.size();
              return logits_for(b);
            },
            batch);
        EXPECT_EQ(accuracy, 6.0 / 23.0);  // 2, 6, 10, 14, 18, 22
        EXPECT_EQ(job.finish().test_accuracy, accuracy);
      });
      EXPECT_EQ(samples, size);
    }
  }
}

TEST(Job, ValidationLossIsTheMeanOverAllSamples) {
  const auto dataset = counting(23);
  for (const int ranks : {1, 2, 3, 25}) {
    for (const int64_t batch : {1, 4, 100}) {
      std::atomic<int64_t> samples = 0;
      with_jobs(ranks, options_with(30), [&](Job& job) {
        const auto mean_index = [&](const data::Batch& b) {
          EXPECT_LE(b.size(), batch);
          EXPECT_FALSE(autograd::grad_enabled());
          samples += b.size();
          return mean(b.x.to(DType::kFloat64));
        };
        EXPECT_NEAR(job.evaluate_loss(dataset, mean_index, batch), 11.0, 1e-12);
        EXPECT_NEAR(job.finish().validation_loss.value(), 11.0, 1e-12);
      });
      EXPECT_EQ(samples, 23);
    }
  }
}

TEST(Job, ValidationRefusesWhatIsNoMean) {
  const auto dataset = counting(4);
  const auto attempt = [&](const Tensor& loss) {
    with_jobs(1, options_with(1),
              [&](Job& job) { job.evaluate_loss(dataset, [&](const auto&) { return loss; }); });
  };
  EXPECT_THROW(attempt(zeros({2})), ValueError);
  EXPECT_THROW(attempt(Tensor()), ValueError);
}

TEST(Job, EvaluationOfDoublesAndNan) {
  const data::TensorDataset dataset(zeros({2}), tensor({0, 0}));
  with_jobs(1, options_with(1), [&](Job& job) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const Tensor logits = tensor({1.0, 0.0, nan, nan}, {.dtype = DType::kFloat64}).view({2, 2});
    EXPECT_EQ(job.evaluate(dataset, [&](const data::Batch&) { return logits; }), 0.5);
  });
}

TEST(Job, EvaluationRefusesWhatAreNoLogits) {
  const auto dataset = counting(4);
  const auto attempt = [&](const Tensor& logits) {
    with_jobs(1, options_with(1),
              [&](Job& job) { job.evaluate(dataset, [&](const data::Batch&) { return logits; }); });
  };
  EXPECT_THROW(attempt(zeros({4})), ValueError);
  EXPECT_THROW(attempt(zeros({3, 2})), ValueError);
  EXPECT_THROW(attempt(zeros({4, 2}, {DType::kInt64})), ValueError);
  EXPECT_THROW(attempt(Tensor()), ValueError);
}

TEST(Job, EvaluationTimeIsNotTrainingTime) {
  const auto dataset = counting(20);
  with_jobs(1, options_with(10), [&](Job& job) {
    for (auto& step : job.steps(dataset)) {
      static_cast<void>(step);
      job.evaluate(dataset, [](const data::Batch& batch) {
        std::this_thread::sleep_for(std::chrono::milliseconds(300));
        return logits_for(batch);
      });
    }
    EXPECT_LT(job.finish().seconds_per_step, 0.2);
  });
}

TEST(Job, HashesTheWeightsThatAllRanksShare) {
  std::mutex mutex;
  std::vector<std::string> hashes;
  with_jobs(3, options_with(3), [&](Job& job) {
    job.track({{"w", ones({2, 2})}});
    const auto hash = job.finish().weights_sha256;
    const std::lock_guard lock(mutex);
    hashes.push_back(hash);
  });
  ASSERT_EQ(hashes.size(), 3u);
  EXPECT_EQ(hashes[0].size(), 64u);
  EXPECT_EQ(hashes[0], hashes[1]);
  EXPECT_EQ(hashes[0], hashes[2]);
}

TEST(Job, LearnsTheWeightsFromTheSteps) {
  const auto dataset = counting(20);
  std::string tracked;
  with_jobs(1, options_with(10), [&](Job& job) {
    job.track({{"w", ones({2})}});
    tracked = job.finish().weights_sha256;
  });
  with_jobs(1, options_with(10), [&](Job& job) {
    const auto weights = std::make_shared<const NamedTensors>(NamedTensors{{"w", ones({2})}});
    for (auto& step : job.steps(dataset)) step.report.models = {weights};
    EXPECT_EQ(job.finish().weights_sha256, tracked);
  });
}

// A generator and a critic: both are hashed and compared, and both count.
TEST(Job, CoversEveryModelOfAStep) {
  const data::TensorDataset dataset(randn({20, 3}), arange(20));
  struct Pair {
    nn::Linear generator{3, 2}, critic{2, 1};
  };
  const auto train = [&](Job& job, Pair& nets) {
    distributed::DataParallel generator(nets.generator, job.group());
    distributed::DataParallel critic(nets.critic, job.group());
    optim::SGD sgd(nets.critic.parameters(), {.lr = 0.1});
    for (auto& step : job.steps(dataset)) {
      for (auto& micro : critic.accumulate(step)) {
        critic.backward(sum(nets.critic(nets.generator(micro.x).detach())) * 0.0 + 2.0);
      }
      const auto first = step.report;
      EXPECT_EQ(first.loss, 2.0);
      for (auto& micro : generator.accumulate(step)) {
        generator.backward(sum(nets.critic(nets.generator(micro.x))) * 0.0 + 0.25);
      }
      EXPECT_GT(step.report.communication_seconds, first.communication_seconds);
      EXPECT_EQ(step.report.models.size(), 2u);
      sgd.zero_grad();
      for (auto& micro : critic.accumulate(step)) {  // a second time
        critic.backward(sum(nets.critic(micro.x.narrow(1, 0, 2))) * 0.0 + 4.0);
      }
      sgd.step();
    }
  };
  with_jobs(2, options_with(10), [&](Job& job) {
    Pair nets;
    train(job, nets);
    const auto report = job.finish();
    EXPECT_EQ(report.train_loss, 6.25);
    NamedTensors all = nets.critic.named_parameters();
    for (const auto& named : nets.generator.named_parameters()) all.push_back(named);
    EXPECT_EQ(report.weights_sha256, to_hex(weights_hash(all)));
  });
  for (const bool critic : {true, false}) {
    EXPECT_THROW(with_jobs(2, options_with(10),
                           [&](Job& job) {
                             Pair nets;
                             train(job, nets);
                             const auto& net = critic ? nets.critic : nets.generator;
                             if (job.rank() == 1) net.weight.data<float>()[0] += 1.0f;
                             job.finish();
                           }),
                 DistributedError)
        << (critic ? "critic" : "generator");
  }
}

TEST(Job, DifferentWeightsAreAnErrorThatNamesTheRanks) {
  std::mutex mutex;
  std::vector<std::string> errors;
  with_jobs(4, options_with(4), [&](Job& job) {
    job.track({{"w", full({3}, job.rank() == 2 ? 7.0 : 1.0)}});
    try {
      job.finish();
    } catch (const DistributedError& error) {
      const std::lock_guard lock(mutex);
      errors.emplace_back(error.what());
    }
  });
  ASSERT_EQ(errors.size(), 4u);
  for (const auto& error : errors) {
    EXPECT_NE(error.find("ranks 0, 1, 3 have "), std::string::npos) << error;
    EXPECT_NE(error.find("rank 2 has "), std::string::npos) << error;
  }
}

TEST(Job, WeightsOnSomeRanksOnlyAreAnError) {
  EXPECT_THROW(with_jobs(2, options_with(2),
                         [&](Job& job) {
                           if (job.rank() == 1) job.track({{"w", ones({2})}});
                           job.finish();
                         }),
               DistributedError);
}

TEST(Job, DataDirectory) {
  const char* old = std::getenv("LOCKSTEP_DATA");
  const std::string saved = old != nullptr ? old : "";
  auto options = options_with(1);
  const auto directory = [&] {
    std::string result;
    with_jobs(1, options, [&](Job& job) { result = job.data_dir().string(); });
    return result;
  };
  unsetenv("LOCKSTEP_DATA");
  EXPECT_EQ(directory(), data::distribution_data_dir().string());
  setenv("LOCKSTEP_DATA", "/from/environment", 1);
  EXPECT_EQ(directory(), "/from/environment");
  options.data = "/from/flag";
  EXPECT_EQ(directory(), "/from/flag");
  old != nullptr ? setenv("LOCKSTEP_DATA", saved.c_str(), 1) : unsetenv("LOCKSTEP_DATA");
}

// A step that overflows on one of two ranks is skipped and counted on both.
TEST(Job, HalfPrecision) {
  Options options = options_with(4);
  options.max_steps = 4;
  options.precision = "fp16";
  options.matmul_precision = "high";
  with_jobs(2, options, [](Job& job) {
    EXPECT_EQ(job.precision(), DType::kFloat16);
    EXPECT_EQ(get_float32_matmul_precision(), "high");
    manual_seed(1);
    nn::Linear line(1, 2);
    distributed::DataParallel replicas(line, job.group(), {.precision = job.precision()});
    optim::SGD sgd(line.parameters(), {.lr = 0.1});
    const data::TensorDataset data(rand({16, 1}), arange(16) / 16.0);
    std::vector<double> weights;
    for (auto& step : job.steps(data)) {
      sgd.zero_grad();
      for (auto& micro : replicas.accumulate(step)) {
        const bool overflows = step.index == 2 && job.rank() == 1;
        replicas.backward(mean(line(micro.x)) * (overflows ? 1e6 : 1.0), micro.size());
      }
      EXPECT_EQ(step.report.skipped, step.index == 2);
      EXPECT_EQ(line.weight.grad().defined(), step.index != 2);
      sgd.step();
      weights.push_back(line.weight.to_vector()[0]);
    }
    ASSERT_EQ(weights.size(), 4u);
    EXPECT_NE(weights[1], weights[0]);
    EXPECT_EQ(weights[2], weights[1]);
    EXPECT_NE(weights[3], weights[2]);
    const data::TensorDataset labelled(rand({4, 1}), zeros({4}));
    job.evaluate(labelled, [&](const data::Batch& batch) {
      const Tensor logits = line(batch.x);
      EXPECT_EQ(logits.dtype(), DType::kFloat16);
      return logits;
    });
    const Report report = job.finish();
    EXPECT_EQ(report.precision, "fp16");
    EXPECT_EQ(report.steps, 4);
    EXPECT_EQ(report.skipped_steps, 1);
    EXPECT_EQ(report.loss_scale, 32768.0);
    EXPECT_TRUE(std::isfinite(report.train_loss.value_or(0.0)));
  });
  set_float32_matmul_precision("highest");
}

}  // namespace
}  // namespace lockstep::launch
