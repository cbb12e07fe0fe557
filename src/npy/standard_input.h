#pragma once

namespace exactnorm::npy {

/// A descriptor of a regular file that holds what standard input has to say: standard input itself where it is a
/// regular file read from its start, or else an unnamed file in the directory for temporary files (TMPDIR, /tmp) that
/// it is copied to. To be closed by the caller. Throws Error, with "standard input" as its argument, when it is a
/// terminal, cannot be read, or there is no room for the copy.
[[nodiscard]] int open_standard_input();

}  // namespace exactnorm::npy
