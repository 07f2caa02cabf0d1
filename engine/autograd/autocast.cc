#include "lockstep/engine/autograd/autocast.h"

#include <unordered_map>

#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/autograd/node.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/capture.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep::autograd {
namespace {

// A weight's conversion, and what must be unchanged for it to be used again.
struct Conversion {
  Tensor weight, converted;
  uint32_t version = 0;
  const void* data = nullptr;
  bool recorded = false;  // gradients find their way through it
  uint64_t epoch = 0;     // of captures and replays
};

thread_local bool enabled = false;
thread_local DType low = DType::kFloat32;
thread_local int depth = 0;  // of scopes, those that turn it off included

std::unordered_map<const TensorImpl*, Conversion>& conversions() {
  thread_local std::unordered_map<const TensorImpl*, Conversion> kept;
  return kept;
}

// The conversion of a leaf. A kept one may serve several graphs, of micro-batches say: it saves
// nothing that a backward could free. And it comes before everything but leaves, so that a gradient
// reaches its leaf as soon as it is known, whichever graph the conversion was made for.
struct WeightConversionBackward final : Node {
  WeightConversionBackward() : Node(kLeafSequence - 1) {}
  std::string_view name() const override { return "ToCopyBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor destination = gradient_destination(edges()[0]);
    if (!destination.defined()) {
      results[0] = gradients[0].to(DType::kFloat32);
      return;
    }
    backend_of(destination).copy(destination, gradients[0]);
    results[0] = destination;
  }
};

bool can_convert(const Tensor& x) {
  return x.defined() && is_floating(x.dtype()) && x.dtype() != DType::kFloat64;
}

bool is_weight(const Tensor& x) {
  return x.dtype() == DType::kFloat32 && x.is_leaf() && x.requires_grad() && !x.impl()->base;
}

Tensor convert_weight(DType dtype, const Tensor& x) {
  Tensor y;
  {
    const NoGrad no_grad;
    y = x.to(dtype);
  }
  if (!grad_enabled()) return y;
  auto node = make_ptr<WeightConversionBackward>();
  node->add_edge(gradient_edge(x));
  set_history(y, node);
  return y;
}

}  // namespace

bool autocast_enabled() { return enabled; }
DType autocast_dtype() { return low; }

Autocast::Autocast(DType dtype, bool on) : enabled_before_(enabled), dtype_before_(low) {
  const bool half = dtype == DType::kBFloat16 || dtype == DType::kFloat16;
  check(half || dtype == DType::kFloat32,
        "[autocast] the dtype is {}; bfloat16 and float16 are supported, and float32 turns it off",
        name_of(dtype));
  enabled = on && half;
  low = dtype;
  ++depth;
}

Autocast::~Autocast() {
  enabled = enabled_before_;
  low = dtype_before_;
  if (--depth == 0 && !conversions().empty()) conversions().clear();
}

Tensor in_autocast_dtype(const Tensor& x) { return enabled ? autocast_to(low, x) : x; }

Tensor autocast_to(DType dtype, const Tensor& x) {
  if (!can_convert(x) || x.dtype() == dtype) return x;
  if (dtype == DType::kFloat32 || depth == 0 || !is_weight(x)) return x.to(dtype);
  Conversion& kept = conversions()[x.impl()];
  const bool current = kept.converted.defined() && kept.converted.dtype() == dtype &&
                       kept.version == x.version() && kept.data == x.data_ptr() &&
                       kept.epoch == capture_epoch() && (kept.recorded || !grad_enabled());
  if (!current) {
    kept = {
        x, convert_weight(dtype, x), x.version(), x.data_ptr(), grad_enabled(), capture_epoch()};
  }
  return kept.converted;
}

}  // namespace lockstep::autograd
