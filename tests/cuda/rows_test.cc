// Softmax, cross entropy, layer and RMS norm of the CUDA backend.
#include <limits>

#include "lockstep/engine/ops/pointwise.h"

#include "compare.h"

namespace lockstep::testing {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// For each width of a row's threads: whole packs and not, in registers and beyond them.
const std::vector<Dims> kMatrices = {Dims{0, 5},    Dims{1, 1},    Dims{33, 7},   Dims{5, 32},
                                     Dims{9, 40},   Dims{3, 43},   Dims{2, 1024}, Dims{2, 999},
                                     Dims{2, 1040}, Dims{2, 2051}, Dims{1, 8200}};

// The dtype of what is kept beside activations of `dtype`.
DType wide_of(DType dtype) { return size_of(dtype) == 2 ? DType::kFloat32 : dtype; }

using CudaSoftmax = CudaTest;

TEST_F(CudaSoftmax, AgreesWithTheReference) {
  for (const DType dtype : kFloatingDTypes) {
    for (const Dims& sizes : kMatrices) {
      const Tensor x = values_of(sizes, dtype, 1) * 4, gy = values_of(sizes, dtype, 2);
      expect_agreement(
          text_of(sizes, dtype),
          [&](const Side& side) -> Tensors {
            const Tensor y = side.empty(sizes, dtype), gx = side.empty(sizes, dtype);
            side.backend().softmax(y, side.put(x));
            side.backend().softmax_gradient(gx, side.put(gy), side.put(x));
            const Tensor in_place = side.put(x);
            side.backend().softmax(in_place, in_place);
            return {y, gx, in_place};
          },
          256);
    }
  }
}

TEST_F(CudaSoftmax, InfinitiesAndNan) {
  for (const int64_t cols : {5, 100, 3000}) {
    for (const double value : {kInf, -kInf, kNaN}) {
      const Tensor x = values_of({3, cols}, DType::kFloat32, 1);
      x.data<float>()[cols + cols - 1] = static_cast<float>(value);
      for (int64_t c = 0; c < cols; ++c) x.data<float>()[c] = static_cast<float>(-kInf);
      expect_agreement(
          x.sizes().str() + " with " + std::to_string(value),
          [&](const Side& side) -> Tensors {
            const Tensor y = side.empty(x.sizes(), x.dtype());
            side.backend().softmax(y, side.put(x));
            return {y};
          },
          4);
    }
  }
}

using CudaCrossEntropy = CudaTest;

TEST_F(CudaCrossEntropy, AgreesWithTheReference) {
  for (const DType dtype : kFloatingDTypes) {
    const DType wide = wide_of(dtype);
    for (const Dims& sizes : kMatrices) {
      if (sizes.product() == 0) continue;
      const int64_t rows = sizes[0], cols = sizes[1];
      const Tensor x = values_of(sizes, dtype, 1) * 4;
      const Tensor gy = values_of({rows}, wide, 2);
      const Tensor target = places_of({rows}, cols, 3);
      if (rows > 2) target.data<int64_t>()[2] = -100;
      for (const bool weighted : {false, true}) {
        const Tensor weight = weighted ? values_of({cols}, wide, 4) : Tensor();
        expect_agreement(
            text_of(sizes, dtype) + (weighted ? " weighted" : ""),
            [&](const Side& side) -> Tensors {
              const Tensor losses = side.empty({rows}, wide), sums = side.empty({rows, 2}, wide);
              const Tensor gx = side.empty(sizes, dtype);
              const Tensor dx = side.put(x), dt = side.put(target), dw = side.put(weight);
              side.backend().cross_entropy(losses, sums, dx, dt, dw, -100);
              side.backend().cross_entropy_gradient(gx, side.put(gy), dx, sums, dt, dw, -100);
              return {losses, sums, gx};
            },
            32);
      }
    }
  }
}

TEST_F(CudaCrossEntropy, IgnoredRowsHaveNoGradientWhateverIsInThem) {
  const Tensor x = values_of({2, 40}, DType::kFloat32, 1);
  x.data<float>()[3] = static_cast<float>(kNaN);
  x.data<float>()[43] = static_cast<float>(kInf);
  const Tensor target = from_span<int64_t>(std::vector<int64_t>{7, 1}, {2});
  expect_agreement("a row of NaN", [&](const Side& side) -> Tensors {
    const Tensor losses = side.empty({2}, DType::kFloat32);
    const Tensor sums = side.empty({2, 2}, DType::kFloat32);
    const Tensor gx = side.empty({2, 40}, DType::kFloat32);
    side.backend().cross_entropy(losses, sums, side.put(x), side.put(target), {}, 7);
    side.backend().cross_entropy_gradient(gx, side.put(ones({2})), side.put(x), sums,
                                          side.put(target), {}, 7);
    return {losses, gx};
  });
}

using CudaLayerNorm = CudaTest;

TEST_F(CudaLayerNorm, AgreesWithTheReference) {
  const auto run = [](DType dtype, const Dims& sizes, bool centred, bool affine) {
    const DType wide = wide_of(dtype);
    const int64_t rows = sizes[0], cols = sizes[1];
    const Tensor x = values_of(sizes, dtype, 1) + (centred ? 4 : 0);
    const Tensor gy = values_of(sizes, dtype, 2);
    const Tensor weight = affine ? values_of({cols}, wide, 3) : Tensor();
    const Tensor bias = affine ? values_of({cols}, wide, 4) : Tensor();
    expect_agreement(
        text_of(sizes, dtype) + (centred ? " layer" : " rms") + (affine ? " affine" : ""),
        [&](const Side& side) -> Tensors {
          const auto vector = [&](int64_t n) { return side.empty({n}, wide); };
          const Tensor y = side.empty(sizes, dtype), rstd = vector(rows);
          const Tensor mean = centred ? vector(rows) : Tensor();
          // Sums of columns do not depend on how long the rows are, and take the emulation long.
          const bool sums = cols <= 100;
          const Tensor gx = side.empty(sizes, dtype);
          const Tensor gw = sums ? vector(cols) : Tensor(), gb = sums ? vector(cols) : Tensor();
          const Tensor dx = side.put(x), dgy = side.put(gy), dw = side.put(weight);
          Backend& backend = side.backend();
          if (rows > 0) backend.layer_norm(y, mean, rstd, dx, dw, side.put(bias), 1e-2);
          backend.layer_norm_gradient(gx, gw, gb, dgy, dx, mean, rstd, dw);
          if (!sums) return {y, rstd, mean, gx};
          const Tensor one = vector(cols);
          backend.layer_norm_gradient({}, {}, one, dgy, dx, mean, rstd, dw);
          return {y, rstd, mean, gx, gw, gb, one};
        },
        // Deviations of rows with a mean of 4 and values that are close together.
        512);
  };
  for (const DType dtype : kFloatingDTypes) {
    for (const Dims& sizes : kMatrices) run(dtype, sizes, true, true);
    for (const Dims& sizes : {Dims{33, 7}, Dims{9, 40}, Dims{2, 2051}}) {
      run(dtype, sizes, true, false);
      run(dtype, sizes, false, true);
    }
  }
  run(DType::kFloat32, {1500, 40}, true, true);  // several parts to a column
}

}  // namespace
}  // namespace lockstep::testing
