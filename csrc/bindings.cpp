// fastsync._C: checks, memory and threads around the launchers. The only CPU file that knows torch; the ops' schemas,
// gradients and specifications are in fastsync/ops.
#include <ATen/Parallel.h>
#include <torch/extension.h>

#include <numeric>

#include "ops.h"
#include "stream.h"
#ifdef FASTSYNC_CUDA
#include "taps_cuda.h"
#endif

namespace {

using torch::Tensor;
using Maybe = std::optional<Tensor>;
using Size = std::vector<int64_t>;

constexpr int64_t kGrain = 32768;  // elements for which a thread is worth waking

void check_cpu(const Tensor& x, const char* name) {
  TORCH_CHECK(x.device().is_cpu() && (x.scalar_type() == torch::kFloat || x.scalar_type() == torch::kDouble), name,
              " must be a float32 or float64 tensor on the CPU, got ", x.scalar_type(), " on ", x.device(), ".");
}

// Units that touch `cost` elements each, on all threads.
template <typename F>
void parallel(int64_t units, int64_t cost, const F& work) {
  at::parallel_for(0, units, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, cost)), work);
}

template <typename T>
const T* data(const Maybe& x) {
  return x ? x->const_data_ptr<T>() : nullptr;
}

Maybe like(const Maybe& x, const Tensor& other) {
  return x ? Maybe(x->to(other.options()).contiguous()) : x;
}

#define DISPATCH(tensor, ...) AT_DISPATCH_FLOATING_TYPES((tensor).scalar_type(), "fastsync", [&] { __VA_ARGS__; })

// Coefficients [B], as the launchers read them.
Tensor numbers(const Tensor& x) { return x.to(torch::kDouble).contiguous(); }

template <typename T>
fastsync::Address<T> address(const Tensor& source, const Tensor& place, const Maybe& index, const Maybe& mask,
                             const Size& period) {
  return {source.const_data_ptr<T>(), source.size(2),   source.size(3), place.const_data_ptr<int64_t>(),
          data<int64_t>(index),       data<T>(mask),    period[0],      period[1]};
}

Maybe packed(const Maybe& x) { return x ? Maybe(x->contiguous()) : x; }

fastsync::Kind kind(const std::string& name) {
  using fastsync::Kind;
  for (const auto& [known, value] : std::initializer_list<std::pair<const char*, Kind>>{
           {"epsilon", Kind::epsilon}, {"v_prediction", Kind::v_prediction}, {"sample", Kind::sample},
           {"flow", Kind::flow}, {"estimates", Kind::estimates}})
    if (name == known) return value;
  TORCH_CHECK(false, "prediction_type ", name, " is unknown.");
}

std::tuple<Tensor, Tensor> cfg_tweedie(const Tensor& raw_, const Maybe& uncond_, const Tensor& x_, const Tensor& a_,
                                       const Tensor& b_, const Tensor& guidance_, const std::string& prediction_type) {
  check_cpu(x_, "x");
  const auto x = x_.contiguous(), raw = raw_.to(x.options()).contiguous();
  const auto uncond = like(uncond_, x);
  const auto a = numbers(a_), b = numbers(b_), guidance = numbers(guidance_);
  auto x0 = torch::empty_like(x), eps = torch::empty_like(x);
  const int64_t cells = x.numel() / std::max<int64_t>(1, x.size(0));
  const auto type = kind(prediction_type);
  DISPATCH(x, parallel(x.numel(), 3, [&](int64_t begin, int64_t end) {
             fastsync::cfg_tweedie(raw.const_data_ptr<scalar_t>(), data<scalar_t>(uncond), x.const_data_ptr<scalar_t>(),
                                   a.const_data_ptr<double>(), b.const_data_ptr<double>(),
                                   guidance.const_data_ptr<double>(), type, x0.data_ptr<scalar_t>(),
                                   eps.data_ptr<scalar_t>(), cells, begin, end);
           }));
  return {x0, eps};
}

Tensor ddim_step(const Tensor& x0_, const Tensor& eps_, const Tensor& a_next_, const Tensor& direction_,
                 const Tensor& sigma_, const Maybe& noise_, const Maybe& pull_, const Maybe& x_, const Maybe& source_,
                 const Maybe& place_, const Maybe& index_, const Maybe& mask_, const Size& period) {
  check_cpu(x0_, "x0");
  const auto x0 = x0_.contiguous(), eps = eps_.to(x0.options()).contiguous();
  const auto noise = like(noise_, x0);
  const auto a_next = numbers(a_next_), direction = numbers(direction_), sigma = numbers(sigma_);
  const Maybe none, x = pull_ ? like(x_, x0) : none, source = pull_ ? like(source_, x0) : none;
  const Maybe pull = pull_ ? Maybe(numbers(*pull_)) : none, place = pull_ ? packed(place_) : none;
  const Maybe index = pull_ ? packed(index_) : none, mask = pull_ ? like(mask_, x0) : none;
  auto x_next = torch::empty_like(x0);
  DISPATCH(x0, {
    fastsync::Address<scalar_t> at{};
    if (pull) at = address<scalar_t>(*source, *place, index, mask, period);
    parallel(x0.size(0) * x0.size(1) * x0.size(2), 4 * x0.size(3), [&](int64_t begin, int64_t end) {
      fastsync::ddim_step(x0.const_data_ptr<scalar_t>(), eps.const_data_ptr<scalar_t>(), data<scalar_t>(noise),
                          data<scalar_t>(x), pull ? &at : nullptr, a_next.const_data_ptr<double>(),
                          direction.const_data_ptr<double>(), sigma.const_data_ptr<double>(), data<double>(pull),
                          x_next.data_ptr<scalar_t>(), x0.size(1), x0.size(2), x0.size(3), begin, end);
    });
  });
  return x_next;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> control_grad(
    const Tensor& x_, const Tensor& eps_, const Tensor& eps_free_, const Tensor& control_, const Tensor& overlap_gradient_,
    const Maybe& reward_gradient_, const Tensor& source_, const Tensor& place_, const Maybe& index_, const Maybe& mask_,
    const Tensor& coupling_, const Tensor& a_, const Tensor& b_, const Tensor& guidance_, const Tensor& kl_weight_,
    double reward_weight, double control_cost, const Size& period, const std::string& prediction_type, bool guided) {
  check_cpu(x_, "x");
  const auto x = x_.contiguous();
  const auto same = [&](const Tensor& t) { return t.to(x.options()).contiguous(); };
  const auto eps = same(eps_), eps_free = same(eps_free_), control = same(control_), overlap = same(overlap_gradient_);
  const auto source = same(source_), place = place_.contiguous();
  const auto reward = like(reward_gradient_, x), mask = like(mask_, x), index = packed(index_);
  const auto coupling = numbers(coupling_), a = numbers(a_), b = numbers(b_), guidance = numbers(guidance_),
             kl_weight = numbers(kl_weight_);
  const int64_t batch = x.size(0), channels = x.size(1), h = x.size(2), w = x.size(3);
  const auto type = kind(prediction_type);
  const int64_t halves = guided || type == fastsync::Kind::estimates ? 2 : 1;
  auto g_raw = torch::empty({halves * batch, channels, h, w}, x.options()), direct = torch::empty_like(x);
  auto rows = torch::empty({2, batch, channels * h}, x.options().dtype(torch::kDouble));
  double *losses = rows.data_ptr<double>(), *peaks = losses + batch * channels * h;
  const fastsync::ControlNumbers coefficients{coupling.const_data_ptr<double>(),  a.const_data_ptr<double>(),
                                              b.const_data_ptr<double>(),         guidance.const_data_ptr<double>(),
                                              kl_weight.const_data_ptr<double>(), reward_weight, control_cost};
  DISPATCH(x, {
    const fastsync::ControlViews<scalar_t> views{
        x.const_data_ptr<scalar_t>(),       eps.const_data_ptr<scalar_t>(),     eps_free.const_data_ptr<scalar_t>(),
        control.const_data_ptr<scalar_t>(), overlap.const_data_ptr<scalar_t>(), data<scalar_t>(reward)};
    const auto at = address<scalar_t>(source, place, index, mask, period);
    parallel(batch * channels * h, 8 * w, [&](int64_t begin, int64_t end) {
      fastsync::control_grad(views, at, coefficients, type, guided, g_raw.data_ptr<scalar_t>(),
                             direct.data_ptr<scalar_t>(), losses, peaks, batch, channels, h, w, begin, end);
    });
  });
  // Few numbers: the rows' sums in a fixed order, and amax, which keeps NaN.
  const auto figures = [&](const Tensor& t) { return t.to(x.options().dtype()); };
  return {figures(rows[0].sum(1)), g_raw, direct, figures(channels * h ? rows[1].amax(1) : rows[1].sum(1))};
}

Tensor control_update(Tensor& control_, Tensor& first_, Tensor& second_, const Tensor& vjp_, const Maybe& scale_,
                      const Tensor& direct_, const Tensor& x_, int64_t iteration, double lr, double control_strength) {
  check_cpu(x_, "x");
  const auto x = x_.contiguous(), vjp = vjp_.to(x.options()).contiguous(), direct = direct_.to(x.options()).contiguous();
  const auto scale = scale_ ? Maybe(numbers(*scale_)) : scale_;
  // What is not contiguous is worked on in a copy.
  auto control = control_.contiguous(), first = first_.contiguous(), second = second_.contiguous();
  auto moved = torch::empty_like(x);
  const int64_t cells = x.numel() / std::max<int64_t>(1, x.size(0));
  const fastsync::Adam adam{0.9, 0.999, 1e-8, lr, iteration};  // as in fastsync/ops/control_update.py
  DISPATCH(x, parallel(x.numel(), 6, [&](int64_t begin, int64_t end) {
             fastsync::control_update(control.data_ptr<scalar_t>(), first.data_ptr<scalar_t>(),
                                      second.data_ptr<scalar_t>(), vjp.const_data_ptr<scalar_t>(), data<double>(scale),
                                      direct.const_data_ptr<scalar_t>(), x.const_data_ptr<scalar_t>(), adam,
                                      control_strength, moved.data_ptr<scalar_t>(), cells, begin, end);
           }));
  const auto store = [](Tensor& given, const Tensor& held) {
    if (!given.is_same(held)) given.copy_(held);
  };
  store(control_, control), store(first_, first), store(second_, second);
  return moved;
}

std::tuple<Tensor, Tensor> overlap_loss(const Tensor& x_, const Tensor& source_, const Tensor& place_,
                                        const Maybe& index_, const Maybe& mask_, const Size& period) {
  check_cpu(x_, "x");
  const auto x = x_.contiguous(), source = source_.to(x.options()).contiguous(), place = place_.contiguous();
  const auto index = packed(index_), mask = like(mask_, x);
  const int64_t batch = x.size(0), channels = x.size(1), h = x.size(2), w = x.size(3);
  auto gradient = torch::empty_like(x);
  const int64_t strips = channels * fastsync::strips(h);
  const bool streamed = int64_t(x.nbytes()) >= fastsync::kStreamed;
  auto parts = torch::empty({batch, strips}, x.options().dtype(torch::kDouble));
  DISPATCH(x, {
    const auto at = address<scalar_t>(source, place, index, mask, period);
    parallel(parts.numel(), 16 * w, [&](int64_t begin, int64_t end) {
      fastsync::overlap_loss(x.const_data_ptr<scalar_t>(), at, gradient.data_ptr<scalar_t>(), parts.data_ptr<double>(),
                             channels, h, w, streamed, begin, end);
    });
  });
  auto loss = torch::empty({batch}, x.options());
  DISPATCH(x, {
    const double* part = parts.const_data_ptr<double>();
    for (int64_t b = 0; b < batch; ++b, part += strips)
      loss.data_ptr<scalar_t>()[b] = scalar_t(std::accumulate(part, part + strips, 0.0));
  });
  return {loss, gradient};
}

Tensor transform(const Tensor& x_, const Tensor& index_, const Maybe& factor_) {
  check_cpu(x_, "x");
  const auto x = x_.contiguous(), index = index_.contiguous();
  const auto factor = like(factor_, x);
  const int64_t batch = x.size(0), channels = x.size(1), h = index.size(1), w = index.size(2);
  auto y = torch::empty({batch, channels, h, w}, x.options());
  DISPATCH(x, parallel(batch * fastsync::strips(h), 16 * w * channels, [&](int64_t begin, int64_t end) {
             fastsync::transform(x.const_data_ptr<scalar_t>(), index.const_data_ptr<int64_t>(), index.size(0) == 1,
                                 data<scalar_t>(factor), y.data_ptr<scalar_t>(), channels, x.size(2) * x.size(3), h, w,
                                 begin, end);
           }));
  return y;
}

fastsync::Windows windows(const Tensor& views, const Tensor& origins, const Size& size) {
  return {origins.const_data_ptr<int64_t>(), views.size(0), views.size(1), views.size(2), views.size(3), size[0], size[1]};
}

Tensor accumulate(const Tensor& views_, const Tensor& origins_, const Size& size) {
  check_cpu(views_, "views");
  const auto views = views_.contiguous(), origins = origins_.contiguous();
  const auto at = windows(views, origins, size);
  auto canvas = torch::empty({1, at.channels, at.height, at.width}, views.options());
  DISPATCH(views, parallel(at.channels * at.height, at.width, [&](int64_t begin, int64_t end) {
             fastsync::accumulate(views.const_data_ptr<scalar_t>(), at, canvas.data_ptr<scalar_t>(), begin, end);
           }));
  return canvas;
}

Tensor merge(const Tensor& views_, const Tensor& weights_, const Tensor& origins_, const Size& size,
             const Maybe& previous_) {
  check_cpu(views_, "views");
  const auto views = views_.contiguous(), origins = origins_.contiguous();
  const auto weights = weights_.to(views.options()).contiguous();
  const auto previous = like(previous_, views);
  const auto at = windows(views, origins, size);
  auto canvas = torch::empty({1, at.channels, at.height, at.width}, views.options());
  DISPATCH(views, parallel(at.height, at.channels * at.width, [&](int64_t begin, int64_t end) {
             fastsync::merge(views.const_data_ptr<scalar_t>(), weights.const_data_ptr<scalar_t>(), weights.size(0) == 1,
                             at, data<scalar_t>(previous), canvas.data_ptr<scalar_t>(), begin, end);
           }));
  return canvas;
}

Tensor resample(const Tensor& z_, const Tensor& index_, const Tensor& weight_) {
  check_cpu(z_, "z");
  const auto z = z_.contiguous(), index = index_.contiguous(), weight = weight_.to(z.options()).contiguous();
  const int64_t count = index.size(0), channels = z.size(1), pixels = index.size(1) * index.size(2);
  auto views = torch::empty({count, channels, index.size(1), index.size(2)}, z.options());
  DISPATCH(z, parallel(count * pixels, channels * index.size(3), [&](int64_t begin, int64_t end) {
             fastsync::resample(z.const_data_ptr<scalar_t>(), index.const_data_ptr<int32_t>(),
                                weight.const_data_ptr<scalar_t>(), views.data_ptr<scalar_t>(), channels,
                                z.size(2) * z.size(3), pixels, index.size(3), begin, end);
           }));
  return views;
}

// Sums [depth, cells] of views, or of views and confidence.
Tensor splat_cpu(const Tensor& views_, const Maybe& confidence_, const Tensor& index_, const Tensor& weight_,
                 const Size& size) {
  check_cpu(views_, "views");
  const auto views = views_.contiguous(), index = index_.contiguous(), weight = weight_.to(views.options()).contiguous();
  const auto confidence = like(confidence_, views);
  const int64_t channels = views.size(1), pixels = views.size(2) * views.size(3), count = views.size(0) * pixels;
  const int64_t depth = channels + (confidence ? 1 : 0), cells = size[0] * size[1], taps = index.size(3);
  const int64_t chunks = views.size(0) * fastsync::chunks(pixels);
  std::vector<int32_t> low(chunks), high(chunks);
  parallel(chunks, fastsync::kChunk * taps, [&](int64_t begin, int64_t end) {
    fastsync::chunk_ranges(index.const_data_ptr<int32_t>(), pixels, taps, low.data(), high.data(), begin, end);
  });
  const auto bands = fastsync::cut_into_bands(low, high, pixels, cells, at::get_num_threads());
  const int64_t number = int64_t(bands.start.size()) - 1;
  // Neighbouring bands go to different threads: where a canvas is seen at all, it is seen in patches.
  const int64_t stride = at::get_num_threads(), length = (number + stride - 1) / stride;
  auto canvas = torch::empty({1, depth, size[0], size[1]}, views.options());
  DISPATCH(views, parallel(stride * length, (depth * cells + 4 * count * taps) / std::max<int64_t>(1, number),
                           [&](int64_t begin, int64_t end) {
                             for (int64_t unit = begin; unit < end; ++unit) {
                               const int64_t band = unit % length * stride + unit / length;
                               if (band < number)
                                 fastsync::splat(views.const_data_ptr<scalar_t>(), data<scalar_t>(confidence),
                                                 index.const_data_ptr<int32_t>(), weight.const_data_ptr<scalar_t>(),
                                                 canvas.data_ptr<scalar_t>(), bands, band, channels, pixels, taps, cells);
                             }
                           }));
  return canvas;
}

Tensor splat(const Tensor& views, const Tensor& index, const Tensor& weight, const Maybe& start, const Maybe& pixel,
             const Maybe& sorted_weight, const Size& size) {
#ifdef FASTSYNC_CUDA
  if (views.is_cuda()) return fastsync::splat_cuda(views, {}, index, weight, start, pixel, sorted_weight, size);
#endif
  return splat_cpu(views, {}, index, weight, size);
}

std::tuple<Tensor, Tensor> uv_accumulate(const Tensor& views, const Tensor& confidence, const Tensor& index,
                                         const Tensor& weight, const Maybe& start, const Maybe& pixel,
                                         const Maybe& sorted_weight, const Size& size) {
#ifdef FASTSYNC_CUDA
  if (views.is_cuda()) {
    const auto both = fastsync::splat_cuda(views, confidence, index, weight, start, pixel, sorted_weight, size);
    return {both.slice(1, 0, views.size(1)).clone(), both.slice(1, views.size(1)).clone()};
  }
#endif
  const auto both = splat_cpu(views, confidence, index, weight, size);
  return {both.slice(1, 0, views.size(1)).clone(), both.slice(1, views.size(1)).clone()};
}

std::tuple<Tensor, Tensor, Tensor> sort_taps(const Tensor& index_, const Tensor& weight_, int64_t cells) {
  check_cpu(weight_, "weight");
  const auto index = index_.contiguous(), weight = weight_.contiguous();
  const int64_t count = index.numel();
  auto start = torch::empty({cells + 1}, torch::kLong);
  const int64_t used =
      fastsync::sort_taps_count(index.const_data_ptr<int32_t>(), count, cells, start.data_ptr<int64_t>());
  auto next = torch::empty({cells}, torch::kLong), pixel = torch::empty({used}, torch::kInt);
  auto sorted = torch::empty({used}, weight.options());
  DISPATCH(weight, fastsync::sort_taps_fill(index.const_data_ptr<int32_t>(), weight.const_data_ptr<scalar_t>(), count,
                                            index.size(3), cells, start.const_data_ptr<int64_t>(),
                                            next.data_ptr<int64_t>(), pixel.data_ptr<int32_t>(),
                                            sorted.data_ptr<scalar_t>()));
  return {start, pixel, sorted};
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  const auto free_gil = py::call_guard<py::gil_scoped_release>();
  m.def("cfg_tweedie", &cfg_tweedie, free_gil);
  m.def("ddim_step", &ddim_step, free_gil);
  m.def("control_grad", &control_grad, free_gil);
  m.def("control_update", &control_update, free_gil);
  m.def("overlap_loss", &overlap_loss, free_gil);
  m.def("transform", &transform, free_gil);
  m.def("accumulate", &accumulate, free_gil);
  m.def("merge", &merge, free_gil);
  m.def("resample", &resample, free_gil);
  m.def("splat", &splat, free_gil);
  m.def("uv_accumulate", &uv_accumulate, free_gil);
  m.def("sort_taps", &sort_taps, free_gil);
#ifdef FASTSYNC_CUDA
  m.attr("with_cuda") = true;
#else
  m.attr("with_cuda") = false;
#endif
}
