#include "lockstep/distributed/nccl_group.h"

#include <atomic>
#include <cstdlib>
#include <exception>
#include <map>
#include <utility>
#include <vector>

#include "lockstep/distributed/agreement.h"
#include "lockstep/distributed/collective.h"
#include "lockstep/distributed/device_collectives.h"
#include "lockstep/distributed/device_link.h"
#include "lockstep/distributed/ticker.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/capture.h"
#include "lockstep/engine/plugin.h"
#include "lockstep/engine/sync_debug.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::distributed {
namespace {

constexpr auto kTick = std::chrono::milliseconds(100);

class NcclMemory final : public Memory {
 public:
  NcclMemory(std::shared_ptr<DeviceLink> link, void* data, size_t bytes)
      : link_(std::move(link)), data_(data), bytes_(bytes) {
    if (bytes == 0) return;
    const autograd::NoGrad no_grad;
    from_memory(data, {static_cast<int64_t>(bytes)}, DType::kUInt8, nullptr, link_->device())
        .zero_();
  }
  ~NcclMemory() override {
    if (!data_) return;
    try {
      const SyncAllowed allowed;
      backend_of(link_->device()).synchronize();  // the memory is not the stream's own
    } catch (const Error&) {                      // the device is lost
    }
    link_->comm().withdraw(data_);
    link_->comm().deallocate(data_);
  }
  NcclMemory(const NcclMemory&) = delete;
  NcclMemory& operator=(const NcclMemory&) = delete;
  void* data() const override { return data_; }
  size_t bytes() const override { return bytes_; }

 private:
  std::shared_ptr<DeviceLink> link_;
  void* data_;
  size_t bytes_;
};

class NcclWork final : public Work::State {
 public:
  NcclWork(std::shared_ptr<DeviceLink> link, std::shared_ptr<DeviceOp> op, Work meeting)
      : link_(std::move(link)), op_(std::move(op)), meeting_(std::move(meeting)) {}

  bool is_completed() const override {
    return meeting_.is_completed() && (!op_->done || op_->done->is_done());
  }
  void wait() override {
    try {
      meeting_.wait();
    } catch (const DistributedError& error) {
      link_->fail(error.what());
      throw;
    }
    if (op_->done->is_done()) return;
    link_->throw_if_failed();
    backend_of(link_->device()).wait_for(op_->done);
  }
  Work::Times times() const override {
    return meeting_.is_completed() && op_->done ? link_->times_of(*op_) : Work::Times{};
  }

 private:
  const std::shared_ptr<DeviceLink> link_;
  const std::shared_ptr<DeviceOp> op_;
  Work meeting_;
};

class NcclGroup final : public ProcessGroup {
 public:
  NcclGroup(std::shared_ptr<ProcessGroup> host, Device device, NcclOptions options)
      : ProcessGroup(host->rank(), host->size()),
        host_(std::move(host)),
        link_(std::make_shared<DeviceLink>(device)),
        options_(std::move(options)) {
    link_->set_timeout(options_.timeout);
    watch_host();
  }

  ~NcclGroup() override {
    if (std::uncaught_exceptions() > 0) abort("an exception destroyed the process group");
    watch_.reset();
    try {
      last_.wait();  // what is queued is handed over
    } catch (const std::exception& error) {
      link_->fail(error.what());
    }
    try {
      host_->on_failure({});
    } catch (const std::exception&) {  // no thread for it
    }
    host_ = nullptr;  // peers that go on hear of it before NCCL comes to its end
    link_->close();
  }

  // Makes the communicator; the ranks have agreed that they can.
  void start(DeviceComms& comms) {
    try {
      DeviceCommConfig config;
      config.device = link_->device().index;
      config.rank = rank();
      config.size = size();
      config.windows = options_.mode == ReductionMode::kFast;
      if (rank() == 0) config.id = comms.make_id();
      const LabelScope label(*host_, Label("NCCL's start"));
      host_
          ->broadcast({config.id.bytes.data(), static_cast<int64_t>(config.id.bytes.size()),
                       DType::kUInt8, Device{}},
                      0, Launch::kBlocking)
          .wait();
      link_->join(comms, config);
      host_->barrier(Launch::kBlocking).wait();
    } catch (const DistributedError& error) {
      give_up(error.what());
      throw;
    } catch (const Error& error) {
      give_up(error.what());
      throw DistributedError(fmt::format("[rank {}] {}", rank(), error.what()));
    }
    watch_ = std::make_unique<Ticker>(fmt::format("ls-nccl-{}", rank()), kTick, [this] {
      const std::string trouble = link_->look();
      if (!trouble.empty()) give_up(trouble);
      return trouble.empty();
    });
  }

  std::string_view name() const override { return "nccl"; }

  std::shared_ptr<Memory> allocate(size_t bytes, Device device) override {
    link_->throw_if_failed();
    const LabelScope label(*host_, current_label());
    if (device.is_cpu()) return host_->allocate(bytes, device);
    check_device("allocate", device);
    Collective call{CollectiveKind::kAllocate, {}, {}};
    call.in.count = static_cast<int64_t>(bytes);
    call.in.dtype = DType::kUInt8;
    call.label = current_label();
    void* data = nullptr;
    call.then = [&](const Collective&) {
      link_->throw_if_failed();
      if (bytes == 0) return;
      data = link_->comm().allocate(bytes);
      link_->comm().enroll(data, bytes);
      link_->await();
      note_registration(link_->comm().registration(data));
    };
    meet(call, Launch::kBlocking);
    return std::make_shared<NcclMemory>(link_, data, bytes);
  }

  void abort(const std::string& reason) noexcept override {
    give_up(reason);
    abort_duplicates(reason);
  }
  bool wait_for_peers_to_fail(std::chrono::milliseconds timeout) noexcept override {
    return host_->wait_for_peers_to_fail(timeout);
  }
  void set_activity(Phase phase, int64_t step) override {
    ProcessGroup::set_activity(phase, step);
    host_->set_activity(phase, step);
  }
  void set_timeout(std::chrono::milliseconds timeout) override {
    ProcessGroup::set_timeout(timeout);
    host_->set_timeout(timeout);
    link_->set_timeout(timeout);
    options_.timeout = timeout;
  }
  void on_failure(const FailureHandler& handler) override {
    host_->on_failure({});  // a handler at work has ended
    handler_ = handler;
    watch_host();
  }
  void write_flight_record(const std::filesystem::path& file,
                           const std::string& reason) const override {
    host_->write_flight_record(file, reason);
  }

 private:
  std::shared_ptr<ProcessGroup> make_duplicate() override {
    return make_nccl_group(host_->duplicate(), link_->device(), options_);
  }

  Work issue(const Collective& c, Launch launch) override {
    forbid_in_capture("a collective",
                      "its ranks meet on the host for each. Capture a step of one "
                      "rank, without DataParallel");
    link_->throw_if_failed();  // the hosts may not have heard of it yet
    if (c.in.device.is_cpu()) return host_->start(c, launch);
    check_device(distributed::name_of(c.kind), c.in.device);
    const auto op = std::make_shared<DeviceOp>();
    op->ready = backend_of(c.in.device).record_event();
    Collective call = c;
    call.then = [link = link_, op, rank = rank(), size = size()](const Collective& met) {
      link->run(op, met, [&] { run_on_device(*link, met, rank, size); });
    };
    last_ = meet(call, launch);
    Work work(std::make_shared<NcclWork>(link_, op, last_));
    if (launch == Launch::kBlocking) work.wait();
    return work;
  }

  // A failure of the host group ends the device's work at once, not when a thread is told of it.
  Work meet(const Collective& call, Launch launch) {
    try {
      return host_->start(call, launch);
    } catch (const DistributedError& error) {
      link_->fail(error.what());
      throw;
    }
  }

  void check_device(std::string_view what, Device device) const {
    check(device == link_->device(), "[{}] this rank's NCCL group is on {}, not on {}", what,
          link_->device().str(), device.str());
  }

  // Here and, through the host group, everywhere.
  void give_up(const std::string& reason) noexcept {
    try {
      // As the host group words it.
      link_->fail(reason.compare(0, 6, "[rank ") == 0
                      ? reason
                      : fmt::format("[rank {}] aborted: {}", rank(), reason));
    } catch (const std::exception&) {  // no memory
      link_->fail({});
    }
    host_->abort(reason);
  }

  void watch_host() {
    host_->on_failure([link = link_.get(), handler = handler_](const std::string& text) {
      link->fail(text);
      if (handler) handler(text);
    });
  }

  void note_registration(const std::string& why) {
    if (why.empty() || !options_.log || std::exchange(noted_, true)) return;
    options_.log(
        fmt::format("NCCL copies the gradients once more on their way, since their memory "
                    "is not registered: {}",
                    why));
  }

  std::shared_ptr<ProcessGroup> host_;
  const std::shared_ptr<DeviceLink> link_;
  NcclOptions options_;
  FailureHandler handler_;
  Work last_;
  bool noted_ = false;
  std::unique_ptr<Ticker> watch_;
};

// What is the same on every run.
void hold_to_one_algorithm(const NcclOptions& options) {
  if (options.mode == ReductionMode::kFast) return;
  const std::pair<const char*, const char*> settings[] = {
      {"NCCL_ALGO", "Ring"}, {"NCCL_PROTO", "Simple"}, {"NCCL_NVLS_ENABLE", "0"}};
  for (const auto& [name, value] : settings) {
    const char* const set = std::getenv(name);
    if (!set) {
      setenv(name, value, 0);
    } else if (options.log && std::string_view(set) != value) {
      options.log(
          fmt::format("{}={} is left as it is; the bits of NCCL's sums repeat with {}={} only",
                      name, set, name, value));
    }
  }
}

}  // namespace

std::string why_no_nccl(ProcessGroup& host, Device device) {
  // Either what is missing here, or which device this is.
  std::string mine;
  DeviceComms* const comms = device.is_cpu() ? nullptr : cuda_comms();
  if (device.is_cpu()) {
    mine = "!NCCL is for GPUs, and this rank computes on the cpu";
  } else if (cuda_status().devices == 0) {
    mine = "!" + cuda_status().why;
  } else if (const std::string problem = comms->problem(); !problem.empty()) {
    mine = "!" + problem;
  } else {
    mine = "=" + comms->identity(device.index);
  }
  const ProcessGroup::LabelScope label(host, Label("whether NCCL can be used"));
  std::string problems;
  for (const auto& [text, ranks] : ranks_by_text(exchange_texts(host, mine))) {
    const bool all = std::ssize(ranks) == host.size();
    if (text.starts_with("!")) {
      problems += (problems.empty() ? "" : "; ") +
                  (all ? text.substr(1) : fmt::format("{}: {}", name_ranks(ranks), text.substr(1)));
    } else if (ranks.size() > 1) {
      problems += fmt::format(
          "{}{} share a GPU, and NCCL wants one for each; start fewer ranks per machine, or use "
          "the mpi group",
          problems.empty() ? "" : "; ", name_ranks(ranks));
    }
  }
  return problems;
}

std::shared_ptr<ProcessGroup> make_nccl_group(std::shared_ptr<ProcessGroup> host, Device device,
                                              const NcclOptions& options) {
  hold_to_one_algorithm(options);
  const std::string why = why_no_nccl(*host, device);
  check<DistributedError>(why.empty(), "[nccl group] there can be no NCCL group: {}", why);
  auto group = std::make_shared<NcclGroup>(std::move(host), device, options);
  group->start(*cuda_comms());
  return group;
}

}  // namespace lockstep::distributed
