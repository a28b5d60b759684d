#include <cmath>
#include <limits>
#include <vector>

#include "neighbour.h"
#include "ops.h"
#include "simd.h"

namespace fastsync {
namespace {

// A row's coefficients: of the deviation, and of the estimates in the cotangents and past the network, as in
// fastsync/ops/control_grad.py.
template <typename T>
struct Row {
  T kappa, pull, reward_weight, cost, px, pr, qx, qr;
};

#define FASTSYNC_LOOPS(T)                                                                                             \
  /* Gradients on the estimates and what passes the network; returns the row's loss. */                               \
  FASTSYNC_CLONES T estimates_of(const T* x, const T* eps, const T* eps_free, const T* control, const T* overlap,     \
                                 const T* reward, const T* target, const T* weight, const Row<T>& k,                  \
                                 T* __restrict g_x0, T* __restrict g_eps, T* __restrict direct, int64_t n) {          \
    const T kappa = k.kappa, pull = k.pull, reward_weight = k.reward_weight, cost = k.cost;                           \
    T loss = 0;                                                                                                       \
    _Pragma("omp simd reduction(+ : loss)") for (int64_t i = 0; i < n; ++i) {                                         \
      const T m = pull * weight[i], near = weight[i] != 0 ? m * (x[i] - target[i]) : T(0);                            \
      const T deviation = eps[i] + near - eps_free[i], u = control[i], g = 2 * kappa * deviation;                     \
      loss += kappa * deviation * deviation + cost * u * u;                                                           \
      g_eps[i] = g;                                                                                                   \
      g_x0[i] = reward_weight * overlap[i] - reward[i];                                                               \
      direct[i] = m * g + 2 * cost * u;                                                                               \
    }                                                                                                                 \
    return loss;                                                                                                      \
  }                                                                                                                   \
  FASTSYNC_CLONES void add(const T* x, T p, const T* y, T q, T* __restrict sum, int64_t n) {                          \
    _Pragma("omp simd") for (int64_t i = 0; i < n; ++i) sum[i] += p * x[i] + q * y[i];                                \
  }                                                                                                                   \
  FASTSYNC_CLONES void combine(const T* x, T p, const T* y, T q, T factor, T* __restrict z, int64_t n) {              \
    _Pragma("omp simd") for (int64_t i = 0; i < n; ++i) z[i] = factor * (p * x[i] + q * y[i]);                        \
  }                                                                                                                   \
  /* The largest magnitude, NaN where one is. */                                                                      \
  FASTSYNC_CLONES T largest(const T* x, int64_t n) {                                                                  \
    T peak = 0, broken = 0;                                                                                           \
    _Pragma("omp simd reduction(max : peak) reduction(+ : broken)") for (int64_t i = 0; i < n; ++i) {                 \
      const T size = std::abs(x[i]);                                                                                  \
      peak = size > peak ? size : peak;                                                                               \
      broken += size == size ? T(0) : T(1);                                                                           \
    }                                                                                                                 \
    return broken > 0 ? std::numeric_limits<T>::quiet_NaN() : peak;                                                   \
  }                                                                                                                   \
  FASTSYNC_CLONES void adam(T* control, T* first_moment, T* second_moment, const T* vjp, T scale, const T* direct,    \
                            const T* x, T beta1, T beta2, T rate, T correction, T epsilon, T strength, T* moved,      \
                            int64_t n) {                                                                              \
    _Pragma("omp simd") for (int64_t i = 0; i < n; ++i) {                                                             \
      const T g = strength * (scale * vjp[i] + direct[i]);                                                            \
      const T first = beta1 * first_moment[i] + (1 - beta1) * g;                                                      \
      const T second = beta2 * second_moment[i] + (1 - beta2) * g * g;                                                \
      const T u = control[i] - rate * first / (std::sqrt(second * correction) + epsilon);                             \
      control[i] = u;                                                                                                 \
      first_moment[i] = first;                                                                                        \
      second_moment[i] = second;                                                                                      \
      moved[i] = x[i] + strength * u;                                                                                 \
    }                                                                                                                 \
  }
FASTSYNC_LOOPS(float)
FASTSYNC_LOOPS(double)
#undef FASTSYNC_LOOPS

// px, pr, qx, qr as in fastsync.ops.cfg_tweedie.linear_form.
template <typename T>
void linear_form(Kind kind, double a, double b, Row<T>* row) {
  double px = 1, pr = -b, qx = 1, qr = a;  // flow
  if (kind == Kind::epsilon) px = 1 / a, pr = -b / a, qx = 0, qr = 1;
  if (kind == Kind::v_prediction) px = a, pr = -b, qx = b, qr = a;
  if (kind == Kind::sample) px = 0, pr = 1, qx = 1 / b, qr = -a / b;
  row->px = T(px), row->pr = T(pr), row->qx = T(qx), row->qr = T(qr);
}

}  // namespace

template <typename T>
void control_grad(const ControlViews<T>& views, const Address<T>& at, const ControlNumbers& numbers, Kind kind,
                  bool guided, T* g_raw, T* direct, double* row_loss, double* row_peak, int64_t batch, int64_t channels,
                  int64_t h, int64_t w, int64_t begin, int64_t end) {
  std::vector<T> target(w, 0), weight(w, 0), g_x0(w), g_eps(w), none(w, 0);
  bool clear = true;
  const int64_t half = batch * channels * h * w;
  const bool estimates = kind == Kind::estimates;
  for (; begin < end; ++begin) {
    const int64_t sample = begin / h / channels, i = begin * w;
    if (neighbour_row(at, sample, begin / h % channels, channels, begin % h, h, w, target.data(), weight.data())) {
      clear = false;
    } else if (!clear) {
      std::fill(target.begin(), target.end(), T(0)), std::fill(weight.begin(), weight.end(), T(0));
      clear = true;
    }
    Row<T> row{};
    row.kappa = T(numbers.kl_weight[sample]), row.pull = T(numbers.coupling[sample]);
    row.reward_weight = T(numbers.reward_weight), row.cost = T(numbers.control_cost);
    const T* reward = views.reward_gradient ? views.reward_gradient + i : none.data();
    T *one = g_raw + i, *two = guided || estimates ? g_raw + half + i : nullptr;
    row_loss[begin] = double(estimates_of(views.x + i, views.eps + i, views.eps_free + i, views.control + i,
                                          views.overlap_gradient + i, reward, target.data(), weight.data(), row,
                                          estimates ? one : g_x0.data(), estimates ? two : g_eps.data(), direct + i, w));
    if (!estimates) {
      linear_form(kind, numbers.a[sample], numbers.b[sample], &row);
      const double s = numbers.guidance[sample];
      add(g_x0.data(), row.px, g_eps.data(), row.qx, direct + i, w);
      combine(g_x0.data(), row.pr, g_eps.data(), row.qr, T(guided ? 1 - s : 1), one, w);
      if (two) combine(g_x0.data(), row.pr, g_eps.data(), row.qr, T(s), two, w);
    }
    const T peak = largest(one, w), other = two ? largest(two, w) : T(0);
    row_peak[begin] = double(peak > other || peak != peak ? peak : other);
  }
}

template <typename T>
void control_update(T* control, T* first_moment, T* second_moment, const T* vjp, const double* scale, const T* direct,
                    const T* x, const Adam& numbers, double strength, T* moved, int64_t cells, int64_t begin,
                    int64_t end) {
  const double steps = double(numbers.iteration + 1);
  const T rate = T(numbers.lr / (1 - std::pow(numbers.beta1, steps)));
  const T correction = T(1 / (1 - std::pow(numbers.beta2, steps)));
  while (begin < end) {
    const int64_t sample = begin / cells, n = std::min(end, (sample + 1) * cells) - begin;
    adam(control + begin, first_moment + begin, second_moment + begin, vjp + begin, scale ? T(scale[sample]) : T(1),
         direct + begin, x + begin, T(numbers.beta1), T(numbers.beta2), rate, correction, T(numbers.epsilon), T(strength),
         moved + begin, n);
    begin += n;
  }
}

#define FASTSYNC_INSTANTIATE(T)                                                                                       \
  template void control_grad(const ControlViews<T>&, const Address<T>&, const ControlNumbers&, Kind, bool, T*, T*,    \
                             double*, double*, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t);                 \
  template void control_update(T*, T*, T*, const T*, const double*, const T*, const T*, const Adam&, double, T*,      \
                               int64_t, int64_t, int64_t);
FASTSYNC_INSTANTIATE(float)
FASTSYNC_INSTANTIATE(double)
#undef FASTSYNC_INSTANTIATE

}  // namespace fastsync
