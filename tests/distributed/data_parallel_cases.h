#pragma once

#include <vector>

#include "case.h"

namespace lockstep::distributed::testing {

// Behaviours of DataParallel, in process groups of any size.
const std::vector<Case>& data_parallel_cases();

// Those about communication hooks.
const std::vector<Case>& hook_cases();

// Cases that need at least two ranks.
const std::vector<Case>& several_ranks_cases();

// Of these, those about failures and misuse, about when gradients leave, no_sync() and join().
const std::vector<Case>& failure_cases();
const std::vector<Case>& several_ranks_failure_cases();
const std::vector<Case>& order_cases();
const std::vector<Case>& no_sync_cases();
const std::vector<Case>& several_ranks_no_sync_cases();
const std::vector<Case>& join_cases();
const std::vector<Case>& several_ranks_join_cases();

// Of data_parallel_cases(), those about parameters that are frozen and unfrozen.
void frozen_and_unfrozen_between_steps(ProcessGroup& group);
void frozen_and_unfrozen_within_a_step(ProcessGroup& group);
void unfrozen_on_one_rank(ProcessGroup& group);
void frozen_parameters_are_not_reduced(ProcessGroup& group);
void failure_with_an_unfrozen_parameter(ProcessGroup& group);
void unfrozen_beside_another_data_parallel(ProcessGroup& group);

}  // namespace lockstep::distributed::testing
