#pragma once

// Everything: batch normalization for CPUs whose results depend on the data alone.

#include "exactnorm/addends.h"
#include "exactnorm/batch_norm.h"
#include "exactnorm/channels.h"
#include "exactnorm/communicator.h"
#include "exactnorm/dtype.h"
#include "exactnorm/error.h"
#include "exactnorm/export.h"
#include "exactnorm/info.h"
#include "exactnorm/layer.h"
#include "exactnorm/layout.h"
#include "exactnorm/options.h"
#include "exactnorm/partial_sums.h"
#include "exactnorm/running_statistics.h"
#include "exactnorm/statistics.h"
#include "exactnorm/sum_exchange.h"
#include "exactnorm/synchronized.h"
#include "exactnorm/tensor.h"
#include "exactnorm/value_ranges.h"
#include "exactnorm/version.h"
