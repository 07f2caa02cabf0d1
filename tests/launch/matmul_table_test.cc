#include "lockstep/launch/matmul_table.h"

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "lockstep/distributed/threads_group.h"
#include "lockstep/engine/tensor/error.h"

namespace lockstep::launch {
namespace {

const MatmulTable kTable{"H100, 79 GiB", "13.1.0", {{"float32 NT 2x3x4", "00ff"}, {"b", "01"}}};

template <typename F>
std::string error_of(const F& run) {
  try {
    run();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void expect_parts(const std::string& text, std::initializer_list<const char*> parts) {
  for (const char* part : parts) EXPECT_NE(text.find(part), std::string::npos) << text;
}

TEST(MatmulTable, ReadsWhatItWrites) {
  const MatmulTable read = parse_matmul_table(to_json(kTable), "t.json");
  EXPECT_EQ(read.gpu, kTable.gpu);
  EXPECT_EQ(read.library, kTable.library);
  EXPECT_EQ(read.algorithms, kTable.algorithms);
  const auto json = nlohmann::json::parse(to_json(kTable));
  EXPECT_EQ(json.at("format"), 1);
  EXPECT_EQ(json.at("algorithms").at("b"), "01");
}

TEST(MatmulTable, RefusesOtherTexts) {
  const auto refusal = [](const std::string& text) {
    return error_of([&] { parse_matmul_table(text, "t.json"); });
  };
  for (const char* text :
       {"", "{", "[]", "{}", R"({"format": "1"})", R"({"format": 1, "gpu": "g"})",
        R"({"format": 1, "gpu": "g", "library": "l", "algorithms": ["a"]})",
        R"({"format": 1, "gpu": "g", "library": "l", "algorithms": {"a": 1}})"}) {
    expect_parts(refusal(text), {"t.json is no table", "--tune-matmul"});
  }
  expect_parts(refusal(R"({"format": 2})"), {"t.json has format 2", "format 1", "--tune-matmul"});
  const std::string whole = to_json(kTable);
  EXPECT_NE(refusal(whole.substr(0, whole.size() / 2)), "");
}

TEST(MatmulTable, RefusesAnotherGpuOrLibrary) {
  check_matmul_table(kTable, kTable.gpu, kTable.library, "t.json");
  expect_parts(error_of([] { check_matmul_table(kTable, "A100", "13.1.0", "t.json"); }),
               {"t.json", "\"H100, 79 GiB\"", "\"A100\"", "--tune-matmul"});
  expect_parts(error_of([] { check_matmul_table(kTable, kTable.gpu, "13.2.0", "t.json"); }),
               {"t.json", "\"13.1.0\"", "\"13.2.0\"", "--tune-matmul"});
}

class File {
 public:
  explicit File(const std::string& text) {
    path_ = (std::filesystem::temp_directory_path() / "lockstep-table-XXXXXX").string();
    const int file = mkstemp(path_.data());
    EXPECT_GE(file, 0);
    close(file);
    std::ofstream(path_) << text;
  }
  ~File() { std::filesystem::remove(path_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(MatmulTable, EveryRankGetsWhatRankZeroReads) {
  const std::string text = to_json(kTable) + std::string(100000, ' ');
  const File file(text);
  for (const int ranks : {1, 2, 3}) {
    std::atomic<int> ended = 0;
    distributed::run_thread_ranks(ranks, [&](distributed::ProcessGroup& group) {
      // Only rank 0 needs the file.
      EXPECT_EQ(read_for_all(group, group.rank() == 0 ? file.path() : "/nowhere"), text);
      ++ended;
    });
    EXPECT_EQ(ended, ranks);
  }
  const File empty("");
  distributed::run_thread_ranks(2, [&](distributed::ProcessGroup& group) {
    EXPECT_EQ(read_for_all(group, empty.path()), "");
  });
}

TEST(MatmulTable, EveryRankLearnsThatThereIsNoFile) {
  std::atomic<int> refused = 0;
  distributed::run_thread_ranks(3, [&](distributed::ProcessGroup& group) {
    for (const std::string file : {"/nowhere/t.json", "/tmp"}) {
      const std::string text = error_of([&] { read_for_all(group, file); });
      expect_parts(text, {"--matmul-table", "[0]", file.c_str(), "--tune-matmul"});
      ++refused;
    }
  });
  EXPECT_EQ(refused, 6);
}

TEST(MatmulTable, TheCpuNeedsNone) {
  Options options;
  options.matmul_table = "/nowhere/t.json";
  options.tune_matmul = "/nowhere/u.json";
  distributed::run_thread_ranks(2, [&](distributed::ProcessGroup& group) {
    choose_algorithms(options, group, Device{});
    write_tuned_algorithms(options, group.rank(), Device{});
  });
  EXPECT_EQ(algorithm_choice(), AlgorithmChoice::kHeuristic);
  EXPECT_FALSE(std::filesystem::exists("/nowhere"));
}

}  // namespace
}  // namespace lockstep::launch
