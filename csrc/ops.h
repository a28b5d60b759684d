// The CPU launchers: plain C++ over raw pointers, no torch. Each works on a range of its units, so that the binding may
// hand ranges to threads; results do not depend on how the units are split.
#pragma once

#include <cstdint>
#include <vector>

namespace fastsync {

// Sixteen rows of a plane are a strip: few enough to stay in the first cache, and as many threads as there are strips.
inline int64_t strips(int64_t h) { return (h + 15) / 16; }

// Where views read their neighbours (fastsync/ops/neighbour.py). `index` and `mask` may be null.
template <typename T>
struct Address {
  const T* source;       // [S, C, sh, sw]
  int64_t sh, sw;
  const int64_t* place;  // [B, 3]: slot, dy, dx
  const int64_t* index;  // [B, h, w]
  const T* mask;         // [B, 1, h, w]
  int64_t period_y, period_x;
};

// What the network predicts; `estimates`: both x0 and eps, one after the other.
enum class Kind { epsilon, v_prediction, sample, flow, estimates };

// Units: the B * cells elements. uncond may be null, coefficients are [B].
template <typename T>
void cfg_tweedie(const T* raw, const T* uncond, const T* x, const double* a, const double* b, const double* guidance,
                 Kind kind, T* x0, T* eps, int64_t cells, int64_t begin, int64_t end);

// Units: the B * C * h rows. noise may be null; x and pull are read only where `at` is not null.
template <typename T>
void ddim_step(const T* x0, const T* eps, const T* noise, const T* x, const Address<T>* at, const double* a_next,
               const double* direction, const double* sigma, const double* pull, T* x_next, int64_t channels, int64_t h,
               int64_t w, int64_t begin, int64_t end);

// Views [B, C, h, w] that control_grad reads; reward_gradient may be null.
template <typename T>
struct ControlViews {
  const T *x, *eps, *eps_free, *control, *overlap_gradient, *reward_gradient;
};

// Its coefficients, [B] the pointers.
struct ControlNumbers {
  const double *coupling, *a, *b, *guidance, *kl_weight;
  double reward_weight, control_cost;
};

// Units: the B * C * h rows. g_raw has two halves where `guided` or with Kind::estimates. Each row's part of the loss and
// its largest cotangent are written, NaN where one is.
template <typename T>
void control_grad(const ControlViews<T>& views, const Address<T>& at, const ControlNumbers& numbers, Kind kind,
                  bool guided, T* g_raw, T* direct, double* row_loss, double* row_peak, int64_t batch, int64_t channels,
                  int64_t h, int64_t w, int64_t begin, int64_t end);

struct Adam {
  double beta1, beta2, epsilon, lr;
  int64_t iteration;  // from 0
};

// Units: the B * cells elements. scale [B] or null. The first three are changed in place.
template <typename T>
void control_update(T* control, T* first_moment, T* second_moment, const T* vjp, const double* scale, const T* direct,
                    const T* x, const Adam& numbers, double strength, T* moved, int64_t cells, int64_t begin,
                    int64_t end);

// Units: the B * C * strips(h) strips of x. Writes the gradient (past the caches if `streamed`) and each strip's part of
// the loss.
template <typename T>
void overlap_loss(const T* x, const Address<T>& at, T* gradient, double* strip_loss, int64_t channels, int64_t h,
                  int64_t w, bool streamed, int64_t begin, int64_t end);

// Units: the B * strips(h) strips of the result [B, channels, h, w]; x [B, channels, in], index [B or 1, h, w] (`shared`:
// 1), factor [B] or null.
template <typename T>
void transform(const T* x, const int64_t* index, bool shared, const T* factor, T* y, int64_t channels, int64_t in,
               int64_t h, int64_t w, int64_t begin, int64_t end);

struct Windows {
  const int64_t* origins;  // [N, 2]
  int64_t count, channels, h, w, height, width;
};

// Units: the C * H rows of the canvas.
template <typename T>
void accumulate(const T* views, const Windows& at, T* canvas, int64_t begin, int64_t end);

// Units: the H rows of the canvas. weights [N or 1, h, w] (`shared`: 1; a
// cell of weight 0 is not used, not even if it is NaN), previous [C, H, W] or null.
template <typename T>
void merge(const T* views, const T* weights, bool shared, const Windows& at, const T* previous, T* canvas, int64_t begin,
           int64_t end);

// Units: the N * pixels of the views. index, weight [N * pixels, taps].
template <typename T>
void resample(const T* z, const int32_t* index, const T* weight, T* views, int64_t channels, int64_t cells,
              int64_t pixels, int64_t taps, int64_t begin, int64_t end);

// Splatting needs no table: pixels are taken in chunks, the canvas in bands of cells, and each band is summed by one
// thread from the chunks whose taps reach it, in the pixels' order. So no two threads write to one cell, and the bits do
// not depend on bands or threads.
constexpr int64_t kChunk = 16, kBand = 1 << 16;

// Chunks of a view.
inline int64_t chunks(int64_t pixels) { return (pixels + kChunk - 1) / kChunk; }

struct Bands {
  struct Chunk {
    int64_t view, first;  // its first pixel in the view
  };
  int64_t cells;               // of a band
  std::vector<int64_t> start;  // [bands + 1], into chunks
  std::vector<Chunk> chunks;
};

// Units: the N * chunks(pixels) chunks. The lowest and the highest cell of each; INT32_MAX and -1 where no tap is used.
void chunk_ranges(const int32_t* index, int64_t pixels, int64_t taps, int32_t* low, int32_t* high, int64_t begin,
                  int64_t end);

Bands cut_into_bands(const std::vector<int32_t>& low, const std::vector<int32_t>& high, int64_t pixels, int64_t cells,
                     int64_t threads);

// One band of views [N, channels, pixels] on a canvas [channels, cells]. With `confidence` [N, pixels] (else null) each
// pixel is multiplied by it (not read where it is 0), and one more plane of the canvas sums the confidence.
template <typename T>
void splat(const T* views, const T* confidence, const int32_t* index, const T* weight, T* canvas, const Bands& bands,
           int64_t band, int64_t channels, int64_t pixels, int64_t taps, int64_t cells);

// Taps in stable order by cell. First pass: start [cells + 1]; returns how many taps are used. Second pass: the rest;
// next [cells] is scratch.
int64_t sort_taps_count(const int32_t* index, int64_t count, int64_t cells, int64_t* start);
template <typename T>
void sort_taps_fill(const int32_t* index, const T* weight, int64_t count, int64_t taps, int64_t cells,
                    const int64_t* start, int64_t* next, int32_t* pixel, T* sorted_weight);

}  // namespace fastsync
