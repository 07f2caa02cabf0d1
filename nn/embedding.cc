#include "lockstep/nn/embedding.h"

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/ops/index.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/nn/init.h"

namespace lockstep::nn {

Embedding::Embedding(int64_t num_embeddings, int64_t embedding_dim, Options options) {
  check(num_embeddings >= 0 && embedding_dim >= 0, "[Embedding] {} embeddings of {} dimensions",
        num_embeddings, embedding_dim);
  weight = register_parameter("weight", empty({num_embeddings, embedding_dim}));
  init::normal_(weight);
  if (!options.padding_idx) return;
  padding_ = *options.padding_idx;
  check(padding_ < num_embeddings && padding_ >= -num_embeddings,
        "Padding_idx must be within num_embeddings: got {} for {} embeddings", padding_,
        num_embeddings);
  if (padding_ < 0) padding_ += num_embeddings;
  const autograd::NoGrad no_grad;
  weight.select(0, padding_).zero_();
}

Tensor Embedding::forward(const Tensor& indices) { return embedding(indices, weight, padding_); }

}  // namespace lockstep::nn
