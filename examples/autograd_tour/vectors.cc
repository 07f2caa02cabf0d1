// Notebook 000: gradients of vectors, gradients of intermediate results, the picture of a graph.
#include <cerrno>
#include <cstring>
#include <fstream>

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tour.h"

using namespace lockstep;

namespace tour {
namespace {

// dot -Tsvg -o<svg> <dot>; what went wrong, or nothing.
std::string render(const std::filesystem::path& dot, const std::filesystem::path& svg) {
  std::string program = "dot", format = "-Tsvg", out = "-o" + svg.string(), in = dot.string();
  char* arguments[] = {program.data(), format.data(), out.data(), in.data(), nullptr};
  pid_t process = 0;
  const int code = posix_spawnp(&process, "dot", nullptr, nullptr, arguments, environ);
  if (code != 0) return std::strerror(code);
  int status = 0;
  while (waitpid(process, &status, 0) < 0) {
    if (errno != EINTR) return std::strerror(errno);
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? "" : "it failed";
}

void draw(const std::string& dot, const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  const auto source = folder / "grad_comp_graph.dot", svg = folder / "grad_comp_graph.svg";
  std::ofstream file(source);
  file << dot;
  file.close();
  if (!file) throw DataError("[tour] " + source.string() + " cannot be written");
  const std::string problem = render(source, svg);
  note(problem.empty() ? "drawn to " + svg.string()
                       : "not drawn: dot (Graphviz): " + problem + "; see " + source.string());
}

}  // namespace

void vectors(const Tour& tour) {
  notebook("000: Autograd");

  cell(" ");
  {
    const auto x = tensor({2.0, 5.0}, tour.grad());
    const auto y = tensor({3.0, 7.0}, tour.grad());

    const auto z = x * y + pow(y, 2);
    z.retain_grad();
    z.sum().backward();

    print(f("Gradient of x: ", x.grad()));
    print(f("Gradient of y: ", y.grad()));
    print(f("Gradient of z: ", z.grad()));
    print(f("Result of the operation: z = ", z.detach()));
    print();
    note("The notebook shows the error of an earlier version, which did not sum first:");
    const auto unsummed = x * y + pow(y, 2);
    print_error([&] { unsummed.backward(); });
  }

  section("retain_grad");
  cell(" ");
  const auto x = tensor({2.0}, tour.grad());
  const auto y = x * 3;
  const auto z = pow(y, 2);
  y.retain_grad();
  z.backward();
  print(x.grad());
  print(y.grad());

  section("make_dot");
  cell(" ");
  const std::string dot = autograd::picture(z, {{"x", x}, {"y", y}, {"z", z}});
  std::printf("%s", dot.c_str());
  if (!tour.pictures.empty()) draw(dot, tour.pictures);
}

}  // namespace tour
