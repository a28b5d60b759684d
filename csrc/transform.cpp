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
               int64_t out, int64_t begin, int64_t end) {
  constexpr int64_t block = 2048;  // the piece of the index that stays in the first cache for all channels
  while (begin < end) {
    const int64_t b = begin / out, first = begin % out;
    const int64_t n = std::min({end - begin, out - first, block});
    const int64_t* piece = index + (shared ? 0 : b * out) + first;
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t plane = b * channels + c;
      gather(x + plane * in, piece, factor ? factor[b] : T(1), y + plane * out + first, n);
    }
    begin += n;
  }
}

template void transform(const float*, const int64_t*, bool, const float*, float*, int64_t, int64_t, int64_t, int64_t,
                        int64_t);
template void transform(const double*, const int64_t*, bool, const double*, double*, int64_t, int64_t, int64_t, int64_t,
                        int64_t);

}  // namespace fastsync
