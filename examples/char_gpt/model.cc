#include "model.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/factory.h"

namespace char_gpt {

using namespace lockstep;

namespace {

struct Attention : nn::Layer {
  int64_t heads;
  nn::Linear qkv, proj;

  Attention(int64_t width, int64_t head_count)
      : heads(head_count), qkv(width, 3 * width), proj(width, width) {
    register_modules({{"qkv", qkv}, {"proj", proj}});
  }
  Tensor forward(const Tensor& x) override {
    const int64_t batch = x.size(0), time = x.size(1), width = x.size(2);
    const auto parts = split(qkv(x), width, 2);
    const auto by_head = [&](const Tensor& part) {
      return part.view({batch, time, heads, width / heads}).transpose(1, 2);
    };
    const auto y = scaled_dot_product_attention(by_head(parts[0]), by_head(parts[1]),
                                                by_head(parts[2]), {.causal = true});
    return proj(y.transpose(1, 2).reshape({batch, time, width}));
  }
};

struct Mlp : nn::Layer {
  nn::Linear up, down;

  explicit Mlp(int64_t width) : up(width, 4 * width), down(4 * width, width) {
    register_modules({{"up", up}, {"down", down}});
  }
  Tensor forward(const Tensor& x) override { return down(gelu(up(x))); }
};

struct Block : nn::Layer {
  nn::LayerNorm norm1, norm2;
  Attention attention;
  Mlp mlp;

  explicit Block(const Size& size)
      : norm1(size.width), norm2(size.width), attention(size.width, size.heads), mlp(size.width) {
    register_modules({{"norm1", norm1}, {"attention", attention}, {"norm2", norm2}, {"mlp", mlp}});
  }
  Tensor forward(const Tensor& x) override {
    const auto h = add(x, attention(norm1(x)));
    return add(h, mlp(norm2(h)));
  }
};

const Size& checked(const Size& size) {
  if (size.layers < 1 || size.width < 1 || size.heads < 1 || size.context < 1) {
    throw ValueError("[char_gpt] layers, width, heads and context must be at least 1");
  }
  if (size.width % size.heads != 0) {
    throw ValueError("[char_gpt] a width of " + std::to_string(size.width) +
                     " cannot be cut into " + std::to_string(size.heads) + " heads of equal size");
  }
  return size;
}

}  // namespace

Gpt::Gpt(const Size& size)
    : context_(checked(size).context),
      embedding_(kBytes, size.width),
      positions_(size.context, size.width),
      norm_(size.width) {
  for (int64_t i = 0; i < size.layers; ++i) blocks_.append(std::make_unique<Block>(size));
  register_modules(
      {{"embedding", embedding_}, {"positions", positions_}, {"blocks", blocks_}, {"norm", norm_}});
  const double residual = 0.02 / std::sqrt(2.0 * static_cast<double>(size.layers));
  for (const auto& [name, parameter] : named_parameters()) {
    const bool writes_residual = name.ends_with("proj.weight") || name.ends_with("down.weight");
    if (parameter.dim() == 2) {
      nn::init::normal_(parameter, 0.0, writes_residual ? residual : 0.02);
    } else if (name.ends_with(".bias")) {
      nn::init::constant_(parameter, 0.0);
    }
  }
}

Tensor Gpt::forward(const Tensor& bytes) {
  const auto positions = arange(0, bytes.size(1), 1, {DType::kInt64, bytes.device()});
  const auto h = blocks_(add(embedding_(bytes), positions_(positions)));
  return linear(norm_(h), embedding_.weight);
}

Tensor Gpt::loss(const Tensor& x, const Tensor& y) {
  return nn::cross_entropy(flatten(forward(x), 0, 1), flatten(y));
}

std::string generate(Gpt& net, const std::string& prompt, int64_t count, double temperature) {
  const autograd::NoGrad no_grad;
  std::string text = prompt;
  for (int64_t i = 0; i < count; ++i) {
    const auto seen = std::min<size_t>(text.size(), static_cast<size_t>(net.context()));
    const auto x = empty({1, static_cast<int64_t>(seen)}, {DType::kInt64});
    std::transform(text.end() - static_cast<std::ptrdiff_t>(seen), text.end(), x.data<int64_t>(),
                   [](char c) { return static_cast<uint8_t>(c); });
    const auto logits = net.forward(x.to(net.device())).select(1, -1).flatten();
    const auto probabilities = softmax(mul(logits, 1.0 / temperature), 0).to_vector();
    double left = rand({1}).item();
    size_t byte = 0;
    while (byte + 1 < probabilities.size() && (left -= probabilities[byte]) >= 0.0) ++byte;
    text.push_back(static_cast<char>(byte));
  }
  return text.substr(prompt.size());
}

}  // namespace char_gpt
