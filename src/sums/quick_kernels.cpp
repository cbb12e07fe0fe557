#include "sums/quick_kernels.h"

#include "simd/target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "sums/quick_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "sums/quick_lanes-inl.h"
#include "sums/quick_runs-inl.h"
#include "sums/quick_short_runs-inl.h"

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {

// Each way is a function of its own: compilers, with sanitizers above all, take far longer for all of them in one.
template <QuickKind kKind, typename Element>
HWY_INLINE void AddBlock(QuickWay way, const QuickBlock<Element>& block, const QuickSlots& slots,
                         const QuickColumns& to) {
  switch (way) {
    case QuickWay::runs:
      return AddRuns<kKind>(block, slots, to);
    case QuickWay::short_runs:
      return AddShortRuns<kKind>(block, slots, to);
    case QuickWay::lanes:
      return AddLanes<kKind>(block, slots, to);
  }
}

template <typename Element>
HWY_INLINE void Add(QuickWay way, const QuickBlock<Element>& block, const QuickSlots& slots, const QuickColumns& to) {
  if (slots.centres == nullptr) {
    AddBlock<QuickKind::moments>(way, block, slots, to);
  } else if (block.dy == nullptr) {
    AddBlock<QuickKind::centred_moments>(way, block, slots, to);
  } else if (slots.lower == nullptr) {
    AddBlock<QuickKind::gradients>(way, block, slots, to);
  } else {
    AddBlock<QuickKind::windowed_gradients>(way, block, slots, to);
  }
}

void AddFloat(QuickWay way, const QuickBlock<float>& block, const QuickSlots& slots, const QuickColumns& to) {
  Add(way, block, slots, to);
}
void AddBfloat16(QuickWay way, const QuickBlock<bfloat16>& block, const QuickSlots& slots, const QuickColumns& to) {
  Add(way, block, slots, to);
}
void AddFloat16(QuickWay way, const QuickBlock<float16>& block, const QuickSlots& slots, const QuickColumns& to) {
  Add(way, block, slots, to);
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace exactnorm {

HWY_EXPORT(AddFloat);
HWY_EXPORT(AddBfloat16);
HWY_EXPORT(AddFloat16);

template <>
void add_quick(QuickWay way, const QuickBlock<float>& block, const QuickSlots& slots, const QuickColumns& to) {
  HWY_DISPATCH_TABLE(AddFloat)[active_target_index()](way, block, slots, to);
}
template <>
void add_quick(QuickWay way, const QuickBlock<bfloat16>& block, const QuickSlots& slots, const QuickColumns& to) {
  HWY_DISPATCH_TABLE(AddBfloat16)[active_target_index()](way, block, slots, to);
}
template <>
void add_quick(QuickWay way, const QuickBlock<float16>& block, const QuickSlots& slots, const QuickColumns& to) {
  HWY_DISPATCH_TABLE(AddFloat16)[active_target_index()](way, block, slots, to);
}

}  // namespace exactnorm
#endif  // HWY_ONCE
