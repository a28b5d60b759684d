// Writing past the caches, for results that are larger than these: a plain store first reads the line that it overwrites.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace fastsync {

constexpr int64_t kStreamed = 8 << 20;  // bytes of a result from which on it is not worth keeping

inline void stream_copy(void* to, const void* from, int64_t bytes) {
#if defined(__SSE2__)
  if (reinterpret_cast<uintptr_t>(to) % 16 == 0) {
    char* out = static_cast<char*>(to);
    const char* in = static_cast<const char*>(from);
    for (; bytes >= 64; bytes -= 64, in += 64, out += 64)
      for (int i = 0; i < 64; i += 16)
        _mm_stream_si128(reinterpret_cast<__m128i*>(out + i), _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i)));
    _mm_sfence();
    to = out, from = in;
  }
#endif
  std::memcpy(to, from, size_t(bytes));
}

}  // namespace fastsync
