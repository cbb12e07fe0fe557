#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace exactnorm {

/// Columns of one number per channel, and a flag for each, as vector code takes them.
class ChannelColumns {
 public:
  static constexpr std::size_t most = 5;

  /// Those of the calling thread, until its next call: their memory is kept. Flags are 0, columns hold nothing of use.
  [[nodiscard]] static ChannelColumns& of(std::size_t channels) {
    thread_local ChannelColumns columns;
    columns.channels_ = channels;
    columns.values_.resize(most * channels);
    columns.flags.assign(channels, 0);
    return columns;
  }
  [[nodiscard]] double* operator[](std::size_t which) { return values_.data() + which * channels_; }

  std::vector<std::uint8_t> flags;

 private:
  std::size_t channels_ = 0;
  std::vector<double> values_;
};

}  // namespace exactnorm
