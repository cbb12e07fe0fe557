#include "batch_norm/passes.h"

#include <algorithm>
#include <array>
#include <limits>
#include <span>
#include <vector>

#include "affine/activation_window.h"
#include "batch_norm/finalizers.h"
#include "tensor/element_type.h"
#include "tensor/elements.h"
#include "tensor/scratch.h"

namespace exactnorm {

namespace {

// gamma and beta as float64, one value per channel, for the time of a call.
class AffineValues {
 public:
  AffineValues(const ForwardArguments& arguments, const ForwardPointers& at)
      : gamma_(arguments.channels()), beta_(arguments.channels()) {
    read_parameter(arguments.gamma(), at.gamma, 1, arguments.channels(), gamma_.data());
    read_parameter(arguments.beta(), at.beta, 0, arguments.channels(), beta_.data());
  }
  [[nodiscard]] ParameterValues view() noexcept { return {gamma_.data(), beta_.data()}; }

 private:
  ScratchArray<double> gamma_;
  ScratchArray<double> beta_;
};

// An operand of no address where the argument is absent.
Operand operand_of(const OptionalArgument& argument, const void* address) {
  return argument ? Operand(address, argument->layout().dtype) : Operand();
}

ActivationFunction function_of(const Options& options) { return {options.activation, options.slope}; }

// Whether a forward pass writes only what the mask selects.
bool selects_output(const ForwardArguments& arguments) {
  return arguments.mask() && arguments.mask()->masked() != MaskedOutput::normalized;
}

// x, the residual where there is one, y and, where the output has only what it selects, the mask.
std::vector<TensorView> forward_views(const ForwardArguments& arguments) {
  std::vector<TensorView> views = {arguments.x().layout()};
  if (arguments.residual()) views.push_back(arguments.residual()->layout());
  views.push_back(arguments.y().layout());
  if (selects_output(arguments)) views.push_back(arguments.mask()->layout());
  return views;
}
// `selection` is that of the mask, and outlives the result.
ApplyOperands forward_operands(const ForwardArguments& arguments, const ForwardPointers& at,
                               ActivationFunction function, const Selection& selection) {
  const std::array<Operand, 2> inputs = {Operand(at.x, arguments.x().layout().dtype),
                                         operand_of(arguments.residual(), at.residual)};
  const OutputOperand y = {at.y, arguments.y().layout().dtype};
  const Store store = store_of(std::span(inputs).first(arguments.residual() ? 2 : 1), y, arguments.elements());
  ApplyOperands operands(inputs[0], function, inputs[1], y, store);
  if (selects_output(arguments)) operands.set_selection(&selection);
  return operands;
}

// Of all elements without a mask.
Selection select(const std::optional<MaskArgument>& mask, const void* address, Index count) {
  return mask ? mask->select(address) : Selection{.count = count};
}

}  // namespace

TrainingPass::TrainingPass(const TensorView& x, const MutableTensorView& y, const Affine& affine,
                           const Options& options)
    : arguments_(x, y, affine, options), options_(options) {
  if (arguments_.elements() == 0) return;
  const std::vector<TensorView> apply = forward_views(arguments_);
  std::vector<TensorView> summed = {apply.front()};
  if (arguments_.mask()) summed.push_back(arguments_.mask()->layout());
  schedule_.emplace(summed, apply, arguments_.channel_axes(), options.threads);
}

Index TrainingPass::run(const ForwardPointers& at, const MutableStatisticsView& statistics,
                        const std::optional<Reference>& reference) const {
  const Index channels = arguments_.channels();
  if (!schedule_) {  // an empty batch
    for (double* column :
         {statistics.mean, statistics.mean_residual, statistics.variance, statistics.inverse_deviation}) {
      std::fill_n(column, channels, std::numeric_limits<double>::quiet_NaN());
    }
    return 0;
  }
  const Selection selection = select(arguments_.mask(), at.mask, arguments_.count());
  AffineValues parameters(arguments_, at);
  CoefficientTable table(channels);
  StatisticsFinalizer finalizer(statistics, selection.count, parameters.view(), options_, table);
  if (reference) finalizer.renormalize_by(*reference, channels);
  const Operand x(at.x, arguments_.x().layout().dtype);
  const ApplyOperands apply = forward_operands(arguments_, at, function_of(options_), selection);
  const SumOperands summed = {.inputs = {&x, 1}, .selection = arguments_.mask() ? &selection : nullptr};
  accumulate_finalize_apply(*schedule_, summed, &apply, finalizer, table.view());
  return selection.count;
}

InferencePass::InferencePass(const TensorView& x, const MutableTensorView& y, const Affine& affine,
                             const Options& options)
    : arguments_(x, y, affine, options), function_(function_of(options)) {
  if (arguments_.elements() == 0) return;
  const IndexList& axes = arguments_.channel_axes();
  schedule_ = apply_schedule(forward_views(arguments_), axes, number_channels(axes, x.shape), options.threads);
}

CoefficientTable InferencePass::coefficients(const StatisticsView& statistics, const ForwardPointers& at) const {
  const Index channels = arguments_.channels();
  AffineValues parameters(arguments_, at);
  CoefficientTable table(channels);
  set_forward(table, 0, channels, statistics, parameters.view());
  return table;
}

void InferencePass::run(const ForwardPointers& at, const Coefficients& coefficients) const {
  if (!schedule_) return;
  Selection selection;
  if (selects_output(arguments_)) selection = arguments_.mask()->select(at.mask);
  apply_all(*schedule_, forward_operands(arguments_, at, function_, selection), coefficients);
}

BackwardPass::BackwardPass(const TensorView& dy, const TensorView& x, const Affine& affine, const Gradients& gradients,
                           const Options& options, BackwardKind kind, bool sums_are_given)
    : arguments_(dy, x, affine, gradients, options), options_(options), is_frozen_(kind == BackwardKind::frozen) {
  if (arguments_.elements() == 0) return;
  const IndexList& axes = arguments_.channel_axes();
  const ChannelMap channels = number_channels(axes, x.shape);
  const bool writes_gradient = arguments_.d_residual().has_value();
  std::vector<TensorView> operands = inputs();
  std::vector<TensorView> apply;
  if (arguments_.dx()) apply = dx_views(is_frozen_);
  if (has_masked_dx()) {
    std::vector<TensorView> masked = dx_views(true);
    masked.push_back(arguments_.mask()->layout());
    masked_dx_ = apply_schedule(masked, axes, channels, options.threads);
  }
  if (selects_outputs() && !apply.empty()) apply.push_back(arguments_.mask()->layout());
  std::vector<TensorView> summed = operands;
  if (writes_gradient) operands.push_back(arguments_.d_residual()->layout());
  if (selects_sums()) {
    operands.push_back(arguments_.mask()->layout());
    summed.push_back(arguments_.mask()->layout());
  } else {
    summed = operands;
  }
  // Without gradients of parameters, dx of frozen statistics is gamma * inverse_deviation * dy.
  const bool needs_sums = !is_frozen_ || arguments_.dgamma() || arguments_.dbeta();
  const bool sums = needs_sums && !sums_are_given;
  // Sums of what a mask selects are read alone: the activation's gradient of it is not written meanwhile.
  if (writes_gradient && (!sums || selects_sums())) {
    gradient_alone_ = apply_schedule(operands, axes, channels, options.threads);
  }
  if (sums && gradient_alone_) {
    schedule_.emplace(summed, std::vector<TensorView>(), axes, options.threads);
  } else if (sums) {
    schedule_.emplace(summed, apply, axes, options.threads);
    return;
  }
  if (arguments_.dx()) apply_alone_ = apply_schedule(apply, axes, channels, options.threads);
}

std::vector<TensorView> BackwardPass::dx_views(bool is_frozen) const {
  const bool writes_gradient = arguments_.d_residual().has_value();
  const TensorView& gradient = writes_gradient ? arguments_.d_residual()->layout() : arguments_.dy().layout();
  std::vector<TensorView> views = {gradient};
  if (has_step() && !writes_gradient) {
    views = inputs();
  } else if (!is_frozen) {
    views.push_back(arguments_.x().layout());
  }
  views.push_back(arguments_.dx()->layout());
  return views;
}

const OptionalArgument& BackwardPass::source() const noexcept {
  static const OptionalArgument none;
  if (options_.activation == Activation::none) return none;
  return arguments_.output() ? arguments_.output() : arguments_.residual();
}

std::vector<TensorView> BackwardPass::inputs() const {
  std::vector<TensorView> views = {arguments_.dy().layout(), arguments_.x().layout()};
  if (source()) views.push_back(source()->layout());
  return views;
}

// What a backward pass reads, and the coefficients of its activation.
class BackwardPass::Inputs {
 public:
  Inputs(const BackwardPass& pass, const BackwardPointers& at, const StatisticsView& statistics, const double* gamma)
      : list_{Operand(at.dy, pass.arguments_.dy().layout().dtype), Operand(at.x, pass.arguments_.x().layout().dtype),
              operand_of(pass.source(), pass.takes_output() ? at.output : at.residual)},
        size_(pass.source() ? 3 : 2) {
    if (!pass.has_step()) return;
    step_ = ActivationStep{function_of(pass.options_), list_[0].dtype, size_ == 3, pass.takes_output(), {}};
    if (!step_->computes_input()) return;
    const Index channels = pass.arguments_.channels();
    ScratchArray<double> beta(channels);
    read_parameter(pass.arguments_.beta(), at.beta, 0, channels, beta.data());
    forward_.emplace(channels);
    set_forward(*forward_, 0, channels, statistics, {gamma, beta.data()});
    step_->forward = forward_->view();
  }

  [[nodiscard]] std::span<const Operand> all() const noexcept { return {list_.data(), size_}; }
  [[nodiscard]] const Operand& dy() const noexcept { return list_[0]; }
  [[nodiscard]] const Operand& x() const noexcept { return list_[1]; }
  [[nodiscard]] const Operand& source() const noexcept { return list_[2]; }
  [[nodiscard]] const ActivationStep* step() const noexcept { return step_ ? &*step_ : nullptr; }

  void set_windows(Activation activation, Index channels, const WindowTargets& to) {
    has_windows_ = exactnorm::set_windows(activation, forward_->view(), channels, to);
  }
  [[nodiscard]] bool has_windows() const noexcept { return has_windows_; }

 private:
  std::array<Operand, 3> list_;
  std::size_t size_;
  std::optional<CoefficientTable> forward_;
  std::optional<ActivationStep> step_;
  bool has_windows_ = false;
};

// Windows serve float32 arithmetic, and where the activation's gradient is written nowhere.
bool BackwardPass::may_have_windows() const noexcept {
  const auto fits = [](const OptionalArgument& argument) {
    return !argument || dtype_fits_float32(argument->layout().dtype);
  };
  return has_window(options_.activation) && !is_frozen_ && !source() && arguments_.count() > 0 &&
         dtype_fits_float32(arguments_.x().layout().dtype) && dtype_fits_float32(arguments_.dy().layout().dtype) &&
         fits(arguments_.dx());
}

ApplyOperands BackwardPass::apply_operands(const BackwardPointers& at, const Inputs& inputs, bool is_frozen) const {
  const Index elements = arguments_.elements();
  const OutputOperand dx = {at.dx, arguments_.dx()->layout().dtype};
  const bool has_windows = inputs.has_windows() && !is_frozen;
  if (inputs.step() != nullptr && !has_windows && !arguments_.d_residual()) {
    return {inputs.dy(),
            inputs.x(),
            inputs.source(),
            *inputs.step(),
            is_frozen ? Formula::forward : Formula::gradient,
            dx,
            store_of(inputs.all(), dx, elements)};
  }
  const Operand gradient = arguments_.d_residual() ? operand_of(arguments_.d_residual(), at.d_residual) : inputs.dy();
  if (is_frozen) return {gradient, inputs.x().dtype, dx, store_of({&gradient, 1}, dx, elements)};
  const Store store = store_of(std::array<Operand, 2>{gradient, inputs.x()}, dx, elements);
  return {gradient, inputs.x(), has_windows ? Formula::windowed_gradient : Formula::gradient, dx, store};
}

Selection BackwardPass::select(const BackwardPointers& at) const {
  return exactnorm::select(arguments_.mask(), at.mask, arguments_.count());
}

void BackwardPass::run(const BackwardPointers& at, const StatisticsView& statistics, Selection selection,
                       const PartialSums* sums) const {
  const Index channels = arguments_.channels();
  const Index elements = arguments_.count();
  if (has_masked_dx()) selection.masked = MaskedOutput::untouched;
  const Index summed = sums != nullptr ? sums->count() : selects_sums() ? selection.count : elements;
  ScratchArray<double> gamma(channels);
  ScratchArray<double> dgamma(channels);
  ScratchArray<double> dbeta(channels);
  read_parameter(arguments_.gamma(), at.gamma, 1, channels, gamma.data());
  CoefficientTable table(channels);
  Inputs inputs(*this, at, statistics, gamma.data());
  if (may_have_windows()) inputs.set_windows(options_.activation, channels, table.windows());
  const GradientTargets gradients = {dgamma.data(), dbeta.data()};
  GradientsFinalizer finalizer(statistics, {summed, selection.count}, gamma.data(), gradients, is_frozen_, options_,
                               table);
  std::optional<ApplyOperands> apply;
  if (arguments_.dx() && elements > 0) {
    apply = apply_operands(at, inputs, is_frozen_);
    if (selects_outputs()) apply->set_selection(&selection);
  }
  OutputOperand gradient;
  if (arguments_.d_residual()) gradient = {at.d_residual, arguments_.d_residual()->layout().dtype};
  const Coefficients coefficients = table.view();
  if (schedule_ && summed > 0) {
    const SumOperands operands = {.inputs = inputs.all(),
                                  .step = inputs.step(),
                                  .gradient = gradient_alone_ ? OutputOperand{} : gradient,
                                  .windows = inputs.has_windows() ? &coefficients : nullptr,
                                  .selection = selects_sums() ? &selection : nullptr};
    accumulate_finalize_apply(*schedule_, operands, apply && !apply_alone_ ? &*apply : nullptr, finalizer,
                              coefficients);
  } else {
    const std::vector<Index> all = all_channels(channels);
    const bool has_sums = sums != nullptr && summed > 0;
    if (summed == 0) {  // over an empty batch gradients are 0
      std::fill_n(dgamma.data(), channels, 0.0);
      std::fill_n(dbeta.data(), channels, 0.0);
    }
    has_sums ? finalizer.finalize(*sums, all) : finalizer.set_coefficients(all);
    if (apply && !apply_alone_) apply_alone(*schedule_, *apply, coefficients);
  }
  if (gradient_alone_) {
    ApplyOperands to_gradient(inputs.dy(), inputs.x(), inputs.source(), *inputs.step(), std::nullopt, gradient,
                              Store::cached);
    if (selects_sums()) to_gradient.set_selection(&selection);
    apply_all(*gradient_alone_, to_gradient, coefficients);
  }
  if (apply_alone_) apply_all(*apply_alone_, *apply, coefficients);
  if (masked_dx_) write_masked_dx(at, statistics, inputs, gamma.data(), selection);
  if (arguments_.dgamma()) write_values(arguments_.dgamma()->at(at.dgamma), dgamma.data());
  if (arguments_.dbeta()) write_values(arguments_.dbeta()->at(at.dbeta), dbeta.data());
}

// Statistics do not depend on these elements: their dx is that of frozen ones.
void BackwardPass::write_masked_dx(const BackwardPointers& at, const StatisticsView& statistics, const Inputs& inputs,
                                   const double* gamma, Selection selection) const {
  CoefficientTable table(arguments_.channels());
  GradientsFinalizer(statistics, {}, gamma, {}, true, options_, table)
      .set_coefficients(all_channels(arguments_.channels()));
  selection.masked = MaskedOutput::untouched;
  selection.is_inverted = true;
  ApplyOperands apply = apply_operands(at, inputs, true);
  apply.set_selection(&selection);
  apply_all(*masked_dx_, apply, table.view());
}

Index BackwardPass::accumulate(const BackwardPointers& at, const StatisticsView& statistics, PartialSums& sums) const {
  const Index channels = arguments_.channels();
  const Selection selection = select(at);
  ScratchArray<double> gamma(channels);
  read_parameter(arguments_.gamma(), at.gamma, 1, channels, gamma.data());
  const Inputs inputs(*this, at, statistics, gamma.data());
  const SumOperands operands = {
      .inputs = inputs.all(), .step = inputs.step(), .selection = selects_sums() ? &selection : nullptr};
  reduce_all(schedule_->accumulate, operands, sums);
  return selects_sums() ? selection.count : arguments_.count();
}

}  // namespace exactnorm
