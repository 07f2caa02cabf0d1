#pragma once

#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/tensor/error.h"

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
  for (const WrongUse& wrong : uses) {
    std::string thrown = "(nothing was thrown)";
    try {
      wrong.use();
    } catch (const Error& e) {
      thrown = e.what();
    }
    EXPECT_EQ(thrown, wrong.text);
  }
}

}  // namespace lockstep::testing
