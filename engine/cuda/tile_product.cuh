#pragma once

#include "lockstep/engine/cuda/division.cuh"
#include "lockstep/engine/cuda/kernel.cuh"

// The product of two matrices, each read through an operand, a tile of the result to each block.
//
// An operand is a set of lines, the rows of A or the columns of B, of which it gives elements:
//
//   struct Operand {
//     using Line = ...;                     what depends on the line only, computed once
//     bool along_line;                      neighbours along k are neighbours in memory; otherwise
//                                           those of neighbouring lines are
//     Line line(int64_t index) const;       0 <= index < number of lines
//     T at(const Line& line, int64_t k) const;
//   };
//
// A block of kThreads threads goes through k in steps of kDepth: all threads load a tile of A and
// one of B into shared memory, then each adds to its 4 x 4 results, which lie 16 rows and 16
// columns apart, so that neighbouring threads read neighbouring words. Every 256 terms the results
// are added to another set: the error of long sums grows with k / 256 + 256, not with k.
namespace lockstep::cuda {

inline constexpr int kTileLines = 64;
inline constexpr int kTileDepth = 16;

template <typename T>
struct SharedTile {
  T values[kTileDepth][kTileLines + 1];  // the odd pitch spreads a line over the banks
};

template <typename T, typename Operand>
struct TileLoader {
  static constexpr int kPerThread = kTileLines * kTileDepth / kThreads;

  const Operand& operand;
  const int64_t first, lines;
  typename Operand::Line mine{};  // if not along_line: each thread stays with its line

  __device__ TileLoader(const Operand& o, int64_t first_line, int64_t line_count)
      : operand(o), first(first_line), lines(line_count) {
    const int64_t line = first + threadIdx.x % kTileLines;
    if (!operand.along_line && line < lines) mine = operand.line(line);
  }

  __device__ void load(SharedTile<T>* tile, int64_t begin, int64_t end) const {
    const int t = static_cast<int>(threadIdx.x);
    if (operand.along_line) {
      const int k = t % kTileDepth;
      for (int j = 0; j < kPerThread; ++j) {
        const int i = t / kTileDepth + j * (kThreads / kTileDepth);
        const bool inside = first + i < lines && begin + k < end;
        tile->values[k][i] = inside ? operand.at(operand.line(first + i), begin + k) : T(0);
      }
    } else {
      const int i = t % kTileLines;
      for (int j = 0; j < kPerThread; ++j) {
        const int k = t / kTileLines + j * (kThreads / kTileLines);
        const bool inside = first + i < lines && begin + k < end;
        tile->values[k][i] = inside ? operand.at(mine, begin + k) : T(0);
      }
    }
  }
};

// The tile, whose first row and column are given, of the product: the sums over k in [begin, end)
// of a(row, k) b(column, k). All threads of the block call it. Results go to
//
//   struct Out {
//     bool along_rows;                 neighbouring rows are neighbours in memory
//     int64_t place(int64_t row) const;
//     void put(int64_t place, int64_t column, T sum) const;
//   };
template <typename T, typename A, typename B, typename Out>
__device__ void tile_product(const A& a, int64_t row, int64_t rows, const B& b, int64_t column,
                             int64_t columns, int64_t begin, int64_t end, const Out& out) {
  constexpr int kSide = 4, kApart = kTileLines / kSide;
  constexpr int kChunk = 256 / kTileDepth;  // steps
  __shared__ SharedTile<T> tile_a, tile_b;
  const TileLoader<T, A> load_a(a, row, rows);
  const TileLoader<T, B> load_b(b, column, columns);
  const int fast = static_cast<int>(threadIdx.x) % kApart;
  const int slow = static_cast<int>(threadIdx.x) / kApart;
  const int i0 = out.along_rows ? fast : slow, j0 = out.along_rows ? slow : fast;
  T total[kSide][kSide] = {}, sum[kSide][kSide] = {};
  int steps = 0;
  for (int64_t k = begin; k < end; k += kTileDepth) {
    load_a.load(&tile_a, k, end);
    load_b.load(&tile_b, k, end);
    __syncthreads();
    for (int depth = 0; depth < kTileDepth; ++depth) {
      T x[kSide], y[kSide];
      for (int i = 0; i < kSide; ++i) x[i] = tile_a.values[depth][i0 + i * kApart];
      for (int j = 0; j < kSide; ++j) y[j] = tile_b.values[depth][j0 + j * kApart];
      for (int i = 0; i < kSide; ++i) {
        for (int j = 0; j < kSide; ++j) sum[i][j] += x[i] * y[j];
      }
    }
    __syncthreads();
    if (++steps == kChunk || k + kTileDepth >= end) {
      steps = 0;
      for (int i = 0; i < kSide; ++i) {
        for (int j = 0; j < kSide; ++j) {
          total[i][j] += sum[i][j];
          sum[i][j] = T(0);
        }
      }
    }
  }
  // Unrolled, or the results would have to lie in memory.
#pragma unroll
  for (int i = 0; i < kSide; ++i) {
    const int64_t at_row = row + i0 + i * kApart;
    const int64_t place = at_row < rows ? out.place(at_row) : 0;
#pragma unroll
    for (int j = 0; j < kSide; ++j) {
      const int64_t at_column = column + j0 + j * kApart;
      if (at_row < rows && at_column < columns) out.put(place, at_column, total[i][j]);
    }
  }
}

// The tiles of results, some of the same size, of which each block takes one at a time.
struct Tiles {
  int64_t rows, columns, results;
  Divisor by_rows{rows}, by_columns{columns};

  Tiles(int64_t row_count, int64_t column_count, int64_t result_count)
      : rows((row_count + kTileLines - 1) / kTileLines),
        columns((column_count + kTileLines - 1) / kTileLines),
        results(result_count) {}
  LOCKSTEP_HD int64_t count() const { return rows * columns * results; }

  struct Tile {
    int64_t result, row, column;  // its first row and column
  };
  __device__ Tile tile(int64_t i) const {
    Tile t;
    int64_t rest;
    t.column = by_columns.remainder(i, &rest) * kTileLines;
    t.row = by_rows.remainder(rest, &t.result) * kTileLines;
    return t;
  }
};

}  // namespace lockstep::cuda
