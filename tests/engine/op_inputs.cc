#include <algorithm>
#include <numeric>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/philox.h"

#include "engine/op_case_groups.h"
#include "engine/op_cases.h"

namespace lockstep::testing {

const std::vector<OpCase>& all_op_cases() {
  static const std::vector<OpCase> kCases = [] {
    std::vector<OpCase> cases;
    add_pointwise_cases(cases);
    add_dense_cases(cases);
    add_shape_cases(cases);
    add_more_cases(cases);
    return cases;
  }();
  return kCases;
}

namespace {

// `count` different values of [low, high) in random order: one from each of as many cells.
std::vector<float> draw(const Input& input, int64_t count, uint32_t which) {
  const Philox philox{0x7e57, which};
  std::vector<float> values(static_cast<size_t>(count));
  const double cell = (input.high - input.low) / static_cast<double>(std::max<int64_t>(count, 1));
  for (int64_t i = 0; i < count; ++i) {
    const double u = uniform_float(philox(static_cast<uint32_t>(i), 0, 0, 0)[0]);
    auto v = static_cast<float>(input.low + (static_cast<double>(i) + 0.1 + 0.8 * u) * cell);
    if (std::fabs(2 * v - std::round(2 * v)) < 4e-3f) v += 5e-3f;
    values[static_cast<size_t>(i)] = v;
  }
  for (size_t i = values.size(); i > 1; --i) {
    std::swap(values[i - 1], values[philox(static_cast<uint32_t>(i), 1, 0, 0)[0] % i]);
  }
  return values;
}

Tensor with_layout(const std::vector<float>& values, const Input& input, DType dtype,
                   Device device) {
  const Tensor dense = from_span<float>(values, input.sizes, {dtype, device});
  const int n = input.sizes.size();
  switch (input.layout) {
    case Layout::kDense:
    case Layout::kExpanded:
      return dense;
    case Layout::kTransposed:
      return dense.transpose(n - 2, n - 1).contiguous().transpose(n - 2, n - 1);
    case Layout::kStrided: {
      Dims wide = input.sizes;
      wide[n - 1] = 2 * wide[n - 1];
      const Tensor y = full(wide, 1e30, {dtype, device}).slice(n - 1, 0, wide[n - 1], 2);
      y.copy_(dense);  // what lies between stays 1e30, which would be seen if it were read
      return y;
    }
    case Layout::kChannelsLast:
      return dense.permute({0, 2, 3, 1}).contiguous().permute({0, 3, 1, 2});
  }
  return dense;
}

}  // namespace

std::vector<Tensor> make_inputs(const OpCase& c, DType dtype, Device device) {
  const autograd::NoGrad no_grad;
  std::vector<Tensor> tensors;
  for (size_t i = 0; i < c.inputs.size(); ++i) {
    Input input = c.inputs[i];
    const Dims sizes = input.sizes;
    if (input.layout == Layout::kExpanded) input.sizes[0] = 1;
    const auto values = draw(input, input.sizes.product(), static_cast<uint32_t>(i));
    const bool floating = is_floating(input.dtype);
    Tensor t;
    if (floating) {
      t = with_layout(values, input, dtype, device).detach();
    } else {
      std::vector<int64_t> whole(values.size());
      std::transform(values.begin(), values.end(), whole.begin(),
                     [](float v) { return static_cast<int64_t>(std::floor(v)); });
      t = from_span<int64_t>(whole, input.sizes, {DType::kInt64, device}).to(input.dtype);
    }
    if (input.layout == Layout::kExpanded) t = t.expand(sizes).detach();
    if (floating && input.differentiable) t.requires_grad_();
    tensors.push_back(t);
  }
  return tensors;
}

}  // namespace lockstep::testing
