#include <algorithm>

#include "ops.h"

namespace fastsync {
namespace {

constexpr int64_t kBlock = 256;  // cells whose sums are held together before they are written plane by plane

// Depths of 3 and 4 (colours, colours with a weight) are known to the compiler; others come in pieces of up to 4.
template <typename T, int64_t D>
void sorted_piece(const T* packed, const int64_t* start, const int32_t* pixel, const T* weight, T* canvas, int64_t depth,
                  int64_t first, int64_t cells, int64_t begin, int64_t end) {
  T sums[D][kBlock];
  for (int64_t base = begin; base < end; base += kBlock) {
    const int64_t n = std::min(kBlock, end - base);
    for (int64_t i = 0; i < n; ++i) {
      T sum[D] = {};
      const int64_t last = start[base + i + 1];
      for (int64_t tap = start[base + i]; tap < last; ++tap) {
        const T* x = packed + int64_t(pixel[tap]) * depth + first;
        const T w = weight[tap];
        for (int64_t d = 0; d < D; ++d) sum[d] += w * x[d];
      }
      for (int64_t d = 0; d < D; ++d) sums[d][i] = sum[d];
    }
    for (int64_t d = 0; d < D; ++d) std::copy_n(sums[d], n, canvas + (first + d) * cells + base);
  }
}

}  // namespace

template <typename T>
void resample(const T* z, const int32_t* index, const T* weight, T* views, int64_t channels, int64_t cells,
              int64_t pixels, int64_t taps, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / pixels, p = unit % pixels;
    for (int64_t c = 0; c < channels; ++c) {
      const T* plane = z + c * cells;
      T sum = 0;
      for (int64_t k = unit * taps; k < (unit + 1) * taps; ++k)
        if (index[k] >= 0) sum += weight[k] * plane[index[k]];
      views[(n * channels + c) * pixels + p] = sum;
    }
  }
}

template <typename T>
void pack(const T* views, const T* confidence, T* packed, int64_t channels, int64_t pixels, int64_t begin, int64_t end) {
  const int64_t depth = channels + (confidence ? 1 : 0);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / pixels, p = unit % pixels;
    T* out = packed + unit * depth;
    const T w = confidence ? confidence[unit] : T(1);
    for (int64_t c = 0; c < channels; ++c) {
      const T x = views[(n * channels + c) * pixels + p];
      out[c] = !confidence ? x : w != 0 ? w * x : T(0);
    }
    if (confidence) out[channels] = w;
  }
}

template <typename T>
void splat_sorted(const T* packed, const int64_t* start, const int32_t* pixel, const T* weight, T* canvas, int64_t depth,
                  int64_t cells, int64_t begin, int64_t end) {
  int64_t first = 0;
  for (; depth - first >= 4; first += 4)
    sorted_piece<T, 4>(packed, start, pixel, weight, canvas, depth, first, cells, begin, end);
  switch (depth - first) {
    case 3: return sorted_piece<T, 3>(packed, start, pixel, weight, canvas, depth, first, cells, begin, end);
    case 2: return sorted_piece<T, 2>(packed, start, pixel, weight, canvas, depth, first, cells, begin, end);
    case 1: return sorted_piece<T, 1>(packed, start, pixel, weight, canvas, depth, first, cells, begin, end);
  }
}

template <typename T>
void splat_scan(const T* packed, const int32_t* index, const T* weight, T* canvas, int64_t depth, int64_t cells,
                int64_t count, int64_t taps, int64_t begin, int64_t end) {
  for (int64_t k = 0; k < count; ++k) {
    const int64_t cell = index[k];
    if (cell < begin || cell >= end) continue;
    const T* x = packed + k / taps * depth;
    for (int64_t d = 0; d < depth; ++d) canvas[d * cells + cell] += weight[k] * x[d];
  }
}

int64_t sort_taps_count(const int32_t* index, int64_t count, int64_t cells, int64_t* start) {
  std::fill(start, start + cells + 1, int64_t(0));
  for (int64_t k = 0; k < count; ++k)
    if (index[k] >= 0) ++start[index[k] + 1];
  for (int64_t cell = 0; cell < cells; ++cell) start[cell + 1] += start[cell];
  return start[cells];
}

template <typename T>
void sort_taps_fill(const int32_t* index, const T* weight, int64_t count, int64_t taps, int64_t cells,
                    const int64_t* start, int64_t* next, int32_t* pixel, T* sorted_weight) {
  std::copy(start, start + cells, next);
  for (int64_t k = 0; k < count; ++k) {
    if (index[k] < 0) continue;
    const int64_t slot = next[index[k]]++;
    pixel[slot] = int32_t(k / taps);
    sorted_weight[slot] = weight[k];
  }
}

#define FASTSYNC_TAPS(T)                                                                                               \
  template void resample(const T*, const int32_t*, const T*, T*, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t); \
  template void pack(const T*, const T*, T*, int64_t, int64_t, int64_t, int64_t);                                       \
  template void splat_sorted(const T*, const int64_t*, const int32_t*, const T*, T*, int64_t, int64_t, int64_t,        \
                             int64_t);                                                                                 \
  template void splat_scan(const T*, const int32_t*, const T*, T*, int64_t, int64_t, int64_t, int64_t, int64_t,        \
                           int64_t);                                                                                   \
  template void sort_taps_fill(const int32_t*, const T*, int64_t, int64_t, int64_t, const int64_t*, int64_t*,          \
                               int32_t*, T*);
FASTSYNC_TAPS(float)
FASTSYNC_TAPS(double)

}  // namespace fastsync
