#pragma once

#include <exception>
#include <optional>

#include "exactnorm/distributed.h"
#include "exactnorm/error.h"

namespace exactnorm {

/// Any exception as an Error.
[[nodiscard]] Error to_error(const std::exception& exception);

/// Called by all ranks: throws the first rank's failure on all of them, if there is one.
void throw_first_failure(Communicator& communicator, const std::optional<Error>& own);

}  // namespace exactnorm
