#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "exactnorm/export.h"

namespace exactnorm {

/// The version of the library that runs, "0.1.0" for example.
[[nodiscard]] EXACTNORM_EXPORT std::string_view version() noexcept;

/// Instruction sets that kernels were compiled for, best first, by Highway's names ("AVX3", "AVX2", ...).
[[nodiscard]] EXACTNORM_EXPORT std::vector<std::string> compiled_targets();
/// Those of them that this processor has.
[[nodiscard]] EXACTNORM_EXPORT std::vector<std::string> supported_targets();
/// The one in use: the best supported one, or what the environment variable EXACTNORM_TARGET or
/// `set_target` says. Results are the same bits with each.
[[nodiscard]] EXACTNORM_EXPORT std::string active_target();
/// Throws Error when the target is not among the supported ones. Not to be called while another thread
/// is inside the library. An empty name returns to the best supported one.
EXACTNORM_EXPORT void set_target(std::string_view name);

/// Threads that `Options::threads == 0` stands for.
[[nodiscard]] EXACTNORM_EXPORT int default_threads() noexcept;

}  // namespace exactnorm
