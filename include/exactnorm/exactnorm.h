#pragma once

// Everything: batch normalization for CPUs whose results depend on the data alone.

#include "exactnorm/batch_norm.h"
#include "exactnorm/channels.h"
#include "exactnorm/distributed.h"
#include "exactnorm/error.h"
#include "exactnorm/export.h"
#include "exactnorm/info.h"
#include "exactnorm/layer.h"
#include "exactnorm/options.h"
#include "exactnorm/plan.h"
#include "exactnorm/renormalization.h"
#include "exactnorm/segments.h"
#include "exactnorm/statistics.h"
#include "exactnorm/sums.h"
#include "exactnorm/tensor.h"
#include "exactnorm/value_ranges.h"
#include "exactnorm/version.h"
#include "exactnorm/weights.h"
