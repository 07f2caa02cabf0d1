#include "lockstep/engine/cuda/sort.h"

#include <limits>

#include "lockstep/engine/cuda/axes.cuh"
#include "lockstep/engine/tensor/tensor_impl.h"

// Values are mapped to integer keys that sort alike, and every line of keys, each with the place
// that it came from, is sorted by merging: tiles by a bitonic network in shared memory, which is
// stable because places break ties, then pairs of sorted runs, in which every element finds its
// rank in the other run by bisection.
namespace lockstep::cuda {
namespace {

constexpr int kTile = 1024;

template <typename T>
using Key = std::conditional_t<sizeof(Compute<T>) == 8, int64_t, int32_t>;

// Of negative floats all bits but the sign are inverted; -0 equals 0, and all NaNs are equal.
template <typename K, typename T>
__device__ K float_key(T value) {
  constexpr K kLargest = std::numeric_limits<K>::max();
  if (value != value) return kLargest;
  if (value == T(0)) return 0;
  const K bits = std::bit_cast<K>(value);
  return bits < 0 ? bits ^ kLargest : bits;
}

template <typename T>
__device__ Key<T> key_of(T value, bool descending) {
  Key<T> key;
  if constexpr (std::is_integral_v<T>) {
    key = value;
  } else {
    key = float_key<Key<T>>(static_cast<Compute<T>>(value));
  }
  return descending ? ~key : key;
}

// How the keys are laid out: [line][k], in segments of which a tile has several if lines are short.
struct Layout {
  Lines lines;
  int segment;              // a power of two, up to kTile
  Divisor segments_a_line;  // the last one may be shorter
  int64_t segments;
};

template <typename K>
__device__ void swap_unless_sorted(K* keys, int* places, int i, int j, bool ascending) {
  const bool sorted = keys[i] < keys[j] || (keys[i] == keys[j] && places[i] < places[j]);
  if (sorted == ascending) return;
  const K key = keys[i];
  const int place = places[i];
  keys[i] = keys[j];
  places[i] = places[j];
  keys[j] = key;
  places[j] = place;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    sort_segments(Key<T>* out, int64_t* out_places, const T* in, const Layout layout,
                  bool descending) {
  __shared__ Key<T> keys[kTile];
  __shared__ int places[kTile];  // within the tile
  const int segments_a_tile = kTile / layout.segment;
  const int64_t length = layout.lines.length.value();
  const int64_t tiles = (layout.segments + segments_a_tile - 1) / segments_a_tile;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    // What a segment lacks is filled up with what sorts to its end.
    for (int e = static_cast<int>(threadIdx.x); e < kTile; e += kThreads) {
      const int64_t segment = tile * segments_a_tile + e / layout.segment;
      const Split at = split(segment, layout.segments_a_line);
      const int64_t k = at.remainder * layout.segment + e % layout.segment;
      keys[e] = std::numeric_limits<Key<T>>::max();
      places[e] = e;
      if (segment < layout.segments && k < length) {
        keys[e] = key_of(in[start_of(layout.lines, at.quotient) + k * layout.lines.inner.value()],
                         descending);
      }
    }
    for (int size = 2; size <= layout.segment; size *= 2) {
      for (int step = size / 2; step > 0; step /= 2) {
        __syncthreads();
        for (int p = static_cast<int>(threadIdx.x); p < kTile / 2; p += kThreads) {
          const int i = 2 * p - (p & (step - 1));
          const bool ascending = size == layout.segment || (i & size) == 0;
          swap_unless_sorted(keys, places, i, i + step, ascending);
        }
      }
    }
    __syncthreads();
    for (int e = static_cast<int>(threadIdx.x); e < kTile; e += kThreads) {
      const int64_t segment = tile * segments_a_tile + e / layout.segment;
      const Split at = split(segment, layout.segments_a_line);
      const int64_t begin = at.remainder * layout.segment, k = begin + e % layout.segment;
      if (segment < layout.segments && k < length) {
        out[at.quotient * length + k] = keys[e];
        out_places[at.quotient * length + k] = begin + places[e] % layout.segment;
      }
    }
    __syncthreads();  // the tile will be filled again
  }
}

// Merges neighbouring sorted runs of `width` keys; the last run of a line may be shorter.
template <typename K>
__global__ void __launch_bounds__(kThreads)
    merge_runs(K* out, int64_t* out_places, const K* in, const int64_t* in_places, int64_t n,
               const Divisor lengths, const Divisor widths) {
  const int64_t length = lengths.value(), width = widths.value();
  for (int64_t i = grid_index(); i < n; i += grid_size()) {
    const int64_t k = split(i, lengths).remainder, line = i - k;
    const Split at = split(k, widths);
    const int64_t run = at.quotient, other_begin = (run ^ 1) * width;
    const bool second = run % 2 != 0;
    const K key = in[i];
    // Those of the other run that come first; of equal keys the earlier run's do.
    int64_t low = other_begin < length ? other_begin : length;
    const int64_t begin = low;
    int64_t high = other_begin + width < length ? other_begin + width : length;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      const K other = in[line + middle];
      if (other < key || (second && other == key)) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    const int64_t to = line + (run - second) * width + at.remainder + (low - begin);
    out[to] = key;
    out_places[to] = in_places[i];
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    collect(T* values, int64_t* indices, const T* in, const int64_t* places, const Lines lines) {
  const int64_t n = lines.count.value() * lines.length.value();
  for (int64_t i = grid_index(); i < n; i += grid_size()) {  // in the order of the outputs
    const Split by_inner = split(i, lines.inner);
    const Split by_length = split(by_inner.quotient, lines.length);
    const int64_t k = by_length.remainder;
    const int64_t line = by_length.quotient * lines.inner.value() + by_inner.remainder;
    const int64_t place = places[line * lines.length.value() + k];
    values[i] = in[i + (place - k) * lines.inner.value()];
    indices[i] = place;
  }
}

template <typename T>
SortedLines sorted_keys(cudaStream_t stream, const Tensor& in, const Lines& lines,
                        bool descending) {
  using K = Key<T>;
  const int64_t length = lines.length.value();
  const auto buffers = [&]() -> SortedLines {
    const Dims sizes{lines.count.value(), length};
    return {empty_dense(sizes, kDTypeOf<K>, in.device()),
            empty_dense(sizes, DType::kInt64, in.device())};
  };
  Layout layout{lines, 1, {}, 0};
  while (layout.segment < length && layout.segment < kTile) layout.segment *= 2;
  layout.segments_a_line = Divisor((length + layout.segment - 1) / layout.segment);
  layout.segments = lines.count.value() * layout.segments_a_line.value();
  SortedLines sorted = buffers();
  launch(stream, blocks_for(layout.segments, kTile / layout.segment), kThreads, sort_segments<T>,
         data_of<K>(sorted.values), data_of<int64_t>(sorted.places), data_of<T>(in), layout,
         descending);
  if (layout.segments_a_line.value() == 1) return sorted;
  SortedLines merged = buffers();
  const int64_t n = lines.count.value() * lines.length.value();
  for (int64_t width = layout.segment; width < length; width *= 2) {
    launch(stream, blocks_for(n), kThreads, merge_runs<K>, data_of<K>(merged.values),
           data_of<int64_t>(merged.places), data_of<K>(sorted.values),
           data_of<int64_t>(sorted.places), n, lines.length, Divisor(width));
    std::swap(sorted, merged);
  }
  return sorted;
}

}  // namespace

void sort_along(cudaStream_t stream, const Tensor& values, const Tensor& indices, const Tensor& in,
                int dim, bool descending) {
  if (in.numel() == 0) return;
  const Lines lines(in, dim);
  dispatch_all(in.dtype(), [&](auto type) {
    using T = decltype(type);
    const SortedLines sorted = sorted_keys<T>(stream, in, lines, descending);
    launch(stream, blocks_for(in.numel()), kThreads, collect<T>, data_of<T>(values),
           data_of<int64_t>(indices), data_of<T>(in), data_of<int64_t>(sorted.places), lines);
  });
}

SortedLines sort_lines(cudaStream_t stream, const Tensor& in, int dim) {
  return sorted_keys<int64_t>(stream, in, Lines(in, dim), false);
}

}  // namespace lockstep::cuda
