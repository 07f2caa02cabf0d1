#include "lockstep/launch/weights_hash.h"

#include <algorithm>
#include <bit>
#include <string_view>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/sync_debug.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::launch {
namespace {

static_assert(std::endian::native == std::endian::little,
              "values are hashed as they lie in memory");

bool tied(const Tensor& a, const Tensor& b) {
  return a.is_same(b) || (a.data_ptr() == b.data_ptr() && a.numel() > 0 && a.sizes() == b.sizes() &&
                          a.strides() == b.strides() && a.dtype() == b.dtype());
}

void update(Sha256& hash, uint64_t value) { hash.update(std::as_bytes(std::span(&value, 1))); }

}  // namespace

Sha256Digest weights_hash(const NamedTensors& tensors) {
  const autograd::NoGrad no_grad;
  constexpr std::string_view kZero("\0", 1);
  Sha256 hash;
  for (auto at = tensors.begin(); at != tensors.end(); ++at) {
    const auto& [name, tensor] = *at;
    check(tensor.defined(), "[weights_hash] {} is undefined", name);
    const bool seen = std::any_of(
        tensors.begin(), at, [&](const auto& earlier) { return tied(earlier.second, at->second); });
    if (seen) continue;
    hash.update(name);
    hash.update(kZero);
    hash.update(name_of(tensor.dtype()));
    hash.update(kZero);
    update(hash, static_cast<uint64_t>(tensor.dim()));
    for (const int64_t size : tensor.sizes()) update(hash, static_cast<uint64_t>(size));
    const SyncAllowed allowed;
    const Tensor dense = tensor.detach().to(Device{}).contiguous();
    hash.update(std::span(static_cast<const std::byte*>(dense.data_ptr()),
                          static_cast<size_t>(dense.numel()) * size_of(dense.dtype())));
  }
  return hash.finish();
}

}  // namespace lockstep::launch
