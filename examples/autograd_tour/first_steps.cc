// Notebook 001: "PyTorch Autograd": partial derivatives, a regression, the attributes of a tensor.
#include "tour.h"

using namespace lockstep;

namespace tour {
namespace {

void attributes(const std::string& name, const Tensor& t) {
  print(f(name, ": data = ", t.data_tensor(), ", grad = ", t.grad(), ", grad_fn = ", grad_fn(t),
          ", is_leaf = ", t.is_leaf(), ", requires_grad = ", t.requires_grad()));
}

void partial_derivatives(const Tour& tour) {
  cell("2");
  const auto a = tensor({5.0}, tour.grad());
  const auto b = tensor({6.0}, tour.grad());
  cell("3");
  print(a);
  cell("4");
  print(b);
  cell("5");
  const auto y = pow(a, 3) - pow(b, 2);
  cell("6");
  print(y);
  cell("7");
  print(a.grad());
  cell("8");
  print(b.grad());
  cell("9");
  y.backward();
  cell("10");
  print(a.grad());
  cell("11");
  print(b.grad());
}

// The notebook's weights and features are random: what holds for any of them is shown instead.
void regression(const Tour& tour) {
  section("EXAMPLE");
  note("Random numbers from here on: for them, what holds whatever they are.");
  cell("13");
  auto W = randn({10, 1}, tour.sized(true));
  const auto b = randn({1}, tour.sized(true));
  cell("14");
  print("W:", kind(W));
  cell("15");
  print("b:", kind(b));
  cell("16");
  const auto x = rand({1, 10}, tour.sized());
  cell("17");
  print("x:", kind(x));
  cell("18");
  const auto output = matmul(x, W) + b;
  cell("19");
  print("output:", kind(output));
  print("output == sum(x.T * W) + b:",
        close(output.detach(), (x.t() * W.detach()).sum({0, 1}, /*keepdim=*/true) + b.detach()));
  cell("20");
  const auto loss = 1 - output;
  cell("21");
  print("loss:", kind(loss));
  print("loss + output == 1:", close((loss + output).detach(), ones({1, 1}, tour.sized())));
  cell("22");
  loss.backward();
  cell("23");
  print("W.grad:", kind(W.grad()));
  print("W.grad == -x.T:", equal(W.grad(), -x.t()));
  cell("24");
  print(b.grad());
  cell("25");
  const auto before = W;
  {
    const autograd::NoGrad no_grad;
    W = W - 0.001 * W.grad().data_tensor();
  }
  cell("26");
  print("W:", kind(W));
  print("W == (W before) + 0.001 * x.T:", close(W, (before + 0.001 * x.t()).detach()));
}

void more_on_autograd(const Tour& tour) {
  section("More on Autograd");
  note("The notebook's pictures show the attributes; here they are in words.");
  cell("27");
  auto a = tensor(2.0, tour.plain());
  auto b = tensor(3.0, tour.plain());
  cell("28");
  print(a);
  cell("29");
  print(b);
  attributes("a", a);
  attributes("b", b);
  cell("30");
  auto c = a * b;
  cell("31");
  print(c);
  attributes("c", c);
  cell("32");
  a = tensor(2.0, tour.grad());
  cell("33");
  print(a);
  attributes("a", a);
  cell("34");
  c = a * b;
  cell("35");
  print(c);
  attributes("c", c);
  cell("36");
  c.backward();
  cell("37");
  print(a.grad());
  attributes("a", a);
  cell("38");
  a = tensor(2.0, tour.grad());
  b = tensor(3.0, tour.grad());
  cell("39");
  c = a * b;
  cell("40");
  const auto d = tensor(4.0, tour.grad());
  cell("41");
  const auto e = c * d;
  cell("42");
  e.backward();
  cell("43");
  print(d.grad());
  cell("44");
  print(b.grad());
  cell("45");
  print(a.grad());
  attributes("c", c);
  attributes("e", e);
}

}  // namespace

void first_steps(const Tour& tour) {
  notebook("001: PyTorch Autograd");
  partial_derivatives(tour);
  regression(tour);
  more_on_autograd(tour);
}

}  // namespace tour
