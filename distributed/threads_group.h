#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "lockstep/distributed/process_group.h"

namespace lockstep::distributed {

// Ranks as threads of one process, for tests and sanitizers: element r is rank r's group, to be
// used by one thread. Throws ValueError unless size >= 1.
std::vector<std::shared_ptr<ProcessGroup>> make_threads_groups(int size);

// Runs `train` once per rank, each in its own thread, and joins them. When one throws, its group is
// aborted so that the others end too; then the exception that came first is rethrown.
void run_thread_ranks(int size, const std::function<void(ProcessGroup&)>& train);

}  // namespace lockstep::distributed
