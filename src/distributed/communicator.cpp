#include <algorithm>
#include <exception>
#include <optional>
#include <string>
#include <utility>

#include "distributed/agreement.h"
#include "exactnorm/distributed.h"
#include "exactnorm/error.h"

namespace exactnorm {

namespace {

class DoneSum : public PendingSum {
 public:
  explicit DoneSum(std::vector<std::int64_t> numbers) : numbers_(std::move(numbers)) {}
  bool is_done() override { return true; }
  std::vector<std::int64_t> wait() override { return std::move(numbers_); }

 private:
  std::vector<std::int64_t> numbers_;
};

class SingleProcess : public Communicator {
 public:
  [[nodiscard]] int rank() const override { return 0; }
  [[nodiscard]] int size() const override { return 1; }
  std::unique_ptr<PendingSum> start_sum(std::vector<std::int64_t> numbers) override {
    return std::make_unique<DoneSum>(std::move(numbers));
  }
  std::vector<std::string> gather(const std::string& text) override { return {text}; }
};

// A failure as a string: its argument, a separator, the problem. Of success: nothing.
constexpr char separator = '\0';

std::string to_text(const std::optional<Error>& failure) {
  if (!failure) return {};
  return failure->argument() + separator + failure->problem();
}

}  // namespace

Communicator& single_process() {
  static SingleProcess communicator;
  return communicator;
}

Error to_error(const std::exception& exception) {
  if (const auto* error = dynamic_cast<const Error*>(&exception)) return *error;
  return {"failure", exception.what()};
}

void throw_first_failure(Communicator& communicator, const std::optional<Error>& own) {
  const std::vector<std::string> texts = communicator.gather(to_text(own));
  std::vector<std::size_t> failed;
  for (std::size_t rank = 0; rank < texts.size(); ++rank) {
    if (!texts[rank].empty()) failed.push_back(rank);
  }
  if (failed.empty()) return;
  const std::string& text = texts[failed.front()];
  const std::size_t end = text.find(separator);
  const std::string argument = text.substr(0, end);
  const std::string problem = text.substr(end + 1);
  // The same everywhere: a wrong argument of the program rather than of a rank.
  if (std::all_of(texts.begin(), texts.end(), [&](const std::string& other) { return other == text; })) {
    throw Error(argument, problem);
  }
  std::string others;
  if (failed.size() > 1) {
    others = "; " + std::to_string(failed.size() - 1) + (failed.size() == 2 ? " other rank" : " other ranks") +
             " failed, too";
  }
  throw Error(argument + " on rank " + std::to_string(failed.front()), problem + others);
}

void agree(Communicator& communicator, const std::function<void()>& work) {
  std::optional<Error> failure;
  try {
    work();
  } catch (const std::exception& exception) {
    failure = to_error(exception);
  }
  throw_first_failure(communicator, failure);
}

}  // namespace exactnorm
