#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/distributed/process_group.h"
#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::distributed {

// What is done about a gradient that is not finite (NaN or infinite) on some rank.
enum class NonFinite : uint8_t {
  kThrow,   // every rank throws for that step, naming parameter and rank; no gradients are left
  kSkip,    // no gradients are left, so the optimizer's step() does nothing; counted
  kIgnore,  // they are not looked for
};

// Index of the first element of a contiguous float32 or float64 tensor that is not finite, or -1.
int64_t first_non_finite(const Tensor& tensor);

// Looks at a rank's own gradients: once they have been summed over the ranks nobody can tell where
// a NaN came from. On the host, as they become complete and lie in the cache; on a device, at all
// of a bucket at once.
class FiniteCheck {
 public:
  explicit FiniteCheck(bool enabled) : enabled_(enabled) {}

  void begin();  // a new reduction
  void look(const std::string& parameter, const Tensor& gradient);
  // Before the gradients looked at are overwritten: a device looks now, and answers later.
  void ask();
  bool found() const { return !findings_.empty(); }  // on the host
  // On a device: one element, 0 unless something is there. Undefined if nothing was looked at.
  Tensor answer();

  // Collective, on all ranks once one has found something: throws DistributedError with what all
  // have found. `step` as in "step 31".
  [[noreturn]] void fail(ProcessGroup& group, const std::string& step);

 private:
  void name_answers();
  void add(const std::string& parameter, const std::string& what);

  bool enabled_;
  // Of a device: what it has been asked about, and its answers in that order, not 0 if something is
  // there; then what it has not been asked about yet.
  std::vector<std::string> asked_;
  std::vector<Tensor> answers_;
  std::vector<std::string> names_;
  std::vector<Tensor> gradients_;
  std::vector<std::string> findings_;  // "fc.weight\tnan at element 17"
};

}  // namespace lockstep::distributed
