// The torch side of taps.cu.
#pragma once

#include <torch/extension.h>

namespace fastsync {

// Sums [1, depth, H, W] of CUDA views, or of views and confidence; in the sorted form where `start` is given.
torch::Tensor splat_cuda(const torch::Tensor& views, const std::optional<torch::Tensor>& confidence,
                         const torch::Tensor& index, const torch::Tensor& weight,
                         const std::optional<torch::Tensor>& start, const std::optional<torch::Tensor>& pixel,
                         const std::optional<torch::Tensor>& sorted_weight, const std::vector<int64_t>& size);

}  // namespace fastsync
