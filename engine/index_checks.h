#pragma once

#include <cstdint>
#include <string>

#include "lockstep/engine/tensor/error.h"
#include "lockstep/engine/tensor/host_device.h"
#include "lockstep/engine/tensor/tensor.h"

// Whether indices and targets are within their range. The host looks at those whose values it
// knows, before a kernel follows them. Those that were computed on a device are checked there, and
// nobody waits for it: kernels read and write nothing at places that are not there, what they would
// have read is NaN (-1 in integers), and the first such index is reported by whoever waits for the
// device next.
namespace lockstep {

// An index is out of its range.
class IndexError : public ValueError {
 public:
  using ValueError::ValueError;
};

// Literals, which are kept: a recorded step may find something wrong long after the call.
struct IndexRule {
  const char* op;
  const char* text;  // of the error: {0} is the index, {1} `dim`, {2} `size`
  int64_t dim = 0;
  int64_t size = 0;       // indices are less,
  bool negative = false;  // and not negative, unless those count from the end
  bool ignores = false;   // one that stands for nothing:
  int64_t ignored = 0;

  LOCKSTEP_HD bool admits(int64_t index) const {
    return (ignores && index == ignored) || (index >= (negative ? -size : 0) && index < size);
  }
};

// The values of an int64 `index`, contiguous on the host, where that knows them; throws IndexError
// unless the rule admits all. Otherwise undefined, and the device has been told to look. If it
// finds something the first element of `poisoned`, to which these indices will add, becomes NaN.
Tensor check_indices(const IndexRule& rule, const Tensor& index, const Tensor& poisoned = {});

// A device's.
class IndexChecks {
 public:
  IndexChecks() = default;
  virtual ~IndexChecks();
  IndexChecks(const IndexChecks&) = delete;
  IndexChecks& operator=(const IndexChecks&) = delete;

  virtual void check_indices(const IndexRule& rule, const Tensor& index,
                             const Tensor& poisoned) = 0;
  // What was found in work that has been waited for, as the text of an IndexError, and not told
  // before. Empty: nothing. A copy to the host and synchronize() throw it by themselves.
  virtual std::string wrong_index() = 0;
};

// Null for the CPU. Throws Error like backend_of().
IndexChecks* index_checks_of(Device device);

}  // namespace lockstep
