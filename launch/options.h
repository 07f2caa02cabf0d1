#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "lockstep/engine/tensor/error.h"

namespace lockstep::launch {

// What every Lockstep program can be told on its command line.
struct Options {
  std::string device = "cpu";  // cpu, cuda
  std::string group = "auto";  // auto, mpi, nccl
  int64_t epochs = 1;
  std::optional<int64_t> max_steps;  // optimizer steps; wins over epochs
  int64_t global_batch = 128;        // samples of one optimizer step over all ranks
  int64_t accumulate = 1;            // micro-batches per rank and step
  uint64_t seed = 0;
  std::string reduction = "repeatable";  // fast, repeatable, bitwise
  int64_t virtual_shards = 16;           // of a global batch, for bitwise
  std::string compression = "none";      // of gradients on their way: none, bf16, fp16, powersgd
  int64_t powersgd_rank = 4;             // of powersgd's factors
  int64_t powersgd_start = 1000;         // steps that powersgd leaves uncompressed
  std::string precision = "fp32";        // fp32, bf16, fp16
  std::string matmul_precision = "highest";  // highest, high, medium
  std::string matmul_table;                  // of algorithms for products on GPUs; empty: none
  std::string tune_matmul;                   // where to write such a table; empty: nowhere
  bool cuda_graph = false;                   // capture steps: see GraphedStep
  std::string data;                          // empty: LOCKSTEP_DATA, else the distribution's folder
  std::string checkpoint_dir;
  std::optional<int64_t> checkpoint_every;
  bool resume = false;
  double watchdog = 300.0;  // seconds; 0: none
  std::string trace;        // empty: no timeline
  std::string log_dir;      // empty: no log files
  std::string report;       // empty: no report
};

// A command line that cannot be run; the text says which flag and why.
class UsageError : public ValueError {
 public:
  using ValueError::ValueError;
};

// What a program adds to the common flags: its own flags and other defaults. The targets hold the
// defaults and must outlive launch::run.
class ProgramOptions {
 public:
  ProgramOptions() = default;
  explicit ProgramOptions(std::string description, Options defaults = {})
      : description_(std::move(description)), defaults_(std::move(defaults)) {}

  // `name` as on the command line, e.g. "--model". Chainable.
  ProgramOptions& text(std::string name, std::string& target, std::string help);
  ProgramOptions& choice(std::string name, std::string& target, std::vector<std::string> choices,
                         std::string help);
  ProgramOptions& integer(std::string name, int64_t& target, std::string help);
  ProgramOptions& number(std::string name, double& target, std::string help);
  ProgramOptions& toggle(std::string name, bool& target, std::string help);

  struct Flag {
    std::string name;
    std::string help;
    std::variant<std::string*, int64_t*, double*, bool*> target;
    std::vector<std::string> choices;  // empty: anything
  };
  const std::string& description() const { return description_; }
  const Options& defaults() const { return defaults_; }
  const std::vector<Flag>& flags() const { return flags_; }

 private:
  std::string description_;
  Options defaults_;
  std::vector<Flag> flags_;
};

struct CommandLine {
  Options options;
  std::string program;  // the file name of argv[0]
  std::string answer;   // what --help or --version asks to print; then nothing else is to be done
};

// Throws UsageError on an unknown flag, a malformed or impossible value, and on flags whose feature
// this version does not have.
CommandLine parse_command_line(int argc, const char* const* argv, const ProgramOptions& extra = {});

}  // namespace lockstep::launch
