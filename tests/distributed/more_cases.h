#pragma once

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "data_parallel_cases.h"

// What is built beside or upon DataParallel; each case is run by every rank of any process group.
namespace lockstep::distributed::testing {

const std::vector<Case>& metrics_cases();
const std::vector<Case>& sync_batch_norm_cases();
const std::vector<Case>& sharded_cases();

// All of the above.
std::vector<Case> more_cases();

// The text of the exception that `body` throws; fails the test if it throws nothing of that type.
template <typename Exception, typename Body>
std::string text_of(const Body& body) {
  try {
    body();
  } catch (const Exception& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

}  // namespace lockstep::distributed::testing
