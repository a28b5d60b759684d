#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "ops.h"
#include "simd.h"

namespace fastsync {
namespace {

// Four sums of a cell, or four planes of a pixel.
template <typename T>
using Four __attribute__((vector_size(4 * sizeof(T)))) = T;

// Adds a chunk's pixels, packed [count, 4], to the sums [cells, 4] of a band that begins at cell `first`. Pixels come in
// their order, so each cell's sum has the same bits however the canvas is cut into bands. `each` is known at compile time
// where taps are bilinear.
template <typename T>
inline __attribute__((always_inline)) void add_taps(const T* __restrict packed, const int32_t* __restrict index,
                                                    const T* __restrict weight, int64_t each, int64_t count,
                                                    int32_t first, uint32_t cells, T* __restrict sums) {
  for (int64_t p = 0; p < count; ++p, packed += 4, index += each, weight += each) {
    Four<T> x, sum;
    std::memcpy(&x, packed, sizeof x);
    for (int64_t k = 0; k < each; ++k) {
      const uint32_t cell = uint32_t(index[k]) - uint32_t(first);  // what lies below is then far above
      if (cell >= cells) continue;
      std::memcpy(&sum, sums + 4 * int64_t(cell), sizeof sum);
      sum += weight[k] * x;
      std::memcpy(sums + 4 * int64_t(cell), &sum, sizeof sum);
    }
  }
}

#define FASTSYNC_ADD(T)                                                                                               \
  FASTSYNC_CLONES void add_chunk(const T* packed, const int32_t* index, const T* weight, int64_t taps, int64_t count, \
                                 int64_t first, int64_t cells, T* sums) {                                             \
    if (taps == 4)                                                                                                    \
      add_taps<T>(packed, index, weight, 4, count, int32_t(first), uint32_t(cells), sums);                            \
    else                                                                                                              \
      add_taps<T>(packed, index, weight, taps, count, int32_t(first), uint32_t(cells), sums);                         \
  }                                                                                                                   \
  FASTSYNC_CLONES void take_apart(const T* sums, T* plane, int64_t n) {                                               \
    for (int64_t i = 0; i < n; ++i) plane[i] = sums[4 * i];                                                           \
  }
FASTSYNC_ADD(float)
FASTSYNC_ADD(double)
#undef FASTSYNC_ADD

template <typename T>
void prefetch(const T* from, int64_t n) {
  for (int64_t i = 0; i < n; i += int64_t(64 / sizeof(T))) __builtin_prefetch(from + i);
}

FASTSYNC_CLONES void range_of(const int32_t* index, int64_t n, int32_t* low, int32_t* high) {
  uint32_t least = UINT32_MAX;  // unused taps are -1, which is then the largest
  int32_t most = -1;
  _Pragma("omp simd reduction(min : least) reduction(max : most)") for (int64_t k = 0; k < n; ++k) {
    const uint32_t cell = index[k] < 0 ? UINT32_MAX : uint32_t(index[k]);
    least = cell < least ? cell : least;
    most = index[k] > most ? index[k] : most;
  }
  *low = int32_t(std::min<uint32_t>(least, INT32_MAX)), *high = most;
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

void chunk_ranges(const int32_t* index, int64_t pixels, int64_t taps, int32_t* low, int32_t* high, int64_t begin,
                  int64_t end) {
  for (const int64_t each = chunks(pixels); begin < end; ++begin) {
    const int64_t first = begin / each * pixels + begin % each * kChunk;
    const int64_t n = std::min(kChunk, pixels - begin % each * kChunk);
    range_of(index + first * taps, n * taps, low + begin, high + begin);
  }
}

Bands cut_into_bands(const std::vector<int32_t>& low, const std::vector<int32_t>& high, int64_t pixels, int64_t cells,
                     int64_t threads) {
  Bands bands;
  std::vector<std::pair<int32_t, int32_t>> reach(low.size());  // first and last band of each chunk
  const auto count = [&](int64_t size) {
    bands.cells = size;
    bands.start.assign((cells + size - 1) / size + 1, 0);
    for (size_t i = 0; i < low.size(); ++i) {
      reach[i] = high[i] < 0 ? std::pair{1, 0} : std::pair{low[i] / int32_t(size), high[i] / int32_t(size)};
      for (int32_t b = reach[i].first; b <= reach[i].second; ++b) ++bands.start[b + 1];
    }
    for (size_t b = 1; b < bands.start.size(); ++b) bands.start[b] += bands.start[b - 1];
  };
  // A band's sums stay in the second cache. Where maps are so torn that most chunks meet many bands, a few large ones.
  count(std::min(kBand, (cells + 2 * threads - 1) / (2 * threads)));
  if (bands.start.back() > 3 * int64_t(low.size())) count((cells + threads - 1) / threads);
  bands.chunks.resize(bands.start.back());
  std::vector<int64_t> next(bands.start.begin(), bands.start.end() - 1);
  Bands::Chunk chunk{0, 0};
  for (size_t i = 0; i < low.size(); ++i) {
    for (int32_t b = reach[i].first; b <= reach[i].second; ++b) bands.chunks[next[b]++] = chunk;
    chunk.first += kChunk;
    if (chunk.first >= pixels) chunk = {chunk.view + 1, 0};
  }
  return bands;
}

template <typename T>
void splat(const T* views, const T* confidence, const int32_t* index, const T* weight, T* canvas, const Bands& bands,
           int64_t band, int64_t channels, int64_t pixels, int64_t taps, int64_t cells) {
  const int64_t start = band * bands.cells, size = std::min(cells - start, bands.cells);
  const int64_t depth = channels + (confidence ? 1 : 0);
  const Bands::Chunk *begin = bands.chunks.data() + bands.start[band], *end = bands.chunks.data() + bands.start[band + 1];
  const std::unique_ptr<T[]> sums(new T[4 * size]);
  T packed[4 * kChunk];
  for (int64_t group = 0; group < depth; group += 4) {
    std::memset(sums.get(), 0, sizeof(T) * size_t(4 * size));
    const int64_t planes = std::min<int64_t>(4, channels - group);
    for (const Bands::Chunk* chunk = begin; chunk < end; ++chunk) {
      if (chunk + 4 < end) {  // chunks are too short for the processor to see where the next ones lie
        const int64_t p = chunk[4].view * pixels + chunk[4].first;
        for (int64_t d = 0; d < planes; ++d)
          prefetch(views + (chunk[4].view * channels + group + d) * pixels + chunk[4].first, kChunk);
        prefetch(index + p * taps, kChunk * taps);
        prefetch(weight + p * taps, kChunk * taps);
      }
      const int64_t p = chunk->view * pixels + chunk->first, n = std::min(kChunk, pixels - chunk->first);
      const T* trust = confidence ? confidence + p : nullptr;
      for (int64_t d = 0; d < 4; ++d) {
        const T* plane = views + (chunk->view * channels + group + d) * pixels + chunk->first;
        // Without confidence a pixel is not read; the plane after the last channel is the confidence.
        if (d >= planes)
          for (int64_t q = 0; q < n; ++q) packed[4 * q + d] = trust ? trust[q] : T(0);
        else if (trust)
          for (int64_t q = 0; q < n; ++q) packed[4 * q + d] = trust[q] == 0 ? T(0) : trust[q] * plane[q];
        else
          for (int64_t q = 0; q < n; ++q) packed[4 * q + d] = plane[q];
      }
      add_chunk(packed, index + p * taps, weight + p * taps, taps, n, start, size, sums.get());
    }
    for (int64_t d = 0; d < std::min<int64_t>(4, depth - group); ++d)
      take_apart(sums.get() + d, canvas + (group + d) * cells + start, size);
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
  template void splat(const T*, const T*, const int32_t*, const T*, T*, const Bands&, int64_t, int64_t, int64_t,       \
                      int64_t, int64_t);                                                                      \
  template void sort_taps_fill(const int32_t*, const T*, int64_t, int64_t, int64_t, const int64_t*, int64_t*,          \
                               int32_t*, T*);
FASTSYNC_TAPS(float)
FASTSYNC_TAPS(double)

}  // namespace fastsync
