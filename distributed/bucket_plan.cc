#include "lockstep/distributed/bucket_plan.h"

#include <algorithm>
#include <map>
#include <utility>

namespace lockstep::distributed {

std::vector<PlannedBucket> plan_buckets(const NamedTensors& parameters,
                                        const std::vector<size_t>& order,
                                        const std::vector<bool>& frozen, BucketSizes sizes) {
  struct Open {
    std::vector<size_t> numbers;
    size_t bytes = 0;
    size_t left = 0;  // in this bucket and later ones of its kind
  };
  const auto bytes_of = [&](size_t number) {
    const Tensor& p = parameters[number].second;
    return static_cast<size_t>(p.numel()) * size_of(p.dtype());
  };
  std::map<std::pair<DType, bool>, Open> all_open;
  const auto open_for = [&](size_t number) -> Open& {
    return all_open[{parameters[number].second.dtype(), frozen[number]}];
  };
  for (const size_t number : order) open_for(number).left += bytes_of(number);

  std::vector<PlannedBucket> buckets;
  bool first = true;
  const auto close = [&](Open& open, bool idle) {
    buckets.push_back({std::move(open.numbers), idle});
    open = {{}, 0, open.left - open.bytes};
    if (!idle) first = false;
  };
  for (const size_t number : order) {
    const bool idle = frozen[number];
    Open& open = open_for(number);
    open.numbers.push_back(number);
    open.bytes += bytes_of(number);
    const size_t later = std::min(sizes.rest, std::max(sizes.first, open.left / 2));
    if (open.bytes >= (first && !idle ? sizes.first : later)) close(open, idle);
  }
  for (auto& [kind, open] : all_open) {
    if (!open.numbers.empty()) close(open, kind.second);
  }
  return buckets;
}

}  // namespace lockstep::distributed
