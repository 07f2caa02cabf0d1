#include "lockstep/launch/run.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include <unistd.h>

#include "lockstep/distributed/mpi_group.h"
#include "lockstep/distributed/mpi_runtime.h"
#include "lockstep/distributed/nccl_group.h"
#include "lockstep/distributed/staged_group.h"
#include "lockstep/engine/plugin.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/exception_text.h"
#include "lockstep/engine/tensor/random.h"
#include "lockstep/launch/cores.h"
#include "lockstep/launch/device_choice.h"
#include "lockstep/launch/environment.h"
#include "lockstep/launch/log.h"
#include "lockstep/launch/matmul_table.h"
#include "lockstep/launch/report.h"
#include "lockstep/launch/signals.h"
#include "lockstep/launch/summary.h"
#include "lockstep/launch/trace.h"

namespace lockstep::launch {
namespace {

constexpr int kFailed = 1;
constexpr int kUsage = 2;
constexpr auto kPeersPatience = std::chrono::seconds(3);
constexpr auto kOwnPatience = std::chrono::seconds(2);
constexpr auto kStartPatience = std::chrono::seconds(1);
constexpr unsigned kLastResort = 8;  // seconds after an error until the process ends regardless

bool is_usage(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const UsageError&) {
    return true;
  } catch (...) {
    return false;
  }
}

void check_world(const Options& o, int size) {
  if (o.reduction == "bitwise") {
    check<UsageError>(o.virtual_shards >= size,
                      "[options] --virtual-shards {} cannot be spread over {} ranks: every rank "
                      "needs one. Use more (which gives other bits) or fewer ranks",
                      o.virtual_shards, size);
    return;
  }
  check<UsageError>(o.accumulate <= o.global_batch / size,
                    "[options] --global-batch {} is too small for {} ranks with --accumulate {}: "
                    "every micro-batch needs a sample",
                    o.global_batch, size, o.accumulate);
}

std::chrono::milliseconds timeout_of(const Options& o) {
  return std::chrono::milliseconds(static_cast<int64_t>(o.watchdog * 1000.0));
}

// NCCL where every rank has a GPU of its own, through the host's memory elsewhere. All ranks choose
// alike. A rank without a GPU says so when its job looks for one.
std::shared_ptr<distributed::ProcessGroup> join_devices(
    const Options& o, const Environment& env, std::shared_ptr<distributed::ProcessGroup> group) {
  if (o.group == "mpi") return distributed::make_staged_group(std::move(group));
  group->set_timeout(timeout_of(o));
  const Device device = cuda_status().devices > 0 ? choose_device(o.device, env.local_rank)
                                                  : Device{DeviceType::kCuda, 0};
  const std::string why = distributed::why_no_nccl(*group, device);
  if (!why.empty()) {
    check<Error>(o.group == "auto", "[launch] --group nccl cannot be used: {}", why);
    if (group->rank() == 0) {
      log::info(fmt::format("gradients pass through host memory, not by NCCL: {}", why));
    }
    return distributed::make_staged_group(std::move(group));
  }
  if (group->rank() == 0) {
    log::info(fmt::format("gradients pass from GPU to GPU by NCCL {}", cuda_comms()->version()));
  }
  return distributed::make_nccl_group(std::move(group), device,
                                      {.mode = distributed::parse_reduction_mode(o.reduction),
                                       .timeout = timeout_of(o),
                                       .log = log::info});
}

std::shared_ptr<distributed::ProcessGroup> make_group(const Options& o, const Environment& env) {
  const bool alone = !env.launched() || env.size == 1;
  if (o.group == "auto" && alone) return distributed::make_single_group();
  distributed::mpi_runtime::initialize({.rank = env.launched() ? env.rank : -1,
                                        .size = env.launched() && env.size > 0 ? env.size : -1});
  auto group = distributed::make_mpi_group();
  return o.device == "cpu" ? group : join_devices(o, env, std::move(group));
}

void train_and_report(const CommandLine& line,
                      const std::shared_ptr<distributed::ProcessGroup>& group,
                      const std::function<void(Job&)>& train) {
  const auto& o = line.options;
  const bool reporting = group->rank() == 0 && !o.report.empty();
  if (reporting) check_report_path(o.report);
  if (group->rank() == 0 && !o.trace.empty()) check_trace_path(o.trace);
  manual_seed(o.seed);
  Job job(line, group);
  train(job);
  const Report report = job.finish();
  if (reporting) write_report(o.report, report);
  write_tuned_algorithms(o, group->rank(), job.device());
  job.write_trace();
  const distributed::ProcessGroup::LabelScope label(*group, distributed::Label("the job's end"));
  group->barrier().wait();  // nobody leaves with success before the files are there
  if (group->rank() == 0) {
    const std::string text = format_summary(report, o.report, o.trace);
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }
}

// After an error before there was a group, most likely the same one on every rank: the launcher
// ends the others once the first is gone, so they get a moment to say theirs.
int fail_early(int code, const Environment& environment) {
  if (environment.launched() && environment.size != 1) std::this_thread::sleep_for(kStartPatience);
  log::flush();
  std::fflush(nullptr);
  if (distributed::mpi_runtime::initialized()) std::_Exit(code);  // as below
  return code;
}

// The rank's last collectives, beside its other files: what happened before a failure.
void write_flight_record(const distributed::ProcessGroup& group, const Options& o,
                         const std::string& reason) noexcept {
  if (group.size() == 1) return;
  try {
    std::filesystem::path folder = o.log_dir;
    if (folder.empty()) folder = std::filesystem::path(o.report).parent_path();
    const auto file = folder / fmt::format("lockstep-collectives-rank{}.json", group.rank());
    group.write_flight_record(file, reason);
    log::info(fmt::format("the last collectives of each rank are in {}",
                          (folder / "lockstep-collectives-rank*.json").string()));
  } catch (const std::exception& error) {
    log::warn(fmt::format("no record of the last collectives: {}", error.what()));
  }
}

// After an error: tells the peers, gives them a moment to tell theirs, and leaves. With MPI running
// there is no orderly way out, since MPI_Finalize would wait for the ranks that are gone.
int fail_together(distributed::ProcessGroup& group, const Options& options,
                  const std::string& reason) {
  alarm(kLastResort);
  group.abort(reason);
  write_flight_record(group, options, reason);
  group.wait_for_peers_to_fail(kPeersPatience);
  log::flush();
  std::fflush(nullptr);
  if (distributed::mpi_runtime::initialized()) std::_Exit(kFailed);
  alarm(0);
  return kFailed;
}

// The job has failed, and this rank is told by a thread of its group. Its own thread learns of it
// in its next collective; if it does not come to one, because it hangs or computes for long, this
// ends the process in its place.
class Watchdog {
 public:
  Watchdog(distributed::ProcessGroup& group, const Options& options, SignalWatch& signals)
      : group_(group), options_(options), signals_(signals) {
    group.set_timeout(timeout_of(options));
    group.on_failure([this](const std::string& text) { group_failed(text); });
  }

  // True for the first who asks: who is to end the process.
  bool take_over() { return !taken_.exchange(true); }

 private:
  void group_failed(const std::string& text) {
    const auto deadline = std::chrono::steady_clock::now() + kOwnPatience;
    while (std::chrono::steady_clock::now() < deadline) {
      if (taken_) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    if (!take_over()) return;
    log::status("");
    log::error(fmt::format("{}. This rank has not noticed by itself and is ended", text));
    signals_.error_was_reported();
    fail_together(group_, options_, text);
    std::_Exit(kFailed);
  }

  distributed::ProcessGroup& group_;
  const Options options_;
  SignalWatch& signals_;
  std::atomic<bool> taken_ = false;
};

}  // namespace

int run(int argc, char** argv, const std::function<void(Job&)>& train,
        const ProgramOptions& extra) {
  std::shared_ptr<distributed::ProcessGroup> group;
  std::unique_ptr<SignalWatch> signals;
  std::unique_ptr<Watchdog> watchdog;
  Environment environment;
  Options options;
  std::exception_ptr error;
  try {
    signals = std::make_unique<SignalWatch>();
    environment = read_environment();
    if (environment.launched()) log::start({environment.rank, environment.size, ""});
    const auto line = parse_command_line(argc, argv, extra);
    if (!line.answer.empty()) {
      if (environment.rank == 0) std::fputs(line.answer.c_str(), stdout);
      return 0;
    }
    if (environment.size > 0) check_world(line.options, environment.size);
    log::start({environment.rank, environment.size, line.options.log_dir});
    group = make_group(line.options, environment);
    if (environment.size == 0) {
      log::start({group->rank(), group->size(), line.options.log_dir});
      check_world(line.options, group->size());
    }
    options = line.options;
    watchdog = std::make_unique<Watchdog>(*group, options, *signals);
    share_cores(*group);
    train_and_report(line, group, train);
    group->on_failure({});
    group.reset();
    distributed::mpi_runtime::finalize();
    return 0;
  } catch (...) {
    error = std::current_exception();
  }
  // Out here the exception's handler has ended, and everything that `train` held is gone.
  const std::string reason = exception_text(error);
  if (watchdog && !watchdog->take_over()) {
    std::this_thread::sleep_for(std::chrono::seconds(kLastResort));  // the process ends meanwhile
    return kFailed;
  }
  log::status("");
  log::error(reason);
  if (signals) signals->error_was_reported();
  if (group) return fail_together(*group, options, reason);
  return fail_early(is_usage(error) ? kUsage : kFailed, environment);
}

}  // namespace lockstep::launch
