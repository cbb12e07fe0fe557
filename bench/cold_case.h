#pragma once

#include <array>
#include <cstring>
#include <functional>
#include <memory>
#include <type_traits>

#include "calls.h"
#include "cold.h"
#include "placement.h"
#include "problem.h"

namespace exactnorm::bench {

/// A case as it is met in a network: its tensors are cold, and another layer, a small one, has just run on the same
/// threads. Without that layer, what is measured would be how fast sleeping threads wake up.
template <typename T>
class ColdCase {
 public:
  ColdCase(const Case& measured, Tensors<T>& tensors, int threads)
      : tensors_(tensors),
        threads_(threads),
        just_written_(measured.operation == Operation::backward ? tensors.dy : tensors.x),
        source_(just_written_.bytes(), threads),
        layer_{measured.operation, measured.layout, small_shape(measured),
               measured.dtype,     measured.data,   measured.has_relu},
        layer_tensors_(layer_, place(layer_.layout, layer_.shape), threads),
        layer_parameters_(make_parameters<T>(layer_tensors_.placement.channels)),
        our_layer_(our_call(layer_, layer_tensors_, layer_parameters_, threads)) {
    std::memcpy(source_.as<void>(), just_written_.as<void>(), just_written_.bytes());
  }

  /// Before each timed call, and before the layer that precedes it.
  void prepare() {
    const auto cold = [&](const Memory& memory) {
      return ColdMemory{memory.as<void>(), memory.bytes(), &memory == &just_written_ ? source_.as<void>() : nullptr};
    };
    // dy is empty but for backward passes.
    make_cold(std::array{cold(tensors_.output), cold(tensors_.x), cold(tensors_.dy)}, threads_);
  }

  /// After each timed call.
  void read_output() { read_ = read_lines(tensors_.output.template as<void>(), tensors_.output.bytes()); }

  /// The layer before, by this library.
  [[nodiscard]] std::function<void()> our_layer() {
    return [this] { our_layer_.run(); };
  }

  /// By a peer, all of which have float32 alone.
  [[nodiscard]] std::function<void()> layer_of(Peer& peer) {
    std::shared_ptr<TheirCall> call;
    if constexpr (std::is_same_v<T, float>) {
      call = std::make_shared<TheirCall>(layer_, layer_tensors_, layer_parameters_, our_layer_.statistics(), peer);
    }
    return [call] { call->run(); };
  }

  [[nodiscard]] Tensors<T>& layer_tensors() noexcept { return layer_tensors_; }

 private:
  /// Of 256 KB in float32: enough for all threads to have a part in it.
  static IndexList small_shape(const Case& measured) {
    return measured.shape.size() == 2 ? IndexList{256, 256} : IndexList{16, 64, 8, 8};
  }

  Tensors<T>& tensors_;
  int threads_;
  Memory& just_written_;
  Memory source_;
  Case layer_;
  Tensors<T> layer_tensors_;
  Parameters<T> layer_parameters_;
  LibraryCall our_layer_;
  /// Nobody reads it: it keeps the compiler from leaving out the reading.
  volatile std::uint64_t read_ = 0;
};

}  // namespace exactnorm::bench
