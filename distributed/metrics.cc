#include "lockstep/distributed/metrics.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "lockstep/distributed/agreement.h"
#include "lockstep/distributed/lockstep_check.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {
namespace {

// What a rank sends first: a head, and value and weight of as many entries as fit.
enum Head : size_t { kHash, kCount, kTextBytes, kHeadWords };
constexpr size_t kInline = 30;

int64_t word(double value) { return std::bit_cast<int64_t>(value); }
double number(int64_t word) { return std::bit_cast<double>(word); }

std::vector<int64_t> gather(ProcessGroup& group, const std::vector<int64_t>& mine) {
  std::vector<int64_t> all(mine.size() * static_cast<size_t>(group.size()));
  std::vector<int64_t> sent = mine;
  group
      .all_gather({all.data(), std::ssize(all), DType::kInt64, {}},
                  {sent.data(), std::ssize(sent), DType::kInt64, {}}, Launch::kBlocking)
      .wait();
  return all;
}

}  // namespace

double MetricValues::operator[](std::string_view name) const {
  const auto found = values_.find(name);
  if (found != values_.end()) return found->second;
  std::string known;
  for (const auto& [other, value] : values_) known += (known.empty() ? "" : ", ") + other;
  fail("[metrics] there is no \"{}\" among {}", name, known.empty() ? "no values" : known);
}

Metrics::Metrics(std::shared_ptr<ProcessGroup> group, const std::string& what)
    : group_(std::move(group)), label_(what) {}

const char* Metrics::name_of(Kind kind) {
  switch (kind) {
    case Kind::kMean:
      return "mean";
    case Kind::kSum:
      return "sum";
    case Kind::kMax:
      return "max";
    default:
      return "min";
  }
}

void Metrics::combine(Entry& entry, double value, double weight) {
  switch (entry.kind) {
    case Kind::kMean:
    case Kind::kSum:
      entry.value += value;
      entry.weight += weight;
      break;
    case Kind::kMax:
      if (std::isnan(value) || value > entry.value) entry.value = value;
      break;
    case Kind::kMin:
      if (std::isnan(value) || value < entry.value) entry.value = value;
      break;
  }
}

Metrics::Entry& Metrics::entry(std::string_view name, Kind kind) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const auto found = entries_.find(name);
  if (found != entries_.end()) {
    check(found->second.kind == kind, "[metrics] \"{}\" is a {} and cannot be a {}, too", name,
          name_of(found->second.kind), name_of(kind));
    return found->second;
  }
  check(name.find('\n') == std::string_view::npos, "[metrics] the name \"{}\" has several lines",
        name);
  const double start = kind == Kind::kMax ? -kInfinity : kind == Kind::kMin ? kInfinity : 0.0;
  return entries_.emplace(std::string(name), Entry{kind, start, 0.0}).first->second;
}

void Metrics::add(std::string_view name, double value, double weight) {
  check(weight >= 0.0 && std::isfinite(weight),
        "[metrics] \"{}\" got the weight {}; it must be finite and not negative", name, weight);
  Entry& mean = entry(name, Kind::kMean);
  if (weight > 0.0) combine(mean, weight * value, weight);
}

void Metrics::add(std::string_view name, const Tensor& value, double weight) {
  check(value.defined() && value.numel() == 1, "[metrics] \"{}\" got {} instead of one number",
        name, value.defined() ? "a tensor of shape " + value.sizes().str() : "an undefined tensor");
  add(name, value.item<double>(), weight);
}

void Metrics::sum(std::string_view name, double value) {
  combine(entry(name, Kind::kSum), value, 0.0);
}
void Metrics::max(std::string_view name, double value) {
  combine(entry(name, Kind::kMax), value, 0.0);
}
void Metrics::min(std::string_view name, double value) {
  combine(entry(name, Kind::kMin), value, 0.0);
}

// Of one line per entry: its kind's digit and its name.
std::map<std::string, Metrics::Entry, std::less<>> Metrics::parse(const std::string& names) {
  std::map<std::string, Entry, std::less<>> entries;
  for (size_t begin = 0; begin < names.size();) {
    const size_t end = names.find('\n', begin);
    entries[names.substr(begin + 1, end - begin - 1)].kind = static_cast<Kind>(names[begin] - '0');
    begin = end + 1;
  }
  return entries;
}

// Every rank concludes from the heads alike what else has to be exchanged: nothing, as a rule; the
// entries that did not fit; the names, for ranks that have none; or, to tell of it, who has which.
MetricValues Metrics::reduce() {
  const auto mine = std::exchange(entries_, {});
  std::string text;
  std::string words;
  std::vector<int64_t> numbers;
  for (const auto& [name, entry] : mine) {
    words += fmt::format("{}{} ({})", words.empty() ? "" : ", ", name, name_of(entry.kind));
    text += fmt::format("{}{}\n", static_cast<int>(entry.kind), name);
    numbers.push_back(word(entry.value));
    numbers.push_back(word(entry.weight));
  }
  const ProcessGroup::LabelScope label(*group_, label_);
  std::vector<int64_t> first(kHeadWords + 2 * kInline);
  first[kHash] = static_cast<int64_t>(fast_hash(text.data(), text.size()));
  first[kCount] = std::ssize(mine);
  first[kTextBytes] = std::ssize(text);
  std::copy_n(numbers.begin(), std::min(numbers.size(), 2 * kInline), first.begin() + kHeadWords);
  const std::vector<int64_t> heads = gather(*group_, first);

  const auto ranks = static_cast<size_t>(group_->size());
  const auto head = [&](size_t rank, size_t at) { return heads[rank * first.size() + at]; };
  size_t speaker = 0;  // the first rank that has anything
  while (speaker + 1 < ranks && head(speaker, kCount) == 0) ++speaker;
  bool same = true;
  bool all_know = true;
  for (size_t r = 0; r < ranks; ++r) {
    if (head(r, kCount) == 0) {
      all_know = false;
    } else {
      same = same && head(r, kHash) == head(speaker, kHash) &&
             head(r, kTextBytes) == head(speaker, kTextBytes);
    }
  }
  if (!same) {
    const std::string what = "[metrics] the ranks have different ones";
    verify_same_text(*group_, what, words.empty() ? "none" : words);
    fail<DistributedError>("{}, which differ late in a long list", what);
  }
  const auto count = static_cast<size_t>(head(speaker, kCount));
  if (!all_know && count > 0) {
    text.resize(static_cast<size_t>(head(speaker, kTextBytes)));
    group_
        ->broadcast({text.data(), std::ssize(text), DType::kUInt8, {}}, static_cast<int>(speaker),
                    Launch::kBlocking)
        .wait();
  }
  const size_t rest = count > kInline ? 2 * (count - kInline) : 0;
  std::vector<int64_t> others;
  if (rest > 0) {
    std::vector<int64_t> sent(rest);
    if (!numbers.empty()) std::copy_n(numbers.begin() + 2 * kInline, rest, sent.begin());
    others = gather(*group_, sent);
  }

  MetricValues result;
  size_t index = 0;
  for (auto& [name, entry] : parse(text)) {
    bool started = false;
    for (size_t r = 0; r < ranks; ++r) {
      if (head(r, kCount) == 0) continue;
      const int64_t* pair = index < kInline ? &heads[r * first.size() + kHeadWords + 2 * index]
                                            : &others[r * rest + 2 * (index - kInline)];
      const double value = number(pair[0]);
      const double weight = number(pair[1]);
      if (started) {
        combine(entry, value, weight);
      } else {
        entry.value = value;
        entry.weight = weight;
      }
      started = true;
    }
    const bool is_mean = entry.kind == Kind::kMean;
    result.values_.emplace(name, is_mean ? entry.value / entry.weight : entry.value);
    ++index;
  }
  return result;
}

}  // namespace lockstep::distributed
