// ranks.h for builds with MPI.
#include <memory>
#include <string>

#include "exactnorm/error.h"
#include "exactnorm/mpi.h"
#include "ranks.h"

namespace exactnorm::cli {
namespace {

// Destroyed in the other order, when the process ends.
struct World {
  mpi::Environment environment;
  std::unique_ptr<Communicator> communicator = mpi::world();
};

}  // namespace

Communicator& ranks() {
  if (!is_launched()) return single_process();
  static World world;
  Communicator& communicator = *world.communicator;
  if (communicator.size() == 1 && launched_processes() > 1) {
    throw Error("mpirun", "started " + std::to_string(launched_processes()) +
                              " processes that do not find each other; expected the launcher of " + mpi::version());
  }
  return communicator;
}

void abort_ranks(int exit_status) { mpi::abort_all(exit_status); }

std::string mpi_version() { return mpi::version(); }

}  // namespace exactnorm::cli
