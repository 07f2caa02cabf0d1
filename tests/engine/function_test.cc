// Custom functions: the forward and the backward of an op of one's own.
#include "lockstep/engine/autograd/function.h"

#include <any>
#include <array>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/autograd/gradcheck.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/random.h"

#include "engine/throws.h"

namespace lockstep {
namespace {

using lockstep::testing::error_of;

struct Cube : autograd::Function<Cube> {
  static Tensor forward(autograd::FunctionContext& context, const Tensor& x) {
    context.save_for_backward({x});
    return x * x * x;
  }
  static std::vector<Tensor> backward(autograd::FunctionContext& context,
                                      const std::vector<Tensor>& gradients) {
    const Tensor x = context.saved_tensors()[0];
    return {3.0 * x * x * gradients[0]};
  }
};

// Saves its output, has two outputs and an argument that is no tensor.
struct ScaledExp : autograd::Function<ScaledExp> {
  static std::vector<Tensor> forward(autograd::FunctionContext& context, const Tensor& x,
                                     double scale) {
    const Tensor y = exp(x);
    context.save_for_backward({y});
    context.data = scale;
    return {y, y * scale};
  }
  static std::vector<Tensor> backward(autograd::FunctionContext& context,
                                      const std::vector<Tensor>& g) {
    const Tensor y = context.saved_tensors()[0];
    const auto scale = std::any_cast<double>(context.data);
    Tensor total = g[0].defined() ? g[0] : zeros_like(y);
    if (g[1].defined()) total = total + g[1] * scale;
    return {total * y};
  }
};

struct Miscounted : autograd::Function<Miscounted> {
  static Tensor forward(autograd::FunctionContext&, const Tensor& x) { return x * 1.0; }
  static std::vector<Tensor> backward(autograd::FunctionContext&, const std::vector<Tensor>&) {
    return {};
  }
};

Tensor leaf(const Dims& sizes) {
  return randn(sizes, {.dtype = DType::kFloat64, .requires_grad = true});
}

TEST(Function, HasTheGradientItSays) {
  manual_seed(2);
  const auto cube = [](const std::vector<Tensor>& in) { return Cube::apply(in[0]); };
  autograd::gradcheck(cube, {leaf({4})});
  autograd::gradgradcheck(cube, {leaf({4})});
  const auto both = [](const std::vector<Tensor>& in) {
    const auto y = ScaledExp::apply(in[0], 2.0);
    return y[0] * y[1];
  };
  autograd::gradcheck(both, {leaf({3})});
  autograd::gradgradcheck(both, {leaf({3})});
}

TEST(Function, NamesItsNodeAndChecksItself) {
  const Tensor x = tensor({2.0}, {.requires_grad = true});
  EXPECT_EQ(Cube::apply(x).str(), "tensor([8.], grad_fn=<CubeBackward>)");
  EXPECT_EQ(error_of([&] { Miscounted::apply(x).backward(); }),
            "function MiscountedBackward returned an incorrect number of gradients (expected 1, "
            "got 0)");
  const autograd::NoGrad no_grad;
  EXPECT_FALSE(Cube::apply(x).requires_grad());
}

TEST(Function, NoticesSavedTensorsThatChanged) {
  const Tensor x = tensor({2.0}, {.requires_grad = true}) * 1.0;
  const Tensor y = Cube::apply(x);
  x.mul_(2);
  EXPECT_NE(error_of([&] { y.backward(); }).find("modified by an inplace operation"),
            std::string::npos);
}

struct DoubledGradient {
  static std::vector<Tensor> backward(autograd::FunctionContext&, const std::vector<Tensor>& g) {
    return {g[0] * 2};
  }
};
struct SameInput : DoubledGradient, autograd::Function<SameInput> {
  static Tensor forward(autograd::FunctionContext& context, const Tensor& x) {
    context.save_for_backward({x});
    return x;
  }
};
struct ViewOfInput : DoubledGradient, autograd::Function<ViewOfInput> {
  static Tensor forward(autograd::FunctionContext&, const Tensor& x) { return x.view(x.sizes()); }
};
struct SameTwice : autograd::Function<SameTwice> {
  static std::vector<Tensor> forward(autograd::FunctionContext&, const Tensor& x) {
    const Tensor y = x * 2;
    return {y, y};
  }
  static std::vector<Tensor> backward(autograd::FunctionContext&, const std::vector<Tensor>& g) {
    return {g[0] + g[1] * 5};
  }
};

TEST(Function, LeavesAnInputThatItReturnsAlone) {
  const Tensor x = tensor({1.0, 1.0}, {.requires_grad = true});
  const Tensor h = x * 3;
  const Tensor y = SameInput::apply(h);
  EXPECT_FALSE(y.is_same(h));
  EXPECT_EQ(h.grad_fn()->name(), "MulBackward0");
  EXPECT_EQ(y.grad_fn()->name(), "SameInputBackward");
  (y.sum() + h.sum()).backward();
  EXPECT_EQ(x.grad().to_vector(), (std::vector<double>{9, 9}));
  const Tensor leaf = tensor({1.0}, {.requires_grad = true});
  SameInput::apply(leaf).backward();
  EXPECT_TRUE(leaf.is_leaf());
  EXPECT_EQ(leaf.grad().to_vector(), (std::vector<double>{2}));
}

TEST(Function, TellsAnOutputThatItReturnsTwiceApart) {
  const Tensor x = tensor({1.0}, {.requires_grad = true});
  const auto y = SameTwice::apply(x);
  (y[0] * 2 + y[1] * 3).backward();
  EXPECT_EQ(x.grad().to_vector(), (std::vector<double>{2 + 5 * 3}));
}

TEST(Function, ItsViewsCannotBeWrittenInPlace) {
  const auto text = [](const std::string& node, const std::string& what) {
    return "Output 0 of " + node + " is a view and " + what +
           " modified inplace. This view was created inside a custom Function (or because an input "
           "was returned as-is) and the autograd logic to handle view+inplace would override the "
           "custom backward associated with the custom Function, leading to incorrect gradients. "
           "This behavior is forbidden. You can fix this by cloning the output of the custom "
           "Function.";
  };
  const Tensor x = tensor({1.0, 2.0}, {.requires_grad = true}) * 1;
  EXPECT_EQ(error_of([&] { ViewOfInput::apply(x).mul_(3); }),
            text("ViewOfInputBackward", "is being"));
  EXPECT_EQ(error_of([&] { SameInput::apply(x).mul_(3); }), text("SameInputBackward", "is being"));
  EXPECT_EQ(error_of([&] {
              ViewOfInput::apply(x).view({2, 1}).mul_(3);
            }),
            text("ViewBackward0", "is being"));
  EXPECT_EQ(x.to_vector(), (std::vector<double>{1, 2}));  // none of them wrote
  const Tensor y = ViewOfInput::apply(x);
  x.mul_(3);
  EXPECT_EQ(error_of([&] { y.grad_fn(); }),
            text("ViewOfInputBackward", "its base or another view of its base has been"));
}

// -- arguments

struct SumOf : autograd::Function<SumOf> {
  static Tensor forward(autograd::FunctionContext& context, double factor,
                        const std::vector<Tensor>& terms, const Tensor& last) {
    context.data = factor;
    Tensor y = last * 1;
    for (size_t i = 0; i < terms.size(); ++i) y = y + terms[i] * (factor * double(i + 1));
    return y;
  }
  static std::vector<Tensor> backward(autograd::FunctionContext& context,
                                      const std::vector<Tensor>& g) {
    const auto factor = std::any_cast<double>(context.data);
    EXPECT_TRUE(context.needs_input_grad(0));
    EXPECT_FALSE(context.needs_input_grad(1));
    return {g[0] * factor, {}, g[0] * (3 * factor), g[0]};
  }
};

TEST(Function, TensorsInAVectorGetGradients) {
  const std::vector<Tensor> terms = {leaf({2}), leaf({2}).detach(), leaf({2})};
  const Tensor last = leaf({2});
  const Tensor y = SumOf::apply(0.5, terms, last);
  y.sum().backward();
  EXPECT_EQ(terms[0].grad().to_vector(), (std::vector<double>{0.5, 0.5}));
  EXPECT_FALSE(terms[1].grad().defined());
  EXPECT_EQ(terms[2].grad().to_vector(), (std::vector<double>{1.5, 1.5}));
  EXPECT_EQ(last.grad().to_vector(), (std::vector<double>{1, 1}));
  const auto function = [](const std::vector<Tensor>& in) {
    return SumOf::apply(2.0, std::vector<Tensor>{in[0], zeros({2}, {DType::kFloat64}), in[1]},
                        in[2]);
  };
  autograd::gradcheck(function, {leaf({2}), leaf({2}), leaf({2})});
}

// What would get no gradient does not compile; these are what apply() asks.
static_assert(autograd::is_function_argument<const Tensor&>());
static_assert(autograd::is_function_argument<std::vector<Tensor>>());
static_assert(autograd::is_function_argument<std::span<const Tensor>&>());
static_assert(autograd::is_function_argument<std::array<Tensor, 2>>());
static_assert(autograd::is_function_argument<const char (&)[4]>());
static_assert(autograd::is_function_argument<std::string>());
static_assert(autograd::is_function_argument<std::optional<double>>());
static_assert(autograd::is_function_argument<std::filesystem::path>());
static_assert(autograd::is_function_argument<void*>());
static_assert(autograd::is_function_argument<void (*)(int)>());
static_assert(!autograd::is_function_argument<std::optional<Tensor>>());
static_assert(!autograd::is_function_argument<std::pair<Tensor, Tensor>>());
static_assert(!autograd::is_function_argument<const std::tuple<int, Tensor>&>());
static_assert(!autograd::is_function_argument<Tensor*>());
static_assert(!autograd::is_function_argument<std::shared_ptr<Tensor>>());
static_assert(!autograd::is_function_argument<std::vector<std::vector<Tensor>>>());
static_assert(!autograd::is_function_argument<std::map<std::string, Tensor>>());
static_assert(!autograd::is_function_argument<NamedTensors>());

// -- what backward returns

template <int returned>
struct Returns : autograd::Function<Returns<returned>> {
  static Tensor forward(autograd::FunctionContext&, double, const Tensor& x, int) { return x * 2; }
  static std::vector<Tensor> backward(autograd::FunctionContext&, const std::vector<Tensor>& g) {
    const Tensor two = g[0] * 2, none;
    switch (returned) {
      case 0:
        return {two};
      case 1:
        return {none, two, none};  // one per argument, as in PyTorch
      case 2:
        return {two, none};
      case 3:
        return {none, two, none, none};
      case 4:
        return {};
      case 5:
        return {two, two};
      case 6:
        return {two, two, none};
      default:
        return {none, two, none, two};
    }
  }
};

TEST(Function, CountsTheGradients) {
  const auto gradient = [](const auto& apply) {
    const Tensor x = tensor({1.0}, {.requires_grad = true});
    apply(x).backward();
    return x.grad().item();
  };
  EXPECT_EQ(gradient([](const Tensor& x) { return Returns<0>::apply(1.0, x, 1); }), 2);
  EXPECT_EQ(gradient([](const Tensor& x) { return Returns<1>::apply(1.0, x, 1); }), 2);
  EXPECT_EQ(gradient([](const Tensor& x) { return Returns<2>::apply(1.0, x, 1); }), 2);
  EXPECT_EQ(gradient([](const Tensor& x) { return Returns<3>::apply(1.0, x, 1); }), 2);
  const Tensor x = tensor({1.0}, {.requires_grad = true});
  const auto wrong = [](const std::string& got) {
    return " returned an incorrect number of gradients (expected 1, got " + got + ")";
  };
  EXPECT_ERROR(Returns<4>::apply(1.0, x, 1).backward(), "function Returns<4>Backward" + wrong("0"));
  EXPECT_ERROR(Returns<5>::apply(1.0, x, 1).backward(), "function Returns<5>Backward" + wrong("2"));
  EXPECT_ERROR(Returns<6>::apply(1.0, x, 1).backward(),
               "function Returns<6>Backward returned a gradient different from None at position 0, "
               "but the corresponding forward input was not a Variable");
  EXPECT_ERROR(Returns<7>::apply(1.0, x, 1).backward(), "function Returns<7>Backward" + wrong("2"));
  EXPECT_FALSE(x.grad().defined());
}

// -- outputs without gradients

// The largest element of each row and its place, which is saved too.
struct Largest : autograd::Function<Largest> {
  static std::vector<Tensor> forward(autograd::FunctionContext& context, const Tensor& x) {
    const ValuesAndIndices y = max(x, 1, true);
    context.save_for_backward({y.indices});
    context.data = x.sizes();
    return {y.indices, y.values};
  }
  static std::vector<Tensor> backward(autograd::FunctionContext& context,
                                      const std::vector<Tensor>& g) {
    const Tensor places = context.saved_tensors()[0];
    EXPECT_FALSE(places.requires_grad());
    EXPECT_EQ(g[0].dtype(), DType::kInt64);
    EXPECT_EQ(g[0].to_vector(), (std::vector<double>{0, 0}));
    const Tensor zero = zeros(std::any_cast<Dims>(context.data), {g[1].dtype()});
    return {scatter_add(zero, 1, places, g[1])};
  }
};

TEST(Function, IntegerOutputsHaveNoGradient) {
  const Tensor x = tensor({1.0, 3.0, 2.0, 6.0, 5.0, 4.0}, {.dtype = DType::kFloat64})
                       .view({2, 3})
                       .requires_grad_();
  const auto y = Largest::apply(x);
  EXPECT_EQ(y[0].to_vector(), (std::vector<double>{1, 0}));
  EXPECT_FALSE(y[0].requires_grad());
  EXPECT_TRUE(y[0].is_leaf());
  EXPECT_TRUE(y[1].requires_grad());
  EXPECT_EQ(y[1].output_nr(), 1u);
  (y[1] * tensor({2.0, 3.0}).view({2, 1})).sum().backward();
  EXPECT_EQ(x.grad().to_vector(), (std::vector<double>{0, 2, 0, 3, 0, 0}));
  autograd::gradcheck([](const std::vector<Tensor>& in) { return Largest::apply(in[0])[1]; }, {x});
}

struct WithRemainder : autograd::Function<WithRemainder> {
  static std::vector<Tensor> forward(autograd::FunctionContext& context, const Tensor& x) {
    const Tensor whole = x.to(DType::kInt64).to(x.dtype()), rest = x - whole;
    context.mark_non_differentiable({whole, x});
    return {whole, rest, x};
  }
  static std::vector<Tensor> backward(autograd::FunctionContext&, const std::vector<Tensor>& g) {
    return {g[1] * 7};
  }
};

TEST(Function, MarkedOutputsHaveNoGradient) {
  const Tensor x = tensor({1.5, 2.25}, {.requires_grad = true});
  const auto y = WithRemainder::apply(x);
  EXPECT_FALSE(y[0].requires_grad());
  EXPECT_TRUE(y[1].requires_grad());
  EXPECT_FALSE(y[2].requires_grad()) << "an argument comes back detached";
  EXPECT_TRUE(x.requires_grad());
  EXPECT_EQ(y[2].data_ptr(), x.data_ptr());
  (y[1] + y[0] * x).sum().backward();
  EXPECT_EQ(x.grad().to_vector(), (std::vector<double>{7 + 1, 7 + 2}));
}

struct Halves : autograd::Function<Halves> {
  static std::vector<Tensor> forward(autograd::FunctionContext& context, const Tensor& x,
                                     bool materialize) {
    if (!materialize) context.set_materialize_grads(false);
    context.data = materialize;
    return {x.narrow(0, 0, 1) * 2, x.narrow(0, 1, 2) * 3};
  }
  static std::vector<Tensor> backward(autograd::FunctionContext& context,
                                      const std::vector<Tensor>& g) {
    if (std::any_cast<bool>(context.data)) {
      EXPECT_EQ(g[0].sizes(), (Dims{1}));
      EXPECT_EQ(g[1].sizes(), (Dims{2}));
      EXPECT_EQ(g[0].dtype(), DType::kFloat64);
      EXPECT_EQ(g[0].to_vector(), std::vector<double>{0});
    } else {
      EXPECT_FALSE(g[0].defined());
    }
    const Tensor first = g[0].defined() ? g[0] * 2 : zeros({1}, {DType::kFloat64});
    return {cat({first, g[1] * 3})};
  }
};

TEST(Function, MissingGradientsAreZerosUnlessToldOtherwise) {
  for (const bool materialize : {true, false}) {
    const Tensor x = leaf({3});
    Halves::apply(x, materialize)[1].sum().backward();
    EXPECT_EQ(x.grad().to_vector(), (std::vector<double>{0, 3, 3}));
  }
}

// -- arguments written in place

struct ScaleInPlace : autograd::Function<ScaleInPlace> {
  static Tensor forward(autograd::FunctionContext& context, const Tensor& x, const Tensor& factor) {
    context.save_for_backward({x.clone(), factor});
    x.mul_(factor);
    context.mark_dirty({x});
    return x;
  }
  static std::vector<Tensor> backward(autograd::FunctionContext& context,
                                      const std::vector<Tensor>& g) {
    const auto saved = context.saved_tensors();
    return {g[0] * saved[1], (g[0] * saved[0]).sum()};
  }
};

TEST(Function, ADirtyArgumentGetsTheHistory) {
  const Tensor x = tensor({1.0, 2.0}, {.requires_grad = true});
  const Tensor factor = tensor(3.0, {.requires_grad = true});
  const Tensor h = x * 5, before = exp(h);
  const auto version = h.version();
  const Tensor y = ScaleInPlace::apply(h, factor);
  EXPECT_TRUE(y.is_same(h)) << "as PyTorch, which returns the argument";
  EXPECT_GT(h.version(), version);
  EXPECT_EQ(h.grad_fn()->name(), "ScaleInPlaceBackward");
  EXPECT_EQ(h.to_vector(), (std::vector<double>{15, 30}));
  h.sum().backward({}, true);
  EXPECT_EQ(x.grad().to_vector(), (std::vector<double>{15, 15}));
  EXPECT_EQ(factor.grad().item(), 15);
  EXPECT_NO_THROW(before.sum().backward()) << "exp saves its result only";
  const Tensor other = x * 5, squared = other * other;
  ScaleInPlace::apply(other, factor);
  EXPECT_NE(error_of([&] {
              squared.sum().backward();
            }).find("is output 0 of ScaleInPlaceBackward, is at version"),
            std::string::npos);
}

TEST(Function, ADirtyViewPassesItsHistoryToItsBase) {
  const Tensor x = tensor({1.0, 2.0, 4.0}, {.requires_grad = true});
  const Tensor factor = tensor(3.0, {.requires_grad = true});
  const Tensor base = x * 5;
  ScaleInPlace::apply(base.narrow(0, 1, 2), factor);
  EXPECT_EQ(base.to_vector(), (std::vector<double>{5, 30, 60}));
  EXPECT_EQ(base.grad_fn()->name(), "CopySlices");
  base.sum().backward();
  EXPECT_EQ(x.grad().to_vector(), (std::vector<double>{5, 15, 15}));
  EXPECT_EQ(factor.grad().item(), 30);
}

struct Forgetful : autograd::Function<Forgetful> {
  static Tensor forward(autograd::FunctionContext& context, const Tensor& x) {
    context.mark_dirty({x});
    return x * 2;
  }
  static std::vector<Tensor> backward(autograd::FunctionContext&, const std::vector<Tensor>& g) {
    return g;
  }
};
struct DirtyAndMore : autograd::Function<DirtyAndMore> {
  static std::vector<Tensor> forward(autograd::FunctionContext& context, const Tensor& x) {
    x.mul_(2);
    context.mark_dirty({x});
    return {x, x + 1};
  }
  static std::vector<Tensor> backward(autograd::FunctionContext&, const std::vector<Tensor>& g) {
    return {(g[0] + g[1]) * 2};
  }
};

TEST(Function, SaysWhatCannotBeDirty) {
  const Tensor leaf = tensor({1.0, 2.0}, {.requires_grad = true});
  const Tensor factor = tensor(3.0), x = leaf * 1;
  EXPECT_ERROR(ScaleInPlace::apply(leaf, factor),
               "a leaf Variable that requires grad has been used in an in-place operation.");
  EXPECT_ERROR(ScaleInPlace::apply(leaf.narrow(0, 0, 1), factor),
               "a view of a leaf Variable that requires grad is being used in an in-place "
               "operation.");
  EXPECT_ERROR(Forgetful::apply(x),
               "Some elements marked as dirty during the forward method were not returned as "
               "output. The inputs that are modified inplace must all be outputs of the Function.");
  EXPECT_NE(error_of([&] {
              DirtyAndMore::apply(x.narrow(0, 0, 1));
            }).find("your Function cannot return more than one Tensor"),
            std::string::npos);
  const Tensor whole = leaf * 1;
  const auto y = DirtyAndMore::apply(whole);
  EXPECT_TRUE(y[0].is_same(whole));
  (y[0] + y[1] * 10).sum().backward();
  EXPECT_EQ(leaf.grad().to_vector(), (std::vector<double>{22, 22}));
  // Nothing to record: the write alone.
  const Tensor constant = tensor({1.0, 2.0});
  EXPECT_TRUE(ScaleInPlace::apply(constant, factor).is_same(constant));
  EXPECT_EQ(constant.to_vector(), (std::vector<double>{3, 6}));
  EXPECT_FALSE(constant.requires_grad());
}

}  // namespace
}  // namespace lockstep
