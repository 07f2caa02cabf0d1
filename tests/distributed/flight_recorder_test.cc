#include "lockstep/distributed/flight_recorder.h"

#include <filesystem>
#include <fstream>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "lockstep/distributed/threads_group.h"
#include "lockstep/engine/tensor/error.h"

#include "conformance.h"

namespace lockstep::distributed::testing {
namespace {

using Json = nlohmann::json;

class FlightRecords : public ::testing::Test {
 protected:
  FlightRecords()
      : file_(std::filesystem::temp_directory_path() /
              ("flight_recorder_test." + std::to_string(getpid()) + ".json")) {}
  ~FlightRecords() override { std::filesystem::remove(file_); }

  Json read() const {
    std::ifstream in(file_);
    return Json::parse(in);
  }

  const std::filesystem::path file_;
};

Collective all_reduce_of(int64_t count) {
  Collective c{CollectiveKind::kAllReduce, {}, {}};
  c.in.count = count;
  return c;
}

TEST_F(FlightRecords, KeepTheLastTwoThousand) {
  FlightRecorder recorder;
  EXPECT_TRUE(recorder.records().empty());
  EXPECT_FALSE(recorder.record(1));
  for (int64_t i = 1; i <= 4500; ++i) {
    Collective c = all_reduce_of(i * 10);
    FlightRecorder::Slot& slot = recorder.launch(c);
    EXPECT_EQ(c.sequence, static_cast<uint64_t>(i));
    if (i == 4500) continue;
    slot.started(i * 100);
    if (i < 4499) slot.finished(i * 100 + 5, i != 4400);
  }
  const auto records = recorder.records();
  ASSERT_EQ(records.size(), 2000u);
  for (size_t i = 0; i < records.size(); ++i) {
    const auto sequence = static_cast<int64_t>(2501 + i);
    EXPECT_EQ(records[i].call.signature.sequence, static_cast<uint64_t>(sequence));
    EXPECT_EQ(records[i].call.signature.count, sequence * 10);
    EXPECT_EQ(records[i].started, sequence == 4500 ? 0 : sequence * 100);
    EXPECT_EQ(records[i].finished, sequence >= 4499 ? 0 : sequence * 100 + 5);
    EXPECT_EQ(records[i].failed, sequence == 4400);
  }
  EXPECT_FALSE(recorder.record(2500));
  EXPECT_EQ(recorder.record(2501)->call.signature.count, 25010);
  EXPECT_FALSE(recorder.record(4501));

  recorder.write(file_, 1, 2, "threads", "because");
  const Json json = read();
  EXPECT_EQ(json.at("collectives").size(), 2000u);
  EXPECT_EQ(json.at("collectives").at(1999).at("state"), "queued");
  EXPECT_EQ(json.at("collectives").at(1998).at("state"), "running");
  EXPECT_EQ(json.at("collectives").at(1899).at("state"), "failed");
  EXPECT_EQ(json.at("collectives").at(1898).at("state"), "completed");
}

TEST_F(FlightRecords, OfAGroupSayWhatItDid) {
  double before = 0.0;
  run_thread_ranks(2, [&](ProcessGroup& group) {
    const auto memory = group.allocate(100, Device{});
    std::vector<float> values(6);
    group.set_activity(Phase::kBackward, 41);
    {
      const std::vector<std::string> names{"w", "b"};
      const ProcessGroup::LabelScope label(group, Label(2, names, 1));
      group.all_reduce({values.data(), 6, DType::kFloat32, {}}, ReduceOp::kMin).wait();
    }
    group.broadcast({values.data(), 5, DType::kFloat32, {}}, 1).wait();
    group.barrier().wait();
    if (group.rank() != 1) return;
    group.write_flight_record(file_, "curiosity");
    before =
        std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  });
  const Json json = read();
  EXPECT_EQ(json.at("rank"), 1);
  EXPECT_EQ(json.at("world_size"), 2);
  EXPECT_EQ(json.at("group"), "threads");
  EXPECT_EQ(json.at("reason"), "curiosity");
  const Json& calls = json.at("collectives");
  ASSERT_EQ(calls.size(), 4u);
  EXPECT_EQ(calls[0].at("operation"), "allocate");
  EXPECT_EQ(calls[0].at("count"), 100);
  EXPECT_EQ(calls[1].at("call"), 2);
  EXPECT_EQ(calls[1].at("operation"), "all_reduce");
  EXPECT_EQ(calls[1].at("reduce_op"), "min");
  EXPECT_EQ(calls[1].at("dtype"), "float32");
  EXPECT_EQ(calls[1].at("count"), 6);
  EXPECT_EQ(calls[1].at("step"), 41);
  EXPECT_EQ(calls[1].at("bucket"), 2);
  EXPECT_EQ(calls[1].at("contents"), "w, b");
  EXPECT_EQ(calls[2].at("operation"), "broadcast");
  EXPECT_EQ(calls[2].at("root"), 1);
  EXPECT_TRUE(calls[2].at("bucket").is_null());
  EXPECT_TRUE(calls[2].at("contents").is_null());
  EXPECT_EQ(calls[3].at("operation"), "barrier");
  EXPECT_TRUE(calls[3].at("dtype").is_null());
  double last = 0.0;
  for (const Json& call : calls) {
    EXPECT_EQ(call.at("state"), "completed");
    EXPECT_LE(call.at("launched").get<double>(), call.at("started").get<double>());
    EXPECT_LE(call.at("started").get<double>(), call.at("finished").get<double>());
    EXPECT_LE(last, call.at("started").get<double>());
    last = call.at("finished").get<double>();
  }
  EXPECT_LE(last, before);
  EXPECT_GT(last, before - 100.0);  // the time of day
}

TEST_F(FlightRecords, ThatCannotBeWrittenAreErrors) {
  const FlightRecorder recorder;
  EXPECT_THROW(recorder.write("/nowhere/at/all.json", 0, 1, "mpi", ""), DataError);
}

TEST_F(FlightRecords, AreNotKeptByAWorldOfOne) {
  make_single_group()->write_flight_record(file_, "");
  EXPECT_FALSE(std::filesystem::exists(file_));
}

// Looking while others write, for the thread sanitizer.
TEST_F(FlightRecords, CanBeLookedAtMeanwhile) {
  run_thread_ranks(2, [&](ProcessGroup& group) {
    std::thread looker;
    if (group.rank() == 0) {
      looker = std::thread([&] {
        for (int i = 0; i < 5; ++i) group.write_flight_record(file_, "");
      });
    }
    float value = 0.0f;
    for (int i = 0; i < 300; ++i) {
      group.all_reduce({&value, 1, DType::kFloat32, {}}).wait();
    }
    if (looker.joinable()) looker.join();
  });
  EXPECT_EQ(read().at("world_size"), 2);
}

TEST(Labels, SayWhatTheyCanAndHashTheRest) {
  const std::vector<std::string> one{"fc.weight"};
  const std::vector<std::string> two{"fc.weight", "fc.bias"};
  const std::vector<std::string> four{"fc.weight", "a", "b", "fc.bias"};
  const std::vector<std::string> other{"fc.weight", "a", "c", "fc.bias"};
  EXPECT_EQ(Label(0, one, 1).str(), "bucket 0: fc.weight");
  EXPECT_EQ(Label(1, two, 1).str(), "bucket 1: fc.weight, fc.bias");
  Label label(7, four, 1);
  label.step = 12;
  EXPECT_EQ(label.str(), "step 12, bucket 7: fc.weight ... fc.bias");
  EXPECT_EQ(Label("buffers").str(), "buffers");
  EXPECT_EQ(Label().str(), "");

  EXPECT_EQ(Label(7, four, 1).hash, label.hash);
  EXPECT_NE(Label(7, other, 1).hash, label.hash);
  EXPECT_NE(Label(6, four, 1).hash, label.hash);
  EXPECT_NE(Label(7, four, 2).hash, label.hash);
  EXPECT_NE(Label("buffers").hash, Label("buffer").hash);

  const std::vector<std::string> long_names{std::string(200, 'x') + ".weight",
                                            std::string(200, 'y') + ".bias"};
  const std::string text = Label(0, long_names, 1).str();
  EXPECT_NE(text.find("xx.weight, ..y"), std::string::npos) << text;
  EXPECT_TRUE(text.ends_with("yy.bias")) << text;
  EXPECT_LT(text.size(), 110u);
  EXPECT_LT(Label(std::string(500, 'z')).str().size(), 100u);
}

}  // namespace
}  // namespace lockstep::distributed::testing
