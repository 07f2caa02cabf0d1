#include "lockstep/distributed/flight_recorder.h"

#include <algorithm>
#include <chrono>
#include <span>

#include <nlohmann/json.hpp>

#include "lockstep/data/atomic_file.h"
#include "lockstep/distributed/activity.h"

namespace lockstep::distributed {

FlightRecorder::Slot& FlightRecorder::launch(Collective& collective) {
  const std::lock_guard lock(mutex_);
  collective.sequence = ++launched_;
  Slot& slot = slots_[launched_ % kCapacity];
  slot.call_ = call_of(collective);
  slot.launched_.store(0, std::memory_order_relaxed);
  slot.started_.store(0, std::memory_order_relaxed);
  slot.finished_.store(0, std::memory_order_relaxed);
  slot.failed_.store(false, std::memory_order_relaxed);
  return slot;
}

FlightRecorder::Record FlightRecorder::read(const Slot& slot) const {
  Record record;
  record.call = slot.call_;
  record.launched = slot.launched_.load(std::memory_order_relaxed);
  record.finished = slot.finished_.load(std::memory_order_acquire);
  record.started = slot.started_.load(std::memory_order_relaxed);
  record.failed = slot.failed_.load(std::memory_order_relaxed);
  return record;
}

std::vector<FlightRecorder::Record> FlightRecorder::records() const {
  const std::lock_guard lock(mutex_);
  std::vector<Record> all;
  const uint64_t kept = std::min<uint64_t>(launched_, kCapacity);
  for (uint64_t sequence = launched_ - kept + 1; sequence <= launched_; ++sequence) {
    all.push_back(read(slots_[sequence % kCapacity]));
  }
  return all;
}

std::optional<FlightRecorder::Record> FlightRecorder::record(uint64_t sequence) const {
  const std::lock_guard lock(mutex_);
  if (sequence == 0 || sequence > launched_ || sequence + kCapacity <= launched_) return {};
  return read(slots_[sequence % kCapacity]);
}

void FlightRecorder::write(const std::filesystem::path& file, int rank, int size,
                           std::string_view group, const std::string& reason) const {
  using Json = nlohmann::ordered_json;
  // Times of day, so that the files of several machines can be laid side by side.
  const int64_t now = steady_nanoseconds();
  const double day =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  const auto time_of_day = [&](int64_t steady) {
    return steady == 0 ? Json() : Json(day - static_cast<double>(now - steady) * 1e-9);
  };
  const auto number = [](int64_t value) { return value < 0 ? Json() : Json(value); };

  Json collectives = Json::array();
  for (const Record& record : records()) {
    const auto& [signature, label] = record.call;
    const bool data = signature.kind != CollectiveKind::kBarrier;
    Json one;
    one["call"] = signature.sequence;
    one["operation"] = name_of(signature.kind);
    one["reduce_op"] = reduces(signature.kind) ? Json(name_of(signature.op)) : Json();
    one["root"] = signature.kind == CollectiveKind::kBroadcast ? Json(signature.root) : Json();
    one["dtype"] = data ? Json(lockstep::name_of(signature.dtype)) : Json();
    one["count"] = signature.count;
    one["step"] = number(label.step);
    one["bucket"] = number(label.bucket);
    one["contents"] = label.contents[0] == '\0' ? Json() : Json(label.contents);
    one["state"] = record.finished != 0  ? (record.failed ? "failed" : "completed")
                   : record.started != 0 ? "running"
                                         : "queued";
    one["launched"] = time_of_day(record.launched);
    one["started"] = time_of_day(record.started);
    one["finished"] = time_of_day(record.finished);
    collectives.push_back(std::move(one));
  }
  Json json;
  json["rank"] = rank;
  json["world_size"] = size;
  json["group"] = group;
  json["reason"] = reason;
  json["written"] = day;
  json["collectives"] = std::move(collectives);
  // Names may hold bytes that are not UTF-8.
  const std::string text = json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
  data::AtomicFile out(file);
  out.write(std::as_bytes(std::span(text)));
  out.publish();
}

}  // namespace lockstep::distributed
