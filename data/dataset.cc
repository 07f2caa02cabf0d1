#include "lockstep/data/dataset.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::data {
namespace {

constexpr size_t kByteValues = 256;

void check_index(int64_t index, int64_t size) {
  check(index >= 0 && index < size, "[dataset] sample {} is out of range: there are {}", index,
        size);
}

int64_t count_of(std::span<const int64_t> indices) { return static_cast<int64_t>(indices.size()); }

// Rows of a contiguous CPU tensor, copied into a new one.
Tensor gather_rows(const Tensor& source, std::span<const int64_t> indices) {
  Dims sizes = source.sizes();
  const int64_t rows = sizes[0];
  const size_t row_bytes =
      rows == 0 ? 0 : static_cast<size_t>(source.numel() / rows) * size_of(source.dtype());
  sizes[0] = count_of(indices);
  Tensor out = empty(sizes, {source.dtype()});
  auto* to = static_cast<uint8_t*>(out.data_ptr());
  const auto* from = static_cast<const uint8_t*>(source.data_ptr());
  for (const int64_t index : indices) {
    check_index(index, rows);
    std::memcpy(to, from + static_cast<size_t>(index) * row_bytes, row_bytes);
    to += row_bytes;
  }
  return out;
}

}  // namespace

InMemoryDataset::InMemoryDataset(std::vector<uint8_t> values, std::vector<int64_t> labels,
                                 Options options)
    : values_(std::move(values)), labels_(std::move(labels)), options_(std::move(options)) {
  int64_t per_sample = 1;
  for (const int64_t dim : options_.shape) {
    check(dim >= 1, "[dataset] the sample shape has a dimension of {}", dim);
    per_sample *= dim;
  }
  sample_size_ = static_cast<size_t>(per_sample);
  check(values_.size() % sample_size_ == 0 && values_.size() / sample_size_ == labels_.size(),
        "[dataset] {} values do not make {} samples ({} labels) of {} values each", values_.size(),
        labels_.size(), labels_.size(), sample_size_);
  check(options_.stddev > 0.0f, "[dataset] the standard deviation is {}, must be positive",
        options_.stddev);
  for (size_t value = 0; value < kByteValues; ++value) {
    scaled_.push_back((static_cast<float>(value) / 255.0f - options_.mean) / options_.stddev);
  }
}

Batch InMemoryDataset::get(std::span<const int64_t> indices) const {
  Dims sizes{count_of(indices)};
  for (const int64_t dim : options_.shape) sizes.push_back(dim);
  Batch batch{empty(sizes), empty({count_of(indices)}, {DType::kInt64}), count_of(indices)};
  auto* x = batch.x.data<float>();
  auto* y = batch.y.data<int64_t>();
  for (const int64_t index : indices) {
    const auto bytes = values(index);
    x = std::transform(bytes.begin(), bytes.end(), x, [this](uint8_t v) { return scaled_[v]; });
    *y++ = label(index);
  }
  return options_.transform ? options_.transform(std::move(batch)) : batch;
}

std::span<const uint8_t> InMemoryDataset::values(int64_t index) const {
  check_index(index, size());
  return std::span(values_).subspan(static_cast<size_t>(index) * sample_size_, sample_size_);
}

int64_t InMemoryDataset::label(int64_t index) const {
  check_index(index, size());
  return labels_[static_cast<size_t>(index)];
}

TensorDataset::TensorDataset(const Tensor& x, const Tensor& y) {
  check(x.defined() && y.defined() && x.dim() >= 1 && y.dim() >= 1 && x.size(0) == y.size(0),
        "[dataset] x is {} and y is {}: both need a first dimension, of the same size",
        x.defined() ? x.sizes().str() : "undefined", y.defined() ? y.sizes().str() : "undefined");
  check(x.device().is_cpu() && y.device().is_cpu(),
        "[dataset] x is on {} and y on {}: both must be "
        "on the cpu",
        x.device().str(), y.device().str());
  x_ = x.detach().contiguous();
  y_ = y.detach().contiguous();
}

int64_t TensorDataset::size() const { return x_.size(0); }

Batch TensorDataset::get(std::span<const int64_t> indices) const {
  return {gather_rows(x_, indices), gather_rows(y_, indices), count_of(indices)};
}

}  // namespace lockstep::data
