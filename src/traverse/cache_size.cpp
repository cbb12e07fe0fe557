#include "traverse/cache_size.h"

#include <algorithm>
#include <cstdio>
#include <string>

namespace exactnorm {

namespace {

// From Linux' sysfs: sysconf() adds up the caches of all cores of some processors.
Index from_sysfs() {
  Index largest = 0;
  for (int level = 0; level < 5; ++level) {
    std::string path = "/sys/devices/system/cpu/cpu0/cache/index";
    path += std::to_string(level);
    path += "/size";
    std::FILE* file = std::fopen(path.c_str(), "r");
    if (file == nullptr) break;
    long long size = 0;
    char unit = ' ';
    const int fields = std::fscanf(file, "%lld%c", &size, &unit);
    (void)std::fclose(file);
    if (fields < 1) continue;
    const Index factor = unit == 'K' ? Index{1} << 10 : (unit == 'M' ? Index{1} << 20 : 1);
    largest = std::max(largest, static_cast<Index>(size) * factor);
  }
  return largest;
}

Index find_size() {
  constexpr Index guess = Index{16} << 20;
  const Index size = from_sysfs();
  return size > 0 ? size : guess;
}

}  // namespace

Index last_level_cache_size() noexcept {
  static const Index size = find_size();
  return size;
}

}  // namespace exactnorm
