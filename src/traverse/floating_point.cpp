#include "traverse/floating_point.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace exactnorm {

namespace {

// Whether the environment is known to be the default one. Only x86 has a cheap answer.
bool is_default() noexcept {
#if defined(__SSE2__)
  constexpr unsigned exception_flags = 0x3f;
  constexpr unsigned masked_exceptions_and_nothing_else = 0x1f80;
  return (_mm_getcsr() & ~exception_flags) == masked_exceptions_and_nothing_else;
#else
  return false;
#endif
}

}  // namespace

// Neither is inline: a compiler may move arithmetic past a change of the environment, but not past these calls.
DefaultFloatingPoint::DefaultFloatingPoint() noexcept {
  if (is_default()) return;
  changed_ = std::fegetenv(&before_) == 0 && std::fesetenv(FE_DFL_ENV) == 0;
}

DefaultFloatingPoint::~DefaultFloatingPoint() {
  if (changed_) std::fesetenv(&before_);
}

}  // namespace exactnorm
