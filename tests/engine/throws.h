#pragma once

#include <string>

#include <gtest/gtest.h>

#include "lockstep/engine/tensor/error.h"

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
