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
template <bool kGradients, bool kCentred, typename Element>
HWY_INLINE void AddBlock(QuickWay way, const QuickBlock<Element>& block, const double* centres,
                         const QuickColumns& to) {
  switch (way) {
    case QuickWay::runs:
      return AddRuns<kGradients, kCentred>(block, centres, to);
    case QuickWay::short_runs:
      return AddShortRuns<kGradients, kCentred>(block, centres, to);
    case QuickWay::lanes:
      return AddLanes<kGradients, kCentred>(block, centres, to);
  }
}

template <typename Element>
HWY_INLINE void Add(QuickWay way, const QuickBlock<Element>& block, const double* centres, const QuickColumns& to) {
  if (block.dy != nullptr) {
    AddBlock<true, true>(way, block, centres, to);
  } else if (centres != nullptr) {
    AddBlock<false, true>(way, block, centres, to);
  } else {
    AddBlock<false, false>(way, block, centres, to);
  }
}

void AddFloat(QuickWay way, const QuickBlock<float>& block, const double* centres, const QuickColumns& to) {
  Add(way, block, centres, to);
}
void AddBfloat16(QuickWay way, const QuickBlock<bfloat16>& block, const double* centres, const QuickColumns& to) {
  Add(way, block, centres, to);
}
void AddFloat16(QuickWay way, const QuickBlock<float16>& block, const double* centres, const QuickColumns& to) {
  Add(way, block, centres, to);
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace exactnorm {

HWY_EXPORT(AddFloat);
HWY_EXPORT(AddBfloat16);
HWY_EXPORT(AddFloat16);

template <>
void add_quick(QuickWay way, const QuickBlock<float>& block, const double* centres, const QuickColumns& to) {
  HWY_DISPATCH_TABLE(AddFloat)[active_target_index()](way, block, centres, to);
}
template <>
void add_quick(QuickWay way, const QuickBlock<bfloat16>& block, const double* centres, const QuickColumns& to) {
  HWY_DISPATCH_TABLE(AddBfloat16)[active_target_index()](way, block, centres, to);
}
template <>
void add_quick(QuickWay way, const QuickBlock<float16>& block, const double* centres, const QuickColumns& to) {
  HWY_DISPATCH_TABLE(AddFloat16)[active_target_index()](way, block, centres, to);
}

}  // namespace exactnorm
#endif  // HWY_ONCE
