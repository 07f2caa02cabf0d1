#include "lockstep/engine/autograd/saved_tensor_hooks.h"

namespace lockstep::autograd {
namespace {

std::shared_ptr<SavedTensorHooks::Pair>& slot() {
  thread_local std::shared_ptr<SavedTensorHooks::Pair> pair;
  return pair;
}

}  // namespace

SavedTensorHooks::SavedTensorHooks(Pack pack, Unpack unpack)
    : previous_(std::exchange(slot(),
                              std::make_shared<Pair>(Pair{std::move(pack), std::move(unpack)}))) {}

SavedTensorHooks::~SavedTensorHooks() { slot() = std::move(previous_); }

const std::shared_ptr<SavedTensorHooks::Pair>& SavedTensorHooks::current() { return slot(); }

}  // namespace lockstep::autograd
