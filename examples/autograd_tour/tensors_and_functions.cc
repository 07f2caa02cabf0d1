// Notebook 004: "Autograd: automatic differentiation": tensors and the functions that made them.
#include "tour.h"

using namespace lockstep;

namespace tour {
namespace {

// As Python shows an object, without the address, which is another one in every run.
std::string object(const Tensor& t) { return "<" + grad_fn(t) + " object at 0x...>"; }

void tensors(const Tour& tour, const Tensor& x) {
  section("1. Tensor");
  cell("18");
  print(x);
  cell("19");
  const auto y = x + 2;
  print(y);
  cell("20");
  print(object(y));
  print(f("The type of y.grad_fn is <class '", grad_fn(y),
          "'>, a subclass of torch.autograd.Function"));
  cell("21");
  const auto z = y * y * 3;
  const auto out = z.mean();
  print(z);
  print(f("The operation that created z is ", object(z)));
  print(out);

  section("Assignments");
  cell("22");
  const auto my_tensor = rand({5, 5}, tour.sized(true));
  const auto my_tensor_sum = my_tensor.sum();
  print(f("The computation that created my_tensor_sum is ", object(my_tensor_sum),
          ", a subclass of torch.autograd.Function"));
  my_tensor_sum.backward();
  print(my_tensor.grad());

  section("2. Gradients");
  cell("23");
  out.backward();
  cell("24");
  print(x.grad());
}

void crazy_things(const Tour& tour) {
  section("You can do many crazy things with autograd!");
  cell("77");
  const auto x = randn({3}, tour.sized(true));
  auto y = x * 2;
  double doubled = 2;
  while (y.data_tensor().norm().item() < 1000) {
    y = y * 2;
    doubled *= 2;
  }
  note("Random numbers: for them, what holds whatever they are.");
  print("y:", kind(y));
  print("y == x * (the doublings):", equal(y.detach(), x.detach() * doubled));
  const double norm = y.data_tensor().norm().item();
  print("1000 <= y.norm() < 2000:", norm >= 1000 && norm < 2000);
  cell("78");
  const auto gradients = tensor({0.1, 1.0, 0.0001}, tour.plain());
  y.retain_grad();
  y.backward(gradients);
  print("Gradient dy/dx == gradients * (the doublings):", equal(x.grad(), gradients * doubled));
  print(f("Gradient dy/dy at y is ", y.grad()));
}

void last_assignment(const Tour& tour) {
  section("Assignments");
  cell(" ");
  const auto my_tensor = rand({2, 3}, tour.sized(true));
  print("my_tensor:", kind(my_tensor));
  const auto x = mul(my_tensor, 2);
  print("x:", kind(x));
  print("x == 2 * my_tensor:", equal(x.detach(), my_tensor.detach() + my_tensor.detach()));
  const auto my_sum = x.sum();

  const auto gradients = [&] {
    print(f("Gradient of my_sum w.r.t. my_tensor: ", my_tensor.grad()));
    print(f("Gradient of my_sum w.r.t. x: ", x.grad()));
    print(f("Gradient of my_sum w.r.t. itself: ", my_sum.grad()));
  };
  print("\n\nBefore backward pass (no gradients computed):\n");
  gradients();
  print("\n\nAfter backward pass (gradients computed):\n");
  my_sum.backward();
  x.retain_grad();
  my_tensor.retain_grad();
  gradients();
  note("The notebook's output is older than its code: it says \"Before backward pass:\" and");
  note("\"After backward pass:\", and ends in lines of Python's warnings about non-leaves.");
}

}  // namespace

void tensors_and_functions(const Tour& tour) {
  notebook("004: Autograd: automatic differentiation");
  tensors(tour, ones({2, 2}, tour.sized(true)));
  crazy_things(tour);
  last_assignment(tour);
}

}  // namespace tour
