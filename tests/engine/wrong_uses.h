#pragma once

#include <functional>
#include <vector>

#include <gtest/gtest.h>

#include "engine/throws.h"

namespace lockstep::testing {

// A use that throws and the whole text that it gives.
struct WrongUse {
  const char* text;
  std::function<void()> use;
};

#define WRONG(text, ...)                          \
  {                                               \
    text, [=] { static_cast<void>(__VA_ARGS__); } \
  }

inline void expect_texts(const std::vector<WrongUse>& uses) {
  for (const WrongUse& wrong : uses) EXPECT_EQ(error_of(wrong.use), wrong.text);
}

}  // namespace lockstep::testing
