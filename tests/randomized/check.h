#pragma once

#include <map>
#include <string>
#include <vector>

#include "randomized/case.h"
#include "randomized/run.h"

namespace exactnorm::testing {

/// The largest error met of each result, in units of its documented bound.
using WorstErrors = std::map<std::string, double>;

/// Compares the results of a case with the exact ones. Returns what is wrong, or an empty string; of large cases, a
/// sample of the channels and elements is looked at.
[[nodiscard]] std::string check(const Case& test, const Results& results, WorstErrors& worst);

}  // namespace exactnorm::testing
