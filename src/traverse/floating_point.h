#pragma once

#include <cfenv>

namespace exactnorm {

/// While it lives, the calling thread computes in the default floating-point environment: rounding to nearest,
/// subnormal numbers kept (no FTZ, no DAZ), no traps. The destructor restores what was there, exception flags included.
///
/// Every public function that computes has one, and so has every thread of a parallel loop: each thread has an
/// environment of its own, and results must be a function of the data. Costs a few cycles where the environment is the
/// default one.
class DefaultFloatingPoint {
 public:
  DefaultFloatingPoint() noexcept;
  ~DefaultFloatingPoint();
  DefaultFloatingPoint(const DefaultFloatingPoint&) = delete;
  DefaultFloatingPoint& operator=(const DefaultFloatingPoint&) = delete;

 private:
  std::fenv_t before_;
  bool changed_ = false;
};

}  // namespace exactnorm
