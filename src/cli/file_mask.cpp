#include "file_mask.h"

#include <algorithm>
#include <cstddef>

namespace exactnorm::cli {
namespace {

Index true_values(const ReducedFile& file) {
  return std::count_if(file.bytes().begin(), file.bytes().end(), [](std::byte byte) { return byte != std::byte{0}; });
}

}  // namespace

FileMask::FileMask(const std::string& path, const IndexList& shape, const Options& of_file, MaskedOutput masked)
    : file_(
          "--mask", path, shape, of_file, [](DType dtype) { return dtype == DType::boolean; }, "bool"),
      masked_(masked),
      count_(file_.repeats() * true_values(file_)) {}

}  // namespace exactnorm::cli
