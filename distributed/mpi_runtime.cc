#include "lockstep/distributed/mpi_runtime.h"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <set>
#include <string>
#include <thread>

#include <fcntl.h>
#include <unistd.h>

#include "lockstep/distributed/mpi_calls.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "unknown error";
  int length = 0;
  MPI_Error_string(code, text, &length);
  int rank = -1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  const std::string name(call);
  fail<DistributedError>("[rank {}] {} failed: {}", rank, name.substr(0, name.find('(')), text);
}

namespace mpi_runtime {
namespace {

bool g_started_here = false;
std::string g_own_segment;  // Open MPI's file for this rank, if its name has been removed
std::atomic<bool> g_failed = false;

// Open MPI's shared-memory transport keeps one named file per rank in /dev/shm and removes it in
// MPI_Finalize; whatever ends the job earlier may leave it there. The name serves only to attach,
// and all ranks of a node attach during MPI_Init: it can go as soon as every peer's file is mapped.
void forget_names_of_open_mpi() {
  MPI_Comm node = MPI_COMM_NULL;
  LOCKSTEP_MPI(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node));
  int size = 0;
  LOCKSTEP_MPI(MPI_Comm_size(node, &size));

  std::set<std::string> files;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const auto at = line.find("/dev/shm/vader_segment.");
    if (at != std::string::npos) files.insert(line.substr(at));
  }
  // A transport that attaches later, or none: then hands off.
  int attached = static_cast<int>(files.size()) == size ? 1 : 0;
  LOCKSTEP_MPI(MPI_Allreduce(MPI_IN_PLACE, &attached, 1, MPI_INT, MPI_MIN, node));
  if (attached == 1) {
    // The file of rank r of this job ends in ".<job>.<r>".
    const std::string ending = fmt::format(".{}", world_rank());
    for (const std::string& file : files) {
      if (file.ends_with(ending) && unlink(file.c_str()) == 0) g_own_segment = file;
    }
  }
  LOCKSTEP_MPI(MPI_Comm_free(&node));
}

// MPI_Finalize meets its peers in the launcher, and Open MPI's mpirun may then hang for good when
// some of them end with an error instead. So they meet here before: a rank whose peer has failed
// stays in this loop until the launcher, which is free to act, ends it.
void wait_until_all_end_well() {
  MPI_Request all_here = MPI_REQUEST_NULL;
  LOCKSTEP_MPI(MPI_Ibarrier(MPI_COMM_WORLD, &all_here));
  for (;;) {
    int done = 0;
    LOCKSTEP_MPI(MPI_Test(&all_here, &done, MPI_STATUS_IGNORE));
    if (done != 0) return;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
}

}  // namespace

void initialize(Expected expected) {
  int running = 0;
  int over = 0;
  MPI_Initialized(&running);
  MPI_Finalized(&over);
  check<DistributedError>(over == 0, "[mpi] MPI has already been finalized in this process");
  int level = MPI_THREAD_SINGLE;
  if (running == 0) {
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &level), "MPI_Init_thread");
    g_started_here = true;
  } else {
    LOCKSTEP_MPI(MPI_Query_thread(&level));
  }

  const int rank = world_rank();
  const int size = world_size();
  const bool agree =
      (expected.size < 0 || expected.size == size) && (expected.rank < 0 || expected.rank == rank);
  if (!agree || level < MPI_THREAD_MULTIPLE) {
    if (size == 1) finalize();
    mark_failed();
  }
  check<DistributedError>(
      agree,
      "[mpi] the launcher says rank {} of {}, but MPI says rank {} of {}; start the job with the "
      "launcher that belongs to the MPI library this program is linked with",
      expected.rank, expected.size, rank, size);
  check<DistributedError>(level >= MPI_THREAD_MULTIPLE,
                          "[mpi] MPI offers thread level {}, MPI_THREAD_MULTIPLE ({}) is needed",
                          level, MPI_THREAD_MULTIPLE);
  if (running == 0) forget_names_of_open_mpi();
}

bool initialized() {
  int running = 0;
  int over = 0;
  MPI_Initialized(&running);
  MPI_Finalized(&over);
  return running != 0 && over == 0;
}

int world_rank() {
  int rank = 0;
  LOCKSTEP_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &rank));
  return rank;
}

int world_size() {
  int size = 0;
  LOCKSTEP_MPI(MPI_Comm_size(MPI_COMM_WORLD, &size));
  return size;
}

void finalize() {
  if (!g_started_here || g_failed || !initialized()) return;
  // Open MPI complains at length if it does not find the file that it wants to remove.
  if (!g_own_segment.empty()) {
    const int file = open(g_own_segment.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    if (file >= 0) close(file);
  }
  wait_until_all_end_well();
  MPI_Finalize();
}

void mark_failed() noexcept { g_failed = true; }

std::string library_version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string all(text, static_cast<size_t>(length));
  return all.substr(0, all.find_first_of("\n,"));
}

}  // namespace mpi_runtime
}  // namespace lockstep::distributed
