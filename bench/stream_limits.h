#pragma once

#include <cstddef>

namespace exactnorm::bench {

/// How results are written: into the caches, or around them.
enum class Store { ordinary, nontemporal };

/// What the memory allows: the least that an operation has to move, moved as fast as this processor can.
/// All pointers are on boundaries of 64 bytes; `bytes` that are no multiple of 64 are rounded up to one.
void stream_copy(const void* from, void* to, std::size_t bytes, Store store, int threads);
/// Reads two, writes one: the bitwise difference, which costs nothing beside the memory.
void stream_combine(const void* a, const void* b, void* to, std::size_t bytes, Store store, int threads);

}  // namespace exactnorm::bench
