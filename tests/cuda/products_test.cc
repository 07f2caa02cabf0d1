// Products of matrices and convolutions of the CUDA backend.
#include "lockstep/engine/ops/pointwise.h"

#include "compare.h"

namespace lockstep::testing {
namespace {

using CudaGemm = CudaTest;

struct Product {
  int64_t m, n, k;
  int64_t batch = 1;
  bool shared_a = false;  // one A for the whole batch
};

// Rows lie `gap` elements further apart than they need to.
void check_gemm(DType dtype, const Product& p, bool trans_a, bool trans_b, bool accumulate,
                int64_t gap) {
  const auto values = [&](int64_t batch, int64_t rows, int64_t columns, uint32_t seed) {
    const Tensor t = values_of({batch, rows, columns + gap}, DType::kFloat64, seed);
    // Integers overflow, in sums if not in products.
    return is_floating(dtype)
               ? t.to(dtype)
               : (t * (dtype == DType::kUInt8 ? 255 : 2e9)).to(DType::kInt64).to(dtype);
  };
  const int64_t batch_a = p.shared_a ? 1 : p.batch;
  const Tensor a = trans_a ? values(batch_a, p.k, p.m, 1) : values(batch_a, p.m, p.k, 1);
  const Tensor b = trans_b ? values(p.batch, p.n, p.k, 2) : values(p.batch, p.k, p.n, 2);
  const Tensor c = values(p.batch, p.m, p.n, 3);
  const std::string what = std::string(name_of(dtype)) + " " + a.sizes().str() +
                           (trans_a ? "^T " : " ") + b.sizes().str() + (trans_b ? "^T" : "") +
                           (accumulate ? " added" : "");
  expect_agreement(
      what,
      [&](const Side& side) -> Tensors {
        const Tensor sa = side.put(a), sb = side.put(b), sc = side.put(c);
        GemmCall call;
        call.dtype = sc.dtype();
        call.trans_a = trans_a, call.trans_b = trans_b, call.accumulate = accumulate;
        call.m = p.m, call.n = p.n, call.k = p.k, call.batch = p.batch;
        call.a = sa.data_ptr(), call.b = sb.data_ptr(), call.c = sc.data_ptr();
        call.lda = sa.size(2), call.ldb = sb.size(2), call.ldc = sc.size(2);
        call.stride_a = p.shared_a ? 0 : sa.stride(0);
        call.stride_b = sb.stride(0), call.stride_c = sc.stride(0);
        side.backend().gemm(call);
        return {sc};
      },
      dtype == DType::kFloat32 ? 64 : 1);  // of sums of up to 700 terms
}

TEST_F(CudaGemm, AgreesWithTheReference) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16,
                            DType::kInt64, DType::kInt32, DType::kUInt8}) {
    for (const bool trans_a : {false, true}) {
      for (const bool trans_b : {false, true}) {
        check_gemm(dtype, {5, 7, 3, 3}, trans_a, trans_b, true, 2);
        check_gemm(dtype, {65, 66, 17}, trans_a, trans_b, false, 0);
      }
    }
    check_gemm(dtype, {1, 1, 1}, false, false, false, 0);
    check_gemm(dtype, {3, 130, 40, 2, true}, false, true, false, 1);
    check_gemm(dtype, {8, 8, 700}, true, false, true, 0);
    check_gemm(dtype, {4, 5, 0}, false, false, false, 1);
    check_gemm(dtype, {4, 5, 0}, false, false, true, 1);
    check_gemm(dtype, {0, 5, 3}, false, false, false, 1);
    check_gemm(dtype, {4, 5, 3, 0}, false, false, false, 1);
  }
}

TEST_F(CudaGemm, BoolIsAnError) {
  GemmCall call;
  call.dtype = DType::kBool;
  call.m = call.n = call.k = 1;
  EXPECT_THROW(backend_of(kGpu).gemm(call), ValueError);
}

using CudaConv = CudaTest;

struct Case {
  Dims x, w;
  Conv2dParams params;
  bool large = false;
};
const std::vector<Case> kCases = {
    {{2, 3, 7, 6}, {4, 3, 3, 3}, {.padding = {1, 1}}},
    {{1, 1, 5, 5}, {1, 1, 1, 1}, {}},
    {{2, 4, 9, 8}, {6, 2, 3, 2}, {.stride = {2, 3}, .padding = {2, 1}, .groups = 2}},
    {{1, 6, 11, 9},
     {6, 1, 3, 3},
     {.stride = {1, 2}, .padding = {0, 2}, .dilation = {3, 2}, .groups = 6}},
    {{3, 34, 5, 5},
     {70, 34, 3, 3},
     {.stride = {2, 2}},
     true},  // several tiles, sums of 306 and 630
    {{2, 2, 30, 25},
     {3, 2, 5, 4},
     {.padding = {4, 3}},
     true},  // the weights' gradient in several parts
    {{0, 3, 6, 6}, {4, 3, 3, 3}, {}}};

Dims convolved(const Case& c) {
  Dims y{c.x[0], c.w[0], 0, 0};
  for (int i = 0; i < 2; ++i) {
    const Conv2dParams& p = c.params;
    const int64_t room = c.x[2 + i] + 2 * p.padding[i] - p.dilation[i] * (c.w[2 + i] - 1) - 1;
    y[2 + i] = room / p.stride[i] + 1;
  }
  return y;
}

TEST_F(CudaConv, AgreesWithTheReference) {
  for (const DType dtype : kFloatingDTypes) {
    for (const bool last : {false, true}) {
      for (const Case& c : kCases) {
        if (c.large && size_of(dtype) == 2) continue;  // the same kernels, and slow in emulation
        const auto activation = [&](const Dims& sizes, uint32_t seed) {
          const Tensor values = values_of(sizes, dtype, seed);
          if (!last) return values;
          const Tensor copy = empty_channels_last(sizes, dtype, Device{});
          copy.copy_(values);
          return copy;
        };
        const Dims o{c.w[0]};
        const Tensor x = activation(c.x, 1), gy = activation(convolved(c), 2);
        const Tensor w = values_of(c.w, dtype, 3), bias = values_of(o, dtype, 4);
        expect_agreement(
            text_of(c.x, dtype) + " with " + c.w.str() + (last ? " channels last" : ""),
            [&](const Side& side) -> Tensors {
              Backend& backend = side.backend();
              const Tensor sx = side.put(x), sgy = side.put(gy), sw = side.put(w);
              const Tensor y = side.put(gy), plain = side.put(gy), gx = side.put(x);
              const Tensor gw = side.empty(c.w, dtype), gbias = side.empty(o, dtype);
              const Tensor alone = side.empty(c.w, dtype);
              backend.conv2d(y, sx, sw, side.put(bias), c.params);
              backend.conv2d(plain, sx, sw, {}, c.params);
              backend.conv2d_input_gradient(gx, sgy, sw, c.params);
              backend.conv2d_weight_gradient(gw, gbias, sgy, sx, c.params);
              backend.conv2d_weight_gradient(alone, {}, sgy, sx, c.params);
              return {y, plain, gx, gw, gbias, alone};
            },
            dtype == DType::kFloat32 ? 64 : 1);
      }
    }
  }
}

}  // namespace
}  // namespace lockstep::testing
