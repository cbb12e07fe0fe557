#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <span>
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
#include "normalize_arguments.h"
#include "npy_file.h"
#include "output_file.h"
#include "ranks.h"
#include "statistics_file.h"
#include "system_text.h"

namespace exactnorm::cli {
namespace {

// In errors that say that there is no room for them.
constexpr const char* statistics_text = "the statistics";

// One normalization: everything is checked before the output is created.
class Normalization {
 public:
  Normalization(const NormalizeArguments& arguments, Communicator& ranks)
      : arguments_(arguments), ranks_(ranks), input_(arguments.input), sums_(0) {
    options_.channel_axes = parse_channel_axes(arguments.channel_axes);
    options_.threads = arguments.threads;
    if (arguments.epsilon) options_.epsilon = *arguments.epsilon;
    if (arguments.epsilon_placement) options_.epsilon_placement = placement_of(*arguments.epsilon_placement);
    if (arguments.slope) options_.slope = *arguments.slope;
    options_.activation = activation_named(arguments.activation).value();
    channels_ = naming_options(normalize_option_names, [&] { return channel_axes_of(input_.shape(), options_); });
    if (arguments.mask) {
      mask_.emplace(*arguments.mask, input_.shape(), options_,
                    arguments.masked == "normalized" ? MaskedOutput::normalized : MaskedOutput::zero);
    }
    if (arguments.weights) weights_.emplace(*arguments.weights, input_.shape(), options_);
    if (arguments.statistics_from) take_statistics(*arguments.statistics_from);
    gamma_ = read_values("--gamma", arguments.gamma, 1.0);
    beta_ = read_values("--beta", arguments.beta, 0.0);
    if (is_training() || arguments.statistics_from) return;
    const std::vector<double> means = read_values("--running-mean", arguments.running_mean, 0.0);
    const std::vector<double> variances = read_values("--running-variance", arguments.running_variance, 1.0);
    statistics_ = naming_options(
        normalize_option_names, [&] { return given_statistics(per_channel(means), per_channel(variances), options_); });
  }

  void run() {
    std::optional<npy::NpyWriter> writer;
    agree(ranks_, [&] {
      if (!is_first()) return;
      // Better now than after the work. It is made again when there is something to write.
      if (arguments_.statistics) static_cast<void>(npy::OutputFile(*arguments_.statistics, statistics_text));
      writer.emplace(arguments_.output, output_dtype(), input_.shape(), input_.header().fortran_order);
    });
    if (ranks_.size() > 1) join(writer);
    FileBlocks blocks(input_, std::max(size_of(input_.dtype()), size_of(output_dtype())), arguments_.block_bytes,
                      {ranks_.rank(), ranks_.size()});
    Progress progress("normalizing", is_first() ? (is_training() ? 2 : 1) * blocks.share_bytes() : 0);
    if (is_training()) sum(blocks, progress);
    agree(ranks_, [&] { map(blocks, progress, *writer); });
    progress.finish();
    commit(*writer);
    if (is_training() && is_first()) {
      warn_of_non_finite(
          sums_, channels_.sizes,
          arguments_.ignore_nan ? "were normalized by their other values, where there are any" : "became NaN");
    }
  }

 private:
  [[nodiscard]] bool is_training() const { return !arguments_.running_mean && !arguments_.statistics_from; }
  [[nodiscard]] Nonfinite nonfinite() const { return arguments_.ignore_nan ? Nonfinite::ignore : Nonfinite::propagate; }
  [[nodiscard]] bool is_first() const { return ranks_.rank() == 0; }

  // All ranks write into the file that the first one has made, each its own range.
  void join(std::optional<npy::NpyWriter>& writer) {
    const auto open_by = [&](bool name) {
      std::string own;
      agree(ranks_, [&] {
        if (is_first()) own = writer->share(name);
      });
      const std::string shared = ranks_.gather(own).front();
      agree(ranks_, [&] {
        if (!is_first()) {
          writer.emplace(arguments_.output, output_dtype(), input_.shape(), input_.header().fortran_order, shared);
        }
      });
    };
    try {
      open_by(false);
    } catch (const Error&) {  // on all ranks: some do not see the first one's process
      open_by(true);
    }
  }

  // When all ranks have written their parts.
  void commit(npy::NpyWriter& writer) {
    Index of_others = 0;
    if (ranks_.size() > 1) {
      Index part = 0;
      agree(ranks_, [&] {
        if (!is_first()) part = writer.finish_part();
      });
      for (const std::string& bytes : ranks_.gather(std::to_string(part))) of_others += std::stoll(bytes);
    }
    agree(ranks_, [&] {
      if (!is_first()) return;
      // All that may fail for want of room comes before the first name is given.
      std::optional<npy::OutputFile> statistics_file;
      if (arguments_.statistics) {
        const std::string text = to_text(describe());
        statistics_file.emplace(*arguments_.statistics, statistics_text);
        statistics_file->write(std::as_bytes(std::span(text)));
        statistics_file->close();
      }
      writer.finish(of_others);
      const npy::SignalDelay delay;
      writer.commit();
      if (statistics_file) statistics_file->commit();
    });
  }

  // Epsilon and its placement are part of what was written.
  void take_statistics(const std::string& path) {
    const NormalizedBy given = read_statistics(path);
    const std::string name = npy::input_name(path);
    if (given.channel_shape != channels_.sizes) {
      throw Error("--statistics-from", "has channels of shape " + to_string(given.channel_shape) + " in " + name +
                                           "; expected " + to_string(channels_.sizes) + ", as " + input_.name() +
                                           " has in shape " + to_string(input_.shape()));
    }
    const auto refuse = [&](const char* option, const std::string& value, const std::string& expected) {
      throw Error(option, "is " + value + "; expected " + expected + ", as in " + name + ", or no " + option);
    };
    if (arguments_.epsilon && options_.epsilon != given.epsilon) {
      refuse("--epsilon", fmt::format("{}", options_.epsilon), fmt::format("{}", given.epsilon));
    }
    if (arguments_.epsilon_placement && options_.epsilon_placement != given.epsilon_placement) {
      refuse("--epsilon-placement", *arguments_.epsilon_placement, name_of(given.epsilon_placement));
    }
    options_.epsilon = given.epsilon;
    options_.epsilon_placement = given.epsilon_placement;
    statistics_ = given.statistics;
  }

  [[nodiscard]] DType output_dtype() const {
    for (const DType dtype : {DType::float64, DType::float16, DType::float32}) {
      if (arguments_.dtype == name_of(dtype)) return dtype;
    }
    return is_floating(input_.dtype()) ? input_.dtype() : DType::float32;
  }

  [[nodiscard]] std::vector<double> read_values(const std::string& name, const std::optional<std::string>& path,
                                                double value) const {
    if (!path) {
      std::vector<double> values(static_cast<std::size_t>(channels_.channels), value);
      return values;
    }
    // The shape first: somebody may have named a file that does not fit in memory.
    const npy::NpyFile file(*path);
    if (file.element_count() != channels_.channels) {
      throw Error(name, "has shape " + to_string(file.shape()) + "; expected one element for each of the " +
                            std::to_string(channels_.channels) + " channels");
    }
    const npy::NpyArray parameter = npy::read_npy(file);
    return naming_options({{"parameter", name}},
                          [&] { return values_of(parameter_view(parameter.view(), input_.shape(), options_)); });
  }

  [[nodiscard]] TensorView per_channel(const std::vector<double>& values) const {
    return view(values, {channels_.channels});
  }

  void sum(FileBlocks& blocks, Progress& progress) {
    const PartialSums::Range range = range_for(input_.dtype());
    SumExchange exchange(ranks_, channels_.channels, range);
    sums_ = PartialSums(channels_.channels, PartialSums::Kind::moments, range);
    if (weights_) weighted_.emplace(channels_.channels);
    agree(ranks_, [&] {
      blocks.for_each(progress, [&](const FileBlock& block) {
        if (weights_) weights_->accumulate(*weighted_, block, options_);
        if (mask_ || weights_) {
          const Mask mask = mask_ ? mask_->of(block) : weights_->mask_of(block);
          static_cast<void>(accumulate(sums_, block.x, block.place, mask, options_));
        } else {
          accumulate(sums_, block.x, block.place, options_);
        }
      });
    });
    // The count of the whole file, once.
    if (channels_.channels > 0 && is_first()) sums_.add_count(count());
    sums_ = exchange.sum(sums_);
    if (weighted_) {
      weighted_ = cli::sum(ranks_, *weighted_);
      statistics_ = normalizing_statistics(*weighted_, options_);
    } else {
      statistics_ = normalizing_statistics(sums_, options_, nonfinite());
    }
  }

  // Elements of each channel that have a part in the statistics.
  [[nodiscard]] Index count() const {
    if (mask_) return mask_->count();
    return weights_ ? weights_->count() : input_.element_count() / channels_.channels;
  }

  void map(FileBlocks& blocks, Progress& progress, npy::NpyWriter& writer) const {
    std::vector<std::byte> buffer;
    Affine affine = {per_channel(gamma_), per_channel(beta_)};
    // Of the blocks that have all channels, all but the last one are alike: a plan makes the coefficients once.
    std::optional<InferencePlan> plan;
    IndexList planned_shape;
    blocks.for_each(progress, [&](const FileBlock& block) {
      buffer.resize(static_cast<std::size_t>(element_count(block.x.shape)) * size_of(output_dtype()));
      const MutableTensorView y = {buffer.data(), output_dtype(), block.x.shape, block.x.strides};
      if (mask_) affine.mask = mask_->of(block);
      if (has_all_channels(block.x)) {
        if (!plan || !(planned_shape == block.x.shape)) {
          plan.emplace(block.x, y, statistics_, affine, options_);
          planned_shape = block.x.shape;
        }
        plan->run(block.x.data, y.data, nullptr, affine.mask ? affine.mask->selected.data : nullptr);
      } else {
        inference(block.x, block.place, statistics_, y, affine, options_);
      }
      // Standard output cannot be taken back.
      input_.check();
      writer.write_at(block.first, buffer);
    });
  }

  [[nodiscard]] bool has_all_channels(const TensorView& block) const {
    return std::all_of(channels_.axes.begin(), channels_.axes.end(), [&](Index axis) {
      const auto at = static_cast<std::size_t>(axis);
      return block.shape[at] == input_.shape()[at];
    });
  }

  [[nodiscard]] Json describe() const {
    Json json = {{"mode", is_training() ? "training" : "inference"},
                 {"count", nullptr},
                 {"channels", channels_.channels},
                 {"channel_axes", std::vector<Index>(channels_.axes.begin(), channels_.axes.end())}};
    add_statistics(json, {channels_.sizes, options_.epsilon, options_.epsilon_placement, statistics_});
    json["standard_deviation"] = Json::array();
    json["non_finite_count"] = nullptr;
    if (!is_training()) {
      for (const double variance : statistics_.variance) json["standard_deviation"].push_back(std::sqrt(variance));
      return json;
    }
    json["count"] = weighted_ ? weighted_->count() : sums_.count();
    json["standard_deviation"] = (weighted_ ? deviations_of(*weighted_) : deviations_of(sums_, nonfinite())).biased;
    json["non_finite_count"] = Json::array();
    for (Index channel = 0; channel < channels_.channels; ++channel) {
      json["non_finite_count"].push_back(sums_.nonfinite_count(channel));
    }
    return json;
  }

  const NormalizeArguments& arguments_;
  Communicator& ranks_;
  npy::NpyFile input_;
  Options options_;
  ChannelAxes channels_;
  std::optional<FileMask> mask_;
  std::optional<FileWeights> weights_;
  std::vector<double> gamma_;
  std::vector<double> beta_;
  PartialSums sums_;                         // with weights, of what has one
  std::optional<WeightedMoments> weighted_;  // with weights
  Statistics statistics_;
};

}  // namespace

Command add_normalize(CLI::App& main) {
  CLI::App* app =
      main.add_subcommand("normalize", "Normalize a .npy file of any size, and write another.")->group("Commands");
  const auto arguments = std::make_shared<NormalizeArguments>();
  add_normalize_options(*app, *arguments);
  return {app,
          [arguments] {
            std::optional<Normalization> normalization;
            agree(ranks(), [&] {
              check_normalize_arguments(*arguments, ranks());
              normalization.emplace(*arguments, ranks());
            });
            normalization->run();
            return 0;
          },
          true};
}

}  // namespace exactnorm::cli
