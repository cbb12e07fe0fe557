#pragma once

#include <cfenv>
#include <string>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace exactnorm::testing {

/// Floating-point environments that a program may have set before it calls the library.
enum class Environment { standard, flushing, upward, toward_zero };
#if defined(__SSE2__)
inline constexpr Environment environments[] = {Environment::standard, Environment::flushing, Environment::upward,
                                               Environment::toward_zero};
#else  // only x86 has a portable way to flush subnormal numbers
inline constexpr Environment environments[] = {Environment::standard, Environment::upward, Environment::toward_zero};
#endif

inline std::string name_of(Environment environment) {
  switch (environment) {
    case Environment::flushing:
      return "FTZ and DAZ";
    case Environment::upward:
      return "upward";
    case Environment::toward_zero:
      return "toward zero";
    case Environment::standard:
      break;
  }
  return "standard";
}

/// Sets the calling thread's environment, and restores the one before.
class ScopedEnvironment {
 public:
  explicit ScopedEnvironment(Environment environment) {
    std::fegetenv(&before_);
    if (environment == Environment::upward) std::fesetround(FE_UPWARD);
    if (environment == Environment::toward_zero) std::fesetround(FE_TOWARDZERO);
#if defined(__SSE2__)
    constexpr unsigned flush_to_zero_and_denormals_are_zero = 0x8040;
    if (environment == Environment::flushing) _mm_setcsr(_mm_getcsr() | flush_to_zero_and_denormals_are_zero);
#endif
  }
  ~ScopedEnvironment() { std::fesetenv(&before_); }
  ScopedEnvironment(const ScopedEnvironment&) = delete;
  ScopedEnvironment& operator=(const ScopedEnvironment&) = delete;

 private:
  std::fenv_t before_;
};

}  // namespace exactnorm::testing
