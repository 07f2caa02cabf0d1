#include "lockstep/distributed/device_link.h"

#include <algorithm>
#include <thread>

#include "lockstep/engine/sync_debug.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {
namespace {

constexpr auto kClosePatience = std::chrono::seconds(5);
constexpr auto kShortNap = std::chrono::microseconds(20);
constexpr auto kLongNap = std::chrono::milliseconds(1);
constexpr int kShortNaps = 100;

void nap(int round) {
  if (round < kShortNaps) {
    std::this_thread::sleep_for(kShortNap);
  } else {
    std::this_thread::sleep_for(kLongNap);
  }
}

}  // namespace

void DeviceLink::join(DeviceComms& comms, const DeviceCommConfig& config) {
  {
    std::shared_ptr<DeviceComm> comm = comms.join(config);
    const std::lock_guard lock(mutex_);
    comm_ = std::move(comm);
  }
  await();  // finds out as well if fail() came before
  const SyncAllowed allowed;
  const std::shared_ptr<CommEvent> origin = comm_->mark();
  origin->wait_on_host();
  clock_.start(origin);
}

void DeviceLink::close() noexcept {
  if (!comm_) return;
  try {
    throw_if_failed();
    comm_->close();
    const auto deadline = Clock::now() + kClosePatience;
    for (int round = 0; !comm_->poll() && Clock::now() < deadline; ++round) nap(round);
  } catch (const std::exception&) {  // then without them
  }
  comm_->abort();
}

void DeviceLink::await() {
  const auto begin = Clock::now();
  for (int round = 0;; ++round) {
    throw_if_failed();
    try {
      if (comm_->poll()) return;
    } catch (const Error& error) {
      throw_if_failed();  // which has made the call fail
      throw DistributedError(error.what());
    }
    const auto limit = timeout();
    check<DistributedError>(
        limit.count() == 0 || Clock::now() - begin < limit,
        "[nccl] a call has not been taken up for {:.1f} s, though all ranks have come to it",
        std::chrono::duration<double>(Clock::now() - begin).count());
    nap(round);
  }
}

void DeviceLink::run(const std::shared_ptr<DeviceOp>& op, const Collective& collective,
                     const std::function<void()>& body) {
  throw_if_failed();
  comm_->wait_for(op->ready);
  op->begun = comm_->mark();
  body();
  op->done = comm_->mark();
  op->ready = nullptr;
  op->call = call_of(collective);
  op->issued = Clock::now();
  const std::lock_guard lock(mutex_);
  while (!under_way_.empty() && under_way_.front()->done->is_done()) under_way_.pop_front();
  under_way_.push_back(op);
}

void DeviceLink::fail(const std::string& text) noexcept {
  std::shared_ptr<DeviceComm> comm;
  {
    const std::lock_guard lock(mutex_);
    try {
      if (!failure_) failure_ = text;
    } catch (...) {  // no memory for the text
      failure_ = "";
    }
    failed_ = true;
    comm = comm_;
  }
  if (comm) comm->abort();
}

void DeviceLink::throw_if_failed() const {
  if (!failed_) return;
  const std::lock_guard lock(mutex_);
  throw DistributedError(*failure_);
}

std::string DeviceLink::look() {
  try {
    comm_->poll();
    return stalled();
  } catch (const Error& error) {
    return failed_ ? "" : error.what();
  }
}

// The clock runs from when the device has begun: before, it may have other work to do.
std::string DeviceLink::stalled() {
  const std::lock_guard lock(mutex_);
  while (!under_way_.empty() && under_way_.front()->done->is_done()) under_way_.pop_front();
  if (failed_ || under_way_.empty() || !under_way_.front()->begun->is_done()) {
    watched_ = nullptr;
    return {};
  }
  const DeviceOp& oldest = *under_way_.front();
  if (watched_ != &oldest) {
    watched_ = &oldest;
    watched_since_ = Clock::now();
  }
  const auto waited = Clock::now() - watched_since_;
  if (timeout().count() == 0 || waited < timeout()) return {};
  return fmt::format(
      "call {}, {}, has waited for {:.1f} s: all ranks have come to it, but the transfer between "
      "the devices stands still",
      oldest.call.signature.sequence, oldest.call.str(),
      std::chrono::duration<double>(waited).count());
}

Work::Times DeviceLink::times_of(const DeviceOp& op) const {
  Work::Times times{op.launched, op.issued, op.issued};
  if (failed_ || !op.done) return times;
  const auto begun = clock_.time_of(op.begun), done = clock_.time_of(op.done);
  if (!begun || !done) return times;
  times.started = std::max(times.launched, *begun);
  times.finished = std::max(times.started, *done);
  return times;
}

}  // namespace lockstep::distributed
