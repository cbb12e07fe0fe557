#include "file_weights.h"

#include <fmt/core.h>

#include <cmath>
#include <span>

#include "arguments.h"
#include "exactnorm/tensor.h"

namespace exactnorm::cli {

FileWeights::FileWeights(const std::string& path, const IndexList& shape, const Options& of_file)
    : file_(
          "--weights", path, shape, of_file, [](DType) { return true; }, "numbers") {
  const std::vector<double> values = values_of(file_.view());
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!(values[i] >= 0) || !std::isfinite(values[i])) {
      throw Error("--weights", fmt::format("{} has {} as element {}; expected finite numbers, 0 or more", file_.name(),
                                           values[i], i));
    }
    selected_.push_back(values[i] != 0 ? 1 : 0);
    count_ += selected_.back();
  }
  count_ *= file_.repeats();
  const IndexList& sizes = file_.view().shape;
  selected_view_ = {selected_.data(), DType::boolean, sizes, contiguous_strides(sizes)};
}

void FileWeights::accumulate(WeightedMoments& moments, const FileBlock& block, const Options& options) const {
  naming_options({{"weights", "--weights"}},
                 [&] { exactnorm::accumulate(moments, block.x, block.place, part_of(file_.view(), block), options); });
}

WeightedMoments sum(Communicator& ranks, const WeightedMoments& moments) {
  const std::vector<std::byte> bytes = moments.serialize();
  WeightedMoments result(moments.channels());
  for (const std::string& text : ranks.gather({reinterpret_cast<const char*>(bytes.data()), bytes.size()})) {
    result.merge(WeightedMoments::deserialize(std::as_bytes(std::span(text))));
  }
  return result;
}

}  // namespace exactnorm::cli
