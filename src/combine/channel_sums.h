#pragma once

#include <cstdint>
#include <vector>

#include "combine/short_sums.h"
#include "exactnorm/partial_sums.h"

namespace exactnorm {

/// Exact sums of some channels while they grow: in short integers as long as these suffice (nearly always), and in the
/// long ones of PartialSums, which a channel only then has. A channel's sum is what both hold together.
///
/// A channel's `guess` is an exponent for each operand that its numbers have kept within so far; it is also
/// what the short integers count in.
class ChannelSums {
 public:
  ChannelSums(Index channels, PartialSums::Kind kind, PartialSums::Range range) { reset(channels, kind, range); }
  /// Back to sums of nothing, with the memory kept.
  void reset(Index channels, PartialSums::Kind kind, PartialSums::Range range);

  [[nodiscard]] Index channels() const noexcept { return short_sums_.size(); }
  [[nodiscard]] PartialSums::Kind kind() const noexcept { return kind_; }

  [[nodiscard]] ShortSums& short_sums() noexcept { return short_sums_; }
  [[nodiscard]] const ShortSums& short_sums() const noexcept { return short_sums_; }

  [[nodiscard]] bool has_guesses(Index first_channel, Index count) const noexcept;
  /// Raises a channel's guess to these exponents where they are higher, or sets it where there is none.
  void raise_guess(Index channel, int first_exponent, int second_exponent);

  /// To be told before `count` more elements of every channel are added, at most 2^15: makes room for their sums.
  void make_room(Index count);

  /// Adds value * 2^unit to a channel's first (0) or second (1) sum, whatever its size.
  void add(Index channel, int which, std::int64_t value, int unit);
  void count_nonfinite(Index channel, int operand);

  /// Adds the sums of the same channels over other elements, of each channel in `parts` consecutive ones of `other`.
  /// Guesses are lost: nothing is added by add() afterwards.
  void merge(const ChannelSums& other, Index parts = 1);

  /// Whether the short integers are all there is of a channel.
  [[nodiscard]] bool is_short(Index channel) const noexcept { return !is_long_[static_cast<std::size_t>(channel)]; }
  /// The long integers, with all of a channel in them.
  [[nodiscard]] const PartialSums& long_sums_of(Index channel);
  /// Adds a channel to one of `sums`, of the same or a larger range.
  void add_to(PartialSums& sums, Index to_channel, Index channel) const;

 private:
  /// add() to the short integers; false, with nothing changed, where they cannot take the value.
  [[nodiscard]] bool add_short(Index channel, int which, std::int64_t value, int unit) noexcept;
  void move_to_long(Index channel);
  PartialSums& long_sums();

  PartialSums::Kind kind_ = PartialSums::Kind::moments;
  PartialSums::Range range_ = PartialSums::Range::single;
  ShortSums short_sums_;
  std::vector<std::uint8_t> has_guess_;
  std::vector<std::uint8_t> is_long_;
  PartialSums long_sums_ = PartialSums(0);  // of no channels until the first is long
  Index since_carry_ = 0;                   // elements of a channel
  Index since_long_ = 0;
};

}  // namespace exactnorm
