#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lockstep/distributed/process_group.h"
#include "lockstep/engine/tensor/error.h"

namespace lockstep::distributed {

// The backward of another rank has failed; what it died of is told where the step is given up.
class PeerFailedError : public DistributedError {
 public:
  using DistributedError::DistributedError;
};

// The ranks meet in different layers. Every rank gets the same text.
class DifferentLayersError : public DistributedError {
 public:
  using DistributedError::DistributedError;
};

// What layers of a model exchange between the ranks inside of forward and backward.
//
// Backward also sends buckets, in the order in which they become complete, which may differ from
// rank to rank in relation to the layers (a parameter is unused on one of them); so the layers of a
// model have a duplicate of the group to themselves, where the order is that of the model.
//
// A rank whose backward throws does not come to its remaining layers, where the others would wait
// for it while it waits for their buckets. Therefore each exchange begins with a small one about
// where the rank is: in which layer, at the end of its backward, or failed. After a failure, and if
// the ranks are not in the same place, every rank throws, and the next step works.
class LayerExchange {
 public:
  // The one of `group`. Collective when it is made, by the first layer that asks.
  static std::shared_ptr<LayerExchange> of(const std::shared_ptr<ProcessGroup>& group);
  static LayerExchange* find(const ProcessGroup& group);  // null if no layer has asked

  explicit LayerExchange(std::shared_ptr<ProcessGroup> group) : group_(std::move(group)) {}

  // A new layer's number, the same on every rank if all make the same layers in the same order.
  size_t add_layer(std::string name);
  const std::string& name(size_t layer) const { return names_[layer]; }
  void set_name(size_t layer, std::string name) { names_[layer] = std::move(name); }

  enum class Pass : uint8_t { kForward, kBackward };
  // Collective: all ranks' numbers, equally many, rank by rank.
  std::vector<double> gather(size_t layer, Pass pass, std::vector<double> mine);

  // DataParallel's: at the end of every backward, or when it has thrown `failure`. Tells the peers,
  // unless the failure is one that they know of.
  void end_backward();
  void fail_backward(const std::exception_ptr& failure) noexcept;

 private:
  enum class Place : uint8_t { kForward, kBackward, kEnd, kFailed };
  void meet(Place place, size_t layer, size_t count);
  std::string describe(Place place, size_t layer) const;

  std::shared_ptr<ProcessGroup> group_;
  std::vector<std::string> names_;
};

// Whether `failure` is another rank's.
bool is_peers(const std::exception_ptr& failure);

}  // namespace lockstep::distributed
