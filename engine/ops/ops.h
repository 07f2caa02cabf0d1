#pragma once

// Every op.
#include "lockstep/engine/ops/attention.h"
#include "lockstep/engine/ops/batch_norm.h"
#include "lockstep/engine/ops/conv.h"
#include "lockstep/engine/ops/dropout.h"
#include "lockstep/engine/ops/einsum.h"
#include "lockstep/engine/ops/extreme.h"
#include "lockstep/engine/ops/gather.h"
#include "lockstep/engine/ops/index.h"
#include "lockstep/engine/ops/index_put.h"
#include "lockstep/engine/ops/join.h"
#include "lockstep/engine/ops/layer_norm.h"
#include "lockstep/engine/ops/linear.h"
#include "lockstep/engine/ops/loss.h"
#include "lockstep/engine/ops/masks.h"
#include "lockstep/engine/ops/matmul.h"
#include "lockstep/engine/ops/nll_loss.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/pool.h"
#include "lockstep/engine/ops/product.h"
#include "lockstep/engine/ops/reduce.h"
#include "lockstep/engine/ops/softmax.h"
#include "lockstep/engine/ops/split.h"
#include "lockstep/engine/ops/statistics.h"
#include "lockstep/engine/ops/truth.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep {

inline Tensor flatten(const Tensor& x, int64_t start_dim = 0, int64_t end_dim = -1) {
  return x.flatten(start_dim, end_dim);
}

}  // namespace lockstep
