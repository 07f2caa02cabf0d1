#include "lockstep/distributed/finite_check.h"

#include <algorithm>
#include <cmath>

#include "lockstep/distributed/agreement.h"
#include "lockstep/distributed/finite_kernels.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/gradient_kernels.h"
#include "lockstep/engine/index_checks.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/sync_debug.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::distributed {
namespace {

constexpr size_t kNamed = 3;                     // parameters per rank
constexpr std::string_view kIndex = "an index";  // in a parameter's place: why there are NaN

template <typename T>
int64_t find(const Tensor& tensor) {
  const T* data = tensor.data<T>();
  const T* end = data + tensor.numel();
  const T* at = std::find_if(data, end, [](T value) { return !std::isfinite(value); });
  return at == end ? -1 : at - data;
}

bool all_finite(const Tensor& tensor) {
  const cpu::FiniteKernels& kernels = cpu::finite_kernels();
  if (tensor.dtype() == DType::kFloat64) {
    return kernels.all_finite64(reinterpret_cast<const uint64_t*>(tensor.data<double>()),
                                tensor.numel());
  }
  return kernels.all_finite32(reinterpret_cast<const uint32_t*>(tensor.data<float>()),
                              tensor.numel());
}

// One for each, of one device, which looks at all in one pass: not 0 if something is there.
Tensor ask_device(std::span<const Tensor> tensors) {
  const autograd::NoGrad no_grad;
  const Device device = tensors.front().device();
  const Tensor flags = empty({std::ssize(tensors)}, {DType::kFloat32, device});
  gradient_kernels_of(device)->flag_non_finite(flags, tensors);
  return flags;
}

double element(const Tensor& tensor, int64_t at) {
  return tensor.dtype() == DType::kFloat64 ? tensor.data<double>()[at]
                                           : double{tensor.data<float>()[at]};
}

}  // namespace

int64_t first_non_finite(const Tensor& tensor) {
  check(tensor.dtype() == DType::kFloat32 || tensor.dtype() == DType::kFloat64,
        "[finite_check] float32 and float64 are supported, got {}", name_of(tensor.dtype()));
  check(tensor.is_contiguous(), "[finite_check] the tensor must be contiguous, got strides {}",
        tensor.strides().str());
  if (!tensor.device().is_cpu()) {
    const SyncAllowed allowed;
    return ask_device({&tensor, 1}).item() == 0.0 ? -1 : first_non_finite(tensor.to(Device{}));
  }
  if (tensor.numel() == 0 || all_finite(tensor)) return -1;
  return tensor.dtype() == DType::kFloat64 ? find<double>(tensor) : find<float>(tensor);
}

void FiniteCheck::begin() {
  findings_.clear();
  asked_.clear();
  answers_.clear();
  names_.clear();
  gradients_.clear();
}

void FiniteCheck::look(const std::string& parameter, const Tensor& gradient) {
  if (!enabled_) return;
  if (!gradient.device().is_cpu()) {
    names_.push_back(parameter);
    gradients_.push_back(gradient.detach().contiguous());
    return;
  }
  const Tensor dense = gradient.contiguous();
  const int64_t at = first_non_finite(dense);
  if (at < 0) return;
  const double value = element(dense, at);
  add(parameter, fmt::format("{} at element {}",
                             std::isnan(value) ? "nan"
                             : value > 0       ? "inf"
                                               : "-inf",
                             at));
}

void FiniteCheck::add(const std::string& parameter, const std::string& what) {
  const bool known = std::any_of(findings_.begin(), findings_.end(), [&](const std::string& one) {
    return one.starts_with(parameter + "\t");
  });
  if (!known) findings_.push_back(parameter + "\t" + what);
}

void FiniteCheck::ask() {
  if (gradients_.empty()) return;
  answers_.push_back(ask_device(gradients_));
  asked_.insert(asked_.end(), names_.begin(), names_.end());
  names_.clear();
  gradients_.clear();
}

Tensor FiniteCheck::answer() {
  ask();
  const autograd::NoGrad no_grad;
  return answers_.empty() ? Tensor() : sum(cat(answers_, 0)).view({1});
}

// Waits for the device.
void FiniteCheck::name_answers() {
  if (answers_.empty()) return;
  const SyncAllowed allowed;
  const autograd::NoGrad no_grad;
  const std::string device = answers_.front().device().str();
  const std::vector<double> values = cat(answers_, 0).to_vector();
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] != 0.0) add(asked_[i], "nan or inf on " + device);
  }
  asked_.clear();
  answers_.clear();
}

void FiniteCheck::fail(ProcessGroup& group, const std::string& step) {
  // Taken first: naming the answers waits for the device, which would throw it on this rank alone.
  const Tensor asked = answers_.empty() ? Tensor() : answers_.front();
  const std::string why =
      asked.defined() ? index_checks_of(asked.device())->wrong_index() : std::string();
  name_answers();
  std::string mine = why.empty() ? "" : fmt::format("{}\t{}\n", kIndex, why);
  for (size_t i = 0; i < std::min(findings_.size(), kNamed); ++i) mine += findings_[i] + "\n";
  if (findings_.size() > kNamed) mine += fmt::format("\t{}\n", findings_.size() - kNamed);
  const auto texts = exchange_texts(group, mine);
  std::string message;
  for (size_t r = 0; r < texts.size(); ++r) {
    for (size_t begin = 0; begin < texts[r].size();) {
      const size_t tab = texts[r].find('\t', begin);
      const size_t end = texts[r].find('\n', begin);
      if (tab == std::string::npos || end == std::string::npos) break;  // cut
      const std::string what = texts[r].substr(tab + 1, end - tab - 1);
      message += message.empty() ? "" : ", ";
      if (texts[r].substr(begin, tab - begin) == kIndex) {
        message += fmt::format("{} on rank {}", what, r);
      } else if (tab == begin) {
        message += fmt::format("{} more on rank {}", what, r);
      } else {
        message += fmt::format("gradient of {} is not finite on rank {} ({})",
                               texts[r].substr(begin, tab - begin), r, what);
      }
      begin = end + 1;
    }
  }
  lockstep::fail<DistributedError>(
      "[data_parallel] {} in {}. All gradients of the step are discarded", message, step);
}

}  // namespace lockstep::distributed
