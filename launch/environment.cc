#include "lockstep/launch/environment.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <optional>
#include <string_view>

#include "lockstep/engine/tensor/check.h"

namespace lockstep::launch {
namespace {

constexpr int kMaxInt = std::numeric_limits<int>::max();

class Reader {
 public:
  explicit Reader(const Getenv& get) : get_(get) {}

  std::optional<std::string> text(const char* name) const {
    const char* value = get_(name);
    if (value == nullptr || *value == '\0') return std::nullopt;
    return std::string(value);
  }

  // A non-negative number; throws if there is something else.
  std::optional<int64_t> number(const char* name) const {
    const auto value = text(name);
    if (!value) return std::nullopt;
    int64_t number = 0;
    const char* end = value->data() + value->size();
    const auto [at, error] = std::from_chars(value->data(), end, number);
    check<Error>(error == std::errc{} && at == end && number >= 0,
                 "[environment] {}={} is not a number a launcher would set", name, *value);
    return number;
  }

  std::optional<int> integer(const char* name) const {
    const auto value = number(name);
    if (!value) return std::nullopt;
    check<Error>(*value <= kMaxInt, "[environment] {}={} is too large", name, *value);
    return static_cast<int>(*value);
  }

 private:
  const Getenv& get_;
};

// Names of the four variables of one kind of launcher; the local ones may be null.
struct Variables {
  const char* launcher;
  const char* rank;
  const char* size;
  const char* local_rank;
  const char* local_size;
};

constexpr Variables kOpenMpi = {"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                                "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"};
constexpr Variables kPmi = {"PMI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"};

std::optional<Environment> read(const Reader& reader, const Variables& names) {
  const auto rank = reader.integer(names.rank);
  const auto size = reader.integer(names.size);
  if (!rank && !size) return std::nullopt;
  check<Error>(rank && size, "[environment] {} is set but {} is not; was the environment edited?",
               rank ? names.rank : names.size, rank ? names.size : names.rank);
  check<Error>(*rank < *size, "[environment] {}={} is not below {}={}", names.rank, *rank,
               names.size, *size);
  Environment result{names.launcher, *rank, *size, -1, -1};
  result.local_rank = reader.integer(names.local_rank).value_or(-1);
  result.local_size = reader.integer(names.local_size).value_or(-1);
  check<Error>(result.local_size == -1 || result.local_rank < result.local_size,
               "[environment] {}={} is not below {}={}", names.local_rank, result.local_rank,
               names.local_size, result.local_size);
  check<Error>(result.local_size <= *size, "[environment] {}={} is more than {}={}",
               names.local_size, result.local_size, names.size, *size);
  return result;
}

// Slurm lists tasks per node as "2(x3),1": three nodes with two tasks, then one with one.
std::optional<int> tasks_on_node(std::string_view list, int64_t node) {
  while (!list.empty()) {
    const auto item = list.substr(0, list.find(','));
    list.remove_prefix(std::min(list.size(), item.size() + 1));
    int tasks = 0;
    const char* end = item.data() + item.size();
    auto [at, error] = std::from_chars(item.data(), end, tasks);
    if (error != std::errc{}) return std::nullopt;
    int64_t repeat = 1;
    if (at != end) {
      if (end - at < 4 || std::string_view(at, 2) != "(x" || *(end - 1) != ')') return std::nullopt;
      const auto [stop, bad] = std::from_chars(at + 2, end - 1, repeat);
      if (bad != std::errc{} || stop != end - 1) return std::nullopt;
    }
    if (node < repeat) return tasks;
    node -= repeat;
  }
  return std::nullopt;
}

std::optional<Environment> read_slurm(const Reader& reader) {
  // Batch scripts, interactive shells and external steps have no step number or one of the reserved
  // ones at the top of the 32-bit range.
  constexpr int64_t kFirstReservedStep = 0xfffffff0;
  auto step = reader.number("SLURM_STEP_ID");
  if (!step) step = reader.number("SLURM_STEPID");
  if (!step || *step >= kFirstReservedStep) return std::nullopt;
  const auto rank = reader.integer("SLURM_PROCID");
  if (!rank) return std::nullopt;
  // SLURM_NTASKS may be the whole job's; the step's own count wins.
  auto size = reader.integer("SLURM_STEP_NUM_TASKS");
  if (!size) size = reader.integer("SLURM_NTASKS");
  check<Error>(size.has_value(),
               "[environment] SLURM_PROCID={} is set in a job step but neither "
               "SLURM_STEP_NUM_TASKS nor SLURM_NTASKS is",
               *rank);
  check<Error>(*rank < *size, "[environment] SLURM_PROCID={} is not below the {} tasks of the step",
               *rank, *size);
  Environment result{"Slurm", *rank, *size, -1, -1};
  result.local_rank = reader.integer("SLURM_LOCALID").value_or(-1);
  auto per_node = reader.text("SLURM_STEP_TASKS_PER_NODE");
  if (!per_node) per_node = reader.text("SLURM_TASKS_PER_NODE");
  const auto node = reader.integer("SLURM_NODEID");
  if (per_node && node) {
    result.local_size = tasks_on_node(*per_node, *node).value_or(-1);
    check<Error>(result.local_size == -1 || result.local_rank < result.local_size,
                 "[environment] SLURM_LOCALID={} is not below the {} tasks of node {} ({})",
                 result.local_rank, result.local_size, *node, *per_node);
  }
  return result;
}

}  // namespace

Environment read_environment(const Getenv& get) {
  const Reader reader(get);
  const auto openmpi = read(reader, kOpenMpi);
  const auto pmi = read(reader, kPmi);
  if (openmpi && pmi) {
    check<Error>(openmpi->rank == pmi->rank && openmpi->size == pmi->size,
                 "[environment] OMPI_COMM_WORLD_RANK={} of {} contradicts PMI_RANK={} of {}: was "
                 "one launcher started inside another?",
                 openmpi->rank, openmpi->size, pmi->rank, pmi->size);
  }
  auto found = openmpi ? openmpi : pmi;
  // PMIx gives its clients a rank, but the size only through its library.
  const auto pmix = reader.integer("PMIX_RANK");
  if (found && pmix) {
    check<Error>(*pmix == found->rank,
                 "[environment] PMIX_RANK={} contradicts rank {} of {} from {}: was one launcher "
                 "started inside another?",
                 *pmix, found->rank, found->size, found->launcher);
  }
  if (!found) found = read_slurm(reader);
  if (!found && pmix) found = Environment{"PMIx", *pmix, 0, -1, -1};
  return found.value_or(Environment{});
}

Environment read_environment() {
  return read_environment([](const char* name) { return std::getenv(name); });
}

}  // namespace lockstep::launch
