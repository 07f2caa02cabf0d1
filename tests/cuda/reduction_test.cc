// Sums, extremes and running sums on the GPU.
#include <limits>

#include "compare.h"

namespace lockstep::testing {
namespace {

class CudaReduction : public CudaTest {};

const std::vector<DType> kSumDTypes = {DType::kFloat32, DType::kFloat64, DType::kBFloat16,
                                       DType::kFloat16, DType::kInt64};

// The sum over some dimensions of view(values).
template <typename View>
void check_sum(const std::string& what, const Dims& sizes, DType dtype, std::vector<int> reduced,
               const View& view) {
  const Tensor values = values_of(sizes, dtype, 1);
  expect_agreement("sum " + what + " " + text_of(sizes, dtype), [&](const Side& side) {
    const Tensor in = view(side.put(values));
    Dims kept = in.sizes();
    for (int d : reduced) kept[d] = 1;
    const Tensor out = side.empty(kept, dtype);
    side.backend().sum(out, in);
    return Tensors{out};
  });
}
Tensor as_is(const Tensor& t) { return t; }

TEST_F(CudaReduction, SumOfEveryDType) {
  for (DType dtype : kSumDTypes) {
    check_sum("of rows", {5, 37}, dtype, {1}, as_is);
    check_sum("of columns", {37, 5}, dtype, {0}, as_is);
    check_sum("of all", {2, 9, 4}, dtype, {0, 1, 2}, as_is);
    check_sum("in parts", {6000, 2}, dtype, {0}, as_is);
  }
}

TEST_F(CudaReduction, SumOfShapes) {
  const DType f = DType::kFloat32;
  check_sum("of a scalar", {}, f, {}, as_is);
  check_sum("of one", {1}, f, {0}, as_is);
  check_sum("of nothing", {0}, f, {0}, as_is);
  check_sum("of no rows", {0, 3}, f, {0}, as_is);
  check_sum("to nothing", {0, 3}, f, {1}, as_is);
  check_sum("over sizes of 1", {3, 1, 4}, f, {1}, as_is);
  check_sum("of a long vector", {70001}, f, {0}, as_is);
  check_sum("of long rows", {3, 20000}, f, {1}, as_is);
  check_sum("of many rows", {3000, 3}, f, {1}, as_is);
  check_sum("of tall columns", {9000, 40}, f, {0}, as_is);
  check_sum("of wide columns", {3, 1000}, f, {0}, as_is);
  check_sum("over the middle", {5, 33, 7}, f, {1}, as_is);
  check_sum("over two in the middle", {3, 4, 5, 6}, f, {1, 2}, as_is);
  check_sum("per channel", {4, 5, 12, 11}, f, {0, 2, 3}, as_is);
}

TEST_F(CudaReduction, SumOfViews) {
  const DType f = DType::kFloat32;
  check_sum("of a transpose", {40, 30}, f, {0}, [](const Tensor& t) { return t.t(); });
  check_sum("of a transpose's rows", {40, 30}, f, {1}, [](const Tensor& t) { return t.t(); });
  check_sum("of channels-last", {4, 6, 7, 5}, f, {0, 2, 3}, [](const Tensor& t) {
    return t.permute({0, 3, 1, 2});
  });
  check_sum("of an expanded", {5, 1, 3}, f, {1, 2}, [](const Tensor& t) {
    return t.expand({5, 9, 3});
  });
  check_sum("of a slice", {50, 20}, f, {0}, [](const Tensor& t) { return t.slice(1, 3, 19, 3); });
}

// Added up term by term in float32 this would be 19959.5.
TEST_F(CudaReduction, SumIsAccurate) {
  const Tensor in = full({200000}, 0.1f).to(kGpu);
  const Tensor out = empty_dense({1}, DType::kFloat32, kGpu);
  backend_of(kGpu).sum(out, in);
  EXPECT_FLOAT_EQ(out.item<float>(), static_cast<float>(200000 * double{0.1f}));
}

TEST_F(CudaReduction, SumOfOtherDTypesThrows) {
  const Tensor in = ones({2}, {DType::kInt32}).to(kGpu);
  EXPECT_THROW(backend_of(kGpu).sum(empty_dense({1}, DType::kInt32, kGpu), in), Error);
}

template <typename View>
void check_extreme(const std::string& what, const Tensor& values, int dim, const View& view) {
  for (const bool largest : {true, false}) {
    expect_agreement(
        (largest ? "max " : "min ") + what + " " + text_of(values.sizes(), values.dtype()),
        [&](const Side& side) {
          const Tensor in = view(side.put(values));
          Dims sizes = in.sizes();
          if (!sizes.empty()) sizes[dim] = 1;
          const Tensor best = side.empty(sizes, values.dtype());
          const Tensor at = side.empty(sizes, DType::kInt64);
          side.backend().extreme(best, at, in, dim, largest);
          return Tensors{best, at};
        });
  }
}

TEST_F(CudaReduction, ExtremeOfEveryDType) {
  for (DType dtype : kAllDTypes) {
    check_extreme("of rows", values_of({6, 45}, dtype, 2), 1, as_is);
    check_extreme("of columns", values_of({45, 6}, dtype, 3), 0, as_is);
    check_extreme("in parts", values_of({9000}, dtype, 4), 0, as_is);
  }
}

TEST_F(CudaReduction, ExtremeOfShapes) {
  const auto values = [](const Dims& sizes) { return values_of(sizes, DType::kFloat32, 5); };
  check_extreme("of a scalar", values({}), 0, as_is);
  check_extreme("of one", values({1}), 0, as_is);
  check_extreme("of no rows", values({0, 3}), 1, as_is);
  check_extreme("of tall columns", values({5000, 3}), 0, as_is);
  check_extreme("over the middle", values({4, 33, 5}), 1, as_is);
  check_extreme("of many short rows", values({700, 4}), 1, as_is);
  check_extreme("of a permuted", values({4, 9, 5}), 2, [](const Tensor& t) {
    return t.permute({2, 0, 1});
  });
}

// Ties, NaN, infinities and zeros of both signs, at places that different threads see.
TEST_F(CudaReduction, ExtremeOfSpecialValues) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  std::vector<float> rows;
  const auto row = [&](std::vector<std::pair<int, float>> places) {
    std::vector<float> values(5000, 0.0f);
    for (const auto& [at, value] : places) values[static_cast<size_t>(at)] = value;
    rows.insert(rows.end(), values.begin(), values.end());
  };
  row({});
  row({{0, -0.0f}, {4999, -0.0f}});
  row({{700, kNan}, {4800, kNan}, {20, kInf}, {30, -kInf}});
  row({{4999, kNan}});
  row({{257, kNan}, {512, kNan}});
  row({{4097, kInf}, {4353, kInf}, {4098, -kInf}, {300, -kInf}});
  const Tensor values = from_span<float>(rows, {6, 5000});
  check_extreme("of special values", values, 1, as_is);
  check_extreme("of special values, in half precision", values.to(DType::kFloat16), 1, as_is);
  check_extreme("of nothing but infinity", full({300}, -kInf), 0, as_is);
}

void check_cumsum(const Dims& sizes, DType dtype, int dim) {
  for (const bool reverse : {false, true}) {
    const Tensor values = values_of(sizes, dtype, 6);
    expect_agreement("cumsum " + text_of(sizes, dtype), [&](const Side& side) {
      const Tensor out = side.empty(sizes, dtype);
      side.backend().cumsum(out, side.put(values), dim, reverse);
      return Tensors{out};
    });
  }
}

TEST_F(CudaReduction, Cumsum) {
  for (DType dtype : kSumDTypes) {
    check_cumsum({3, 70}, dtype, 1);
    check_cumsum({70, 3}, dtype, 0);
    check_cumsum({4500}, dtype, 0);
  }
  const DType f = DType::kFloat32;
  check_cumsum({}, f, 0);
  check_cumsum({1}, f, 0);
  check_cumsum({0, 3}, f, 1);
  check_cumsum({40, 64}, f, 1);                // a thread per line
  check_cumsum({2, 9000}, f, 1);               // chunks, each a block's
  check_cumsum({3, 600, 5}, f, 1);             // chunks, each a thread's
  check_cumsum({17000, 2}, DType::kInt64, 0);  // so many that their totals are a block's
}

}  // namespace
}  // namespace lockstep::testing
