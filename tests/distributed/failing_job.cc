// A job in which the last rank comes to grief, for failing_job_test.sh. It starts and ends as
// launch does: see distributed/mpi_runtime.h.
//
//   failing_job none|throw|kill|segv|exit|leave|stall_kill
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <signal.h>
#include <unistd.h>

#include "lockstep/distributed/mpi_group.h"
#include "lockstep/distributed/mpi_runtime.h"
#include "lockstep/engine/tensor/error.h"

using namespace lockstep;

namespace {

int number_in_environment(const char* a, const char* b) {
  const char* text = std::getenv(a);
  if (text == nullptr) text = std::getenv(b);
  return text == nullptr ? -1 : std::atoi(text);
}

void come_to_grief(const std::string& how) {
  if (how == "throw") throw std::runtime_error("no more data");
  if (how == "kill") kill(getpid(), SIGKILL);
  if (how == "segv") kill(getpid(), SIGSEGV);
  if (how == "exit") std::_Exit(5);
}

void train(distributed::ProcessGroup& group, const std::string& how) {
  constexpr int64_t kCount = 1 << 20;
  const auto memory = group.allocate(kCount * sizeof(float), Device{});
  std::vector<float> own(kCount);
  for (int step = 0; step < 50; ++step) {
    if (step == 20 && group.rank() == group.size() - 1) {
      if (how == "leave") return;
      come_to_grief(how);
    }
    auto first = group.all_reduce({memory->data(), kCount, DType::kFloat32, Device{}});
    auto second = group.all_reduce({own.data(), kCount, DType::kFloat32, Device{}});
    first.wait();
    second.wait();
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string how = argc > 1 ? argv[1] : "none";
  std::shared_ptr<distributed::ProcessGroup> group;
  try {
    distributed::mpi_runtime::initialize(
        {number_in_environment("OMPI_COMM_WORLD_RANK", "PMI_RANK"),
         number_in_environment("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")});
    group = distributed::make_mpi_group();
    train(*group, how);
    group = nullptr;
    distributed::mpi_runtime::finalize();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "failed: %s\n", error.what());
    if (group) {
      group->abort(error.what());
      group->wait_for_peers_to_fail(std::chrono::seconds(3));
    }
    std::fflush(nullptr);
    std::_Exit(1);
  }
}
