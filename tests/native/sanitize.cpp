// The C++ launchers under ASan and UBSan (`make sanitize`): awkward sizes, each against a naive loop. Every buffer is
// exactly as large as it has to be, so that a read or write past it is found.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "../../csrc/ops.h"

namespace {

std::mt19937 rng(0);
int faults = 0;

template <typename T>
std::vector<T> normal(int64_t n) {
  std::normal_distribution<T> draw;
  std::vector<T> x(n);
  for (T& v : x) v = draw(rng);
  return x;
}

int64_t integer(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(rng); }

template <typename T>
void same(const char* what, const std::vector<T>& got, const std::vector<T>& expected) {
  for (size_t i = 0; i < expected.size(); ++i)
    if (!(std::abs(got[i] - expected[i]) <= 1e-4 * (1 + std::abs(expected[i])))) {
      std::printf("%s: element %zu is %g, expected %g\n", what, i, double(got[i]), double(expected[i]));
      ++faults;
      return;
    }
}

int64_t modulo(int64_t v, int64_t p) { return p ? ((v % p) + p) % p : v; }

// Views [b, c, h, w], where they read, and what they then find: target and weight [b, c, h, w], 0 outside.
template <typename T>
struct Overlap {
  int64_t b, c, h, w, sh, sw;
  std::vector<T> source, mask, target, weight;
  std::vector<int64_t> place, index;
  fastsync::Address<T> at;

  Overlap(int64_t b, int64_t c, int64_t h, int64_t w, int64_t sh, int64_t sw, bool indexed, bool masked, bool looped)
      : b(b), c(c), h(h), w(w), sh(sh), sw(sw), source(normal<T>(2 * c * sh * sw)), mask(b * h * w),
        target(b * c * h * w, 0), weight(b * c * h * w, 0), place(3 * b), index(b * h * w) {
    const int64_t slots = 2, py = looped ? sh + 1 : 0, px = looped ? sw + 2 : 0;
    for (T& m : mask) m = T(integer(0, 2)) / 2;
    for (int64_t i = 0; i < b; ++i) {
      place[3 * i] = indexed ? 0 : integer(-1, slots - 1);
      place[3 * i + 1] = integer(-sh - 1, sh + 1);
      place[3 * i + 2] = integer(-sw - 1, sw + 1);
    }
    for (int64_t& i : index) i = integer(-1, slots * sh * sw - 1);
    at = {source.data(), sh, sw, place.data(), indexed ? index.data() : nullptr, masked ? mask.data() : nullptr, py, px};
    for (int64_t i = 0; i < b; ++i)
      for (int64_t k = 0; k < c; ++k)
        for (int64_t y = 0; y < h; ++y)
          for (int64_t s = 0; s < w; ++s) {
            const int64_t cell = (i * h + y) * w + s, out = ((i * c + k) * h + y) * w + s;
            int64_t from = -1;
            if (indexed) {
              if (index[cell] >= 0) from = (index[cell] / (sh * sw) * c + k) * sh * sw + index[cell] % (sh * sw);
            } else if (place[3 * i] >= 0) {
              const int64_t v = modulo(y + place[3 * i + 1], py), u = modulo(s + place[3 * i + 2], px);
              if (v >= 0 && v < sh && u >= 0 && u < sw) from = ((place[3 * i] * c + k) * sh + v) * sw + u;
            }
            if (from < 0) continue;
            weight[out] = masked ? mask[cell] : T(1);
            target[out] = source[from];
          }
  }
  int64_t size() const { return b * c * h * w; }
};

template <typename T>
void overlap_loss(const Overlap<T>& o) {
  const auto x = normal<T>(o.size());
  std::vector<T> gradient(x.size(), NAN), expected(x.size());
  const int64_t strips = fastsync::strips(o.h), units = o.b * o.c * strips, half = units / 2;
  std::vector<double> parts(units, NAN), loss(units, 0);
  for (size_t i = 0; i < x.size(); ++i) {
    const T d = o.weight[i] * (x[i] - o.target[i]);
    expected[i] = 2 * o.weight[i] * d;
    loss[i / (o.h * o.w) * strips + i / o.w % o.h / 16] += double(d) * double(d);
  }
  fastsync::overlap_loss(x.data(), o.at, gradient.data(), parts.data(), o.c, o.h, o.w, false, 0, half);
  fastsync::overlap_loss(x.data(), o.at, gradient.data(), parts.data(), o.c, o.h, o.w, true, half, units);
  same("overlap_loss gradient", gradient, expected);
  same("overlap_loss", parts, loss);
}

std::vector<double> coefficients(int64_t n) {
  std::vector<double> drawn(n);
  for (double& v : drawn) v = std::uniform_real_distribution<double>(0.3, 1.2)(rng);
  return drawn;
}

// px, pr, qx, qr of x0 = px x + pr r and eps = qx x + qr r.
std::vector<double> form(fastsync::Kind kind, double a, double b) {
  using fastsync::Kind;
  if (kind == Kind::epsilon) return {1 / a, -b / a, 0, 1};
  if (kind == Kind::v_prediction) return {a, -b, b, a};
  if (kind == Kind::sample) return {0, 1, 1 / b, -a / b};
  return {1, -b, 1, a};
}

template <typename T>
void steps(const Overlap<T>& o, fastsync::Kind kind, bool guided, bool noisy, bool pulled) {
  const int64_t n = o.size(), cells = o.c * o.h * o.w, units = o.b * o.c * o.h;
  const auto raw = normal<T>(n), uncond = normal<T>(n), x = normal<T>(n), noise = normal<T>(n);
  const auto a = coefficients(o.b), b = coefficients(o.b), s = coefficients(o.b), pull = coefficients(o.b);
  std::vector<T> x0(n, NAN), eps(n, NAN), clean(n), pure(n), next(n, NAN), expected(n);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t k = i / cells;
    const double r = guided ? uncond[i] + s[k] * (raw[i] - uncond[i]) : raw[i];
    const auto f = form(kind, a[k], b[k]);
    clean[i] = T(f[0] * x[i] + f[1] * r), pure[i] = T(f[2] * x[i] + f[3] * r);
    expected[i] = T(a[k] * clean[i] + b[k] * pure[i] + (noisy ? s[k] * noise[i] : 0) -
                    (pulled ? pull[k] * o.weight[i] * (x[i] - o.target[i]) : 0));
  }
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, n / 3}, {n / 3, n}})
    fastsync::cfg_tweedie(raw.data(), guided ? uncond.data() : nullptr, x.data(), a.data(), b.data(), s.data(), kind,
                          x0.data(), eps.data(), cells, begin, end);
  same("cfg_tweedie x0", x0, clean);
  same("cfg_tweedie eps", eps, pure);
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, units / 2}, {units / 2, units}})
    fastsync::ddim_step(clean.data(), pure.data(), noisy ? noise.data() : nullptr, x.data(), pulled ? &o.at : nullptr,
                        a.data(), b.data(), s.data(), pull.data(), next.data(), o.c, o.h, o.w, begin, end);
  same("ddim_step", next, expected);
}

template <typename T>
void control(const Overlap<T>& o, fastsync::Kind kind, bool guided, bool rewarded) {
  const int64_t n = o.size(), cells = o.c * o.h * o.w, units = o.b * o.c * o.h;
  const bool estimates = kind == fastsync::Kind::estimates, two = guided || estimates;
  const auto x = normal<T>(n), eps = normal<T>(n), free = normal<T>(n), u = normal<T>(n), overlap = normal<T>(n);
  const auto reward = normal<T>(n);
  const auto pull = coefficients(o.b), a = coefficients(o.b), b = coefficients(o.b), s = coefficients(o.b);
  const auto kl = coefficients(o.b);
  const double w = 1.3, cost = 0.2;
  std::vector<T> raw((two ? 2 : 1) * n, NAN), direct(n, NAN), cotangent(raw.size()), past(n);
  std::vector<double> loss(units, NAN), peak(units, NAN), losses(units, 0), peaks(units, 0);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t k = i / cells;
    const double m = pull[k] * o.weight[i], d = eps[i] + m * (x[i] - o.target[i]) - free[i];
    const double g_eps = 2 * kl[k] * d, g_x0 = w * overlap[i] - (rewarded ? reward[i] : 0);
    const auto f = estimates ? std::vector<double>{0, 1, 0, 0} : form(kind, a[k], b[k]);
    past[i] = T(m * g_eps + 2 * cost * u[i] + f[0] * g_x0 + f[2] * g_eps);
    const double g = f[1] * g_x0 + f[3] * g_eps;
    cotangent[i] = T(guided && !estimates ? (1 - s[k]) * g : g);
    if (two) cotangent[n + i] = T(estimates ? g_eps : s[k] * g);
    losses[i / o.w] += kl[k] * d * d + cost * u[i] * u[i];
    peaks[i / o.w] = std::max({peaks[i / o.w], std::abs(double(cotangent[i])), two ? std::abs(double(cotangent[n + i])) : 0});
  }
  const fastsync::ControlViews<T> views{x.data(),       eps.data(),
                                        free.data(),    u.data(),
                                        overlap.data(), rewarded ? reward.data() : nullptr};
  const fastsync::ControlNumbers numbers{pull.data(), a.data(), b.data(), s.data(), kl.data(), w, cost};
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, units / 2}, {units / 2, units}})
    fastsync::control_grad(views, o.at, numbers, kind, guided, raw.data(), direct.data(), loss.data(), peak.data(), o.b,
                           o.c, o.h, o.w, begin, end);
  same("control_grad cotangent", raw, cotangent);
  same("control_grad direct", direct, past);
  same("control_grad loss", loss, losses);
  same("control_grad peak", peak, peaks);

  std::vector<T> moving(u), first(eps), second(free), moved(n, NAN), right(n);
  for (T& v : second) v = v * v;
  std::vector<T> control_right(n), first_right(n), second_right(n);
  const int64_t steps = 3;
  for (int64_t i = 0; i < n; ++i) {
    const double g = 0.7 * ((rewarded ? s[i / cells] : 1) * overlap[i] + reward[i]);
    const double one = 0.9 * first[i] + 0.1 * g, squares = 0.999 * second[i] + 0.001 * g * g;
    const double spread = std::sqrt(squares / (1 - std::pow(0.999, steps))) + 1e-8;
    first_right[i] = T(one), second_right[i] = T(squares);
    control_right[i] = T(u[i] - 0.05 * one / (1 - std::pow(0.9, steps)) / spread);
    right[i] = T(x[i] + 0.7 * control_right[i]);
  }
  const fastsync::Adam adam{0.9, 0.999, 1e-8, 0.05, steps - 1};
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, n / 3}, {n / 3, n}})
    fastsync::control_update(moving.data(), first.data(), second.data(), overlap.data(), rewarded ? s.data() : nullptr,
                             reward.data(), x.data(), adam, 0.7, moved.data(), cells, begin, end);
  same("control_update control", moving, control_right);
  same("control_update first moment", first, first_right);
  same("control_update second moment", second, second_right);
  same("control_update view", moved, right);
}
template <typename T>
void transform(int64_t b, int64_t c, int64_t in, int64_t h, int64_t w, bool shared) {
  const int64_t out = h * w, units = b * fastsync::strips(h);
  const auto x = normal<T>(b * c * in), factor = normal<T>(b);
  std::vector<int64_t> index((shared ? 1 : b) * out);
  for (int64_t& i : index) i = integer(-1, in - 1);
  std::vector<T> y(b * c * out, NAN), expected(y.size(), 0);
  for (int64_t i = 0; i < b; ++i)
    for (int64_t k = 0; k < c; ++k)
      for (int64_t p = 0; p < out; ++p) {
        const int64_t from = index[(shared ? 0 : i * out) + p];
        if (from >= 0) expected[(i * c + k) * out + p] = factor[i] * x[(i * c + k) * in + from];
      }
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, units / 3}, {units / 3, units}})
    fastsync::transform(x.data(), index.data(), shared, factor.data(), y.data(), c, in, h, w, begin, end);
  same("transform", y, expected);
}

template <typename T>
void windows(int64_t n, int64_t c, int64_t h, int64_t w, int64_t height, int64_t width, bool shared) {
  const auto x = normal<T>(n * c * h * w), previous = normal<T>(c * height * width);
  std::vector<T> weights((shared ? 1 : n) * h * w), sum(c * height * width, 0), top(sum), total(height * width, 0);
  for (T& v : weights) v = T(integer(0, 3));
  std::vector<int64_t> origins(2 * n);
  for (int64_t& o : origins) o = integer(-height, 2 * width);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t y = 0; y < h; ++y)
      for (int64_t s = 0; s < w; ++s) {
        const int64_t cell = modulo(y + origins[2 * i], height) * width + modulo(s + origins[2 * i + 1], width);
        const T weight = weights[((shared ? 0 : i) * h + y) * w + s];
        total[cell] += weight;
        for (int64_t k = 0; k < c; ++k) {
          sum[k * height * width + cell] += x[((i * c + k) * h + y) * w + s];
          top[k * height * width + cell] += weight * x[((i * c + k) * h + y) * w + s];
        }
      }
  for (size_t i = 0; i < top.size(); ++i) {
    const T all = total[i % (height * width)];
    top[i] = all > 0 ? top[i] / all : previous[i];
  }
  const fastsync::Windows at{origins.data(), n, c, h, w, height, width};
  std::vector<T> canvas(sum.size(), NAN);
  fastsync::accumulate(x.data(), at, canvas.data(), 0, c * height / 2);
  fastsync::accumulate(x.data(), at, canvas.data(), c * height / 2, c * height);
  same("accumulate", canvas, sum);
  canvas.assign(canvas.size(), NAN);
  fastsync::merge(x.data(), weights.data(), shared, at, previous.data(), canvas.data(), 0, height / 2);
  fastsync::merge(x.data(), weights.data(), shared, at, previous.data(), canvas.data(), height / 2, height);
  same("merge", canvas, top);
}

template <typename T>
void taps(int64_t n, int64_t c, int64_t pixels, int64_t each, int64_t height, int64_t width, bool trusted) {
  const int64_t cells = height * width;
  const int64_t all = n * pixels, count = all * each, depth = c + (trusted ? 1 : 0);
  const auto views = normal<T>(all * c), weight = normal<T>(count), z = normal<T>(c * cells);
  auto confidence = normal<T>(all);
  for (T& v : confidence) v = integer(0, 2) ? v : T(0);
  std::vector<int32_t> index(count);
  for (int32_t& i : index) i = int32_t(integer(-2, cells - 1));
  std::vector<T> canvas(depth * cells, 0), read(all * c, 0);
  for (int64_t k = 0; k < count; ++k) {
    if (index[k] < 0) continue;
    const int64_t unit = k / each, view = unit / pixels, p = unit % pixels;
    const T w = weight[k] * (trusted ? confidence[unit] : T(1));
    for (int64_t ch = 0; ch < c; ++ch) {
      canvas[ch * cells + index[k]] += w * views[(view * c + ch) * pixels + p];
      read[(view * c + ch) * pixels + p] += weight[k] * z[ch * cells + index[k]];
    }
    if (trusted) canvas[c * cells + index[k]] += w;
  }
  const T* trust = trusted ? confidence.data() : nullptr;
  std::vector<int64_t> start(cells + 1), next(cells);
  const int64_t used = fastsync::sort_taps_count(index.data(), count, cells, start.data());
  std::vector<int32_t> pixel(used);
  std::vector<T> sorted(used), got(canvas.size(), NAN);
  fastsync::sort_taps_fill(index.data(), weight.data(), count, each, cells, start.data(), next.data(), pixel.data(),
                           sorted.data());
  const int64_t chunks = n * fastsync::chunks(pixels);
  std::vector<int32_t> low(chunks), high(chunks);
  fastsync::chunk_ranges(index.data(), pixels, each, low.data(), high.data(), 0, chunks / 2);
  fastsync::chunk_ranges(index.data(), pixels, each, low.data(), high.data(), chunks / 2, chunks);
  const auto bands = fastsync::cut_into_bands(low, high, pixels, cells, 3);
  for (size_t band = 0; band + 1 < bands.start.size(); ++band)
    fastsync::splat(views.data(), trust, index.data(), weight.data(), got.data(), bands, int64_t(band), c, pixels, each,
                    cells);
  same("splat", got, canvas);
  std::vector<T> seen(read.size(), NAN);
  fastsync::resample(z.data(), index.data(), weight.data(), seen.data(), c, cells, pixels, each, 0, all);
  same("resample", seen, read);
}

template <typename T>
void everything() {
  for (int round = 0; round < 40; ++round) {
    const int64_t h = integer(1, 19), w = integer(1, 19), c = integer(1, 5), b = integer(1, 4);
    for (int kind = 0; kind < 8; ++kind) {
      const Overlap<T> o(b, c, h, w, integer(1, 9), integer(1, 17), kind & 1, kind & 2, kind & 4);
      overlap_loss(o);
      steps(o, fastsync::Kind(round % 4), kind & 1, kind & 2, kind != 4);
      control(o, fastsync::Kind(round % 5), kind & 2, kind & 4);
    }
    transform<T>(b, c, h * w, integer(1, 40), integer(1, 20), round % 2);
    windows<T>(b, c, h, w, h + integer(0, 5), w + integer(0, 7), round % 2);
    taps<T>(b, c, h * w, integer(1, 4), integer(1, 40), integer(1, 40), round % 2);
  }
  transform<T>(1, 2, 5000, 33, 300, true);
}

}  // namespace

int main() {
  everything<float>();
  everything<double>();
  std::printf(faults ? "%d faults\n" : "C++ ops: no fault under the sanitizers\n", faults);
  return faults != 0;
}
