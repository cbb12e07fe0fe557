#include <array>
#include <charconv>
#include <cstdlib>
#include <cstring>

#include "ranks.h"

namespace exactnorm::cli {

// What the launchers of Open MPI, of MPICH and its relatives, and of Slurm tell the processes that they start.
bool is_launched() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "PMIX_RANK"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

int launched_processes() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"}) {
    const char* text = std::getenv(name);
    int size = 0;
    if (text != nullptr && std::from_chars(text, text + std::strlen(text), size).ec == std::errc() && size > 0) {
      return size;
    }
  }
  return 1;
}

}  // namespace exactnorm::cli
