#pragma once

#include <ostream>

#include "lockstep/distributed/process_group.h"

namespace lockstep::distributed::testing {

// One behaviour, run by every rank of a process group at once.
struct Case {
  const char* name;
  void (*run)(ProcessGroup& group);
};

inline void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

}  // namespace lockstep::distributed::testing
