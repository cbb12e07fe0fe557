#include "batch_norm/arguments.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "tensor/checks.h"
#include "tensor/element_type.h"
#include "tensor/elements.h"

namespace exactnorm {

namespace {

const void* data_of(const std::optional<TensorView>& view) { return view ? view->data : nullptr; }
const void* data_of(const std::optional<Mask>& mask) { return mask ? mask->selected.data : nullptr; }
void* data_of(const std::optional<MutableTensorView>& view) { return view ? view->data : nullptr; }

OptionalArgument optional_parameter(const char* name, const std::optional<TensorView>& parameter, const IndexList& axes,
                                    const TensorView& x) {
  if (!parameter) return std::nullopt;
  return Argument::parameter(name, *parameter, axes, x);
}

// Of x's shape.
OptionalArgument optional_tensor(const char* name, const std::optional<TensorView>& tensor, const TensorView& x) {
  if (!tensor) return std::nullopt;
  Argument argument = Argument::input(name, *tensor);
  check_same_shape(name, *tensor, "x", x);
  return argument;
}

// Whether an activation's output says what its derivative is.
void check_output_tells(const Options& options) {
  if (options.activation == Activation::silu || options.activation == Activation::hard_swish) {
    throw Error("output", "was given; expected none, as it does not tell the derivative of " +
                              std::string(activation_names[static_cast<std::size_t>(options.activation)]));
  }
  if (options.activation == Activation::leaky_relu && options.slope < 0) {
    throw Error("output",
                "was given; expected none, as it does not tell the derivative of leaky_relu with a slope of " +
                    to_text(options.slope));
  }
}

std::optional<MaskArgument> optional_mask(const std::optional<Mask>& mask, const IndexList& axes, const TensorView& x) {
  if (!mask) return std::nullopt;
  return MaskArgument(*mask, axes, x);
}

// Activations are computed in float32 where it holds x and `other`: all that takes part then has to fit it.
void check_fits_arithmetic(const char* name, DType dtype, const TensorView& x, const char* other_name,
                           const TensorView& other) {
  if (!dtype_fits_float32(x.dtype) || !dtype_fits_float32(other.dtype) || dtype_fits_float32(dtype)) return;
  throw Error(name, "has dtype " + std::string(name_of(dtype)) + "; expected one that float32 holds, as x and " +
                        other_name + " are of such ones");
}

void check_presence(const char* name, bool is_expected, const void* address) {
  if (is_expected || address == nullptr) return;
  throw Error(name, "was given; expected a null pointer, as it is not among the plan's tensors");
}

void check_mask(const std::optional<MaskArgument>& mask, const void* address) {
  check_presence("mask", mask.has_value(), address);
  if (mask) mask->argument().check_address(address);
}

}  // namespace

void read_parameter(const OptionalArgument& parameter, const void* address, double value, Index channels,
                    double* values) {
  if (parameter) {
    read_values(parameter->at(address), values);
  } else {
    std::fill_n(values, channels, value);
  }
}

ForwardArguments::ForwardArguments(const TensorView& x, const MutableTensorView& y, const Affine& affine,
                                   const Options& options)
    : x_((check_options(options), Argument::input("x", x))), y_(Argument::output("y", y)) {
  check_same_shape("y", y, "x", x);
  channel_axes_ = resolve_channel_axes(options.channel_axes, x);
  channels_ = channel_count(channel_axes_, x);
  elements_ = element_count(x.shape);
  gamma_ = optional_parameter("gamma", affine.gamma, channel_axes_, x);
  beta_ = optional_parameter("beta", affine.beta, channel_axes_, x);
  residual_ = optional_tensor("residual", affine.residual, x);
  if (residual_) check_fits_arithmetic("residual", affine.residual->dtype, x, "y", y);
  if (affine.output) throw Error("output", "was given; expected none, as it is of backward passes");
  mask_ = optional_mask(affine.mask, channel_axes_, x);
}

void ForwardArguments::check_tensors(const ForwardPointers& at) const {
  x_.check_address(at.x);
  y_.check_address(at.y);
  check_separate(y_, at.y, x_, at.x, true);
  check_mask(mask_, at.mask);
  if (mask_) check_separate(y_, at.y, mask_->argument(), at.mask, false);
  check_presence("residual", residual_.has_value(), at.residual);
  if (!residual_) return;
  residual_->check_address(at.residual);
  check_separate(y_, at.y, *residual_, at.residual, true);
}

void ForwardArguments::check(const ForwardPointers& at) const {
  check_tensors(at);
  // gamma and beta are read before anything is written, so that they may lie anywhere; but nobody means to
  // overwrite them.
  const auto check_parameter = [&](const char* name, const OptionalArgument& parameter, const void* address) {
    check_presence(name, parameter.has_value(), address);
    if (!parameter) return;
    parameter->check_address(address);
    check_separate(y_, at.y, *parameter, address, false);
  };
  check_parameter("gamma", gamma_, at.gamma);
  check_parameter("beta", beta_, at.beta);
}

ForwardPointers pointers_of(const TensorView& x, const MutableTensorView& y, const Affine& affine) {
  return {x.data, y.data, data_of(affine.gamma), data_of(affine.beta), data_of(affine.residual), data_of(affine.mask)};
}

IndexList check_forward(const TensorView& x, const MutableTensorView& y, const Affine& affine, const Options& options) {
  const ForwardArguments arguments(x, y, affine, options);
  arguments.check(pointers_of(x, y, affine));
  return arguments.channel_axes();
}

BackwardArguments::BackwardArguments(const TensorView& dy, const TensorView& x, const Affine& affine,
                                     const Gradients& gradients, const Options& options)
    : dy_((check_options(options), check_layout("x", x), check_gradient(dy, x), Argument::input("dy", dy))),
      x_(Argument::input("x", x)) {
  channel_axes_ = resolve_channel_axes(options.channel_axes, x);
  channels_ = channel_count(channel_axes_, x);
  elements_ = element_count(x.shape);
  gamma_ = optional_parameter("gamma", affine.gamma, channel_axes_, x);
  beta_ = optional_parameter("beta", affine.beta, channel_axes_, x);
  residual_ = optional_tensor("residual", affine.residual, x);
  if (residual_) check_fits_arithmetic("residual", affine.residual->dtype, x, "dy", dy);
  output_ = optional_tensor("output", affine.output, x);
  if (output_) {
    check_fits_arithmetic("output", affine.output->dtype, x, "dy", dy);
    check_output_tells(options);
  }
  mask_ = optional_mask(affine.mask, channel_axes_, x);
  if (gradients.d_residual) {
    if (!residual_ && !output_) throw Error("d_residual", "was given; expected none, as there is no residual");
    d_residual_ = Argument::output("d_residual", *gradients.d_residual);
    check_same_shape("d_residual", *gradients.d_residual, "x", x);
    if (gradients.d_residual->dtype != dy.dtype) {
      throw Error("d_residual", "has dtype " + std::string(name_of(gradients.d_residual->dtype)) + "; expected " +
                                    std::string(name_of(dy.dtype)) + ", as dy has");
    }
  }
  if (gradients.dx) {
    dx_ = Argument::output("dx", *gradients.dx);
    check_same_shape("dx", *gradients.dx, "x", x);
    if (options.activation != Activation::none) check_fits_arithmetic("dx", gradients.dx->dtype, x, "dy", dy);
  }
  if (gradients.dgamma) dgamma_ = Argument::output_parameter("dgamma", *gradients.dgamma, channel_axes_, x);
  if (gradients.dbeta) dbeta_ = Argument::output_parameter("dbeta", *gradients.dbeta, channel_axes_, x);
}

void BackwardArguments::check(const BackwardPointers& at) const {
  dy_.check_address(at.dy);
  x_.check_address(at.x);
  struct Given {
    const char* name;
    const OptionalArgument& argument;
    const void* address;
  };
  const std::array<Given, 4> inputs = {{{"gamma", gamma_, at.gamma},
                                        {"beta", beta_, at.beta},
                                        {"residual", residual_, at.residual},
                                        {"output", output_, at.output}}};
  for (const auto& [name, argument, address] : inputs) {
    check_presence(name, argument.has_value(), address);
    if (argument) argument->check_address(address);
  }
  check_mask(mask_, at.mask);
  const std::array<std::pair<const OptionalArgument*, const void*>, 4> outputs = {
      {{&dx_, at.dx}, {&dgamma_, at.dgamma}, {&dbeta_, at.dbeta}, {&d_residual_, at.d_residual}}};
  constexpr std::array names = {"dx", "dgamma", "dbeta", "d_residual"};
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const auto& [output, address] = outputs[i];
    check_presence(names[i], output->has_value(), address);
    if (!*output) continue;
    (*output)->check_address(address);
    const bool is_tensor = output == &dx_ || output == &d_residual_;
    check_separate(**output, address, x_, at.x, output == &dx_);  // after d_residual x is read once more
    check_separate(**output, address, dy_, at.dy, is_tensor);
    if (mask_) check_separate(**output, address, mask_->argument(), at.mask, false);
    for (const auto& [name, argument, input_address] : inputs) {
      const bool may_be_one = is_tensor && (&argument == &residual_ || &argument == &output_);
      if (argument) check_separate(**output, address, *argument, input_address, may_be_one);
    }
    for (std::size_t j = 0; j < i; ++j) {
      const auto& [other, other_address] = outputs[j];
      if (*other) check_separate(**output, address, **other, other_address, false);
    }
  }
}

BackwardPointers pointers_of(const TensorView& dy, const TensorView& x, const Affine& affine,
                             const Gradients& gradients) {
  return {dy.data,
          x.data,
          data_of(affine.gamma),
          data_of(gradients.dx),
          data_of(gradients.dgamma),
          data_of(gradients.dbeta),
          data_of(affine.beta),
          data_of(affine.residual),
          data_of(gradients.d_residual),
          data_of(affine.mask),
          data_of(affine.output)};
}

void check_statistics(const Statistics& statistics, Index channels) {
  for (const std::vector<double>* values :
       {&statistics.mean, &statistics.mean_residual, &statistics.variance, &statistics.inverse_deviation}) {
    if (static_cast<Index>(values->size()) == channels) continue;
    throw Error("statistics", "have vectors of " + std::to_string(statistics.mean.size()) + ", " +
                                  std::to_string(statistics.mean_residual.size()) + ", " +
                                  std::to_string(statistics.variance.size()) + " and " +
                                  std::to_string(statistics.inverse_deviation.size()) +
                                  " values; expected one for each of the " + std::to_string(channels) + " channels");
  }
  check_epsilon(statistics);
}

void check_epsilon(const Statistics& statistics) {
  if (!(statistics.epsilon >= 0) || !std::isfinite(statistics.epsilon)) {
    throw Error("statistics",
                "have an epsilon of " + to_text(statistics.epsilon) + "; expected a finite number of 0 or more");
  }
}

void check_batch_statistics(const Statistics& statistics, const BackwardArguments& arguments) {
  check_statistics(statistics, arguments.channels());
  if (!statistics.counts.empty()) {
    throw Error("statistics",
                "are of another number of elements in each channel; expected those of all elements of x, or "
                "`backward_frozen`");
  }
  if (arguments.elements() > 0 && statistics.count == 0 && !arguments.mask()) {
    throw Error("statistics",
                "were given, not computed from a batch; expected those that `training` returned, or "
                "`backward_frozen`");
  }
}

}  // namespace exactnorm
