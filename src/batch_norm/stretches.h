#pragma once

#include <cstddef>
#include <span>

#include "exactnorm/tensor.h"

namespace exactnorm {

/// Calls visit(first, count) for each stretch of channels whose numbers follow each other.
template <typename Visit>
void for_each_stretch(std::span<const Index> channels, const Visit& visit) {
  for (std::size_t begin = 0; begin < channels.size();) {
    std::size_t end = begin + 1;
    while (end < channels.size() && channels[end] == channels[end - 1] + 1) ++end;
    visit(channels[begin], static_cast<Index>(end - begin));
    begin = end;
  }
}

[[nodiscard]] inline bool is_one_stretch(std::span<const Index> channels) noexcept {
  for (std::size_t i = 1; i < channels.size(); ++i) {
    if (channels[i] != channels[i - 1] + 1) return false;
  }
  return !channels.empty();
}

}  // namespace exactnorm
