// How a row of a view finds its neighbour's cells.
#pragma once

#include <algorithm>

#include "ops.h"

namespace fastsync {

inline int64_t modulo(int64_t v, int64_t p) {
  const int64_t r = v % p;
  return r < 0 ? r + p : r;
}

// The next run of coordinates from `done` on that lie inside a source of `side` cells; false where there is none.
struct Run {
  int64_t first, at, length;
};
inline bool next_run(int64_t done, int64_t count, int64_t shift, int64_t period, int64_t side, Run* run) {
  while (done < count) {
    int64_t at = done + shift;
    if (period) at = modulo(at, period);
    if (at >= 0 && at < side) {
      *run = {done, at, std::min(count - done, side - at)};
      return true;
    }
    if (at >= side && !period) return false;
    done += at < 0 ? -at : period - at;
  }
  return false;
}

// What a row of sample `b` reads: target and weight [w], both 0 outside the overlap. False, and nothing written, where
// the row has no overlap at all.
template <typename T>
bool neighbour_row(const Address<T>& at, int64_t b, int64_t channel, int64_t channels, int64_t row, int64_t h, int64_t w,
                   T* target, T* weight) {
  const int64_t slot = at.place[3 * b], cells = at.sh * at.sw;
  if (slot < 0) return false;
  const T* mask = at.mask ? at.mask + (b * h + row) * w : nullptr;
  if (at.index) {
    const int64_t* index = at.index + (b * h + row) * w;
    for (int64_t i = 0; i < w; ++i) {
      weight[i] = index[i] < 0 ? T(0) : mask ? mask[i] : T(1);
      target[i] = T(0);
      if (weight[i] != 0) target[i] = at.source[((slot + index[i] / cells) * channels + channel) * cells + index[i] % cells];
    }
    return true;
  }
  Run down, right;
  if (!next_run(0, 1, at.place[3 * b + 1] + row, at.period_y, at.sh, &down)) return false;
  const T* line = at.source + (slot * channels + channel) * cells + down.at * at.sw;
  bool any = false;
  for (int64_t done = 0; next_run(done, w, at.place[3 * b + 2], at.period_x, at.sw, &right);
       done = right.first + right.length) {
    if (!any) std::fill(target, target + w, T(0)), std::fill(weight, weight + w, T(0));
    any = true;
    std::copy(line + right.at, line + right.at + right.length, target + right.first);
    if (mask)
      std::copy(mask + right.first, mask + right.first + right.length, weight + right.first);
    else
      std::fill(weight + right.first, weight + right.first + right.length, T(1));
  }
  return any;
}

}  // namespace fastsync
