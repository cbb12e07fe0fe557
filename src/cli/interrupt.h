#pragma once

namespace exactnorm::cli {

/// Thrown, rather than dying at once, so that destructors remove temporary files.
struct Interrupted {
  int signal = 0;
};

/// From here on SIGINT, SIGTERM and SIGHUP are remembered instead of ending the process; a second one does.
/// Signals that were ignored stay so.
void watch_for_interrupts();

/// Throws Interrupted if there was one.
void throw_if_interrupted();

/// Ends the process by the signal itself, which is what shells and make look for.
[[noreturn]] void die_of(const Interrupted& interrupted);

}  // namespace exactnorm::cli
