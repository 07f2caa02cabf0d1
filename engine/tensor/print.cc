#include "lockstep/engine/tensor/print.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/autograd/node.h"
#include "lockstep/engine/sync_debug.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep {
namespace {

constexpr int kPrecision = 4;
constexpr int64_t kThreshold = 1000;  // more elements are summarised
constexpr int64_t kEdgeItems = 3;
constexpr int64_t kLineWidth = 80;

// How the elements of one tensor are written, found by their row-major position. What is decided
// for all of them together is decided over those that are shown, and for floats over the non-zero
// finite ones among these: infinities and zeros do not widen a column.
class Elements {
 public:
  Elements(const Tensor& t, const std::vector<int64_t>& shown) : dtype_(t.dtype()) {
    if (is_floating(dtype_)) {
      floats_ = t.to_vector();
      decide(shown);
    } else {
      const autograd::NoGrad no_grad;
      const Tensor host = t.detach().to(DType::kInt64).to(Device{}).contiguous();
      integers_.assign(host.data<int64_t>(), host.data<int64_t>() + host.numel());
    }
    for (int64_t i : shown) {
      if (!is_floating(dtype_) || counts(i)) width_ = std::max(width_, write(i).size());
    }
  }

  std::string operator()(int64_t i) const { return fmt::format("{:>{}}", write(i), width_); }
  size_t width() const { return width_; }

 private:
  bool counts(int64_t i) const {
    const double v = floats_[static_cast<size_t>(i)];
    return std::isfinite(v) && v != 0;
  }

  void decide(const std::vector<int64_t>& shown) {
    double smallest = std::numeric_limits<double>::infinity(), largest = 0;
    integral_ = true;
    for (int64_t i : shown) {
      if (!counts(i)) continue;
      const double v = floats_[static_cast<size_t>(i)];
      smallest = std::min(smallest, std::fabs(v));
      largest = std::max(largest, std::fabs(v));
      integral_ = integral_ && v == std::ceil(v);
    }
    if (largest == 0) return;
    scientific_ = largest / smallest > 1000 || largest > 1e8 || (!integral_ && smallest < 1e-4);
  }

  std::string write(int64_t i) const {
    const auto at = static_cast<size_t>(i);
    if (dtype_ == DType::kBool) return integers_[at] != 0 ? "True" : "False";
    if (!is_floating(dtype_)) return fmt::format("{}", integers_[at]);
    const double v = floats_[at];
    if (std::isnan(v)) return "nan";
    if (std::isinf(v)) return v > 0 ? "inf" : "-inf";
    if (scientific_) return fmt::format("{:.{}e}", v, kPrecision);
    return integral_ ? fmt::format("{:.0f}.", v) : fmt::format("{:.{}f}", v, kPrecision);
  }

  DType dtype_;
  std::vector<double> floats_;
  std::vector<int64_t> integers_;  // exact, where a double would not be
  bool integral_ = false;
  bool scientific_ = false;
  size_t width_ = 0;
};

bool summarised(const Tensor& t) { return t.numel() > kThreshold; }

// The positions of the elements that will be shown, in order.
void collect(const Tensor& t, int dim, int64_t position, std::vector<int64_t>& shown) {
  if (dim == t.dim()) {
    shown.push_back(position);
    return;
  }
  const int64_t stride = contiguous_strides(t.sizes())[dim];
  const int64_t n = t.sizes()[dim];
  for (int64_t i = 0; i < n; ++i) {
    if (summarised(t) && n > 2 * kEdgeItems && i == kEdgeItems) i = n - kEdgeItems;
    collect(t, dim + 1, position + i * stride, shown);
  }
}

std::string body(const Tensor& t, const Elements& elements, int dim, int64_t position,
                 int64_t indent) {
  if (t.dim() == 0) return elements(0);
  const int64_t n = t.sizes()[dim];
  const int64_t stride = contiguous_strides(t.sizes())[dim];
  const bool cut = summarised(t) && n > 2 * kEdgeItems;
  std::string out = "[";
  if (dim == t.dim() - 1) {
    const int64_t per_line =
        std::max<int64_t>(1, (kLineWidth - indent) / (static_cast<int64_t>(elements.width()) + 2));
    int64_t written = 0;
    const auto separate = [&] {
      if (written == 0) return;
      out += written % per_line == 0 ? ",\n" + std::string(static_cast<size_t>(indent) + 1, ' ')
                                     : ", ";
    };
    for (int64_t i = 0; i < n; ++i) {
      separate();
      if (cut && i == kEdgeItems) {
        out += " ...";
        i = n - kEdgeItems;
        ++written;
        separate();
      }
      out += elements(position + i * stride);
      ++written;
    }
  } else {
    const std::string separator = "," + std::string(static_cast<size_t>(t.dim() - dim - 1), '\n') +
                                  std::string(static_cast<size_t>(indent) + 1, ' ');
    for (int64_t i = 0; i < n; ++i) {
      if (i > 0) out += separator;
      if (cut && i == kEdgeItems) {
        out += "..." + separator;
        i = n - kEdgeItems;
      }
      out += body(t, elements, dim + 1, position + i * stride, indent + 1);
    }
  }
  return out + "]";
}

}  // namespace

std::string format_tensor(const Tensor& t) {
  if (!t.defined()) return "None";
  const SyncAllowed allowed;
  std::string out = "tensor(";
  std::vector<std::string> suffixes;
  if (!t.device().is_cpu()) suffixes.push_back(fmt::format("device='{}'", t.device().str()));
  if (t.numel() == 0) {
    out += "[]";
    if (t.dim() != 1) {
      std::string sizes = t.sizes().str();
      sizes.front() = '(';
      sizes.back() = ')';
      suffixes.push_back("size=" + sizes);
    }
  } else {
    std::vector<int64_t> shown;
    collect(t, 0, 0, shown);
    out += body(t, Elements(t, shown), 0, 0, 7);
  }
  const bool implied =
      t.dtype() == DType::kFloat32 || t.dtype() == DType::kBool || t.dtype() == DType::kInt64;
  if (!implied || (t.numel() == 0 && t.dtype() != DType::kFloat32)) {
    suffixes.push_back(fmt::format("dtype=torch.{}", name_of(t.dtype())));
  }
  if (const auto node = t.grad_fn()) {
    suffixes.push_back(fmt::format("grad_fn=<{}>", node->name()));
  } else if (t.requires_grad()) {
    suffixes.emplace_back("requires_grad=True");
  }
  for (const auto& suffix : suffixes) out += ", " + suffix;
  return out + ")";
}

std::string format_value(const Tensor& t) {
  if (!t.defined() || t.dim() != 0) return format_tensor(t);
  const SyncAllowed allowed;
  const Scalar v = t.item_scalar();
  if (t.dtype() == DType::kBool) return v.to<bool>() ? "True" : "False";
  if (!v.is_floating()) return fmt::format("{}", v.to<int64_t>());
  std::string text = fmt::format("{}", v.to<double>());  // the shortest that reads back
  if (text.find_first_of(".ein") == std::string::npos) text += ".0";
  return text;
}

}  // namespace lockstep
