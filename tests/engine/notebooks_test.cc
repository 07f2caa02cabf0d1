// The numbers of the five introductory notebooks that the autograd engine is modelled on.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/autograd/node.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/print.h"

#include "engine/throws.h"

namespace lockstep::testing {
namespace {

Tensor wanted(double value) { return tensor(value, {.requires_grad = true}); }

TEST(Notebook, VectorInputsAndRetainGrad) {
  const Tensor x = tensor({2.0, 5.0}, {.requires_grad = true});
  const Tensor y = tensor({3.0, 7.0}, {.requires_grad = true});
  const Tensor z = x * y + pow(y, 2);
  z.retain_grad();
  EXPECT_ERROR(z.backward(), "grad can be implicitly created only for scalar outputs");
  z.sum().backward();
  EXPECT_EQ(x.grad().str(), "tensor([3., 7.])");
  EXPECT_EQ(y.grad().str(), "tensor([ 8., 19.])");
  EXPECT_EQ(z.grad().str(), "tensor([1., 1.])");
  EXPECT_EQ(z.detach().str(), "tensor([15., 84.])");

  const Tensor a = tensor({2.0}, {.requires_grad = true});
  const Tensor b = a * 3;
  const Tensor c = pow(b, 2);
  b.retain_grad();
  c.backward();
  EXPECT_EQ(a.grad().str(), "tensor([36.])");
  EXPECT_EQ(b.grad().str(), "tensor([12.])");
}

TEST(Notebook, PowersAndMatmul) {
  const Tensor a = tensor({5.0}, {.requires_grad = true});
  const Tensor b = tensor({6.0}, {.requires_grad = true});
  EXPECT_EQ(a.str(), "tensor([5.], requires_grad=True)");
  const Tensor y = pow(a, 3) - pow(b, 2);
  EXPECT_EQ(y.str(), "tensor([89.], grad_fn=<SubBackward0>)");
  EXPECT_EQ(a.grad().str(), "None");
  y.backward();
  EXPECT_EQ(a.grad().str(), "tensor([75.])");
  EXPECT_EQ(b.grad().str(), "tensor([-12.])");

  // Random there: the relation W.grad == -x^T is what can be checked.
  const Tensor w = randn({10, 1}, {.requires_grad = true});
  const Tensor bias = randn({1}, {.requires_grad = true});
  const Tensor x = rand({1, 10});
  const Tensor loss = 1 - (matmul(x, w) + bias);
  EXPECT_EQ(loss.grad_fn()->name(), "RsubBackward1");
  loss.backward();
  EXPECT_EQ(w.grad().to_vector(), (-x).to_vector());
  EXPECT_EQ(bias.grad().str(), "tensor([-1.])");
  const auto before = w.to_vector();
  {
    const autograd::NoGrad no_grad;
    const Tensor updated = w - 0.001 * w.grad().data_tensor();
    EXPECT_FALSE(updated.requires_grad());
    EXPECT_NEAR(updated.to_vector()[3], before[3] + 0.001 * x.to_vector()[3], 1e-6);
  }
}

TEST(Notebook, ChainOfScalars) {
  EXPECT_EQ((tensor(2.0) * tensor(3.0)).str(), "tensor(6.)");
  const Tensor a = wanted(2), b = wanted(3), d = wanted(4);
  const Tensor c = a * b;
  EXPECT_EQ(c.str(), "tensor(6., grad_fn=<MulBackward0>)");
  (c * d).backward();
  EXPECT_EQ(d.grad().item(), 6);
  EXPECT_EQ(b.grad().item(), 8);
  EXPECT_EQ(a.grad().item(), 12);
}

TEST(Notebook, ScalarGraph) {
  const Tensor x = tensor(5.0), w = wanted(3);
  const Tensor z = x * pow(w, 2);
  EXPECT_EQ(z.str(), "tensor(45., grad_fn=<MulBackward0>)");
  z.backward();
  EXPECT_EQ(format_value(x.grad()), "None");
  EXPECT_EQ(format_value(w.grad()), "30.0");
  EXPECT_EQ((2 * x * w).str(), "tensor(30., grad_fn=<MulBackward0>)");

  const Tensor u = wanted(2);
  (u * (u * u)).backward();
  EXPECT_EQ(format_value(u.grad()), "12.0");
  const Tensor v = wanted(2);
  (3 * v + pow(v, 2) + v).backward();
  EXPECT_EQ(v.grad().str(), "tensor(8.)");
  EXPECT_EQ((3 + 2 * v + 1).str(), "tensor(8., grad_fn=<AddBackward0>)");
}

TEST(Notebook, MaxAndInPlace) {
  const Tensor x = tensor({1.0, 2.0, 3.0}, {.requires_grad = true});
  EXPECT_THROW(x[1].copy_(x[2] + 1), Error);
  pow(x, 2).sum().backward();
  EXPECT_EQ(x.grad().str(), "tensor([2., 4., 6.])");
  const Tensor m = tensor({1.0, 2.0, 4.0, 3.0, 0.5}, {.requires_grad = true});
  const Tensor largest = max(m);
  EXPECT_EQ(largest.str(), "tensor(4., grad_fn=<MaxBackward1>)");
  largest.backward();
  EXPECT_EQ(m.grad().str(), "tensor([0., 0., 1., 0., 0.])");
}

TEST(Notebook, SineOfASquare) {
  const Tensor x = wanted(4);
  const Tensor y = pow(x, 2), z = sin(y);
  EXPECT_EQ(y.str(), "tensor(16., grad_fn=<PowBackward0>)");
  EXPECT_EQ(z.str(), "tensor(-0.2879, grad_fn=<SinBackward0>)");
  z.backward();
  EXPECT_EQ(x.grad().str(), "tensor(-7.6613)");
}

Tensor cross_entropy_by_hand(const Tensor& p, const Tensor& target) {
  const Tensor clamped = clamp(p, 1e-8, 1 - 1e-8);
  return -(target * log(clamped) + (1 - target) * log(1 - clamped));
}

TEST(Notebook, BinaryCrossEntropy) {
  const Tensor x = tensor(6.7), y = tensor(0.0);
  {
    const Tensor p = sigmoid(tensor(1.0) * x + tensor(0.0));
    EXPECT_EQ(cross_entropy_by_hand(p, y).str(), "tensor(6.7012)");
    const Tensor by_p = (p - y) / (p * (1 - p)), by_z = p * (1 - p);
    EXPECT_EQ(format_value(by_p * by_z * x), "6.691762447357178");
    EXPECT_EQ(format_value(by_p * by_z * 1), "0.998770534992218");
  }
  const Tensor w = wanted(1), b = wanted(0);
  cross_entropy_by_hand(sigmoid(w * x + b), y).backward();
  EXPECT_EQ(w.grad().str(), "tensor(6.6918)");
  EXPECT_EQ(b.grad().str(), "tensor(0.9988)");
}

TEST(Notebook, MeanAndDoubling) {
  const Tensor x = ones({2, 2}, {.requires_grad = true});
  const Tensor y = x + 2;
  EXPECT_EQ(y.str(), "tensor([[3., 3.],\n        [3., 3.]], grad_fn=<AddBackward0>)");
  const Tensor z = y * y * 3, out = z.mean();
  EXPECT_EQ(z.str(), "tensor([[27., 27.],\n        [27., 27.]], grad_fn=<MulBackward0>)");
  EXPECT_EQ(out.str(), "tensor(27., grad_fn=<MeanBackward0>)");
  out.backward();
  EXPECT_EQ(x.grad().str(), "tensor([[4.5000, 4.5000],\n        [4.5000, 4.5000]])");

  const Tensor v = tensor({2.1093, -1.0813, 0.8121}, {.requires_grad = true});
  Tensor doubled = v * 2;
  while (doubled.data_tensor().norm().item() < 1000) doubled = doubled * 2;
  doubled.retain_grad();
  doubled.backward(tensor({0.1, 1.0, 0.0001}));
  EXPECT_EQ(v.grad().str(), "tensor([5.1200e+01, 5.1200e+02, 5.1200e-02])");
  EXPECT_EQ(doubled.grad().str(), "tensor([1.0000e-01, 1.0000e+00, 1.0000e-04])");
}

TEST(Notebook, LinearRegression) {
  const Tensor x = tensor({1.0, 2.0, 3.0, 4.0}), target = tensor({2.0, 4.0, 6.0, 8.0});
  const Tensor w = wanted(0), b = wanted(0);
  std::string log;
  for (int epoch = 0; epoch < 100; ++epoch) {
    const Tensor loss = pow(w * x + b - target, 2).mean();
    loss.backward();
    {
      const autograd::NoGrad no_grad;
      w.sub_(0.01 * w.grad());
      b.sub_(0.01 * b.grad());
      w.grad().zero_();
      b.grad().zero_();
    }
    if (epoch % 10 == 0) {
      log += fmt::format("Epoch {}: w = {:.3f}, loss = {:.3f}\n", epoch, w.item(), loss.item());
    }
  }
  log += fmt::format("Final prediction: y = {:.3f} * x + {:.3f}\n", w.item(), b.item());
  EXPECT_EQ(log,
            "Epoch 0: w = 0.300, loss = 30.000\n"
            "Epoch 10: w = 1.559, loss = 0.833\n"
            "Epoch 20: w = 1.767, loss = 0.075\n"
            "Epoch 30: w = 1.805, loss = 0.052\n"
            "Epoch 40: w = 1.816, loss = 0.049\n"
            "Epoch 50: w = 1.822, loss = 0.046\n"
            "Epoch 60: w = 1.827, loss = 0.043\n"
            "Epoch 70: w = 1.832, loss = 0.041\n"
            "Epoch 80: w = 1.837, loss = 0.038\n"
            "Epoch 90: w = 1.842, loss = 0.036\n"
            "Final prediction: y = 1.846 * x + 0.452\n");
}

}  // namespace
}  // namespace lockstep::testing
