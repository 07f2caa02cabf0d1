#pragma once

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/backend.h"
#include "lockstep/engine/plugin.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/tensor_impl.h"

// Compares kernels of the CUDA backend with those of the CPU backend, which other tests hold
// against mathematics. The device may be a real one or the emulated one.
namespace lockstep::testing {

inline constexpr Device kGpu{DeviceType::kCuda, 0};
using Tensors = std::vector<Tensor>;

// Tests of kernels derive their fixtures from it. Without a device they are skipped, unless the
// environment names a plugin, as the runs on the emulated device do.
class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_status().devices > 0) return;
    ASSERT_EQ(std::getenv("LOCKSTEP_CUDA_PLUGIN"), nullptr) << cuda_status().why;
    GTEST_SKIP() << cuda_status().why;
  }
};

inline const std::vector<DType> kAllDTypes = {DType::kFloat32, DType::kFloat64, DType::kBFloat16,
                                              DType::kFloat16, DType::kInt64,   DType::kInt32,
                                              DType::kUInt8,   DType::kBool};
inline const std::vector<DType> kFloatingDTypes = {DType::kFloat32, DType::kFloat64,
                                                   DType::kBFloat16, DType::kFloat16};

// Where a kernel runs: on the GPU with the dtypes that are tested, or on the CPU as the reference,
// where floating tensors have 64 bits.
struct Side {
  Device device;
  bool reference;

  DType dtype(DType tested) const {
    return reference && is_floating(tested) ? DType::kFloat64 : tested;
  }
  // The values of a dense tensor of the CPU, with its strides.
  Tensor put(const Tensor& t) const {
    if (!t.defined()) return t;
    const Tensor source = t.dtype() == dtype(t.dtype()) ? t : t.to(dtype(t.dtype()));
    if (source.dim() != 4 || source.is_contiguous()) return source.to(device).clone();
    return source.permute({0, 2, 3, 1}).to(device).clone().permute({0, 3, 1, 2});
  }
  Tensor empty(const Dims& sizes, DType tested) const {
    return empty_dense(sizes, dtype(tested), device);
  }
  Tensor empty_nhwc(const Dims& sizes, DType tested) const {
    return empty_channels_last(sizes, dtype(tested), device);
  }
  Backend& backend() const { return backend_of(device); }
};

// What a result of that dtype may differ by from the reference, relative to the larger of 1 and
// the reference: one unit in the last place, and in float64 what sums may add to it.
inline double tolerance_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return 0x1p-23;
    case DType::kFloat64:
      return 1e-12;
    case DType::kBFloat16:
      return 0x1p-8;
    case DType::kFloat16:
      return 0x1p-11;
    default:
      return 0;
  }
}

// Runs `run(side)`, which returns tensors, on both sides, twice on the GPU: the results agree with
// the reference within `slack` tolerances of their dtypes, and have the same bits both times.
template <typename F>
void expect_agreement(const std::string& what, const F& run, double slack = 1) {
  const Tensors want = run(Side{Device{}, true});
  const Tensors got = run(Side{kGpu, false}), again = run(Side{kGpu, false});
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t k = 0; k < got.size(); ++k) {
    const std::string name = what + ", result " + std::to_string(k);
    if (!want[k].defined()) continue;
    ASSERT_EQ(got[k].sizes(), want[k].sizes()) << name;
    const Tensor host = got[k].to(Device{}).contiguous();
    const Tensor other = again[k].to(Device{}).contiguous();
    const size_t bytes = static_cast<size_t>(host.numel()) * size_of(host.dtype());
    EXPECT_TRUE(bytes == 0 || std::memcmp(host.data_ptr(), other.data_ptr(), bytes) == 0)
        << name << ": different bits when run again";
    const std::vector<double> a = host.to_vector(), b = want[k].to_vector();
    const double tolerance = slack * tolerance_of(host.dtype());
    int wrong = 0;
    for (size_t i = 0; i < a.size() && wrong < 5; ++i) {
      const bool same = a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i])) ||
                        std::fabs(a[i] - b[i]) <= tolerance * std::max(1.0, std::fabs(b[i]));
      wrong += same ? 0 : 1;
      EXPECT_TRUE(same) << name << ", element " << i << " of " << a.size() << ": " << a[i]
                        << ", the reference says " << b[i];
    }
  }
}

// Values that every floating dtype of the test can hold, the same for the same seed: floating ones
// in [-1, 1), integers from -3 to 3 (0 to 6 in uint8), so that there are ties.
inline Tensor values_of(const Dims& sizes, DType dtype, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<double> values(static_cast<size_t>(sizes.product()));
  for (double& v : values) {
    const auto word = static_cast<double>(random());
    v = is_floating(dtype)
            ? word / 0x1p31 - 1
            : std::fmod(word, 7) - (dtype == DType::kInt64 || dtype == DType::kInt32 ? 3 : 0);
    if (dtype == DType::kBool) v = word < 0x1p31 ? 1 : 0;
  }
  return from_span<double>(values, sizes).to(dtype);
}

// int64 numbers in [0, below).
inline Tensor places_of(const Dims& sizes, int64_t below, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int64_t> places(static_cast<size_t>(sizes.product()));
  for (int64_t& p : places) p = static_cast<int64_t>(random()) % below;
  return from_span<int64_t>(places, sizes);
}

inline std::string text_of(const Dims& sizes, DType dtype) {
  return sizes.str() + " " + std::string(name_of(dtype));
}

}  // namespace lockstep::testing
