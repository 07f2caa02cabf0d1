#include "lockstep/distributed/layer_exchange.h"

#include <array>
#include <map>
#include <utility>

#include "lockstep/distributed/collective.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {
namespace {

template <typename Exception>
bool is_a(const std::exception_ptr& failure) {
  if (!failure) return false;
  try {
    std::rethrow_exception(failure);
  } catch (const Exception&) {
    return true;
  } catch (...) {
    return false;
  }
}

}  // namespace

bool is_peers(const std::exception_ptr& failure) { return is_a<PeerFailedError>(failure); }

std::shared_ptr<LayerExchange> LayerExchange::of(const std::shared_ptr<ProcessGroup>& group) {
  if (!group->layers_) group->layers_ = std::make_shared<LayerExchange>(group->duplicate());
  return group->layers_;
}

LayerExchange* LayerExchange::find(const ProcessGroup& group) { return group.layers_.get(); }

size_t LayerExchange::add_layer(std::string name) {
  names_.push_back(std::move(name));
  return names_.size() - 1;
}

std::string LayerExchange::describe(Place place, size_t layer) const {
  const std::string name = layer < names_.size() ? names_[layer] : fmt::format("layer {}", layer);
  switch (place) {
    case Place::kForward:
      return "forward of " + name;
    case Place::kBackward:
      return "backward of " + name;
    case Place::kEnd:
      return "the end of backward";
    default:
      return "a backward that failed";
  }
}

// The label says where this rank is, but is the same for all: where the others are is compared
// here.
void LayerExchange::meet(Place place, size_t layer, size_t count) {
  Label label(describe(place, layer));
  label.hash = Label("the layers").hash;
  const ProcessGroup::LabelScope scope(*group_, label);
  using Head = std::array<int64_t, 3>;
  Head mine = {static_cast<int64_t>(place), static_cast<int64_t>(layer),
               static_cast<int64_t>(count)};
  std::vector<Head> all(static_cast<size_t>(group_->size()));
  const auto words = static_cast<int64_t>(mine.size());
  group_
      ->all_gather({all.data(), words * group_->size(), DType::kInt64, {}},
                   {mine.data(), words, DType::kInt64, {}}, Launch::kBlocking)
      .wait();

  std::vector<int> failed;
  std::map<Head, std::vector<int>> places;
  for (int r = 0; r < group_->size(); ++r) {
    const Head& head = all[static_cast<size_t>(r)];
    if (head[0] == static_cast<int64_t>(Place::kFailed)) failed.push_back(r);
    places[head].push_back(r);
  }
  check<PeerFailedError>(failed.empty(), "[layers] {} was given up, because {} failed",
                         describe(place, layer), name_ranks(failed));
  if (places.size() == 1) return;
  std::string text;
  for (const auto& [head, ranks] : places) {
    text += fmt::format("{}{} in {}{}", text.empty() ? "" : ", ", name_ranks(ranks),
                        describe(static_cast<Place>(head[0]), static_cast<size_t>(head[1])),
                        head[2] == 0 ? "" : fmt::format(" with {} numbers to exchange", head[2]));
  }
  fail<DifferentLayersError>(
      "[layers] the ranks are in different layers: {}. Layers that exchange statistics must be "
      "used by all ranks in the same order",
      text);
}

std::vector<double> LayerExchange::gather(size_t layer, Pass pass, std::vector<double> mine) {
  const Place place = pass == Pass::kForward ? Place::kForward : Place::kBackward;
  meet(place, layer, mine.size());
  const ProcessGroup::LabelScope scope(*group_, Label(describe(place, layer)));
  std::vector<double> all(mine.size() * static_cast<size_t>(group_->size()));
  group_
      ->all_gather({all.data(), std::ssize(all), DType::kFloat64, {}},
                   {mine.data(), std::ssize(mine), DType::kFloat64, {}}, Launch::kBlocking)
      .wait();
  return all;
}

void LayerExchange::end_backward() { meet(Place::kEnd, 0, 0); }

void LayerExchange::fail_backward(const std::exception_ptr& failure) noexcept {
  try {
    if (is_a<PeerFailedError>(failure) || is_a<DifferentLayersError>(failure)) return;
    meet(Place::kFailed, 0, 0);
  } catch (...) {  // this rank itself is the one that failed; or the group is at its end
  }
}

}  // namespace lockstep::distributed
