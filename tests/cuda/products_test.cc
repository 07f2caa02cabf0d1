// Products of matrices and convolutions of the CUDA backend.
#include <functional>

#include "lockstep/engine/algorithm_choice.h"
#include "lockstep/engine/ops/ops.h"

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

TEST_F(CudaGemm, ABiasOfAnotherDeviceIsAnError) {
  const Tensor x = ones({2, 3}, {.device = kGpu}), w = ones({4, 3}, {.device = kGpu});
  const Tensor bias = ones({4});
  EXPECT_THROW(linear(x, w, bias), ValueError);
  EXPECT_THROW(linear_gelu(x, w, bias), ValueError);
  EXPECT_THROW(linear(x.to(Device{}), w.to(Device{}), bias.to(kGpu)), ValueError);
}

TEST_F(CudaGemm, BoolIsAnError) {
  GemmCall call;
  call.dtype = DType::kBool;
  call.m = call.n = call.k = 1;
  EXPECT_THROW(backend_of(kGpu).gemm(call), ValueError);
}

// C of `rows` x `columns` in doubles.
template <typename F>
Tensor build(int64_t rows, int64_t columns, const F& at) {
  std::vector<double> values;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) values.push_back(at(i, j));
  }
  return from_span<double>(values, {rows, columns});
}

void expect_close(const Tensor& got, const Tensor& want, double tolerance,
                  const std::string& what) {
  ASSERT_EQ(got.sizes(), want.sizes()) << what;
  const auto a = got.to(Device{}).contiguous().to_vector(), b = want.to_vector();
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_NEAR(a[i], b[i], tolerance * std::max(1.0, std::fabs(b[i])))
        << what << ", element " << i;
  }
}

// Trials must leave no trace, not even where the result is added to what was there.
TEST_F(CudaGemm, TimedAndTabledAlgorithmsAgreeWithTheReference) {
  const auto check_all = [] {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      for (const bool accumulate : {false, true}) {
        check_gemm(dtype, {24, 40, 16, 3}, false, true, accumulate, 8);
        check_gemm(dtype, {64, 65, 66}, true, false, accumulate, 0);
      }
    }
  };
  set_algorithm_choice(AlgorithmChoice::kTimed);
  check_all();
  const AlgorithmTable table = timed_algorithms();
  EXPECT_GE(table.size(), 4u);
  set_algorithm_choice(AlgorithmChoice::kTable, table);
  check_all();
  set_algorithm_choice(AlgorithmChoice::kHeuristic);
}

double gelu_of(double h) {
  return h / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (h + 0.044715 * h * h * h)));
}

// C = gelu(A B + C + bias) and its parts: A transposed or not, rows with gaps.
TEST_F(CudaGemm, EpiloguesAgreeWithTheirFormulas) {
  constexpr int64_t kM = 5, kN = 11, kK = 9, kPitch = 16;
  for (const DType dtype : kFloatingDTypes) {
    const double tolerance = 64 * tolerance_of(dtype) / (size_of(dtype) == 2 ? 64 : 1);
    const Tensor a = values_of({kM, kK}, dtype, 1), b = values_of({kN, kK}, dtype, 2);
    const Tensor c = values_of({kM, kN}, dtype, 3), bias = values_of({kN}, dtype, 4);
    for (int bits = 0; bits < 16; ++bits) {
      const bool accumulate = bits & 1, gelu = bits & 2, keep = gelu && bits & 4;
      const bool trans_a = bits & 8;
      const std::string what = std::string(name_of(dtype)) + " " + std::to_string(bits);
      const Tensor h = build(kM, kN, [&](int64_t i, int64_t j) {
        double sum = bias[j].item<double>() + (accumulate ? c[i][j].item<double>() : 0);
        for (int64_t k = 0; k < kK; ++k) sum += a[i][k].item<double>() * b[j][k].item<double>();
        return sum;
      });
      const Tensor ga = (trans_a ? a.t().contiguous() : a).to(kGpu), gb = b.to(kGpu);
      const Tensor gc = c.to(kGpu).clone(), kept = zeros({kM, kPitch}, {dtype, kGpu});
      const Tensor gbias = bias.to(kGpu);
      GemmCall call{.dtype = dtype, .trans_a = trans_a, .trans_b = true, .accumulate = accumulate};
      call.m = kM, call.n = kN, call.k = kK;
      call.a = ga.data_ptr(), call.b = gb.data_ptr(), call.c = gc.data_ptr();
      call.lda = trans_a ? kM : kK, call.ldb = kK, call.ldc = kN;
      GemmEpilogue epilogue{.bias = gbias.data_ptr(), .gelu = gelu};
      if (keep) epilogue.pre_activation = kept.data_ptr(), epilogue.pre_activation_ld = kPitch;
      if (!backend_of(kGpu).gemm_with_epilogue(call, epilogue)) {  // a real library may have none
        EXPECT_EQ(std::getenv("LOCKSTEP_CUDA_PLUGIN"), nullptr) << what;
        expect_close(gc, c.to(DType::kFloat64), 0, what + ": nothing is done");
        continue;
      }
      const auto result = [&](int64_t i, int64_t j) {
        return gelu ? gelu_of(h[i][j].item<double>()) : h[i][j].item<double>();
      };
      expect_close(gc, build(kM, kN, result), tolerance, what);
      if (keep) expect_close(kept.narrow(1, 0, kN), h, tolerance, what + " kept");
    }
  }
}

TEST_F(CudaGemm, SumsOfRowsComeWithTheProduct) {
  constexpr int64_t kM = 6, kN = 3, kK = 70;
  for (const DType dtype : kFloatingDTypes) {
    const double tolerance = tolerance_of(dtype) * (size_of(dtype) == 2 ? 1 : 64);
    for (const bool trans_a : {false, true}) {
      const Tensor a = values_of({kM, kK}, dtype, 1), b = values_of({kK, kN}, dtype, 2);
      const Tensor ga = (trans_a ? a.t().contiguous() : a).to(kGpu), gb = b.to(kGpu);
      const Tensor gc = zeros({kM, kN}, {dtype, kGpu}), sums = zeros({kM, 1}, {dtype, kGpu});
      GemmCall call{.dtype = dtype, .trans_a = trans_a};
      call.m = kM, call.n = kN, call.k = kK;
      call.a = ga.data_ptr(), call.b = gb.data_ptr(), call.c = gc.data_ptr();
      call.lda = trans_a ? kM : kK, call.ldb = kN, call.ldc = kN;
      const std::string what = std::string(name_of(dtype)) + (trans_a ? " transposed" : "");
      const bool emulated = std::getenv("LOCKSTEP_CUDA_PLUGIN") != nullptr;
      const bool fused =
          backend_of(kGpu).gemm_with_epilogue(call, {.bias_gradient = sums.data_ptr()});
      if (emulated) {
        EXPECT_EQ(fused, dtype != DType::kFloat64) << what;
      }
      const auto product = [&](int64_t i, int64_t j) {
        double sum = 0;
        for (int64_t k = 0; k < kK; ++k) sum += a[i][k].item<double>() * b[k][j].item<double>();
        return fused ? sum : 0;
      };
      const auto row = [&](int64_t i, int64_t) {
        double sum = 0;
        for (int64_t k = 0; k < kK; ++k) sum += a[i][k].item<double>();
        return fused ? sum : 0;
      };
      expect_close(gc, build(kM, kN, product), tolerance, what);
      expect_close(sums, build(kM, 1, row), tolerance, what + ", sums");
    }
  }
}

// What `layer` makes of x, weight and bias, and their gradients.
template <typename Layer>
Tensors layer_and_gradients(const Side& side, const Tensors& inputs, const Layer& layer) {
  Tensors leaves, results;
  for (const Tensor& input : inputs) leaves.push_back(side.put(input).requires_grad_());
  const Tensor y = layer(leaves);
  results.push_back(y.detach());
  y.backward(side.put(values_of(y.sizes(), inputs[0].dtype(), 9)));
  for (const Tensor& leaf : leaves) results.push_back(leaf.grad());
  return results;
}

using Layer = std::function<Tensor(const Tensors&)>;

// linear and linear_gelu of x with that many rows and columns and all ways in which arguments may
// lie in memory.
void check_linear(DType dtype, const Dims& x, int64_t out) {
  const int64_t in = x.back();
  const Tensors inputs = {values_of(x, dtype, 1), values_of({out, in}, dtype, 2),
                          values_of({out}, dtype, 3)};
  const auto strided = [](const Tensor& t) {
    return cat({t, t}, -1).slice(-1, 0, 2 * t.size(-1), 2);
  };
  const std::vector<std::pair<const char*, Layer>> layers = {
      {"linear", [](const Tensors& t) { return linear(t[0], t[1], t[2]); }},
      {"linear_gelu", [](const Tensors& t) { return linear_gelu(t[0], t[1], t[2]); }},
      {"no bias", [](const Tensors& t) { return linear_gelu(t[0], t[1]) + t[2]; }},
      {"frozen weight",
       [](const Tensors& t) { return linear_gelu(t[0], t[1].detach(), t[2]) + t[1].sum(); }},
      {"strided",
       [&](const Tensors& t) { return linear_gelu(strided(t[0]), strided(t[1]), strided(t[2])); }},
      {"transposed", [](const Tensors& t) {
         return linear(t[0].transpose(0, -1).contiguous().transpose(0, -1),
                       t[1].t().contiguous().t(), t[2]);
       }}};
  for (const auto& [name, layer] : layers) {
    expect_agreement(
        text_of(x, dtype) + " " + name,
        [&](const Side& side) { return layer_and_gradients(side, inputs, layer); },
        dtype == DType::kFloat32 ? 64 : 8);
  }
}

TEST_F(CudaGemm, LinearLayersAgreeWithTheReference) {
  for (const DType dtype : kFloatingDTypes) {
    check_linear(dtype, {6, 5}, 8);
    check_linear(dtype, {2, 3, 4}, 7);  // rows of what is kept have gaps
    check_linear(dtype, {4}, 3);
    check_linear(dtype, {1, 1}, 1);
    check_linear(dtype, {0, 4}, 3);
    check_linear(dtype, {3, 0}, 2);
  }
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
