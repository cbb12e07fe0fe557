#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "arguments.h"
#include "exactnorm/distributed.h"
#include "exactnorm/options.h"
#include "file_blocks.h"

namespace exactnorm::cli {

/// What `normalize` is called with.
struct NormalizeArguments {
  std::string input;
  std::string output;
  std::string channel_axes;
  std::optional<std::string> gamma;
  std::optional<std::string> beta;
  std::optional<std::string> running_mean;
  std::optional<std::string> running_variance;
  std::optional<double> epsilon;
  std::optional<std::string> epsilon_placement;
  std::optional<std::string> statistics;
  std::optional<std::string> statistics_from;
  std::optional<std::string> dtype;
  std::string activation = "none";
  std::optional<double> slope;
  std::optional<std::string> mask;
  std::optional<std::string> masked;
  std::optional<std::string> weights;
  bool ignore_nan = false;
  int threads = 0;
  Index block_bytes = default_block_bytes;
};

/// The library's names of arguments, and the options that they come from.
extern const OptionNames normalize_option_names;

/// Declares the options, with their texts.
void add_normalize_options(CLI::App& app, NormalizeArguments& arguments);

/// Throws Error where arguments contradict each other, or name one file twice that has to be two.
void check_normalize_arguments(const NormalizeArguments& arguments, const Communicator& ranks);

}  // namespace exactnorm::cli
