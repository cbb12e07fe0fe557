// ranks.h for builds without MPI.
#include <cstdlib>
#include <string>

#include "exactnorm/error.h"
#include "ranks.h"

namespace exactnorm::cli {

Communicator& ranks() {
  if (launched_processes() > 1) {
    throw Error("mpirun",
                "started " + std::to_string(launched_processes()) +
                    " processes of a command that was built without MPI; expected one that was built with it");
  }
  return single_process();
}

void abort_ranks(int exit_status) { std::exit(exit_status); }

std::string mpi_version() { return "none"; }

}  // namespace exactnorm::cli
