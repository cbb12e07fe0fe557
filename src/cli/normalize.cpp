#include <fmt/core.h>

#include <array>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "batch_norm/accumulate.h"
#include "batch_norm/operation.h"
#include "cli/arguments.h"
#include "cli/channel_report.h"
#include "cli/commands.h"
#include "cli/file_blocks.h"
#include "cli/json_text.h"
#include "cli/ranks.h"
#include "cli/text_file.h"
#include "combine/accumulator.h"
#include "exactnorm/exactnorm.h"
#include "npy/npy_file.h"
#include "reduce/reduce.h"
#include "tensor/checks.h"

namespace exactnorm::cli {
namespace {

struct Arguments {
  std::string input;
  std::string output;
  std::string channel_axes;
  std::optional<std::string> gamma;
  std::optional<std::string> beta;
  std::optional<std::string> running_mean;
  std::optional<std::string> running_variance;
  double epsilon = 1e-5;
  std::string epsilon_placement = "variance";
  std::optional<std::string> statistics;
  std::optional<std::string> dtype;
  int threads = 0;
  Index block_bytes = default_block_bytes;
};

const OptionNames option_names = {{"channel_axes", "--channel-axes"},
                                  {"epsilon", "--epsilon"},
                                  {"threads", "--threads"},
                                  {"mean", "--running-mean"},
                                  {"variance", "--running-variance"}};

bool same_file(const std::string& a, const std::string& b) {
  std::error_code ignored;
  if (std::filesystem::equivalent(a, b, ignored)) return true;
  // Of files that do not exist yet, the directories may have several names.
  const auto resolve = [&](const std::string& path) {
    return std::filesystem::weakly_canonical(std::filesystem::absolute(path, ignored), ignored);
  };
  return resolve(a) == resolve(b);
}

void check_files(const Arguments& arguments) {
  if (arguments.running_mean.has_value() != arguments.running_variance.has_value()) {
    const bool has_mean = arguments.running_mean.has_value();
    throw Error(has_mean ? "--running-mean" : "--running-variance",
                std::string("is given alone; expected ") + (has_mean ? "--running-variance" : "--running-mean") +
                    " as well, or neither");
  }
  if (!arguments.statistics) return;
  const auto refuse_same = [&](const std::string& name, const std::optional<std::string>& path) {
    if (path && same_file(*arguments.statistics, *path)) {
      throw Error("--statistics", "is the same file as " + name + "; expected a file of its own");
    }
  };
  refuse_same("--output", arguments.output);
  refuse_same("the input", arguments.input);
  refuse_same("--gamma", arguments.gamma);
  refuse_same("--beta", arguments.beta);
  refuse_same("--running-mean", arguments.running_mean);
  refuse_same("--running-variance", arguments.running_variance);
}

// One normalization: everything is checked before the output is created.
class Normalization {
 public:
  Normalization(const Arguments& arguments, Communicator& ranks)
      : arguments_(arguments),
        ranks_(ranks),
        input_(arguments.input),
        x_{nullptr, input_.dtype(), input_.shape(), input_.strides()},
        options_{.channel_axes = parse_channel_axes(arguments.channel_axes),
                 .epsilon = arguments.epsilon,
                 .epsilon_placement = arguments.epsilon_placement == "deviation" ? EpsilonPlacement::deviation
                                                                                 : EpsilonPlacement::variance,
                 .threads = arguments.threads},
        sums_(0) {
    check_files(arguments);
    axes_ = naming_options(option_names, [&] {
      check_options(options_);
      return resolve_channel_axes(options_.channel_axes, x_);
    });
    channels_ = channel_count(axes_, x_);
    gamma_ = read_values("--gamma", arguments.gamma, 1.0);
    beta_ = read_values("--beta", arguments.beta, 0.0);
    if (is_training()) return;
    const std::vector<double> means = read_values("--running-mean", arguments.running_mean, 0.0);
    const std::vector<double> variances = read_values("--running-variance", arguments.running_variance, 1.0);
    statistics_ = naming_options(option_names, [&] {
      return given_statistics(view(means, {channels_}), view(variances, {channels_}), options_);
    });
  }

  void run() {
    std::optional<TextFile> statistics_file;
    std::optional<npy::NpyWriter> writer;
    agree(ranks_, [&] {
      if (!is_first()) return;
      if (arguments_.statistics) statistics_file.emplace(*arguments_.statistics);
      writer.emplace(arguments_.output, output_dtype(), input_.shape(), input_.header().fortran_order);
    });
    if (ranks_.size() > 1) join(writer);
    FileBlocks blocks(input_, std::max(size_of(input_.dtype()), size_of(output_dtype())), arguments_.block_bytes,
                      {ranks_.rank(), ranks_.size()});
    Progress progress("normalizing", is_first() ? (is_training() ? 2 : 1) * blocks.share_bytes() : 0);
    if (is_training()) sum(blocks, progress);
    agree(ranks_, [&] { map(blocks, progress, *writer); });
    progress.finish();
    commit(*writer, statistics_file);
    if (is_training() && is_first()) {
      warn_of_non_finite(sums_, channel_sizes(axes_, input_.shape()), "became NaN");
    }
  }

 private:
  [[nodiscard]] bool is_training() const { return !arguments_.running_mean.has_value(); }
  [[nodiscard]] bool is_first() const { return ranks_.rank() == 0; }

  // All ranks write into the file that the first one has made, each its own range.
  void join(std::optional<npy::NpyWriter>& writer) {
    const std::string path = ranks_.gather(is_first() ? writer->temporary_path() : "").front();
    agree(ranks_, [&] {
      if (!is_first()) {
        writer.emplace(arguments_.output, output_dtype(), input_.shape(), input_.header().fortran_order, path);
      }
    });
  }

  // When all ranks have written their parts.
  void commit(npy::NpyWriter& writer, std::optional<TextFile>& statistics_file) {
    Index of_others = 0;
    if (ranks_.size() > 1) {
      Index own = 0;
      agree(ranks_, [&] { own = writer.finish_part(); });
      for (const std::string& bytes : ranks_.gather(std::to_string(own))) of_others += std::stoll(bytes);
      of_others -= own;
    }
    agree(ranks_, [&] {
      if (!is_first()) return;
      writer.commit(of_others);
      if (statistics_file) statistics_file->commit(to_text(describe()));
    });
  }

  [[nodiscard]] DType output_dtype() const {
    if (arguments_.dtype) return *arguments_.dtype == "float64" ? DType::float64 : DType::float32;
    return is_floating(input_.dtype()) ? input_.dtype() : DType::float32;
  }

  [[nodiscard]] std::vector<double> read_values(const std::string& name, const std::optional<std::string>& path,
                                                double value) const {
    if (!path) {
      std::vector<double> values(static_cast<std::size_t>(channels_), value);
      return values;
    }
    // The shape first: somebody may have named a file that does not fit in memory.
    const npy::NpyFile file(*path);
    if (file.element_count() != channels_) {
      throw Error(name, "has shape " + to_string(file.shape()) + "; expected one element for each of the " +
                            std::to_string(channels_) + " channels");
    }
    return read_parameter(name, npy::read_npy(*path).view(), axes_, x_);
  }

  void sum(FileBlocks& blocks, Progress& progress) {
    const ChannelMap whole = number_channels(axes_, input_.shape());
    const PartialSums::Range range = range_for(std::array{x_});
    SumExchange exchange(ranks_, channels_, range);
    sums_ = PartialSums(channels_, PartialSums::Kind::moments, range);
    agree(ranks_, [&] {
      blocks.for_each(progress, [&](const FileBlock& block) {
        accumulate_part(sums_, std::array{block.x}, axes_, channels_of_block(whole, block), options_.threads);
      });
    });
    // The count of the whole file, once.
    PartialSumsAccess::set_count(sums_, channels_ == 0 || !is_first() ? 0 : input_.element_count() / channels_);
    sums_ = exchange.sum(sums_);
    statistics_ = statistics_of(sums_, options_);
  }

  void map(FileBlocks& blocks, Progress& progress, npy::NpyWriter& writer) const {
    const ChannelMap whole = number_channels(axes_, input_.shape());
    std::vector<std::byte> buffer;
    CoefficientTable table(channels_);
    set_forward(table, all_channels(channels_), statistics_, gamma_, beta_);
    blocks.for_each(progress, [&](const FileBlock& block) {
      buffer.resize(static_cast<std::size_t>(element_count(block.x.shape)) * size_of(output_dtype()));
      const MutableTensorView y = {buffer.data(), output_dtype(), block.x.shape, block.x.strides};
      map_all(map_operands(block.x, std::nullopt, y), axes_, channels_of_block(whole, block), options_.threads,
              table.view());
      writer.write_at(block.first, buffer);
    });
  }

  [[nodiscard]] Json describe() const {
    Json json = {{"mode", is_training() ? "training" : "inference"},
                 {"count", nullptr},
                 {"channels", channels_},
                 {"channel_axes", std::vector<Index>(axes_.begin(), axes_.end())},
                 {"epsilon", options_.epsilon},
                 {"epsilon_placement", arguments_.epsilon_placement},
                 {"mean", statistics_.mean},
                 {"variance", statistics_.variance},
                 {"standard_deviation", Json::array()},
                 {"inverse_deviation", statistics_.inverse_deviation},
                 {"non_finite_count", nullptr}};
    if (!is_training()) {
      for (const double variance : statistics_.variance) json["standard_deviation"].push_back(std::sqrt(variance));
      return json;
    }
    json["count"] = sums_.count();
    json["standard_deviation"] = standard_deviations(sums_);
    json["non_finite_count"] = Json::array();
    for (Index channel = 0; channel < channels_; ++channel) {
      json["non_finite_count"].push_back(sums_.nonfinite_count(channel));
    }
    return json;
  }

  const Arguments& arguments_;
  Communicator& ranks_;
  npy::NpyFile input_;
  TensorView x_;  // shape, strides and dtype of the whole input; the data comes in blocks
  Options options_;
  IndexList axes_;
  Index channels_ = 0;
  std::vector<double> gamma_;
  std::vector<double> beta_;
  PartialSums sums_;
  Statistics statistics_;
};

}  // namespace

Command add_normalize(CLI::App& main) {
  CLI::App* app =
      main.add_subcommand("normalize", "Normalize a .npy file of any size, and write another.")->group("Commands");
  const auto arguments = std::make_shared<Arguments>();
  app->add_option("INPUT", arguments->input, "the .npy file to normalize")->required();
  app->add_option("-o,--output", arguments->output, "the .npy file to write, complete or not at all; may be the input")
      ->option_text("FILE")
      ->required();
  add_channel_axes(*app, arguments->channel_axes);

  const auto add_file = [&](const char* name, std::optional<std::string>& path, const char* text) {
    return app->add_option(name, path, text)->option_text("FILE");
  };
  add_file("--gamma", arguments->gamma, "scales, a .npy file of one element per channel (default: 1)");
  add_file("--beta", arguments->beta, "offsets, likewise (default: 0)");
  add_file("--running-mean", arguments->running_mean, "normalize by these means, likewise, not by the input's own");
  add_file("--running-variance", arguments->running_variance, "the variances that belong to them");
  app->add_option("--epsilon", arguments->epsilon, "keeps the divisor from zero (default: 1e-5)")
      ->option_text("NUMBER");
  app->add_option("--epsilon-placement", arguments->epsilon_placement,
                  "what epsilon is added to: the variance, in the square root (default),\nor the standard deviation")
      ->check(CLI::IsMember({"variance", "deviation"}))
      ->option_text("variance|deviation");
  app->add_option("--dtype", arguments->dtype, "dtype of the output (default: the input's, or float32 for integers)")
      ->check(CLI::IsMember({"float32", "float64"}))
      ->option_text("float32|float64");
  add_file("--statistics", arguments->statistics, "write what each channel was normalized by, as JSON");
  add_threads(*app, arguments->threads);
  add_block_bytes(*app, arguments->block_bytes);
  app->footer(
      "  y = gamma * (x - mean) / sqrt(variance + epsilon) + beta\n\n"
      "The file is read in blocks: memory does not grow with it. A channel with NaN or infinity becomes NaN,\n"
      "with a warning. The output keeps the order of the input, C or Fortran.\n\n"
      "Examples:\n"
      "  exactnorm normalize images.npy --output normalized.npy --channel-axes 1\n"
      "  exactnorm normalize images.npy --output normalized.npy --channel-axes -1 \\\n"
      "      --running-mean mean.npy --running-variance variance.npy --gamma gamma.npy --beta beta.npy\n"
      "  mpirun -n 4 exactnorm normalize images.npy --output normalized.npy --channel-axes 1\n"
      "      (four processes share the file, where this was built with MPI; the output is the same)");
  return {app,
          [arguments] {
            std::optional<Normalization> normalization;
            agree(ranks(), [&] { normalization.emplace(*arguments, ranks()); });
            normalization->run();
            return 0;
          },
          true};
}

}  // namespace exactnorm::cli
