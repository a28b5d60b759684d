#include <algorithm>

#include "ops.h"
#include "simd.h"

namespace fastsync {
namespace {

// One run of cells that read the neighbour's cells in order. Defined for each type, since clones cannot be templates.
#define FASTSYNC_RUN(T)                                                                                              \
  FASTSYNC_CLONES T run(const T* __restrict x, const T* __restrict y, T* __restrict g, int64_t n) {                  \
    T sum = 0;                                                                                                       \
    _Pragma("omp simd reduction(+ : sum)") for (int64_t i = 0; i < n; ++i) {                                         \
      const T d = x[i] - y[i];                                                                                       \
      g[i] = d + d;                                                                                                  \
      sum += d * d;                                                                                                  \
    }                                                                                                                \
    return sum;                                                                                                      \
  }                                                                                                                  \
  FASTSYNC_CLONES T run_masked(const T* __restrict x, const T* __restrict y, const T* __restrict m, T* __restrict g, \
                               int64_t n) {                                                                          \
    T sum = 0;                                                                                                       \
    _Pragma("omp simd reduction(+ : sum)") for (int64_t i = 0; i < n; ++i) {                                         \
      const T d = m[i] != 0 ? m[i] * (x[i] - y[i]) : T(0);                                                           \
      g[i] = 2 * m[i] * d;                                                                                           \
      sum += d * d;                                                                                                  \
    }                                                                                                                \
    return sum;                                                                                                      \
  }
FASTSYNC_RUN(float)
FASTSYNC_RUN(double)
#undef FASTSYNC_RUN

int64_t modulo(int64_t v, int64_t p) {
  const int64_t r = v % p;
  return r < 0 ? r + p : r;
}

}  // namespace

template <typename T>
void overlap_loss(const T* x, const Address<T>& at, T* gradient, double* row_loss, int64_t channels, int64_t h,
                  int64_t w, int64_t begin, int64_t end) {
  const int64_t cells = at.sh * at.sw;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t row = unit % h, channel = unit / h % channels, b = unit / h / channels;
    const int64_t slot = at.place[3 * b];
    const T* x_row = x + unit * w;
    T* g_row = gradient + unit * w;
    const T* m_row = at.mask ? at.mask + (b * h + row) * w : nullptr;
    double loss = 0;
    if (slot >= 0 && at.index) {
      const int64_t* i_row = at.index + (b * h + row) * w;
      for (int64_t i = 0; i < w; ++i) {
        const T m = i_row[i] < 0 ? T(0) : m_row ? m_row[i] : T(1);
        T d = 0;
        if (m != 0) {
          const int64_t view = slot + i_row[i] / cells, cell = i_row[i] % cells;
          d = m * (x_row[i] - at.source[(view * channels + channel) * cells + cell]);
        }
        g_row[i] = 2 * m * d;
        loss += double(d) * double(d);
      }
      row_loss[unit] = loss;
      continue;
    }
    int64_t y = row + at.place[3 * b + 1];
    if (at.period_y) y = modulo(y, at.period_y);
    int64_t done = 0;
    if (slot >= 0 && y >= 0 && y < at.sh) {
      const T* y_row = at.source + (slot * channels + channel) * cells + y * at.sw;
      const int64_t dx = at.place[3 * b + 2];
      while (done < w) {
        // The next run of cells inside the source, and the gap before it.
        int64_t column = done + dx, gap = 0;
        if (at.period_x) column = modulo(column, at.period_x);
        if (column < 0) gap = -column;
        if (column >= at.sw) gap = at.period_x ? at.period_x - column : w;
        gap = std::min(gap, w - done);
        if (gap) {
          std::fill(g_row + done, g_row + done + gap, T(0));
          done += gap;
          continue;
        }
        const int64_t n = std::min(w - done, at.sw - column);
        loss += m_row ? run_masked(x_row + done, y_row + column, m_row + done, g_row + done, n)
                      : run(x_row + done, y_row + column, g_row + done, n);
        done += n;
      }
    }
    std::fill(g_row + done, g_row + w, T(0));
    row_loss[unit] = loss;
  }
}

template void overlap_loss(const float*, const Address<float>&, float*, double*, int64_t, int64_t, int64_t, int64_t,
                           int64_t);
template void overlap_loss(const double*, const Address<double>&, double*, double*, int64_t, int64_t, int64_t, int64_t,
                           int64_t);

}  // namespace fastsync
