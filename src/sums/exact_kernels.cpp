#include "sums/exact_kernels.h"

#include <limits>

#include "simd/target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "sums/exact_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "sums/exact_kernels-inl.h"

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {

void ScanFloat(const Tile<float>& tile, const Lanes<std::int32_t>& limits, Extremes<float>& extremes) {
  Scan(tile, limits, extremes);
}
void ScanDouble(const Tile<double>& tile, const Lanes<std::int64_t>& limits, Extremes<double>& extremes) {
  Scan(tile, limits, extremes);
}
void SquaresFloat(const Tile<float>& x, const Window<float>& window, TileSums<float>& sums) {
  SumTile<true>(x, window, x, window, sums);
}
void SquaresDouble(const Tile<double>& x, const Window<double>& window, TileSums<double>& sums) {
  SumTile<true>(x, window, x, window, sums);
}
void ProductsFloat(const Tile<float>& first, const Window<float>& first_window, const Tile<float>& second,
                   const Window<float>& second_window, TileSums<float>& sums) {
  SumTile<false>(first, first_window, second, second_window, sums);
}
void ProductsDouble(const Tile<double>& first, const Window<double>& first_window, const Tile<double>& second,
                    const Window<double>& second_window, TileSums<double>& sums) {
  SumTile<false>(first, first_window, second, second_window, sums);
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace exactnorm {

HWY_EXPORT(ScanFloat);
HWY_EXPORT(ScanDouble);
HWY_EXPORT(SquaresFloat);
HWY_EXPORT(SquaresDouble);
HWY_EXPORT(ProductsFloat);
HWY_EXPORT(ProductsDouble);

void scan_tile(const Tile<float>& tile, const Lanes<std::int32_t>& limits, Extremes<float>& extremes) {
  HWY_DISPATCH_TABLE(ScanFloat)[active_target_index()](tile, limits, extremes);
}
void scan_tile(const Tile<double>& tile, const Lanes<std::int64_t>& limits, Extremes<double>& extremes) {
  HWY_DISPATCH_TABLE(ScanDouble)[active_target_index()](tile, limits, extremes);
}
void sum_squares(const Tile<float>& x, const Window<float>& window, TileSums<float>& sums) {
  HWY_DISPATCH_TABLE(SquaresFloat)[active_target_index()](x, window, sums);
}
void sum_squares(const Tile<double>& x, const Window<double>& window, TileSums<double>& sums) {
  HWY_DISPATCH_TABLE(SquaresDouble)[active_target_index()](x, window, sums);
}
void sum_products(const Tile<float>& first, const Window<float>& first_window, const Tile<float>& second,
                  const Window<float>& second_window, TileSums<float>& sums) {
  HWY_DISPATCH_TABLE(ProductsFloat)[active_target_index()](first, first_window, second, second_window, sums);
}
void sum_products(const Tile<double>& first, const Window<double>& first_window, const Tile<double>& second,
                  const Window<double>& second_window, TileSums<double>& sums) {
  HWY_DISPATCH_TABLE(ProductsDouble)[active_target_index()](first, first_window, second, second_window, sums);
}

}  // namespace exactnorm
#endif  // HWY_ONCE
