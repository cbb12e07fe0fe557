# Flags that every target of this project shares.
add_library(exactnorm_flags INTERFACE)
# Contracting a * b + c into one rounding would give other bits on targets with FMA than without.
target_compile_options(exactnorm_flags INTERFACE -ffp-contract=off -fno-math-errno)
target_compile_options(exactnorm_flags INTERFACE -Wall -Wextra -Wconversion -Wshadow)
if(EXACTNORM_WARNINGS_AS_ERRORS)
  target_compile_options(exactnorm_flags INTERFACE -Werror)
endif()
