#include "lockstep/launch/log.h"

#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/tensor/error.h"

#include "data/temp_dir.h"

namespace lockstep::launch {
namespace {

template <typename Function>
std::string stderr_of(Function function) {
  testing::internal::CaptureStderr();
  function();
  return testing::internal::GetCapturedStderr();
}

std::vector<std::string> lines_of(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

void everything() {
  log::info("one {} %v");  // no text is a format
  log::warn("two");
  log::error("three");
}

TEST(Log, RankZeroShowsEverything) {
  log::start({.rank = 0, .size = 4, .directory = ""});
  EXPECT_EQ(stderr_of(everything),
            "[rank 0/4] one {} %v\n[rank 0/4] warning: two\n[rank 0/4] error: three\n");
  EXPECT_EQ(log::file(), "");
}

TEST(Log, OtherRanksShowWarningsAndErrors) {
  log::start({.rank = 3, .size = 4, .directory = ""});
  EXPECT_EQ(stderr_of(everything), "[rank 3/4] warning: two\n[rank 3/4] error: three\n");
}

TEST(Log, AnUnknownWorldIsNotShown) {
  log::start({.rank = 0, .size = 0, .directory = ""});
  EXPECT_EQ(stderr_of([] { log::info("x"); }), "[rank 0] x\n");
}

TEST(Log, EveryRankHasAFile) {
  const test::TempDir dir;
  const auto folder = dir / "a/b";
  log::start({.rank = 12, .size = 20, .directory = folder.string()});
  EXPECT_EQ(log::file(), (folder / "rank_0012.log").string());
  stderr_of(everything);
  const auto lines = lines_of(folder / "rank_0012.log");
  ASSERT_EQ(lines.size(), 3u);
  const auto ends_with = [](const std::string& line, const std::string& end) {
    return line.size() > end.size() && line.compare(line.size() - end.size(), end.size(), end) == 0;
  };
  EXPECT_TRUE(ends_with(lines[0], " [info] [rank 12/20] one {} %v")) << lines[0];
  EXPECT_TRUE(ends_with(lines[1], " [warning] [rank 12/20] warning: two")) << lines[1];
  EXPECT_TRUE(ends_with(lines[2], " [error] [rank 12/20] error: three")) << lines[2];
  log::start({});
}

TEST(Log, UnusableDirectories) {
  const test::TempDir dir;
  std::ofstream(dir / "file") << "x";
  try {
    log::start({.rank = 0, .size = 1, .directory = (dir / "file/sub").string()});
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find((dir / "file/sub").string()), std::string::npos);
  }
  std::filesystem::create_directory(dir / "rank_0000.log");  // in the way of the file
  try {
    log::start({.rank = 0, .size = 1, .directory = dir.path().string()});
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("rank_0000.log"), std::string::npos) << error.what();
  }
}

TEST(Log, TheStatusLineStaysBelowTheMessages) {
  log::start({.rank = 0, .size = 1, .directory = ""});
  EXPECT_EQ(stderr_of([] {
              log::status("");  // nothing to take away
              log::status("50 %");
              log::info("hello");
              log::status("");
              log::info("bye");
            }),
            "\r\x1b[K50 %"
            "\r\x1b[K[rank 0/1] hello\n50 %"
            "\r\x1b[K"
            "[rank 0/1] bye\n");
}

TEST(Log, ThreadsDoNotMixLines) {
  log::start({.rank = 0, .size = 1, .directory = ""});
  const auto text = stderr_of([] {
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([t] {
        for (int i = 0; i < 50; ++i) log::info(std::string(30, static_cast<char>('a' + t)));
      });
    }
    for (auto& thread : threads) thread.join();
  });
  std::istringstream in(text);
  int count = 0;
  for (std::string line; std::getline(in, line); ++count) {
    ASSERT_EQ(line.size(), 11u + 30u) << line;
    EXPECT_EQ(line.find_first_not_of(line.back(), 11), std::string::npos) << line;
  }
  EXPECT_EQ(count, 200);
}

}  // namespace
}  // namespace lockstep::launch
