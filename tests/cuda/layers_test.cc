// Log-softmax, batch normalisation and pooling of the CUDA backend.
#include <limits>

#include "lockstep/engine/ops/pointwise.h"

#include "compare.h"

namespace lockstep::testing {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

using CudaLogSoftmax = CudaTest;

TEST_F(CudaLogSoftmax, AgreesWithTheReference) {
  for (const DType dtype : kFloatingDTypes) {
    for (const Dims& sizes : {Dims{0, 5}, Dims{3, 0}, Dims{1, 1}, Dims{33, 7}, Dims{5, 32},
                              Dims{2, 3, 33}, Dims{9, 1024}, Dims{2, 1025}, Dims{3, 5000}}) {
      const Tensor x = values_of(sizes, dtype, 1), gy = values_of(sizes, dtype, 2);
      // A gradient has the error of a sum over its row.
      expect_agreement(
          text_of(sizes, dtype),
          [&](const Side& side) -> Tensors {
            const Tensor y = side.empty(sizes, dtype), gx = side.empty(sizes, dtype);
            side.backend().log_softmax(y, side.put(x));
            side.backend().log_softmax_gradient(gx, side.put(gy), side.put(x));
            return {y, gx};
          },
          32);
      const Tensor far = (values_of(sizes, DType::kFloat64, 3) * 60 + 1000).to(dtype);
      expect_agreement(
          text_of(sizes, dtype) + " far from zero",
          [&](const Side& side) -> Tensors {
            const Tensor y = side.empty(sizes, dtype);
            side.backend().log_softmax(y, side.put(far));
            return {y};
          },
          2);
    }
  }
}

TEST_F(CudaLogSoftmax, InPlace) {
  const Dims sizes{3, 2000};
  const Tensor x = values_of(sizes, DType::kFloat32, 1), gy = values_of(sizes, DType::kFloat32, 2);
  expect_agreement(
      "in place",
      [&](const Side& side) -> Tensors {
        const Tensor y = side.put(x), gx = side.put(gy);
        side.backend().log_softmax(y, y);
        side.backend().log_softmax_gradient(gx, gx, side.put(x));
        return {y, gx};
      },
      32);
}

TEST_F(CudaLogSoftmax, InfinitiesAndNan) {
  const auto compare = [](const Tensor& x, const std::string& what) {
    expect_agreement(
        what,
        [&](const Side& side) -> Tensors {
          const Tensor y = side.empty(x.sizes(), x.dtype());
          side.backend().log_softmax(y, side.put(x));
          return {y};
        },
        4);
  };
  for (const int64_t cols : {5, 100, 3000}) {
    const Dims sizes{3, cols};
    for (const int64_t place : {int64_t{0}, cols - 1}) {
      for (const double value : {kInf, -kInf, kNaN}) {
        const Tensor x = values_of(sizes, DType::kFloat32, 1);
        x.data<float>()[cols + place] = static_cast<float>(value);
        compare(x, sizes.str() + " with " + std::to_string(value));
      }
    }
    compare(full(sizes, -kInf), "all -inf");
    const Tensor last = full(sizes, -kInf);
    last.data<float>()[cols - 1] = 2;
    compare(last, "all but one -inf");
  }
}

Tensor in_layout(const Tensor& t, bool channels_last) {
  if (!channels_last) return t;
  const Tensor copy = empty_channels_last(t.sizes(), t.dtype(), t.device());
  copy.copy_(t);
  return copy;
}

// Uninitialised, in the layout of `t`.
Tensor empty_as(const Side& side, const Tensor& t) {
  return t.is_contiguous() ? side.empty(t.sizes(), t.dtype())
                           : side.empty_nhwc(t.sizes(), t.dtype());
}

std::string text_of_layout(const Tensor& t) {
  return text_of(t.sizes(), t.dtype()) + (t.is_contiguous() ? "" : " channels last");
}

std::vector<Tensor> activations(DType dtype) {
  std::vector<Tensor> all;
  for (const Dims& sizes :
       {Dims{2, 1}, Dims{7, 5}, Dims{600, 3}, Dims{3, 4, 35}, Dims{1, 3, 1000}}) {
    all.push_back(values_of(sizes, dtype, 1));
  }
  for (const bool last : {false, true}) {
    for (const Dims& sizes : {Dims{2, 3, 1, 1}, Dims{5, 33, 7, 7}, Dims{1, 70, 2, 3},
                              Dims{2, 2, 64, 70}, Dims{40, 5, 4, 4}}) {
      all.push_back(in_layout(values_of(sizes, dtype, 1), last));
    }
  }
  for (Tensor& x : all) x.add_(4);
  return all;
}

using CudaBatchNorm = CudaTest;

// From the statistics to the gradients, each from what the step before has made: float32 rounds
// means of 4, which the gradients see in each of up to thousands of deviations.
TEST_F(CudaBatchNorm, AgreesWithTheReference) {
  constexpr double kEps = 1e-2;
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    for (const Tensor& x : activations(dtype)) {
      const Dims channels{x.size(1)};
      const Tensor gy = in_layout(values_of(x.sizes(), dtype, 2), !x.is_contiguous());
      const Tensor weight = values_of(channels, dtype, 3), bias = values_of(channels, dtype, 4);
      expect_agreement(
          text_of_layout(x),
          [&](const Side& side) -> Tensors {
            Backend& backend = side.backend();
            const auto empty = [&] { return empty_as(side, x); };
            const auto per_channel = [&] { return side.empty(channels, dtype); };
            const Tensor dx = side.put(x), dgy = side.put(gy);
            const Tensor w = side.put(weight), b = side.put(bias);
            const Tensor mean = per_channel(), var = per_channel();
            backend.batch_statistics(mean, var, dx);
            const Tensor y = empty(), plain = empty();
            backend.batch_norm(y, dx, mean, var, w, b, kEps);
            backend.batch_norm(plain, dx, mean, var, {}, {}, kEps);
            Tensors results = {mean, var, y, plain};
            for (const bool batch : {true, false}) {
              const Tensor gx = empty(), gw = per_channel(), gb = per_channel(), alone = empty();
              backend.batch_norm_gradient(gx, gw, gb, dgy, dx, mean, var, w, kEps, batch);
              backend.batch_norm_gradient(alone, {}, {}, dgy, dx, mean, var, {}, kEps, batch);
              results.insert(results.end(), {gx, gw, gb, alone});
            }
            const Tensor gw = per_channel(), gb = per_channel();
            backend.batch_norm_gradient({}, gw, gb, dgy, dx, mean, var, w, kEps, true);
            results.insert(results.end(), {gw, gb});
            return results;
          },
          128);
    }
  }
}

// A mean of half a million deviations costs no digits.
TEST_F(CudaBatchNorm, StatisticsFarFromZero) {
  const Dims sizes{4, 3, 40, 40};
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    for (const bool last : {false, true}) {
      const Tensor x = in_layout(values_of(sizes, dtype, 1) * 4 + 1e6, last);
      expect_agreement(text_of_layout(x), [&](const Side& side) -> Tensors {
        const Tensor mean = side.empty({3}, dtype), var = side.empty({3}, dtype);
        side.backend().batch_statistics(mean, var, side.put(x));
        return {mean, var};
      });
    }
  }
}

TEST_F(CudaBatchNorm, StatisticsOfInfinities) {
  for (const int64_t place : {0, 5}) {
    const Tensor x = values_of({4, 2}, DType::kFloat32, 1);
    x.data<float>()[place] = std::numeric_limits<float>::infinity();
    expect_agreement("infinity at " + std::to_string(place), [&](const Side& side) -> Tensors {
      const Tensor mean = side.empty({2}, x.dtype()), var = side.empty({2}, x.dtype());
      side.backend().batch_statistics(mean, var, side.put(x));
      return {mean, var};
    });
  }
}

TEST_F(CudaBatchNorm, EmptyBatch) {
  const Side side{kGpu, false};
  const Tensor x = side.empty({0, 3, 2, 2}, DType::kFloat32), channels = side.put(ones({3}));
  const Tensor gx = side.empty(x.sizes(), x.dtype());
  const Tensor gw = side.put(ones({3})), gb = side.put(ones({3}));
  EXPECT_THROW(side.backend().batch_statistics(gw, gb, x), ValueError);
  side.backend().batch_norm_gradient(gx, gw, gb, x, x, channels, channels, {}, 1e-5, true);
  EXPECT_EQ(gw.to(Device{}).to_vector(), std::vector<double>(3, 0.0));
  EXPECT_EQ(gb.to(Device{}).to_vector(), std::vector<double>(3, 0.0));
}

const std::vector<Pool2dParams> kWindows = {
    {.kernel = {2, 2}, .stride = {2, 2}},
    {.kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1}},
    {.kernel = {2, 3}, .stride = {1, 2}, .padding = {1, 0}, .count_include_pad = false},
    {.kernel = {3, 2}, .stride = {1, 1}, .padding = {1, 1}, .dilation = {2, 3}},
    {.kernel = {1, 1}, .stride = {3, 2}},
    {.kernel = {5, 6}, .stride = {4, 1}, .padding = {2, 3}, .count_include_pad = false}};

Dims pooled(const Dims& x, const Pool2dParams& p) {
  Dims y = x;
  for (int i = 0; i < 2; ++i) {
    const int64_t room = x[2 + i] + 2 * p.padding[i] - p.dilation[i] * (p.kernel[i] - 1) - 1;
    y[2 + i] = room / p.stride[i] + 1;
  }
  return y;
}

template <typename F>
void for_pools(F&& fn) {
  for (const DType dtype : kFloatingDTypes) {
    for (const bool last : {false, true}) {
      for (const Dims& sizes : {Dims{2, 3, 9, 7}, Dims{0, 3, 6, 6}, Dims{3, 5, 6, 10}}) {
        for (const Pool2dParams& params : kWindows) fn(dtype, last, sizes, params);
      }
      // No window has a column in the input.
      fn(dtype, last, Dims{4, 2, 5, 2},
         Pool2dParams{.kernel = {2, 2}, .stride = {1, 1}, .padding = {1, 1}, .dilation = {1, 3}});
    }
  }
}

std::string text_of(const Tensor& x, const Pool2dParams& p) {
  return text_of_layout(x) + " kernel " + std::to_string(p.kernel[0]) + "x" +
         std::to_string(p.kernel[1]);
}

using CudaPool = CudaTest;

TEST_F(CudaPool, MaximumAgreesWithTheReference) {
  for_pools([](DType dtype, bool last, const Dims& sizes, const Pool2dParams& params) {
    // Few distinct values, so that there are ties; a NaN and infinities.
    const Tensor values = (values_of(sizes, DType::kFloat32, 1) * 4).to(DType::kInt32).to(dtype);
    if (values.numel() > 0) {
      values.view({-1}).select(0, 11).fill_(kNaN);
      values.view({-1}).select(0, 30).fill_(kInf);
      values.view({-1}).select(0, 31).fill_(-kInf);
    }
    const Tensor x = in_layout(values, last);
    const Tensor gy = in_layout(values_of(pooled(sizes, params), dtype, 2), last);
    expect_agreement(
        text_of(x, params),
        [&](const Side& side) -> Tensors {
          const Tensor y = empty_as(side, gy), gx = empty_as(side, x);
          const Tensor indices = empty_as(side, in_layout(gy.to(DType::kInt32), last));
          side.backend().max_pool2d(y, indices, side.put(x), params);
          side.backend().max_pool2d_gradient(gx, side.put(gy), indices, params);
          return {y, indices, gx};
        },
        4);
  });
}

TEST_F(CudaPool, AverageAgreesWithTheReference) {
  for_pools([](DType dtype, bool last, const Dims& sizes, Pool2dParams params) {
    params.dilation[0] = params.dilation[1] = 1;
    const Tensor x = in_layout(values_of(sizes, dtype, 1), last);
    const Tensor gy = in_layout(values_of(pooled(sizes, params), dtype, 2), last);
    expect_agreement(
        text_of(x, params),
        [&](const Side& side) -> Tensors {
          const Tensor y = empty_as(side, gy), gx = empty_as(side, x);
          side.backend().avg_pool2d(y, side.put(x), params);
          side.backend().avg_pool2d_gradient(gx, side.put(gy), params);
          return {y, gx};
        },
        4);
  });
}

}  // namespace
}  // namespace lockstep::testing
