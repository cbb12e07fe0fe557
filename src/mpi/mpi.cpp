#include "exactnorm/mpi.h"

#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "exactnorm/error.h"

namespace exactnorm::mpi {

namespace {

// MPI counts with an int.
constexpr std::size_t most_elements = std::size_t{1} << 30;
constexpr int most_ranks = 65536;

bool is_running() {
  int initialized = 0;
  int finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  return initialized != 0 && finalized == 0;
}

bool test_all(std::vector<MPI_Request>& requests) {
  int done = 0;
  MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
  return done != 0;
}

// Polls, rather than blocking in MPI, so that `while_waiting` gets its turn: at first as fast as can be, some 100
// microseconds, then asleep between polls, for others who need the processor. (Yielding it would wait for their time
// slices.)
void wait_for(std::vector<MPI_Request>& requests, const std::function<void()>& while_waiting) {
  constexpr int fast_polls = 1000;
  for (int polls = 0; !test_all(requests); ++polls) {
    if (while_waiting) while_waiting();
    if (polls >= fast_polls) std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

struct Sum {
  std::vector<std::int64_t> numbers;
  std::vector<MPI_Request> requests;
};

class MpiSum : public PendingSum {
 public:
  MpiSum(std::vector<std::int64_t> numbers, MPI_Comm communicator, std::function<void()> while_waiting)
      : sum_(std::make_unique<Sum>()), while_waiting_(std::move(while_waiting)) {
    sum_->numbers = std::move(numbers);
    for (std::size_t first = 0; first < sum_->numbers.size(); first += most_elements) {
      const std::size_t count = std::min(most_elements, sum_->numbers.size() - first);
      MPI_Iallreduce(MPI_IN_PLACE, sum_->numbers.data() + first, static_cast<int>(count), MPI_INT64_T, MPI_SUM,
                     communicator, &sum_->requests.emplace_back());
    }
  }

  ~MpiSum() override {
    // MPI has no way to cancel a collective call: one that is given up keeps its memory until the process ends.
    if (sum_ && is_running() && !test_all(sum_->requests)) static_cast<void>(sum_.release());
  }
  MpiSum(const MpiSum&) = delete;
  MpiSum& operator=(const MpiSum&) = delete;

  bool is_done() override { return test_all(sum_->requests); }

  std::vector<std::int64_t> wait() override {
    wait_for(sum_->requests, while_waiting_);
    return std::move(sum_->numbers);
  }

 private:
  std::unique_ptr<Sum> sum_;
  std::function<void()> while_waiting_;
};

class MpiCommunicator : public Communicator {
 public:
  MpiCommunicator(MPI_Comm communicator, std::function<void()> while_waiting)
      : while_waiting_(std::move(while_waiting)) {
    if (!is_running()) throw Error("communicator", "is used while MPI is not running; expected mpi::Environment first");
    MPI_Comm_dup(communicator, &communicator_);
    MPI_Comm_rank(communicator_, &rank_);
    MPI_Comm_size(communicator_, &size_);
    if (size_ > most_ranks) {
      MPI_Comm_free(&communicator_);
      throw Error("communicator", "has " + std::to_string(size_) + " ranks; expected at most 65536");
    }
  }
  ~MpiCommunicator() override {
    if (is_running()) MPI_Comm_free(&communicator_);
  }
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int size() const override { return size_; }

  std::unique_ptr<PendingSum> start_sum(std::vector<std::int64_t> numbers) override {
    return std::make_unique<MpiSum>(std::move(numbers), communicator_, while_waiting_);
  }

  std::vector<std::string> gather(const std::string& text) override {
    const auto ranks = static_cast<std::size_t>(size_);
    std::vector<std::int64_t> lengths(ranks);
    const auto own_length = static_cast<std::int64_t>(text.size());
    wait([&](MPI_Request* request) {
      MPI_Iallgather(&own_length, 1, MPI_INT64_T, lengths.data(), 1, MPI_INT64_T, communicator_, request);
    });
    std::vector<int> counts;
    std::vector<int> offsets;
    std::int64_t total = 0;
    for (const std::int64_t length : lengths) {
      // The same on all ranks, which know all lengths.
      if (length > static_cast<std::int64_t>(most_elements) - total) {
        throw Error("text", "is of more than 2^30 bytes on all ranks together; expected fewer");
      }
      counts.push_back(static_cast<int>(length));
      offsets.push_back(static_cast<int>(total));
      total += length;
    }
    std::string all(static_cast<std::size_t>(total), '\0');
    wait([&](MPI_Request* request) {
      MPI_Iallgatherv(text.data(), static_cast<int>(own_length), MPI_BYTE, all.data(), counts.data(), offsets.data(),
                      MPI_BYTE, communicator_, request);
    });
    std::vector<std::string> texts;
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      texts.push_back(all.substr(static_cast<std::size_t>(offsets[rank]), static_cast<std::size_t>(counts[rank])));
    }
    return texts;
  }

 private:
  template <typename Start>
  void wait(const Start& start) const {
    std::vector<MPI_Request> requests(1);
    start(requests.data());
    wait_for(requests, while_waiting_);
  }

  std::function<void()> while_waiting_;
  MPI_Comm communicator_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace

Environment::Environment() {
  int initialized = 0;
  MPI_Initialized(&initialized);
  if (initialized != 0) return;
  // OpenMP's threads compute; one thread talks.
  int provided = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
  owns_ = true;
}

Environment::~Environment() {
  if (owns_ && is_running()) MPI_Finalize();
}

std::unique_ptr<Communicator> communicator_of(int fortran_handle, std::function<void()> while_waiting) {
  return std::make_unique<MpiCommunicator>(MPI_Comm_f2c(fortran_handle), std::move(while_waiting));
}

std::unique_ptr<Communicator> world(std::function<void()> while_waiting) {
  return std::make_unique<MpiCommunicator>(MPI_COMM_WORLD, std::move(while_waiting));
}

void abort_all(int exit_status) {
  if (is_running()) MPI_Abort(MPI_COMM_WORLD, exit_status);
  std::exit(exit_status);
}

std::string version() {
  std::string text(MPI_MAX_LIBRARY_VERSION_STRING, '\0');
  int length = 0;
  MPI_Get_library_version(text.data(), &length);
  // Its first line, up to a comma, after which Open MPI and others describe the build.
  text.resize(static_cast<std::size_t>(length));
  return text.substr(0, text.find_first_of(",\n"));
}

}  // namespace exactnorm::mpi
