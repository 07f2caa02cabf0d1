#include "lockstep/engine/ops/einsum.h"

#include <algorithm>
#include <map>
#include <string>

#include "lockstep/engine/ops/autocast.h"
#include "lockstep/engine/ops/matmul.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/reduce.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep {
namespace {

// A dimension's name: a letter, or -1, -2, ... for those of the ellipsis, counted from its end.
using Label = int;
using Labels = std::vector<Label>;

struct Term {
  std::string letters;  // the ellipsis taken out
  size_t ellipsis = 0;  // where it was
  bool has_ellipsis = false;
};

Term parse(std::string_view text, const std::string& place) {
  Term term;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == ' ') continue;
    if (c == '.') {
      check(text.substr(i, 3) == "..." && !term.has_ellipsis,
            "einsum(): found '.' for {} that is not part of any ellipsis", place);
      term.has_ellipsis = true;
      term.ellipsis = term.letters.size();
      i += 2;
      continue;
    }
    check(
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'),
        "einsum(): invalid subscript given at index {} in the equation string, subscripts must be "
        "in [a-zA-Z]",
        i);
    term.letters += c;
  }
  return term;
}

Labels labels_of(const Term& term, int ellipsis_dims) {
  Labels labels(term.letters.begin(), term.letters.end());
  Labels dots;
  for (int k = ellipsis_dims; k > 0; --k) dots.push_back(-k);
  labels.insert(labels.begin() + static_cast<std::ptrdiff_t>(term.ellipsis), dots.begin(),
                dots.end());
  return labels;
}

bool contains(const Labels& labels, Label label) {
  return std::find(labels.begin(), labels.end(), label) != labels.end();
}

struct Named {
  Tensor tensor;
  Labels labels;

  int dim_of(Label label) const {
    return static_cast<int>(std::find(labels.begin(), labels.end(), label) - labels.begin());
  }
  int64_t size_of(Label label) const {
    return contains(labels, label) ? tensor.size(dim_of(label)) : 1;
  }
  // The dimensions in this order, of size 1 where there is none.
  Tensor arranged(const Labels& order) const {
    Dims dims;
    for (Label label : order) {
      if (contains(labels, label)) dims.push_back(dim_of(label));
    }
    Tensor y = tensor.permute(dims);
    for (size_t i = 0; i < order.size(); ++i) {
      if (!contains(labels, order[i])) y = y.unsqueeze(static_cast<int64_t>(i));
    }
    return y;
  }
  void sum_out(Label label) {
    const int d = dim_of(label);
    tensor = sum(tensor, {d});
    labels.erase(labels.begin() + d);
  }
  // Repeated labels: the diagonal, by masking and summing.
  void take_diagonals(size_t operand) {
    for (size_t i = 0; i < labels.size(); ++i) {
      for (size_t j = i + 1; j < labels.size();) {
        if (labels[j] != labels[i]) {
          ++j;
          continue;
        }
        const auto a = static_cast<int>(i), b = static_cast<int>(j);
        const int64_t n = tensor.size(a);
        check(
            tensor.size(b) == n,
            "einsum(): subscript {} is repeated for operand {} but the sizes don't match, {} != {}",
            static_cast<char>(labels[i]), operand, tensor.size(b), n);
        Dims sizes = Dims::filled(tensor.dim(), 1);
        sizes[a] = n;
        const Tensor rows = arange(n).reshape(sizes);
        sizes[a] = 1;
        sizes[b] = n;
        const Tensor on = eq(rows, arange(n).reshape(sizes)).to(tensor.device());
        tensor = sum(masked_fill(tensor, logical_not(on), 0), {b});
        labels.erase(labels.begin() + b);
      }
    }
  }
};

// The product of two operands, summed over the labels that are not in `keep`: one batched matrix
// product of (both kept, left only, summed) and (both kept, summed, right only).
Named contract(Named left, Named right, const Labels& keep) {
  Labels all = left.labels;
  for (Label label : right.labels) {
    if (!contains(all, label)) all.push_back(label);
  }
  Labels batch, left_only, right_only, summed;
  for (Label label : all) {
    const bool in_left = contains(left.labels, label), in_right = contains(right.labels, label);
    if (!contains(keep, label)) {
      if (in_left && in_right && left.size_of(label) == right.size_of(label)) {
        summed.push_back(label);
      } else {  // in one only, or broadcast: summed beforehand
        for (Named* side : {&left, &right}) {
          if (!contains(side->labels, label)) continue;
          const bool broadcast = in_left && in_right && side->size_of(label) == 1;
          if (broadcast) {
            side->tensor = side->tensor.squeeze(side->dim_of(label));
            side->labels.erase(side->labels.begin() + side->dim_of(label));
          } else {
            side->sum_out(label);
          }
        }
      }
    } else if (in_left && in_right) {
      batch.push_back(label);
    } else {
      (in_left ? left_only : right_only).push_back(label);
    }
  }
  const auto joined = [](std::initializer_list<const Labels*> parts) {
    Labels order;
    for (const Labels* part : parts) order.insert(order.end(), part->begin(), part->end());
    return order;
  };
  const auto product = [](const Named& n, const Labels& labels) {
    int64_t p = 1;
    for (Label label : labels) p *= n.size_of(label);
    return p;
  };
  Dims sizes, full_left, full_right;
  int64_t batches = 1;
  for (Label label : batch) {
    const int64_t n = std::max(left.size_of(label), right.size_of(label));
    const bool empty = left.size_of(label) == 0 || right.size_of(label) == 0;
    sizes.push_back(empty ? 0 : n);
    batches *= empty ? 0 : n;
  }
  full_left = full_right = sizes;
  for (Label label : left_only) full_left.push_back(left.size_of(label));
  for (Label label : summed) full_left.push_back(left.size_of(label));
  for (Label label : summed) full_right.push_back(right.size_of(label));
  for (Label label : right_only) full_right.push_back(right.size_of(label));
  const int64_t m = product(left, left_only), k = product(left, summed),
                n = product(right, right_only);
  const Tensor a = left.arranged(joined({&batch, &left_only, &summed})).expand(full_left);
  const Tensor b = right.arranged(joined({&batch, &summed, &right_only})).expand(full_right);
  for (Label label : left_only) sizes.push_back(left.size_of(label));
  for (Label label : right_only) sizes.push_back(right.size_of(label));
  const Tensor y = bmm(a.reshape({batches, m, k}), b.reshape({batches, k, n})).reshape(sizes);
  return {y, joined({&batch, &left_only, &right_only})};
}

std::vector<std::string_view> split_at_commas(std::string_view text) {
  std::vector<std::string_view> parts;
  for (;;) {
    const size_t comma = text.find(',');
    parts.push_back(text.substr(0, comma));
    if (comma == std::string_view::npos) return parts;
    text.remove_prefix(comma + 1);
  }
}

}  // namespace

Tensor einsum(std::string_view equation, const std::vector<Tensor>& operands) {
  LOCKSTEP_AUTOCAST(einsum, equation, operands);
  check(!operands.empty(), "einsum(): must provide at least one operand");
  const size_t arrow = equation.find("->");
  const auto inputs = split_at_commas(equation.substr(0, arrow));
  check(inputs.size() >= operands.size(),
        "einsum(): more operands were provided than specified in the equation");
  check(inputs.size() == operands.size(),
        "einsum(): fewer operands were provided than specified in the equation");
  std::vector<Named> terms;
  std::map<Label, int> uses;
  std::map<Label, int64_t> sizes;
  int dots = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Term term = parse(inputs[i], fmt::format("operand {}", i));
    const int extra = operands[i].dim() - static_cast<int>(term.letters.size());
    check(term.has_ellipsis ? extra >= 0 : extra == 0,
          "einsum(): the number of subscripts in the equation ({}) does not match the number of "
          "dimensions ({}) for operand {}{}",
          term.letters.size(), operands[i].dim(), i,
          term.has_ellipsis ? "" : " and no ellipsis was given");
    dots = std::max(dots, extra);
    terms.push_back({operands[i], labels_of(term, extra)});
    for (Label label : terms.back().labels) ++uses[label];
    terms.back().take_diagonals(i);
    for (Label label : terms.back().labels) {
      const int64_t n = terms.back().size_of(label);
      int64_t& known = sizes.try_emplace(label, n).first->second;
      check(known == n || known == 1 || n == 1,
            "einsum(): subscript {} has size {} for operand {} which does not broadcast with "
            "previously seen size {}",
            label > 0 ? std::string(1, static_cast<char>(label)) : "...", n, i, known);
      if (known == 1) known = n;
    }
  }
  Labels out;
  if (arrow != std::string_view::npos) {
    const Term term = parse(equation.substr(arrow + 2), "the output");
    out = labels_of(term, term.has_ellipsis ? dots : 0);
    for (size_t i = 0; i < out.size(); ++i) {
      const auto letter = static_cast<char>(out[i]);
      check(out[i] < 0 || uses.count(out[i]),
            "einsum(): output subscript {} does not appear in the equation for any input operand",
            letter);
      check(std::count(out.begin(), out.end(), out[i]) == 1,
            "einsum(): output subscript {} appears more than once in the output", letter);
    }
  } else {
    for (int k = dots; k > 0; --k) out.push_back(-k);
    for (const auto& [label, count] : uses) {
      if (label > 0 && count == 1) out.push_back(label);
    }
  }
  Named result = terms[0];
  for (size_t i = 1; i < terms.size(); ++i) {
    Labels keep = out;
    for (size_t j = i + 1; j < terms.size(); ++j) {
      keep.insert(keep.end(), terms[j].labels.begin(), terms[j].labels.end());
    }
    result = contract(result, terms[i], keep);
  }
  const Labels present = result.labels;
  for (Label label : present) {
    if (!contains(out, label)) result.sum_out(label);
  }
  return result.arranged(out);
}

}  // namespace lockstep
