#include "reduce/guarded_sums.h"

#include "simd/target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "reduce/guarded_sums.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "reduce/guarded_sums-inl.h"

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {

bool RunsSquares(const Runs& x, Index runs, Index count, Index ahead, int exponent, Reach reach, RunSums& sums) {
  return reach == Reach::near ? SumRuns<Reach::near, true>(x, x, runs, count, ahead, exponent, exponent, sums)
                              : SumRuns<Reach::far, true>(x, x, runs, count, ahead, exponent, exponent, sums);
}
bool RunsProducts(const Runs& dy, const Runs& x, Index runs, Index count, Index ahead, int dy_exponent, int x_exponent,
                  Reach reach, RunSums& sums) {
  return reach == Reach::near ? SumRuns<Reach::near, false>(dy, x, runs, count, ahead, dy_exponent, x_exponent, sums)
                              : SumRuns<Reach::far, false>(dy, x, runs, count, ahead, dy_exponent, x_exponent, sums);
}
bool LanesSquares(const Tile<float>& x, Reach reach, const LaneSums& sums) {
  return reach == Reach::near ? SumLanes<Reach::near, true>(x, x, sums) : SumLanes<Reach::far, true>(x, x, sums);
}
bool LanesProducts(const Tile<float>& dy, const Tile<float>& x, Reach reach, const LaneSums& sums) {
  return reach == Reach::near ? SumLanes<Reach::near, false>(dy, x, sums) : SumLanes<Reach::far, false>(dy, x, sums);
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace exactnorm {

HWY_EXPORT(RunsSquares);
HWY_EXPORT(RunsProducts);
HWY_EXPORT(LanesSquares);
HWY_EXPORT(LanesProducts);

bool sum_runs(const Runs& x, Index runs, Index count, Index ahead, int exponent, Reach reach, RunSums& sums) {
  return HWY_DISPATCH_TABLE(RunsSquares)[active_target_index()](x, runs, count, ahead, exponent, reach, sums);
}
bool sum_runs(const Runs& dy, const Runs& x, Index runs, Index count, Index ahead, int dy_exponent, int x_exponent,
              Reach reach, RunSums& sums) {
  return HWY_DISPATCH_TABLE(RunsProducts)[active_target_index()](dy, x, runs, count, ahead, dy_exponent, x_exponent,
                                                                 reach, sums);
}
bool sum_lanes(const Tile<float>& x, Reach reach, const LaneSums& sums) {
  return HWY_DISPATCH_TABLE(LanesSquares)[active_target_index()](x, reach, sums);
}
bool sum_lanes(const Tile<float>& dy, const Tile<float>& x, Reach reach, const LaneSums& sums) {
  return HWY_DISPATCH_TABLE(LanesProducts)[active_target_index()](dy, x, reach, sums);
}

}  // namespace exactnorm
#endif  // HWY_ONCE
