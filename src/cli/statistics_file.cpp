#include "statistics_file.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>

#include "exactnorm/error.h"
#include "mapped_file.h"

namespace exactnorm::cli {
namespace {

constexpr const char* expected_file = "; expected a file that exactnorm normalize --statistics has written";

std::string position_in(std::string_view text, std::size_t byte) {
  const std::string_view before = text.substr(0, byte == 0 ? 0 : byte - 1);
  const std::size_t line_start = before.rfind('\n') + 1;  // 0 where there is none
  return "line " + std::to_string(std::count(before.begin(), before.end(), '\n') + 1) + ", column " +
         std::to_string(before.size() - line_start + 1);
}

// The file's members, one at a time, with errors that name the file and the member.
class Reader {
 public:
  explicit Reader(const std::string& path) {
    const npy::MappedFile file(path);
    name_ = file.name();
    const std::span<const std::byte> bytes = file.bytes();
    const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    file.check();
    try {
      json_ = Json::parse(text);
    } catch (const Json::parse_error& error) {
      fail("is not JSON from " + position_in(text, error.byte) + " on" + expected_file);
    } catch (const Json::exception&) {  // a number that float64 does not hold
      fail("holds a number beyond 1.8e308" + std::string(expected_file));
    }
    if (!json_.is_object()) fail("is not a JSON object" + std::string(expected_file));
  }

  [[noreturn]] void fail(const std::string& problem) const { throw Error(name_, problem); }

  [[nodiscard]] const Json& member(const char* key) const {
    const auto found = json_.find(key);
    if (found == json_.end()) fail("has no \"" + std::string(key) + "\"" + expected_file);
    return *found;
  }

  [[nodiscard]] double number(const char* key) const {
    const Json& value = member(key);
    if (!value.is_number()) fail("has " + quoted(value) + " for \"" + key + "\"; expected a number");
    return value.get<double>();
  }

  [[nodiscard]] std::string text(const char* key) const {
    const Json& value = member(key);
    if (!value.is_string()) fail("has " + quoted(value) + " for \"" + key + "\"; expected a text");
    return value.get<std::string>();
  }

  [[nodiscard]] IndexList sizes(const char* key) const {
    const Json& value = member(key);
    const auto is_size = [](const Json& size) { return size.is_number_unsigned() && size.get<double>() < 0x1p62; };
    if (!value.is_array() || value.size() > maximum_rank || !std::all_of(value.begin(), value.end(), is_size)) {
      fail("has " + quoted(value) + " for \"" + key + "\"; expected a list of at most 8 sizes");
    }
    IndexList list;
    for (const Json& size : value) list.push_back(size.get<Index>());
    return list;
  }

  /// A list of one number or null for each channel.
  [[nodiscard]] const Json& list(const char* key, std::size_t channels) const {
    const Json& value = member(key);
    if (!value.is_array()) fail("has " + quoted(value) + " for \"" + key + "\"; expected a list of numbers");
    if (value.size() != channels) {
      fail("has " + std::to_string(value.size()) + " values for \"" + key + "\"; expected " + std::to_string(channels) +
           ", one for each channel");
    }
    for (std::size_t channel = 0; channel < channels; ++channel) {
      if (!value[channel].is_number() && !value[channel].is_null()) fail_at(key, channel, value[channel], "a number");
    }
    return value;
  }

  [[noreturn]] void fail_at(const char* key, std::size_t channel, const Json& value,
                            const std::string& expected) const {
    fail("has " + quoted(value) + " for \"" + key + "\" in channel " + std::to_string(channel) + "; expected " +
         expected);
  }

 private:
  // Of one line, short and plain, whatever the file holds.
  static std::string quoted(const Json& value) {
    // Of lists short ones of plain values alone: others may be nested more deeply than there is stack to print them
    // with.
    constexpr std::size_t most_values = 9;
    const auto is_nested = [](const Json& element) { return element.is_structured(); };
    if (value.is_object() && !value.empty()) return "an object";
    if (value.is_array() && (value.size() > most_values || std::any_of(value.begin(), value.end(), is_nested))) {
      return "a list";
    }
    constexpr std::size_t longest = 40;
    const std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    return text.size() <= longest ? text : text.substr(0, longest) + "...";
  }

  std::string name_;
  Json json_;
};

struct ChannelStatistics {
  double mean = 0;
  double mean_residual = 0;
  double variance = 0;
  double inverse_deviation = 0;
};

ChannelStatistics read_channel(const Reader& reader, std::size_t channel, const Json& means, const Json& residuals,
                               const Json& variances, const Json& inverses, const NormalizedBy& given) {
  const auto finite = [&](const char* key, const Json& list) {
    if (list[channel].is_null()) {
      reader.fail_at(key, channel, list[channel], "a number; data with NaN, with infinity or without values has none");
    }
    return list[channel].get<double>();
  };
  ChannelStatistics result;
  result.mean = finite("mean", means);
  result.mean_residual = finite("mean_residual", residuals);
  result.inverse_deviation = finite("inverse_deviation", inverses);
  // JSON has no infinity.
  result.variance =
      variances[channel].is_null() ? std::numeric_limits<double>::infinity() : variances[channel].get<double>();
  if (result.mean + result.mean_residual != result.mean) {
    reader.fail_at("mean_residual", channel, residuals[channel], "what float64 cannot hold of the mean");
  }
  if (result.inverse_deviation < 0) {
    reader.fail_at("inverse_deviation", channel, inverses[channel], "0 or more");
  }
  // Somebody may have edited one of them alone. Beyond these powers, float64 holds less of the variance than the
  // inverse deviation was made of.
  const double divisor = result.variance + given.epsilon;
  const bool beside_deviation = given.epsilon_placement == EpsilonPlacement::deviation;
  if (divisor < 0 || (result.variance < 0 && beside_deviation)) {
    reader.fail_at("variance", channel, variances[channel], "0 or more");
  }
  if (divisor < 0x1p-900 || divisor > 0x1p900) return result;
  const double expected = 1 / (beside_deviation ? std::sqrt(result.variance) + given.epsilon : std::sqrt(divisor));
  if (!(std::abs(result.inverse_deviation - expected) <= 1e-14 * expected)) {
    reader.fail_at("inverse_deviation", channel, inverses[channel],
                   fmt::format("{}, to go with variance and epsilon", expected));
  }
  return result;
}

}  // namespace

std::string name_of(EpsilonPlacement placement) {
  return placement == EpsilonPlacement::deviation ? "deviation" : "variance";
}

EpsilonPlacement placement_of(const std::string& name) {
  return name == "deviation" ? EpsilonPlacement::deviation : EpsilonPlacement::variance;
}

void add_statistics(Json& json, const NormalizedBy& value) {
  json["channel_shape"] = std::vector<Index>(value.channel_shape.begin(), value.channel_shape.end());
  json["epsilon"] = value.epsilon;
  json["epsilon_placement"] = name_of(value.epsilon_placement);
  json["mean"] = value.statistics.mean;
  json["mean_residual"] = value.statistics.mean_residual;
  json["variance"] = value.statistics.variance;
  json["inverse_deviation"] = value.statistics.inverse_deviation;
}

NormalizedBy read_statistics(const std::string& path) {
  const Reader reader(path);
  NormalizedBy result;
  result.channel_shape = reader.sizes("channel_shape");
  result.epsilon = reader.number("epsilon");
  if (result.epsilon < 0) reader.fail("has a negative \"epsilon\"; expected 0 or more");
  const std::string placement = reader.text("epsilon_placement");
  if (placement != "variance" && placement != "deviation") {
    reader.fail("has another \"epsilon_placement\" than variance or deviation; expected one of the two");
  }
  result.epsilon_placement = placement_of(placement);

  const std::size_t channels = reader.member("mean").size();
  double expected = 1;
  for (const Index size : result.channel_shape) expected *= static_cast<double>(size);
  if (expected != static_cast<double>(channels)) {
    reader.fail("has " + std::to_string(channels) +
                " values for \"mean\"; expected one for each channel of \"channel_shape\" " +
                to_string(result.channel_shape));
  }
  const Json& means = reader.list("mean", channels);
  const Json& residuals = reader.list("mean_residual", channels);
  const Json& variances = reader.list("variance", channels);
  const Json& inverses = reader.list("inverse_deviation", channels);
  Statistics& statistics = result.statistics;
  statistics.epsilon = result.epsilon;
  statistics.epsilon_placement = result.epsilon_placement;
  for (std::size_t channel = 0; channel < channels; ++channel) {
    const ChannelStatistics read = read_channel(reader, channel, means, residuals, variances, inverses, result);
    statistics.mean.push_back(read.mean);
    statistics.mean_residual.push_back(read.mean_residual);
    statistics.variance.push_back(read.variance);
    statistics.inverse_deviation.push_back(read.inverse_deviation);
  }
  return result;
}

}  // namespace exactnorm::cli
