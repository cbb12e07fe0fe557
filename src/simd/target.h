#pragma once

#include <cstddef>

namespace exactnorm {

/// Index of the active target in the tables that HWY_EXPORT makes. The choice is this library's own: it
/// leaves other users of Highway in the process alone.
[[nodiscard]] std::size_t active_target_index();

}  // namespace exactnorm
