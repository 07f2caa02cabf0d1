// Notebook 003: five examples, from a derivative by hand to a linear regression.
#include <cmath>

#include "tour.h"

using namespace lockstep;

namespace tour {
namespace {

Tensor binary_cross_entropy_loss(Tensor prediction, const Tensor& target) {
  const double epsilon = 1e-8;  // to prevent log(0)
  prediction = clamp(prediction, epsilon, 1 - epsilon);
  return -(target * log(prediction) + (1 - target) * log(1 - prediction));
}

void squares_and_sines(const Tour& tour) {
  section("Example: 1");
  cell("1");
  const auto dy_dx = [](int x) { return 2 * x; };
  print(dy_dx(2));
  cell("2");
  {
    const auto x = tensor(3.0, tour.grad());
    const auto y = pow(x, 2);
    print("x -> ", x);
    print("y -> ", y);
    y.backward();
    print("x.grad -> ", x.grad());
  }

  section("Example: 2");
  cell("3");
  const auto dz_dx = [](double x) { return 2 * x * std::cos(x * x); };
  print(dz_dx(4));
  cell("4");
  const auto x = tensor(4.0, tour.grad());
  const auto y = pow(x, 2);
  const auto z = sin(y);
  print("x:", x);
  print("y:", y);
  print("z:", z);
  z.backward();
  print("x.grad:", x.grad());
  cell("5");
  note(
      "y is no leaf, so its gradient was not kept. The notebook shows a line of Python's warning.");
  print(y.grad());
}

void manual_gradient(const Tour& tour) {
  section("Example: 3, manual gradient");
  cell("6");
  const auto x = tensor(6.7, tour.plain());
  const auto y = tensor(0.0, tour.plain());
  const auto w = tensor(1.0, tour.plain());
  const auto b = tensor(0.0, tour.plain());

  const auto z = w * x + b;
  const auto y_pred = sigmoid(z);
  const auto loss = binary_cross_entropy_loss(y_pred, y);
  print(loss);

  const auto dloss_dy_pred = (y_pred - y) / (y_pred * (1 - y_pred));
  const auto dy_pred_dz = y_pred * (1 - y_pred);
  const auto& dz_dw = x;
  const auto dz_db = 1;
  const auto dloss_dw = dloss_dy_pred * dy_pred_dz * dz_dw;
  const auto dloss_db = dloss_dy_pred * dy_pred_dz * dz_db;
  print(f("Manual Gradient of loss w.r.t weight (dw): ", dloss_dw));
  print(f("Manual Gradient of loss w.r.t bias (db): ", dloss_db));
}

void with_autograd(const Tour& tour) {
  section("Example: 3, using autograd");
  cell("7");
  const auto x = tensor(6.7, tour.plain());
  const auto y = tensor(0.0, tour.plain());
  const auto w = tensor(1.0, tour.grad());
  const auto b = tensor(0.0, tour.grad());
  print("Initial weight:", w);
  print("Initial bias:", b);
  const auto z = w * x + b;
  print("Linear output (z):", z);
  const auto y_pred = sigmoid(z);
  print("Predicted probability:", y_pred);
  const auto loss = binary_cross_entropy_loss(y_pred, y);
  print("Loss:", loss);
  loss.backward();
  print("Gradient of w:", w.grad());
  print("Gradient of b:", b.grad());
}

void vectors_and_clearing(const Tour& tour) {
  section("Now using vector inputs insted of scalar");
  cell("8");
  {
    const auto x = tensor({1.0, 2.0, 3.0}, tour.grad());
    print(x);
    const auto y = pow(x, 2).mean();
    print(y);
    y.backward();
    print(x.grad());
  }

  section("Clearing gradient");
  cell("9");
  const auto x = tensor(2.0, tour.grad());
  print(x);
  cell("10");
  auto y = pow(x, 2);
  print(y);
  cell("11");
  y.backward();
  cell("12");
  print(x.grad());
  note("Cells 10, 11 and 12 run three times more:");
  for (int run = 0; run < 3; ++run) {
    y = pow(x, 2);
    y.backward();
    print(x.grad());
  }
  cell("13");
  print(x.grad().zero_());
}

void disabling(const Tour& tour) {
  section("Example 4: Disabling Gradient Tracking");
  cell("14");
  auto x = tensor(2.0, tour.grad());
  print(x);
  cell("15");
  auto y = pow(x, 2);
  print(y);
  cell("16");
  y.backward();
  cell("17");
  print(x.grad());

  section("Option 1 - requires_grad_(False)");
  cell("18");
  print(x.requires_grad_(false));
  cell("19");
  print(x);
  cell("20");
  y = pow(x, 2);
  cell("21");
  print(y);
  cell("22");
  print_error([&] { y.backward(); });

  section("Option 2 - detach()");
  cell("23");
  x = tensor(2.0, tour.grad());
  print(x);
  cell("24");
  const auto z = x.detach();
  print(z);
  cell("25");
  y = pow(x, 2);
  print(y);
  cell("26");
  const auto y1 = pow(z, 2);
  print(y1);
  cell("27");
  y.backward();
  cell("28");
  print_error([&] { y1.backward(); });

  section("Option 3 - torch.no_grad()");
  cell("29");
  x = tensor(2.0, tour.grad());
  print(x);
  cell("30");
  {
    const autograd::NoGrad no_grad;
    y = pow(x, 2);
  }
  cell("31");
  print(y);
  cell("32");
  print_error([&] { y.backward(); });
}

void linear_regression(const Tour& tour) {
  section("Example 5: Linear Regression");
  cell("33");
  const auto x = tensor({1.0, 2.0, 3.0, 4.0}, tour.plain());
  const auto y_true = tensor({2.0, 4.0, 6.0, 8.0}, tour.plain());
  const auto w = tensor(0.0, tour.grad());
  const auto b = tensor(0.0, tour.grad());
  const auto forward = [&](const Tensor& inputs) { return w * inputs + b; };
  const auto loss = [](const Tensor& predicted, const Tensor& wanted) {
    return pow(predicted - wanted, 2).mean();
  };
  const double learning_rate = 0.01;
  const int epochs = 100;
  for (int epoch = 0; epoch < epochs; ++epoch) {
    const auto y_pred = forward(x);
    const auto l = loss(y_pred, y_true);
    l.backward();
    {
      const autograd::NoGrad no_grad;
      w.sub_(learning_rate * w.grad());
      b.sub_(learning_rate * b.grad());
      w.grad().zero_();
      b.grad().zero_();
    }
    if (epoch % 10 == 0) {
      print(f("Epoch ", epoch, ": w = ", fixed(w.item(), 3), ", loss = ", fixed(l.item(), 3)));
    }
  }
  print(f("Final prediction: y = ", fixed(w.item(), 3), " * x + ", fixed(b.item(), 3)));
}

}  // namespace

void examples_to_training(const Tour& tour) {
  notebook("003: Autograd");
  squares_and_sines(tour);
  manual_gradient(tour);
  with_autograd(tour);
  vectors_and_clearing(tour);
  disabling(tour);
  linear_regression(tour);
}

}  // namespace tour
