#include "lockstep/engine/index_checks.h"

#include "lockstep/engine/backend.h"
#include "lockstep/engine/ops/host_values.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep {

IndexChecks::~IndexChecks() = default;

IndexChecks* index_checks_of(Device device) {
  return device.is_cpu() ? nullptr : dynamic_cast<IndexChecks*>(&backend_of(device));
}

Tensor check_indices(const IndexRule& rule, const Tensor& index, const Tensor& poisoned) {
  const Tensor host = known_host_values(index);
  if (index.numel() == 0) return empty(index.sizes(), {index.dtype()});
  if (!host.defined()) {
    index_checks_of(index.device())->check_indices(rule, index, poisoned);
    return host;
  }
  const int64_t* const values = host.data<int64_t>();
  for (int64_t i = 0; i < host.numel(); ++i) {
    check<IndexError>(rule.admits(values[i]), fmt::runtime(rule.text), values[i], rule.dim,
                      rule.size);
  }
  return host;
}

}  // namespace lockstep
