// What bench/cold.py calls: cold memory for peers in Python, made as it is for those in C++.

#include "cold.h"

extern "C" void exactnorm_bench_make_cold(const exactnorm::bench::ColdMemory* memories, std::size_t count, int threads);
extern "C" std::uint64_t exactnorm_bench_read_lines(const void* data, std::size_t bytes);

void exactnorm_bench_make_cold(const exactnorm::bench::ColdMemory* memories, std::size_t count, int threads) {
  exactnorm::bench::make_cold({memories, count}, threads);
}

std::uint64_t exactnorm_bench_read_lines(const void* data, std::size_t bytes) {
  return exactnorm::bench::read_lines(data, bytes);
}
