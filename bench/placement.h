#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "exactnorm/exactnorm.h"

namespace exactnorm::bench {

/// Where each element (n, c, h, w) of a tensor lies, worked out apart from the library's own layouts: what is
/// checked against them must not depend on them. Tensors of two dimensions have h and w of 1.
struct Placement {
  std::string layout;
  Index batch = 1;
  Index channels = 1;
  Index height = 1;
  Index width = 1;
  /// In elements. The channel's is that of whole blocks.
  Index batch_stride = 0;
  Index channel_stride = 0;
  Index height_stride = 0;
  Index width_stride = 0;
  /// Channels side by side in memory before the next pixel; 1 where a layout is not blocked.
  Index block = 1;
  /// Memory that the tensor spans, gaps included.
  Index span = 0;

  [[nodiscard]] Index elements() const noexcept { return batch * channels * height * width; }
  [[nodiscard]] Index per_channel() const noexcept { return batch * height * width; }
  [[nodiscard]] Index channel_offset(Index c) const noexcept {
    return c / block * channel_stride + (block == 1 ? 0 : c % block);
  }
  /// True where channels c and c + 1 of one pixel lie side by side, at least within a block.
  [[nodiscard]] bool channels_are_adjacent() const noexcept { return block > 1 || channel_stride == 1; }
  /// True where elements leave gaps between them.
  [[nodiscard]] bool has_gaps() const noexcept { return span != elements(); }
};

/// The names that a case may have. `place` knows blocks of other sizes, too: nChw32c and so on.
[[nodiscard]] const std::vector<std::string>& layout_names();

/// Dimensions of the shapes that go with a layout: 2 for "nc" and "cn", 4 for all others.
[[nodiscard]] std::size_t rank_of(std::string_view layout);

/// `shape` is (N, C) or (N, C, H, W), whatever the order of the layout. Throws Error when it does not fit.
[[nodiscard]] Placement place(const std::string& layout, const IndexList& shape);

/// The library's own view of memory placed like this.
[[nodiscard]] MutableLayoutView library_view(const Placement& placement, void* data, DType dtype);

}  // namespace exactnorm::bench
