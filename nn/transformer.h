#pragma once

#include <string>

#include "lockstep/nn/attention.h"
#include "lockstep/nn/layers.h"
#include "lockstep/nn/linear.h"
#include "lockstep/nn/module.h"
#include "lockstep/nn/norm.h"

namespace lockstep::nn {

// Self-attention and a feed-forward network, each with a residual connection and a layer norm after
// it (norm_first: on its input). Takes (L, N, d_model), with batch_first (N, L, d_model), or a
// single sample (L, d_model).
class TransformerEncoderLayer : public Layer {
 public:
  struct Options {
    int64_t dim_feedforward = 2048;
    double dropout = 0.1;
    std::string activation = "relu";  // or "gelu"
    double layer_norm_eps = 1e-5;
    bool batch_first = false;
    bool norm_first = false;
    bool bias = true;
  };

  TransformerEncoderLayer(int64_t d_model, int64_t nhead, Options options);
  TransformerEncoderLayer(int64_t d_model, int64_t nhead)
      : TransformerEncoderLayer(d_model, nhead, Options()) {}

  Tensor forward(const Tensor& src) override { return forward(src, {}); }
  Tensor forward(const Tensor& src, const AttentionMasks& masks);
  using Layer::operator();
  Tensor operator()(const Tensor& src, const AttentionMasks& masks) { return forward(src, masks); }

  MultiheadAttention self_attn;
  Linear linear1;
  Dropout dropout;
  Linear linear2;
  LayerNorm norm1, norm2;
  Dropout dropout1, dropout2;

 private:
  Tensor attend(const Tensor& x, const AttentionMasks& masks);
  Tensor feed_forward(const Tensor& x);

  bool gelu_, norm_first_;
};

}  // namespace lockstep::nn
