#include <algorithm>

#include "ops.h"

namespace fastsync {
namespace {

// x / d for 0 <= x < 2^31 without the slow division: the high half of a product with 2^64 / d.
class Divisor {
 public:
  explicit Divisor(int64_t d) : inverse_(d > 1 ? ~uint64_t(0) / uint64_t(d) + 1 : 0) {}
  int64_t operator()(int32_t x) const {
    return inverse_ ? int64_t(static_cast<unsigned __int128>(inverse_) * uint32_t(x) >> 64) : x;
  }

 private:
  uint64_t inverse_;
};

// The sums of D channels from `first` on, and with them the sum of the confidence where `total` is given.
template <typename T, int64_t D>
void sorted_group(const T* views, const T* confidence, const int64_t* start, const int32_t* pixel, const T* weight,
                  T* canvas, T* total, int64_t first, int64_t channels, int64_t pixels, int64_t cells, int64_t begin,
                  int64_t end) {
  const Divisor view_of(pixels);
  const int64_t rest = (channels - 1) * pixels;
  views += first * pixels;
  for (int64_t cell = begin; cell < end; ++cell) {
    T sum[D] = {}, trust = 0;
    const int64_t last = start[cell + 1];
    for (int64_t tap = start[cell]; tap < last; ++tap) {
      T w = weight[tap];
      if (confidence) {
        w *= confidence[pixel[tap]];
        trust += w;
        if (confidence[pixel[tap]] == 0) continue;
      }
      const T* x = views + pixel[tap] + view_of(pixel[tap]) * rest;
      for (int64_t d = 0; d < D; ++d) sum[d] += w * x[d * pixels];
    }
    for (int64_t d = 0; d < D; ++d) canvas[(first + d) * cells + cell] = sum[d];
    if (total) total[cell] = trust;
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
void splat_sorted(const T* views, const T* confidence, const int64_t* start, const int32_t* pixel, const T* weight,
                  T* canvas, int64_t channels, int64_t pixels, int64_t cells, int64_t begin, int64_t end) {
  T* total = confidence ? canvas + channels * cells : nullptr;
  for (int64_t first = 0; first < channels; first += 4) {
    const auto group = [&](auto rule) {
      rule(views, confidence, start, pixel, weight, canvas, first ? nullptr : total, first, channels, pixels, cells,
           begin, end);
    };
    switch (channels - first) {
      case 1: group(sorted_group<T, 1>); break;
      case 2: group(sorted_group<T, 2>); break;
      case 3: group(sorted_group<T, 3>); break;
      default: group(sorted_group<T, 4>);
    }
  }
}

template <typename T>
void splat_scan(const T* views, const T* confidence, const int32_t* index, const T* weight, T* canvas, int64_t channels,
                int64_t pixels, int64_t cells, int64_t count, int64_t taps, int64_t begin, int64_t end) {
  for (int64_t unit = 0; unit < count; ++unit) {
    const T trust = confidence ? confidence[unit] : T(1);
    const T* x = views + (unit / pixels * channels) * pixels + unit % pixels;
    for (int64_t k = unit * taps; k < (unit + 1) * taps; ++k) {
      const int64_t cell = index[k];
      if (cell < begin || cell >= end) continue;
      const T w = weight[k] * trust;
      if (confidence) canvas[channels * cells + cell] += w;
      if (trust == 0) continue;
      for (int64_t c = 0; c < channels; ++c) canvas[c * cells + cell] += w * x[c * pixels];
    }
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
  template void splat_sorted(const T*, const T*, const int64_t*, const int32_t*, const T*, T*, int64_t, int64_t,       \
                             int64_t, int64_t, int64_t);                                                               \
  template void splat_scan(const T*, const T*, const int32_t*, const T*, T*, int64_t, int64_t, int64_t, int64_t,       \
                           int64_t, int64_t, int64_t);                                                                 \
  template void sort_taps_fill(const int32_t*, const T*, int64_t, int64_t, int64_t, const int64_t*, int64_t*,          \
                               int32_t*, T*);
FASTSYNC_TAPS(float)
FASTSYNC_TAPS(double)

}  // namespace fastsync
