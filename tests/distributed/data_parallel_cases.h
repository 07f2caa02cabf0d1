#pragma once

#include <ostream>
#include <vector>

#include "lockstep/distributed/process_group.h"

namespace lockstep::distributed::testing {

// One behaviour of DataParallel, run by every rank of any process group of any size.
struct Case {
  const char* name;
  void (*run)(ProcessGroup& group);
};
const std::vector<Case>& data_parallel_cases();

// Cases that need at least two ranks.
const std::vector<Case>& several_ranks_cases();

inline void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

}  // namespace lockstep::distributed::testing
