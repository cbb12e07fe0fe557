#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <string>

#include "exactnorm/sums.h"
#include "sums/byte_string.h"
#include "sums/superaccumulator.h"

namespace exactnorm {

namespace {

constexpr Index maximum_count = Index{1} << 62;

std::string name_of(PartialSums::Kind kind) { return kind == PartialSums::Kind::moments ? "moments" : "gradients"; }

std::size_t words_for(Index channels, PartialSums::Kind kind, PartialSums::Range range) {
  const auto per_channel = static_cast<Index>(format_of(kind, range).words_per_channel());
  if (channels > maximum_count / per_channel / 16) {
    throw Error("channels", "is " + std::to_string(channels) + "; expected fewer");
  }
  return static_cast<std::size_t>(channels * per_channel);
}

// destination += source * 2^shift, sign-extended to the destination's width.
void add_shifted(std::uint64_t* destination, int size, const std::uint64_t* source, int source_size, int shift) {
  const std::uint64_t sign = (source[source_size - 1] >> 63) != 0 ? ~std::uint64_t{0} : 0;
  std::array<std::uint64_t, 128> shifted{};
  const int word = shift / 64;
  const auto bit = static_cast<unsigned>(shift) % 64;
  const auto word_at = [&](int i) { return i < 0 ? 0 : (i < source_size ? source[i] : sign); };
  for (int i = word; i < size; ++i) {
    const std::uint64_t low = word_at(i - word);
    const std::uint64_t below = word_at(i - word - 1);
    shifted[static_cast<std::size_t>(i)] = bit == 0 ? low : (low << bit) | (below >> (64 - bit));
  }
  add_words(destination, shifted.data(), size);
}

}  // namespace

PartialSums::PartialSums(Index channels, Kind kind, Range range) : kind_(kind), range_(range) {
  if (channels < 0) throw Error("channels", "is " + std::to_string(channels) + "; expected 0 or more");
  PartialSumsAccess::clear(*this, channels, range);
}

void PartialSumsAccess::clear(PartialSums& sums, Index channels, PartialSums::Range range) {
  sums.range_ = range;
  sums.words_.assign(words_for(channels, sums.kind_, sums.range_), 0);
  sums.nonfinite_.assign(static_cast<std::size_t>(2 * channels), 0);
  sums.channels_ = channels;
  sums.count_ = 0;
}

void PartialSumsAccess::add_channel(PartialSums& sums, Index channel, const PartialSums& source, Index source_channel) {
  const SumFormat format = format_of(sums.kind_, sums.range_);
  const SumFormat source_format = format_of(source.kind_, source.range_);
  for (int which = 0; which < SumFormat::sums; ++which) {
    if (format.words[which] == 0) continue;
    std::uint64_t* to = words(sums, channel, which);
    const std::uint64_t* from = words(source, source_channel, which);
    if (sums.range_ == source.range_) {
      add_words(to, from, format.words[which]);
    } else {
      add_shifted(to, format.words[which], from, source_format.words[which],
                  source_format.unit_exponents[which] - format.unit_exponents[which]);
    }
  }
  for (int operand = 0; operand < 2; ++operand) {
    nonfinite(sums, channel, operand) += nonfinite(source, source_channel, operand);
  }
}

void PartialSumsAccess::widen(PartialSums& sums) {
  if (sums.range_ == PartialSums::Range::extended) return;
  PartialSums wide(sums.channels_, sums.kind_, PartialSums::Range::extended);
  wide.count_ = sums.count_;
  for (Index channel = 0; channel < sums.channels_; ++channel) add_channel(wide, channel, sums, channel);
  sums = std::move(wide);
}

void check_kind(const PartialSums& sums, PartialSums::Kind expected) {
  if (sums.kind() == expected) return;
  throw Error("sums", "are of kind " + name_of(sums.kind()) + "; expected " + name_of(expected));
}

Index PartialSums::nonfinite_count(Index channel) const {
  if (channel < 0 || channel >= channels_) {
    throw Error("channel",
                "is " + std::to_string(channel) + "; expected 0 or more and less than " + std::to_string(channels_));
  }
  return PartialSumsAccess::nonfinite(*this, channel, 0) + PartialSumsAccess::nonfinite(*this, channel, 1);
}

void PartialSums::add_count(Index elements) {
  if (elements < 0) throw Error("elements", "is " + std::to_string(elements) + "; expected 0 or more");
  if (elements > maximum_count - count_) {
    throw Error("elements", "is " + std::to_string(elements) + ", beside " + std::to_string(count_) +
                                " so far; expected at most 2^62 in all");
  }
  count_ += elements;
}

void PartialSums::merge(const PartialSums& other) {
  if (other.kind_ != kind_) {
    throw Error("other", "holds " + name_of(other.kind_) + "; expected " + name_of(kind_));
  }
  if (other.channels_ != channels_) {
    throw Error("other", "has " + std::to_string(other.channels_) + " channels; expected " + std::to_string(channels_));
  }
  if (other.count_ > maximum_count - count_)
    throw Error("other", "has too many elements; expected at most 2^62 in all");
  if (other.range_ == Range::extended) PartialSumsAccess::widen(*this);
  for (Index channel = 0; channel < channels_; ++channel) {
    PartialSumsAccess::add_channel(*this, channel, other, channel);
  }
  count_ += other.count_;
}

bool operator==(const PartialSums& a, const PartialSums& b) {
  if (a.range_ != b.range_) {
    PartialSums wide_a = a;
    PartialSums wide_b = b;
    PartialSumsAccess::widen(wide_a);
    PartialSumsAccess::widen(wide_b);
    return wide_a == wide_b;
  }
  return a.channels_ == b.channels_ && a.kind_ == b.kind_ && a.count_ == b.count_ && a.nonfinite_ == b.nonfinite_ &&
         a.words_ == b.words_;
}

namespace {

constexpr std::array<char, 8> magic = {'E', 'X', 'N', 'S', 'U', 'M', 'S', '1'};
constexpr std::size_t header_size = magic.size() + 2 * 8 + 8;

// 1 were gradients without a sum of squares.
constexpr std::uint64_t moments_tag = 0;
constexpr std::uint64_t gradients_tag = 2;

[[noreturn]] void reject(const std::string& found) {
  throw Error("bytes", found + "; expected what PartialSums::serialize writes");
}

}  // namespace

std::vector<std::byte> PartialSums::serialize() const {
  std::vector<std::byte> bytes;
  bytes.reserve(header_size + 8 * (words_.size() + nonfinite_.size()));
  for (const char letter : magic) bytes.push_back(static_cast<std::byte>(letter));
  append(bytes, static_cast<std::uint64_t>(channels_));
  append(bytes, static_cast<std::uint64_t>(count_));
  append(bytes, (kind_ == Kind::moments ? moments_tag : gradients_tag) | static_cast<std::uint64_t>(range_) << 8);
  for (const std::uint64_t word : words_) append(bytes, word);
  for (const Index count : nonfinite_) append(bytes, static_cast<std::uint64_t>(count));
  return bytes;
}

PartialSums PartialSums::deserialize(std::span<const std::byte> bytes) {
  if (bytes.size() < header_size) reject("are " + std::to_string(bytes.size()) + " bytes");
  if (std::memcmp(bytes.data(), magic.data(), magic.size()) != 0) reject("start with another signature");
  const std::uint64_t channels = read_integer(bytes, 8);
  const std::uint64_t count = read_integer(bytes, 16);
  const std::uint64_t tags = read_integer(bytes, 24);
  if (count > static_cast<std::uint64_t>(maximum_count)) reject("have a count above 2^62");
  const std::uint64_t kind_tag = tags & 0xff;
  if ((kind_tag != moments_tag && kind_tag != gradients_tag) || tags >> 8 > 1) reject("have an unknown kind or range");
  const Kind kind = kind_tag == moments_tag ? Kind::moments : Kind::gradients;
  const auto range = static_cast<Range>(tags >> 8);
  const auto per_channel = static_cast<std::uint64_t>(format_of(kind, range).words_per_channel() + 2) * 8;
  if (channels > bytes.size() / per_channel || header_size + channels * per_channel != bytes.size()) {
    reject("are " + std::to_string(bytes.size()) + " bytes for " + std::to_string(channels) + " channels");
  }
  PartialSums sums(static_cast<Index>(channels), kind, range);
  sums.count_ = static_cast<Index>(count);
  std::size_t at = header_size;
  for (std::uint64_t& word : sums.words_) {
    word = read_integer(bytes, at);
    at += 8;
  }
  for (Index& nonfinite : sums.nonfinite_) {
    const std::uint64_t value = read_integer(bytes, at);
    if (value > count) reject("have more non-finite values than elements");
    nonfinite = static_cast<Index>(value);
    at += 8;
  }
  return sums;
}

}  // namespace exactnorm
