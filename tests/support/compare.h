#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "exactnorm/error.h"
#include "exactnorm/info.h"
#include "exactnorm/statistics.h"

namespace exactnorm::testing {

/// Bit for bit, so that 0 and -0 differ and a NaN is itself.
inline ::testing::AssertionResult same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) {
    return ::testing::AssertionFailure() << "sizes " << a.size() << " and " << b.size() << " differ";
  }
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<std::uint64_t>(a[i]) != std::bit_cast<std::uint64_t>(b[i])) {
      return ::testing::AssertionFailure() << std::hexfloat << "element " << i << " is " << a[i] << " and " << b[i];
    }
  }
  return ::testing::AssertionSuccess();
}

/// The same where NaN is NaN, as the library promises: sign and payload are the compiler's and the processor's.
inline bool same_numbers(const std::vector<double>& a, const std::vector<double>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](double p, double q) {
    return std::isnan(p) ? std::isnan(q) : std::bit_cast<std::uint64_t>(p) == std::bit_cast<std::uint64_t>(q);
  });
}

inline ::testing::AssertionResult same_bits(const Statistics& a, const Statistics& b) {
  if (a.epsilon != b.epsilon || a.epsilon_placement != b.epsilon_placement) {
    return ::testing::AssertionFailure() << "epsilons " << a.epsilon << " and " << b.epsilon
                                         << " or their places differ";
  }
  if (a.count != b.count) {
    return ::testing::AssertionFailure() << "counts " << a.count << " and " << b.count << " differ";
  }
  for (const auto member :
       {&Statistics::mean, &Statistics::mean_residual, &Statistics::variance, &Statistics::inverse_deviation}) {
    if (auto result = same_bits(a.*member, b.*member); !result) return result;
  }
  return ::testing::AssertionSuccess();
}

/// The message of the Error that `action` throws, or "no error".
inline std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

/// Back to the best instruction set at the end of a test, whatever happened in it.
class TargetRestorer {
 public:
  TargetRestorer() = default;
  TargetRestorer(const TargetRestorer&) = delete;
  TargetRestorer& operator=(const TargetRestorer&) = delete;
  ~TargetRestorer() { set_target(target_); }

 private:
  std::string target_ = active_target();
};

/// Calls check() with each target that the processor supports.
template <typename Check>
void on_every_target(const Check& check) {
  const TargetRestorer restorer;
  for (const std::string& target : supported_targets()) {
    SCOPED_TRACE(target);
    set_target(target);
    check();
  }
}

}  // namespace exactnorm::testing
