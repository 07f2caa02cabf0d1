#include "lockstep/engine/autograd/graph_task.h"

namespace lockstep::autograd {

GraphTask*& GraphTask::current() {
  thread_local GraphTask* task = nullptr;
  return task;
}

uint32_t GraphTask::find(const Node* node) const {
  if (table_.empty()) return kNone;
  const size_t mask = table_.size() - 1;
  for (size_t i = hash(node) & mask;; i = (i + 1) & mask) {
    if (table_[i] == kNone) return kNone;
    if (slots_[table_[i]].node == node) return table_[i];
  }
}

uint32_t GraphTask::find_or_add(Node* node, bool* added) {
  if (2 * (slots_.size() + 1) > table_.size()) grow();
  const size_t mask = table_.size() - 1;
  size_t i = hash(node) & mask;
  while (table_[i] != kNone) {
    if (slots_[table_[i]].node == node) {
      *added = false;
      return table_[i];
    }
    i = (i + 1) & mask;
  }
  *added = true;
  table_[i] = static_cast<uint32_t>(slots_.size());
  slots_.emplace_back();
  slots_.back().node = node;
  return table_[i];
}

void GraphTask::clear() {
  constexpr size_t kKeep = 4096;  // entries worth keeping for the next backward
  slots_.clear();
  if (table_.size() > kKeep) {
    table_.clear();
    table_.shrink_to_fit();
    slots_.shrink_to_fit();
  } else {
    std::fill(table_.begin(), table_.end(), kNone);
  }
}

void GraphTask::grow() {
  table_.assign(std::max<size_t>(64, 2 * table_.size()), kNone);
  const size_t mask = table_.size() - 1;
  for (uint32_t s = 0; s < slots_.size(); ++s) {
    size_t i = hash(slots_[s].node) & mask;
    while (table_[i] != kNone) i = (i + 1) & mask;
    table_[i] = s;
  }
}

}  // namespace lockstep::autograd
