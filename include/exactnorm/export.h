#pragma once

/// Marks what a shared library exports: the declarations of the public headers, and nothing else.
#if defined(__GNUC__)
#define EXACTNORM_EXPORT __attribute__((visibility("default")))
#else
#define EXACTNORM_EXPORT
#endif
