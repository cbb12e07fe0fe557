#include "sums/quick_sums.h"

#include <array>
#include <optional>

#include "affine/apply.h"
#include "traverse/block_reader.h"
#include "traverse/traversal.h"

namespace exactnorm {

namespace {

template <typename Element, std::size_t kOperands>
QuickBlock<Element> quick_block(const Block<Element, kOperands>& block) {
  constexpr std::size_t x = kOperands - 1;
  QuickBlock<Element> quick{block.data[x],  nullptr,     block.strides[x], 0, block.channel_strides[x], 0, block.rows,
                            block.channels, block.count, block.prefetch};
  if constexpr (kOperands == 2) {
    quick.dy = block.data[0];
    quick.dy_stride = block.strides[0];
    quick.dy_channel_stride = block.channel_strides[0];
  }
  return quick;
}

template <typename Element, std::size_t kOperands>
void add_block(const Traversal& traversal, const Block<Element, kOperands>& block, const QuickSlots& slots,
               const QuickColumns& columns) {
  const QuickWay way = traversal.is_lanes() ? QuickWay::lanes
                       : block.channels > 1 ? QuickWay::short_runs
                                            : QuickWay::runs;
  add_quick(way, quick_block(block), slots.from(block.slot), columns.from(block.slot));
}

template <typename Element, std::size_t kOperands>
void add_regions(const Traversal& traversal, const SumOperands& operands, const QuickSlots& slots,
                 const QuickColumns& columns) {
  BlockReader<Element, kOperands> reader(traversal, operands.inputs, operands.selection);
  traversal.visit([&](const Region& region) {
    reader.read(region, [&](const Block<Element, kOperands>& block) { add_block(traversal, block, slots, columns); });
  });
}

}  // namespace

void QuickSums::reset(Index channels, std::size_t sums) {
  channels_ = channels;
  sums_ = sums;
  // Not a power of two, as many numbers of channels are: the columns' entries for one channel would compete for few
  // places in the cache.
  stride_ = (channels + 63) / 64 * 64 + 24;
  values_.assign(2 * sums * static_cast<std::size_t>(stride_), 0.0);
}

QuickColumns QuickSums::columns() noexcept {
  QuickColumns columns;
  for (std::size_t s = 0; s < sums_; ++s) {
    columns.high[s] = values_.data() + static_cast<Index>(s) * stride_;
    columns.low[s] = columns.high[s] + static_cast<Index>(sums_) * stride_;
  }
  return columns;
}

void QuickSums::add_slot(Index channel, const QuickColumns& slots, Index slot) {
  const QuickColumns to = columns().from(channel);
  for (std::size_t s = 0; s < sums_; ++s) {
    add_to_pair(slots.high[s][slot], *to.high[s], *to.low[s]);
    *to.low[s] += slots.low[s][slot];
  }
}

void QuickSums::add_box(const LoopNest& nest, const Box& box, const SumOperands& operands,
                        std::span<const double> centres) {
  const Traversal traversal(nest, box, operands.size());
  const SlotMap& slots = traversal.slots();
  const auto add = [&](const double* slot_centres, const QuickColumns& to) {
    QuickSlots of_slots = {slot_centres};
    std::optional<SlotCoefficients> windows;
    if (operands.windows != nullptr) {
      windows.emplace(nest, box, slots, *operands.windows, Formula::windowed_gradient);
      of_slots.lower = windows->view().window.lower;
      of_slots.upper = windows->view().window.upper;
    } else if (operands.step != nullptr) {
      const StepCoefficients forward(nest, box, slots, *operands.step);
      // Kernels of activations have no elements of 16 bits, but for those of outputs.
      const bool may_be_half = operands.step->takes_output;
      visit_floating(may_be_half ? type_of_kernels(operands.inputs) : DType::float32, [&](auto element) {
        using Element = decltype(element);
        if constexpr (sizeof(Element) <= sizeof(float)) {
          visit_activated<Element>(traversal, operands, forward.view(),
                                   [&](const Block<Element, 2>& block) { add_block(traversal, block, of_slots, to); });
        }
      });
      return;
    }
    visit_floating(type_of_kernels(operands.inputs), [&](auto element) {
      using Element = decltype(element);
      if constexpr (sizeof(Element) <= sizeof(float)) {
        operands.is_gradient() ? add_regions<Element, 2>(traversal, operands, of_slots, to)
                               : add_regions<Element, 1>(traversal, operands, of_slots, to);
      }
    });
  };
  if (slots.is_identity()) {
    add(centres.empty() ? nullptr : centres.data(), columns());
    return;
  }
  // Their memory is kept from call to call.
  thread_local QuickSums of_slots;
  thread_local std::vector<double> slot_centres;
  of_slots.reset(slots.slots(), sums_);
  if (!centres.empty()) {
    slot_centres.assign(static_cast<std::size_t>(slots.slots() + quick_padding), 0.0);
    for (Index slot = 0; slot < slots.slots(); ++slot) {
      slot_centres[static_cast<std::size_t>(slot)] = centres[static_cast<std::size_t>(slots.channel(slot))];
    }
  }
  const QuickColumns columns = of_slots.columns();
  add(centres.empty() ? nullptr : slot_centres.data(), columns);
  for (Index slot = 0; slot < slots.slots(); ++slot) add_slot(slots.channel(slot), columns, slot);
}

void QuickSums::merge(QuickSums& other) {
  const QuickColumns from = other.columns();
  const QuickColumns to = columns();
  for (std::size_t s = 0; s < sums_; ++s) {
    double* const high = to.high[s];
    double* const low = to.low[s];
    for (Index channel = 0; channel < channels_; ++channel) {
      add_to_pair(from.high[s][channel], high[channel], low[channel]);
      low[channel] += from.low[s][channel];
    }
  }
}

}  // namespace exactnorm
