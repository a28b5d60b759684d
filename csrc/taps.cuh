// CUDA launchers of splat and uv_accumulate: raw pointers and a stream, no torch. T is float, __half or __nv_bfloat16;
// sums are float. With `confidence` [N * pixels] (else null) each pixel's channels are multiplied by it and followed by
// it: depth = C + 1 instead of C.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace fastsync {

// Atomic form, in no fixed order: adds every tap to sums [depth, cells], which must be zero before.
template <typename T>
cudaError_t splat_atomic(const T* views, const T* confidence, const int32_t* index, const float* weight, float* sums,
                         int64_t channels, int64_t pixels, int64_t count, int64_t taps, int64_t cells,
                         cudaStream_t stream);

// Sorted form: one thread a cell adds its taps in their order, so that the bits are the same in every run. Writes canvas
// [depth, cells].
template <typename T>
cudaError_t splat_sorted(const T* views, const T* confidence, const int64_t* start, const int32_t* pixel,
                         const float* weight, T* canvas, int64_t channels, int64_t pixels, int64_t cells,
                         cudaStream_t stream);

}  // namespace fastsync
