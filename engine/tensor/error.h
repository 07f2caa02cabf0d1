#pragma once

#include <stdexcept>
#include <string>

namespace lockstep {

// Every error that Lockstep throws. The text names the operation, the offending values and what to
// do; launch adds the rank. Subclasses exist where a caller would want to react differently.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// An argument that no state of the program could make valid: wrong shape, dtype, range.
class ValueError : public Error {
 public:
  using Error::Error;
};

// A file is missing, truncated or not what its name says.
class DataError : public Error {
 public:
  using Error::Error;
};

// A peer failed, disagreed or did not arrive; what() names the rank.
class DistributedError : public Error {
 public:
  using Error::Error;
};

}  // namespace lockstep
