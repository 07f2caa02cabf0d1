// The plans that cuDNN makes for convolutions on an H100, which need not be there: cuDNN takes its
// description instead. What the plans compute is for a GPU to show (products_test.cc).
#include <algorithm>
#include <array>
#include <ostream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/cuda/conv_plan.h"
#include "lockstep/engine/tensor/error.h"

#include "h100.h"

namespace lockstep::cuda {
namespace {

std::optional<CudnnPlan> plan_on_h100(const ConvProblem& problem) {
  return plan_convolution(problem, h100());
}

struct Convolution {
  std::string name;
  int64_t n, c, h, w, o;
  std::array<int64_t, 2> kernel{3, 3}, stride{1, 1}, padding{0, 0}, dilation{1, 1};
  int64_t groups = 1;
};
void PrintTo(const Convolution& c, std::ostream* out) { *out << c.name; }

ConvProblem problem_of(const Convolution& c, ConvPass pass, DType dtype, bool channels_last) {
  const auto out = [&](size_t d, int64_t in) {
    return (in + 2 * c.padding[d] - c.dilation[d] * (c.kernel[d] - 1) - 1) / c.stride[d] + 1;
  };
  ConvProblem p;
  p.pass = pass;
  p.dtype = dtype;
  p.x = {c.n, c.c, c.h, c.w};
  p.w = {c.o, c.c / c.groups, c.kernel[0], c.kernel[1]};
  p.y = {c.n, c.o, out(0, c.h), out(1, c.w)};
  p.stride = c.stride;
  p.padding = c.padding;
  p.dilation = c.dilation;
  p.channels_last = channels_last;
  return p;
}

constexpr ConvPass kPasses[] = {ConvPass::kForward, ConvPass::kInputGradient,
                                ConvPass::kWeightGradient};

bool has(const CudnnPlan& plan, cudnnBackendNumericalNote_t note) {
  return std::count(plan.notes().begin(), plan.notes().end(), note) > 0;
}

void expect_plan(const ConvProblem& problem) {
  SCOPED_TRACE(std::string(name_of(problem.dtype)) + ", pass " +
               std::to_string(static_cast<int>(problem.pass)) + (problem.bias ? ", bias" : "") +
               (problem.channels_last ? ", channels last" : ""));
  const auto plan = plan_on_h100(problem);
  ASSERT_TRUE(plan);
  EXPECT_LE(plan->workspace_bytes(), size_t{256} << 20);
  EXPECT_FALSE(has(*plan, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC));
  EXPECT_FALSE(has(*plan, CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION));
  EXPECT_FALSE(has(*plan, CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS));
  const bool wide = problem.dtype == DType::kFloat32;
  // 16-bit numbers run on the tensor cores where there is enough for them to do.
  const bool large = problem.x[1] >= 32 && problem.x[1] == problem.w[1];
  if (wide || large) {
    EXPECT_EQ(has(*plan, CUDNN_NUMERICAL_NOTE_TENSOR_CORE), !wide);
  }
}

class Plans : public testing::TestWithParam<Convolution> {};

TEST_P(Plans, AreDeterministicForEveryPassDTypeAndLayout) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (const bool channels_last : {false, true}) {
      for (const ConvPass pass : kPasses) {
        expect_plan(problem_of(GetParam(), pass, dtype, channels_last));
      }
      ConvProblem with_bias = problem_of(GetParam(), ConvPass::kForward, dtype, channels_last);
      with_bias.bias = true;
      expect_plan(with_bias);
    }
  }
}

using Pair = std::array<int64_t, 2>;
constexpr Pair kOne = {1, 1}, kTwo = {2, 2};
INSTANTIATE_TEST_SUITE_P(
    Convolutions, Plans,
    testing::Values(
        // fashion_mnist
        Convolution{"fashion_1", 64, 1, 28, 28, 32}, Convolution{"fashion_2", 64, 32, 26, 26, 64},
        // ResNet-18 on images of 32 x 32
        Convolution{"resnet_first", 32, 3, 32, 32, 64, {3, 3}, kOne, kOne},
        Convolution{"resnet_64", 32, 64, 32, 32, 64, {3, 3}, kOne, kOne},
        Convolution{"resnet_64_128", 32, 64, 32, 32, 128, {3, 3}, kTwo, kOne},
        Convolution{"resnet_shortcut", 32, 64, 32, 32, 128, {1, 1}, kTwo},
        Convolution{"resnet_128", 32, 128, 16, 16, 128, {3, 3}, kOne, kOne},
        Convolution{"resnet_256", 32, 256, 8, 8, 256, {3, 3}, kOne, kOne},
        Convolution{"resnet_256_512", 32, 256, 8, 8, 512, {3, 3}, kTwo, kOne},
        Convolution{"resnet_512", 32, 512, 4, 4, 512, {3, 3}, kOne, kOne},
        // and others
        Convolution{"imagenet_first", 32, 3, 224, 224, 64, {7, 7}, kTwo, {3, 3}},
        Convolution{"groups", 8, 64, 20, 20, 32, {3, 3}, kOne, kOne, kOne, 4},
        Convolution{"depthwise", 8, 64, 20, 20, 64, {3, 3}, kOne, kOne, kOne, 64},
        Convolution{"dilated", 8, 32, 20, 20, 32, {3, 3}, kOne, kTwo, kTwo},
        Convolution{"uneven", 2, 5, 17, 9, 7, {2, 3}, {3, 2}, {1, 2}, {2, 1}},
        Convolution{"of_one_dimension", 4, 16, 1, 100, 24, {1, 5}, {1, 2}, {0, 2}}),
    [](const auto& info) { return info.param.name; });

const Convolution kSmall{"small", 2, 8, 6, 6, 8};

TEST(CudnnPlans, ExistForTensorsThatLieAnywhere) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (const ConvPass pass : kPasses) {
      ConvProblem problem = problem_of(kSmall, pass, dtype, false);
      problem.alignment = static_cast<int64_t>(size_of(dtype));
      EXPECT_TRUE(plan_on_h100(problem)) << name_of(dtype);
    }
  }
}

// With --matmul-precision high: at most as exact as TF32 is, and on the tensor cores.
TEST(CudnnPlans, UseTf32OnlyWhereItIsAllowed) {
  const Convolution convolution{"resnet_64", 32, 64, 32, 32, 64, {3, 3}, kOne, kOne};
  for (const bool channels_last : {false, true}) {
    for (const ConvPass pass : kPasses) {
      ConvProblem problem = problem_of(convolution, pass, DType::kFloat32, channels_last);
      const auto exact = plan_on_h100(problem);
      problem.tf32 = true;
      const auto rounded = plan_on_h100(problem);
      ASSERT_TRUE(exact && rounded);
      EXPECT_FALSE(has(*exact, CUDNN_NUMERICAL_NOTE_TENSOR_CORE));
      EXPECT_TRUE(has(*rounded, CUDNN_NUMERICAL_NOTE_TENSOR_CORE));
      EXPECT_FALSE(has(*rounded, CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS));
      EXPECT_FALSE(has(*rounded, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC));
    }
  }
}

TEST(CudnnPlans, AreNoneForFloat64AndWhatIsNoConvolution) {
  ASSERT_TRUE(plan_on_h100(problem_of(kSmall, ConvPass::kForward, DType::kFloat32, false)));
  EXPECT_FALSE(plan_on_h100(problem_of(kSmall, ConvPass::kForward, DType::kFloat64, false)));
  for (const ConvPass pass : kPasses) {
    ConvProblem wrong = problem_of(kSmall, pass, DType::kFloat32, false);
    wrong.y[2] += 1;
    EXPECT_FALSE(plan_on_h100(wrong));
  }
}

TEST(CudnnPlans, SayWhatIsWrongWithADescription) {
  try {
    properties_from(R"({"deviceVer": 900})");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("[cudnn] finalize: CUDNN_STATUS_BAD_PARAM"),
              std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace lockstep::cuda
