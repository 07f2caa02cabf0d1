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

// Of data_parallel_cases(), those about parameters that are frozen and unfrozen.
void frozen_and_unfrozen_between_steps(ProcessGroup& group);
void frozen_and_unfrozen_within_a_step(ProcessGroup& group);
void unfrozen_on_one_rank(ProcessGroup& group);
void frozen_parameters_are_not_reduced(ProcessGroup& group);
void failure_with_an_unfrozen_parameter(ProcessGroup& group);
void unfrozen_beside_another_data_parallel(ProcessGroup& group);

inline void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

}  // namespace lockstep::distributed::testing
