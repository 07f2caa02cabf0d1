#pragma once

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/wait.h>

namespace lockstep::examples {

// A directory that goes with the test.
class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "lockstep-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed: " + name);
    path_ = name;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

struct Outcome {
  int code = -1;
  std::string output;  // standard output and error
};

// Runs a shell command to its end.
inline Outcome run(const std::string& command) {
  Outcome outcome;
  FILE* pipe = popen(("exec 2>&1 </dev/null; " + command).c_str(), "r");
  if (pipe == nullptr) return outcome;
  std::array<char, 4096> chunk{};
  for (size_t n; (n = fread(chunk.data(), 1, chunk.size(), pipe)) > 0;) {
    outcome.output.append(chunk.data(), n);
  }
  const int status = pclose(pipe);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
  return outcome;
}

// What starts ranks, with a space behind it; LOCKSTEP_TEST_MPIRUN where that is not where the build
// found it.
inline std::string mpirun() {
  const char* const here = std::getenv("LOCKSTEP_TEST_MPIRUN");
  return std::string(here ? here : MPIRUN) + " ";
}

// `program` with `arguments`, under mpirun if `ranks` is not 0.
inline Outcome run_job(const std::string& program, const std::string& arguments, int ranks) {
  const std::string launcher = ranks > 0 ? mpirun() + "-n " + std::to_string(ranks) + " " : "";
  return run(launcher + program + " " + arguments);
}

// The report of a job that must succeed.
inline nlohmann::json report_of(const std::string& program, const std::string& arguments,
                                int ranks) {
  const Folder folder;
  const auto report = folder.path() / "report.json";
  const Outcome outcome = run_job(program, arguments + " --report " + report.string(), ranks);
  EXPECT_EQ(outcome.code, 0) << program << " " << arguments << "\n" << outcome.output;
  std::ifstream file(report);
  EXPECT_TRUE(file.good()) << "no report\n" << outcome.output;
  if (outcome.code != 0 || !file.good()) return {};
  return nlohmann::json::parse(file);
}

}  // namespace lockstep::examples
