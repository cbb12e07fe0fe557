#pragma once

/// The version of these headers, for the preprocessor. `exactnorm::version()` is that of the library that runs.
#define EXACTNORM_VERSION_MAJOR 0
#define EXACTNORM_VERSION_MINOR 1
#define EXACTNORM_VERSION_PATCH 0
/// Orders versions: 100 for 0.1.0, 10203 for 1.2.3.
#define EXACTNORM_VERSION (EXACTNORM_VERSION_MAJOR * 10000 + EXACTNORM_VERSION_MINOR * 100 + EXACTNORM_VERSION_PATCH)
