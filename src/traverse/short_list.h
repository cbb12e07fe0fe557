#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include "exactnorm/tensor.h"

namespace exactnorm {

/// At most one value per dimension, kept in place: a call of few elements would spend its time on allocations, and on
/// initializing or copying what is not used.
template <typename T>
class ShortList {
 public:
  ShortList() {}  // NOLINT(modernize-use-equals-default,cppcoreguidelines-pro-type-member-init): leaves values_ alone
  explicit ShortList(std::size_t size) : values_{}, size_(size) {}
  ShortList(const ShortList& other) : size_(other.size_) { std::copy(other.begin(), other.end(), begin()); }
  ShortList& operator=(const ShortList& other) {
    std::copy(other.begin(), other.end(), begin());
    size_ = other.size_;
    return *this;
  }
  ~ShortList() = default;

  void push_back(const T& value) { values_[size_++] = value; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
  [[nodiscard]] const T* begin() const noexcept { return values_.data(); }
  [[nodiscard]] const T* end() const noexcept { return values_.data() + size_; }
  [[nodiscard]] T* begin() noexcept { return values_.data(); }
  [[nodiscard]] T* end() noexcept { return values_.data() + size_; }
  [[nodiscard]] const T& operator[](std::size_t i) const noexcept { return values_[i]; }
  [[nodiscard]] T& operator[](std::size_t i) noexcept { return values_[i]; }
  [[nodiscard]] const T& back() const noexcept { return values_[size_ - 1]; }
  [[nodiscard]] T& back() noexcept { return values_[size_ - 1]; }
  void pop_back() { --size_; }

 private:
  std::array<T, maximum_rank> values_;
  std::size_t size_ = 0;
};

}  // namespace exactnorm
