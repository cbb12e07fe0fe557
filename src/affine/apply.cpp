#include "affine/apply.h"

#include <algorithm>
#include <array>
#include <vector>

#include "simd/cache_line.h"
#include "tensor/element_type.h"
#include "traverse/block_reader.h"
#include "traverse/traversal.h"

namespace exactnorm {

CoefficientTable::CoefficientTable(Index channels)
    : stride_((channels + 63) / 64 * 64 + 48),
      memory_(static_cast<std::size_t>(stride_) * (5 * sizeof(double) + 7 * sizeof(float))),
      values_(reinterpret_cast<double*>(memory_.data())),
      single_values_(reinterpret_cast<float*>(values_ + 5 * stride_)) {}

CoefficientTable::CoefficientTable(const Coefficients& coefficients, std::span<const Index> channels,
                                   const SlotMap& slots, Formula formula)
    : CoefficientTable(slots.slots()) {
  const auto copy = [&](const auto* from, auto* to) {
    for (auto channel = channels.begin(); channel != channels.end();) {
      auto* const row = to;
      for (Index i = 0; i < slots.row_channels; ++i) to = std::fill_n(to, slots.places, from[*channel++]);
      // The rest of the row repeats, and all that is there can be copied at once.
      for (auto* const end = row + slots.row_slots(); to != end;)
        to = std::copy_n(row, std::min(to - row, end - to), to);
    }
  };
  copy(coefficients.mean, column(0));
  copy(coefficients.x_scale, column(1));
  copy(coefficients.shift, column(2));
  copy(coefficients.single.mean, single_column(0));
  copy(coefficients.single.scale, single_column(1));
  copy(coefficients.single.scale_rest, single_column(2));
  copy(coefficients.single.shift, single_column(3));
  if (!is_gradient(formula)) return;
  copy(coefficients.normalized_scale, column(3));
  copy(coefficients.dy_scale, column(4));
  copy(coefficients.single.x_scale, single_column(4));
  if (formula != Formula::windowed_gradient) return;
  copy(coefficients.window.lower, single_column(5));
  copy(coefficients.window.upper, single_column(6));
}

Coefficients CoefficientTable::view() const noexcept {
  return {column(0),
          column(1),
          column(2),
          column(3),
          column(4),
          {single_column(0), single_column(1), single_column(2), single_column(3), single_column(4)},
          {single_column(5), single_column(6)}};
}

SlotCoefficients::SlotCoefficients(const LoopNest& nest, const Box& box, const SlotMap& slots,
                                   const Coefficients& coefficients, Formula formula) {
  const std::optional<Index> first = first_of_consecutive(nest, box);
  if (first && slots.is_identity()) {
    view_ = coefficients.from(*first);
    return;
  }
  thread_local std::vector<Index> channels;  // its memory is kept from box to box
  list_channels(nest, box, channels);
  table_.emplace(coefficients, channels, slots, formula);
  view_ = table_->view();
}

namespace {

// What computes an activation of x and, where there is one, a residual without a step of its own; none for others.
std::optional<Formula> formula_of(Activation activation, bool has_residual) {
  switch (activation) {
    case Activation::none:
      return has_residual ? Formula::sum : Formula::forward;
    case Activation::relu:
      return has_residual ? Formula::relu_of_sum : Formula::relu;
    case Activation::relu6:
      if (!has_residual) return Formula::relu6;
      break;
    default:
      break;
  }
  return std::nullopt;
}

}  // namespace

ApplyOperands::ApplyOperands(const Operand& x, ActivationFunction function, const Operand& residual,
                             const OutputOperand& out, Store store)
    : out_(out), store_(store), function_(function) {
  const bool has_residual = residual.data != nullptr;
  add(x);
  if (has_residual) add(residual);
  add({out.data, out.dtype});
  if (const std::optional<Formula> formula = formula_of(function.activation, has_residual)) {
    formula_ = *formula;
  } else {
    takes_ = Takes::with_activation;
  }
}

ApplyOperands::ApplyOperands(const Operand& dy, const Operand& x, const Operand& source, const ActivationStep& step,
                             std::optional<Formula> formula, const OutputOperand& out, Store store)
    : out_(out),
      store_(store),
      formula_(formula.value_or(Formula::forward)),
      takes_(formula ? Takes::activated_gradient : Takes::gradient_alone),
      step_(&step) {
  add(dy);
  add(x);
  if (step.has_source) add(source);
  add({out.data, out.dtype});
}

DType ApplyOperands::type() const noexcept {
  if (is_wide_) return DType::float64;
  const DType type = type_of_kernels(all());
  // Kernels of activations have no elements of 16 bits.
  return takes_ != Takes::elements && is_half_type(type) ? DType::float32 : type;
}

namespace {

Store store_of(bool is_streamed) { return is_streamed ? Store::streamed : Store::cached; }

template <typename T>
class RegionApplier {
 public:
  RegionApplier(const Traversal& traversal, const ApplyOperands& operands, const Coefficients& coefficients)
      : traversal_(traversal), operands_(operands), coefficients_(coefficients) {}

  void apply_elements() const {
    if (operands_.all().size() == 2) {
      apply_blocks<2>([&](const Block<T, 2>& block) { apply(block, 0, 0); });
    } else {
      const bool starts_with_x = adds_residual(operands_.formula());
      apply_blocks<3>([&](const Block<T, 3>& block) { apply(block, starts_with_x ? 0 : 1, starts_with_x ? 1 : 0); });
    }
  }
  void apply_with_activation() const {
    operands_.all().size() == 2 ? apply_with_activation<2>() : apply_with_activation<3>();
  }
  void apply_activated_gradient(const Coefficients& of_step) const {
    operands_.all().size() == 3 ? apply_activated_gradient<3>(of_step) : apply_activated_gradient<4>(of_step);
  }

 private:
  template <std::size_t kOperands, typename Visit>
  void apply_blocks(const Visit& visit) const {
    BlockReader<T, kOperands, true> blocks(
        traversal_, operands_.all(), {operands_.out(), operands_.store() == Store::streamed}, operands_.selection());
    traversal_.visit([&](const Region& region) { blocks.read(region, visit); });
  }

  // `x` and `second` are operands of the block, the latter looked at where the formula reads dy or the residual.
  template <std::size_t kOperands>
  void apply(const Block<T, kOperands>& block, std::size_t x, std::size_t second) const {
    const bool with_second = reads_second(operands_.formula());
    const ApplyPointers<T> at = {block.data[x], with_second ? block.data[second] : nullptr, block.output};
    const auto strides = [&](const std::array<Index, kOperands>& of) {
      return RowStrides{of[x], with_second ? of[second] : 0, of.back()};
    };
    const Coefficients of_slots = coefficients_.from(block.slot);
    const Formula formula = operands_.formula();
    const Store store = store_of(block.is_streamed);
    if (traversal_.is_lanes()) {
      apply_rows(formula, at, block.rows, block.count, strides(block.strides), of_slots, store);
    } else if (block.channels > 1) {
      apply_runs(formula, at, block.channels, strides(block.channel_strides), block.count, of_slots, false, store);
    } else {
      apply_runs(formula, at, block.rows, strides(block.strides), block.count, of_slots, true, store);
    }
  }

  template <std::size_t kOperands>
  void apply_with_activation() const {
    PreactivationTile<T> tile(traversal_.is_lanes());
    apply_blocks<kOperands>([&](const Block<T, kOperands>& block) {
      for_block_parts(block, kOperands - 1, traversal_.is_lanes(), activation_elements,
                      [&](const Block<T, kOperands>& part) {
                        tile.set(part, 0, coefficients_);
                        for_planes(part, [&](Index channel, Index rows, const std::array<Index, kOperands>& strides) {
                          ActivationRows<T> plane{.value = tile.data() + channel * part.rows * part.count,
                                                  .value_stride = part.count,
                                                  .out = part.output + channel * part.channel_strides.back(),
                                                  .out_stride = strides.back(),
                                                  .rows = rows,
                                                  .count = part.count};
                          if constexpr (kOperands == 3) {
                            plane.residual = part.data[1] + channel * part.channel_strides[1];
                            plane.residual_stride = strides[1];
                          }
                          activate(operands_.function(), plane.joined(), store_of(part.is_streamed));
                        });
                      });
    });
  }

  template <std::size_t kOperands>
  void apply_activated_gradient(const Coefficients& of_step) const {
    ActivatedGradient<T> gradient(operands_.step(), of_step, traversal_.is_lanes());
    const bool frozen = operands_.formula() == Formula::forward;
    if (operands_.takes() == ApplyOperands::Takes::gradient_alone) {
      apply_blocks<kOperands>(
          [&](const Block<T, kOperands>& block) { gradient.template read<true>(block, [](const Block<T, 3>&) {}); });
      return;
    }
    apply_blocks<kOperands>([&](const Block<T, kOperands>& block) {
      gradient.template read<false>(block, [&](const Block<T, 3>& part) { apply(part, frozen ? 0 : 1, 0); });
    });
  }

  const Traversal& traversal_;
  const ApplyOperands& operands_;
  const Coefficients& coefficients_;
};

}  // namespace

void apply_box(const LoopNest& nest, const Box& box, const ApplyOperands& operands, const Coefficients& coefficients) {
  using Takes = ApplyOperands::Takes;
  const std::span<const Operand> all = operands.all();
  const DType type = operands.type();
  const Index line = is_half_type(type) ? line_size<bfloat16> : line_size<float>;
  const std::size_t size = all.size() + (operands.selection() != nullptr ? 1 : 0);
  const Traversal traversal(nest, box, size, Stage::apply, line);
  const SlotMap& slots = traversal.slots();
  const SlotCoefficients of_slots(nest, box, slots, coefficients, operands.formula());
  visit_floating(type, [&](auto element) {
    using T = decltype(element);
    const RegionApplier<T> applier(traversal, operands, of_slots.view());
    if (operands.takes() == Takes::elements) {
      applier.apply_elements();
    } else if constexpr (!is_half<T>) {
      if (operands.takes() == Takes::with_activation) {
        applier.apply_with_activation();
      } else {
        const StepCoefficients of_step(nest, box, slots, operands.step());
        applier.apply_activated_gradient(of_step.view());
      }
    }
  });
  if (operands.store() == Store::streamed) flush_streams();
}

}  // namespace exactnorm
