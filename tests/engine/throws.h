#pragma once

#include <exception>
#include <string>

#include <gtest/gtest.h>

#include "lockstep/engine/tensor/error.h"

namespace lockstep::testing {

// The text that `run` throws, whatever the type.
template <typename F>
std::string error_of(F&& run) {
  try {
    run();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace lockstep::testing

// Expects `statement` to throw a lockstep::Error whose text is exactly `text`.
#define EXPECT_ERROR(statement, text)            \
  do {                                           \
    std::string thrown = "(nothing was thrown)"; \
    try {                                        \
      static_cast<void>(statement);              \
    } catch (const ::lockstep::Error& e) {       \
      thrown = e.what();                         \
    }                                            \
    EXPECT_EQ(thrown, text) << #statement;       \
  } while (false)
