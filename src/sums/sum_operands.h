#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>

#include "affine/activated_gradient.h"
#include "tensor/operand.h"
#include "traverse/block_reader.h"
#include "traverse/selection.h"
#include "traverse/traversal.h"

namespace exactnorm {

/// What is summed: x (moments), or dy and x (gradients); with a step, dy, x and, where the step has one, its source, of
/// which the activation's gradient takes the place of dy.
struct SumOperands {
  std::span<const Operand> inputs;
  const ActivationStep* step = nullptr;
  /// Where the activation's gradient is written, too; no address for nowhere. It is the nest's last operand then.
  OutputOperand gradient = {};
  /// The step's windows, for all channels by their numbers, where it has them: another way to the same sums.
  const Coefficients* windows = nullptr;
  /// What is summed alone, null for all. Its bytes are the nest's last operand then; nothing is written.
  const Selection* selection = nullptr;

  [[nodiscard]] bool is_gradient() const noexcept { return inputs.size() > 1; }
  [[nodiscard]] bool writes_gradient() const noexcept { return gradient.data != nullptr; }
  /// Operands of the nest.
  [[nodiscard]] std::size_t size() const noexcept {
    return inputs.size() + (writes_gradient() ? 1 : 0) + (selection != nullptr ? 1 : 0);
  }
  /// dy and x, or x.
  [[nodiscard]] std::span<const Operand> summed() const noexcept { return step != nullptr ? inputs.first(2) : inputs; }
};

/// Calls visit(block) for the blocks of a step's box, which have the activation's gradient and x as operands. `forward`
/// are the step's coefficients of the slots.
template <typename T, typename Visit>
void visit_activated(const Traversal& traversal, const SumOperands& operands, const Coefficients& forward,
                     const Visit& visit) {
  ActivatedGradient<T> gradient(*operands.step, forward, traversal.is_lanes());
  const auto pass_on = [&](const Block<T, 3>& part) {
    visit(Block<T, 2>{.data = {part.data[0], part.data[1]},
                      .channel_strides = {part.channel_strides[0], part.channel_strides[1]},
                      .strides = {part.strides[0], part.strides[1]},
                      .channels = part.channels,
                      .rows = part.rows,
                      .count = part.count,
                      .slot = part.slot});
  };
  const auto read = [&]<std::size_t kOperands>() {
    BlockReader<T, kOperands> reader(traversal, operands.inputs, operands.selection);
    traversal.visit([&](const Region& region) {
      reader.read(region, [&](const Block<T, kOperands>& block) { gradient.template read<false>(block, pass_on); });
    });
  };
  const auto read_and_write = [&]<std::size_t kOperands>() {
    std::array<Operand, maximum_operands> all;
    std::copy(operands.inputs.begin(), operands.inputs.end(), all.begin());
    all[kOperands - 1] = {operands.gradient.data, operands.gradient.dtype};
    BlockReader<T, kOperands, true> reader(traversal, std::span(all).first(kOperands), {operands.gradient, false},
                                           nullptr);
    traversal.visit([&](const Region& region) {
      reader.read(region, [&](const Block<T, kOperands>& block) { gradient.template read<true>(block, pass_on); });
    });
  };
  if (operands.writes_gradient()) {
    operands.inputs.size() == 2 ? read_and_write.template operator()<3>() : read_and_write.template operator()<4>();
  } else {
    operands.inputs.size() == 2 ? read.template operator()<2>() : read.template operator()<3>();
  }
}

}  // namespace exactnorm
