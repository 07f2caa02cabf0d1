#include "lockstep/distributed/agreement.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "lockstep/distributed/collective.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {
namespace {

constexpr size_t kTextBytes = 1024;

int64_t first_difference(const std::vector<std::string>& mine,
                         const std::vector<std::string>& root) {
  const size_t n = std::min(mine.size(), root.size());
  for (size_t i = 0; i < n; ++i) {
    if (mine[i] != root[i]) return static_cast<int64_t>(i);
  }
  return -1;
}

// One line per tensor: name, dtype, sizes, kind of device and whether it is trained.
std::vector<std::string> describe(const NamedTensors& tensors) {
  std::vector<std::string> lines;
  for (const auto& [name, t] : tensors) {
    lines.push_back(fmt::format("{} {} {}{}{}", name, name_of(t.dtype()), t.sizes().str(),
                                t.device().is_cpu() ? "" : " cuda",
                                t.requires_grad() ? " requires_grad" : ""));
  }
  return lines;
}

// Rank 0's text on every rank.
std::string broadcast_text(ProcessGroup& group, std::string text) {
  auto length = static_cast<int64_t>(text.size());
  group.broadcast({&length, 1, DType::kInt64, {}}, 0).wait();
  text.resize(static_cast<size_t>(length));
  if (length > 0) group.broadcast({text.data(), length, DType::kUInt8, {}}, 0).wait();
  return text;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

void verify_same(ProcessGroup& group, const NamedTensors& tensors, const char* kind) {
  std::vector<int64_t> counts(static_cast<size_t>(group.size()));
  auto count = static_cast<int64_t>(tensors.size());
  group.all_gather({counts.data(), group.size(), DType::kInt64, {}}, {&count, 1, DType::kInt64, {}})
      .wait();
  for (size_t r = 1; r < counts.size(); ++r) {
    check<DistributedError>(counts[r] == counts[0],
                            "DDP expects same model across all ranks, but Rank 0 has {} {}, while "
                            "rank {} has inconsistent {} {}.",
                            counts[0], kind, r, counts[r], kind);
  }
  const std::vector<std::string> mine = describe(tensors);
  std::string text;
  for (const auto& line : mine) text += line + "\n";
  const std::vector<std::string> root = lines_of(broadcast_text(group, text));
  const int64_t at = first_difference(mine, root);
  std::string problem;
  if (at >= 0) {
    const auto i = static_cast<size_t>(at);
    problem = fmt::format(
        "{}[{}] in this process with sizes {} appears not to match sizes of the same param in "
        "process "
        "0. It is \"{}\" here and \"{}\" on rank 0",
        kind, at, tensors[i].second.sizes().str(), mine[i], root[i]);
  }
  throw_together(group, "[data_parallel] the ranks have different models", problem);
}

}  // namespace

std::vector<std::string> exchange_texts(ProcessGroup& group, const std::string& text) {
  std::array<char, kTextBytes> mine{};
  std::copy_n(text.begin(), std::min(text.size(), kTextBytes - 1), mine.begin());
  std::vector<char> all(kTextBytes * static_cast<size_t>(group.size()));
  group
      .all_gather({all.data(), static_cast<int64_t>(all.size()), DType::kUInt8, {}},
                  {mine.data(), static_cast<int64_t>(mine.size()), DType::kUInt8, {}})
      .wait();
  std::vector<std::string> texts;
  for (int r = 0; r < group.size(); ++r) {
    texts.emplace_back(all.data() + static_cast<size_t>(r) * kTextBytes);
  }
  return texts;
}

std::map<std::string, std::vector<int>> ranks_by_text(const std::vector<std::string>& texts) {
  std::map<std::string, std::vector<int>> ranks;
  for (size_t r = 0; r < texts.size(); ++r) ranks[texts[r]].push_back(static_cast<int>(r));
  return ranks;
}

void throw_together(ProcessGroup& group, const std::string& what, const std::string& problem) {
  const auto texts = exchange_texts(group, problem);
  std::string message;
  for (size_t r = 0; r < texts.size(); ++r) {
    if (!texts[r].empty())
      message += fmt::format("{}[{}]: {}", message.empty() ? "" : "; ", r, texts[r]);
  }
  check<DistributedError>(message.empty(), "{}: {}", what, message);
}

void verify_same_model(ProcessGroup& group, const NamedTensors& parameters,
                       const NamedTensors& buffers) {
  if (group.size() == 1) return;
  verify_same(group, parameters, "params");
  verify_same(group, buffers, "buffers");
}

void verify_same_text(ProcessGroup& group, const std::string& what, const std::string& text) {
  if (group.size() == 1) return;
  const auto all = ranks_by_text(exchange_texts(group, text));
  if (all.size() == 1) return;
  std::string message;
  for (const auto& [said, ranks] : all) {
    message += fmt::format("{}{}: {}", message.empty() ? "" : "; ", name_ranks(ranks), said);
  }
  fail<DistributedError>("{}: {}", what, message);
}

NumberMark mark_of(int64_t number, int world) {
  constexpr double kExact = 1 << 24;  // float32 holds every integer up to here
  const auto modulus = std::max<int64_t>(2, static_cast<int64_t>(std::sqrt(kExact / world)));
  const auto rest = static_cast<double>((number % modulus + modulus) % modulus);
  return {rest, rest * rest};
}

// Cauchy-Schwarz: (sum of x)^2 <= world * (sum of x^2), with equality for equal x only.
bool marks_agree(const NumberMark& sum, int world) {
  return sum.value * sum.value == world * sum.square;
}

}  // namespace lockstep::distributed
