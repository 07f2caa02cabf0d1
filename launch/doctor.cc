#include "lockstep/launch/doctor.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <sched.h>
#include <unistd.h>

#include "lockstep/data/fashion_mnist.h"
#include "lockstep/distributed/mpi_runtime.h"
#include "lockstep/engine/arithmetic.h"
#include "lockstep/engine/plugin.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/launch/environment.h"

namespace lockstep::launch {
namespace {

using Section = Diagnosis::Section;

std::string processor_model() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0 && line.find(": ") != std::string::npos) {
      return line.substr(line.find(": ") + 2);
    }
  }
  return "unknown";
}

int usable_cores() {
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) != 0) return 1;
  return CPU_COUNT(&mask);
}

// The full path of a program on PATH; empty if there is none.
std::string find_program(const std::string& name) {
  const char* variable = std::getenv("PATH");
  const std::string path = variable ? variable : "";
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find(':', begin), path.size());
    const auto file = std::filesystem::path(path.substr(begin, end - begin)) / name;
    if (end > begin && access(file.c_str(), X_OK) == 0) return file.string();
    begin = end + 1;
  }
  return {};
}

Section processor() {
  const auto pages = static_cast<double>(sysconf(_SC_PHYS_PAGES));
  const auto page = static_cast<double>(sysconf(_SC_PAGE_SIZE));
  return {"CPU",
          {{"processor", processor_model()},
           {"cores", fmt::format("{} usable by this process", usable_cores())},
           {"memory", fmt::format("{:.1f} GiB", pages * page / (1 << 30))},
           {"arithmetic", describe_arithmetic()}}};
}

Section message_passing() {
  Section section{"MPI", {{"library", distributed::mpi_runtime::library_version()}}};
  const std::string mpirun = find_program("mpirun"), srun = find_program("srun");
  section.lines.emplace_back(
      "mpirun",
      mpirun.empty() ? "not on PATH (Debian: openmpi-bin); several ranks need a launcher" : mpirun);
  if (!srun.empty()) section.lines.emplace_back("srun", srun);
  try {
    const Environment environment = read_environment();
    if (environment.launched()) {
      section.lines.emplace_back(
          "started by", fmt::format("{}, as rank {} of {}", environment.launcher, environment.rank,
                                    environment.size));
    }
  } catch (const Error& error) {
    section.lines.emplace_back("environment", error.what());
  }
  return section;
}

Section cuda() {
  const CudaStatus& status = cuda_status();
  Section section{"CUDA", {}};
  section.lines.emplace_back(
      "devices", status.devices > 0 ? std::to_string(status.devices) : "none: " + status.why);
  if (!status.path.empty()) section.lines.emplace_back("plugin", status.path);
  for (const auto& fact : cuda_facts()) section.lines.push_back(fact);
  return section;
}

Section training_data() {
  const char* variable = std::getenv("LOCKSTEP_DATA");
  const std::filesystem::path folder =
      variable && *variable ? std::filesystem::path(variable) : data::distribution_data_dir();
  std::error_code ignored;
  constexpr const char* kImages = "train-images-idx3-ubyte.gz";
  const bool there = std::filesystem::exists(folder / "fashion-mnist" / kImages, ignored) ||
                     std::filesystem::exists(folder / kImages, ignored);
  return {"Data",
          {{"Fashion-MNIST",
            there ? "in " + folder.string()
                  : "not in " + folder.string() +
                        "; install dataset-fashion-mnist (Debian), or name a folder by "
                        "LOCKSTEP_DATA"}}};
}

}  // namespace

std::string Diagnosis::str() const {
  std::string text;
  for (const Section& section : sections) {
    text += section.title + "\n";
    size_t width = 0;
    for (const auto& [name, value] : section.lines) width = std::max(width, name.size());
    for (const auto& [name, value] : section.lines) {
      text += fmt::format("  {:<{}}  {}\n", name, width, value);
    }
  }
  return text;
}

Diagnosis diagnose() {
  Diagnosis diagnosis;
  diagnosis.sections = {processor(), message_passing(), cuda(), training_data()};
  diagnosis.cuda = cuda_status().devices > 0;
  return diagnosis;
}

}  // namespace lockstep::launch
