#include "lockstep/engine/cuda/indexing.h"

#include "lockstep/engine/cuda/axes.cuh"
#include "lockstep/engine/cuda/sort.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep::cuda {
namespace {

// -- reading

struct alignas(16) Bytes16 {
  uint64_t low, high;
};

// Calls fn with a value of the widest type of `most` bytes or less that a row of `bytes` at such
// addresses is made of.
template <typename F>
void dispatch_width(int64_t bytes, const void* a, const void* b, F&& fn) {
  const auto all = static_cast<uintptr_t>(bytes) | reinterpret_cast<uintptr_t>(a) |
                   reinterpret_cast<uintptr_t>(b);
  if (all % 16 == 0) return fn(Bytes16{});
  if (all % 8 == 0) return fn(uint64_t{});
  if (all % 4 == 0) return fn(uint32_t{});
  if (all % 2 == 0) return fn(uint16_t{});
  return fn(uint8_t{});
}

// Of what is not there: NaN in every floating dtype, -1 in integers.
template <typename Word>
__device__ Word nothing() {
  return static_cast<Word>(~Word{});
}
template <>
__device__ inline Bytes16 nothing<Bytes16>() {
  return {~uint64_t{}, ~uint64_t{}};
}
__device__ inline bool is_within(int64_t index, int64_t length) {
  return index >= 0 && index < length;
}

// `in` is (outer, length, inner) and `out` (outer, count, inner), of words.
template <typename Word>
__global__ void __launch_bounds__(kThreads)
    select_kernel(Word* out, const Word* in, const int64_t* index, const Lines lines,
                  int64_t length, const Divisor count) {
  const int64_t n = lines.outer * count.value() * lines.inner.value();
  for (int64_t i = grid_index(); i < n; i += grid_size()) {
    const Split by_inner = split(i, lines.inner);
    const Split by_count = split(by_inner.quotient, count);
    const int64_t place = index[by_count.remainder];
    const int64_t row = by_count.quotient * length + place;
    out[i] = is_within(place, length) ? in[row * lines.inner.value() + by_inner.remainder]
                                      : nothing<Word>();
  }
}

// `others`: the offset in `in` that comes from the dimensions that are not indexed.
template <typename Word>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(Word* out, const Word* in, const int64_t* index, const Axes others, int64_t step,
                  int64_t length, int64_t n) {
  for (int64_t i = grid_index(); i < n; i += grid_size()) {
    const int64_t place = index[i];
    out[i] = is_within(place, length) ? in[offset_in(others, i) + place * step] : nothing<Word>();
  }
}

// -- adding
//
// A line of `in` along the indexed dimension is added to one line of `out`. Short lines: the thread
// of an element whose index has not come before in its line adds up all that have the same index.
// Long lines: the indices are sorted, and of every run of equal ones the first element's thread
// adds up the run. So that long runs are not one thread's work, a run is cut where the sorted line
// is, every kWindow elements; what a window has of a run that began before it is added up first.

constexpr int64_t kShort = 64;
constexpr int64_t kWindow = 256;

struct Addition {
  Lines in;            // its lines along the dimension
  Axes out;            // where in `out` the line with a given number starts
  int64_t out_step;    // from one index to the next in `out`
  int64_t out_length;  // there are no indices from here on
  bool shared;         // all lines have the same indices
  bool lines_fastest;  // neighbouring threads take neighbouring lines
};

// Number i of `a line has so many things to do` as a line and its thing.
struct Item {
  int64_t line, k;
};
__device__ Item item_of(const Addition& a, int64_t i, const Divisor& per_line) {
  if (a.lines_fastest) {
    const Split at = split(i, a.in.count);
    return {at.remainder, at.quotient};
  }
  const Split at = split(i, per_line);
  return {at.quotient, at.remainder};
}

template <typename T>
__device__ void add_to(T* target, Sum<T> sum) {
  *target = convert<T>(convert<Sum<T>>(*target) + sum);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    add_short_lines(T* out, const int64_t* index, const T* in, const Addition a) {
  const int64_t length = a.in.length.value(), step = a.in.inner.value();
  for (int64_t i = grid_index(); i < a.in.count.value() * length; i += grid_size()) {
    const Item at = item_of(a, i, a.in.length);
    const int64_t start = start_of(a.in, at.line);
    const int64_t* places = a.shared ? index : index + start;
    const int64_t place_step = a.shared ? 1 : step;
    const int64_t place = places[at.k * place_step];
    bool first = is_within(place, a.out_length);
    for (int64_t k = 0; k < at.k && first; ++k) first = places[k * place_step] != place;
    if (!first) continue;
    Sum<T> sum = convert<Sum<T>>(in[start + at.k * step]);
    for (int64_t k = at.k + 1; k < length; ++k) {
      if (places[k * place_step] == place) sum += convert<Sum<T>>(in[start + k * step]);
    }
    add_to(out + offset_in(a.out, at.line) + place * a.out_step, sum);
  }
}

// A sorted line of indices, and where in the line of `in` their summands lie.
struct Sorted {
  const int64_t* values;
  const int64_t* places;
};
__device__ Sorted sorted_line(const Addition& a, const Sorted& all, int64_t line) {
  const int64_t start = a.shared ? 0 : line * a.in.length.value();
  return {all.values + start, all.places + start};
}

// The sum over the run from k on, within the window.
template <typename T>
__device__ Sum<T> sum_in_window(const Addition& a, const Sorted& sorted, const T* in, int64_t k) {
  const int64_t value = sorted.values[k];
  const int64_t window_end = (k / kWindow + 1) * kWindow;
  const int64_t end = window_end < a.in.length.value() ? window_end : a.in.length.value();
  Sum<T> sum = 0;
  for (; k < end && sorted.values[k] == value; ++k) {
    sum += convert<Sum<T>>(in[sorted.places[k] * a.in.inner.value()]);
  }
  return sum;
}

// carried[window][line]: what the windows after the first have of a run that began earlier.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    carry_kernel(Sum<T>* carried, const T* in, const Sorted all, const Addition a,
                 int64_t windows) {
  const int64_t lines = a.in.count.value();
  for (int64_t i = grid_index(); i < lines * (windows - 1); i += grid_size()) {
    const Split at = split(i, a.in.count);
    const int64_t window = at.quotient + 1, line = at.remainder, k = window * kWindow;
    const Sorted sorted = sorted_line(a, all, line);
    if (sorted.values[k] != sorted.values[k - 1]) continue;
    carried[window * lines + line] = sum_in_window(a, sorted, in + start_of(a.in, line), k);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    add_runs(T* out, const Sum<T>* carried, const T* in, const Sorted all, const Addition a) {
  const int64_t length = a.in.length.value(), lines = a.in.count.value();
  for (int64_t i = grid_index(); i < lines * length; i += grid_size()) {
    const Item at = item_of(a, i, a.in.length);
    const Sorted sorted = sorted_line(a, all, at.line);
    const int64_t value = sorted.values[at.k];
    if (!is_within(value, a.out_length)) continue;
    if (at.k > 0 && sorted.values[at.k - 1] == value) continue;  // not the first of its run
    Sum<T> sum = sum_in_window(a, sorted, in + start_of(a.in, at.line), at.k);
    for (int64_t window = at.k / kWindow + 1;
         window * kWindow < length && sorted.values[window * kWindow] == value; ++window) {
      sum += carried[window * lines + at.line];
    }
    add_to(out + offset_in(a.out, at.line) + value * a.out_step, sum);
  }
}

template <typename T>
void add_as(cudaStream_t stream, const Tensor& out, const Tensor& index, const Tensor& in, int dim,
            const Addition& a) {
  const int64_t n = in.numel();
  if (a.in.length.value() <= kShort) {
    launch(stream, blocks_for(n), kThreads, add_short_lines<T>, data_of<T>(out),
           data_of<int64_t>(index), data_of<T>(in), a);
    return;
  }
  const SortedLines lines = sort_lines(stream, index, a.shared ? 0 : dim);
  const Sorted sorted{data_of<int64_t>(lines.values), data_of<int64_t>(lines.places)};
  const int64_t windows = (a.in.length.value() + kWindow - 1) / kWindow;
  Tensor carried;
  if (windows > 1) {
    carried = empty_dense({windows, a.in.count.value()}, kDTypeOf<Sum<T>>, in.device());
    launch(stream, blocks_for((windows - 1) * a.in.count.value()), kThreads, carry_kernel<T>,
           data_of<Sum<T>>(carried), data_of<T>(in), sorted, a, windows);
  }
  launch(stream, blocks_for(n), kThreads, add_runs<T>, data_of<T>(out), data_of<Sum<T>>(carried),
         data_of<T>(in), sorted, a);
}

int64_t stride_along(const Tensor& t, int dim) { return t.dim() > 0 ? t.strides()[dim] : 1; }
int64_t size_along(const Tensor& t, int dim) { return t.dim() > 0 ? t.sizes()[dim] : 1; }

void add(cudaStream_t stream, const Tensor& out, int dim, const Tensor& index, const Tensor& in,
         bool shared) {
  if (in.numel() == 0) return;
  Addition a{Lines(in, dim), {}, stride_along(out, dim), size_along(out, dim), shared, false};
  for (int d = 0; d < in.dim(); ++d) {
    if (d != dim) a.out.add(in.sizes()[d], out.strides()[d]);
  }
  a.lines_fastest = a.in.inner.value() > 1 && (shared || a.in.length.value() <= kShort);
  dispatch_all(out.dtype(),
               [&](auto type) { add_as<decltype(type)>(stream, out, index, in, dim, a); });
}

}  // namespace

void gather_slices(cudaStream_t stream, const Tensor& out, const Tensor& in, int dim,
                   const Tensor& index) {
  if (out.numel() == 0) return;
  const Lines lines(in, dim);
  const auto element = static_cast<int64_t>(size_of(in.dtype()));
  dispatch_width(lines.inner.value() * element, out.data_ptr(), in.data_ptr(), [&](auto word) {
    using Word = decltype(word);
    Lines of_words = lines;
    of_words.inner = Divisor(lines.inner.value() * element / static_cast<int64_t>(sizeof(Word)));
    const int64_t n = lines.outer * index.numel() * of_words.inner.value();
    launch(stream, blocks_for(n), kThreads, select_kernel<Word>, data_of<Word>(out),
           data_of<Word>(in), data_of<int64_t>(index), of_words, size_along(in, dim),
           Divisor(index.numel()));
  });
}

void add_slices(cudaStream_t stream, const Tensor& out, int dim, const Tensor& index,
                const Tensor& in) {
  add(stream, out, dim, index, in, true);
}

void gather_elements(cudaStream_t stream, const Tensor& out, const Tensor& in, int dim,
                     const Tensor& index) {
  const int64_t n = index.numel();
  if (n == 0) return;
  Axes others;
  for (int d = 0; d < index.dim(); ++d) {
    others.add(index.sizes()[d], d == dim ? 0 : in.strides()[d]);
  }
  dispatch_width(static_cast<int64_t>(size_of(in.dtype())), nullptr, nullptr, [&](auto word) {
    using Word = decltype(word);
    launch(stream, blocks_for(n), kThreads, gather_kernel<Word>, data_of<Word>(out),
           data_of<Word>(in), data_of<int64_t>(index), others, stride_along(in, dim),
           size_along(in, dim), n);
  });
}

void scatter_add_elements(cudaStream_t stream, const Tensor& out, int dim, const Tensor& index,
                          const Tensor& in) {
  add(stream, out, dim, index, in, false);
}

}  // namespace lockstep::cuda
