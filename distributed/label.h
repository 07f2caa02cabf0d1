#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace lockstep::distributed {

// What a collective carries, in words, for the messages that must name it: "step 12, bucket 3:
// conv1.weight ... fc.bias". Of a fixed size, so that it can lie in shared memory and be kept
// without an allocation.
struct Label {
  uint64_t hash = 0;    // of what must be the same on all ranks; 0: nothing is said
  int64_t step = -1;    // -1: none. Told, not compared
  int32_t bucket = -1;  // -1: none
  char contents[92]{};  // text, cut to fit

  Label() = default;
  explicit Label(std::string_view contents);
  // The parameters whose gradients travel in a bucket. All the names go into the hash, and `tag`,
  // which tells this bucket from others of the same index and names.
  Label(int bucket, std::span<const std::string> names, uint64_t tag);

  std::string str() const;  // empty if there is nothing to say
};

}  // namespace lockstep::distributed
