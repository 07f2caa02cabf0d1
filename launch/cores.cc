#include "lockstep/launch/cores.h"

#include <algorithm>

#include <sched.h>
#include <unistd.h>

#include "lockstep/distributed/agreement.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/threads.h"
#include "lockstep/launch/log.h"

namespace lockstep::launch {
namespace {

// The machine and this process's affinity mask as text; the mask as a list of runs, "0-3,8".
std::string place(int* cores) {
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  cpu_set_t mask;
  CPU_ZERO(&mask);
  *cores = 0;
  if (sched_getaffinity(0, sizeof mask, &mask) != 0) return "";
  std::string runs;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &mask)) continue;
    const int first = cpu;
    while (cpu + 1 < CPU_SETSIZE && CPU_ISSET(cpu + 1, &mask)) ++cpu;
    runs += fmt::format("{}{}-{}", runs.empty() ? "" : ",", first, cpu);
    *cores += cpu - first + 1;
  }
  return fmt::format("{} {}", host, runs);
}

}  // namespace

int threads_of(const std::vector<std::string>& places, int rank, int cores) {
  const auto& mine = places[static_cast<size_t>(rank)];
  const auto sharing = std::count(places.begin(), places.end(), mine);
  return std::max(1, cores / std::max(1, static_cast<int>(sharing)));
}

void share_cores(distributed::ProcessGroup& group) {
  const ThreadRequest request = requested_threads();
  if (group.size() == 1 && request.understood()) return;
  const distributed::ProcessGroup::LabelScope label(group, distributed::Label("the ranks' cores"));
  int cores = 0;
  const auto places = distributed::exchange_texts(group, place(&cores));
  if (request.threads == 0 && cores > 0) {
    set_num_threads(std::min(threads_of(places, group.rank(), cores), 1024));
  }
  // One rank says it for all: most often they have the same environment.
  int64_t speaker = request.understood() ? group.size() : group.rank();
  group.all_reduce({&speaker, 1, DType::kInt64, {}}, distributed::ReduceOp::kMin).wait();
  if (speaker == group.rank()) {
    log::warn(fmt::format("OMP_NUM_THREADS={} is not a number of threads; using {}", request.text,
                          num_threads()));
  }
}

}  // namespace lockstep::launch
