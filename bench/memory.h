#pragma once

#include <cstddef>
#include <memory>

namespace exactnorm::bench {

/// Zeroed memory, touched by as many threads as will use it, on a boundary of 2 MiB and in huge pages where the
/// system has them. All contenders get their tensors from here: huge pages alone are worth some per cent.
class Memory {
 public:
  Memory() = default;
  Memory(std::size_t bytes, int threads);

  template <typename T>
  [[nodiscard]] T* as() const noexcept {
    return static_cast<T*>(data_.get());
  }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

 private:
  struct Free {
    void operator()(void* data) const noexcept;
  };
  std::unique_ptr<void, Free> data_;
  std::size_t bytes_ = 0;
};

/// What the system could give to new tensors without swapping.
[[nodiscard]] std::size_t available_memory();

}  // namespace exactnorm::bench
