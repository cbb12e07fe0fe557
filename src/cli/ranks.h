#pragma once

#include <string>

#include "exactnorm/distributed.h"

namespace exactnorm::cli {

/// The processes that mpirun or the like started together, which share the work; this one alone where it was started by
/// itself. Starts MPI at the first call. Throws Error where several were started and this build has no MPI, or another
/// one than the launcher.
[[nodiscard]] Communicator& ranks();

/// How many processes the launcher says it started; 1 without a launcher.
[[nodiscard]] int launched_processes();

/// Whether a launcher of MPI started this process.
[[nodiscard]] bool is_launched();

/// Ends all processes, where this one cannot go on and cannot tell the others.
[[noreturn]] void abort_ranks(int exit_status);

/// The MPI that this was built with, or "none".
[[nodiscard]] std::string mpi_version();

}  // namespace exactnorm::cli
