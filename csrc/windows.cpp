#include <algorithm>
#include <vector>

#include "ops.h"
#include "simd.h"

namespace fastsync {
namespace {

// What a window adds to a canvas row, all channels at once; planes lie `x_plane` and `sum_plane` elements apart. Defined
// for each type, since clones cannot be templates.
#define FASTSYNC_ROWS(T)                                                                                             \
  FASTSYNC_CLONES void add(const T* __restrict x, T* __restrict sum, int64_t n) {                                    \
    for (int64_t i = 0; i < n; ++i) sum[i] += x[i];                                                                  \
  }                                                                                                                  \
  FASTSYNC_CLONES void add_weighted(const T* __restrict x, const T* __restrict weight, T* __restrict sum,            \
                                    T* __restrict total, int64_t n, int64_t channels, int64_t x_plane,               \
                                    int64_t sum_plane) {                                                             \
    for (int64_t i = 0; i < n; ++i) total[i] += weight[i];                                                           \
    for (int64_t c = 0; c < channels; ++c, x += x_plane, sum += sum_plane)                                           \
      for (int64_t i = 0; i < n; ++i) sum[i] += weight[i] != 0 ? weight[i] * x[i] : T(0);                            \
  }                                                                                                                  \
  FASTSYNC_CLONES void divide(T* __restrict sum, const T* __restrict total, const T* __restrict kept, int64_t n) {   \
    for (int64_t i = 0; i < n; ++i) sum[i] = total[i] > 0 ? sum[i] / total[i] : kept[i];                             \
  }
FASTSYNC_ROWS(float)
FASTSYNC_ROWS(double)
#undef FASTSYNC_ROWS

int64_t modulo(int64_t v, int64_t p) {
  const int64_t r = v % p;
  return r < 0 ? r + p : r;
}

// The row of window n that lies on canvas row y, or -1; and the canvas column of its first cell.
int64_t row_of(const Windows& at, int64_t n, int64_t y, int64_t* column) {
  *column = modulo(at.origins[2 * n + 1], at.width);
  const int64_t row = modulo(y - at.origins[2 * n], at.height);
  return row < at.h ? row : -1;
}

}  // namespace

template <typename T>
void accumulate(const T* views, const Windows& at, T* canvas, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t y = unit % at.height, channel = unit / at.height;
    T* sum = canvas + unit * at.width;
    std::fill(sum, sum + at.width, T(0));
    for (int64_t n = 0; n < at.count; ++n) {
      int64_t column;
      const int64_t row = row_of(at, n, y, &column);
      if (row < 0) continue;
      const T* x = views + ((n * at.channels + channel) * at.h + row) * at.w;
      const int64_t first = std::min(at.w, at.width - column);  // what is left wraps around the border
      add(x, sum + column, first);
      if (first < at.w) add(x + first, sum, at.w - first);
    }
  }
}

template <typename T>
void merge(const T* views, const T* weights, bool shared, const Windows& at, const T* previous, T* canvas, int64_t begin,
           int64_t end) {
  std::vector<T> total(at.width), nothing(at.width, T(0));
  for (int64_t y = begin; y < end; ++y) {
    std::fill(total.begin(), total.end(), T(0));
    const auto row_at = [&](int64_t channel) { return (channel * at.height + y) * at.width; };
    for (int64_t c = 0; c < at.channels; ++c) std::fill_n(canvas + row_at(c), at.width, T(0));
    for (int64_t n = 0; n < at.count; ++n) {
      int64_t column;
      const int64_t row = row_of(at, n, y, &column);
      if (row < 0) continue;
      const T* weight = weights + ((shared ? 0 : n) * at.h + row) * at.w;
      const int64_t first = std::min(at.w, at.width - column);
      const T* x = views + (n * at.channels * at.h + row) * at.w;
      add_weighted(x, weight, canvas + row_at(0) + column, total.data() + column, first, at.channels, at.h * at.w,
                   at.height * at.width);
      if (first < at.w)
        add_weighted(x + first, weight + first, canvas + row_at(0), total.data(), at.w - first, at.channels, at.h * at.w,
                     at.height * at.width);
    }
    for (int64_t c = 0; c < at.channels; ++c)
      divide(canvas + row_at(c), total.data(), previous ? previous + row_at(c) : nothing.data(), at.width);
  }
}

template void accumulate(const float*, const Windows&, float*, int64_t, int64_t);
template void accumulate(const double*, const Windows&, double*, int64_t, int64_t);
template void merge(const float*, const float*, bool, const Windows&, const float*, float*, int64_t, int64_t);
template void merge(const double*, const double*, bool, const Windows&, const double*, double*, int64_t, int64_t);

}  // namespace fastsync
