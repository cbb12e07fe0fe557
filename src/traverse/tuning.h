#pragma once

#include "exactnorm/tensor.h"

// The constants of partitions and of the traversal.

namespace exactnorm {

/// Bytes that the neighbouring channels of a group should span at least: a page. With less, several groups
/// would fetch the same cache lines, or step from page to page for a few lines each.
inline constexpr Index group_bytes = 4096;

/// Rows of channels that lie side by side are best left whole, unless they are this long, or few: where threads have
/// neighbouring parts of a row, the hardware's prefetchers fetch what another processor is about to write.
inline constexpr Index longest_row = 8192;
inline constexpr Index few_rows = 128;

/// Of up to so many elements of all operands, which fit in the cores' own caches, threads have neighbouring parts of
/// rows, as wide as `narrowest_part` at least, in whole lines: then each channel's sums are one thread's, and nothing
/// has to be merged. Of more, whole rows in the order of memory are faster (backward of 2^21 to 2^22 elements: 1.1
/// to 2.1 times, on cold caches 1.1 to 1.8), of fewer slower (0.8 to 1.0).
inline constexpr Index cached_elements = Index{1} << 20;
inline constexpr Index narrowest_part = 64;

/// Channels of a group whose elements lie in runs: their sums share a cache with what they are sums of.
inline constexpr Index most_group_channels = 1024;

/// Elements of a group beside which what it costs to start one is small.
inline constexpr Index group_worth = 65536;

/// Work below this many elements is not worth waking another thread for.
inline constexpr Index elements_per_thread = 16384;

/// Elements of a stretch of memory that a thread takes at a time.
inline constexpr Index memory_piece = 65536;

/// Elements: shorter runs of one channel are not worth a call of a kernel.
inline constexpr Index shortest_run = 16;

/// Slots of a row that keep vectors busy; rows of fewer are joined.
inline constexpr Index enough_lanes = 64;
/// Rows of fewer slots than this that do not follow each other in memory are packed, and joined then.
inline constexpr Index fewest_lanes = 32;

/// Short runs are taken as lanes where there are this many rows of them: folding slots into channels costs as much as
/// some rows.
inline constexpr Index fewest_rows_of_short_runs = 8;

/// Apply: short runs are taken as lanes where there are this many rows for each place: coefficients of each place are
/// written out first, which costs as much as some rows of runs.
inline constexpr Index rows_per_place = 3;

/// Elements of runs that are taken for many channels at a time, in the order of memory: the hardware's
/// prefetchers do not follow jumps between rows far apart.
inline constexpr Index longest_short_run = 128;

/// Elements of one channel that are taken before the next channel's, where both lie side by side in memory.
inline constexpr Index run_elements = 4096;

/// Rows that a mask selects one after the other are read where they lie where there are this many of them: fewer are
/// copied to others, as a kernel starts with what costs as much as some rows.
inline constexpr Index fewest_selected_rows = 16;

/// Elements of a region of lanes, and its least rows: in caches, and from memory.
inline constexpr Index lane_elements = 65536;
inline constexpr Index fewest_lane_rows = 192;
inline constexpr Index fewest_rows_from_memory = 16;

/// Elements of the rows whose tiles exact sums take one after the other, and the least rows of a tile: all of them stay
/// in L2 cache, and what a tile costs by itself is spread over its rows.
inline constexpr Index tile_block_elements = 16384;
inline constexpr Index fewest_tile_rows = 64;

/// Elements: exact sums copy shorter runs to a buffer, where several make a tile, which costs less than a tile each.
inline constexpr Index shortest_run_in_place = 1024;

/// Apply: elements of a block. Blocks come backwards, to meet what is left in caches, and the elements of a block
/// forwards, as the hardware's prefetchers expect. An input and an output of this size fit in L2 cache.
inline constexpr Index apply_elements = 32768;
/// Apply: strided elements that are packed at a time. They stay in L1 cache beside the cache lines of the operands,
/// which hold other elements, too.
inline constexpr Index packed_strided_elements = 1024;
/// Apply: elements of joined rows at most; coefficients of longer ones would fill L1 cache.
inline constexpr Index longest_joined_row = 2048;

/// Operands larger than the last level cache divided by this are read with prefetches: others use that cache, too, and
/// from it prefetches do no harm.
inline constexpr Index cached_share = 8;

/// Elements to prefetch ahead in long runs: far enough for memory to answer, near enough to stay in the caches.
inline constexpr Index prefetch_distance = 1024;

}  // namespace exactnorm
