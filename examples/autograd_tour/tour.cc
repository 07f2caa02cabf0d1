#include "tour.h"

#include <cmath>

namespace tour {

using lockstep::Tensor;

void notebook(const std::string& title) {
  std::printf("%s\n%s\n", title.c_str(), std::string(title.size(), '=').c_str());
}

void section(const std::string& title) { std::printf("\n-- %s\n", title.c_str()); }

void cell(const std::string& number) { std::printf("\nIn [%s]:\n", number.c_str()); }

void note(const std::string& text) { std::printf("# %s\n", text.c_str()); }

std::string text(const Tensor& value) { return value.defined() ? value.str() : "None"; }
std::string text(const std::string& value) { return value; }
std::string text(const char* value) { return value; }
std::string text(int value) { return std::to_string(value); }
std::string text(bool value) { return value ? "True" : "False"; }
std::string text(double value) {
  return lockstep::format_value(lockstep::tensor(value, {.dtype = lockstep::DType::kFloat64}));
}

std::string fixed(double value, int digits) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "%.*f", digits, value);
  return buffer;
}

std::string grad_fn(const Tensor& tensor) {
  const auto node = tensor.grad_fn();
  return node ? std::string(node->name()) : "None";
}

bool close(const Tensor& a, const Tensor& b) {
  if (!(a.sizes() == b.sizes())) return false;
  const auto x = a.to_vector(), y = b.to_vector();
  for (size_t i = 0; i < x.size(); ++i) {
    if (!(std::fabs(x[i] - y[i]) <= 1e-5 * std::max(1.0, std::fabs(y[i])))) return false;
  }
  return true;
}

std::string kind(const Tensor& tensor) {
  const std::string sizes = tensor.sizes().str();
  if (tensor.grad_fn()) return sizes + ", grad_fn=<" + grad_fn(tensor) + ">";
  return sizes + (tensor.requires_grad() ? ", requires_grad=True" : "");
}

}  // namespace tour
