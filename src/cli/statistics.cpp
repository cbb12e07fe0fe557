#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "arguments.h"
#include "channel_report.h"
#include "commands.h"
#include "exactnorm/exactnorm.h"
#include "file_blocks.h"
#include "file_mask.h"
#include "file_weights.h"
#include "json_text.h"
#include "npy_file.h"
#include "ranks.h"
#include "streams.h"

namespace exactnorm::cli {
namespace {

struct Arguments {
  std::vector<std::string> inputs;
  std::vector<std::string> masks;
  std::vector<std::string> weights;
  std::string channel_axes;
  bool json = false;
  bool ignore_nan = false;
  int threads = 0;
  Index block_bytes = default_block_bytes;
};

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr Index largest_count = Index{1} << 62;

// All files as one data set.
class DataSet {
 public:
  DataSet(const Arguments& arguments, Communicator& ranks) : arguments_(arguments), ranks_(ranks) {
    options_.channel_axes = parse_channel_axes(arguments.channel_axes);
    options_.threads = arguments.threads;
    std::vector<std::string> paths = arguments.inputs;
    paths.insert(paths.end(), arguments.masks.begin(), arguments.masks.end());
    paths.insert(paths.end(), arguments.weights.begin(), arguments.weights.end());
    check_input_streams(paths, ranks);
    check_one_for_each("--mask", arguments.masks);
    check_one_for_each("--weights", arguments.weights);
    if (!arguments.weights.empty() && (!arguments.masks.empty() || arguments.ignore_nan)) {
      throw Error("--weights", std::string("is given with ") + (arguments.ignore_nan ? "--ignore-nan" : "--mask") +
                                   "; expected weights of 0 where values do not count");
    }
    for (std::size_t i = 0; i < arguments.inputs.size(); ++i) add_file(i);
  }

  [[nodiscard]] const IndexList& sizes() const { return channels_.sizes; }

  struct Result {
    PartialSums sums;
    ValueRanges ranges;
    std::optional<WeightedMoments> weighted;  // with weights, of which sums and ranges are those that are not 0

    [[nodiscard]] Index count() const { return weighted ? weighted->count() : sums.count(); }
  };

  [[nodiscard]] Result read() {
    const Index channels = channels_.channels;
    SumExchange exchange(ranks_, channels, range_);
    Result result{PartialSums(channels, PartialSums::Kind::moments, range_), ValueRanges(channels), std::nullopt};
    if (!weights_.empty()) result.weighted.emplace(channels);
    Index bytes = 0;
    for (const npy::NpyFile& file : files_) bytes += byte_count(file) / ranks_.size();
    Progress progress("reading", ranks_.rank() == 0 ? bytes : 0);
    agree(ranks_, [&] {
      for (std::size_t i = 0; i < files_.size(); ++i) {
        read_file(i, result, progress);
      }
    });
    if (result.weighted) result.weighted = sum(ranks_, *result.weighted);
    // The count of all files, once.
    if (ranks_.rank() == 0) result.sums.add_count(count_);
    result.sums = exchange.sum(result.sums);
    gather(result.ranges);
    return result;
  }

 private:
  static Index byte_count(const npy::NpyFile& npy) {
    return npy.element_count() * static_cast<Index>(size_of(npy.dtype()));
  }

  // Those of all ranks.
  void gather(ValueRanges& ranges) const {
    const std::size_t bytes = ranges.minimum.size() * sizeof(double);
    std::string own(2 * bytes, '\0');
    std::memcpy(own.data(), ranges.minimum.data(), bytes);
    std::memcpy(own.data() + bytes, ranges.maximum.data(), bytes);
    ValueRanges others(ranges.channels());
    for (const std::string& text : ranks_.gather(own)) {
      std::memcpy(others.minimum.data(), text.data(), bytes);
      std::memcpy(others.maximum.data(), text.data() + bytes, bytes);
      ranges.merge(others);
    }
  }

  void check_one_for_each(const char* option, const std::vector<std::string>& paths) const {
    if (paths.empty() || paths.size() == arguments_.inputs.size()) return;
    throw Error(option, "names " + std::to_string(paths.size()) + (paths.size() == 1 ? " file" : " files") +
                            "; expected " + std::to_string(arguments_.inputs.size()) + ", one for each input");
  }

  void add_file(std::size_t number) {
    npy::NpyFile npy(arguments_.inputs[number]);
    const std::string name = npy.name();
    const ChannelAxes channels =
        naming_options({{"channel_axes", "--channel-axes for " + name}, {"threads", "--threads"}},
                       [&] { return channel_axes_of(npy.shape(), options_); });
    if (files_.empty()) {
      channels_ = channels;
    } else if (channels.sizes != channels_.sizes) {
      const auto describe = [](const IndexList& list) {
        return list.size() == 1 ? std::to_string(list[0]) : to_string(list);
      };
      throw Error(name, "has " + describe(channels.sizes) + " channels in shape " + to_string(npy.shape()) +
                            "; expected " + describe(channels_.sizes) + ", as " + files_.front().name() +
                            " has in shape " + to_string(files_.front().shape()));
    }
    Index count = channels.channels == 0 ? 0 : npy.element_count() / channels.channels;
    if (!arguments_.masks.empty()) {
      masks_.emplace_back(arguments_.masks[number], npy.shape(), options_, MaskedOutput::zero);
      count = masks_.back().count();
    }
    if (!arguments_.weights.empty()) {
      weights_.emplace_back(arguments_.weights[number], npy.shape(), options_);
      count = weights_.back().count();
    }
    if (count > largest_count - count_) throw Error(name, "has too many elements; expected at most 2^62 in all files");
    count_ += count;
    range_ = std::max(range_, range_for(npy.dtype()));
    files_.push_back(std::move(npy));
  }

  [[nodiscard]] std::optional<Mask> mask_of(std::size_t number, const FileBlock& block) const {
    if (!masks_.empty()) return masks_[number].of(block);
    if (!weights_.empty()) return weights_[number].mask_of(block);
    return std::nullopt;
  }

  void read_file(std::size_t number, Result& result, Progress& progress) const {
    const npy::NpyFile& file = files_[number];
    FileBlocks blocks(file, size_of(file.dtype()), arguments_.block_bytes, {ranks_.rank(), ranks_.size()});
    blocks.for_each(progress, [&](const FileBlock& block) {
      if (result.weighted) weights_[number].accumulate(*result.weighted, block, options_);
      if (const std::optional<Mask> mask = mask_of(number, block)) {
        static_cast<void>(accumulate(result.sums, block.x, block.place, *mask, options_));
        accumulate(result.ranges, block.x, block.place, *mask, options_);
        return;
      }
      accumulate(result.sums, block.x, block.place, options_);
      accumulate(result.ranges, block.x, block.place, options_);
    });
  }

  const Arguments& arguments_;
  Communicator& ranks_;
  Options options_;
  std::vector<npy::NpyFile> files_;
  std::vector<FileMask> masks_;  // none, or one for each file
  std::vector<FileWeights> weights_;
  ChannelAxes channels_;
  Index count_ = 0;
  PartialSums::Range range_ = PartialSums::Range::single;
};

// What is printed of each channel.
struct Row {
  double mean = not_a_number;
  double deviation = not_a_number;
  double unbiased = not_a_number;
  double minimum = not_a_number;
  double maximum = not_a_number;
  Index non_finite = 0;
};

std::vector<Row> rows_of(const DataSet::Result& result, Nonfinite nonfinite) {
  const auto& [sums, ranges, weighted] = result;
  const Statistics statistics = weighted ? statistics_of(*weighted) : statistics_of(sums, {}, nonfinite);
  const Deviations deviations = weighted ? deviations_of(*weighted) : deviations_of(sums, nonfinite);
  std::vector<Row> rows;
  for (std::size_t i = 0; i < statistics.mean.size(); ++i) {
    Row row{.mean = statistics.mean[i], .deviation = deviations.biased[i], .unbiased = deviations.unbiased[i]};
    if (ranges.minimum[i] <= ranges.maximum[i]) {
      row.minimum = ranges.minimum[i];
      row.maximum = ranges.maximum[i];
    }
    row.non_finite = sums.nonfinite_count(static_cast<Index>(i));
    rows.push_back(row);
  }
  return rows;
}

constexpr std::size_t columns = 7;
using Line = std::array<std::string, columns>;

void print_table(const std::vector<Row>& rows, Index count, const IndexList& sizes) {
  std::vector<Line> lines = {{"channel", "mean", "deviation", "unbiased", "minimum", "maximum", "non-finite"}};
  const auto text = [](double value) { return std::isnan(value) ? "nan" : fmt::format("{}", value); };
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Row& row = rows[i];
    lines.push_back({channel_name(static_cast<Index>(i), sizes), text(row.mean), text(row.deviation),
                     text(row.unbiased), text(row.minimum), text(row.maximum), fmt::format("{}", row.non_finite)});
  }
  std::array<std::size_t, columns> widths{};
  for (const Line& line : lines) {
    for (std::size_t i = 0; i < columns; ++i) widths[i] = std::max(widths[i], line[i].size());
  }
  fmt::print("{} channel{} of {} value{} each\n\n", rows.size(), rows.size() == 1 ? "" : "s", count,
             count == 1 ? "" : "s");
  for (const Line& line : lines) {
    for (std::size_t i = 0; i < columns; ++i) {
      fmt::print("{}{:>{}}", i == 0 ? "" : "  ", line[i], widths[i]);
    }
    fmt::print("\n");
  }
}

void print_json(const std::vector<Row>& rows, Index count, const IndexList& sizes) {
  Json json = {{"count", count},
               {"channels", rows.size()},
               {"channel_shape", std::vector<Index>(sizes.begin(), sizes.end())},
               {"mean", Json::array()},
               {"standard_deviation", Json::array()},
               {"unbiased_standard_deviation", Json::array()},
               {"minimum", Json::array()},
               {"maximum", Json::array()},
               {"non_finite_count", Json::array()}};
  for (const Row& row : rows) {
    json["mean"].push_back(row.mean);
    json["standard_deviation"].push_back(row.deviation);
    json["unbiased_standard_deviation"].push_back(row.unbiased);
    json["minimum"].push_back(row.minimum);
    json["maximum"].push_back(row.maximum);
    json["non_finite_count"].push_back(row.non_finite);
  }
  fmt::print("{}", to_text(json));
}

int run(const Arguments& arguments) {
  std::optional<DataSet> data_set;
  agree(ranks(), [&] { data_set.emplace(arguments, ranks()); });
  const DataSet::Result result = data_set->read();
  if (ranks().rank() != 0) return 0;
  const std::vector<Row> rows = rows_of(result, arguments.ignore_nan ? Nonfinite::ignore : Nonfinite::propagate);
  const auto print = arguments.json ? print_json : print_table;
  print(rows, result.count(), data_set->sizes());
  return 0;
}

}  // namespace

Command add_statistics(CLI::App& main) {
  CLI::App* app = main.add_subcommand("statistics", "Print mean, deviation and range of each channel of .npy files.")
                      ->group("Commands");
  const auto arguments = std::make_shared<Arguments>();
  app->add_option("INPUT", arguments->inputs, ".npy files; all of them together are one data set; - for standard input")
      ->required();
  add_channel_axes(*app, arguments->channel_axes);
  app->add_flag("--ignore-nan", arguments->ignore_nan,
                "leave NaN and infinity out; a channel that has nothing else keeps NaN");
  app->add_option(
         "--mask", arguments->masks,
         "a .npy file of bool, true where values count: of the input's shape with\n1 on the channel axes, or of the "
         "other axes alone; held in memory; once for\neach input, in their order")
      ->option_text("FILE")
      ->allow_extra_args(false);
  app->add_option("--weights", arguments->weights,
                  "a .npy file of numbers, 0 or more: how much values count; of a mask's\nshapes, once for each input; "
                  "a weight of 3 is the value three times")
      ->option_text("FILE")
      ->allow_extra_args(false);
  app->add_flag("--json", arguments->json, "print JSON instead of a table");
  add_threads(*app, arguments->threads);
  add_block_bytes(*app, arguments->block_bytes);
  app->footer(
      "Files may differ in dtype and in all sizes but those of the channel axes. The result is the same\n"
      "for any order of the files and however the data is cut into files.\n\n"
      "  deviation    the biased standard deviation, divided by the number of values\n"
      "  unbiased     the one divided by the number of values less one; both are exact values, rounded once\n"
      "               (with weights, by their sum and by their sum less one)\n"
      "  non-finite   how many values are NaN or infinite; minimum and maximum are of the others\n\n"
      "Examples:\n"
      "  exactnorm statistics monday.npy tuesday.npy --channel-axes 1\n"
      "  exactnorm statistics sensors.npy --channel-axes -1 --ignore-nan\n"
      "      (each channel's values that are there: how many are not is printed)\n"
      "  zcat images.npy.gz | exactnorm statistics - --channel-axes 1\n"
      "  mpirun -n 4 exactnorm statistics monday.npy --channel-axes 1\n"
      "      (four processes share the work, where this was built with MPI; the result is the same)");
  return {app, [arguments] { return run(*arguments); }, true};
}

}  // namespace exactnorm::cli
