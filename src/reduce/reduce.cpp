#include "reduce/reduce.h"

#include <algorithm>

#include "reduce/across_channels.h"
#include "reduce/along_channels.h"
#include "tensor/element_type.h"
#include "traverse/short_runs.h"

namespace exactnorm {

namespace {

template <typename T>
void reduce_as(const LoopNest& nest, const Box& box, std::span<const TensorView> operands, ChannelSums& sums) {
  const auto run = [&](auto reducer) { reducer.run(); };
  if (sums.kind() == PartialSums::Kind::moments) {
    nest.channels_innermost() ? run(AcrossChannels<T, 1>(nest, box, operands, sums))
                              : run(AlongChannels<T, 1>(nest, box, operands, sums));
  } else {
    nest.channels_innermost() ? run(AcrossChannels<T, 2>(nest, box, operands, sums))
                              : run(AlongChannels<T, 2>(nest, box, operands, sums));
  }
}

}  // namespace

PartialSums::Range range_for(std::span<const TensorView> operands) noexcept {
  const bool fits =
      std::all_of(operands.begin(), operands.end(), [](const TensorView& x) { return dtype_fits_float32(x.dtype); });
  return fits ? PartialSums::Range::single : PartialSums::Range::extended;
}

Index most_channels(const LoopNest& nest, std::span<const TensorView> operands) noexcept {
  // Each has a tile to itself: together they have to share a cache.
  constexpr Index gathered = 64;
  constexpr Index in_place = 1024;
  const Loop& inner = nest.loops.back();
  if (has_short_runs(nest)) return std::max(in_place / inner.size, gathered);
  bool direct = inner.size >= shortest_run;
  for (std::size_t j = 0; j < operands.size(); ++j) {
    direct = direct && operands[j].dtype == DType::float32 && inner.strides[j] == 1;
  }
  return direct ? in_place : gathered;
}

void reduce_box(const LoopNest& nest, const Box& box, std::span<const TensorView> operands, ChannelSums& sums) {
  if (has_short_runs(nest) && box.back().size == nest.loops.back().size) {
    // Its memory is kept from call to call.
    thread_local ChannelSums by_place(0, PartialSums::Kind::moments, PartialSums::Range::single);
    const Index places = nest.loops.back().size;
    by_place.reset(sums.channels() * places, sums.kind(), range_for(operands));
    reduce_box(rows_of_places(nest), rows_of_places(nest, box), operands, by_place);
    // Sums are exact, so that those of the places add up to the channel's.
    sums.merge(by_place, places);
  } else if (range_for(operands) == PartialSums::Range::single) {
    reduce_as<float>(nest, box, operands, sums);
  } else {
    reduce_as<double>(nest, box, operands, sums);
  }
}

}  // namespace exactnorm
