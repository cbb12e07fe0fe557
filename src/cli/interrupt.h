#pragma once

namespace exactnorm::cli {

/// From here on, signals that end the process remove its temporary files first: what a user, a batch system or mpirun
/// sends, a closed pipe, a limit of time. The process still dies of the signal, as shells and make expect. A write
/// beyond a limit on file sizes becomes an error of the write instead. Signals that are ignored, or that somebody else
/// handles, stay so.
void watch_for_signals();

}  // namespace exactnorm::cli
