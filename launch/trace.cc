#include "lockstep/launch/trace.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <limits>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>

#include <nlohmann/json.hpp>

#include "lockstep/data/atomic_file.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::launch {
namespace {

using distributed::ProcessGroup;
using distributed::ReduceOp;
using Event = Trace::Event;
using Kind = Trace::Kind;
using Json = nlohmann::ordered_json;

static_assert(std::is_trivially_copyable_v<Event>);

int64_t nanoseconds(Trace::Time time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

// -- clocks

// What identifies a machine since it was started: ranks that agree on it have one steady clock.
uint64_t machine() {
  std::string id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
  uint64_t hash = 14695981039346656037u;  // FNV-1a
  for (const char c : id) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return hash;
}

template <typename T>
std::vector<T> gather(ProcessGroup& group, std::span<const T> mine) {
  std::vector<T> all(static_cast<size_t>(group.size()) * mine.size());
  std::vector<T> copy(mine.begin(), mine.end());
  group
      .all_gather({all.data(), std::ssize(all), kDTypeOf<int64_t>, {}},
                  {copy.data(), std::ssize(copy), kDTypeOf<int64_t>, {}})
      .wait();
  return all;
}

// What to add to this rank's clock to get rank 0's: the median over some barriers, which all ranks
// leave at about the same moment.
int64_t offset_to_root(ProcessGroup& group) {
  constexpr size_t kBarriers = 15;
  std::array<int64_t, kBarriers + 1> mine{};
  for (size_t i = 0; i < kBarriers; ++i) {
    group.barrier(distributed::Launch::kBlocking).wait();
    mine[i] = nanoseconds(std::chrono::steady_clock::now());
  }
  const uint64_t id = machine();
  std::memcpy(&mine[kBarriers], &id, sizeof id);
  const auto all = gather<int64_t>(group, mine);
  if (all[kBarriers] == mine[kBarriers]) return 0;
  std::array<int64_t, kBarriers> differences{};
  for (size_t i = 0; i < kBarriers; ++i) differences[i] = all[i] - mine[i];
  std::sort(differences.begin(), differences.end());
  return differences[kBarriers / 2];
}

// -- the file

constexpr int kTraining = 0, kCommunication = 1;  // threads

struct Look {
  const char* name;
  int thread;
  const char* number;  // what Event::number counts
};

Look look_of(Kind kind) {
  switch (kind) {
    case Kind::kData:
      return {"wait for data", kTraining, nullptr};
    case Kind::kStep:
      return {"step", kTraining, nullptr};
    case Kind::kForward:
      return {"forward", kTraining, "micro_batch"};
    case Kind::kBackward:
      return {"backward", kTraining, "micro_batch"};
    case Kind::kWait:
      return {"wait for gradients", kTraining, nullptr};
    case Kind::kOptimizer:
      return {"optimizer", kTraining, nullptr};
    case Kind::kEvaluate:
      return {"evaluate", kTraining, nullptr};
    case Kind::kQueued:
      return {"queued", kCommunication, "bucket"};
    case Kind::kAllReduce:
      return {"all-reduce", kCommunication, "bucket"};
  }
  return {"unknown", kTraining, nullptr};
}

class Writer {
 public:
  explicit Writer(const std::filesystem::path& path) : file_(path) {}

  void text(std::string_view text) {
    buffer_ += text;
    if (buffer_.size() >= kBuffer) flush();
  }
  void event(const Json& json) {
    text(first_ ? "\n" : ",\n");
    first_ = false;
    text(json.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  void publish() {
    flush();
    file_.publish();
  }

 private:
  static constexpr size_t kBuffer = size_t{1} << 20;

  void flush() {
    file_.write(std::as_bytes(std::span(buffer_)));
    buffer_.clear();
  }

  data::AtomicFile file_;
  std::string buffer_;
  bool first_ = true;
};

void write_names(Writer& writer, int rank, int world) {
  const auto name = [&](const char* what, std::optional<int> thread, const Json& args) {
    Json json = {{"ph", "M"}, {"name", what}, {"pid", rank}};
    if (thread) json["tid"] = *thread;
    json["args"] = args;
    writer.event(json);
  };
  name("process_name", {}, {{"name", fmt::format("rank {} of {}", rank, world)}});
  name("process_sort_index", {}, {{"sort_index", rank}});
  name("thread_name", kTraining, {{"name", "training"}});
  name("thread_name", kCommunication, {{"name", "communication"}});
}

// `origin` is the trace's zero, on this rank's clock.
void write_event(Writer& writer, int rank, const Event& e, int64_t origin) {
  const Look look = look_of(e.kind);
  const auto micros = [](int64_t ns) { return static_cast<double>(ns) / 1000.0; };
  Json args = Json::object();
  if (e.step >= 0) args["step"] = e.step;
  if (look.number != nullptr) args[look.number] = e.number;
  if (e.bytes > 0) args["bytes"] = e.bytes;
  std::string name = look.name;
  if (e.kind == Kind::kStep) name += fmt::format(" {}", e.step);
  if (look.thread == kCommunication) name += fmt::format(" {}", e.number);
  Json json = {{"ph", "X"},
               {"name", name},
               {"cat", look.name},
               {"pid", rank},
               {"tid", look.thread},
               {"ts", micros(e.begin - origin)},
               {"dur", micros(e.end - e.begin)},
               {"args", args}};
  if (e.kind == Kind::kQueued) {
    // Several buckets wait at a time, so these do not nest.
    json["ph"] = "b";
    json["id"] = fmt::format("{}.{}.{}", rank, e.step, e.number);
    json.erase("dur");
    writer.event(json);
    json["ph"] = "e";
    json["ts"] = micros(e.end - origin);
    json.erase("args");
  }
  writer.event(json);
}

// Calls `act` on rank 0 with each other rank's events, a piece at a time.
template <typename Act>
void receive(ProcessGroup& group, int from, int64_t count, const std::vector<Event>& mine,
             const Act& act) {
  constexpr int64_t kPiece = 20'000;
  std::vector<Event> piece;
  for (int64_t at = 0; at < count; at += kPiece) {
    const int64_t length = std::min(kPiece, count - at);
    if (group.rank() == from) {
      piece.assign(mine.begin() + at, mine.begin() + at + length);
    } else {
      piece.resize(static_cast<size_t>(length));
    }
    const auto bytes = length * static_cast<int64_t>(sizeof(Event));
    group.broadcast({piece.data(), bytes, DType::kUInt8, {}}, from).wait();
    if (group.rank() == 0) act(piece);
  }
}

// The file's errors, with the flag that named it.
template <typename Act>
void with_flag_named(const Act& act) {
  try {
    act();
  } catch (const DataError& error) {
    fail<Error>("[trace] --trace: {}", error.what());
  }
}

}  // namespace

void Trace::append(std::vector<Event> events, bool is_step) {
  events_ += events.size();
  steps_ += is_step ? 1 : 0;
  blocks_.push_back({std::move(events), is_step});
  while (steps_ > most_steps_ || events_ > most_events_) {
    const Block& oldest = blocks_.front();
    events_ -= oldest.events.size();
    steps_ -= oldest.is_step ? 1 : 0;
    left_out_ += oldest.is_step ? 1 : 0;
    blocks_.pop_front();
  }
}

void Trace::add(const data::Step& step, Time fetched, Time begin, Time end) {
  const auto& timeline = step.report.timeline;
  std::vector<Event> events;
  events.reserve(3 + 2 * timeline.passes.size() + timeline.waits.size() +
                 2 * timeline.all_reduces.size());
  const auto add = [&](Kind kind, Time from, Time to, int64_t number = -1, size_t bytes = 0) {
    events.push_back({nanoseconds(from), nanoseconds(to), step.index, number,
                      static_cast<int64_t>(bytes), kind, 0});
  };
  add(Kind::kData, fetched, begin);
  add(Kind::kStep, begin, end);
  Time gradients = begin;  // when they were complete
  for (const auto& pass : timeline.passes) {
    add(Kind::kForward, pass.forward, pass.backward, pass.micro_batch);
    add(Kind::kBackward, pass.backward, pass.end, pass.micro_batch);
    gradients = std::max(gradients, pass.end);
  }
  for (const auto& wait : timeline.waits) {
    add(Kind::kWait, wait.begin, wait.end);
    gradients = std::max(gradients, wait.end);
  }
  if (!timeline.passes.empty()) add(Kind::kOptimizer, gradients, end);
  for (const auto& a : timeline.all_reduces) {
    add(Kind::kQueued, a.launched, a.started, a.bucket, a.bytes);
    add(Kind::kAllReduce, a.started, a.finished, a.bucket, a.bytes);
  }
  append(std::move(events), true);
}

void Trace::add_evaluation(Time begin, Time end) {
  append({{nanoseconds(begin), nanoseconds(end), -1, -1, 0, Kind::kEvaluate, 0}}, false);
}

std::vector<Trace::Event> Trace::events() const {
  std::vector<Event> all;
  all.reserve(events_);
  for (const Block& block : blocks_) {
    all.insert(all.end(), block.events.begin(), block.events.end());
  }
  std::stable_sort(all.begin(), all.end(), [](const Event& a, const Event& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end > b.end;
  });
  return all;
}

size_t trace_events_per_rank(int world) {
  constexpr size_t kPerRank = 100'000, kAll = 1'000'000, kLeast = 1000;
  return std::clamp(kAll / static_cast<size_t>(world), kLeast, kPerRank);
}

void check_trace_path(const std::filesystem::path& path) {
  with_flag_named([&] { const data::AtomicFile probe(path); });
}

void write_trace(const std::filesystem::path& path, const std::string& program, ProcessGroup& group,
                 const Trace& trace) {
  const std::vector<Event> mine = trace.events();
  const int64_t offset = offset_to_root(group);
  int64_t origin = mine.empty() ? std::numeric_limits<int64_t>::max() : mine.front().begin + offset;
  group.all_reduce({&origin, 1, DType::kInt64, {}}, ReduceOp::kMin).wait();
  const std::array<int64_t, 2> about_me = {std::ssize(mine), offset};
  const auto about = gather<int64_t>(group, about_me);

  with_flag_named([&] {
    std::optional<Writer> writer;
    if (group.rank() == 0) {
      writer.emplace(path);
      const Json head = {{"program", program},
                         {"world_size", group.size()},
                         {"steps_left_out", trace.steps_left_out()}};
      writer->text(fmt::format("{{\"displayTimeUnit\":\"ms\",\"otherData\":{},\"traceEvents\":[",
                               head.dump(-1, ' ', false, Json::error_handler_t::replace)));
    }
    for (int rank = 0; rank < group.size(); ++rank) {
      const int64_t* of_rank = &about[static_cast<size_t>(rank) * about_me.size()];
      if (writer) write_names(*writer, rank, group.size());
      receive(group, rank, of_rank[0], mine, [&](const std::vector<Event>& piece) {
        for (const Event& e : piece) write_event(*writer, rank, e, origin - of_rank[1]);
      });
    }
    if (writer) {
      writer->text("\n]}\n");
      writer->publish();
    }
  });
}

}  // namespace lockstep::launch
