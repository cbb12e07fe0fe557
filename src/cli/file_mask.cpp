#include "file_mask.h"

#include "exactnorm/tensor.h"

namespace exactnorm::cli {
namespace {

Index true_values(const ReducedFile& file) {
  Index count = 0;
  for (const double value : values_of(file.view())) count += value != 0 ? 1 : 0;
  return count;
}

}  // namespace

FileMask::FileMask(const std::string& path, const IndexList& shape, const Options& of_file, MaskedOutput masked)
    : file_(
          "--mask", path, shape, of_file, [](DType dtype) { return dtype == DType::boolean; }, "bool"),
      masked_(masked),
      count_(file_.repeats() * true_values(file_)) {}

}  // namespace exactnorm::cli
