// Ranks whose messages differ in length, which MPI reports as an error, over a communicator that returns errors as
// mpi4py's do. They are to be ended with a message of that; the first rank, which cannot hold what it receives, says
// so where it goes on.
#include <mpi.h>

#include <cstdint>
#include <cstdio>
#include <vector>

#include "exactnorm/mpi.h"

int main() {
  const exactnorm::mpi::Environment environment;
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  const auto ranks = exactnorm::mpi::world();
  const std::vector<std::int64_t> numbers(ranks->rank() == 0 ? 1 : 2, 1);
  const std::vector<std::int64_t> totals = ranks->start_sum(numbers)->wait();
  if (ranks->rank() == 0) {
    std::printf("went on with %ld\n", static_cast<long>(totals[0]));
    std::fflush(stdout);
  }
  static_cast<void>(ranks->gather(""));
}
