#include "lockstep/launch/options.h"

#include <bit>
#include <charconv>
#include <filesystem>
#include <limits>
#include <type_traits>
#include <utility>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>

#include "lockstep/engine/tensor/check.h"

#ifndef LOCKSTEP_VERSION
#define LOCKSTEP_VERSION "unknown"
#endif

namespace lockstep::launch {
namespace {

// CLI11's own conversion saturates numbers that do not fit and wraps negative ones around.
template <typename T>
std::string check_integer(const std::string& text) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc{} && at == end) return "";
  return fmt::format("{} is not a whole number from {} to {}", text, std::numeric_limits<T>::min(),
                     std::numeric_limits<T>::max());
}

template <typename T>
CLI::Option* add_value(CLI::App& app, const std::string& name, T& target, const std::string& help) {
  auto* option = app.add_option(name, target, help)->capture_default_str();
  if constexpr (std::is_same_v<T, uint64_t>) option->check(check_integer<uint64_t>);
  if constexpr (std::is_same_v<T, int64_t> || std::is_same_v<T, std::optional<int64_t>>) {
    option->check(check_integer<int64_t>);
  }
  return option;
}

// One declaration per flag, in the order in which --help lists them.
void add_common_flags(CLI::App& app, Options& o) {
  const auto choice = [&](const char* name, std::string& target, std::vector<std::string> values,
                          const char* help) {
    add_value(app, name, target, help)->check(CLI::IsMember(std::move(values)));
  };
  const auto value = [&](const char* name, auto& target, const char* help) {
    add_value(app, name, target, help);
  };
  choice("--device", o.device, {"cpu", "cuda"}, "Where to compute");
  choice("--group", o.group, {"auto", "mpi", "nccl"}, "How ranks communicate");
  value("--epochs", o.epochs, "Passes over the training data");
  value("--max-steps", o.max_steps, "Optimizer steps; wins over --epochs");
  value("--global-batch", o.global_batch, "Samples per optimizer step, over all ranks");
  value("--accumulate", o.accumulate, "Micro-batches per rank and step");
  value("--seed", o.seed, "Of initialisation, shuffling and dropout");
  choice("--reduction", o.reduction, {"fast", "repeatable", "bitwise"},
         "What is promised about the bits of the result");
  value("--virtual-shards", o.virtual_shards, "Shards of a global batch, for --reduction bitwise");
  choice("--compression", o.compression, {"none", "bf16", "fp16", "powersgd"},
         "Of gradients on their way between ranks");
  value("--powersgd-rank", o.powersgd_rank, "Of the factors of --compression powersgd");
  value("--powersgd-start", o.powersgd_start,
        "First steps that --compression powersgd leaves uncompressed");
  choice("--precision", o.precision, {"fp32", "bf16", "fp16"},
         "Of products and activations; weights and reductions stay float32");
  choice("--matmul-precision", o.matmul_precision, {"highest", "high", "medium"},
         "Of products of float32 matrices on GPUs");
  value("--matmul-table", o.matmul_table,
        "Compute products on GPUs by the algorithms in this file");
  value("--tune-matmul", o.tune_matmul,
        "Choose algorithms for products on GPUs by timing, and write them to this file");
  app.add_flag("--cuda-graph", o.cuda_graph,
               "Capture the steps of one rank on a GPU in a CUDA graph");
  value("--data", o.data,
        "Where the data is (else $LOCKSTEP_DATA, else the distribution's folder)");
  value("--checkpoint-dir", o.checkpoint_dir, "Where to keep checkpoints");
  value("--checkpoint-every", o.checkpoint_every, "Optimizer steps between checkpoints");
  app.add_flag("--resume", o.resume, "Continue from the last checkpoint");
  value("--watchdog", o.watchdog,
        "Seconds after which ranks that wait for another in vain end the job; 0: never");
  value("--trace", o.trace, "Write a timeline for Perfetto to this file");
  value("--log-dir", o.log_dir, "Write each rank's log to DIR/rank_NNNN.log");
  value("--report", o.report, "Write the results as JSON to this file");
}

void add_program_flags(CLI::App& app, const ProgramOptions& extra) {
  for (const auto& flag : extra.flags()) {
    std::visit(
        [&]<typename T>(T* target) {
          if constexpr (std::is_same_v<T, bool>) {
            app.add_flag(flag.name, *target, flag.help);
          } else {
            auto* option = add_value(app, flag.name, *target, flag.help);
            if (!flag.choices.empty()) option->check(CLI::IsMember(flag.choices));
          }
        },
        flag.target);
  }
}

template <typename... Args>
void require(bool ok, fmt::format_string<Args...> text, Args&&... args) {
  check<UsageError>(ok, text, std::forward<Args>(args)...);
}

void check_values(const Options& o) {
  const auto at_least_one = [](const char* name, int64_t value) {
    require(value >= 1, "[options] {} {}: must be at least 1", name, value);
  };
  at_least_one("--epochs", o.epochs);
  at_least_one("--max-steps", o.max_steps.value_or(1));
  at_least_one("--global-batch", o.global_batch);
  at_least_one("--accumulate", o.accumulate);
  at_least_one("--virtual-shards", o.virtual_shards);
  at_least_one("--checkpoint-every", o.checkpoint_every.value_or(1));
  at_least_one("--powersgd-rank", o.powersgd_rank);
  require(o.powersgd_start >= 0, "[options] --powersgd-start {}: must not be negative",
          o.powersgd_start);
  require(o.watchdog >= 0.0 && o.watchdog <= 1e9,
          "[options] --watchdog {}: must be a number of seconds, or 0 for none", o.watchdog);
  require(
      o.precision != "fp16" || o.compression != "powersgd",
      "[options] --compression powersgd carries its errors from step to step, which --precision "
      "fp16 scales differently; use --precision bf16, or another compression");
  if (o.reduction != "bitwise") return;
  require(o.compression == "none",
          "[options] --compression {} rounds what each rank sends, so the bits would depend on the "
          "number of ranks, which --reduction bitwise rules out; use one or the other",
          o.compression);
  require(std::has_single_bit(static_cast<uint64_t>(o.virtual_shards)),
          "[options] --virtual-shards {}: must be a power of two", o.virtual_shards);
  require(
      o.global_batch % o.virtual_shards == 0,
      "[options] --global-batch {} cannot be cut into {} virtual shards of equal size; choose a "
      "multiple, or other --virtual-shards",
      o.global_batch, o.virtual_shards);
}

// Flags whose feature does not exist yet are known, so that their names are reserved, and refused,
// so that nobody believes that they had an effect.
void check_available(const CLI::App& app, const Options& o) {
  const auto refuse = [](const std::string& what, const char* instead) {
    fail<UsageError>("[options] {} is not available in Lockstep {}; {}", what, LOCKSTEP_VERSION,
                     instead);
  };
  require(o.group != "nccl" || o.device != "cpu",
          "[options] --group nccl connects GPUs; use it with --device cuda, or --group auto");
  for (const char* flag : {"--matmul-table", "--tune-matmul"}) {
    require(o.device != "cpu" || app.count(flag) == 0,
            "[options] {} has an effect with --device cuda only, not with --device cpu", flag);
  }
  require(o.matmul_table.empty() || o.tune_matmul.empty(),
          "[options] --tune-matmul makes a table and --matmul-table uses one; give one of them");
  for (const char* flag : {"--checkpoint-dir", "--checkpoint-every", "--resume"}) {
    if (app.count(flag) > 0) refuse(flag, "run without it");
  }
  require(o.reduction == "bitwise" || app.count("--virtual-shards") == 0,
          "[options] --virtual-shards has an effect with --reduction bitwise only, not with "
          "--reduction {}",
          o.reduction);
  for (const char* flag : {"--powersgd-rank", "--powersgd-start"}) {
    require(o.compression == "powersgd" || app.count(flag) == 0,
            "[options] {} has an effect with --compression powersgd only, not with --compression "
            "{}",
            flag, o.compression);
  }
}

}  // namespace

ProgramOptions& ProgramOptions::text(std::string name, std::string& target, std::string help) {
  flags_.push_back({std::move(name), std::move(help), &target, {}});
  return *this;
}

ProgramOptions& ProgramOptions::choice(std::string name, std::string& target,
                                       std::vector<std::string> choices, std::string help) {
  flags_.push_back({std::move(name), std::move(help), &target, std::move(choices)});
  return *this;
}

ProgramOptions& ProgramOptions::integer(std::string name, int64_t& target, std::string help) {
  flags_.push_back({std::move(name), std::move(help), &target, {}});
  return *this;
}

ProgramOptions& ProgramOptions::number(std::string name, double& target, std::string help) {
  flags_.push_back({std::move(name), std::move(help), &target, {}});
  return *this;
}

ProgramOptions& ProgramOptions::toggle(std::string name, bool& target, std::string help) {
  flags_.push_back({std::move(name), std::move(help), &target, {}});
  return *this;
}

CommandLine parse_command_line(int argc, const char* const* argv, const ProgramOptions& extra) {
  CommandLine line;
  line.options = extra.defaults();
  line.program = argc > 0 ? std::filesystem::path(argv[0]).filename().string() : "lockstep";
  CLI::App app(extra.description(), line.program);
  app.set_version_flag("--version",
                       fmt::format("{} (Lockstep {})", line.program, LOCKSTEP_VERSION));
  add_common_flags(app, line.options);
  try {
    add_program_flags(app, extra);
  } catch (const CLI::ConstructionError& error) {
    fail<ValueError>("[options] the program's own flags: {}", error.what());
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    line.answer = app.help();
    return line;
  } catch (const CLI::CallForVersion& version) {
    line.answer = std::string(version.what()) + "\n";
    return line;
  } catch (const CLI::ParseError& error) {
    fail<UsageError>("[options] {} (--help lists the flags)", error.what());
  }
  // A program's own number of steps gives way to a number of epochs that was asked for.
  if (app.count("--epochs") > 0 && app.count("--max-steps") == 0) line.options.max_steps.reset();
  check_values(line.options);
  check_available(app, line.options);
  return line;
}

}  // namespace lockstep::launch
