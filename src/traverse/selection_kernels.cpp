#include "traverse/selection_kernels.h"

#include "simd/target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "traverse/selection_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D>
HWY_INLINE hn::Mask<D> SelectedLanes(D d, const std::uint8_t* bytes) {
  const auto of_bytes = hn::LoadU(hn::Rebind<std::uint8_t, D>(), bytes);
  const hn::RebindToUnsigned<D> of_lanes;
  if constexpr (sizeof(hn::TFromD<D>) == 8) {
    const auto wider = hn::PromoteTo(hn::Rebind<std::uint32_t, D>(), of_bytes);
    return hn::RebindMask(d, hn::Ne(hn::PromoteTo(of_lanes, wider), hn::Zero(of_lanes)));
  } else {
    return hn::RebindMask(d, hn::Ne(hn::PromoteTo(of_lanes, of_bytes), hn::Zero(of_lanes)));
  }
}

template <SelectionWay kWay, typename Number>
HWY_INLINE Index CopyBy(const std::uint8_t* bytes, const Number* from, Index count, Number* to) {
  const hn::CappedTag<Number, 64 / sizeof(Number)> d;
  const auto width = static_cast<Index>(hn::Lanes(d));
  Index selected = 0;
  Index i = 0;
  for (; i + width <= count; i += width) {
    const auto lanes = SelectedLanes(d, bytes + i);
    const auto values = hn::LoadU(d, from + i);
    // A whole vector is written: over elements that are read already, or where there is room. CompressStore, into
    // memory, takes ten times as long on Zen 4.
    if constexpr (kWay == SelectionWay::compact) hn::StoreU(hn::Compress(values, lanes), d, to + selected);
    if constexpr (kWay == SelectionWay::clear) hn::StoreU(hn::IfThenElseZero(lanes, values), d, to + i);
    if constexpr (kWay == SelectionWay::overwrite) hn::BlendedStore(values, lanes, d, to + i);
    if constexpr (kWay == SelectionWay::overwrite_others) hn::BlendedStore(values, hn::Not(lanes), d, to + i);
    selected += static_cast<Index>(hn::CountTrue(d, lanes));
  }
  for (; i < count; ++i) {
    const bool is_selected = bytes[i] != 0;
    if constexpr (kWay == SelectionWay::compact) to[selected] = from[i];
    if constexpr (kWay == SelectionWay::clear) to[i] = is_selected ? from[i] : Number{0};
    if ((kWay == SelectionWay::overwrite && is_selected) || (kWay == SelectionWay::overwrite_others && !is_selected)) {
      to[i] = from[i];
    }
    selected += is_selected ? 1 : 0;
  }
  return selected;
}

template <typename Number>
HWY_INLINE Index Copy(SelectionWay way, const std::uint8_t* bytes, const Number* from, Index count, Number* to) {
  switch (way) {
    case SelectionWay::compact:
      return CopyBy<SelectionWay::compact>(bytes, from, count, to);
    case SelectionWay::clear:
      return CopyBy<SelectionWay::clear>(bytes, from, count, to);
    case SelectionWay::overwrite:
      return CopyBy<SelectionWay::overwrite>(bytes, from, count, to);
    case SelectionWay::overwrite_others:
      return CopyBy<SelectionWay::overwrite_others>(bytes, from, count, to);
  }
  return 0;
}

Index CopyFloat(SelectionWay way, const std::uint8_t* bytes, const float* from, Index count, float* to) {
  return Copy(way, bytes, from, count, to);
}
Index CopyDouble(SelectionWay way, const std::uint8_t* bytes, const double* from, Index count, double* to) {
  return Copy(way, bytes, from, count, to);
}
Index CopyHalf(SelectionWay way, const std::uint8_t* bytes, const std::uint16_t* from, Index count, std::uint16_t* to) {
  return Copy(way, bytes, from, count, to);
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace exactnorm {

HWY_EXPORT(CopyFloat);
HWY_EXPORT(CopyDouble);
HWY_EXPORT(CopyHalf);

Index copy_selected(SelectionWay way, const std::uint8_t* bytes, const float* from, Index count, float* to) {
  return HWY_DISPATCH_TABLE(CopyFloat)[active_target_index()](way, bytes, from, count, to);
}
Index copy_selected(SelectionWay way, const std::uint8_t* bytes, const double* from, Index count, double* to) {
  return HWY_DISPATCH_TABLE(CopyDouble)[active_target_index()](way, bytes, from, count, to);
}
Index copy_selected(SelectionWay way, const std::uint8_t* bytes, const bfloat16* from, Index count, bfloat16* to) {
  return HWY_DISPATCH_TABLE(CopyHalf)[active_target_index()](way, bytes, &from->bits, count, &to->bits);
}
Index copy_selected(SelectionWay way, const std::uint8_t* bytes, const float16* from, Index count, float16* to) {
  return HWY_DISPATCH_TABLE(CopyHalf)[active_target_index()](way, bytes, &from->bits, count, &to->bits);
}

}  // namespace exactnorm
#endif  // HWY_ONCE
