#include <array>
#include <tuple>
#include <utility>

#include "distributed/agreement.h"
#include "distributed/digest.h"
#include "exactnorm/distributed.h"
#include "exactnorm/sums.h"

namespace exactnorm {

namespace {

// The digest of a call, in words of 16 bits, whose squares can be summed over 65,536 ranks.
constexpr unsigned word_bits = 16;
constexpr std::size_t words_per_value = 4;
using Code = std::array<std::uint64_t, 2 * words_per_value>;

// The numbers before the sums: how many ranks failed; each word of the code, and its square, which tell whether all
// ranks are at the same call.
constexpr std::size_t header_size = 1 + 2 * std::tuple_size_v<Code>;

std::size_t addend_count(const ExchangedLayer& layer, PartialSums::Kind kind) {
  const std::size_t fixed = to_addends(PartialSums(0, kind, layer.range), layer.range).size();
  const std::size_t one = to_addends(PartialSums(1, kind, layer.range), layer.range).size();
  return fixed + (one - fixed) * static_cast<std::size_t>(layer.channels);
}

// The size of a layer in a message, the same for both kinds: ranks that call different functions must find that out
// from a message of one size.
std::size_t room_of(const ExchangedLayer& layer) { return addend_count(layer, PartialSums::Kind::gradients); }

Code code_of(const std::string& call) {
  Digest digest;
  digest.add(call);
  Code code{};
  for (std::size_t i = 0; i < code.size(); ++i) {
    const std::uint64_t value = digest.values()[i / words_per_value];
    code[i] = value >> word_bits * (i % words_per_value) & ((std::uint64_t{1} << word_bits) - 1);
  }
  return code;
}

void write_code(const std::string& call, std::vector<std::int64_t>& numbers) {
  std::size_t at = 1;
  for (const std::uint64_t word : code_of(call)) {
    numbers[at++] = static_cast<std::int64_t>(word);
    numbers[at++] = static_cast<std::int64_t>(word * word);
  }
}

// By Cauchy and Schwarz: n * sum(c^2) - sum(c)^2 is the sum of (c_i - c_j)^2 over all pairs, so 0 exactly where all
// words are equal. Up to 65,536 ranks it is below 2^62: what unsigned arithmetic drops is not missed.
bool are_equal(std::uint64_t ranks, std::uint64_t sum, std::uint64_t sum_of_squares) {
  return ranks * sum_of_squares == sum * sum;
}

bool codes_are_equal(int ranks, const std::vector<std::int64_t>& totals) {
  bool equal = true;
  for (std::size_t at = 1; at < header_size; at += 2) {
    equal = equal && are_equal(static_cast<std::uint64_t>(ranks), static_cast<std::uint64_t>(totals[at]),
                               static_cast<std::uint64_t>(totals[at + 1]));
  }
  return equal;
}

std::string describe(const std::vector<ExchangedLayer>& layers) {
  std::string text;
  for (const ExchangedLayer& layer : layers) {
    text += text.empty() ? "" : ", ";
    text += std::to_string(layer.channels);
    text += layer.range == PartialSums::Range::single ? " channels of range single" : " channels of range extended";
  }
  return text.empty() ? "none" : text;
}

std::string describe_call(std::uint64_t number, const std::vector<PartialSums::Kind>& kinds,
                          const std::string& purpose) {
  std::string text = "number " + std::to_string(number);
  for (const PartialSums::Kind kind : kinds) text += kind == PartialSums::Kind::moments ? ", moments" : ", gradients";
  return purpose.empty() ? text : text + ", " + purpose;
}

}  // namespace

SumExchange::SumExchange(Communicator& communicator, std::vector<ExchangedLayer> layers)
    : communicator_(&communicator), layers_(std::move(layers)) {
  std::vector<std::string> of_ranks;
  agree(communicator, [&] {
    for (const ExchangedLayer& layer : layers_) {
      if (layer.channels >= 0) continue;
      throw Error("layers", "have one of " + std::to_string(layer.channels) + " channels; expected 0 or more");
    }
  });
  of_ranks = communicator.gather(describe(layers_));
  for (std::size_t rank = 1; rank < of_ranks.size(); ++rank) {
    if (of_ranks[rank] == of_ranks[0]) continue;
    throw Error("layers on rank " + std::to_string(rank),
                "are " + of_ranks[rank] + "; expected " + of_ranks[0] + ", as on rank 0");
  }
}

SumExchange::SumExchange(Communicator& communicator, Index channels, PartialSums::Range range)
    : SumExchange(communicator, std::vector<ExchangedLayer>{{channels, range}}) {}

PartialSums SumExchange::sum(const PartialSums& sums, const std::string& purpose) {
  start({&sums, 1}, purpose);
  return std::move(finish().front());
}

void SumExchange::start(std::span<const PartialSums> sums, const std::string& purpose) {
  if (pending_) throw Error("start", "is called while a message is under way; expected finish() first");
  std::vector<std::int64_t> numbers(header_size);
  try {
    if (sums.size() != layers_.size()) {
      throw Error("sums",
                  "are of " + std::to_string(sums.size()) + " layers; expected " + std::to_string(layers_.size()));
    }
    kinds_.clear();
    for (std::size_t i = 0; i < sums.size(); ++i) {
      if (sums[i].channels() != layers_[i].channels) {
        throw Error("sums", "have " + std::to_string(sums[i].channels()) + " channels; expected " +
                                std::to_string(layers_[i].channels));
      }
      if (sums[i].range() == PartialSums::Range::extended && layers_[i].range == PartialSums::Range::single) {
        throw Error("sums", "are of range extended; expected single, as in all ranks' exchange");
      }
      kinds_.push_back(sums[i].kind());
      const std::vector<std::int64_t> addends = to_addends(sums[i], layers_[i].range);
      numbers.insert(numbers.end(), addends.begin(), addends.end());
      numbers.resize(numbers.size() + room_of(layers_[i]) - addends.size());
    }
    call_ = describe_call(calls_ + 1, kinds_, purpose);
    write_code(call_, numbers);
  } catch (const std::exception& exception) {
    start_failed(exception);
    return;
  }
  send(std::move(numbers));
}

void SumExchange::start_failed(const std::exception& error) {
  if (pending_) throw Error("start", "is called while a message is under way; expected finish() first");
  failure_ = to_error(error);
  std::size_t size = header_size;
  for (const ExchangedLayer& layer : layers_) size += room_of(layer);
  std::vector<std::int64_t> numbers(size);
  numbers[0] = 1;
  send(std::move(numbers));
}

void SumExchange::send(std::vector<std::int64_t> numbers) {
  ++calls_;
  pending_ = communicator_->start_sum(std::move(numbers));
}

bool SumExchange::is_done() { return pending_ && pending_->is_done(); }

std::vector<PartialSums> SumExchange::finish() {
  if (!pending_) throw Error("finish", "is called with no message under way; expected start() first");
  const std::unique_ptr<PendingSum> pending = std::move(pending_);
  const std::optional<Error> failure = std::exchange(failure_, std::nullopt);
  const std::vector<std::int64_t> totals = pending->wait();
  if (totals[0] != 0) throw_first_failure(*communicator_, failure);
  if (!codes_are_equal(communicator_->size(), totals)) throw_difference();
  std::vector<PartialSums> sums;
  std::size_t at = header_size;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const std::size_t size = addend_count(layers_[i], kinds_[i]);
    sums.push_back(from_addends(std::span(totals).subspan(at, size), layers_[i].channels, kinds_[i], layers_[i].range));
    at += room_of(layers_[i]);
  }
  return sums;
}

void SumExchange::throw_difference() {
  const std::vector<std::string> calls = communicator_->gather(call_);
  std::size_t rank = 1;
  while (rank + 1 < calls.size() && calls[rank] == calls[0]) ++rank;
  throw Error("call on rank " + std::to_string(rank),
              "is " + calls[rank] + "; expected " + calls[0] + ", as on rank 0");
}

}  // namespace exactnorm
