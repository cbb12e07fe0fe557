#include "cold.h"

#include <hwy/cache_control.h>
#include <sched.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

namespace exactnorm::bench {
namespace {

constexpr std::size_t line = 64;

/// Those that this process may use, that of the caller first.
std::vector<int> processors() {
  cpu_set_t available;
  CPU_ZERO(&available);
  std::vector<int> result;
  if (::sched_getaffinity(0, sizeof(available), &available) != 0) return result;
  for (int processor = 0; processor < CPU_SETSIZE; ++processor) {
    if (CPU_ISSET(static_cast<std::size_t>(processor), &available)) result.push_back(processor);
  }
  const auto here = std::find(result.begin(), result.end(), ::sched_getcpu());
  if (here != result.end()) std::rotate(result.begin(), here, result.end());
  return result;
}

void move_to(int processor) {
  cpu_set_t chosen;
  CPU_ZERO(&chosen);
  CPU_SET(static_cast<std::size_t>(processor), &chosen);
  // A wish: where it is refused, some other processor writes.
  static_cast<void>(::sched_setaffinity(0, sizeof(chosen), &chosen));
}

void make_part_cold(const ColdMemory& memory, std::size_t part, std::size_t parts) {
  const std::size_t lines = (memory.bytes + line - 1) / line;
  const std::size_t begin = lines * part / parts * line;
  const std::size_t end = std::min(memory.bytes, lines * (part + 1) / parts * line);
  if (begin >= end) return;
  auto* const data = static_cast<std::byte*>(memory.data);
  for (std::size_t at = begin; at < end; at += line) hwy::FlushCacheline(data + at);
  if (memory.written_from == nullptr) return;
  std::memcpy(data + begin, static_cast<const std::byte*>(memory.written_from) + begin, end - begin);
}

}  // namespace

void make_cold(std::span<const ColdMemory> memories, int threads) {
  const std::vector<int> available = processors();
  const auto parts = static_cast<std::size_t>(threads);
  std::vector<std::jthread> writers;
  for (std::size_t part = 0; part < parts; ++part) {
    writers.emplace_back([&, part] {
      if (!available.empty()) move_to(available[(part + 1) % available.size()]);
      for (const ColdMemory& memory : memories) make_part_cold(memory, part, parts);
    });
  }
}

std::uint64_t read_lines(const void* data, std::size_t bytes) {
  std::uint64_t result = 0;
  for (std::size_t at = 0; at + sizeof(std::uint64_t) <= bytes; at += line) {
    std::uint64_t word = 0;
    std::memcpy(&word, static_cast<const std::byte*>(data) + at, sizeof(word));
    result ^= word;
  }
  return result;
}

}  // namespace exactnorm::bench
