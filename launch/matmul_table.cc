#include "lockstep/launch/matmul_table.h"

#include <exception>
#include <fstream>
#include <span>
#include <sstream>

#include <nlohmann/json.hpp>

#include "lockstep/data/atomic_file.h"
#include "lockstep/distributed/agreement.h"
#include "lockstep/engine/plugin.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/launch/log.h"

namespace lockstep::launch {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kFormat = 1;
constexpr const char* kRemedy = "--tune-matmul FILE makes a new one";

std::string fact(const std::string& name) {
  for (const auto& [key, value] : cuda_facts()) {
    if (key == name) return value;
  }
  return "none";
}

std::string gpu_of(Device device) { return fact(device.str()); }
std::string library() { return fact("cuBLASLt"); }

// Runs `read` on rank 0, or on all ranks; whoever fails tells all.
template <typename F>
void together(distributed::ProcessGroup& group, bool mine, const F& read) {
  std::string problem;
  try {
    if (mine) read();
  } catch (const std::exception& error) {
    problem = error.what();
  }
  distributed::throw_together(group, "[launch] --matmul-table cannot be used", problem);
}

std::string read_file(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream text;
  if (in.peek() != std::ifstream::traits_type::eof()) text << in.rdbuf();
  check<Error>(in.is_open() && !in.bad() && text.good(), "{} cannot be read; {}", file, kRemedy);
  return text.str();
}

}  // namespace

std::string to_json(const MatmulTable& table) {
  Json json;
  json["format"] = kFormat;
  json["gpu"] = table.gpu;
  json["library"] = table.library;
  json["algorithms"] = table.algorithms;
  return json.dump(2) + "\n";
}

MatmulTable parse_matmul_table(const std::string& text, const std::string& file) {
  try {
    const Json json = Json::parse(text);
    const int format = json.at("format").get<int>();
    check<Error>(format == kFormat, "{} has format {}, this program reads format {}; {}", file,
                 format, kFormat, kRemedy);
    return {json.at("gpu").get<std::string>(), json.at("library").get<std::string>(),
            json.at("algorithms").get<AlgorithmTable>()};
  } catch (const Json::exception& error) {
    fail<Error>("{} is no table of algorithms for products ({}); {}", file, error.what(), kRemedy);
  }
}

void check_matmul_table(const MatmulTable& table, const std::string& gpu,
                        const std::string& library, const std::string& file) {
  check<Error>(table.gpu == gpu, "{} was made for the GPU \"{}\", and this one is \"{}\"; {}", file,
               table.gpu, gpu, kRemedy);
  check<Error>(table.library == library,
               "{} was made with cuBLASLt \"{}\", and this one is \"{}\"; {}", file, table.library,
               library, kRemedy);
}

std::string read_for_all(distributed::ProcessGroup& group, const std::string& file) {
  std::string text;
  together(group, group.rank() == 0, [&] { text = read_file(file); });
  auto size = static_cast<int64_t>(text.size());
  group.broadcast({&size, 1, DType::kInt64, Device{}}, 0).wait();
  text.resize(static_cast<size_t>(size));
  group.broadcast({text.data(), size, DType::kUInt8, Device{}}, 0).wait();
  return text;
}

void choose_algorithms(const Options& options, distributed::ProcessGroup& group, Device device) {
  if (device.is_cpu()) return;
  const distributed::ProcessGroup::LabelScope label(group, distributed::Label("the matmul table"));
  if (!options.matmul_table.empty()) {
    const std::string text = read_for_all(group, options.matmul_table);
    MatmulTable table;
    together(group, true, [&] {
      table = parse_matmul_table(text, options.matmul_table);
      check_matmul_table(table, gpu_of(device), library(), options.matmul_table);
    });
    if (group.rank() == 0) {
      log::info(fmt::format("products are computed by the {} algorithms of {}",
                            table.algorithms.size(), options.matmul_table));
    }
    set_algorithm_choice(AlgorithmChoice::kTable, std::move(table.algorithms));
  } else if (!options.tune_matmul.empty() || options.reduction == "fast") {
    if (group.rank() == 0 && !options.tune_matmul.empty()) {
      const data::AtomicFile probe(options.tune_matmul);  // can it be written?
      if (options.reduction != "fast") {
        log::warn(fmt::format(
            "--tune-matmul chooses by timing, so this run is not --reduction {}; runs with "
            "--matmul-table {} are",
            options.reduction, options.tune_matmul));
      }
    }
    set_algorithm_choice(AlgorithmChoice::kTimed);
  } else {
    set_algorithm_choice(AlgorithmChoice::kHeuristic);
  }
}

void write_tuned_algorithms(const Options& options, int rank, Device device) {
  if (options.tune_matmul.empty() || rank != 0 || device.is_cpu()) return;
  const MatmulTable table{gpu_of(device), library(), timed_algorithms()};
  const std::string text = to_json(table);
  data::AtomicFile file(options.tune_matmul);
  file.write(std::as_bytes(std::span(text)));
  file.publish();
  log::info(fmt::format("{} algorithms for products are in {}", table.algorithms.size(),
                        options.tune_matmul));
}

}  // namespace lockstep::launch
