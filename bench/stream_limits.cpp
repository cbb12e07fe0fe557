#include "stream_limits.h"

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>

// Compiled for the processor that compiles it: one target, no dispatch.
HWY_BEFORE_NAMESPACE();
namespace exactnorm::bench::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<std::uint8_t>;
constexpr std::size_t unit = 256;
// Far enough ahead for main memory, near enough for the first-level cache.
constexpr std::size_t prefetch_distance = 2048;

template <Store kStore, bool kCombines>
HWY_INLINE void StreamVector(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* to) {
  const D d;
  auto value = hn::Load(d, a);
  if constexpr (kCombines) value = hn::Xor(value, hn::Load(d, b));
  if constexpr (kStore == Store::nontemporal) {
    hn::Stream(value, d, to);
  } else {
    hn::Store(value, d, to);
  }
}

template <Store kStore, bool kCombines>
void StreamRange(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* to, std::size_t bytes) {
  const std::size_t width = hn::Lanes(D());
  std::size_t i = 0;
  for (; i + unit <= bytes; i += unit) {
    for (std::size_t line = 0; line < unit; line += 64) {
      hwy::Prefetch(a + i + prefetch_distance + line);
      if constexpr (kCombines) hwy::Prefetch(b + i + prefetch_distance + line);
    }
    for (std::size_t at = i; at < i + unit; at += width) {
      StreamVector<kStore, kCombines>(a + at, kCombines ? b + at : nullptr, to + at);
    }
  }
  for (; i < bytes; i += width) StreamVector<kStore, kCombines>(a + i, kCombines ? b + i : nullptr, to + i);
  if constexpr (kStore == Store::nontemporal) hwy::FlushStream();
}

template <Store kStore, bool kCombines>
void StreamAll(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t* to, std::size_t bytes, int threads) {
  const std::size_t units = (bytes + unit - 1) / unit;
  const auto team = static_cast<std::size_t>(threads);
  const auto run = [&](std::size_t thread) {
    const std::size_t begin = units * thread / team * unit;
    const std::size_t end = std::min((bytes + 63) / 64 * 64, units * (thread + 1) / team * unit);
    if (begin < end)
      StreamRange<kStore, kCombines>(a + begin, kCombines ? b + begin : nullptr, to + begin, end - begin);
  };
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (std::size_t thread = 0; thread < team; ++thread) run(thread);
}

template <bool kCombines>
void StreamStored(const void* a, const void* b, void* to, std::size_t bytes, Store store, int threads) {
  const auto* from_a = static_cast<const std::uint8_t*>(a);
  const auto* from_b = static_cast<const std::uint8_t*>(b);
  auto* out = static_cast<std::uint8_t*>(to);
  if (store == Store::ordinary) {
    StreamAll<Store::ordinary, kCombines>(from_a, from_b, out, bytes, threads);
  } else {
    StreamAll<Store::nontemporal, kCombines>(from_a, from_b, out, bytes, threads);
  }
}

}  // namespace exactnorm::bench::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

namespace exactnorm::bench {

void stream_copy(const void* from, void* to, std::size_t bytes, Store store, int threads) {
  HWY_STATIC_DISPATCH(StreamStored<false>)(from, nullptr, to, bytes, store, threads);
}

void stream_combine(const void* a, const void* b, void* to, std::size_t bytes, Store store, int threads) {
  HWY_STATIC_DISPATCH(StreamStored<true>)(a, b, to, bytes, store, threads);
}

}  // namespace exactnorm::bench
