#pragma once

#include "exactnorm/tensor.h"

namespace exactnorm {

/// Bytes of the largest cache that a core of this machine shares in; a guess where the system does not tell.
[[nodiscard]] Index last_level_cache_size() noexcept;

}  // namespace exactnorm
