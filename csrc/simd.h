// One build for old and new processors: the loader picks the clone of a hot loop that the machine can run.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && !defined(FASTSYNC_PLAIN)
#define FASTSYNC_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define FASTSYNC_CLONES
#endif
