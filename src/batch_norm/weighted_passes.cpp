#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "batch_norm/arguments.h"
#include "batch_norm/passes.h"
#include "batch_norm/pieces.h"
#include "batch_norm/weight_total.h"
#include "exactnorm/batch_norm.h"
#include "exactnorm/weights.h"
#include "sums/exact_finalize.h"
#include "tensor/checks.h"
#include "tensor/elements.h"
#include "traverse/floating_point.h"

namespace exactnorm {

namespace {

void refuse_mask(const Affine& affine) {
  if (affine.mask) throw Error("mask", "was given; expected none with weights, of which 0 leaves elements out");
}

void check_separate_from_weights(const char* name, const std::optional<MutableTensorView>& output,
                                 const TensorView& weights) {
  if (output) check_overlap(name, *output, "weights", weights, false);
}

}  // namespace

Statistics weighted_training(const TensorView& x, const TensorView& weights, const MutableTensorView& y,
                             const Affine& affine, const Options& options) {
  const DefaultFloatingPoint default_floating_point;
  refuse_mask(affine);
  const InferencePass pass(x, y, affine, options);
  const ForwardPointers at = pointers_of(x, y, affine);
  pass.arguments().check(at);
  WeightedMoments moments(pass.arguments().channels());
  accumulate(moments, x, weights, options);
  check_separate_from_weights("y", y, weights);
  Statistics statistics = normalizing_statistics(moments, options);
  const CoefficientTable table = pass.coefficients(view(statistics), at);
  pass.run(at, table.view());
  return statistics;
}

namespace {

// dx of one channel's elements: scale * dy - weight * (mean_gradient + slope * (x - mean)).
struct ChannelTerms {
  double scale;
  double mean;
  double mean_residual;
  double mean_gradient;
  double slope;

  [[nodiscard]] double dx(double dy, double x, double weight) const noexcept {
    const double frozen = scale * dy;
    // Whatever an element without a weight holds.
    return weight == 0 ? frozen : frozen - weight * (mean_gradient + slope * ((x - mean) - mean_residual));
  }
};

std::vector<ChannelTerms> terms_of(const Statistics& statistics, const std::vector<double>& gamma,
                                   const std::vector<double>& dgamma, const std::vector<double>& dbeta, double total) {
  std::vector<ChannelTerms> terms;
  for (std::size_t channel = 0; channel < gamma.size(); ++channel) {
    const double inverse = statistics.inverse_deviation[channel];
    const double scale = gamma[channel] * inverse;
    // The second factor of k; dgamma has the first.
    double of_deviation = inverse;
    if (statistics.epsilon_placement == EpsilonPlacement::deviation) {
      const double deviation = std::sqrt(statistics.variance[channel]);
      of_deviation = deviation == 0 ? 0 : 1 / deviation;
    }
    terms.push_back({scale, statistics.mean[channel], statistics.mean_residual[channel], scale * dbeta[channel] / total,
                     scale * dgamma[channel] * of_deviation / total});
  }
  return terms;
}

std::vector<std::size_t> axes_without(const IndexList& channel_axes, std::size_t rank) {
  std::vector<std::size_t> axes;
  for (std::size_t axis = 0; axis < rank; ++axis) {
    const auto number = static_cast<Index>(axis);
    if (std::find(channel_axes.begin(), channel_axes.end(), number) == channel_axes.end()) axes.push_back(axis);
  }
  return axes;
}

// Writes dx and d_residual, where they are asked for, piece by piece.
class WeightedGradients {
 public:
  // What outlives this: the arguments of weighted_backward, and weights that are spread over x.
  WeightedGradients(const TensorView& dy, const TensorView& x, const TensorView& weights, const Statistics& statistics,
                    const Affine& affine, const Gradients& gradients, const Options& options)
      : dy_(dy),
        x_(x),
        weights_(weights),
        statistics_(statistics),
        affine_(affine),
        gradients_(gradients),
        options_(options) {}

  void write(const IndexList& channel_axes, const std::vector<ChannelTerms>& terms) {
    for_each_piece(x_.shape, axes_without(channel_axes, x_.rank()), [&](const Piece& piece) {
      // Before anything is written, perhaps into x.
      if (gradients_.dx) {
        read(piece.of(x_), x_values_);
        read(piece.of(weights_), weight_values_);
      }
      const TensorView gradient = gradient_of(piece);
      if (!gradients_.dx) return;
      read(gradient, values_);
      // An element's channel is its offset in a tensor of these strides.
      const ChannelMap channels = number_channels(channel_axes, piece.size);
      for_each_element({nullptr, DType::float64, piece.size, channels.strides}, [&](Index position, Index channel) {
        const auto at = static_cast<std::size_t>(position);
        values_[at] = terms[static_cast<std::size_t>(channel)].dx(values_[at], x_values_[at], weight_values_[at]);
      });
      write_values(piece.of(*gradients_.dx), values_.data());
    });
  }

 private:
  static void read(const TensorView& from, std::vector<double>& values) {
    values.resize(static_cast<std::size_t>(element_count(from.shape)));
    read_values(from, values.data());
  }

  // That of the normalized elements: dy, or dy through an activation, which is d_residual.
  TensorView gradient_of(const Piece& piece) {
    if (options_.activation == Activation::none && !gradients_.d_residual) return piece.of(dy_);
    static constexpr std::uint8_t zero = 0;
    Affine affine = affine_;
    TensorView nothing = {&zero, DType::uint8, piece.size, piece.size};
    std::fill(nothing.strides.begin(), nothing.strides.end(), 0);
    affine.residual = affine_.residual ? piece.of(*affine_.residual) : nothing;
    if (affine_.output) affine.output = piece.of(*affine_.output);
    MutableTensorView output;
    if (gradients_.d_residual) {
      output = piece.of(*gradients_.d_residual);
    } else {
      bytes_.resize(static_cast<std::size_t>(element_count(piece.size)) * size_of(dy_.dtype));
      output = {bytes_.data(), dy_.dtype, piece.size, contiguous_strides(piece.size)};
    }
    backward_frozen(piece.of(dy_), piece.of(x_), statistics_, affine, {.d_residual = output}, options_);
    return output;
  }

  const TensorView& dy_;
  const TensorView& x_;
  const TensorView& weights_;
  const Statistics& statistics_;
  const Affine& affine_;
  const Gradients& gradients_;
  const Options& options_;
  std::vector<std::byte> bytes_;
  std::vector<double> x_values_;
  std::vector<double> weight_values_;
  std::vector<double> values_;
};

}  // namespace

void weighted_backward(const TensorView& dy, const TensorView& x, const TensorView& weights,
                       const Statistics& statistics, const Affine& affine, const Gradients& gradients,
                       const Options& options) {
  const DefaultFloatingPoint default_floating_point;
  check_options(options);
  refuse_mask(affine);
  const BackwardArguments arguments(dy, x, affine, gradients, options);
  const BackwardPointers at = pointers_of(dy, x, affine, gradients);
  arguments.check(at);
  check_statistics(statistics, arguments.channels());
  check_view("weights", weights);
  const TensorView spread = spread_reduced("weights", weights, arguments.channel_axes(), x);
  check_separate_from_weights("dx", gradients.dx, weights);
  check_separate_from_weights("d_residual", gradients.d_residual, weights);
  check_separate_from_weights("dgamma", gradients.dgamma, weights);
  check_separate_from_weights("dbeta", gradients.dbeta, weights);
  double total = 0;
  if (arguments.elements() > 0) {
    const WeightTotal of_weights = total_of(weights, spread, arguments.channel_axes(), options.threads);
    total = finalize_sum(of_weights.sum, 0);
    if (statistics.count != of_weights.count) {
      throw Error("statistics", "are of a count of " + std::to_string(statistics.count) + "; expected " +
                                    std::to_string(of_weights.count) + ", as of weights");
    }
  }
  const auto channels = static_cast<std::size_t>(arguments.channels());
  const IndexList shape = {arguments.channels()};
  std::vector<double> gamma(channels);
  std::vector<double> dgamma(channels);
  std::vector<double> dbeta(channels);
  read_parameter(arguments.gamma(), at.gamma, 1, arguments.channels(), gamma.data());
  backward_frozen(dy, x, statistics, affine,
                  {.dgamma = mutable_view(dgamma, shape), .dbeta = mutable_view(dbeta, shape)}, options);
  if (arguments.elements() > 0 && (gradients.dx || gradients.d_residual)) {
    WeightedGradients(dy, x, spread, statistics, affine, gradients, options)
        .write(arguments.channel_axes(), terms_of(statistics, gamma, dgamma, dbeta, total));
  }
  if (arguments.dgamma()) write_values(arguments.dgamma()->at(at.dgamma), dgamma.data());
  if (arguments.dbeta()) write_values(arguments.dbeta()->at(at.dbeta), dbeta.data());
}

}  // namespace exactnorm
