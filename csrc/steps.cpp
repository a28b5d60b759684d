#include <vector>

#include "neighbour.h"
#include "ops.h"
#include "simd.h"

namespace fastsync {
namespace {

// Clones cannot be templates: the loops are defined for each type.
#define FASTSYNC_LOOPS(T)                                                                                             \
  FASTSYNC_CLONES void guide(const T* raw, const T* uncond, T s, T* __restrict r, int64_t n) {                        \
    for (int64_t i = 0; i < n; ++i) r[i] = uncond[i] + s * (raw[i] - uncond[i]);                                      \
  }                                                                                                                   \
  FASTSYNC_CLONES void from_epsilon(const T* x, T a, T b, T* __restrict x0, const T* r, int64_t n) {                  \
    for (int64_t i = 0; i < n; ++i) x0[i] = (x[i] - b * r[i]) / a;                                                    \
  }                                                                                                                   \
  FASTSYNC_CLONES void combine(const T* x, T px, const T* r, T pr, T* __restrict y, int64_t n) {                      \
    for (int64_t i = 0; i < n; ++i) y[i] = px * x[i] + pr * r[i];                                                     \
  }                                                                                                                   \
  FASTSYNC_CLONES void add(const T* x, T factor, T* __restrict y, int64_t n) {                                        \
    for (int64_t i = 0; i < n; ++i) y[i] += factor * x[i];                                                            \
  }                                                                                                                   \
  FASTSYNC_CLONES void draw_near(const T* x, const T* target, const T* weight, T pull, T* __restrict y, int64_t n) {  \
    for (int64_t i = 0; i < n; ++i) y[i] -= weight[i] != 0 ? pull * weight[i] * (x[i] - target[i]) : T(0);            \
  }
FASTSYNC_LOOPS(float)
FASTSYNC_LOOPS(double)
#undef FASTSYNC_LOOPS

}  // namespace

template <typename T>
void cfg_tweedie(const T* raw, const T* uncond, const T* x, const double* a, const double* b, const double* guidance,
                 Kind kind, T* x0, T* eps, int64_t cells, int64_t begin, int64_t end) {
  constexpr int64_t block = 2048;  // what passes through the first cache several times
  std::vector<T> guided(uncond ? block : 0);
  while (begin < end) {
    const int64_t sample = begin / cells, n = std::min({end - begin, (sample + 1) * cells - begin, block});
    const T *r = raw + begin, *noisy = x + begin, a_ = T(a[sample]), b_ = T(b[sample]);
    T *clean = x0 + begin, *noise = eps + begin;
    if (uncond) {
      guide(r, uncond + begin, T(guidance[sample]), guided.data(), n);
      r = guided.data();
    }
    switch (kind) {
      case Kind::epsilon:
        from_epsilon(noisy, a_, b_, clean, r, n);
        std::copy(r, r + n, noise);
        break;
      case Kind::v_prediction:
        combine(noisy, a_, r, -b_, clean, n);
        combine(noisy, b_, r, a_, noise, n);
        break;
      case Kind::sample:
        std::copy(r, r + n, clean);
        from_epsilon(noisy, b_, a_, noise, r, n);
        break;
      default:
        combine(noisy, T(1), r, -b_, clean, n);
        combine(noisy, T(1), r, a_, noise, n);
    }
    begin += n;
  }
}

template <typename T>
void ddim_step(const T* x0, const T* eps, const T* noise, const T* x, const Address<T>* at, const double* a_next,
               const double* direction, const double* sigma, const double* pull, T* x_next, int64_t channels, int64_t h,
               int64_t w, int64_t begin, int64_t end) {
  std::vector<T> target(at ? w : 0), weight(at ? w : 0);
  for (; begin < end; ++begin) {
    const int64_t sample = begin / h / channels, first = begin * w;
    T* y = x_next + first;
    combine(x0 + first, T(a_next[sample]), eps + first, T(direction[sample]), y, w);
    if (noise) add(noise + first, T(sigma[sample]), y, w);
    if (at && neighbour_row(*at, sample, begin / h % channels, channels, begin % h, h, w, target.data(), weight.data()))
      draw_near(x + first, target.data(), weight.data(), T(pull[sample]), y, w);
  }
}

#define FASTSYNC_INSTANTIATE(T)                                                                                       \
  template void cfg_tweedie(const T*, const T*, const T*, const double*, const double*, const double*, Kind, T*, T*,  \
                            int64_t, int64_t, int64_t);                                                               \
  template void ddim_step(const T*, const T*, const T*, const T*, const Address<T>*, const double*, const double*,    \
                          const double*, const double*, T*, int64_t, int64_t, int64_t, int64_t, int64_t);
FASTSYNC_INSTANTIATE(float)
FASTSYNC_INSTANTIATE(double)
#undef FASTSYNC_INSTANTIATE

}  // namespace fastsync
