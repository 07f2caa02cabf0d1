#include "lockstep/distributed/reduction_mode.h"

#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {

ReductionMode parse_reduction_mode(std::string_view name) {
  if (name == "fast") return ReductionMode::kFast;
  if (name == "repeatable") return ReductionMode::kRepeatable;
  if (name == "bitwise") return ReductionMode::kBitwise;
  fail("[reduction] \"{}\" is not one of fast, repeatable, bitwise", name);
}

}  // namespace lockstep::distributed
