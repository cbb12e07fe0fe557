#include "reduced_file.h"

#include "arguments.h"
#include "exactnorm/channels.h"

namespace exactnorm::cli {

ReducedFile::ReducedFile(const std::string& option, const std::string& path, const IndexList& shape,
                         const Options& of_file, bool (*accepts)(DType), const std::string& expected) {
  const npy::NpyFile file(path);
  name_ = file.name();
  if (!accepts(file.dtype())) {
    throw Error(option, name_ + " has dtype " + std::string(name_of(file.dtype())) + "; expected " + expected);
  }
  // Before it is read: somebody may have named a file that does not fit in memory.
  try {
    view_ = reduced_view({nullptr, file.dtype(), file.shape(), file.strides()}, shape, of_file);
  } catch (const Error& error) {
    throw Error(option, name_ + " " + error.problem());
  }
  array_ = npy::read_npy(file);
  view_ = reduced_view(array_.view(), shape, of_file);
  const ChannelAxes channels = channel_axes_of(shape, of_file);
  const Index elements = channels.channels == 0 ? 0 : exactnorm::element_count(shape) / channels.channels;
  repeats_ = elements == 0 ? 0 : elements / file.element_count();
}

TensorView part_of(const TensorView& reduced, const FileBlock& block) {
  TensorView part = reduced;
  for (std::size_t axis = 0; axis < part.rank(); ++axis) {
    if (part.shape[axis] == 1) continue;
    part = slice(part, axis, block.place.begin[axis], block.x.shape[axis]);
  }
  return part;
}

}  // namespace exactnorm::cli
