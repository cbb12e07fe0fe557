#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <new>
#include <string>

namespace exactnorm::bench {
namespace {

constexpr std::size_t huge_page = std::size_t{2} << 20;

}  // namespace

Memory::Memory(std::size_t bytes, int threads) : bytes_(bytes) {
  const std::size_t pages = std::max<std::size_t>(1, (bytes + huge_page - 1) / huge_page);
  data_.reset(std::aligned_alloc(huge_page, pages * huge_page));
  if (data_ == nullptr) throw std::bad_alloc();
  // A wish: without huge pages the memory is as good, only slower.
  static_cast<void>(::madvise(data_.get(), pages * huge_page, MADV_HUGEPAGE));
  auto* const first = as<std::byte>();
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::size_t page = 0; page < pages; ++page) std::memset(first + page * huge_page, 0, huge_page);
}

void Memory::Free::operator()(void* data) const noexcept { std::free(data); }

std::size_t available_memory() {
  std::ifstream file("/proc/meminfo");
  std::string line;
  while (std::getline(file, line)) {
    constexpr std::string_view key = "MemAvailable:";
    if (line.starts_with(key)) return std::stoull(line.substr(key.size())) * 1024;
  }
  return std::numeric_limits<std::size_t>::max();
}

}  // namespace exactnorm::bench
