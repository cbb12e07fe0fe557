#pragma once

#include "exactnorm/tensor.h"

// The vector code of conversions between float32 and the floating types of 16 bits: the bits of tensor/conversions.h on
// all processors. F16C serves float16 where there is AVX2. AVX-512's conversion to bfloat16 does not serve: it takes
// subnormal numbers for zeros.

namespace exactnorm {

/// `to` does not overlap `from`.
void promote(const bfloat16* from, Index count, float* to);
void promote(const float16* from, Index count, float* to);

/// Each element rounded to nearest, ties to even. `streamed`: past the caches, as Store::streamed is
/// (affine/apply_kernels.h).
void demote(const float* from, Index count, bfloat16* to, bool streamed);
void demote(const float* from, Index count, float16* to, bool streamed);

}  // namespace exactnorm
