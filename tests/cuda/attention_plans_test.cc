// The plans that cuDNN makes for attention on an H100, which need not be there. It compiles the
// kernels, and a driver that does nothing (silent_driver.cc) takes them: so there is a plan exactly
// where cuDNN knows the graph. What the plans compute is for a GPU to show (attention_test.cc).
#include <algorithm>
#include <ostream>
#include <string>

#include <dlfcn.h>
#include <gtest/gtest.h>

#include "lockstep/engine/cuda/attention_plan.h"

#include "h100.h"

namespace lockstep::cuda {
namespace {

// The layouts that arrive: parts of one projection for a batch (B, L, 3 H E), as char_gpt and
// MultiheadAttention with batch_first have them; of one for (L, B, 3 H E); and (B, H, L, E) itself.
enum class Layout { kBatchFirst, kLengthFirst, kHeadsFirst };

struct Attention {
  std::string name;
  int64_t batch, heads, queries, keys, width;
  bool causal = false;
  double dropout = 0;
  DType dtype = DType::kBFloat16;
  Layout layout = Layout::kBatchFirst;
  int64_t value_width = 0;  // 0: as width
};
void PrintTo(const Attention& a, std::ostream* out) { *out << a.name; }

using Strides = AttentionProblem::Strides;

Strides input_strides(const Attention& a, int64_t length, int64_t width) {
  switch (a.layout) {
    case Layout::kBatchFirst:
      return {length * 3 * a.heads * width, width, 3 * a.heads * width, 1};
    case Layout::kLengthFirst:
      return {3 * a.heads * width, width, a.batch * 3 * a.heads * width, 1};
    default:
      return {a.heads * length * width, length * width, width, 1};
  }
}

Strides result_strides(const Attention& a, int64_t length, int64_t width) {
  return {length * a.heads * width, width, a.heads * width, 1};
}

AttentionProblem problem_of(const Attention& a, AttentionPass pass) {
  AttentionProblem p;
  p.pass = pass;
  p.dtype = a.dtype;
  p.batch = a.batch;
  p.heads = a.heads;
  p.queries = a.queries;
  p.keys = a.keys;
  p.width = a.width;
  p.value_width = a.value_width == 0 ? a.width : a.value_width;
  p.causal = a.causal;
  p.dropout = a.dropout;
  p.q = input_strides(a, a.queries, a.width);
  p.k = input_strides(a, a.keys, a.width);
  p.v = input_strides(a, a.keys, p.value_width);
  p.y = result_strides(a, a.queries, p.value_width);
  if (pass == AttentionPass::kGradient) {
    p.gy = p.y;
    p.gq = result_strides(a, a.queries, a.width);
    p.gk = result_strides(a, a.keys, a.width);
    p.gv = result_strides(a, a.keys, p.value_width);
  }
  return p;
}

void expect_plan(const AttentionProblem& problem) {
  SCOPED_TRACE(problem.pass == AttentionPass::kForward ? "forward" : "gradient");
  const auto plan = plan_attention(problem, h100());
  ASSERT_TRUE(plan);
  const auto has = [&](cudnnBackendNumericalNote_t note) {
    return std::count(plan->notes().begin(), plan->notes().end(), note) > 0;
  };
  EXPECT_TRUE(has(CUDNN_NUMERICAL_NOTE_TENSOR_CORE));
  EXPECT_FALSE(has(CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC));
  EXPECT_FALSE(has(CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION));
  // No weights are kept; the gradient may need room for one number of 16 bits for each.
  const auto padded = [](int64_t n) { return (n + 127) / 128 * 128; };
  const int64_t weights =
      problem.batch * problem.heads * padded(problem.queries) * padded(problem.keys);
  const int64_t most = problem.pass == AttentionPass::kForward ? 0 : 2 * weights;
  EXPECT_LE(plan->workspace_bytes(), static_cast<size_t>(most + 4096));
}

class AttentionPlans : public testing::TestWithParam<Attention> {
 protected:
  void SetUp() override {
    static void* const driver = dlopen(SILENT_DRIVER, RTLD_NOW | RTLD_GLOBAL);
    ASSERT_TRUE(driver) << dlerror();
  }
};

TEST_P(AttentionPlans, AreDeterministicAndKeepNoWeights) {
  expect_plan(problem_of(GetParam(), AttentionPass::kForward));
  expect_plan(problem_of(GetParam(), AttentionPass::kGradient));
  if (GetParam().dropout == 0) return;
  AttentionProblem mask = problem_of(GetParam(), AttentionPass::kForward);
  mask.dump_mask = true;
  expect_plan(mask);
}

constexpr DType kHalf = DType::kFloat16;
constexpr DType kBrain = DType::kBFloat16;
INSTANTIATE_TEST_SUITE_P(
    Attentions, AttentionPlans,
    testing::Values(
        // GPT-2, small
        Attention{"gpt2", 8, 12, 1024, 1024, 64, true},
        Attention{"gpt2_dropout", 8, 12, 1024, 1024, 64, true, 0.1},
        Attention{"gpt2_fp16", 8, 12, 1024, 1024, 64, true, 0, kHalf},
        // char_gpt's default size
        Attention{"char_gpt", 12, 4, 64, 64, 32, true},
        // widths, masks and dropout
        Attention{"narrow", 2, 3, 128, 128, 32, false, 0.1, kHalf},
        Attention{"middle", 2, 3, 128, 128, 64}, Attention{"wide", 2, 3, 128, 128, 128, true, 0.1},
        Attention{"wide_fp16", 2, 3, 128, 128, 128, false, 0, kHalf},
        Attention{"uneven_width", 2, 3, 64, 64, 40, true, 0, kHalf},
        Attention{"least_width", 2, 3, 64, 64, 8, true},
        Attention{"other_values", 2, 3, 64, 64, 64, true, 0.1, kBrain, Layout::kBatchFirst, 32},
        // lengths
        Attention{"more_keys", 2, 3, 37, 100, 64},
        Attention{"more_queries_causal", 2, 3, 100, 37, 64, true, 0.5, kHalf},
        Attention{"more_keys_causal", 2, 3, 37, 100, 32, true},
        Attention{"one_query", 2, 3, 1, 77, 128}, Attention{"few", 1, 1, 5, 5, 64, true},
        // layouts
        Attention{"length_first", 4, 2, 64, 64, 64, true, 0, kBrain, Layout::kLengthFirst},
        Attention{"heads_first", 4, 2, 64, 64, 64, false, 0.1, kHalf, Layout::kHeadsFirst}),
    [](const auto& info) { return info.param.name; });

TEST(AttentionPlansNone, ForOtherDTypesAndWidths) {
  const Attention good{"good", 2, 2, 64, 64, 64};
  for (const AttentionPass pass : {AttentionPass::kForward, AttentionPass::kGradient}) {
    for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kInt32}) {
      AttentionProblem problem = problem_of(good, pass);
      problem.dtype = dtype;
      EXPECT_FALSE(plan_attention(problem, h100())) << name_of(dtype);
    }
    Attention wrong = good;
    wrong.width = 7;
    EXPECT_FALSE(plan_attention(problem_of(wrong, pass), h100()));
  }
}

}  // namespace
}  // namespace lockstep::cuda
