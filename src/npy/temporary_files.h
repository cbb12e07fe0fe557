#pragma once

#include <string>

// Hidden files, and the signals that end a process while it has some.

namespace exactnorm::npy {

/// While one lives, a signal that asks `postpone_signal` has to wait: it comes when the last one is destroyed. For
/// steps that must not be cut in two, a file and the note of its name for example.
class SignalDelay {
 public:
  SignalDelay() noexcept;
  ~SignalDelay();
  SignalDelay(const SignalDelay&) = delete;
  SignalDelay& operator=(const SignalDelay&) = delete;
};

/// For a signal handler that ends the process, before all else: whether the signal is to wait, so that the handler has
/// to return. If not, no SignalDelay begins from here on, in any thread.
[[nodiscard]] bool postpone_signal(int signal) noexcept;

/// Removes the files of all TemporaryNames. For a signal handler to which postpone_signal() has said no.
void remove_temporary_files() noexcept;

/// A name noted for remove_temporary_files(). Make it, and destroy it, under a SignalDelay that covers making or
/// renaming the file as well.
class TemporaryName {
 public:
  explicit TemporaryName(std::string path);
  ~TemporaryName();
  TemporaryName(const TemporaryName&) = delete;
  TemporaryName& operator=(const TemporaryName&) = delete;

  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  friend void remove_temporary_files() noexcept;

  std::string path_;
  TemporaryName* next_ = nullptr;
};

}  // namespace exactnorm::npy
