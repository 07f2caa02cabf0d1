// Notebook 002: "torch.autograd: Computing derivatives".
#include "tour.h"

using namespace lockstep;

namespace tour {
namespace {

void scalar_graph(const Tour& tour) {
  cell("2");
  const auto x = tensor(5.0, tour.plain());
  cell("3");
  const auto w = tensor(3.0, tour.grad());
  cell("4");
  const auto z = x * pow(w, 2);
  print(z);
  cell("5");
  z.backward();
  print(f("x.grad = ", x.grad()));
  cell("7");
  print(f("w.grad = ", w.grad()));
  cell("8");
  print(w.grad());
  cell("9");
  print(2 * x * w);
}

void or_not(const Tour& tour) {
  section("Computing derivatives ... or not");
  cell("10");
  {
    const auto x = tensor(2.0, tour.grad());
    const auto y = x * x;
    print(f("y.requires_grad = ", y.requires_grad()));
    const auto z = x * y;
    z.backward();
    print(f("dz/dx = ", x.grad()));
  }
  cell("11");
  {
    const auto x = tensor(2.0, tour.grad());
    auto y = x * x;
    y = y.detach();
    print(f("y.requires_grad = ", y.requires_grad()));
    const auto z = x * y;
    z.backward();
    print(f("dz/dx = ", x.grad()));
  }
  cell("12");
  {
    const auto x = tensor(2.0, tour.grad());
    Tensor y;
    {
      const autograd::NoGrad no_grad;
      y = x * x;
    }
    print(f("y.requires_grad = ", y.requires_grad()));
    const auto z = x * y;
    z.backward();
    print(f("dz/dx = ", x.grad()));
  }
}

void not_trees(const Tour& tour) {
  section("Computation graphs are not trees");
  {
    cell("33");
    const auto x = tensor(2.0, tour.grad());
    const auto y = 3 * x;
    const auto z = pow(x, 2);
    const auto w = y + z + x;
    w.backward();
    print(x.grad());
    cell("34");
    print(3 + 2 * x + 1);
  }
  const auto triples_and_quadruples = [&](const Tensor& x) {
    const auto y = pow(x, 2);
    return std::pair(3 * y, 4 * y);
  };
  cell("35");
  const auto x = tensor(3.0, tour.grad());
  const auto [z1, z2] = triples_and_quadruples(x);
  cell("36");
  z1.backward();
  print(x.grad());
  cell("37");
  print_error([&, &graph = z2] { graph.backward(); });
  note("The notebook shows \"RuntimeError: ignored\". With cell 36's retain_graph=True:");
  {
    const auto again = tensor(3.0, tour.grad());
    const auto [first, second] = triples_and_quadruples(again);
    first.backward({}, /*retain_graph=*/true);
    print(again.grad());
    second.backward();
    print(again.grad());
  }
}

void accumulating(const Tour& tour) {
  section("Accumulating effect");
  const auto twice = [&](bool zero_between) {
    const auto x = tensor(3.0, tour.grad());
    auto y = pow(x, 2);
    auto z = 3 * y;
    print(x.grad());
    z.backward();
    print(x.grad());
    if (zero_between) x.grad().zero_();
    y = pow(x, 2);
    z = 3 * y;
    z.backward();
    print(x.grad());
  };
  cell("29");
  twice(false);
  note("With the line x.grad.zero_(), which the notebook has as a comment:");
  twice(true);

  section("Derivatives of scalars with respect to tensors");
  cell("20");
  const auto x = tensor({1.0, 2.0, 3.0}, tour.grad());
  const auto y = pow(x, 2).sum();
  y.backward();
  print(x.grad());
}

void in_place(const Tour& tour) {
  section("Don't do in-place modifications to tensors");
  cell("21");
  const auto x = tensor({1.0, 2.0, 3.0}, tour.grad());
  print(x);
  cell("22");
  print_error([&] { x[1].copy_(x[2] + 1); });  // x[1] = x[2] + 1
  note("The notebook shows \"RuntimeError: ignored\". But it's fine to do x = 4 * x:");
  print(4 * x);
  cell("30");
  const auto y = pow(x, 2).sum();
  y.backward();

  section("Results can be slightly different from what you expect...");
  cell("31");
  const auto values = tensor({1.0, 2.0, 4.0, 3.0, 0.5}, tour.grad());
  const auto largest = max(values);
  print(largest);
  cell("32");
  largest.backward();
  print(values.grad());
}

}  // namespace

void computing_derivatives(const Tour& tour) {
  notebook("002: torch.autograd: Computing derivatives");
  scalar_graph(tour);
  or_not(tour);
  not_trees(tour);
  accumulating(tour);
  in_place(tour);
}

}  // namespace tour
