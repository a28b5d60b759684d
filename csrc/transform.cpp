#include <algorithm>

#include "ops.h"
#include "simd.h"

namespace fastsync {
namespace {

#define FASTSYNC_GATHER(T)                                                                                            \
  FASTSYNC_CLONES void gather(const T* __restrict x, const int64_t* __restrict index, T factor, T* __restrict y,      \
                              int64_t n) {                                                                            \
    for (int64_t i = 0; i < n; ++i) y[i] = index[i] < 0 ? T(0) : factor * x[index[i]];                                \
  }
FASTSYNC_GATHER(float)
FASTSYNC_GATHER(double)
#undef FASTSYNC_GATHER

}  // namespace

template <typename T>
void transform(const T* x, const int64_t* index, bool shared, const T* factor, T* y, int64_t channels, int64_t in,
               int64_t h, int64_t w, int64_t begin, int64_t end) {
  // Tiles of rows and columns, so that a turned picture's columns come from memory lines that are still at hand.
  constexpr int64_t rows = 16, columns = 128;
  const int64_t cells = h * w;
  for (; begin < end; ++begin) {
    const int64_t b = begin / strips(h), top = begin % strips(h) * rows, bottom = std::min(h, top + rows);
    const int64_t* map = index + (shared ? 0 : b * cells);
    for (int64_t left = 0; left < w; left += columns)
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t plane = b * channels + c;
        for (int64_t at = top * w + left; at < bottom * w; at += w)
          gather(x + plane * in, map + at, factor ? factor[b] : T(1), y + plane * cells + at, std::min(columns, w - left));
      }
  }
}

template void transform(const float*, const int64_t*, bool, const float*, float*, int64_t, int64_t, int64_t, int64_t,
                        int64_t, int64_t);
template void transform(const double*, const int64_t*, bool, const double*, double*, int64_t, int64_t, int64_t, int64_t,
                        int64_t, int64_t);

}  // namespace fastsync
