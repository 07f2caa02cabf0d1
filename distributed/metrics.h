#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "lockstep/distributed/process_group.h"
#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::distributed {

// What Metrics::reduce() says: a number for each name, in alphabetical order.
class MetricValues {
 public:
  double operator[](std::string_view name) const;  // throws ValueError that lists the names
  bool contains(std::string_view name) const { return values_.contains(name); }
  size_t size() const { return values_.size(); }
  auto begin() const { return values_.begin(); }  // pairs of name and value
  auto end() const { return values_.end(); }

 private:
  friend class Metrics;
  std::map<std::string, double, std::less<>> values_;
};

// Numbers that every rank adds up for itself and that are then taken together over all ranks: mean
// losses, accuracies, counts, extremes.
//
//   distributed::Metrics metrics(job.group());
//   for (...) {
//     metrics.add("loss", loss, batch.size());         // a mean, weighted by samples
//     metrics.sum("correct", correct);
//   }
//   const auto all = metrics.reduce();                 // collective
//   log::info(fmt::format("loss {:.4f}", all["loss"]));
//
// Everything is float64, and ranks are combined in their order: every rank gets the same bits. A
// rank that had nothing to add, because there are fewer batches than ranks, takes part all the
// same. Needs no DataParallel.
class Metrics {
 public:
  // `what` is told in messages about ranks that do not come to reduce(); the same on every rank.
  explicit Metrics(std::shared_ptr<ProcessGroup> group, const std::string& what = "metrics");

  // The mean of all values of this name, weighted. A value without weight does not count, whatever
  // it is: the mean over no samples is NaN. Throws ValueError if the weight is negative or not
  // finite. All of these throw ValueError if the name has been used for another kind.
  void add(std::string_view name, double value, double weight = 1.0);
  void add(std::string_view name, const Tensor& value, double weight = 1.0);  // of one element
  void sum(std::string_view name, double value);
  void max(std::string_view name, double value);  // these two keep a NaN
  void min(std::string_view name, double value);

  // Collective, one exchange for up to 30 names: the values over all ranks, after which nothing is
  // left here. Throws DistributedError on every rank, naming ranks, unless all that have added
  // anything have used the same names for the same kinds; the group remains usable.
  MetricValues reduce();

 private:
  enum class Kind : uint8_t { kMean, kSum, kMax, kMin };
  struct Entry {
    Kind kind = Kind::kSum;
    double value = 0.0;
    double weight = 0.0;
  };
  static const char* name_of(Kind kind);
  static void combine(Entry& entry, double value, double weight);
  Entry& entry(std::string_view name, Kind kind);
  static std::map<std::string, Entry, std::less<>> parse(const std::string& names);

  std::shared_ptr<ProcessGroup> group_;
  Label label_;
  std::map<std::string, Entry, std::less<>> entries_;
};

}  // namespace lockstep::distributed
