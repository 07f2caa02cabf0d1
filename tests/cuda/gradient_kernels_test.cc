// What distributed training asks of a device, against plain arithmetic.
#include "lockstep/engine/gradient_kernels.h"

#include <limits>

#include "lockstep/engine/ops/ops.h"

#include "compare.h"

namespace lockstep::testing {
namespace {

using CudaGradients = CudaTest;
using Values = std::vector<double>;

GradientKernels& kernels() { return *gradient_kernels_of(kGpu); }

// One element of tensors of both dtypes, more of them than one launch takes, at a time.
TEST_F(CudaGradients, NamesTheTensorsThatAreNotFinite) {
  EXPECT_EQ(gradient_kernels_of(Device{}), nullptr);
  const std::vector<int64_t> counts = {1, 0, 4096, 4097, 9001, 255};
  Tensors host;
  for (size_t i = 0; i < 150; ++i) {
    const DType dtype = i % 5 == 3 ? DType::kFloat64 : DType::kFloat32;
    host.push_back(full({i < counts.size() ? counts[i] : 3}, i % 2 == 0 ? 1e38 : -1e-44, {dtype}));
  }
  const auto ask = [&] {
    Tensors there;
    for (const Tensor& t : host) there.push_back(t.to(kGpu));
    const Tensor flags = full({150}, 7.0, {DType::kFloat32, kGpu});
    kernels().flag_non_finite(flags, there);
    return flags.to_vector();
  };
  Values expected(150, 0.0);
  EXPECT_EQ(ask(), expected);
  const double infinity = std::numeric_limits<double>::infinity();
  const struct {
    size_t tensor;
    int64_t element;
    double value;
  } faults[] = {{0, 0, infinity},      {2, 4095, -infinity}, {3, 4096, std::nan("")},
                {4, 8999, infinity},   {5, 0, infinity},     {128, 2, -infinity},
                {149, 1, std::nan("")}};
  for (const auto& [tensor, element, value] : faults) {
    host[tensor].narrow(0, element, 1).fill_(value);
    expected[tensor] = 1.0;
    EXPECT_EQ(ask(), expected) << tensor;
  }
  const Tensor whole = zeros({2}, {DType::kInt64, kGpu});
  EXPECT_THROW(kernels().flag_non_finite(zeros({1}, {DType::kFloat32, kGpu}), {&whole, 1}), Error);
}

VectorSet set_of(const Tensor& vectors, int draws, uint64_t stream) {
  return {
      vectors, draws < 0 ? Tensor() : full({1}, draws, {DType::kInt32, kGpu}), {{11, 12}, stream}};
}

double off_diagonal_of_unit(const Tensor& v) {
  const Tensor product = matmul(v, v.t());
  double worst = 0;
  const Values all = product.to_vector();
  const auto n = static_cast<size_t>(v.size(0));
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      worst = std::max(worst, std::fabs(all[i * n + j] - (i == j ? 1.0 : 0.0)));
    }
  }
  return worst;
}

// More sets than one launch takes; nearly dependent rows among them.
TEST_F(CudaGradients, MakesRowsOrthonormal) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    Tensors host, there;
    std::vector<VectorSet> sets;
    for (uint32_t i = 0; i < 70; ++i) {
      const Tensor v = values_of({3, i == 0 ? 1000 : 5 + i}, dtype, i);
      if (i % 3 == 1) v.select(0, 1).copy_(v.select(0, 0) + v.select(0, 1) * 1e-3);
      host.push_back(v);
      there.push_back(v.to(kGpu).clone());
      sets.push_back(set_of(there.back(), -1, i));
    }
    kernels().orthonormalize(sets);
    for (size_t i = 0; i < host.size(); ++i) {
      const Tensor v = there[i].to(Device{}).to(DType::kFloat64);
      EXPECT_LT(off_diagonal_of_unit(v), dtype == DType::kFloat32 ? 3e-7 : 1e-15) << i;
      // The rows span what they did, each with those before it: what was lies in their span.
      const Tensor before = host[i].to(DType::kFloat64);
      const Tensor along = matmul(before, v.t());
      const Tensor rest = before - matmul(along, v);
      EXPECT_LT(rest.abs().max().item(), dtype == DType::kFloat32 ? 1e-5 : 1e-13) << i;
      EXPECT_LT(std::fabs(along.select(0, 0).select(0, 1).item()), 1e-5) << i;
    }
  }
}

// Rows that are zero, not finite, or multiples of one before; then they are drawn if asked for.
TEST_F(CudaGradients, DrawsRowsWithNothingOfTheirOwn) {
  const int64_t n = 301;
  const Tensor host = values_of({4, n}, DType::kFloat32, 5);
  host.select(0, 1).copy_(host.select(0, 0) * 4.0);
  host.select(0, 2).narrow(0, 17, 1).fill_(std::nan(""));
  for (const int draws : {-1, 6}) {
    const Tensor there = host.to(kGpu).clone();
    const VectorSet set = set_of(there, draws, (uint64_t{3} << 32) | 9);
    kernels().orthonormalize({&set, 1});
    const Tensor got = there.to(Device{});
    for (const int64_t row : {1, 2}) {
      for (int64_t j = 0; j < n; ++j) {
        // The formula, word for word.
        const Philox philox{11, 12};
        const auto words = philox(static_cast<uint32_t>(j / 4),
                                  (uint32_t{7} << 16) ^ static_cast<uint32_t>(row), 9, 3);
        const float drawn = 2.0f * uniform_float(words[static_cast<size_t>(j % 4)]) - 1.0f;
        ASSERT_EQ(got.data<float>()[row * n + j], draws < 0 ? 0.0f : drawn) << row << " " << j;
      }
    }
    const Tensor useful = stack({got.select(0, 0), got.select(0, 3)}, 0).to(DType::kFloat64);
    EXPECT_LT(off_diagonal_of_unit(useful), 3e-7);
    if (draws >= 0) {
      EXPECT_EQ(set.draws.item(), 7);
    }
  }
}

TEST_F(CudaGradients, PutsFactorsTogether) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const Tensor m = values_of({37, 29}, dtype, 1), p = values_of({3, 37}, dtype, 2),
                 q = values_of({3, 29}, dtype, 3);
    const Tensor product = matmul(p.t(), q);
    for (const double count : {0.0, 2.0}) {
      const Factored there{m.to(kGpu).clone(), full({37, 29}, 5.0, {dtype, kGpu}), p.to(kGpu),
                           q.to(kGpu)};
      kernels().reconstruct(there, 0.5, full({1}, count, {dtype, kGpu}));
      const Values got = there.m.to_vector(), error = there.error.to_vector();
      const Values before = m.to_vector(), sums = product.to_vector();
      for (size_t i = 0; i < got.size(); ++i) {
        const double tolerance = 4 * tolerance_of(dtype);
        ASSERT_NEAR(got[i], count > 0 ? sums[i] : before[i], tolerance) << i;
        ASSERT_NEAR(error[i], count > 0 ? before[i] - 0.5 * sums[i] : 5.0, tolerance) << i;
      }
    }
  }
}

}  // namespace
}  // namespace lockstep::testing
