#include "lockstep/nn/layers.h"

#include "lockstep/engine/tensor/check.h"

namespace lockstep::nn {

Dropout::Dropout(double probability) : p(probability) {
  check(p >= 0 && p <= 1, "dropout probability has to be between 0 and 1, but got {}", p);
}

}  // namespace lockstep::nn
