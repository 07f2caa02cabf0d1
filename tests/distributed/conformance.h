#pragma once

#include <functional>
#include <string>
#include <vector>

#include "case.h"

// What every process group has to do, whatever it is made of. A case is run by all ranks at once,
// each with its own group; it leaves the group usable unless it is among the breaking ones.
namespace lockstep::distributed::testing {

const std::vector<Case>& conformance_cases();

// These end the group on every rank, and need at least two of them.
const std::vector<Case>& breaking_cases();

// The text of the DistributedError that `body` throws; fails the test if it throws nothing.
std::string error_of(const std::function<void()>& body);

}  // namespace lockstep::distributed::testing
