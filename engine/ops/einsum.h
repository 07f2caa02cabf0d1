#pragma once

#include <string_view>
#include <vector>

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

// Sums of products by Einstein's convention: "bij,bjk->bik". Letters name dimensions, "..." the
// broadcast rest; a letter twice in one operand means its diagonal. Without "->" the result has the
// letters that occur once, in alphabetical order. Operands are contracted from left to right. At
// most 8 different dimensions.
Tensor einsum(std::string_view equation, const std::vector<Tensor>& operands);

}  // namespace lockstep
