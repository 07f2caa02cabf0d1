#include "lockstep/nn/activations.h"

#include "lockstep/engine/tensor/check.h"

namespace lockstep::nn {

GELU::GELU(std::string how) : approximate(std::move(how)) {
  check(approximate == "none" || approximate == "tanh",
        "approximate argument must be either none or tanh.");
}

Hardtanh::Hardtanh(double least, double most) : min_val(least), max_val(most) {
  check(max_val > min_val, "[Hardtanh] min_val {} must be less than max_val {}", min_val, max_val);
}

}  // namespace lockstep::nn
