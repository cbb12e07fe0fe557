#include "tensor/scratch.h"

#include <utility>

namespace exactnorm {

namespace {

constexpr std::size_t largest_kept = 1 << 14;  // lines: 1 MiB
constexpr std::size_t most_kept = 32;

}  // namespace

// NOLINTNEXTLINE(clang-analyzer-cplusplus.NewDeleteLeaks): memory_ owns it, or the stock
Scratch::Scratch(std::size_t bytes) : memory_(take(bytes / sizeof(Line) + 1)) {}

Scratch::~Scratch() {
  if (memory_.lines == nullptr || memory_.size > largest_kept || stock().size() >= most_kept) return;
  stock().push_back(std::move(memory_));
}

std::vector<Scratch::Memory>& Scratch::stock() {
  thread_local std::vector<Memory> memory;
  return memory;
}

Scratch::Memory Scratch::take(std::size_t lines) {
  std::vector<Memory>& kept = stock();
  if (kept.empty()) {
    kept.reserve(most_kept);  // so that giving back cannot fail
  } else {
    Memory memory = std::move(kept.back());
    kept.pop_back();
    if (memory.size >= lines) return memory;
  }
  return {std::make_unique_for_overwrite<Line[]>(lines), lines};
}

}  // namespace exactnorm
