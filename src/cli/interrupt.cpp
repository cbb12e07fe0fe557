#include "interrupt.h"

#include <pthread.h>
#include <unistd.h>

#include <csignal>

#include "progress.h"
#include "temporary_files.h"

namespace exactnorm::cli {
namespace {

// Runs in any thread, at any moment: nothing here allocates, locks or prints through a stream.
extern "C" void end_by_signal(int signal) {
  if (npy::postpone_signal(signal)) return;
  npy::remove_temporary_files();
  clear_progress_line();
  std::signal(signal, SIG_DFL);
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, signal);
  ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  ::raise(signal);
  ::_exit(128 + signal);
}

bool has_default_action(int signal) {
  struct sigaction action {};
  return ::sigaction(signal, nullptr, &action) == 0 && (action.sa_flags & SA_SIGINFO) == 0 &&
         action.sa_handler == SIG_DFL;
}

}  // namespace

void watch_for_signals() {
  for (const int signal :
       {SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGALRM, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU, SIGVTALRM, SIGPROF, SIGPOLL}) {
    if (!has_default_action(signal)) continue;
    struct sigaction action {};
    action.sa_handler = end_by_signal;
    action.sa_flags = SA_RESTART;
    ::sigaction(signal, &action, nullptr);
  }
  if (has_default_action(SIGXFSZ)) std::signal(SIGXFSZ, SIG_IGN);
}

}  // namespace exactnorm::cli
