#include "lockstep/launch/trace.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "lockstep/data/dataset.h"
#include "lockstep/distributed/data_parallel.h"
#include "lockstep/distributed/threads_group.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/error.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/random.h"
#include "lockstep/launch/job.h"
#include "lockstep/launch/log.h"
#include "lockstep/nn/nn.h"
#include "lockstep/optim/optim.h"

namespace lockstep::launch {
namespace {

using nlohmann::json;
using Time = Trace::Time;

// A directory that goes with the test.
class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "trace_test_XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw Error("mkdtemp failed");
    path_ = name;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::filesystem::path operator/(const char* name) const { return path_ / name; }
  int64_t files() const {
    return std::distance(std::filesystem::directory_iterator(path_),
                         std::filesystem::directory_iterator());
  }

 private:
  std::filesystem::path path_;
};

json read(const std::filesystem::path& path) {
  std::ifstream file(path);
  return json::parse(file);
}

struct Net : nn::Module {
  nn::Linear fc1{3, 6}, fc2{6, 5}, fc3{5, 2};
  Net() { register_modules({{"fc1", fc1}, {"fc2", fc2}, {"fc3", fc3}}); }
  Tensor forward(const Tensor& x) { return fc3(relu(fc2(relu(fc1(x))))); }
};

constexpr int64_t kSteps = 5, kMicros = 2, kBuckets = 6;

// Trains with a bucket for each parameter.
void train(Job& job) {
  manual_seed(1);
  const data::TensorDataset dataset(randn({40, 3}), zeros({40}, {DType::kInt64}));
  Net net;
  distributed::DataParallel replicas(net, job.group(),
                                     {.first_bucket_bytes = 1, .bucket_bytes = 1});
  optim::SGD sgd(net.parameters(), {.lr = 0.1});
  for (auto& step : job.steps(dataset)) {
    sgd.zero_grad();
    for (auto& micro : replicas.accumulate(step)) {
      replicas.backward(nn::cross_entropy(net.forward(micro.x), micro.y), micro.size());
    }
    sgd.step();
  }
  job.evaluate(dataset, [&](const data::Batch& batch) { return net.forward(batch.x); });
}

json traced_job(int ranks, const std::filesystem::path& path) {
  log::start({});
  Options options;
  options.global_batch = 8;
  options.accumulate = kMicros;
  options.trace = path.string();
  distributed::run_thread_ranks(ranks, [&](distributed::ProcessGroup& group) {
    Job job({options, "program", ""}, {std::shared_ptr<void>(), &group});
    train(job);
    job.finish();
    job.write_trace();
  });
  return read(path);
}

double end_of(const json& e) { return e["ts"].get<double>() + e["dur"].get<double>(); }

// The slices of one thread, in the order of the file.
using Tracks = std::map<std::pair<int, int>, std::vector<json>>;
Tracks slices(const json& trace) {
  Tracks tracks;
  for (const json& e : trace["traceEvents"]) {
    if (e["ph"] == "X") tracks[{e["pid"].get<int>(), e["tid"].get<int>()}].push_back(e);
  }
  return tracks;
}

std::vector<json> named(const std::vector<json>& events, const std::string& category) {
  std::vector<json> result;
  std::copy_if(events.begin(), events.end(), std::back_inserter(result),
               [&](const json& e) { return e["cat"] == category; });
  return result;
}

// In order of their beginnings, and each either apart from an earlier one or inside of it.
void expect_nested(const std::vector<json>& events) {
  constexpr double kRounding = 0.0015;  // microseconds
  double last = 0.0;
  std::vector<double> open;
  for (const json& e : events) {
    const double begin = e["ts"].get<double>();
    EXPECT_GE(begin, last) << e;
    EXPECT_GE(e["dur"].get<double>(), 0.0) << e;
    last = begin;
    while (!open.empty() && open.back() <= begin + kRounding) open.pop_back();
    if (!open.empty()) {
      EXPECT_LE(end_of(e), open.back() + kRounding) << e;
    }
    open.push_back(end_of(e));
  }
}

TEST(Trace, OfTwoRanks) {
  const Folder folder;
  const json trace = traced_job(2, folder / "t.json");
  EXPECT_EQ(folder.files(), 1) << "something stayed behind";
  EXPECT_EQ(trace["otherData"]["program"], "program");
  EXPECT_EQ(trace["otherData"]["world_size"], 2);
  EXPECT_EQ(trace["otherData"]["steps_left_out"], 0);

  std::map<int, std::string> processes;
  std::map<std::pair<int, int>, std::string> threads;
  for (const json& e : trace["traceEvents"]) {
    const int pid = e["pid"].get<int>();
    if (e["name"] == "process_name") processes[pid] = e["args"]["name"];
    if (e["name"] == "thread_name") threads[{pid, e["tid"].get<int>()}] = e["args"]["name"];
  }
  EXPECT_EQ(processes, (std::map<int, std::string>{{0, "rank 0 of 2"}, {1, "rank 1 of 2"}}));
  EXPECT_EQ(threads.size(), 4u);
  EXPECT_EQ((threads[{1, 1}]), "communication");

  const Tracks tracks = slices(trace);
  ASSERT_EQ(tracks.size(), 4u);
  double first = 1e300;
  for (const auto& [track, events] : tracks) {
    SCOPED_TRACE("rank " + std::to_string(track.first) + ", " + threads[track]);
    expect_nested(events);
    first = std::min(first, events.front()["ts"].get<double>());
  }
  EXPECT_EQ(first, 0.0);

  for (int rank = 0; rank < 2; ++rank) {
    SCOPED_TRACE("rank " + std::to_string(rank));
    const auto& training = tracks.at({rank, 0});
    const auto steps = named(training, "step");
    ASSERT_EQ(std::ssize(steps), kSteps);
    EXPECT_EQ(std::ssize(named(training, "wait for data")), kSteps);
    EXPECT_EQ(std::ssize(named(training, "evaluate")), 1);
    const auto all_reduces = named(tracks.at({rank, 1}), "all-reduce");
    EXPECT_EQ(std::ssize(all_reduces), kSteps * kBuckets);
    for (int64_t s = 0; s < kSteps; ++s) {
      const json& step = steps[static_cast<size_t>(s)];
      EXPECT_EQ(step["name"], "step " + std::to_string(s));
      const auto within = [&](const char* category) {
        std::vector<json> mine;
        for (const json& e : named(training, category)) {
          if (e["args"]["step"] != s) continue;
          EXPECT_GE(e["ts"], step["ts"]);
          EXPECT_LE(end_of(e), end_of(step) + 0.0015);
          mine.push_back(e);
        }
        return mine;
      };
      const auto forwards = within("forward"), backwards = within("backward");
      const auto waits = within("wait for gradients"), optimizer = within("optimizer");
      ASSERT_EQ(std::ssize(forwards), kMicros);
      ASSERT_EQ(std::ssize(backwards), kMicros);
      ASSERT_EQ(std::ssize(waits), 1);
      ASSERT_EQ(std::ssize(optimizer), 1);
      EXPECT_EQ(backwards[1]["args"]["micro_batch"], rank * kMicros + 1);
      EXPECT_GE(waits[0]["ts"].get<double>() + 0.0015, end_of(backwards[1]));
      EXPECT_GE(optimizer[0]["ts"].get<double>() + 0.0015, end_of(waits[0]));
      // All-reduces begin in the last backward or after it and end before the wait does.
      int64_t bucket = 0;
      for (const json& e : all_reduces) {
        if (e["args"]["step"] != s) continue;
        EXPECT_EQ(e["args"]["bucket"], bucket++);
        EXPECT_GT(e["args"]["bytes"], 0);
        EXPECT_GE(e["ts"], backwards[1]["ts"]);
        EXPECT_LE(end_of(e), end_of(waits[0]) + 0.0015);
      }
      EXPECT_EQ(bucket, kBuckets);
    }
  }

  // A bucket is launched, then waits in the queue until its all-reduce starts.
  std::map<std::string, json> begun;
  int64_t queued = 0;
  for (const json& e : trace["traceEvents"]) {
    if (e["ph"] == "b") {
      EXPECT_TRUE(begun.emplace(e["id"], e).second) << e;
    } else if (e["ph"] == "e") {
      ASSERT_TRUE(begun.contains(e["id"])) << e;
      const json& begin = begun[e["id"]];
      EXPECT_LE(begin["ts"], e["ts"]);
      const auto all_reduces = named(tracks.at({e["pid"].get<int>(), 1}), "all-reduce");
      EXPECT_TRUE(std::any_of(all_reduces.begin(), all_reduces.end(), [&](const json& a) {
        return a["args"] == begin["args"] && a["ts"] == e["ts"];
      })) << e;
      ++queued;
    }
  }
  EXPECT_EQ(queued, 2 * kSteps * kBuckets);
  EXPECT_EQ(std::ssize(begun), queued);
}

TEST(Trace, OfOneRankHasNoCommunication) {
  const Folder folder;
  const Tracks tracks = slices(traced_job(1, folder / "t.json"));
  ASSERT_EQ(tracks.size(), 1u);
  expect_nested(tracks.begin()->second);
  EXPECT_EQ(std::ssize(named(tracks.begin()->second, "backward")), kSteps * kMicros);
}

data::Step step_of(int64_t index, Time begin, int64_t all_reduces) {
  data::Step step;
  step.index = index;
  for (int64_t b = 0; b < all_reduces; ++b) {
    step.report.timeline.all_reduces.push_back({b, 64, begin, begin, begin});
  }
  return step;
}

TEST(Trace, KeepsTheLastSteps) {
  const Time zero{};
  const auto at = [&](int64_t ms) { return zero + std::chrono::milliseconds(ms); };
  Trace trace(10);
  for (int64_t i = 0; i < 25; ++i) trace.add(step_of(i, at(i), 1), at(i), at(i), at(i + 1));
  EXPECT_EQ(trace.steps_left_out(), 15);
  const auto events = trace.events();
  EXPECT_EQ(events.size(), 10u * 4u);
  EXPECT_EQ(events.front().step, 15);
  EXPECT_EQ(events.back().step, 24);
}

TEST(Trace, KeepsSoManyEvents) {
  Trace trace(1000, 50);
  for (int64_t i = 0; i < 40; ++i) trace.add(step_of(i, {}, 4), {}, {}, {});
  EXPECT_EQ(trace.events().size(), 50u);  // ten for each step
  EXPECT_EQ(trace.steps_left_out(), 35);
  trace.add(step_of(40, {}, 100), {}, {}, {});  // too large on its own
  EXPECT_TRUE(trace.events().empty());
  EXPECT_EQ(trace.steps_left_out(), 41);
  EXPECT_LE(64u * trace_events_per_rank(64), 1'000'000u);
  EXPECT_EQ(trace_events_per_rank(2), 100'000u);
}

// More than one message's worth of events from a rank that is not the root.
TEST(Trace, LongOnes) {
  const Folder folder;
  distributed::run_thread_ranks(3, [&](distributed::ProcessGroup& group) {
    Trace trace;
    const int64_t steps = group.rank() == 1 ? 900 : group.rank();
    for (int64_t i = 0; i < steps; ++i) {
      const Time begin = Time{} + std::chrono::microseconds(100 * i);
      trace.add(step_of(i, begin, 25), begin, begin, begin + std::chrono::microseconds(50));
    }
    write_trace(folder / "t.json", "program", group, trace);
  });
  std::map<int, int64_t> counts;
  const json trace = read(folder / "t.json");
  for (const json& e : trace["traceEvents"]) {
    if (e["ph"] == "X") ++counts[e["pid"].get<int>()];
  }
  EXPECT_EQ(counts, (std::map<int, int64_t>{{1, 900 * 27}, {2, 2 * 27}}));
}

TEST(Trace, NamesTheFlagWhereItCannotBeWritten) {
  const Folder folder;
  try {
    check_trace_path(folder / "absent" / "t.json");
    FAIL() << "no error";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("--trace"), std::string::npos) << text;
    EXPECT_NE(text.find("absent/t.json"), std::string::npos) << text;
  }
  check_trace_path(folder / "t.json");
  EXPECT_EQ(folder.files(), 0);
}

}  // namespace
}  // namespace lockstep::launch
