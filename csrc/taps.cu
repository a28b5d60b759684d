#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "taps.cuh"

namespace fastsync {
namespace {

constexpr int kThreads = 256;
constexpr int kDepth = 8;  // channels whose sums a thread holds at once

template <typename T>
__global__ void atomic_kernel(const T* __restrict__ views, const T* __restrict__ confidence,
                              const int32_t* __restrict__ index, const float* __restrict__ weight,
                              float* __restrict__ sums, int64_t channels, int64_t pixels, int64_t count, int64_t taps,
                              int64_t cells) {
  // One thread a pixel: its channels are read once for all its taps.
  const int64_t unit = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (unit >= count) return;
  const int64_t n = unit / pixels, p = unit % pixels;
  const float trust = confidence ? float(confidence[unit]) : 1.0f;
  for (int64_t c = 0; c < channels; ++c) {
    const float x = trust != 0.0f ? trust * float(views[(n * channels + c) * pixels + p]) : 0.0f;
    for (int64_t k = unit * taps; k < (unit + 1) * taps; ++k)
      if (index[k] >= 0) atomicAdd(sums + c * cells + index[k], weight[k] * x);
  }
  if (confidence)
    for (int64_t k = unit * taps; k < (unit + 1) * taps; ++k)
      if (index[k] >= 0) atomicAdd(sums + channels * cells + index[k], weight[k] * trust);
}

template <typename T>
__global__ void sorted_kernel(const T* __restrict__ views, const T* __restrict__ confidence,
                              const int64_t* __restrict__ start, const int32_t* __restrict__ pixel,
                              const float* __restrict__ weight, T* __restrict__ canvas, int64_t channels, int64_t pixels,
                              int64_t cells) {
  const int64_t cell = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (cell >= cells) return;
  const int64_t first = start[cell], last = start[cell + 1];
  for (int64_t c0 = 0; c0 < channels; c0 += kDepth) {
    float sum[kDepth] = {}, total = 0.0f;
    for (int64_t tap = first; tap < last; ++tap) {
      const int64_t unit = pixel[tap], n = unit / pixels, p = unit % pixels;
      const float trust = confidence ? float(confidence[unit]) : 1.0f, w = weight[tap] * trust;
      total += w;
      if (trust == 0.0f) continue;
      const T* x = views + (n * channels + c0) * pixels + p;
#pragma unroll
      for (int d = 0; d < kDepth; ++d)
        if (c0 + d < channels) sum[d] += w * float(x[d * pixels]);
    }
#pragma unroll
    for (int d = 0; d < kDepth; ++d)
      if (c0 + d < channels) canvas[(c0 + d) * cells + cell] = T(sum[d]);
    if (confidence && c0 == 0) canvas[channels * cells + cell] = T(total);
  }
}

unsigned blocks(int64_t count) { return unsigned((count + kThreads - 1) / kThreads); }

}  // namespace

template <typename T>
cudaError_t splat_atomic(const T* views, const T* confidence, const int32_t* index, const float* weight, float* sums,
                         int64_t channels, int64_t pixels, int64_t count, int64_t taps, int64_t cells,
                         cudaStream_t stream) {
  if (count)
    atomic_kernel<<<blocks(count), kThreads, 0, stream>>>(views, confidence, index, weight, sums, channels, pixels,
                                                          count, taps, cells);
  return cudaGetLastError();
}

template <typename T>
cudaError_t splat_sorted(const T* views, const T* confidence, const int64_t* start, const int32_t* pixel,
                         const float* weight, T* canvas, int64_t channels, int64_t pixels, int64_t cells,
                         cudaStream_t stream) {
  if (cells)
    sorted_kernel<<<blocks(cells), kThreads, 0, stream>>>(views, confidence, start, pixel, weight, canvas, channels,
                                                          pixels, cells);
  return cudaGetLastError();
}

#define FASTSYNC_TAPS(T)                                                                                             \
  template cudaError_t splat_atomic(const T*, const T*, const int32_t*, const float*, float*, int64_t, int64_t,      \
                                    int64_t, int64_t, int64_t, cudaStream_t);                                        \
  template cudaError_t splat_sorted(const T*, const T*, const int64_t*, const int32_t*, const float*, T*, int64_t,   \
                                    int64_t, int64_t, cudaStream_t);
FASTSYNC_TAPS(float)
FASTSYNC_TAPS(__half)
FASTSYNC_TAPS(__nv_bfloat16)

}  // namespace fastsync
