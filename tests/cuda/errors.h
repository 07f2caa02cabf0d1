#pragma once

#include <functional>
#include <string>

#include <gtest/gtest.h>

#include "lockstep/engine/tensor/error.h"

namespace lockstep {

inline std::string text_of_error(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace lockstep

#define EXPECT_ERROR(call, text)                                    \
  do {                                                              \
    const std::string got = text_of_error([&] { call; });           \
    EXPECT_NE(got.find(text), std::string::npos) << "got: " << got; \
  } while (false)
