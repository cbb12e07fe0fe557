#include "batch_norm/reduction.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <numeric>
#include <utility>

#include "sums/exact_sums.h"
#include "sums/superaccumulator.h"
#include "traverse/parallel.h"

namespace exactnorm {

namespace {

std::atomic<bool> quick_sums_are_used = true;

struct AtomicCounts {
  std::atomic<Index> quick = 0;
  std::atomic<Index> centred = 0;
  std::atomic<Index> exact = 0;
};
AtomicCounts counts;

void add_to(std::atomic<Index>& count, std::size_t number) {
  if (number != 0) count.fetch_add(static_cast<Index>(number), std::memory_order_relaxed);
}

// One channel of a box: `position` counts as channels_of does.
struct ChannelBox {
  LoopNest nest;
  Box box;
};
ChannelBox channel_box(const LoopNest& nest, const Box& box, Index position) {
  ChannelBox channel;
  channel.nest.offsets = offsets_of(nest, box);
  for (std::size_t i = nest.loops.size(); i-- > 0;) {
    const Loop& loop = nest.loops[i];
    if (!loop.is_channel) continue;
    for (std::size_t j = 0; j < maximum_operands; ++j) {
      channel.nest.offsets[j] += position % box[i].size * loop.strides[j];
    }
    position /= box[i].size;
  }
  for (std::size_t i = 0; i < nest.loops.size(); ++i) {
    if (nest.loops[i].is_channel) continue;
    Loop loop = nest.loops[i];
    loop.size = box[i].size;
    channel.nest.loops.push_back(loop);
    channel.box.push_back({0, loop.size});
  }
  if (channel.nest.loops.empty()) {
    channel.nest.loops.push_back({.size = 1});
    channel.box.push_back({0, 1});
  }
  return channel;
}

std::size_t sums_of(PartialSums::Kind kind) {
  return kind == PartialSums::Kind::moments ? moment_sums : gradient_sums_count;
}

// Sums about 0 whose channel has a mean far beyond its deviation decide little. Sums about the mean that they give do.
bool gains_from_centre(const QuickColumns& sums, Index at, double count, double& centre) {
  constexpr double far = 8;  // times the variance
  const double mean = (sums.high[0][at] + sums.low[0][at]) / count;
  const double square = (sums.high[1][at] + sums.low[1][at]) / count;
  if (square < far * (square - mean * mean)) return false;
  centre = static_cast<float>(mean);
  return true;
}

PartialSums::Kind kind_of(const SumOperands& operands) {
  return operands.is_gradient() ? PartialSums::Kind::gradients : PartialSums::Kind::moments;
}

// The nest over an activation's gradient, its last operand, and x, once the gradient is written.
LoopNest nest_of_gradient(LoopNest nest, const SumOperands& operands) {
  const std::size_t last = operands.size() - 1;
  nest.offsets[0] = nest.offsets[last];
  for (Loop& loop : nest.loops) loop.strides[0] = loop.strides[last];
  return nest;
}

// What is summed, and what makes results of it.
struct Work {
  const LoopNest& nest;
  const SumOperands& operands;
  PartialSums::Kind kind;
  Finalizer& finalizer;

  [[nodiscard]] double elements_per_channel() const {
    if (operands.selection != nullptr) return static_cast<double>(operands.selection->count);
    double count = 1;
    for (const Loop& loop : nest.loops) count *= loop.is_channel ? 1.0 : static_cast<double>(loop.size);
    return count;
  }

  void finalize_exactly(const Box& box, Index position, Index channel) const {
    PartialSums sums(1, kind, range_for(operands.summed()));
    constexpr Index first = 0;
    const auto add = [&](const LoopNest& of_all, const SumOperands& elements) {
      ChannelBox one = channel_box(of_all, box, position);
      one.nest.channel_offset = channel;
      add_exactly(one.nest, one.box, elements, {&first, 1}, sums);
    };
    if (operands.writes_gradient()) {  // it may lie where dy was
      const std::array<Operand, 2> written = {Operand(operands.gradient.data, operands.gradient.dtype),
                                              operands.inputs[1]};
      add(nest_of_gradient(nest, operands), {written});
    } else {
      add(nest, operands);
    }
    finalizer.finalize(sums, {&channel, 1});
  }
};

// The channels of a group on their way: those that are still wanted, what their sums are about, and the sums.
struct QuickGroup {
  std::vector<Index> channels;
  QuickSums sums;
  std::vector<double> centres;
  std::vector<Index> wanted;

  void start(const Work& work, const Box& box) {
    list_channels(work.nest, box, channels);
    wanted.resize(channels.size());
    std::iota(wanted.begin(), wanted.end(), 0);
    centres.clear();
    if (work.kind == PartialSums::Kind::moments) return;
    clear_centres(channels.size());
    work.finalizer.set_centres(channels, {centres.data(), channels.size()});
  }

  // What the sums so far decide, of which `decided` counts the channels.
  void finalize(const Work& work, std::atomic<Index>& decided) {
    const std::size_t before = wanted.size();
    work.finalizer.finalize(sums, centres, channels, wanted);
    add_to(decided, before - wanted.size());
  }

  // Whether sums about the means that these sums give are worth a try.
  [[nodiscard]] bool gains_from_centres(const Work& work) {
    if (wanted.empty() || work.kind == PartialSums::Kind::gradients) return false;
    clear_centres(static_cast<std::size_t>(sums.channels()));
    const double count = work.elements_per_channel();
    bool any = false;
    for (const Index position : wanted) {
      const bool gains =
          gains_from_centre(sums.columns(), position, count, centres[static_cast<std::size_t>(position)]);
      any = any || gains;
    }
    return any;
  }

 private:
  void clear_centres(std::size_t size) { centres.assign(size + static_cast<std::size_t>(quick_padding), 0.0); }
};

// A group in one piece, by one thread.
void reduce_group(const Work& work, const Box& box) {
  // Its memory is kept from group to group.
  thread_local QuickGroup group;
  group.start(work, box);
  const auto attempt = [&](std::atomic<Index>& decided) {
    group.sums.reset(static_cast<Index>(group.channels.size()), sums_of(work.kind));
    group.sums.add_box(work.nest, box, work.operands, group.centres);
    group.finalize(work, decided);
  };
  attempt(counts.quick);
  if (group.gains_from_centres(work)) attempt(counts.centred);
  for (const Index position : group.wanted) {
    work.finalize_exactly(box, position, group.channels[static_cast<std::size_t>(position)]);
  }
  add_to(counts.exact, group.wanted.size());
}

// Groups in pieces: each thread has sums of its own for each group of which it gets a piece, to which it adds all that
// it gets.
class QuickPieces {
 public:
  QuickPieces(const Work& work, const Partition& partition)
      : work_(work), partition_(partition), groups_(static_cast<std::size_t>(partition.groups())) {}

  void run() {
    for (Index group = 0; group < partition_.groups(); ++group) {
      groups_[static_cast<std::size_t>(group)].start(work_, partition_.whole_box(group));
    }
    attempt(counts.quick);
    for (Group& group : groups_) group.again = group.gains_from_centres(work_);
    attempt(counts.centred);
    std::vector<std::pair<Index, Index>> undecided;  // group, position
    for (Index group = 0; group < partition_.groups(); ++group) {
      for (const Index position : groups_[static_cast<std::size_t>(group)].wanted) {
        undecided.emplace_back(group, position);
      }
    }
    add_to(counts.exact, undecided.size());
    parallel_for(static_cast<Index>(undecided.size()), partition_.threads(), Order::forwards, [&](Index i, int) {
      const auto [group, position] = undecided[static_cast<std::size_t>(i)];
      const Group& at = groups_[static_cast<std::size_t>(group)];
      work_.finalize_exactly(partition_.whole_box(group), position, at.channels[static_cast<std::size_t>(position)]);
    });
  }

 private:
  struct Group : QuickGroup {
    std::vector<std::unique_ptr<QuickSums>> parts;  // one for each thread
    bool again = true;
  };

  // Sums of the groups that are to be tried, and their channels as far as these decide.
  void attempt(std::atomic<Index>& decided) {
    std::vector<Index> tried;
    for (Index group = 0; group < partition_.groups(); ++group) {
      Group& at = groups_[static_cast<std::size_t>(group)];
      if (!at.again) continue;
      tried.push_back(group);
      at.parts.clear();
      at.parts.resize(static_cast<std::size_t>(partition_.threads()));
    }
    const auto groups = static_cast<Index>(tried.size());
    const std::size_t sums = sums_of(work_.kind);
    parallel_for(groups * partition_.pieces(), partition_.threads(), Order::forwards, [&](Index task, int thread) {
      const Index number = tried[static_cast<std::size_t>(task / partition_.pieces())];
      Group& group = groups_[static_cast<std::size_t>(number)];
      std::unique_ptr<QuickSums>& part = group.parts[static_cast<std::size_t>(thread)];
      if (!part) {
        auto made = std::make_unique<QuickSums>();
        made->reset(static_cast<Index>(group.channels.size()), sums);
        part = std::move(made);
      }
      part->add_box(work_.nest, partition_.box(number, task % partition_.pieces()), work_.operands, group.centres);
    });
    parallel_for(groups, partition_.threads(), Order::forwards, [&](Index i, int) {
      Group& group = groups_[static_cast<std::size_t>(tried[static_cast<std::size_t>(i)])];
      group.sums.reset(static_cast<Index>(group.channels.size()), sums);
      for (const std::unique_ptr<QuickSums>& part : group.parts) {
        if (part) group.sums.merge(*part);
      }
      group.finalize(work_, decided);
    });
  }

  const Work& work_;
  const Partition& partition_;
  std::vector<Group> groups_;
};

}  // namespace

std::vector<Index> all_channels(Index count) {
  std::vector<Index> channels(static_cast<std::size_t>(count));
  std::iota(channels.begin(), channels.end(), 0);
  return channels;
}

SumCounts sum_counts() noexcept { return {counts.quick.load(), counts.centred.load(), counts.exact.load()}; }

void use_quick_sums(bool use) noexcept { quick_sums_are_used.store(use); }

void reduce_groups(const LoopNest& nest, const Partition& partition, const SumOperands& operands, Finalizer& finalizer,
                   FunctionView<void(Index)> done) {
  if (range_for(operands.summed()) == PartialSums::Range::extended ||
      !quick_sums_are_used.load(std::memory_order_relaxed)) {
    reduce_groups_exactly(nest, partition, operands,
                          [&](Index group, std::span<const Index> channels, const PartialSums& sums) {
                            finalizer.finalize(sums, channels);
                            done(group);
                          });
    return;
  }
  const Work work = {nest, operands, kind_of(operands), finalizer};
  if (partition.pieces() == 1) {
    parallel_for(partition.groups(), partition.threads(), Order::forwards, [&](Index group, int) {
      reduce_group(work, partition.whole_box(group));
      done(group);
    });
    return;
  }
  QuickPieces(work, partition).run();
  for (Index group = 0; group < partition.groups(); ++group) done(group);
}

void reduce_groups_exactly(const LoopNest& nest, const Partition& partition, const SumOperands& operands,
                           FunctionView<void(Index, std::span<const Index>, const PartialSums&)> consume) {
  const PartialSums::Range range = range_for(operands.summed());
  const PartialSums::Kind kind = kind_of(operands);
  const Index groups = partition.groups();
  const auto count_of = [](const std::vector<Index>& channels) { return static_cast<Index>(channels.size()); };
  if (partition.pieces() == 1) {
    parallel_for(groups, partition.threads(), Order::forwards, [&](Index group, int) {
      const Box box = partition.whole_box(group);
      const std::vector<Index> channels = channels_of(nest, box);
      PartialSums sums(count_of(channels), kind, range);
      add_exactly(nest, box, operands, all_channels(sums.channels()), sums);
      consume(group, channels, sums);
    });
    return;
  }
  std::vector<std::vector<Index>> channels;
  for (Index group = 0; group < groups; ++group) channels.push_back(channels_of(nest, partition.whole_box(group)));
  const auto channels_of_group = [&](Index group) -> const std::vector<Index>& {
    return channels[static_cast<std::size_t>(group)];
  };
  const std::vector<Index> positions = all_channels(count_of(channels_of_group(0)));  // no group has more
  // Each thread has sums of its own for each group of which it gets a piece, to which it adds all that it gets.
  std::vector<std::vector<std::unique_ptr<PartialSums>>> parts(static_cast<std::size_t>(groups));
  for (auto& of_group : parts) of_group.resize(static_cast<std::size_t>(partition.threads()));
  parallel_for(groups * partition.pieces(), partition.threads(), Order::forwards, [&](Index task, int thread) {
    const Index group = task / partition.pieces();
    std::unique_ptr<PartialSums>& part = parts[static_cast<std::size_t>(group)][static_cast<std::size_t>(thread)];
    if (!part) part = std::make_unique<PartialSums>(count_of(channels_of_group(group)), kind, range);
    add_exactly(nest, partition.box(group, task % partition.pieces()), operands,
                std::span(positions).first(channels_of_group(group).size()), *part);
  });
  parallel_for(groups, partition.threads(), Order::forwards, [&](Index group, int) {
    PartialSums sums(count_of(channels_of_group(group)), kind, range);
    for (const std::unique_ptr<PartialSums>& part : parts[static_cast<std::size_t>(group)]) {
      if (part) sums.merge(*part);
    }
    consume(group, channels_of_group(group), sums);
  });
}

}  // namespace exactnorm
