#pragma once

#include <optional>

#include "lockstep/nn/module.h"

namespace lockstep::nn {

// A table of vectors: int64 indices (...) to (..., embedding_dim). weight (num_embeddings,
// embedding_dim) starts as N(0, 1).
class Embedding : public Layer {
 public:
  struct Options {
    // This row starts as zeros and gets no gradient; negative ones count from the end.
    std::optional<int64_t> padding_idx{};
  };

  Embedding(int64_t num_embeddings, int64_t embedding_dim, Options options);
  Embedding(int64_t num_embeddings, int64_t embedding_dim)
      : Embedding(num_embeddings, embedding_dim, Options()) {}

  Tensor forward(const Tensor& indices) override;

  Tensor weight;

 private:
  int64_t padding_ = -1;
};

}  // namespace lockstep::nn
