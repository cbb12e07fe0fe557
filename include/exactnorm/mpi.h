#pragma once

#include <functional>
#include <memory>
#include <string>

#include "exactnorm/distributed.h"
#include "exactnorm/export.h"

// The component exactnorm::mpi, which is there where the library was built with MPI:
//
//   find_package(exactnorm COMPONENTS mpi)
//   target_link_libraries(program PRIVATE exactnorm::mpi)
//
// This header needs no header of MPI.

namespace exactnorm::mpi {

/// MPI for as long as the object lives. Does nothing where the program has started MPI itself.
class EXACTNORM_EXPORT Environment {
 public:
  Environment();
  ~Environment();
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  bool owns_ = false;
};

/// The ranks of a communicator of MPI, given as its Fortran handle: MPI_Comm_c2f(communicator), or mpi4py's
/// communicator.py2f(). It is duplicated, so that messages do not meet those of others. The object has to be destroyed
/// before MPI ends; creating and destroying it are calls of all ranks.
/// Throws Error for MPI_COMM_NULL, for an intercommunicator, for more than 65,536 ranks, and where MPI is not running.
///
/// `while_waiting`, if given, is called again and again while a rank waits for others. It may throw, which ends the
/// wait. MPI cannot cancel a call: a message that is given up so, or by destroying its PendingSum, keeps its memory
/// until the process ends. After a gather that was left before its second call, the object throws Error at every
/// further call, as the other ranks are elsewhere.
///
/// Errors of MPI itself, a rank that died for example, end the program: all ranks are aborted, whatever the error
/// handler of the given communicator (mpi4py sets MPI_ERRORS_RETURN).
[[nodiscard]] EXACTNORM_EXPORT std::unique_ptr<Communicator> communicator_of(int fortran_handle,
                                                                             std::function<void()> while_waiting = {});

/// communicator_of MPI_COMM_WORLD: all ranks.
[[nodiscard]] EXACTNORM_EXPORT std::unique_ptr<Communicator> world(std::function<void()> while_waiting = {});

/// MPI_Abort of all ranks: for a rank that cannot go on and cannot tell the others.
[[noreturn]] EXACTNORM_EXPORT void abort_all(int exit_status);

/// The name and version of the MPI library: "Open MPI v4.1.4", for example.
[[nodiscard]] EXACTNORM_EXPORT std::string version();

}  // namespace exactnorm::mpi
