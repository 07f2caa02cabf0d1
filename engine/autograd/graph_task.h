#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "lockstep/engine/autograd/node.h"

// Internal: the state of one backward.
namespace lockstep::autograd {

class GraphTask {
 public:
  struct Slot {
    Node* node = nullptr;               // kept alive by the graph
    int32_t dependencies = 0;           // contributions still to come
    int32_t contributions = 0;          // in all
    bool needed = true;                 // leads to what was asked for
    InlineVector<Tensor, 1> gradients;  // per output of the node, added up so far
  };

  // The running backward of this thread, innermost first; null outside.
  static GraphTask*& current();

  Slot& slot(uint32_t index) { return slots_[index]; }
  uint32_t size() const { return static_cast<uint32_t>(slots_.size()); }

  static constexpr uint32_t kNone = ~uint32_t{0};
  uint32_t find(const Node* node) const;
  uint32_t find_or_add(Node* node, bool* added);
  void clear();

 private:
  void grow();
  static size_t hash(const Node* node) {
    return static_cast<size_t>((reinterpret_cast<uintptr_t>(node) >> 4) * 0x9E3779B97F4A7C15ull >>
                               20);
  }

  std::vector<Slot> slots_;
  std::vector<uint32_t> table_;  // open addressing into slots_; a power of two
};

}  // namespace lockstep::autograd
