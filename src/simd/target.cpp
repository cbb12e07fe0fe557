#include "simd/target.h"

#include <hwy/highway.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "exactnorm/error.h"
#include "exactnorm/info.h"
#include "exactnorm/version.h"

namespace exactnorm {

namespace {

std::vector<std::string> names_of(std::int64_t targets) {
  std::vector<std::string> names;
  for (; targets != 0; targets &= targets - 1) names.emplace_back(hwy::TargetName(targets & -targets));
  return names;
}

std::int64_t supported_mask() { return hwy::SupportedTargets() & HWY_TARGETS; }

// A lower bit is a better target, as Highway numbers them.
std::int64_t best(std::int64_t targets) { return targets & -targets; }

// `argument` is where the name came from.
std::int64_t mask_of(const std::string& argument, std::string_view name) {
  const std::int64_t supported = supported_mask();
  if (name.empty()) return best(supported);
  std::string known;
  for (std::int64_t rest = supported; rest != 0; rest &= rest - 1) {
    const char* candidate = hwy::TargetName(best(rest));
    if (name == candidate) return best(rest);
    known += (known.empty() ? "" : ", ") + std::string(candidate);
  }
  throw Error(argument, "is \"" + std::string(name) + "\"; expected a target that this processor supports: " + known);
}

std::int64_t initial_mask() {
  const char* name = std::getenv("EXACTNORM_TARGET");
  return mask_of("EXACTNORM_TARGET", name == nullptr ? "" : name);
}

std::atomic<std::int64_t>& chosen_mask() {
  static std::atomic<std::int64_t> mask{initial_mask()};
  return mask;
}

}  // namespace

std::size_t active_target_index() {
  // Where the compiler's flags leave one target only, the tables have one entry.
  if constexpr ((HWY_TARGETS & (HWY_TARGETS - 1)) == 0) return 0;
  hwy::ChosenTarget chosen;
  chosen.Update(chosen_mask().load(std::memory_order_relaxed));
  return chosen.GetIndex();
}

#define EXACTNORM_TEXT_OF(value) #value
#define EXACTNORM_DOTTED(major, minor, patch) \
  EXACTNORM_TEXT_OF(major) "." EXACTNORM_TEXT_OF(minor) "." EXACTNORM_TEXT_OF(patch)

std::string_view version() noexcept {
  return EXACTNORM_DOTTED(EXACTNORM_VERSION_MAJOR, EXACTNORM_VERSION_MINOR, EXACTNORM_VERSION_PATCH);
}

std::vector<std::string> compiled_targets() { return names_of(HWY_TARGETS); }

std::vector<std::string> supported_targets() { return names_of(supported_mask()); }

std::string active_target() { return hwy::TargetName(chosen_mask().load()); }

void set_target(std::string_view name) { chosen_mask().store(mask_of("name", name)); }

}  // namespace exactnorm
