// Sorting, and reading and adding by index, on the GPU.
#include <limits>

#include "compare.h"

namespace lockstep::testing {
namespace {

class CudaIndexing : public CudaTest {};

void check_sort(const Tensor& values, int dim) {
  for (const bool descending : {false, true}) {
    expect_agreement(
        (descending ? "sort down " : "sort up ") + text_of(values.sizes(), values.dtype()),
        [&](const Side& side) {
          const Tensor sorted = side.empty(values.sizes(), values.dtype());
          const Tensor order = side.empty(values.sizes(), DType::kInt64);
          side.backend().sort(sorted, order, side.put(values), dim, descending);
          return Tensors{sorted, order};
        });
  }
}

TEST_F(CudaIndexing, SortOfEveryDType) {
  for (DType dtype : kAllDTypes) {
    check_sort(values_of({3, 40}, dtype, 1), 1);
    check_sort(values_of({1500}, dtype, 2), 0);
  }
}

TEST_F(CudaIndexing, SortOfShapes) {
  const auto values = [](const Dims& sizes) { return values_of(sizes, DType::kFloat32, 3); };
  for (const int64_t n : {0, 1, 2, 3, 31, 32, 33, 1023, 1024, 1025, 3000}) {
    check_sort(values({n}), 0);
  }
  check_sort(values({}), 0);
  check_sort(values({700, 3}), 1);
  check_sort(values({1100, 3}), 0);
  check_sort(values({2, 33, 5}), 1);
  check_sort(values_of({5000}, DType::kInt32, 4), 0);  // few values: long runs of equal ones
}

TEST_F(CudaIndexing, SortOfSpecialValues) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  constexpr double kInf = std::numeric_limits<double>::infinity();
  const std::vector<double> some = {kNan, 0.0, -0.0, kInf, -kInf, -kNan, 1.0, -1.0, 0.0, kNan};
  std::vector<double> many;
  for (int i = 0; i < 1300; ++i) many.push_back(some[static_cast<size_t>(i * i % 10)]);
  for (DType dtype : kFloatingDTypes) {
    check_sort(from_span<double>(some, {10}).to(dtype), 0);
    check_sort(from_span<double>(many, {1300}).to(dtype), 0);
  }
  const std::vector<int64_t> extremes = {0,         INT64_MAX, -1, INT64_MIN, INT32_MIN,
                                         INT64_MAX, INT32_MAX, 1,  INT64_MIN, INT64_MAX};
  const Tensor in = from_span<int64_t>(extremes, {10}).to(kGpu);
  const Tensor sorted = empty_dense({10}, DType::kInt64, kGpu);
  const Tensor order = empty_dense({10}, DType::kInt64, kGpu);
  backend_of(kGpu).sort(sorted, order, in, 0, true);
  const Tensor host = order.to(Device{});
  const std::vector<int64_t> want = {1, 5, 9, 6, 7, 0, 2, 4, 3, 8};
  for (size_t i = 0; i < want.size(); ++i) EXPECT_EQ(host.data<int64_t>()[i], want[i]) << i;
}

void check_index_select(const Dims& sizes, DType dtype, int dim, int64_t count) {
  const Tensor values = values_of(sizes, dtype, 5);
  const Tensor index = places_of({count}, sizes[dim], 6);
  expect_agreement("index_select " + text_of(sizes, dtype), [&](const Side& side) {
    Dims out_sizes = sizes;
    out_sizes[dim] = count;
    const Tensor out = side.empty(out_sizes, dtype);
    side.backend().index_select(out, side.put(values), dim, side.put(index));
    return Tensors{out};
  });
}

TEST_F(CudaIndexing, IndexSelect) {
  for (DType dtype : kAllDTypes) {
    check_index_select({7, 16}, dtype, 0, 20);  // rows of whole 16 bytes
    check_index_select({7, 6}, dtype, 0, 9);
    check_index_select({4, 5, 3}, dtype, 1, 8);
    check_index_select({3, 11}, dtype, 1, 5);
  }
  check_index_select({5, 3}, DType::kFloat32, 0, 0);
  check_index_select({5, 0}, DType::kFloat32, 0, 4);
  // Rows that lie between multiples of 16 bytes.
  const Tensor values = values_of({37}, DType::kFloat32, 7), index = places_of({50}, 9, 8);
  expect_agreement("index_select of a part", [&](const Side& side) {
    const Tensor in = side.put(values).narrow(0, 1, 36).view({9, 4});
    const Tensor out = side.empty({50, 4}, DType::kFloat32);
    side.backend().index_select(out, in, 0, side.put(index));
    return Tensors{out};
  });
}

// Adds along `dim` at `index`, of one dimension or of in's shape; sums of many terms are compared
// relative to 1 and so need no slack.
void check_add(const std::string& what, const Tensor& out, int dim, const Tensor& index,
               const Tensor& in) {
  const bool shared = what.starts_with("index_add");
  expect_agreement(what + " " + text_of(in.sizes(), in.dtype()), [&](const Side& side) {
    const Tensor sum = side.put(out);
    if (shared) {
      side.backend().index_add(sum, dim, side.put(index), side.put(in));
    } else {
      side.backend().scatter_add(sum, dim, side.put(index), side.put(in));
    }
    return Tensors{sum};
  });
}

void check_index_add(const Dims& sizes, DType dtype, int dim, int64_t count) {
  Dims in_sizes = sizes;
  in_sizes[dim] = count;
  check_add("index_add", values_of(sizes, dtype, 9), dim, places_of({count}, sizes[dim], 10),
            values_of(in_sizes, dtype, 11));
}

TEST_F(CudaIndexing, IndexAdd) {
  for (DType dtype : kAllDTypes) {
    check_index_add({5, 3}, dtype, 0, 12);   // short lines
    check_index_add({6, 7}, dtype, 0, 130);  // sorted
    check_index_add({2, 3, 4}, dtype, 1, 70);
  }
  const DType f = DType::kFloat32;
  check_index_add({4, 3}, f, 0, 0);
  check_index_add({4, 0}, f, 0, 100);
  check_index_add({9}, f, 0, 64);
  check_index_add({9}, f, 0, 65);
  check_index_add({3000}, f, 0, 2000);
  check_index_add({3, 40}, f, 1, 300);
  check_index_add({2}, f, 0, 3000);                 // runs over several windows
  check_index_add({1, 5}, DType::kInt64, 0, 1024);  // one run, that ends with a window
  check_index_add({1, 5}, DType::kBFloat16, 0, 777);
}

TEST_F(CudaIndexing, ScatterAdd) {
  const auto check = [](const Dims& out, DType dtype, int dim, const Dims& index) {
    check_add("scatter_add", values_of(out, dtype, 12), dim, places_of(index, out[dim], 13),
              values_of(index, dtype, 14));
  };
  for (DType dtype : kAllDTypes) {
    check({8, 5}, dtype, 1, {8, 1});
    check({4, 6}, dtype, 0, {9, 6});
    check({3, 5}, dtype, 1, {3, 80});
  }
  const DType f = DType::kFloat32;
  check({4}, f, 0, {0});
  check({7}, f, 0, {900});
  check({5, 6, 7}, f, 1, {4, 9, 5});  // an index smaller than what is added to
  check({5, 6, 7}, f, 1, {4, 300, 5});
  check({2, 3, 40}, f, 2, {2, 2, 64});
}

TEST_F(CudaIndexing, Gather) {
  const auto check = [](const Dims& in, DType dtype, int dim, const Dims& index) {
    const Tensor values = values_of(in, dtype, 15), places = places_of(index, in[dim], 16);
    expect_agreement("gather " + text_of(in, dtype), [&](const Side& side) {
      const Tensor out = side.empty(index, dtype);
      side.backend().gather(out, side.put(values), dim, side.put(places));
      return Tensors{out};
    });
  };
  for (DType dtype : kAllDTypes) {
    check({8, 5}, dtype, 1, {8, 1});
    check({4, 6}, dtype, 0, {9, 6});
    check({5, 6, 7}, dtype, 1, {4, 9, 5});
  }
  check({4}, DType::kFloat32, 0, {0});
  check({4}, DType::kFloat32, 0, {1000});
}

}  // namespace
}  // namespace lockstep::testing
