#pragma once

#include <any>
#include <functional>

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::autograd {

// While it lives, what this thread's ops save for backward goes through `pack`, and what backward
// needs comes out of `unpack`: to keep activations elsewhere or to compute them again. `pack` gets
// a tensor outside the graph; `unpack` must give back its values.
class SavedTensorHooks {
 public:
  using Pack = std::function<std::any(const Tensor&)>;
  using Unpack = std::function<Tensor(const std::any&)>;
  SavedTensorHooks(Pack pack, Unpack unpack);
  ~SavedTensorHooks();
  SavedTensorHooks(const SavedTensorHooks&) = delete;
  SavedTensorHooks& operator=(const SavedTensorHooks&) = delete;

  struct Pair {
    Pack pack;
    Unpack unpack;
  };
  static const std::shared_ptr<Pair>& current();  // null when there are none

 private:
  std::shared_ptr<Pair> previous_;
};

}  // namespace lockstep::autograd
