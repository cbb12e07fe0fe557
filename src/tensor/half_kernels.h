#pragma once

#include "exactnorm/tensor.h"

// Conversions between float32 and the floating types of 16 bits, for tensors of several types: the bits of
// tensor/conversions.h on all processors, by the vector code of simd/elements-inl.h.

namespace exactnorm {

/// `to` does not overlap `from`. Elements are rounded to nearest, ties to even.
void promote(const bfloat16* from, Index count, float* to);
void promote(const float16* from, Index count, float* to);

void demote(const float* from, Index count, bfloat16* to);
void demote(const float* from, Index count, float16* to);

}  // namespace exactnorm
