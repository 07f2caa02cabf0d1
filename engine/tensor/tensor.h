#pragma once

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/engine/autograd/hooks.h"
#include "lockstep/engine/tensor/device.h"
#include "lockstep/engine/tensor/dims.h"
#include "lockstep/engine/tensor/dtype.h"
#include "lockstep/engine/tensor/error.h"
#include "lockstep/engine/tensor/intrusive.h"
#include "lockstep/engine/tensor/scalar.h"
#include "lockstep/engine/tensor/storage.h"

namespace lockstep {

struct TensorImpl;
void intrusive_retain(const TensorImpl* impl);
void intrusive_release(const TensorImpl* impl);
namespace autograd {
class Node;
}
struct ValuesAndIndices;

// An n-dimensional array with strides over shared storage, and its place in the autograd graph.
//
// A Tensor is a handle: copying it copies a pointer, and both copies are the same tensor, as in
// PyTorch. A default-constructed one is undefined (PyTorch's None). Names, defaults and error texts
// follow PyTorch throughout; operations beyond the members below are free functions in
// lockstep/engine/ops/.
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(Ptr<TensorImpl> impl) : impl_(::std::move(impl)) {}

  bool defined() const { return static_cast<bool>(impl_); }
  explicit operator bool() const = delete;  // ask defined(), or item<bool>()
  bool is_same(const Tensor& other) const { return impl_ == other.impl_; }

  // -- geometry
  const Dims& sizes() const;
  const Dims& strides() const;
  int64_t size(int64_t dim) const;    // dim may be negative
  int64_t stride(int64_t dim) const;  // in elements
  int dim() const;
  int64_t numel() const;
  int64_t storage_offset() const;  // in elements
  DType dtype() const;
  Device device() const;
  bool is_contiguous() const;
  bool is_channels_last() const;  // 4-d, dense, stored as (N, H, W, C)

  // -- values
  void* data_ptr() const;  // first element; host memory only on the CPU
  template <typename T>
  T* data() const {  // checked: throws ValueError if T is not the dtype
    check_dtype(kDTypeOf<T>);
    return static_cast<T*>(data_ptr());
  }
  template <typename T = double>
  T item() const {  // the only element, converted; waits for the device
    return item_scalar().to<T>();
  }
  Scalar item_scalar() const;
  ::std::vector<double> to_vector() const;  // all elements in row-major order, converted
  ::std::string str() const;                // as PyTorch's print() writes it

  // -- autograd
  bool requires_grad() const;
  const Tensor& requires_grad_(bool requires_grad = true) const;
  bool is_leaf() const;
  Ptr<autograd::Node> grad_fn() const;  // null for leaves
  uint32_t output_nr() const;           // which output of grad_fn this is
  Tensor grad() const;                  // undefined before the first backward
  void set_grad(const Tensor& grad) const;
  void retain_grad() const;
  uint32_t version() const;

  // Computes the gradient of this tensor with respect to the graph's leaves and adds it to their
  // grad(). `gradient` has this tensor's shape and may be left out for a single element.
  void backward(const Tensor& gradient = {}, bool retain_graph = false,
                bool create_graph = false) const;

  // Runs when the gradient with respect to this tensor is known, before it accumulates; may return
  // another gradient in its place (or an undefined tensor to keep it).
  [[nodiscard]] autograd::HookHandle register_hook(autograd::TensorHook hook) const;
  // Leaves only: runs after a gradient has been added to grad().
  [[nodiscard]] autograd::HookHandle register_post_accumulate_grad_hook(
      autograd::PostAccumulateHook hook) const;

  Tensor detach() const;  // shares memory and version, outside the graph
  const Tensor& detach_() const;
  Tensor data_tensor() const;  // PyTorch's .data: like detach(), but its writes do not count

  // PyTorch's `tensor.data = source`: this tensor takes over the source's memory and dtype; the
  // shape must be the same. It stays the same tensor to everybody who holds it.
  void set_data(const Tensor& source) const;

  // -- views
  Tensor view(const Dims& sizes) const;  // one size may be -1; throws where a copy would be needed
  Tensor reshape(const Dims& sizes) const;  // view where possible, else a copy
  Tensor flatten(int64_t start_dim = 0, int64_t end_dim = -1) const;
  Tensor transpose(int64_t dim0, int64_t dim1) const;
  Tensor t() const;
  Tensor permute(const Dims& dims) const;
  Tensor movedim(const Dims& source, const Dims& destination) const;
  Tensor squeeze() const;  // every dimension of size 1
  Tensor squeeze(int64_t dim) const;
  Tensor unsqueeze(int64_t dim) const;
  Tensor expand(const Dims& sizes) const;  // -1 keeps a size
  Tensor expand_as(const Tensor& other) const { return expand(other.sizes()); }
  Tensor view_as(const Tensor& other) const { return view(other.sizes()); }
  Tensor select(int64_t dim, int64_t index) const;
  Tensor narrow(int64_t dim, int64_t start, int64_t length) const;
  Tensor slice(int64_t dim, int64_t start, int64_t end, int64_t step = 1) const;
  Tensor operator[](int64_t index) const { return select(0, index); }

  // -- copies and conversions
  Tensor clone() const;
  Tensor contiguous() const;
  Tensor to(DType dtype) const;
  Tensor to(Device device) const;

  // -- reductions
  Tensor sum() const;
  Tensor sum(const Dims& dims, bool keepdim = false) const;
  Tensor mean() const;
  Tensor mean(const Dims& dims, bool keepdim = false) const;
  Tensor max() const;
  Tensor min() const;
  Tensor argmax(int64_t dim, bool keepdim = false) const;
  Tensor norm() const;
  Tensor norm(double p, const Dims& dims = {}, bool keepdim = false) const;
  Tensor argmax() const;
  Tensor argmin() const;
  Tensor argmin(int64_t dim, bool keepdim = false) const;
  ValuesAndIndices max(int64_t dim, bool keepdim = false) const;
  ValuesAndIndices min(int64_t dim, bool keepdim = false) const;
  Tensor prod() const;
  Tensor prod(int64_t dim, bool keepdim = false) const;
  Tensor var(const Dims& dims = {}, int64_t correction = 1, bool keepdim = false) const;
  Tensor std(const Dims& dims = {}, int64_t correction = 1, bool keepdim = false) const;
  Tensor logsumexp(const Dims& dims, bool keepdim = false) const;
  Tensor cumsum(int64_t dim) const;
  ValuesAndIndices sort(int64_t dim = -1, bool descending = false) const;
  Tensor argsort(int64_t dim = -1, bool descending = false) const;
  ValuesAndIndices topk(int64_t k, int64_t dim = -1, bool largest = true) const;

  // -- elements picked by indices and masks
  Tensor index(const ::std::vector<Tensor>& indices) const;
  Tensor index_select(int64_t dim, const Tensor& index) const;
  Tensor index_add(int64_t dim, const Tensor& index, const Tensor& source) const;
  Tensor gather(int64_t dim, const Tensor& index) const;
  Tensor scatter_add(int64_t dim, const Tensor& index, const Tensor& source) const;
  Tensor masked_select(const Tensor& mask) const;
  Tensor masked_fill(const Tensor& mask, Scalar value) const;
  Tensor masked_fill(const Tensor& mask, const Tensor& value) const;
  Tensor index_put(const ::std::vector<Tensor>& indices, const Tensor& values,
                   bool accumulate = false) const;
  Tensor nonzero() const;
  Tensor tril(int64_t diagonal = 0) const;
  Tensor triu(int64_t diagonal = 0) const;
  Tensor repeat(const Dims& repeats) const;
  Tensor flip(const Dims& dims) const;
  ::std::vector<Tensor> split(int64_t size, int64_t dim = 0) const;
  ::std::vector<Tensor> split(const Dims& sizes, int64_t dim = 0) const;
  ::std::vector<Tensor> chunk(int64_t chunks, int64_t dim = 0) const;
  ::std::vector<Tensor> unbind(int64_t dim = 0) const;

  // -- arithmetic
  Tensor add(const Tensor& other, Scalar alpha = 1) const;
  Tensor add(Scalar other) const;
  Tensor sub(const Tensor& other, Scalar alpha = 1) const;
  Tensor sub(Scalar other) const;
  Tensor mul(const Tensor& other) const;
  Tensor mul(Scalar other) const;
  Tensor div(const Tensor& other) const;
  Tensor div(Scalar other) const;
  Tensor eq(const Tensor& other) const;
  Tensor eq(Scalar other) const;
  Tensor ne(const Tensor& other) const;
  Tensor ne(Scalar other) const;
  Tensor lt(const Tensor& other) const;
  Tensor lt(Scalar other) const;
  Tensor le(const Tensor& other) const;
  Tensor le(Scalar other) const;
  Tensor gt(const Tensor& other) const;
  Tensor gt(Scalar other) const;
  Tensor ge(const Tensor& other) const;
  Tensor ge(Scalar other) const;
  Tensor all() const;
  Tensor any() const;
  Tensor exp() const;
  Tensor log() const;
  Tensor sqrt() const;
  Tensor abs() const;
  Tensor sin() const;
  Tensor cos() const;
  Tensor tanh() const;
  Tensor sigmoid() const;
  Tensor relu() const;
  Tensor neg() const;
  Tensor sign() const;
  Tensor rsqrt() const;
  Tensor reciprocal() const;
  Tensor log1p() const;
  Tensor expm1() const;
  Tensor tan() const;
  Tensor erf() const;
  Tensor square() const;
  Tensor pow(Scalar exponent) const;
  Tensor pow(const Tensor& exponent) const;
  Tensor clamp(double low, double high) const;
  Tensor clamp(const Tensor& low, const Tensor& high) const;
  Tensor softmax(int64_t dim) const;
  Tensor log_softmax(int64_t dim) const;
  Tensor matmul(const Tensor& other) const;
  Tensor mm(const Tensor& other) const;
  Tensor bmm(const Tensor& other) const;

  // -- in place; const because the handle does not change
  const Tensor& copy_(const Tensor& source) const;  // broadcasts and converts
  const Tensor& fill_(Scalar value) const;
  const Tensor& zero_() const;
  const Tensor& add_(const Tensor& other, Scalar alpha = 1) const;
  const Tensor& add_(Scalar other) const;
  const Tensor& sub_(const Tensor& other, Scalar alpha = 1) const;
  const Tensor& sub_(Scalar other) const;
  const Tensor& mul_(const Tensor& other) const;
  const Tensor& mul_(Scalar other) const;
  const Tensor& div_(const Tensor& other) const;
  const Tensor& div_(Scalar other) const;
  const Tensor& neg_() const;
  const Tensor& abs_() const;
  const Tensor& exp_() const;
  const Tensor& log_() const;
  const Tensor& sqrt_() const;
  const Tensor& rsqrt_() const;
  const Tensor& reciprocal_() const;
  const Tensor& sin_() const;
  const Tensor& cos_() const;
  const Tensor& tanh_() const;
  const Tensor& sigmoid_() const;
  const Tensor& relu_() const;
  const Tensor& clamp_(double low, double high) const;
  const Tensor& pow_(Scalar exponent) const;
  const Tensor& masked_fill_(const Tensor& mask, Scalar value) const;
  const Tensor& masked_fill_(const Tensor& mask, const Tensor& value) const;  // 0-d value
  // self[indices] = values, or += where accumulate (ops/index_put.h).
  const Tensor& index_put_(const ::std::vector<Tensor>& indices, const Tensor& values,
                           bool accumulate = false) const;
  const Tensor& uniform_(double from = 0.0, double to = 1.0) const;
  const Tensor& normal_(double mean = 0.0, double std = 1.0) const;

  TensorImpl* impl() const { return impl_.get(); }
  // Gives up this handle's reference; for code that moves gradients along.
  Ptr<TensorImpl> take_impl() { return ::std::move(impl_); }

 private:
  void check_dtype(DType wanted) const;

  Ptr<TensorImpl> impl_;
};

// What max, min, sort and topk along a dimension give: the values and their int64 places there.
struct ValuesAndIndices {
  Tensor values, indices;
};

std::ostream& operator<<(std::ostream& out, const Tensor& tensor);

// Tensors with their names, in an order that matters (registration order for a module's).
using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

}  // namespace lockstep
