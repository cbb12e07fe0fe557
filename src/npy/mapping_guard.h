#pragma once

#include <atomic>
#include <cstddef>

namespace exactnorm::npy {

/// A mapped file whose pages may be lost while it is read: somebody shortens the file, or its disk fails. The system
/// then sends SIGBUS. While a guard watches the mapping, zeros take the place of the lost pages instead, and damaged()
/// says so: to be asked before anything that came of the bytes is used.
///
/// Works for reads in any thread. The first guard installs a handler for SIGBUS, which hands on all that is no guard's.
class MappingGuard {
 public:
  MappingGuard(std::byte* begin, std::size_t size);
  ~MappingGuard();
  MappingGuard(const MappingGuard&) = delete;
  MappingGuard& operator=(const MappingGuard&) = delete;

  [[nodiscard]] bool damaged() const noexcept;

  /// One for each mapping; known to the handler for ever, and used again.
  struct Range {
    std::atomic<std::byte*> begin = nullptr;  // nullptr: free
    std::atomic<std::size_t> size = 0;
    std::atomic<bool> damaged = false;
    Range* next = nullptr;
  };

 private:
  Range* range_;
};

}  // namespace exactnorm::npy
