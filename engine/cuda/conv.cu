#include "lockstep/engine/cuda/conv.h"

#include <algorithm>

#include "lockstep/engine/cuda/division.cuh"
#include "lockstep/engine/cuda/tile_product.cuh"
#include "lockstep/engine/tensor/tensor_impl.h"

// Each of the three is a product of matrices (one per group) that exist only as places in the
// tensors; the operands below compute them.
//
//   output           rows: output pixels   columns: output channels   k: (tap, input channel)
//   input gradient   rows: input pixels    columns: input channels    k: (tap, output channel)
//   weight gradient  rows: output channels columns: (input channel, tap), and one of ones for the
//                                                   bias              k: output pixels
//
// The terms of the weight gradient are cut into parts, by the shape alone, whose sums another
// kernel adds up in their order.
namespace lockstep::cuda {
namespace {

// Images as (image, channel, row, column), wherever they lie.
struct Images {
  int64_t channels = 0, h = 0, w = 0;
  int64_t image_stride = 0, channel_stride = 0, row_stride = 0, pixel_stride = 0;
  Divisor by_h, by_w, by_area;

  Images(const Tensor& t, bool channels_last)
      : channels(t.size(1)), h(t.size(2)), w(t.size(3)), by_h(h), by_w(w), by_area(h * w) {
    image_stride = channels * h * w;
    channel_stride = channels_last ? 1 : h * w;
    pixel_stride = channels_last ? channels : 1;
    row_stride = w * pixel_stride;
  }
  __device__ int64_t place(int64_t row, int64_t column) const {
    return row * row_stride + column * pixel_stride;
  }
};

struct Conv {
  Images x, y;
  int64_t n = 0;
  int64_t groups = 1, c = 0, o = 0;  // channels of a group
  int64_t kh = 1, kw = 1;
  Conv2dParams params;
  bool channels_last = false;
  Divisor by_c, by_o, by_kw, by_taps, by_groups, by_stride[2];

  Conv(const Tensor& x_like, const Tensor& y_like, const Tensor& w, const Conv2dParams& p)
      : x(x_like, false), y(y_like, false), n(x_like.size(0)), groups(p.groups), params(p) {
    channels_last = x_like.is_channels_last() && y_like.is_channels_last();
    x = Images(x_like, channels_last);
    y = Images(y_like, channels_last);
    c = w.size(1);
    o = w.size(0) / groups;
    kh = w.size(2);
    kw = w.size(3);
    by_c = Divisor(c);
    by_o = Divisor(o);
    by_kw = Divisor(kw);
    by_taps = Divisor(taps());
    by_groups = Divisor(groups);
    for (int d = 0; d < 2; ++d) by_stride[d] = Divisor(params.stride[d]);
  }
  LOCKSTEP_HD int64_t taps() const { return kh * kw; }
  int64_t outputs() const { return n * y.h * y.w; }  // pixels
  int64_t inputs() const { return n * x.h * x.w; }

  // Where a tap of an output's row, or column, reads; beyond the input where it meets padding.
  __device__ int64_t read_row(int64_t output, int64_t tap) const {
    return output * params.stride[0] - params.padding[0] + tap * params.dilation[0];
  }
  __device__ int64_t read_column(int64_t output, int64_t tap) const {
    return output * params.stride[1] - params.padding[1] + tap * params.dilation[1];
  }
};

__device__ bool within(int64_t i, int64_t size) { return i >= 0 && i < size; }

// A pixel, in a number of all of them.
struct Pixel {
  int64_t image, row, column;
};
__device__ Pixel pixel_of(int64_t i, const Images& images) {
  Pixel p;
  int64_t rest;
  p.column = images.by_w.remainder(i, &rest);
  p.row = images.by_h.remainder(rest, &p.image);
  return p;
}

// k as a tap and a channel, which is the faster.
struct Term {
  int64_t channel, tap, row, column;
};
__device__ Term term_of(int64_t k, const Divisor& by_channels, const Divisor& by_kw) {
  Term t;
  t.channel = by_channels.remainder(k, &t.tap);
  t.column = by_kw.remainder(t.tap, &t.row);
  return t;
}

// What the output pixels see of the input.
template <typename T>
struct Patches {
  struct Line {
    const T* data;
    int64_t row, column;  // of the output
  };
  const T* x;
  const Conv& conv;
  int64_t group;
  bool along_line = false;

  __device__ Line line(int64_t index) const {
    const Pixel p = pixel_of(index, conv.y);
    return {x + p.image * conv.x.image_stride + group * conv.c * conv.x.channel_stride, p.row,
            p.column};
  }
  __device__ Compute<T> at(const Line& line, int64_t k) const {
    const Term t = term_of(k, conv.by_c, conv.by_kw);
    const int64_t row = conv.read_row(line.row, t.row);
    const int64_t column = conv.read_column(line.column, t.column);
    if (!within(row, conv.x.h) || !within(column, conv.x.w)) return 0;
    return static_cast<Compute<T>>(
        line.data[t.channel * conv.x.channel_stride + conv.x.place(row, column)]);
  }
};

// What the input pixels hear from the output.
template <typename T>
struct Echoes {
  struct Line {
    const T* data;
    int64_t row, column;  // of the input
  };
  const T* gy;
  const Conv& conv;
  int64_t group;
  bool along_line = false;

  __device__ Line line(int64_t index) const {
    const Pixel p = pixel_of(index, conv.x);
    return {gy + p.image * conv.y.image_stride + group * conv.o * conv.y.channel_stride, p.row,
            p.column};
  }
  // The output whose tap reads input `i`, or -1.
  __device__ int64_t source(int64_t i, int64_t tap, int dim, int64_t size) const {
    const int64_t from = i + conv.params.padding[dim] - tap * conv.params.dilation[dim];
    if (from < 0) return -1;
    int64_t output;
    const bool hit = conv.by_stride[dim].remainder(from, &output) == 0;
    return hit && output < size ? output : -1;
  }
  __device__ Compute<T> at(const Line& line, int64_t k) const {
    const Term t = term_of(k, conv.by_o, conv.by_kw);
    const int64_t row = source(line.row, t.row, 0, conv.y.h);
    const int64_t column = source(line.column, t.column, 1, conv.y.w);
    if (row < 0 || column < 0) return 0;
    return static_cast<Compute<T>>(
        line.data[t.channel * conv.y.channel_stride + conv.y.place(row, column)]);
  }
};

// Weights, (o, c, kh, kw): the line is a channel of one side, k a tap and a channel of the other.
template <typename T>
struct Weights {
  using Line = const T*;
  const T* w;  // of the group
  int64_t line_stride, channel_stride;
  const Divisor& by_channels;
  bool along_line = true;

  __device__ Line line(int64_t index) const { return w + index * line_stride; }
  __device__ Compute<T> at(const Line& line, int64_t k) const {
    int64_t tap;
    const int64_t channel = by_channels.remainder(k, &tap);
    return static_cast<Compute<T>>(line[channel * channel_stride + tap]);
  }
};

// Gradients of one output channel, pixel by pixel.
template <typename T>
struct OutputChannels {
  using Line = const T*;
  const T* gy;
  const Conv& conv;
  int64_t group;
  bool along_line;

  __device__ Line line(int64_t index) const {
    return gy + (group * conv.o + index) * conv.y.channel_stride;
  }
  __device__ Compute<T> at(const Line& line, int64_t k) const {
    int64_t image;
    const int64_t pixel = conv.y.by_area.remainder(k, &image);
    return static_cast<Compute<T>>(line[image * conv.y.image_stride + pixel * conv.y.pixel_stride]);
  }
};

// What one tap reads of one input channel, output pixel by output pixel; behind the last, ones.
template <typename T>
struct Taps {
  struct Line {
    const T* data;  // null: ones
    int64_t row, column;
  };
  const T* x;
  const Conv& conv;
  int64_t group;
  bool along_line = false;

  __device__ Line line(int64_t index) const {
    int64_t channel, row;
    const int64_t tap = conv.by_taps.remainder(index, &channel);
    const int64_t column = conv.by_kw.remainder(tap, &row);
    if (channel == conv.c) return {nullptr, 0, 0};
    return {x + (group * conv.c + channel) * conv.x.channel_stride, row, column};
  }
  __device__ Compute<T> at(const Line& line, int64_t k) const {
    if (!line.data) return 1;
    const Pixel p = pixel_of(k, conv.y);
    const int64_t row = conv.read_row(p.row, line.row);
    const int64_t column = conv.read_column(p.column, line.column);
    if (!within(row, conv.x.h) || !within(column, conv.x.w)) return 0;
    return static_cast<Compute<T>>(
        line.data[p.image * conv.x.image_stride + conv.x.place(row, column)]);
  }
};

// Channels of a group at the pixels of images, plus a bias where there is one.
template <typename T>
struct Pixels {
  T* data;
  const T* bias;  // null, or of the group
  const Images& images;
  int64_t first_channel;
  bool along_rows;

  __device__ int64_t place(int64_t row) const {
    const Pixel p = pixel_of(row, images);
    return p.image * images.image_stride + first_channel * images.channel_stride +
           images.place(p.row, p.column);
  }
  __device__ void put(int64_t place, int64_t column, Compute<T> sum) const {
    if (bias) sum += static_cast<Compute<T>>(bias[column]);
    data[place + column * images.channel_stride] = T(sum);
  }
};

template <typename C>
struct Partials {
  C* data;
  int64_t columns;
  bool along_rows = false;
  __device__ int64_t place(int64_t row) const { return row * columns; }
  __device__ void put(int64_t place, int64_t column, C sum) const { data[place + column] = sum; }
};

template <typename T>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(T* y, const T* x, const T* w, const T* bias, const Conv conv, const Tiles tiles,
                   int64_t pixels) {
  const int64_t terms = conv.c * conv.taps();
  for (int64_t i = blockIdx.x; i < tiles.count(); i += gridDim.x) {
    const Tiles::Tile tile = tiles.tile(i);
    const Patches<T> rows{x, conv, tile.result};
    const Weights<T> columns{w + tile.result * conv.o * terms, terms, conv.taps(), conv.by_c};
    const int64_t channel = tile.result * conv.o;
    tile_product<Compute<T>>(
        rows, tile.row, pixels, columns, tile.column, conv.o, 0, terms,
        Pixels<T>{y, bias ? bias + channel : nullptr, conv.y, channel, !conv.channels_last});
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    input_gradient_kernel(T* gx, const T* gy, const T* w, const Conv conv, const Tiles tiles,
                          int64_t pixels) {
  const int64_t weights = conv.c * conv.taps();  // of an output channel
  for (int64_t i = blockIdx.x; i < tiles.count(); i += gridDim.x) {
    const Tiles::Tile tile = tiles.tile(i);
    const Echoes<T> rows{gy, conv, tile.result};
    const Weights<T> columns{w + tile.result * conv.o * weights, conv.taps(), weights, conv.by_o};
    tile_product<Compute<T>>(
        rows, tile.row, pixels, columns, tile.column, conv.c, 0, conv.o * conv.taps(),
        Pixels<T>{gx, nullptr, conv.x, tile.result * conv.c, !conv.channels_last});
  }
}

// partial: [parts, groups * o, columns]
template <typename T>
__global__ void __launch_bounds__(kThreads)
    weight_gradient_kernel(Compute<T>* partial, const T* gy, const T* x, const Conv conv,
                           const Tiles tiles, int64_t columns, int64_t pixels, int64_t per_part) {
  for (int64_t i = blockIdx.x; i < tiles.count(); i += gridDim.x) {
    const Tiles::Tile tile = tiles.tile(i);
    int64_t part;
    const int64_t group = conv.by_groups.remainder(tile.result, &part);
    const OutputChannels<T> rows{gy, conv, group, !conv.channels_last};
    const Taps<T> taps{x, conv, group};
    const int64_t begin = part * per_part;
    const int64_t end = begin + per_part < pixels ? begin + per_part : pixels;
    Compute<T>* const out = partial + (part * conv.groups + group) * conv.o * columns;
    tile_product<Compute<T>>(rows, tile.row, conv.o, taps, tile.column, columns, begin, end,
                             Partials<Compute<T>>{out, columns});
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    add_parts_kernel(T* gw, T* gbias, const Compute<T>* partial, int64_t outputs, int64_t columns,
                     Divisor by_columns, int64_t weights, int64_t parts) {
  const int64_t sums = outputs * columns;
  for (int64_t i = grid_index(); i < sums; i += grid_size()) {
    double sum = 0;
    for (int64_t part = 0; part < parts; ++part) {
      sum += static_cast<double>(partial[part * sums + i]);
    }
    int64_t o;
    const int64_t column = by_columns.remainder(i, &o);
    T* const to = column < weights ? gw + o * weights + column : gbias + o;
    *to = T(static_cast<Compute<T>>(sum));
  }
}

}  // namespace

void conv2d_by_kernel(cudaStream_t stream, const Tensor& y, const Tensor& x, const Tensor& w,
                      const Tensor& bias, const Conv2dParams& params) {
  if (y.numel() == 0) return;
  const Conv conv(x, y, w, params);
  const Tiles tiles(conv.outputs(), conv.o, conv.groups);
  dispatch_floating("conv2d", x.dtype(), [&](auto type) {
    using T = decltype(type);
    launch(stream, blocks_for(tiles.count(), 1), kThreads, forward_kernel<T>, data_of<T>(y),
           data_of<T>(x), data_of<T>(w), data_of<T>(bias), conv, tiles, conv.outputs());
  });
}

void conv2d_input_gradient_by_kernel(cudaStream_t stream, const Tensor& gx, const Tensor& gy,
                                     const Tensor& w, const Conv2dParams& params) {
  if (gx.numel() == 0) return;
  const Conv conv(gx, gy, w, params);
  const Tiles tiles(conv.inputs(), conv.c, conv.groups);
  dispatch_floating("conv2d_input_gradient", gx.dtype(), [&](auto type) {
    using T = decltype(type);
    launch(stream, blocks_for(tiles.count(), 1), kThreads, input_gradient_kernel<T>, data_of<T>(gx),
           data_of<T>(gy), data_of<T>(w), conv, tiles, conv.inputs());
  });
}

void conv2d_weight_gradient_by_kernel(cudaStream_t stream, const Tensor& gw, const Tensor& gbias,
                                      const Tensor& gy, const Tensor& x,
                                      const Conv2dParams& params) {
  const Conv conv(x, gy, gw, params);
  const int64_t outputs = conv.groups * conv.o, weights = conv.c * conv.taps();
  const int64_t columns = weights + (gbias.defined() ? 1 : 0), pixels = conv.outputs();
  if (outputs * columns == 0) return;
  const Tiles group_tiles(conv.o, columns, conv.groups);
  constexpr int64_t kBlocks = 512, kLeast = 512;  // blocks in all, pixels of a part
  constexpr int64_t kMostPartials = int64_t{1} << 26;
  const int64_t most = std::min(
      {pixels / kLeast, kBlocks / group_tiles.count(), kMostPartials / (outputs * columns)});
  const int64_t wanted = std::max<int64_t>(most, 1);
  const int64_t per_part =
      ((pixels + wanted - 1) / wanted + kTileDepth - 1) / kTileDepth * kTileDepth;
  const int64_t parts = pixels > 0 ? (pixels + per_part - 1) / per_part : 1;
  const Tiles tiles(conv.o, columns, conv.groups * parts);
  dispatch_floating("conv2d_weight_gradient", x.dtype(), [&](auto type) {
    using T = decltype(type);
    const Tensor partial = empty_dense({parts, outputs, columns}, kDTypeOf<Compute<T>>, x.device());
    launch(stream, blocks_for(tiles.count(), 1), kThreads, weight_gradient_kernel<T>,
           data_of<Compute<T>>(partial), data_of<T>(gy), data_of<T>(x), conv, tiles, columns,
           pixels, per_part);
    launch(stream, blocks_for(outputs * columns), kThreads, add_parts_kernel<T>, data_of<T>(gw),
           data_of<T>(gbias), data_of<Compute<T>>(partial), outputs, columns, Divisor(columns),
           weights, parts);
  });
}

}  // namespace lockstep::cuda
