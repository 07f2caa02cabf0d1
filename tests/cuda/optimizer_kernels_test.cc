// Fused optimizer steps: the same bits as on the CPU, over many segments in one call.
#include <span>
#include <vector>

#include "compare.h"

namespace lockstep::testing {
namespace {

using CudaOptimizer = CudaTest;

// Parameters of many sizes and both dtypes, more than one launch takes, with their gradients and
// optimizer state, on one device. Segment i has state k if has_state(i, k).
class Segments {
 public:
  template <typename F>
  Segments(Device device, int states, F&& has_state) {
    std::vector<int64_t> counts = {1, 5, 0, 4096, 4097, 9001, 255};
    counts.resize(80, 3);
    for (size_t i = 0; i < counts.size(); ++i) {
      OptimizerSegment s;
      s.count = counts[i];
      s.dtype = i % 7 == 3 ? DType::kFloat64 : DType::kFloat32;
      const auto tensor = [&](bool positive) {
        const Tensor values = values_of({s.count}, s.dtype, static_cast<uint32_t>(all_.size()));
        return all_.emplace_back((positive ? values.abs() : values).to(device).clone()).data_ptr();
      };
      s.param = tensor(false);
      s.grad = tensor(false);
      for (int k = 0; k < states; ++k) {
        if (has_state(i, k)) s.state[k] = tensor(true);
      }
      segments_.push_back(s);
    }
  }
  std::span<const OptimizerSegment> get() const { return segments_; }

  void expect_bits_of(const Segments& host, const std::string& what) const {
    ASSERT_EQ(all_.size(), host.all_.size());
    for (size_t i = 0; i < all_.size(); ++i) {
      const Tensor copy = all_[i].to(Device{});
      const size_t bytes = static_cast<size_t>(copy.numel()) * size_of(copy.dtype());
      EXPECT_TRUE(bytes == 0 || std::memcmp(copy.data_ptr(), host.all_[i].data_ptr(), bytes) == 0)
          << what << ", tensor " << i << " of " << copy.sizes().str();
    }
  }

 private:
  std::vector<Tensor> all_;
  std::vector<OptimizerSegment> segments_;
};

template <typename Step, typename F>
void expect_same_bits(const std::string& what, int states, F&& has_state, Step&& step) {
  const Segments host(Device{}, states, has_state), device(kGpu, states, has_state);
  step(backend_of(Device{}), host.get());
  step(backend_of(kGpu), device.get());
  device.expect_bits_of(host, what);
}

TEST_F(CudaOptimizer, SgdHasTheBitsOfTheCpu) {
  const SgdArgs variants[] = {
      {.lr = 0.1},
      {.lr = 0.03, .momentum = 0.9, .weight_decay = 0.01, .nesterov = true},
      {.lr = 0.7, .momentum = 0.6, .dampening = 0.3, .maximize = true},
      {.lr = 0.02, .momentum = 0.9, .dampening = 0.3, .weight_decay = 0.1, .first_step = true}};
  for (size_t i = 0; i < std::size(variants); ++i) {
    expect_same_bits(
        "variant " + std::to_string(i), 1, [&](size_t s, int) { return i > 0 && s % 5 != 4; },
        [&](Backend& backend, auto segments) { backend.sgd_step(segments, variants[i]); });
  }
}

TEST_F(CudaOptimizer, AdamHasTheBitsOfTheCpu) {
  const AdamArgs variants[] = {{.lr = 0.1, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .step = 1},
                               {.lr = 0.01,
                                .beta1 = 0.8,
                                .beta2 = 0.95,
                                .eps = 1e-6,
                                .weight_decay = 0.1,
                                .maximize = true,
                                .step = 7},
                               {.lr = 0.02,
                                .beta1 = 0.9,
                                .beta2 = 0.99,
                                .eps = 1e-8,
                                .weight_decay = 0.05,
                                .decoupled_weight_decay = true,
                                .amsgrad = true,
                                .step = 1000}};
  for (size_t i = 0; i < std::size(variants); ++i) {
    expect_same_bits(
        "variant " + std::to_string(i), 3,
        [&](size_t, int k) { return k < 2 || variants[i].amsgrad; },
        [&](Backend& backend, auto segments) { backend.adam_step(segments, variants[i]); });
  }
}

TEST_F(CudaOptimizer, SumOfSquares) {
  const auto stateless = [](size_t, int) { return false; };
  const Segments host(Device{}, 0, stateless), device(kGpu, 0, stateless);
  const double expected = backend_of(Device{}).sum_of_squares(host.get());
  EXPECT_GT(expected, 5000);
  EXPECT_NEAR(backend_of(kGpu).sum_of_squares(device.get()), expected, expected * 1e-14);
  EXPECT_EQ(backend_of(kGpu).sum_of_squares({}), 0.0);
}

TEST_F(CudaOptimizer, OtherDtypesAreErrors) {
  OptimizerSegment s;
  s.dtype = DType::kBFloat16;
  Backend& backend = backend_of(kGpu);
  EXPECT_THROW(backend.sgd_step({&s, 1}, {.lr = 1}), ValueError);
  EXPECT_THROW(backend.adam_step({&s, 1}, {.lr = 1, .step = 1}), ValueError);
  EXPECT_THROW(backend.sum_of_squares({&s, 1}), ValueError);
}

}  // namespace
}  // namespace lockstep::testing
