// Printed tensors and type promotion against PyTorch's (tests/golden/make_tensor_golden.py).
#include "lockstep/engine/tensor/print.h"

#include <sstream>

#include <gtest/gtest.h>

#include "lockstep/engine/ops/ops.h"

#include "golden/golden.h"

namespace lockstep::testing {
namespace {

using Json = nlohmann::json;

TEST(Print, IsPyTorchs) {
  const golden::File golden("tensor_golden.safetensors");
  const Json& items = golden.cases().at("print");
  ASSERT_GT(items.size(), 40u);
  for (const Json& item : items) {
    const Tensor t = golden.tensor(item.at("tensor")).requires_grad_(item.at("requires_grad"));
    EXPECT_EQ(t.str(), item["text"].get<std::string>());
    EXPECT_EQ(format_value(item["requires_grad"] ? t.detach() : t),
              item["value"].get<std::string>());
  }
}

TEST(Print, ShowsTheGraph) {
  const Tensor x = tensor({1.0, 2.0}, {.requires_grad = true});
  EXPECT_EQ((x * 2).str(), "tensor([2., 4.], grad_fn=<MulBackward0>)");
  EXPECT_EQ((1 - x).str(), "tensor([ 0., -1.], grad_fn=<RsubBackward1>)");
  EXPECT_EQ(x.sum().str(), "tensor(3., grad_fn=<SumBackward0>)");
  EXPECT_EQ(x.to(DType::kFloat64).str(),
            "tensor([1., 2.], dtype=torch.float64, grad_fn=<ToCopyBackward0>)");
  EXPECT_EQ(Tensor().str(), "None");
  std::ostringstream out;
  out << x.detach();
  EXPECT_EQ(out.str(), "tensor([1., 2.])");
}

TEST(Print, ViewsShowTheirOwnElements) {
  const Tensor x = arange(6).view({2, 3});
  EXPECT_EQ(x.t().str(), "tensor([[0, 3],\n        [1, 4],\n        [2, 5]])");
  EXPECT_EQ(x.select(1, 1).str(), "tensor([1, 4])");
}

TEST(Promotion, IsPyTorchs) {
  const Json rows = golden::File("tensor_golden.safetensors").cases().at("promote");
  ASSERT_GT(rows.size(), 300u);
  struct Kind {
    Tensor tensor;
    Scalar scalar = 0;
  };
  const auto kind = [](const std::string& name) -> Kind {
    if (name == "number_int") return {{}, 2};
    if (name == "number_float") return {{}, 2.5};
    if (name == "number_bool") return {{}, true};
    const bool zero_dim = name.back() == '0';
    const DType dtype = dtype_from_name(zero_dim ? name.substr(0, name.size() - 1) : name);
    return {ones(zero_dim ? Dims{} : Dims{2}, {dtype})};
  };
  for (const Json& row : rows) {
    const Kind a = kind(row[0]), b = kind(row[1]);
    const Operand left = a.tensor.defined() ? Operand(a.tensor) : Operand(a.scalar);
    const Operand right = b.tensor.defined() ? Operand(b.tensor) : Operand(b.scalar);
    const std::string expected = row[2];
    EXPECT_EQ(name_of(add(left, right).dtype()), expected) << row[0] << " + " << row[1];
    EXPECT_EQ(name_of(mul(left, right).dtype()), expected) << row[0] << " * " << row[1];
    // Division leaves the integers.
    const DType wanted = dtype_from_name(expected);
    EXPECT_EQ(div(left, right).dtype(), is_floating(wanted) ? wanted : DType::kFloat32);
    EXPECT_EQ(lt(left, right).dtype(), DType::kBool);
    if (a.tensor.defined() && b.tensor.defined() && a.tensor.dim() == b.tensor.dim()) {
      EXPECT_EQ(promote(a.tensor.dtype(), b.tensor.dtype()), wanted);
    }
  }
}

}  // namespace
}  // namespace lockstep::testing
