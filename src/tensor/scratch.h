#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "exactnorm/tensor.h"

namespace exactnorm {

/// Memory for the time of a call, aligned to cache lines, from a stock that each thread keeps: a call of few elements
/// would spend its time on allocations, and fetching pages from the system for every group of channels would take
/// longer than the work.
class Scratch {
 public:
  explicit Scratch(std::size_t bytes);
  Scratch(Scratch&&) noexcept = default;
  Scratch& operator=(Scratch&&) noexcept = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch();

  [[nodiscard]] std::byte* data() noexcept { return memory_.lines[0].bytes.data(); }

 private:
  struct alignas(64) Line {
    std::array<std::byte, 64> bytes;
  };
  struct Memory {
    std::unique_ptr<Line[]> lines;
    std::size_t size = 0;  // lines
  };

  static std::vector<Memory>& stock();
  static Memory take(std::size_t lines);

  Memory memory_;
};

/// `size` numbers in such memory, which start with a cache line; not initialized.
template <typename T>
class ScratchArray {
 public:
  explicit ScratchArray(Index size)
      : memory_(static_cast<std::size_t>(size) * sizeof(T)), size_(static_cast<std::size_t>(size)) {}

  [[nodiscard]] T* data() noexcept { return reinterpret_cast<T*>(memory_.data()); }
  [[nodiscard]] std::span<T> span() noexcept { return {data(), size_}; }

 private:
  Scratch memory_;
  std::size_t size_;
};

}  // namespace exactnorm
