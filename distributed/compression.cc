#include "lockstep/distributed/compression.h"

#include <algorithm>
#include <string>

#include "lockstep/distributed/bucket.h"
#include "lockstep/distributed/finite_check.h"
#include "lockstep/distributed/half_kernels.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/cpu/thread_pool.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::distributed {
namespace {

constexpr int64_t kTile = int64_t{1} << 16;

template <typename From, typename To>
void convert_tiles(void (*convert)(const From*, To*, int64_t), const Tensor& from,
                   const Tensor& to) {
  const auto* const source = static_cast<const From*>(from.data_ptr());
  auto* const target = static_cast<To*>(to.data_ptr());
  const int64_t n = from.numel();
  cpu::parallel_for((n + kTile - 1) / kTile, [=](int64_t tile) {
    const int64_t begin = tile * kTile;
    convert(source + begin, target + begin, std::min(kTile, n - begin));
  });
}

// Between flat tensors of equal length on one device, one of 16 bits.
void convert(const Tensor& from, const Tensor& to) {
  const auto& kernels = cpu::half_kernels();
  const bool narrowing = size_of(to.dtype()) == 2;
  if ((narrowing ? from : to).dtype() != DType::kFloat32 || !to.device().is_cpu()) {
    const autograd::NoGrad no_grad;
    to.copy_(from);
  } else if (narrowing) {
    convert_tiles(to.dtype() == DType::kBFloat16 ? kernels.to_bfloat16 : kernels.to_float16, from,
                  to);
  } else {
    convert_tiles(from.dtype() == DType::kBFloat16 ? kernels.from_bfloat16 : kernels.from_float16,
                  from, to);
  }
}

// Sixteen bits in place of the gradients' own.
class CastReduction final : public BucketReduction {
 public:
  explicit CastReduction(DType dtype) : dtype_(dtype) {}

  bool needs_host_memory() const override { return false; }

  void attach(ProcessGroup& group, const Bucket& bucket) override {
    const Tensor gradients = bucket.gradients();
    const auto bytes = static_cast<size_t>(gradients.numel()) * size_of(dtype_);
    const auto memory = group.allocate(bytes, gradients.device());
    travelling_ =
        from_memory(memory->data(), gradients.sizes(), dtype_, memory, gradients.device());
    // bfloat16 has the range of float32.
    may_overflow_ = dtype_ == DType::kFloat16 || gradients.dtype() == DType::kFloat64;
  }

  void launch(ProcessGroup& group, const Bucket& bucket) override {
    convert(bucket.gradients(), travelling_);
    const Buffer halves{travelling_.data_ptr(), travelling_.numel(), dtype_, travelling_.device()};
    issue(group.all_reduce(halves));
    issue(group.all_reduce(bucket.trailer_buffer()));
    sent_bytes_ = halves.bytes() + bucket.trailer_buffer().bytes();
  }

  void finish(const Bucket& bucket) override {
    wait();
    const Tensor gradients = bucket.gradients();
    convert(travelling_, gradients);
    trouble_.clear();
    if (may_overflow_) look_for_overflow(bucket, gradients);
  }

  std::string trouble() const override { return trouble_; }
  size_t sent_bytes() const override { return sent_bytes_; }

 private:
  void look_for_overflow(const Bucket& bucket, const Tensor& gradients) {
    const int64_t at = first_non_finite(gradients);
    if (at < 0) return;
    const auto& entries = bucket.entries();
    const auto next = std::find_if(entries.begin(), entries.end(),
                                   [at](const Bucket::Entry& e) { return e.offset > at; });
    const Bucket::Entry& entry = *std::prev(next);
    const char* const instead =
        dtype_ == DType::kFloat16 ? "compress to bfloat16, scale the loss down, or do not compress"
                                  : "scale the loss down, or do not compress";
    trouble_ = fmt::format(
        "the gradient of parameter {} ({}) does not fit into {}, which it is compressed to: "
        "element {} has overflowed; {}",
        entry.name, bucket.label().str(), name_of(dtype_), at - entry.offset, instead);
  }

  const DType dtype_;
  bool may_overflow_ = true;
  Tensor travelling_;  // in the group's memory
  std::string trouble_;
  size_t sent_bytes_ = 0;
};

}  // namespace

MakeReduction fp16_compression() {
  return [] { return std::make_unique<CastReduction>(DType::kFloat16); };
}

MakeReduction bf16_compression() {
  return [] { return std::make_unique<CastReduction>(DType::kBFloat16); };
}

}  // namespace lockstep::distributed
