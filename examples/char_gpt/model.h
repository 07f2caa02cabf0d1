#pragma once

#include <cstdint>
#include <string>

#include "lockstep/nn/nn.h"

namespace char_gpt {

inline constexpr int64_t kBytes = 256;  // the vocabulary

struct Size {
  int64_t layers = 6;
  int64_t width = 384;
  int64_t heads = 6;
  int64_t context = 256;
};

// A decoder-only transformer over bytes, as GPT-2 (Radford et al., "Language models are
// unsupervised multitask learners", 2019): learned positions, normalisation before each branch, a
// head that shares the byte embedding's weight, no dropout. Weights start as N(0, 0.02^2), those
// that write into the residual stream divided by sqrt(2 layers); biases start as zeros.
class Gpt : public lockstep::nn::Layer {
 public:
  explicit Gpt(const Size& size);  // throws lockstep::ValueError on an impossible size

  // Bytes int64 (B, T), T up to the context, to logits (B, T, 256).
  lockstep::Tensor forward(const lockstep::Tensor& bytes) override;
  // The mean cross entropy of the next bytes `y`, in nats per byte.
  lockstep::Tensor loss(const lockstep::Tensor& x, const lockstep::Tensor& y);
  int64_t context() const { return context_; }
  lockstep::Device device() const { return embedding_.weight.device(); }

 private:
  int64_t context_;
  lockstep::nn::Embedding embedding_, positions_;
  lockstep::nn::Sequential blocks_;
  lockstep::nn::LayerNorm norm_;
};

// `count` bytes that follow `prompt`, each drawn from the model's distribution raised to the power
// 1 / temperature, with numbers from the calling thread's generator.
std::string generate(Gpt& net, const std::string& prompt, int64_t count, double temperature);

}  // namespace char_gpt
