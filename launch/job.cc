#include "lockstep/launch/job.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <vector>

#include <sys/resource.h>

#include "lockstep/data/fashion_mnist.h"
#include "lockstep/distributed/agreement.h"
#include "lockstep/distributed/collective.h"
#include "lockstep/distributed/compression.h"
#include "lockstep/engine/matmul_precision.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/memory.h"
#include "lockstep/launch/device_choice.h"
#include "lockstep/launch/environment.h"
#include "lockstep/launch/job_state.h"
#include "lockstep/launch/log.h"
#include "lockstep/launch/matmul_table.h"
#include "lockstep/launch/weights_hash.h"

namespace lockstep::launch {
namespace {

using distributed::Buffer;
using distributed::ReduceOp;

template <typename T, size_t N>
Buffer buffer_of(std::array<T, N>& values) {
  return {values.data(), static_cast<int64_t>(N), kDTypeOf<T>, Device{}};
}

// Of the device that computes.
int64_t peak_memory_bytes(Device device) {
  if (!device.is_cpu()) return static_cast<int64_t>(max_memory_allocated(device));
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

// "ranks 0, 2 have 1234abcd..., rank 1 has ..." for weights that should be the same everywhere.
std::string describe(const std::vector<Sha256Digest>& digests) {
  std::vector<std::string> hashes;
  for (const Sha256Digest& digest : digests) hashes.push_back(to_hex(digest).substr(0, 16));
  std::vector<std::string> parts;
  for (const auto& [hash, ranks] : distributed::ranks_by_text(hashes)) {
    parts.push_back(fmt::format("{} {} {}...", distributed::name_ranks(ranks),
                                ranks.size() == 1 ? "has" : "have", hash));
  }
  return fmt::format("{}", fmt::join(parts, "; "));
}

// The hash that every rank agrees on.
std::string common_hash(distributed::ProcessGroup& group, const NamedTensors& weights) {
  Sha256Digest mine = weights_hash(weights);
  std::vector<Sha256Digest> all(static_cast<size_t>(group.size()));
  Buffer out{all.data(), group.size() * static_cast<int64_t>(mine.size()), DType::kUInt8, {}};
  group.all_gather(out, buffer_of(mine)).wait();
  const bool same = std::all_of(all.begin(), all.end(), [&](const auto& d) { return d == mine; });
  check<DistributedError>(same,
                          "[launch] the ranks' weights differ after training: {}. Parameters must "
                          "change only through gradients that DataParallel has reduced",
                          describe(all));
  return to_hex(mine);
}

}  // namespace

Job::Job(CommandLine line, std::shared_ptr<distributed::ProcessGroup> group)
    : state_(std::make_unique<State>(std::move(line), std::move(group))) {
  set_float32_matmul_precision(options().matmul_precision);
  state_->device = choose_device(options().device, read_environment().local_rank);
  state_->group->set_activity(distributed::Phase::kStarting, -1);
  choose_algorithms(options(), *state_->group, state_->device);
}

Job::~Job() = default;

const Options& Job::options() const { return state_->line.options; }

std::filesystem::path Job::data_dir() const {
  if (!options().data.empty()) return options().data;
  const char* variable = std::getenv("LOCKSTEP_DATA");
  if (variable != nullptr && *variable != '\0') return variable;
  return data::distribution_data_dir();
}

Device Job::device() const { return state_->device; }

distributed::ReductionChoice Job::reduction() const {
  return {distributed::parse_reduction_mode(options().reduction), options().virtual_shards};
}

distributed::MakeReduction Job::compression() const {
  const auto& o = options();
  if (o.compression == "bf16") return distributed::bf16_compression();
  if (o.compression == "fp16") return distributed::fp16_compression();
  if (o.compression == "powersgd") {
    return distributed::powersgd(
        {.rank = o.powersgd_rank, .start_iteration = o.powersgd_start, .seed = o.seed});
  }
  return {};
}

DType Job::precision() const {
  if (options().precision == "bf16") return DType::kBFloat16;
  return options().precision == "fp16" ? DType::kFloat16 : DType::kFloat32;
}

const std::shared_ptr<distributed::ProcessGroup>& Job::group() const { return state_->group; }

void Job::track(NamedTensors weights) {
  state_->add_model(std::make_shared<const NamedTensors>(std::move(weights)));
}

Report Job::finish() {
  auto& s = *state_;
  s.group->set_activity(distributed::Phase::kEnding);
  if (options().cuda_graph && !s.has_graphed_step && rank() == 0) {
    log::warn("--cuda-graph had no effect: the program has no launch::GraphedStep");
  }
  const distributed::ProcessGroup::LabelScope label(*s.group,
                                                    distributed::Label("the job's report"));
  const double steps = static_cast<double>(std::max<int64_t>(s.steps, 1));
  const double memory = static_cast<double>(peak_memory_bytes(device()));  // exact below 2^53
  std::array<double, 4> worst = {s.training.count(), s.communication, s.exposed, memory};
  group()->all_reduce(buffer_of(worst), ReduceOp::kMax).wait();

  Report report;
  report.program = s.line.program;
  report.world_size = world_size();
  report.device = device().str();
  report.steps = s.steps;
  report.epochs = s.epochs;
  if (s.epoch_losses > 0)
    report.train_loss = s.epoch_loss_sum / static_cast<double>(s.epoch_losses);
  report.test_accuracy = s.test_accuracy;
  report.validation_loss = s.validation_loss;
  report.samples_per_second = worst[0] > 0.0 ? static_cast<double>(s.samples) / worst[0] : 0.0;
  report.seconds_per_step = worst[0] / steps;
  report.communication_seconds_per_step = worst[1] / steps;
  report.exposed_communication_seconds_per_step = worst[2] / steps;
  report.all_reduces_per_step = static_cast<double>(s.all_reduces) / steps;
  report.peak_memory_bytes = static_cast<int64_t>(worst[3]);
  report.reduction = options().reduction;
  if (options().reduction == "bitwise") report.virtual_shards = options().virtual_shards;
  report.compression = options().compression;
  report.precision = options().precision;
  report.loss_scale = s.loss_scale;
  if (s.loss_scale) report.skipped_steps = s.skipped_steps;
  report.global_batch = options().global_batch;
  report.accumulate = options().accumulate;
  report.seed = options().seed;
  report.log = log::file();
  report.step_losses = s.step_losses;

  // Every rank must take part in the comparison or none.
  const auto models = static_cast<int64_t>(s.models.size());
  std::array<int64_t, 2> most = {models, -models};
  group()->all_reduce(buffer_of(most), ReduceOp::kMax).wait();
  check<DistributedError>(most[0] == -most[1],
                          "[launch] the ranks trained different numbers of models: {} on one, {} "
                          "on another, {} here",
                          most[0], -most[1], models);
  if (models > 0) {
    NamedTensors weights;
    for (const auto& model : s.models) {
      weights.insert(weights.end(), model->begin(), model->end());
    }
    report.weights_sha256 = common_hash(*group(), weights);
  }
  return report;
}

void Job::write_trace() {
  if (state_->trace) {
    const distributed::ProcessGroup::LabelScope label(*group(),
                                                      distributed::Label("the job's timeline"));
    launch::write_trace(options().trace, state_->line.program, *group(), *state_->trace);
  }
}

}  // namespace lockstep::launch
