#include <algorithm>
#include <cstring>
#include <vector>

#include "neighbour.h"
#include "ops.h"
#include "simd.h"
#include "stream.h"

namespace fastsync {
namespace {

// The loss of a block of rows whose cells read the neighbour's cells in order. A memory line of columns goes down all rows
// at a time, since a row of the overlap may be short, and sums stay in registers. Defined for each type, as clones cannot
// be templates.
#define FASTSYNC_BLOCK(T)                                                                                             \
  FASTSYNC_CLONES double block(const T* __restrict x, const T* __restrict y, const T* __restrict m, T* __restrict g,  \
                               int64_t rows, int64_t n, int64_t x_row, int64_t y_row) {                               \
    double loss = 0;                                                                                                  \
    for (; n > 0; n -= 16, x += 16, g += 16, y += 16, m = m ? m + 16 : m) {                                           \
      T squares[16] = {};                                                                                             \
      if (n < 16 || m) {                                                                                              \
        const int64_t width = n < 16 ? n : 16;                                                                        \
        for (int64_t r = 0; r < rows; ++r)                                                                            \
          for (int64_t i = 0; i < width; ++i) {                                                                       \
            const T weight = m ? m[r * x_row + i] : T(1);                                                             \
            const T d = weight != 0 ? weight * (x[r * x_row + i] - y[r * y_row + i]) : T(0);                          \
            g[r * x_row + i] = 2 * weight * d;                                                                        \
            squares[i] += d * d;                                                                                      \
          }                                                                                                           \
      } else {                                                                                                        \
        for (int64_t r = 0; r < rows; ++r)                                                                            \
          for (int64_t i = 0; i < 16; ++i) {                                                                          \
            const T d = x[r * x_row + i] - y[r * y_row + i];                                                          \
            g[r * x_row + i] = d + d;                                                                                 \
            squares[i] += d * d;                                                                                      \
          }                                                                                                           \
      }                                                                                                               \
      T sum = 0;                                                                                                      \
      _Pragma("omp simd reduction(+ : sum)") for (int64_t i = 0; i < 16; ++i) sum += squares[i];                      \
      loss += double(sum);                                                                                            \
    }                                                                                                                 \
    return loss;                                                                                                      \
  }
FASTSYNC_BLOCK(float)
FASTSYNC_BLOCK(double)
#undef FASTSYNC_BLOCK

}  // namespace

template <typename T>
void overlap_loss(const T* x, const Address<T>& at, T* gradient, double* strip_loss, int64_t channels, int64_t h,
                  int64_t w, bool streamed, int64_t begin, int64_t end) {
  const int64_t cells = at.sh * at.sw;
  std::vector<T> strip(streamed ? 16 * w : 0);
  for (; begin < end; ++begin) {
    const int64_t plane = begin / strips(h), row = begin % strips(h) * 16, rows = std::min<int64_t>(16, h - row);
    const int64_t b = plane / channels, channel = plane % channels, slot = at.place[3 * b];
    const T* x_rows = x + (plane * h + row) * w;
    T *out = gradient + (plane * h + row) * w, *g_rows = streamed ? strip.data() : out;
    const T* m_rows = at.mask ? at.mask + (b * h + row) * w : nullptr;
    double loss = 0;
    // The cells outside the overlap; one sweep of a strip is cheaper than the gaps row by row.
    std::memset(g_rows, 0, sizeof(T) * size_t(rows * w));
    if (slot >= 0 && at.index) {
      const int64_t* index = at.index + (b * h + row) * w;
      for (int64_t i = 0; i < rows * w; ++i) {
        const T m = index[i] < 0 ? T(0) : m_rows ? m_rows[i] : T(1);
        if (m == 0) continue;
        const int64_t view = slot + index[i] / cells, cell = index[i] % cells;
        const T d = m * (x_rows[i] - at.source[(view * channels + channel) * cells + cell]);
        g_rows[i] = 2 * m * d;
        loss += double(d) * double(d);
      }
    } else if (slot >= 0) {
      const T* source = at.source + (slot * channels + channel) * cells;
      const int64_t dy = at.place[3 * b + 1] + row, dx = at.place[3 * b + 2];
      Run down, right;
      for (int64_t y = 0; next_run(y, rows, dy, at.period_y, at.sh, &down); y = down.first + down.length)
        for (int64_t c = 0; next_run(c, w, dx, at.period_x, at.sw, &right); c = right.first + right.length) {
          const int64_t corner = down.first * w + right.first;
          loss += block(x_rows + corner, source + down.at * at.sw + right.at, m_rows ? m_rows + corner : nullptr,
                        g_rows + corner, down.length, right.length, w, at.sw);
        }
    }
    if (streamed) stream_copy(out, g_rows, int64_t(sizeof(T)) * rows * w);
    strip_loss[begin] = loss;
  }
}

template void overlap_loss(const float*, const Address<float>&, float*, double*, int64_t, int64_t, int64_t, bool,
                           int64_t, int64_t);
template void overlap_loss(const double*, const Address<double>&, double*, double*, int64_t, int64_t, int64_t, bool,
                           int64_t, int64_t);

}  // namespace fastsync
