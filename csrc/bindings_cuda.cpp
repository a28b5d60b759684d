// Compiled only with a CUDA build of torch.
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "taps.cuh"
#include "taps_cuda.h"

namespace fastsync {
namespace {

using torch::Tensor;

template <typename T>
Tensor run(const Tensor& views, const std::optional<Tensor>& confidence, const Tensor& index, const Tensor& weight,
           const std::optional<Tensor>& start, const std::optional<Tensor>& pixel, const std::optional<Tensor>& sorted,
           const std::vector<int64_t>& size) {
  const int64_t channels = views.size(1), pixels = views.size(2) * views.size(3), count = views.size(0) * pixels;
  const int64_t depth = channels + (confidence ? 1 : 0), cells = size[0] * size[1];
  const auto* x = reinterpret_cast<const T*>(views.const_data_ptr());
  const auto* trust = confidence ? reinterpret_cast<const T*>(confidence->const_data_ptr()) : nullptr;
  const auto stream = at::cuda::getCurrentCUDAStream();
  if (start) {
    const auto w = sorted->to(torch::kFloat).contiguous();
    auto canvas = torch::empty({1, depth, size[0], size[1]}, views.options());
    C10_CUDA_CHECK(splat_sorted(x, trust, start->contiguous().const_data_ptr<int64_t>(),
                                pixel->contiguous().const_data_ptr<int32_t>(), w.const_data_ptr<float>(),
                                reinterpret_cast<T*>(canvas.data_ptr()), channels, pixels, cells, stream));
    return canvas;
  }
  const auto w = weight.to(torch::kFloat).contiguous();
  auto sums = torch::zeros({1, depth, size[0], size[1]}, views.options().dtype(torch::kFloat));
  C10_CUDA_CHECK(splat_atomic(x, trust, index.contiguous().const_data_ptr<int32_t>(), w.const_data_ptr<float>(),
                              sums.data_ptr<float>(), channels, pixels, count, index.size(3), cells, stream));
  return sums.to(views.scalar_type());
}

}  // namespace

Tensor splat_cuda(const Tensor& views_, const std::optional<Tensor>& confidence_, const Tensor& index,
                  const Tensor& weight, const std::optional<Tensor>& start, const std::optional<Tensor>& pixel,
                  const std::optional<Tensor>& sorted, const std::vector<int64_t>& size) {
  const c10::cuda::CUDAGuard guard(views_.device());
  const auto views = views_.contiguous();
  const auto confidence = confidence_ ? std::optional(confidence_->to(views.options()).contiguous()) : confidence_;
  switch (views.scalar_type()) {
    case torch::kFloat: return run<float>(views, confidence, index, weight, start, pixel, sorted, size);
    case torch::kHalf: return run<__half>(views, confidence, index, weight, start, pixel, sorted, size);
    case torch::kBFloat16: return run<__nv_bfloat16>(views, confidence, index, weight, start, pixel, sorted, size);
    default: TORCH_CHECK(false, "views must be float32, float16 or bfloat16 on CUDA, got ", views.scalar_type(), ".");
  }
}

}  // namespace fastsync
