#pragma once

#include <vector>

#include "data_parallel_cases.h"

namespace lockstep::distributed::testing {

// Reduction mode bitwise: every case compares with one process that has no ranks at all, bit for
// bit, so that any two numbers of ranks are compared with each other.
const std::vector<Case>& bitwise_cases();

}  // namespace lockstep::distributed::testing
