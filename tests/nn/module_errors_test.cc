#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/ops/ops.h"
#include "lockstep/nn/nn.h"

// A row of wrong uses, each with what the error says.
namespace lockstep::nn {
namespace {

struct WrongUse {
  const char* text;
  std::function<void()> act;
};

void expect_all(const std::vector<WrongUse>& uses) {
  for (const auto& [text, act] : uses) {
    try {
      act();
      ADD_FAILURE() << "no error: " << text;
    } catch (const ValueError& error) {
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos)
          << error.what() << "\ninstead of: " << text;
    }
  }
}

TEST(ModuleErrors, EmbeddingsAndNorms) {
  expect_all({
      {"Padding_idx must be within num_embeddings", [] { Embedding(4, 2, {.padding_idx = 4}); }},
      {"Padding_idx must be within num_embeddings", [] { Embedding(4, 2, {.padding_idx = -5}); }},
      {"[Embedding] -1 embeddings of 2 dimensions", [] { Embedding(-1, 2); }},
      {"Given normalized_shape=[3], expected input with shape [*, 3], but got input of size[3, 4]",
       [] {
         LayerNorm(3)(zeros({3, 4}));
       }},
      {"[LayerNorm] normalized_shape = [] must have at least one size", [] { LayerNorm(Dims{}); }},
      {"[RMSNorm] normalized_shape = [2, -1]",
       [] {
         RMSNorm({2, -1});
       }},
      {"Given normalized_shape=[2, 3]",
       [] {
         RMSNorm({2, 3})(zeros({3}));
       }},
      {"num_channels must be divisible by num_groups: got 4 channels and 3 groups",
       [] { GroupNorm(3, 4); }},
      {"Expected weight to be a vector of size equal to the number of channels in input, but got "
       "weight of shape [4] and input of shape [2, 6, 3]",
       [] {
         GroupNorm(2, 4)(zeros({2, 6, 3}));
       }},
      {"expected 2D or 3D input (got 4D input)",
       [] {
         BatchNorm1d(3)(zeros({2, 3, 2, 2}));
       }},
      {"expected 4D input (got 3D input)",
       [] {
         BatchNorm2d(3)(zeros({2, 3, 2}));
       }},
      {"Expected more than 1 value per channel when training, got input size [1, 3]",
       [] {
         BatchNorm1d(3)(zeros({1, 3}));
       }},
  });
}

TEST(ModuleErrors, Layers) {
  expect_all({
      {"approximate argument must be either none or tanh.", [] { GELU("exact"); }},
      {"[Hardtanh] min_val 1 must be less than max_val 1", [] { Hardtanh(1, 1); }},
      {"dropout probability has to be between 0 and 1, but got 1.5", [] { Dropout(1.5); }},
      {"dropout probability has to be between 0 and 1, but got -0.5", [] { Dropout(-0.5); }},
      {"Dimension out of range",
       [] {
         Softmax(2)(zeros({2, 2}));
       }},
      {"mat1 and mat2 shapes cannot be multiplied (2x4 and 3x2)",
       [] {
         Linear(3, 2)(zeros({2, 4}));
       }},
      {"[Conv1d] 3 input and 4 output channels must be positive multiples of groups = 2",
       [] { Conv1d(3, 4, 3, {.groups = 2}); }},
      {"[Conv2d] 2 input and 2 output channels must be positive multiples of groups = 1, kernel "
       "size 3 x 0 positive",
       [] {
         Conv2d(2, 2, {3, 0});
       }},
      {"[ConvTranspose2d] 0 input", [] { ConvTranspose2d(0, 4, 3); }},
      {"expected input[1, 3, 5] to have 2 channels, but got 3 channels instead",
       [] {
         Conv1d(2, 4, 3)(zeros({1, 3, 5}));
       }},
      {"output padding must be smaller than either stride or dilation",
       [] {
         ConvTranspose2d(1, 1, 3, {.output_padding = 1})(zeros({1, 1, 3, 3}));
       }},
      {"kernel size should be greater than zero, got 0 x 0", [] { MaxPool2d(0); }},
      {"stride should not be zero or negative, got 0 x 0", [] { AvgPool2d(2, {.stride = 0}); }},
      {"max_pool1d: Expected 2D or 3D (batch mode) tensor with optional 0 dim batch size for "
       "input, "
       "but got:[3]",
       [] { MaxPool1d(2)(zeros({3})); }},
      {"Expected 2 to 3 dimensions, but got 1-dimensional tensor for argument #1 'self' (while "
       "checking arguments for avg_pool1d)",
       [] { AvgPool1d(2)(zeros({3})); }},
      {"non-empty 3D or 4D (batch mode) tensor expected for input",
       [] {
         MaxPool2d(2)(zeros({2, 3}));
       }},
  });
}

TEST(ModuleErrors, Losses) {
  const auto logits = zeros({2, 3});
  expect_all({
      {"batchmean is not a valid value for reduction", [] { MSELoss(Reduction::kBatchMean); }},
      {"batchmean is not a valid value for reduction",
       [] { CrossEntropyLoss(Reduction::kBatchMean); }},
      {"smooth_l1_loss does not support negative values for beta.",
       [] { SmoothL1Loss(Reduction::kMean, -1); }},
      {"label_smoothing must be between 0.0 and 1.0. Got: 1.5",
       [] { CrossEntropyLoss({.label_smoothing = 1.5}); }},
      {"[NLLLoss] has no label smoothing", [] { NLLLoss({.label_smoothing = 0.5}); }},
      {"Target 3 is out of bounds.",
       [&] {
         CrossEntropyLoss()(logits, tensor({0, 3}));
       }},
      {"Expected input batch_size (2) to match target batch_size (3).",
       [&] {
         NLLLoss()(logits, tensor({0, 1, 2}));
       }},
      {"weight tensor should be defined either for all 3 classes or no classes",
       [&] {
         NLLLoss({.weight = ones({2})})(logits, tensor({0, 1}));
       }},
      {"all elements of input should be between 0 and 1",
       [] { BCELoss()(tensor({2.0}), tensor({1.0})); }},
      {"Target size ([2]) must be the same as input size ([1])",
       [] { BCEWithLogitsLoss()(zeros({1}), zeros({2})); }},
  });
}

TEST(ModuleErrors, Attention) {
  MultiheadAttention module(4, 2);
  const auto q = zeros({3, 2, 4}), kv = zeros({5, 2, 4});
  const auto masked = [&](const AttentionMasks& masks) { module(q, kv, kv, {.masks = masks}); };
  expect_all({
      {"embed_dim must be divisible by num_heads: got embed_dim=4 and num_heads=3",
       [] { MultiheadAttention(4, 3); }},
      {"embed_dim and num_heads must be greater than 0, got embed_dim=4 and num_heads=0 instead",
       [] { MultiheadAttention(4, 0); }},
      {"dropout probability has to be between 0 and 1, but got 2",
       [] { MultiheadAttention(4, 2, {.dropout = 2}); }},
      {"query should be unbatched 2D or batched 3D tensor but received 4-D query tensor",
       [&] {
         module(zeros({1, 3, 2, 4}), kv, kv);
       }},
      {"For batched (3-D) `query`, expected `key` and `value` to be 3-D but found 2-D and 3-D "
       "tensors respectively",
       [&] {
         module(q, zeros({5, 4}), kv);
       }},
      {"For unbatched (2-D) `query`, expected `key_padding_mask` to be `None` or 1-D but found 2-D "
       "tensor instead",
       [&] {
         const auto x = zeros({3, 4});
         module(x, x, x, {.masks = {.key_padding_mask = zeros({1, 3}, {DType::kBool})}});
       }},
      {"was expecting embedding dimension of 4, but got 6",
       [&] {
         module(zeros({3, 2, 6}), kv, kv);
       }},
      {"key shape [5, 2, 4] does not match value shape [4, 2, 4]",
       [&] {
         module(q, kv, zeros({4, 2, 4}));
       }},
      {"query [3, 1, 4] and key [5, 2, 4] must have the same number of samples",
       [&] {
         module(zeros({3, 1, 4}), kv, kv);
       }},
      {"The shape of the 2D attn_mask is [3, 3], but should be [3, 5].",
       [&] {
         masked({.attn_mask = zeros({3, 3})});
       }},
      {"The shape of the 3D attn_mask is [2, 3, 5], but should be [4, 3, 5].",
       [&] {
         masked({.attn_mask = zeros({2, 3, 5})});
       }},
      {"attn_mask's dimension 1 is not supported", [&] { masked({.attn_mask = zeros({5})}); }},
      {"only bool and floating types of attn_mask are supported, got int64",
       [&] {
         masked({.attn_mask = zeros({3, 5}, {DType::kInt64})});
       }},
      {"expecting key_padding_mask shape of (2, 5), but got [2, 3]",
       [&] {
         masked({.key_padding_mask = zeros({2, 3})});
       }},
      {"activation should be relu/gelu, not tanh",
       [] { TransformerEncoderLayer(4, 2, {.activation = "tanh"}); }},
      {"[TransformerEncoderLayer] expects (L, N, d_model)",
       [] { TransformerEncoderLayer(4, 2)(zeros({4})); }},
  });
}

TEST(ModuleErrors, Recurrence) {
  LSTM lstm(3, 2);
  GRU gru(3, 2, {.num_layers = 2, .batch_first = true, .bidirectional = true});
  LSTMCell cell(3, 2);
  expect_all({
      {"hidden_size must be greater than zero: got 0", [] { LSTM(3, 0); }},
      {"num_layers must be greater than zero: got 0", [] { GRU(3, 2, {.num_layers = 0}); }},
      {"dropout should be a number in range [0, 1] representing the probability of an element "
       "being "
       "zeroed: got 1.5",
       [] { GRU(3, 2, {.dropout = 1.5}); }},
      {"[LSTM] input_size -1 must not be negative", [] { LSTM(-1, 2); }},
      {"[LSTMCell] 3 inputs and 0 hidden features", [] { LSTMCell(3, 0); }},
      {"LSTM: Expected input to be 2D or 3D, got 1D instead", [&] { lstm(zeros({3})); }},
      {"input.size(-1) must be equal to input_size. Expected 3, got 4",
       [&] {
         lstm(zeros({5, 2, 4}));
       }},
      {"Expected sequence length to be larger than 0 in RNN",
       [&] {
         lstm(zeros({0, 2, 3}));
       }},
      {"Expected hidden[0] size [1, 2, 2], got [1, 3, 2]",
       [&] {
         lstm(zeros({5, 2, 3}), zeros({1, 3, 2}), zeros({1, 2, 2}));
       }},
      {"Expected hidden[1] size [1, 2], got [2]",
       [&] {
         lstm(zeros({5, 3}), zeros({1, 2}), zeros({2}));
       }},
      {"Expected hidden size [4, 5, 2], got [4, 2, 2]",
       [&] {
         gru(zeros({5, 2, 3}), zeros({4, 2, 2}));
       }},
      {"[LSTM] no weights for layer 0 in reverse of 1", [&] { lstm.weights(0, true); }},
      {"[GRU] no weights for layer 2 of 2", [&] { gru.weights(2); }},
      {"LSTMCell: Expected input to be 1D or 2D, got 3D instead",
       [&] {
         cell(zeros({2, 2, 3}));
       }},
      {"input has inconsistent input_size: got 4 expected 3",
       [&] {
         cell(zeros({2, 4}));
       }},
      {"hidden1 has inconsistent hidden_size: got 3, expected 2",
       [&] {
         cell(zeros({2, 3}), zeros({2, 2}), zeros({2, 3}));
       }},
      {"Input batch size 2 doesn't match hidden0 batch size 1",
       [&] {
         cell(zeros({2, 3}), zeros({1, 2}), zeros({1, 2}));
       }},
  });
}

TEST(ModuleErrors, Initialisers) {
  expect_all({
      {"Fan in and fan out can not be computed for tensor with fewer than 2 dimensions: got [3]",
       [] { init::xavier_normal_(zeros({3})); }},
      {"Unsupported nonlinearity softmax", [] { init::calculate_gain("softmax"); }},
      {"Unsupported nonlinearity swish",
       [] {
         init::kaiming_normal_(zeros({2, 2}), 0, init::FanMode::kFanIn, "swish");
       }},
      {"Only tensors with 2 dimensions are supported: got [2, 2, 2]",
       [] {
         init::eye_(zeros({2, 2, 2}));
       }},
      {"Only tensors with 2 or more dimensions are supported: got [4]",
       [] { init::orthogonal_(zeros({4})); }},
      {"[trunc_normal_] std 0 must be positive and [-2, 2] an interval",
       [] { init::trunc_normal_(zeros({4}), 0, 0); }},
      {"[trunc_normal_] std 1 must be positive and [2, -2] an interval",
       [] { init::trunc_normal_(zeros({4}), 0, 1, 2, -2); }},
  });
}

}  // namespace
}  // namespace lockstep::nn
