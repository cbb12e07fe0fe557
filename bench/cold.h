#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace exactnorm::bench {

/// Memory that a call finds as it does in a network.
struct ColdMemory {
  void* data = nullptr;
  std::size_t bytes = 0;
  /// What other processors write into it before the call, as the layer before does; null where it has not been touched
  /// for long.
  const void* written_from = nullptr;
};

/// Evicts all of it from the caches of all processors (on x86; elsewhere what is written here has to do that), and
/// writes anew what has a source. Part k of the threads' parts is written on the processor after that of part k's
/// likely reader. The threads that do this are gone afterwards: none spins in the way of what is measured.
void make_cold(std::span<const ColdMemory> memories, int threads);

/// A cheap pass over an output, as the layer after begins with: one word of each cache line, by the calling thread,
/// which disturbs no pool of threads. Returns what depends on all of them.
std::uint64_t read_lines(const void* data, std::size_t bytes);

}  // namespace exactnorm::bench
